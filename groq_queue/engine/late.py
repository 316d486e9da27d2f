"""Callbacks of Futures that have ended already, which workers call: one at a time, in the order in which they came.

A journal may know the answer when its request is submitted again, and a timer may end a request. Neither the
caller's thread nor the timers' is the place for its callbacks: the one may hold locks that they take and has
a stack that a chain of them would fill, the other must be there for the retries that they wait for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from groq_queue.engine.future import RequestFuture
from groq_queue.engine.worker_pool import WorkerPool

_Callback = Callable[[Any], object]


class LateCalls:
    """Callbacks that wait for a worker.

    Not thread-safe: everything but ``count`` and ``is_mine`` is called under the engine's lock. True whenever it is
    free: if a callback waits, one worker calls them or one was woken and has not looked. These workers are beyond the
    pool's size, so neither keeps requests waiting for callbacks nor callbacks for requests. While a callback waits for
    a Future, another worker calls the next: it may be what ends that Future.

    Args:
        pool: Whose workers call.

    Attributes:
        waiting: Callbacks that were not called yet, each with its Future.
        callers: The workers that call.
    """

    def __init__(self, pool: WorkerPool[Any]) -> None:
        self._pool = pool
        self.waiting: deque[tuple[RequestFuture[Any], _Callback]] = deque()
        self.callers: set[threading.Thread] = set()
        self._next_caller: threading.Thread | None = None  # which of them takes the next; the others have waited

    @property
    def waits(self) -> bool:
        """Whether a worker is to take over."""
        return bool(self.waiting) and self._next_caller is None

    def count(self) -> int:
        """Return how many were not called yet."""
        return len(self.waiting)

    def leave_to_parent(self) -> None:
        """Forget in a forked child what the parent calls; it has one thread only, and the lock may be held for ever."""
        self.waiting.clear()

    def add(self, future: RequestFuture[Any], callbacks: Iterable[_Callback]) -> None:
        """Line up *callbacks* of *future*, which has ended. Call ``pool.grow`` after, without the lock."""
        self.waiting.extend((future, callback) for callback in callbacks)
        self.look()

    def look(self) -> None:
        """Tell the pool how many spare workers the callbacks need, and wake one idle worker if any wait."""
        self._pool.spare = len(self.callers) + self.waits
        if self.waits:
            self._pool.wake()

    def take(self) -> bool:
        """Return whether the calling worker is to call what waits: with ``next_call`` until None, then ``leave``."""
        if not self.waiting or self._next_caller is not None:
            return False
        self._next_caller = threading.current_thread()
        self.callers.add(self._next_caller)
        return True

    def next_call(self) -> tuple[RequestFuture[Any], _Callback] | None:
        """Return the next Future and callback; None if another worker has taken over or no callback waits."""
        if self._next_caller is not threading.current_thread() or not self.waiting:
            return None
        return self.waiting.popleft()

    def hand_over(self) -> None:
        """Let another worker take the next; the calling one is busy with its callback."""
        if self._next_caller is threading.current_thread():
            self._next_caller = None
        self.look()

    def leave(self) -> None:
        """End the part of the calling worker, wherever it was interrupted."""
        self.callers.discard(threading.current_thread())
        self.hand_over()

    def is_mine(self) -> bool:
        """Return whether the calling thread is inside one of these callbacks."""
        return threading.current_thread() in self.callers
