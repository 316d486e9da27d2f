"""What a full queue does with one request more: it lets its submitter wait, sheds another, or refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable

from groq_queue.clock import Clock
from groq_queue.core.request import Request
from groq_queue.engine.bounds import bounds_of, timed_out
from groq_queue.engine.roster import Roster


class Room:
    """``lock`` is the engine's, guards everything and is held throughout, but while a submitter waits.

    Args:
        roster: What is full.
        lock: The engine's.
        clock: Tells the time.
        when_full: ``"block"``, ``"raise"`` or ``"shed"``.
        is_open: Returns whether requests are still taken in.
        is_inside: Returns whether the caller must not wait, because callbacks make the room.
    """

    def __init__(
        self,
        roster: Roster,
        lock: threading.RLock,
        clock: Clock,
        when_full: str,
        is_open: Callable[[], bool],
        is_inside: Callable[[], bool],
    ) -> None:
        self._roster = roster
        self._clock = clock
        self._when_full = when_full
        self._is_open = is_open
        self._is_inside = is_inside
        self._changed = threading.Condition(lock)
        self.seekers = 0  # submitters that wait for room

    def make_for(self, request: Request) -> Request | None:
        """Wait until there is room for *request*, or raise; callbacks never wait.

        Returns:
            A less urgent request that is to be shed, or None.
        """
        bounds = bounds_of(request)
        until_ns = self._clock.now_ns() + min(bounds) if bounds else None
        while not self._roster.has_room(request.client) and self._is_open():
            if self._when_full == "shed":
                rank = self._roster.rank(request, self._clock.now_ns())
                shed = self._roster.least_urgent(request.client, rank)
                if shed is None:
                    raise self._roster.full(request, "nothing less urgent could be shed", self._clock.now_ns())
                return shed
            if self._when_full == "raise":
                raise self._roster.full(request, "wait for some to end", self._clock.now_ns())
            if self._is_inside():
                return None
            now_ns = self._clock.now_ns()
            if until_ns is not None and now_ns >= until_ns:
                raise timed_out(self._roster, request, "max_wait or deadline", min(bounds), now_ns)
            self.seekers += 1
            try:
                self._clock.wait(self._changed, until_ns)
            finally:
                self.seekers -= 1
        return None

    def tell(self) -> None:
        """Tell blocked submitters that something waits less; they may be of clients with bounds of their own."""
        if self.seekers:
            self._changed.notify_all()
