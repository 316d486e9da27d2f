"""Calls that wait, inside themselves, for another request of their own queue: which of them wait for ever.

A callable holds its place in its lane, its lease and its money until it returns. If what it waits
for needs just these, it waits for itself: at once, or by way of other calls that wait as well.

Certain is only what neither time nor anybody who is still at work can change. So a call is refused
its wait when everything that the request waits for is held by calls that wait in turn; and where that
comes to be later, as when a hold of the lane is over, the request is ended. Whatever else may help in
time (an attempt on its way, another queue of the account, a time-out) is worth a warning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from groq_queue.clock import Clock
from groq_queue.core.request import Request, State
from groq_queue.engine.callables import Call
from groq_queue.engine.log import log_fields
from groq_queue.engine.pending import PendingRequests
from groq_queue.engine.scheduler import Job, Scheduler
from groq_queue.errors import DeadlockError, excerpt
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")


class _Need(NamedTuple):
    """What a pending request waits for that only the end of others gives back.

    Attributes:
        what: In words, and the cure.
        holders: Who holds it.
        is_all: Whether no other holds it, such as another queue of the account.
    """

    what: str
    holders: list[Request]
    is_all: bool


class Nested:
    """Looks at each wait of a call before it begins, and at all of them when nothing can be sent.

    Not thread-safe: everything is called under the engine's lock. True whenever it is free: ``waits`` holds what calls
    wait for without a time-out, each on the thread that runs it.

    Args:
        table: The request table.
        scheduler: Has the money.
        clock: Tells the time.
    """

    def __init__(self, table: PendingRequests, scheduler: Scheduler, clock: Clock) -> None:
        self._table = table
        self._scheduler = scheduler
        self._clock = clock
        self._has_warned = False
        self.waits: dict[Call, Request] = {}

    def begin(self, call: Call, request: Request, *, is_bounded: bool) -> Callable[[], None] | None:
        """Let *call* wait for *request*, until ``end``.

        Args:
            call: Runs on the calling thread.
            request: Of any queue.
            is_bounded: The wait ends by itself.

        Returns:
            What logs a warning, to be called outside every lock; or None.

        Raises:
            DeadlockError: It would never end.
        """
        need = self._need(request) if request.state is State.PENDING else None
        is_mine = need is not None and any(each.call is call for each in need.holders)
        if not is_bounded:
            self.waits[call] = request
            if self._is_stuck(request):
                del self.waits[call]
                raise _error(request, need)
        warns = is_mine and not self._has_warned
        self._has_warned = self._has_warned or warns
        if not warns or need is None:
            return None
        what, facts = need.what, log_fields("call_waits", request)
        return lambda: _log.warning(
            "a callable of this queue waits for %s of the same queue, which needs what running requests hold, "
            "the callable among them: %s; or submit it outside the callable",
            request,
            what,
            extra=facts,
        )

    def end(self, call: Call) -> None:
        """Note that *call* goes on after a wait that nothing bounded."""
        self.waits.pop(call, None)

    def give_up(self) -> Job | None:
        """Take a pending request out of its lane that waits for ever by now, and return it with its error, or None."""
        for request in self.waits.values():
            if request.state is State.PENDING and self._is_stuck(request):
                error = _error(request, self._need(request))
                self._table.withdraw(request, State.FAILED)
                return Job(request, self._table.lane(request), self._clock.now_ns(), None, error=error)
        return None

    def _is_stuck(self, request: Request) -> bool:
        """Return whether *request* can never end."""
        seen: set[Request] = set()
        todo = [request]
        while todo:
            each = todo.pop()
            if each in seen:
                continue
            seen.add(each)
            if each.state is State.RUNNING:
                waits_for = None if each.call is None else self.waits.get(each.call)
                if waits_for is None:
                    return False  # it is at work
                todo.append(waits_for)
            elif each.state is not State.PENDING or each.has_bounds:
                return False
            else:
                need = self._need(each)
                if need is None or not need.is_all or not need.holders:
                    return False
                todo += need.holders
        return True

    def _need(self, request: Request) -> _Need | None:
        """Return what a pending request waits for, None if time alone may bring its turn."""
        lane = self._table.lanes.get(request.lane)
        if lane is None or request not in self._table.open:
            return None
        if lane.max_in_flight is not None and lane.in_flight >= lane.max_in_flight:
            return _Need(
                f"one of the max_concurrency={lane.max_in_flight} attempts at once: raise that",
                self._running(request.lane),
                True,
            )
        blocked = lane.meter.blocks(request.size, self._clock.now_ns())
        if blocked is not None and blocked.wait_ns is None:
            holders = self._running(request.lane)
            open_leases: int | None = getattr(lane.meter, "open_leases", None)  # a shared budget cannot tell
            name = excerpt(request.model)
            what = (
                f"the limits of {name}, unknown until the first answer: name them in limits="
                if blocked.reason == "learning"
                else f"room in a limit of {name} that running requests fill: lower the tokens of the callable"
            )
            return _Need(what, holders, open_leases is not None and open_leases <= len(holders))
        if self._scheduler.awaits_money(request, lane):
            return _Need("the money of max_cost that running requests may spend: raise that", self._running(), True)
        return None

    def _running(self, lane: str | None = None) -> list[Request]:
        return [
            each for each in self._table.open if each.state is State.RUNNING and (lane is None or each.lane == lane)
        ]


def _error(request: Request, need: _Need | None) -> DeadlockError:
    what = "the call itself, or waits for it in turn" if need is None else need.what
    return DeadlockError(
        f"a callable of this queue waits for {request} of the same queue, which cannot end before it: that is {what}; "
        "or submit it outside the callable",
        request_id=request.id,
        custom_id=request.custom_id,
    )
