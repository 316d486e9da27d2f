"""A real ``Executor`` for libraries that accept one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from contextlib import suppress
from functools import partial
from typing import Any

from groq_queue.errors import QueueClosed
from groq_queue.lifecycle import register_for_fork


class QueueExecutor(Executor):
    """Runs calls under a queue's budget.

    ``_lock`` guards ``_open`` and ``_is_closed`` and is a leaf; re-entrant, so that a
    signal handler may shut down.

    Args:
        queue: Whatever has ``submit_call``, a queue or a view.
    """

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._is_closed = False
        self.reset_after_fork()
        register_for_fork(self)

    def reset_after_fork(self) -> None:
        """Begin with no call open; in a forked child those of the parent are its own."""
        self._lock = threading.RLock()
        self._open: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue ``fn(*args, **kwargs)``.

        Raises:
            QueueClosed: The executor or the queue was shut down (a RuntimeError).
        """
        if self._is_closed:
            raise QueueClosed("submit() after the executor's shutdown: call queue.executor() for another one")
        if "queue_options" in kwargs:  # it is fn's own, not ours
            fn, kwargs = partial(fn, **kwargs), {}
        future: Future[Any] = self._queue.submit_call(fn, *args, **kwargs)
        with self._lock:
            self._open.add(future)
            is_late = self._is_closed
        future.add_done_callback(self._forget)
        if is_late:  # it was shut down meanwhile, and did not see this one
            future.cancel()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. The queue and everybody else's requests go on.

        Args:
            wait: Return only when this executor's calls have ended. Inside one of them, or
                a callback, it does not wait, since it might wait for itself.
            cancel_futures: Cancel those that have not started.
        """
        with self._lock:
            self._is_closed = True
            mine = list(self._open)
        if cancel_futures:
            for future in mine:
                future.cancel()
        if wait and not self._queue._is_inside():
            for future in mine:
                with suppress(CancelledError):
                    future.exception()

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._open.discard(future)

    def __repr__(self) -> str:
        with self._lock:
            return f"<executor of {self._queue!r}: {len(self._open)} open{', closed' if self._is_closed else ''}>"
