"""One model's budget, shared by several processes: a process's own meter, and a store that allows every lease.

A lease is granted if both allow it. The process's own budget counts what this
process spends (and what the server said), so it is below the shared one and
blocks nothing that the store would grant; but it knows prices, learns limits,
paces after failures, and stays warm for the time in which the store is away.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Literal, Protocol

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.core.budget import Blocked, Lease, Level, TooLarge, exceeded, holds_everybody
from groq_queue.core.headers import RateHeader, Refusal
from groq_queue.core.limits import DIMENSIONS, Limits
from groq_queue.core.priority import LeaseApplicant
from groq_queue.core.token_estimate import Backlog, PromptSize, TokenCost
from groq_queue.errors import GroqQueueError, LimiterUnavailable
from groq_queue.lifecycle import register_for_fork
from groq_queue.limiters.in_process import ProcessMeter, UserLimits, charged
from groq_queue.limiters.reservation_client import End, ReservationClient
from groq_queue.limiters.store import BudgetStore, KnownLimits, LaneStatus, ReservationRequest, Reserved, ServerLimit

OnOutage = Literal["wait", "raise", "local_share"]

_AT_HAND_NS = 500_000_000  # a granted reservation that is not taken by then goes back to the others
_CLOSING_S = 5.0
_NOBODY = LeaseApplicant("")


class TaskThread(Protocol):
    """The thread that runs the reservation client; see ``engine.background``."""

    def start(self) -> None: ...
    def wake(self) -> None: ...
    def close(self, timeout_s: float) -> None: ...


class SharedLimiter:
    """The budgets of one account at one address, counted in a store.

    Args:
        store: Used by this limiter alone, and closed by it.
        limits: What this queue's user set.
        address: Base URL of the API.
        account: Names who pays.
        clock: Tells the time.
        hire: Returns the thread that runs a reservation client.
        margin: Share of every limit that is left to others.
        on_outage: What becomes of requests while the store cannot be reached: ``"wait"``, ``"raise"``
            LimiterUnavailable, or ``"local_share"``: go on with the limits divided by the processes last known
            to send; a lane of which nothing was heard yet waits.
    """

    def __init__(
        self,
        store: BudgetStore,
        limits: UserLimits,
        address: str,
        account: str,
        clock: Clock,
        hire: Callable[[ReservationClient], TaskThread],
        margin: float = 0.0,
        on_outage: OnOutage = "wait",
    ) -> None:
        self._limits = limits
        self._scope = f"{address} {account}"
        self._margin = margin
        self._on_outage: OnOutage = on_outage
        self._store, self._clock, self._hire = store, clock, hire
        self._begin()
        register_for_fork(self)

    def _begin(self) -> None:
        self._reservation_client = ReservationClient(self._store, self._clock)
        self._thread = self._hire(self._reservation_client)
        self._token, self._numbers = self._store.token, itertools.count(1)
        self._meters: dict[str, SharedMeter] = {}  # by lane; engines ask under their lock, and dicts are atomic

    def reset_after_fork(self) -> None:
        """Be another process in a forked child; what the parent has reserved stays the parent's."""
        self._store.reset_after_fork()
        self._begin()

    def meter(self, lane: str, model: str) -> SharedMeter:
        """Return the one meter of *lane*, which has the limits of *model*."""
        meter = self._meters.get(lane)
        if meter is not None:
            return meter
        limits = self._limits if isinstance(self._limits, Limits) or self._limits is None else self._limits.get(model)
        made = SharedMeter(
            f"{self._scope} {lane}",
            limits,
            self._margin,
            self._reservation_client,
            self._thread,
            self._new_id,
            self._on_outage,
        )
        self._thread.start()  # first: if it is refused, the next call for this lane tries again
        meter = self._meters.setdefault(lane, made)
        if meter is made:
            self._reservation_client.add(meter)
        return meter

    def levels(self, now_ns: int) -> dict[str, list[Level]]:
        """Return every limit's present state, by lane."""
        return {lane: meter.levels(now_ns) for lane, meter in list(self._meters.items())}

    def close(self, now_ns: int) -> None:
        """Report the last outcomes to the store and close it."""
        self._thread.close(_CLOSING_S)

    def _new_id(self) -> str:
        return f"{self._token}-{next(self._numbers)}"


class SharedMeter(ProcessMeter):
    """A meter whose leases need a reservation of the store, too.

    ``_lock`` guards, besides what it guards in ``ProcessMeter``, everything here. The reservation client and its
    thread are called outside it. At most one of ``_claim`` and ``_grant`` is set:

    * ``_claim``: what the head of the lane needs and the store has not granted, ``_reply`` what it said last;
    * ``_grant``: a reservation that no lease has used yet.
    """

    asks_whose_turn = True

    def __init__(
        self,
        lane: str,
        limits: Limits | None,
        margin: float,
        reservation_client: ReservationClient,
        thread: TaskThread,
        new_id: Callable[[], str],
        on_outage: OnOutage,
    ) -> None:
        super().__init__(limits, margin)
        self.lane = lane
        self._limits, self._margin = limits, margin
        self._reservation_client = reservation_client
        self._thread = thread
        self._new_id = new_id
        self._on_outage: OnOutage = on_outage
        self._turn = _NOBODY  # whose claim or grant it is
        self._claim: ReservationRequest | None = None
        self._reply: Blocked | TooLarge | None = None
        self._replied_ns = 0
        self._grant: ReservationRequest | None = None
        self._granted_ns = 0
        self._reservations: dict[Lease, str | None] = {}  # open leases; None was granted without the store
        self._outage: LimiterUnavailable | None = None
        self._whole: KnownLimits | None = None  # the capacities, while this process goes by a share of them
        self._status = LaneStatus([])
        self._status_ns = 0

    # -- what the engine asks, under its lock

    def lease(
        self, size: PromptSize, now_ns: int, turn: LeaseApplicant | None = None
    ) -> Lease | Blocked | TooLarge | GroqQueueError:
        """Lease what the store has granted, or note what it is to be asked for."""
        ends: list[End] = []
        with self._lock:
            result = self._lease(self._price(size), turn or _NOBODY, now_ns, ends)
            is_wanted = self._claim is not None and self._reply is None
        self._tell(ends, wakes=is_wanted)
        return result

    def withdraw(self) -> None:
        """Give back what was reserved and leave the line: no request waits for a lease any more."""
        ends: list[End] = []
        with self._lock:
            self._drop(ends)
        self._tell(ends)

    def _lease(
        self, cost: TokenCost, turn: LeaseApplicant, now_ns: int, ends: list[End]
    ) -> Lease | Blocked | TooLarge | LimiterUnavailable:
        excess = self._too_large(cost)
        if excess is not None:
            return excess
        blocked = self._budget.blocks(cost, now_ns)
        if blocked is not None and blocked.reason != "limit":  # asking the store would keep others from it
            self._drop(ends)
            return blocked
        if self._outage is not None:
            return self._lease_in_outage(self._outage, cost, blocked, now_ns)
        if self._grant is not None and (not _fits(cost, self._grant) or now_ns > self._granted_ns + _AT_HAND_NS):
            self._drop(ends)
        if self._grant is not None and blocked is None:
            lease = self._budget.lease(cost, now_ns)
            assert isinstance(lease, Lease)
            self._reservations[lease] = self._grant.id
            self._grant = None
            return lease
        if self._grant is None:
            self._want(cost, turn, ends)
        return self._answered(now_ns) or blocked or Blocked("asking", None)

    def _want(self, cost: TokenCost, turn: LeaseApplicant, ends: list[End]) -> None:
        """Have the claim of the head, in place of any other.

        A head that has become a little cheaper, as prices do with every answer, keeps its place in line.
        """
        claim = self._claim
        if claim is not None and self._turn.request_id == turn.request_id and _is_met(cost, claim):
            return
        self._drop(ends)
        self._turn = turn
        self._claim = ReservationRequest(
            self._new_id(), self.lane, _units(cost), turn.priority, turn.client, turn.weight, turn.cost
        )

    def _answered(self, now_ns: int) -> Blocked | TooLarge | None:
        """Return what the store said of the claim, if the engine has to know it."""
        reply = self._reply
        if isinstance(reply, Blocked):
            if not reply.is_daily or reply.wait_ns is None:
                return reply._replace(wait_ns=None)  # the reservation client comes back when it may pass
            return reply._replace(wait_ns=max(0, self._replied_ns + reply.wait_ns - now_ns))
        return reply

    def _drop(self, ends: list[End]) -> None:
        """Give up the claim or the grant."""
        left = self._claim or self._grant
        self._claim = self._grant = self._reply = None
        if left is not None:
            ends.append(lambda store: store.refund(self.lane, left.id))

    # -- how leases end

    def settle(
        self,
        lease: Lease,
        size: PromptSize,
        usage: tuple[int, int, int] | None,
        seen: Iterable[RateHeader] | None,
        now_ns: int,
    ) -> list[str]:
        """End a lease whose request was, or may have been, charged; see ``ProcessMeter.settle``."""
        headers = None if seen is None else list(seen)
        with self._lock:
            is_open = lease in self._reservations
            claim_id = self._reservations.pop(lease, None)
        requested, used = charged(lease.cost, usage)
        notices = super().settle(lease, size, usage, headers, now_ns)
        if not is_open:
            return notices
        with self._lock:
            limits = self._whole or self._budget.capacities()
            found = {
                header.dimension: ServerLimit(
                    header.limit, header.remaining, self._budget.may_be_lowered(header.dimension, header.limit)
                )
                for header in headers or ()
            }
        if claim_id is None:
            most = {name: max(requested.units(name), used.units(name)) for name in DIMENSIONS}
            self._tell([lambda store: store.charge(self.lane, most, limits)])
        else:
            before, after = _units(requested), _units(used)
            self._tell([lambda store: store.settle(self.lane, claim_id, before, after, found, limits)])
        return notices

    def refund(self, lease: Lease) -> None:
        """End a lease whose request was certainly not charged."""
        with self._lock:
            claim_id = self._reservations.pop(lease, None)
        super().refund(lease)
        if claim_id is not None:
            self._tell([lambda store: store.refund(self.lane, claim_id)])

    def refused(self, lease: Lease, size: PromptSize, refusal: Refusal | None, wait_ns: int, now_ns: int) -> list[str]:
        """End a lease by the server's refusal; no process gets one for *wait_ns*."""
        ends: list[End] = []
        with self._lock:
            claim_id = self._reservations.pop(lease, None)
        notices = super().refused(lease, size, refusal, wait_ns, now_ns)
        if claim_id is not None:
            ends.append(lambda store: store.refund(self.lane, claim_id))
        with self._lock:
            limits = self._whole or self._budget.capacities()
        dimension = "" if refusal is None else refusal.dimension
        if refusal is not None and refusal.limit and refusal.used is not None and dimension in limits:
            used = limits[dimension][0] - (refusal.limit - refusal.used)
            age_ns = now_ns - lease.granted_ns
            ends.append(lambda store: store.at_least(self.lane, dimension, used, age_ns, limits))
        if wait_ns and (refusal is None or holds_everybody(refusal)):
            ends.append(lambda store: store.hold(self.lane, wait_ns, dimension))
        self._tell(ends)
        return notices

    def pause(self, wait_ns: int, now_ns: int) -> None:
        """Grant no process a lease for *wait_ns*."""
        super().pause(wait_ns, now_ns)
        self._tell([lambda store: store.hold(self.lane, wait_ns, "")])

    # -- what is shown

    def too_large(self, size: PromptSize) -> TooLarge | None:
        """Return the limit that a request of *size* can never fit, or None."""
        with self._lock:
            return self._too_large(self._price(size))

    def blocks(self, size: PromptSize, now_ns: int) -> Blocked | None:
        """Return what is in the way of a request of *size*, as far as is known here."""
        with self._lock:
            blocked = self._budget.blocks(self._price(size), now_ns)
            if blocked is not None and blocked.reason != "limit":
                return blocked
            if self._outage is not None and self._whole is None:
                return Blocked("outage", None)
            reply = self._reply
            if isinstance(reply, Blocked) and reply.wait_ns is not None:
                return reply._replace(wait_ns=max(0, self._replied_ns + reply.wait_ns - now_ns))
            if isinstance(reply, Blocked):
                return reply
            held_ns = self._held_ns(now_ns)
            if held_ns > ((blocked and blocked.wait_ns) or 0):
                return Blocked("hold", held_ns)
            return blocked

    def _held_ns(self, now_ns: int) -> int:
        """Return what is left of a wait that the server set for another process, as last heard of."""
        until_ns = self._status_ns + self._status.held_ns
        reply = self._reply
        if isinstance(reply, Blocked) and reply.reason == "hold" and reply.wait_ns is not None:
            until_ns = max(until_ns, self._replied_ns + reply.wait_ns)
        return max(0, until_ns - now_ns)

    def levels(self, now_ns: int) -> list[Level]:
        """Return every limit's present state: the store's, as last heard of, or our own if that is higher."""
        with self._lock:
            shared = {level.dimension: level for level in self._status.levels}
            age_s = max(0, now_ns - self._status_ns) / NS_PER_S
            for level in self._budget.levels(now_ns):
                known = shared.get(level.dimension)
                drained = 0 if known is None else known.used - int(age_s * known.limit / known.period_s)
                shared[level.dimension] = level._replace(used=max(level.used, drained))
        return list(shared.values())

    def forecast(self, ahead: Backlog, size: PromptSize, flight_ns: int, now_ns: int) -> int:
        """Return the nanoseconds until a request of *size* will pass, if no other process sends meanwhile."""
        wait_ns = max(super().forecast(ahead, size, flight_ns, now_ns), self._held_ns(now_ns))
        expected, _ = self.expect(ahead.plus(size))
        for level in self.levels(now_ns):
            units = ahead.requests + 1 if level.dimension in ("RPM", "RPD") else expected.units(level.dimension)
            over = level.used + units - level.limit
            wait_ns = max(wait_ns, round(over * level.period_s / level.limit * NS_PER_S))
        return wait_ns

    # -- what the reservation client asks and brings

    def pending_claim(self) -> tuple[ReservationRequest, KnownLimits] | None:
        """Return what the store is to be asked for, or None."""
        with self._lock:
            return None if self._claim is None else (self._claim, self._budget.capacities())

    def deliver(self, claim: ReservationRequest, reply: Reserved | Blocked | TooLarge, now_ns: int) -> None:
        """Take the store's answer to *claim*; one that was given up meanwhile is being given back already."""
        with self._lock:
            if self._claim is not claim:
                return
            earlier = self._reply
            if isinstance(reply, Reserved):
                self._claim, self._reply = None, None
                self._grant, self._granted_ns = claim, now_ns
            else:
                self._reply, self._replied_ns = reply, now_ns
            ends_it = not isinstance(reply, Blocked) or reply.is_daily
            is_news = ends_it and (earlier is None or isinstance(earlier, Blocked))
        if is_news:
            self._call_listeners()

    def give_back_late(self, now_ns: int) -> int | None:
        """Give back a reservation that was not taken in time; return when that would be, or None."""
        ends: list[End] = []
        with self._lock:
            if self._grant is None:
                return None
            late_ns = self._granted_ns + _AT_HAND_NS
            if now_ns < late_ns:
                return late_ns
            self._drop(ends)
        self._tell(ends)
        self._call_listeners()  # another request may want it after all
        return None

    def is_open(self) -> bool:
        """Return whether the store has anything of ours open, or an outcome is still to be reported to it."""
        with self._lock:
            return bool(self._claim or self._grant or self._reservations)

    def on_status(self, status: LaneStatus, now_ns: int) -> None:
        """Take the store's present state."""
        with self._lock:
            self._status, self._status_ns = status, now_ns
            if status.refunds_unused:
                self._budget.assume_refunds()

    def on_outage(self, error: LimiterUnavailable, now_ns: int) -> None:
        """Note that the store cannot be reached."""
        with self._lock:
            self._outage = error
            if self._on_outage == "local_share":
                self._share_out(now_ns)
        self._call_listeners()

    def on_recovered(self, now_ns: int) -> None:
        """Note that the store can be reached."""
        with self._lock:
            self._outage = None
            if self._whole is not None:
                self._whole = None
                self._budget.set_limits(self._limits, now_ns, self._margin)
        self._call_listeners()

    # -- outage

    def _share_out(self, now_ns: int) -> None:
        """Go by a share of every limit, as full as the whole is; unless nothing was ever heard of the others."""
        if not self._status_ns:
            return
        self._whole = self._budget.capacities()
        processes = self._status.processes
        self._budget.set_limits(self._limits, now_ns, 1 - (1 - self._margin) / processes)
        for level in self._status.levels:
            period_ns = round(level.period_s * NS_PER_S)
            used = -(-level.used // processes)
            share = max(1, level.limit // processes)
            self._budget.begin(level.dimension, share, period_ns, used, now_ns - self._status_ns, now_ns)

    def _lease_in_outage(
        self, error: LimiterUnavailable, cost: TokenCost, blocked: Blocked | None, now_ns: int
    ) -> Lease | Blocked | LimiterUnavailable:
        if self._on_outage == "raise":
            return error
        if self._whole is None or self._budget.too_large(cost) is not None:
            return Blocked("outage", None)
        if blocked is not None:
            return blocked
        lease = self._budget.lease(cost, now_ns)
        assert isinstance(lease, Lease)
        self._reservations[lease] = None
        return lease

    def _too_large(self, cost: TokenCost) -> TooLarge | None:
        """Return the limit that *cost* never fits, not counting that we may go by a share of it for now."""
        if self._whole is None:
            return self._budget.too_large(cost)
        limits = {name: limit for name, (limit, _) in self._whole.items()}
        return exceeded(limits, {name: cost.units(name) for name in limits})

    def _tell(self, ends: list[End], *, wakes: bool = False) -> None:
        if ends:
            self._reservation_client.send(ends)
        if ends or wakes:
            self._thread.wake()

    def _call_listeners(self) -> None:
        with self._lock:
            listeners = self._listeners
        for listener in listeners:
            listener()


def _units(cost: TokenCost) -> dict[str, int]:
    return {name: units for name in DIMENSIONS if (units := cost.units(name))}


def _fits(cost: TokenCost, claim: ReservationRequest) -> bool:
    return all(units <= claim.cost.get(name, 0) for name, units in _units(cost).items())


def _is_met(cost: TokenCost, claim: ReservationRequest) -> bool:
    """Return whether *claim* is for *cost*, or for hardly more."""
    return _fits(cost, claim) and all(cost.units(name) * 10 >= units * 9 for name, units in claim.cost.items())
