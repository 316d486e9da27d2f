"""Ends the Futures of requests that have ended, and forgets what they held: prompts are large."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from groq_queue.core.completion import Completion
from groq_queue.core.request import Request, State
from groq_queue.engine import verdicts
from groq_queue.engine.late import LateCalls
from groq_queue.engine.pool import WorkerPool
from groq_queue.engine.protocol import Keeper
from groq_queue.engine.roster import Roster
from groq_queue.errors import GroqQueueError


class Delivery:
    """Runs callbacks and writes to the file, so everything but ``forget_delivered`` is called without a lock.

    ``lock`` is the engine's and guards the roster. ``_delivered`` alone is changed without it, by workers
    that take it next.

    Args:
        roster: Where the requests stood.
        lock: The engine's.
        pool: Knows which threads are inside callbacks.
        keeper: Keeps requests in a file, or None.
        on_empty: Called under the lock when no request is open in memory any more.
        restock: Called without the lock when requests have left the memory.
        late: Has callbacks called by workers.
    """

    def __init__(
        self,
        roster: Roster,
        lock: threading.RLock,
        pool: WorkerPool[Any],
        keeper: Keeper | None,
        on_empty: Callable[[], None],
        restock: Callable[[], None],
        late: LateCalls,
    ) -> None:
        self._roster = roster
        self._lock = lock
        self._pool = pool
        self._keeper = keeper
        self._on_empty = on_empty
        self._restock = restock
        self._late = late
        self._delivered: list[Request] = []  # their Futures have ended, their workers are about to look for more

    def end(
        self,
        request: Request,
        result: Completion | None = None,
        error: BaseException | None = None,
        *,
        is_final: bool = True,
    ) -> None:
        """End the Future of a request whose state says ended, on any thread, and forget the request.

        One whose end is not *final* stays pending in the journal: nothing is wrong with it, but the queue stops.
        """
        inside = self._pool.inside
        depth = getattr(inside, "depth", 0)
        inside.depth = depth + 1
        try:
            self._end(request, result, error, is_final)
        finally:
            inside.depth = depth  # set, not called: a Ctrl-C can come at any call
            self._forget([request])

    def end_and_call_late(self, request: Request, error: GroqQueueError, *, is_final: bool = True) -> None:
        """As ``end``, but leave the callbacks to workers.

        On the timers' thread they may wait for retries, which need it; inside another's ``submit`` for what he holds.
        """
        try:
            self._end(request, None, error, is_final, calls_late=True)
        finally:
            self._pool.grow()
            self._forget([request])

    def end_on_worker(
        self, request: Request, result: Completion | None, error: BaseException | None, *, is_final: bool = True
    ) -> None:
        """As ``end``; a worker, which is inside anyway, forgets the request under the lock it is about to take."""
        try:
            self._end(request, result, error, is_final)
        except BaseException:
            self._forget([request])
            raise
        if self._roster.shelf is None:
            self._delivered.append(request)
        else:
            self._forget([request])

    def end_all(
        self, requests: list[Request], error: GroqQueueError | None = None, *, is_final: bool = True
    ) -> BaseException | None:
        """End many Futures.

        Returns:
            What the first callback raised that must reach the caller (a Ctrl-C on the
            main thread), once all are ended; or None.
        """
        interrupt: BaseException | None = None
        delivered = []
        inside = self._pool.inside
        depth = getattr(inside, "depth", 0)
        inside.depth = depth + 1
        try:
            for request in requests:
                delivered.append(request)
                own = None if error is None else verdicts.of(request, error)
                try:
                    self._end(request, None, own, is_final)
                except BaseException as raised:  # kept, so that it cannot leave this Future or the others open
                    interrupt = interrupt or raised
                    with suppress(BaseException):
                        self._end(request, None, own, is_final)
        finally:
            inside.depth = depth
            self._forget(delivered)
        return interrupt

    def forget_delivered(self) -> None:
        """Forget what workers have delivered. The lock is held."""
        if self._delivered:
            self._let_go(self._delivered)

    def _end(
        self,
        request: Request,
        result: Completion | None,
        error: BaseException | None,
        is_final: bool,
        *,
        calls_late: bool = False,
    ) -> None:
        future = request.future
        if future is None:
            return  # delivered before
        if request.timers:
            for call_off in request.timers:
                call_off()
            request.timers = ()
        try:
            if is_final and request.row_id is not None and self._keeper is not None:
                self._keeper.ended(request, result, error)
        finally:  # whatever keeping it has raised, such as no memory: whoever waits for the Future must go on
            if error is not None:
                error.__traceback__ = None  # its frames hold the prompt and the answer
            callbacks = future.take_callbacks() if calls_late else []
            try:
                if request.state is State.CANCELLED:
                    future.end_cancelled()
                else:
                    future.end(result, error)
            finally:
                if callbacks:
                    with self._lock:
                        self._late.add(future, callbacks)
            request.future = request.body = None

    def _forget(self, delivered: list[Request]) -> None:
        with self._lock:
            self._let_go(delivered)
        self._restock()

    def _let_go(self, delivered: list[Request]) -> None:
        """Forget requests whose Futures have ended; another is left to whoever mends. The lock is held."""
        while delivered:
            request = delivered.pop()
            if request.future is None:
                self._roster.let_go(request)
        if not self._roster.open:
            self._on_empty()
