"""Everything that happens at an instant: retries due, requests expired, attempts overdue.

One daemon thread, started with the first timer, waits for the earliest instant.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Callable

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.engine.log import told
from groq_queue.forking import renew_in_children

_log = logging.getLogger("groq_queue")


class _Timer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback  # None once called off


class Timers:
    """Calls back at instants.

    ``_changed`` guards ``_heap``, ``_dead``, ``_thread`` and ``_is_closed``.
    Callbacks run on the timer thread without it; they must be short.
    """

    def __init__(self, clock: Clock, name: str) -> None:
        self._clock = clock
        self._name = name
        self._count = 0
        self._is_closed = False
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin with nothing to call; in a forked child the thread and the timers are the parent's."""
        self._changed = threading.Condition(threading.RLock())
        self._heap: list[tuple[int, int, _Timer]] = []
        self._dead = 0
        self._thread: threading.Thread | None = None

    def at(self, when_ns: int, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* once at *when_ns*, unless the returned function is called before."""
        timer = _Timer(callback)
        with self._changed:
            starts = self._thread is None and not self._is_closed
            if starts:
                self._thread = threading.Thread(target=self._run, name=f"{self._name}-timers", daemon=True)
            self._count += 1
            heapq.heappush(self._heap, (when_ns, self._count, timer))
            if self._heap[0][2] is timer:
                self._changed.notify()
            thread = self._thread
        if starts and thread is not None:
            thread.start()

        def call_off() -> None:
            self._call_off(timer)

        return call_off

    def after(self, seconds: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* once in *seconds*, unless the returned function is called before."""
        return self.at(self._clock.now_ns() + round(seconds * NS_PER_S), callback)

    def close(self, *, wait: bool) -> None:
        """End the thread; timers still pending are never called."""
        with self._changed:
            self._is_closed = True
            self._heap.clear()
            self._changed.notify()
            thread = self._thread
        if wait and thread is not None and thread is not threading.current_thread() and thread.ident is not None:
            thread.join()

    def _call_off(self, timer: _Timer) -> None:
        with self._changed:
            if timer.callback is None:
                return
            timer.callback = None
            self._dead += 1
            if self._dead > 64 and self._dead * 2 > len(self._heap):
                self._heap = [entry for entry in self._heap if entry[2].callback is not None]
                heapq.heapify(self._heap)
                self._dead = 0

    def _run(self) -> None:
        while True:
            with self._changed:
                callback = self._next()
                if callback is None:
                    return
            try:
                callback()
            except Exception:  # one bad callback must not end the thread that all others wait for
                _log.exception("a timer of %s failed: a bug, please report it", self._name, extra=told("timer_failed"))
            del callback

    def _next(self) -> Callable[[], None] | None:
        """Wait for the earliest timer and return its callback; None when closed."""
        while not self._is_closed:
            while self._heap and self._heap[0][2].callback is None:
                heapq.heappop(self._heap)
                self._dead -= 1
            if self._heap and self._heap[0][0] <= self._clock.now_ns():
                timer = heapq.heappop(self._heap)[2]
                callback, timer.callback = timer.callback, None
                return callback
            self._clock.wait(self._changed, self._heap[0][0] if self._heap else None)
        return None
