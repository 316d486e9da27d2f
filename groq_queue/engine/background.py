"""Everything that happens at an instant: retries due, requests expired, attempts overdue.

One daemon thread, started with the first timer, waits for the earliest instant. If the
system refuses that thread, the next timer asks for it again, and until it is there
``run_due`` lets another thread do its work: the engine's workers call it.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.engine.log import log_fields
from groq_queue.lifecycle import register_for_fork
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_AFTER_FAILURE_S = 1.0  # of the machine's own clock, since ours may be what failed


class _Timer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback  # None once called off


class Timers:
    """Calls back at instants.

    ``_lock`` guards ``_heap``, ``_dead``, ``_looks_ns``, ``_thread``, ``_is_starting`` and ``_is_closed``.
    Callbacks run without it on the timer thread, or on the one that calls ``run_due``; they must be short.
    """

    def __init__(self, clock: Clock, name: str) -> None:
        self._clock = clock
        self._name = name
        self._count = 0
        self._is_closed = False
        self.on_refused: Callable[[], None] | None = None  # called when there is a timer more and no thread for it
        self.reset_after_fork()
        register_for_fork(self)

    def reset_after_fork(self) -> None:
        """Begin with nothing to call; in a forked child the thread and the timers are the parent's."""
        self._lock = threading.RLock()  # taken as such: a Condition's own __exit__ is a place where a Ctrl-C can come
        self._changed = threading.Condition(self._lock)
        self._heap: list[tuple[int, int, _Timer]] = []
        self._dead = 0
        self._thread: threading.Thread | None = None  # it runs, or did until ``close``
        self._is_starting = False
        self._looks_ns: int | None = None  # when the thread looks again by itself

    def at(self, when_ns: int, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* once at *when_ns*, unless the returned function is called before."""
        timer = _Timer(callback)
        with self._lock:
            self._count += 1
            heapq.heappush(self._heap, (when_ns, self._count, timer))
            if self._looks_ns is None or when_ns < self._looks_ns:
                self._changed.notify()
        if self._thread is None:
            self.start()
            if self._thread is None and self.on_refused is not None:
                self.on_refused()

        def call_off() -> None:
            self._call_off(timer)

        return call_off

    def after(self, seconds: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* once in *seconds*, unless the returned function is called before."""
        return self.at(self._clock.now_ns() + round(seconds * NS_PER_S), callback)

    def start(self) -> None:
        """Have the thread if something is to be called; a refusal is logged, and the next timer tries again."""
        with self._lock:
            if self._thread is not None or self._is_starting or self._is_closed or not self._heap:
                return
            self._is_starting = True
        try:
            thread = threading.Thread(target=self._run, name=f"{self._name}-timers", daemon=True)
            thread.start()
            with self._lock:
                self._thread = self._thread or thread
        except RuntimeError as error:
            _log.warning("the timer thread could not be started: %s", error, extra=log_fields("no_thread"))
        finally:
            self._is_starting = False

    def due_without_thread_ns(self) -> int | None:
        """Return when ``run_due`` is to be called next, or None while the thread runs or nothing is to be called.

        May be asked at any time; it takes no lock while the thread runs.
        """
        if self._thread is not None:
            return None
        with self._lock:
            return self._heap[0][0] if self._heap and not self._is_closed and not self._is_starting else None

    def run_due(self) -> None:
        """Call what is due, if there is no thread to do it, after trying once more to start one."""
        while (due_ns := self.due_without_thread_ns()) is not None and due_ns <= self._clock.now_ns():
            self.start()
            if self._thread is not None:
                return
            with self._lock:
                callback = self._due()
            if callback is not None:
                self._call(callback)

    def close(self, *, wait: bool) -> None:
        """End the thread; timers still pending are never called."""
        with self._lock:
            self._is_closed = True
            self._heap.clear()
            self._changed.notify_all()
            thread = self._thread
        if wait and thread is not None and thread is not threading.current_thread() and thread.ident is not None:
            thread.join()

    def _call_off(self, timer: _Timer) -> None:
        with self._lock:
            if timer.callback is None:
                return
            timer.callback = None
            self._dead += 1
            if self._dead > 64 and self._dead * 2 > len(self._heap):
                self._heap = [entry for entry in self._heap if entry[2].callback is not None]
                heapq.heapify(self._heap)
                self._dead = 0

    def _run(self) -> None:
        me = threading.current_thread()
        with self._lock:
            self._thread = self._thread or me
        while self._thread is me:  # else a Ctrl-C came while it was started, and another has been started since
            try:
                with self._lock:
                    callback = self._next()
            except BaseException:  # of a clock of the user's own, say; everybody's waits depend on this thread
                _log.exception("the timer thread of %s failed", self._name, extra=log_fields("timer_failed"))
                with self._lock:
                    self._changed.wait(_AFTER_FAILURE_S)
                continue
            if callback is None:
                return
            self._call(callback)
            del callback

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except BaseException:  # one bad callback must not end the thread that all others wait for
            _log.exception(
                "a timer of %s failed: a bug, please report it", self._name, extra=log_fields("timer_failed")
            )

    def _next(self) -> Callable[[], None] | None:
        """Wait for the earliest timer and return its callback; None when closed."""
        while not self._is_closed:
            callback = self._due()
            if callback is not None:
                return callback
            self._looks_ns = self._heap[0][0] if self._heap else None
            self._clock.wait(self._changed, self._looks_ns)
        return None

    def _due(self) -> Callable[[], None] | None:
        """Take the earliest timer out and return its callback, or None if it is not due. ``_lock`` is held."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
            self._dead -= 1
        if not self._heap or self._heap[0][0] > self._clock.now_ns():
            return None
        timer = heapq.heappop(self._heap)[2]
        callback, timer.callback = timer.callback, None
        return callback
