"""Where pending requests are put: into their lane, away until an instant, or nowhere any more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from groq_queue.clock import Clock
from groq_queue.core.request import Request, State
from groq_queue.engine.bounds import has_bounds, is_past, timed_out
from groq_queue.engine.pool import WorkerPool
from groq_queue.engine.room import Room
from groq_queue.engine.roster import Roster
from groq_queue.engine.timers import Timers
from groq_queue.errors import QueueTimeout


class Places:
    """Wakes a worker whenever a head may have changed, and lets timers move requests on.

    ``lock`` is the engine's and guards the roster and the pool.

    Args:
        roster: Where the requests stand.
        lock: The engine's.
        clock: Tells the time.
        timers: Bring requests back, or end their wait.
        pool: Who is to look.
        room: Told when something waits less.
        on_expired: Called without the lock with a request whose time has run out, and its error.
    """

    def __init__(
        self,
        roster: Roster,
        lock: threading.RLock,
        clock: Clock,
        timers: Timers,
        pool: WorkerPool[Any],
        room: Room,
        on_expired: Callable[[Request, QueueTimeout], None],
    ) -> None:
        self._roster = roster
        self._lock = lock
        self._clock = clock
        self._timers = timers
        self._pool = pool
        self._room = room
        self._on_expired = on_expired

    # -- under the lock

    def stand(self, request: Request) -> None:
        """Put a request in memory into its lane, or let it stand away until it may be sent or its timer ends it."""
        request.rank = self._roster.rank(request, request.submitted_ns)
        if has_bounds(request) and is_past(request, self._clock.now_ns()):
            self._roster.away.add(request)
        elif request.not_before_ns:
            self.send_away(request, request.submitted_ns + request.not_before_ns)
        else:
            self.line_up(request)

    def line_up(self, request: Request) -> None:
        """Put a request into its lane; behind an unchanged head nothing has changed for those who wait."""
        if self._roster.line_up(request):
            self._pool.wake()

    def send_away(self, request: Request, due_ns: int) -> None:
        """Keep a pending request out of its lane until *due_ns*."""
        self._roster.away.add(request)
        request.due_ns = due_ns
        request.timers += (self._timers.at(due_ns, lambda: self._come_back(request)),)

    def expect_back(self, request: Request) -> None:
        """Have a request that stands away brought back at its time once more: its timer may never have been set."""
        due_ns = request.due_ns
        if due_ns is None:
            return  # its time has run out, and the timer that ends it is set by whoever set none
        request.timers += (self._timers.at(due_ns, lambda: self._come_back(request)),)

    def withdraw(self, request: Request, state: State) -> None:
        """End a pending request where it stands."""
        self._roster.withdraw(request, state)
        self._room.tell()
        if self._roster.lane(request).is_blocked:
            self._pool.wake()  # somebody waits for a head that may have changed

    # -- outside the lock

    def watch_bounds(self, request: Request) -> None:
        """Have a request in memory ended when the time its caller set has run out."""
        if has_bounds(request) and not request.is_shelved:
            for bound, after_ns in (("max_wait", request.max_wait_ns), ("deadline", request.deadline_ns)):
                if after_ns is not None:
                    self._expire_after(request, bound, after_ns)

    def _come_back(self, request: Request) -> None:
        """Put a request whose time has come into its lane."""
        with self._lock:
            if request not in self._roster.away:
                return
            self._roster.away.discard(request)
            if not request.was_taken:
                request.rank = self._roster.rank(request, self._clock.now_ns())
            self.line_up(request)
        self._pool.grow()

    def _expire_after(self, request: Request, bound: str, after_ns: int) -> None:
        call_off = self._timers.at(request.submitted_ns + after_ns, lambda: self._expire(request, bound, after_ns))
        with self._lock:
            if request.state is State.PENDING or request.state is State.RUNNING:
                request.timers += (call_off,)
                return
        call_off()  # it has ended meanwhile

    def _expire(self, request: Request, bound: str, after_ns: int) -> None:
        """End a request whose ``max_wait`` or ``deadline`` has come while it waits."""
        with self._lock:
            if request.state is not State.PENDING or (bound == "max_wait" and request.attempts):
                return
            self.withdraw(request, State.EXPIRED)
            error = timed_out(self._roster, request, bound, after_ns, self._clock.now_ns())
        self._on_expired(request, error)
        self._pool.grow()
