"""Threads in the background: timers for what happens at an instant, a task that waits for a store, a last drain.

``Timers`` are for retries due, requests expired, attempts overdue. One daemon thread, started
with the first timer, waits for the earliest instant. If the system refuses that thread, the
next timer asks for it again, and until it is there ``run_due`` lets another thread do its work:
the engine's workers call it.

``BackgroundTask`` runs one task again and again, when it is due or woken, so that waiting for a
store blocks no other thread.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.engine.log import log_fields
from groq_queue.errors import GroqQueueError
from groq_queue.lifecycle import Drainable, register_for_fork
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_AFTER_FAILURE_S = 1.0  # of the machine's own clock, since ours may be what failed
_RUN_AGAIN_NS = NS_PER_S  # after a task has failed
_TELL_EVERY = 60  # failures in a row: about a minute


class _Timer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback  # None once called off


class Timers:
    """Calls back at instants.

    ``_lock`` guards ``_heap``, ``_dead``, ``_looks_ns``, ``_thread``, ``_is_starting`` and ``_is_closed``; ``_thread``,
    and whether ``_heap`` is empty, may be asked without it.
    Callbacks run without it on the timer thread, or on the one that calls ``run_due``; they must be short.

    Attributes:
        is_unattended: Something may have to be called and there is no thread to do it: ask ``due_without_thread_ns``.
            May be read without the lock; once the thread has run, False.
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
        self.is_unattended = False
        self._is_starting = False
        self._looks_ns: int | None = None  # when the thread looks again by itself

    def at(self, when_ns: int, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* once at *when_ns*, unless the returned function is called before."""
        timer = _Timer(callback)
        with self._lock:
            if self._thread is None:
                self.is_unattended = True  # before it is in the heap: a Ctrl-C may come at any line
            self._count += 1
            heapq.heappush(self._heap, (when_ns, self._count, timer))
            if self._looks_ns is None or when_ns < self._looks_ns:
                self._changed.notify()
        if self._thread is None:
            self.start()
            if self._thread is None and self.on_refused is not None:
                self.on_refused()
        return partial(self._call_off, timer)

    def after(self, seconds: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* once in *seconds*, unless the returned function is called before."""
        return self.at(self._clock.now_ns() + round(seconds * NS_PER_S), callback)

    def start(self) -> None:
        """Start the thread if something is to be called; a refusal is logged, and the next timer tries again."""
        with self._lock:
            if self._thread is not None or self._is_starting or self._is_closed or not self._heap:
                return
            self._is_starting = True
        try:
            thread = threading.Thread(target=self._run, name=f"{self._name}-timers", daemon=True)
            thread.start()
            with self._lock:
                self._thread = self._thread or thread
                self.is_unattended = False
        except RuntimeError as error:
            _log.warning("the timer thread could not be started: %s", error, extra=log_fields("no_thread"))
        finally:
            self._is_starting = False

    def due_without_thread_ns(self) -> int | None:
        """Return when ``run_due`` is to be called next, or None while the thread runs or nothing is to be called.

        May be asked at any time; it takes no lock while the thread runs or nothing is to be called.
        """
        if self._thread is not None or not self._heap:
            return None
        with self._lock:
            return self._heap[0][0] if self._heap and not self._is_closed and not self._is_starting else None

    def run_due(self) -> None:
        """Call what is due, if there is no thread to do it, after trying once more to start one."""
        if self._thread is not None or not self._heap:
            return  # as nearly always: this is asked for every job
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
            self.is_unattended = False
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


class Task(Protocol):
    """What is to be done; called by one thread at a time."""

    def run(self) -> int | None:
        """Do what there is to do.

        Returns:
            The instant at which there will be more to do, or None: when it is woken.
        """
        ...

    def finish(self) -> None:
        """Do what is left to do, once and for all; raises nothing."""
        ...


class BackgroundTask:
    """A daemon thread that runs one task whenever it is due or woken, until ``close``.

    ``_lock`` guards the flags and ``_thread``, and is a leaf: ``wake`` may be called under any lock.
    The task runs without it. Nothing that the task or the clock raises ends the thread before ``close``.
    """

    def __init__(self, task: Task, clock: Clock, name: str) -> None:
        self._task = task
        self._clock = clock
        self._name = name
        self._lock = threading.RLock()  # taken as such: a Condition's own __exit__ is a place where a Ctrl-C can come
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._is_starting = False
        self._is_woken = False
        self._is_closed = False
        self._failures = 0  # in a row; the thread's own

    def wake(self) -> None:
        """Make the task run soon; does not block."""
        with self._lock:
            self._is_woken = True
            self._changed.notify()

    def start(self) -> None:
        """Start the thread, if it does not run. Not to be called under a lock, since starting one blocks.

        Raises:
            GroqQueueError: The system refuses it. The next call tries again.
        """
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is not None or self._is_starting or self._is_closed:
                return
            self._is_starting = True
        try:
            thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            thread.start()
            with self._lock:
                self._thread = self._thread or thread
        except RuntimeError as error:
            raise GroqQueueError(f"the thread that asks the shared limiter could not be started: {error}") from None
        finally:
            self._is_starting = False

    def close(self, timeout_s: float) -> None:
        """Finish the task and wait for it, at most *timeout_s*. A second call only waits."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            self._changed.notify()
            thread = self._thread
        if thread is None:
            if not was_closed:
                self._finish()
        elif thread is not threading.current_thread() and thread.ident is not None:
            thread.join(timeout_s)

    def _loop(self) -> None:
        me = threading.current_thread()
        with self._lock:
            self._thread = self._thread or me
            if self._thread is not me:
                return  # a Ctrl-C came while it was started, and another has been started since
        due_ns: int | None = None
        while not self._is_closed:
            try:
                if self._rest(due_ns):
                    due_ns = self._task.run()
                    self._failures = 0
            except BaseException:  # a bug, or no memory, must not end the thread that everybody's budget comes from
                due_ns = self._failed()
        self._finish()

    def _failed(self) -> int | None:
        """Log the failure, once a minute, and return when to try again."""
        try:
            if self._failures % _TELL_EVERY == 0:
                _log.exception(
                    "a background task of %s failed and is tried again: a bug, or no memory was left",
                    self._name,
                    extra=log_fields("errand_failed"),
                )
            self._failures += 1
            return self._clock.now_ns() + _RUN_AGAIN_NS
        except BaseException:  # the clock, or no memory even for this
            with self._lock:
                if not self._is_closed:
                    self._changed.wait(_AFTER_FAILURE_S)
                self._is_woken = True
            return None

    def _finish(self) -> None:
        try:
            self._task.finish()
        except BaseException:  # a bug; the thread ends here, and nothing else would report its error
            _log.exception(
                "the last run of a background task of %s failed: a bug", self._name, extra=log_fields("errand_failed")
            )

    def _rest(self, due_ns: int | None) -> bool:
        """Wait until woken or *due_ns*; False if closed."""
        with self._lock:
            while not self._is_woken and not self._is_closed:
                if due_ns is not None and self._clock.now_ns() >= due_ns:
                    break
                self._clock.wait(self._changed, due_ns)
            self._is_woken = False
            return not self._is_closed


def drain_dropped(engine: Drainable) -> None:
    """Have *engine* drained by a thread that ``threading`` knows; to be called on one that it does not.

    On a bare thread, code that asks for the current one, as ``join`` does, leaves a dummy
    in ``threading.enumerate()`` for ever: one more with each queue that is dropped.
    """
    options = {"wait": False, "cancel_futures": False}
    with suppress(RuntimeError):  # the interpreter ends: its exit hook drains what is open
        threading.Thread(target=engine.shutdown, kwargs=options, name="groq_queue-drain", daemon=True).start()
