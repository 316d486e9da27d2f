"""What a store of shared budgets promises, whatever it is made of, a file or a Redis, and which one an address means.

It keeps the budget of ``core.budget`` where several processes reach it.
The law is the same: integers; every level drains all the time at limit / period;
an open reservation is *held* in full and does not drain, because it is not known yet
when its request arrived; its end turns it into level. A level has two forms, as
in ``core.bucket``: *strict* counts what was requested, *credited* what was really
used, and strict is believed until the server's headers disprove it.

The store's own clock is the only one: durations go in and out, instants do not.

A *process* here is one open store, with a token of its own. It has to ``heartbeat``
while anything of its is open; one that does not is taken for dead: what it
reserved is charged in full, strict and credited, and drains from then on, and its
claims leave the line.

Units: cost in requests, tokens or seconds of audio, by dimension (``"RPM"``, …);
time in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import NamedTuple, Protocol

from groq_queue.clock import Clock
from groq_queue.core.budget import Blocked, Level, TooLarge
from groq_queue.errors import ConfigurationError, safe_repr

SCHEMES = ("sqlite", "redis", "rediss")

LEASE_S = 3.0
"""After so many seconds without a beat a process is taken for dead."""

Units = Mapping[str, int]
"""Units by dimension; one that is not named is zero."""

KnownLimits = Mapping[str, tuple[int, int]]
"""``{dimension: (limit, period_ns)}``: the limits that a process goes by, limit >= 1, period_ns >= 1."""


class ReservationRequest(NamedTuple):
    """What one request asks of the budget.

    Attributes:
        id: Unique for ever: the process's token and a number. Names the reservation, too.
        lane: Whose budget: address, account and lane, as text. The store reads nothing into it.
        cost: Units it takes of *every* dimension it could count in, limited or not.
        priority: 0..10, smaller goes first.
        client: Whose turn it is; clients of one priority share by weight.
        weight: Of the client, 0.001..1000.
        turn_cost: What the turn counts for the client's share, >= 1.
    """

    id: str
    lane: str
    cost: Units
    priority: int = 5
    client: str = "default"
    weight: float = 1.0
    turn_cost: int = 1


class Reserved(NamedTuple):
    """The claim was met: its cost is held under its id until ``settle`` or ``refund``."""

    claim_id: str


class ServerLimit(NamedTuple):
    """One limit as the headers of an answer gave it.

    Attributes:
        limit: The server's.
        remaining: What was left of it.
        lowers: The process's own limit is no smaller, so the server's word may lower the level, too.
    """

    limit: int
    remaining: int
    lowers: bool


class LaneStatus(NamedTuple):
    """A lane's present state.

    Attributes:
        levels: Of each dimension; ``used`` counts what is held and is rounded up.
        refunds_unused: The server was seen to give unused allowance back, so the credited levels hold.
        processes: How many are alive, this one included, at least 1.
        held_ns: Until the end of a wait that the server set, or 0.
    """

    levels: list[Level]
    refunds_unused: bool = False
    processes: int = 1
    held_ns: int = 0


class BudgetStore(Protocol):
    """Budgets that several processes share. One thread at a time may use it.

    Every method is one step of the store: all of it happens, or nothing. Every method
    may be repeated with the same arguments after an error, because a reply may have
    been lost; only ``charge`` then counts twice.

    A bucket comes into being when a call first names its dimension in *limits*, with
    what open reservations of the lane cost in it as held. It takes the limit and the
    period of the last call that names it; units in use stay in use. Dimensions that a
    call does not name but an earlier call has named count, too.

    All but ``close`` raise LimiterUnavailable if the store cannot be used now.
    """

    @property
    def address(self) -> str:
        """Where it is, for messages; without any password."""
        ...

    @property
    def token(self) -> str:
        """The process's; every claim id begins with it."""
        ...

    def reserve(self, claim: ReservationRequest, limits: KnownLimits) -> Reserved | Blocked | TooLarge:
        """Take the cost from every bucket, or stand in line.

        In this order:

        1. A process that did not send its heartbeat in time is taken for dead; this process now counts as alive.
        2. A claim that holds a reservation already is Reserved, and nothing is taken.
        3. A cost above a bucket's limit is TooLarge (the first such dimension); it leaves the line.
        4. The claim gets its place in line, if it has none: after all of smaller priority, then by
           its client's tag, then by arrival. tag = max(now, end) and then end = tag + turn_cost / weight,
           where *end* is its client's of that lane and priority and *now* the largest tag granted there.
        5. During a pause it is Blocked("hold", time left, dimension of the pause or "").
        6. If another claim is before it, it is Blocked("behind", None).
        7. If level + held + cost > limit for a bucket, it is Blocked("limit", wait_ns, dimension, used, limit)
           of the bucket it waits for longest; wait_ns is exact, None if no time suffices until a
           reservation ends (held + cost > limit), and then that bucket is named. A bucket it takes
           nothing from does not block it, not even in debt.
        8. Else it leaves the line and is Reserved.

        A denied call that finds its claim in line already changes nothing, so that it wakes no process.
        """
        ...

    def settle(
        self,
        lane: str,
        claim_id: str,
        requested: Units,
        used: Units,
        seen: Mapping[str, ServerLimit],
        limits: KnownLimits,
    ) -> None:
        """End a reservation whose request was, or may have been, charged. The second end does nothing.

        Args:
            lane: Of the claim.
            claim_id: Its id.
            requested: What the server charged at admission. The strict level rises by the larger of both.
            used: The truth. The credited level rises by it. Either may pass the limit (a debt).
            seen: Limits in the headers of its answer, by dimension; then, for each, as in ``Budget.observe``,
                with *since* = units that reservations charged to the strict level after this one was granted
                (this one included):
                if ``lowers``, both levels are lowered to at most limit - remaining + since, and the sum of
                what the strict one was ever lowered by is kept; *refunds_unused* is set for good when that passes
                restarts x (drain in the longest time that any reservation was open) + limit / 100, where
                *restarts* counts how often the strict level rose from zero (1 at first);
                then, always, as ``at_least`` with the bucket's limit - remaining, as old as the reservation.
                A bucket that this call brings into being begins at limit - remaining instead.
            limits: What the process goes by now, with what it learnt from this answer.
        """
        ...

    def refund(self, lane: str, claim_id: str) -> None:
        """End a claim that was certainly not charged: it leaves the line or gives its reservation back.

        Unknown or ended ones do nothing.
        """
        ...

    def charge(self, lane: str, used: Units, limits: KnownLimits) -> None:
        """Raise both levels by what was spent without asking, while the store could not be reached."""
        ...

    def hold(self, lane: str, wait_ns: int, dimension: str) -> None:
        """Grant no reservation for *wait_ns*; a longer wait that was set before stays."""
        ...

    def at_least(self, lane: str, dimension: str, used: int, age_ns: int, limits: KnownLimits) -> None:
        """Accept proof that *used* units were in use at most *age_ns* ago.

        Both levels are raised to at least used - held - what drains in *age_ns*; never lowered.
        """
        ...

    def status(self, lane: str) -> LaneStatus:
        """Return the lane's present state; changes nothing."""
        ...

    def heartbeat(self) -> None:
        """Stay alive for another ``LEASE_S``."""
        ...

    def has_changed(self) -> bool:
        """Return whether another process may have freed budget since the last ``reserve`` of this one.

        Asked at most 20 times a second, and only while a claim waits; must be cheap (no command, or one).
        """
        ...

    def reset_after_fork(self) -> None:
        """Begin anew in a forked child, as another process with another token; the parent's connection is not touched.

        No I/O: the next step connects. Raises nothing.
        """
        ...

    def close(self) -> None:
        """Let go of the store: claims in line leave it, open reservations are charged in full. Raises nothing."""
        ...


def check_address(limiter: object) -> str:
    """Return *limiter* if it may be the address of a store.

    Raises:
        ConfigurationError: It is none. Never repeats a password.
    """
    if isinstance(limiter, str) and limiter.partition(":")[0] in SCHEMES:
        return limiter
    bare = limiter.rpartition("@")[2] if isinstance(limiter, str) else limiter  # a password is before the @
    raise ConfigurationError(
        f'limiter={safe_repr(bare)}: use None for this process, "sqlite:///path" for this host, '
        'or "redis://host/0?scope=name" for many hosts'
    )


def open_store(address: str, clock: Clock) -> BudgetStore:
    """Open the store at *address*.

    Raises:
        ConfigurationError: It is no address.
        MissingExtraError: It needs a package that is not installed.
        LimiterUnavailable: It cannot be used.
    """
    if check_address(address).startswith("sqlite:"):
        from groq_queue.limiters.sqlite import SqliteBudgetStore  # here, since every store imports this file

        return SqliteBudgetStore.open(address, clock)
    module = import_module("groq_queue.limiters.redis")
    store: BudgetStore = module.RedisBudgetStore.open(address)
    return store
