"""One limit, metered: may this cost pass now, and if not, when?

The server's bucket drains continuously at ``limit / period`` and admits while
``used + requested <= limit``. Ours is its client-side twin and must never hold
less than the server's does, whatever the network delays, or the server refuses.

So a cost has two lives. From the grant until the answer it is *held*: it counts
in full and does not drain, because it is not known yet when it arrived. At the
answer it becomes *level*, which drains. Every held cost arrived no later than
its answer, hence ``held + level`` is never below the server's level: an upper
bound for any delay, any order of arrival and any idle gap. The price is one
round trip of budget per idle period.

What becomes level depends on a rule of the server that is only partly known:
it may keep the requested amount for good, or correct it to real use. Both are
metered side by side (*strict* and *credited*), and strict is believed until the
server's own headers disprove it.

Units: cost in tokens, requests or seconds of audio; time in nanoseconds of the
caller's clock. Integers only: a level is kept as an instant, multiplied by
*limit* so that no unit is ever rounded.

Source: GCRA, ITU-T I.371, virtual-scheduling form; the law and its evidence in
85 captured refusals: https://console.groq.com/docs/rate-limits, read 2026-11.
"""

from __future__ import annotations

from collections.abc import Sequence

from groq_queue.clock import NS_PER_S

_LEVELS = ("_strict", "_credited", "_asked", "_proven")
_STATE = (
    *("limit", "period_ns", "_strict", "_credited", "held"),
    *("leased", "settled", "refunded", "lowered", "restarts", "ended"),
)


class Bucket:
    """Meter of one limit; not thread-safe, the limiter that owns it locks.

    Conservation, always: ``leased == settled + refunded + held``.
    """

    __slots__ = (
        "_asked",
        "_credited",
        "_proven",
        "_strict",
        "ended",
        "held",
        "leased",
        "limit",
        "lowered",
        "period_ns",
        "refunded",
        "restarts",
        "settled",
    )

    def __init__(self, limit: int, period_s: float) -> None:
        """
        Args:
            limit: Units the bucket holds and drains in one period, >= 1.
            period_s: Seconds, > 0.
        """
        self.limit = limit
        self.period_ns = round(period_s * NS_PER_S)
        # Instants times limit at which the level is back at zero; units * period_ns of level lie between now and then.
        self._strict = 0
        self._credited = 0
        # The same of our own requests alone, whatever the server says: what they asked for, and what they used for
        # certain. Their level at the server lies between. Of this life only; neither is stored.
        self._asked = 0
        self._proven = 0
        self.held = 0
        self.leased = 0
        self.settled = 0
        self.refunded = 0
        self.lowered = 0  # units by which the server's word has lowered the strict level
        self.restarts = 1  # how often the level began anew from zero meanwhile
        self.ended = 0  # units that ended leases may have charged at the server, ever

    def state(self) -> list[int]:
        """Return everything there is to it, for ``from_state``."""
        return [getattr(self, name) for name in _STATE]

    @classmethod
    def from_state(cls, state: Sequence[int]) -> Bucket:
        """Return the bucket that ``state`` was asked of."""
        bucket = cls.__new__(cls)
        for name, value in zip(_STATE, state, strict=True):
            setattr(bucket, name, value)
        bucket._asked = bucket._proven = 0
        return bucket

    def move_by(self, shift_ns: int) -> None:
        """Go over to a clock that is ahead of the old one by *shift_ns*."""
        for name in _LEVELS:
            setattr(self, name, getattr(self, name) + shift_ns * self.limit)

    def wait_ns(self, cost: int, now_ns: int, *, refunds_unused: bool = False) -> int | None:
        """Return how long until *cost* fits if nothing else happens.

        Args:
            cost: 0 <= cost <= limit; larger ones never fit and are refused earlier.
            now_ns: The present instant.
            refunds_unused: Believe the credited level instead of the strict one.

        Returns:
            0 if it fits now, else the exact number of nanoseconds; None if no
            time suffices until an open lease ends.
        """
        excess = self._level(now_ns, refunds_unused) - (self.limit - self.held - cost) * self.period_ns
        if excess <= 0:
            return 0
        if self.held + cost > self.limit:
            return None
        return -(-excess // self.limit)

    def forecast_ns(self, units: int, now_ns: int, *, refunds_unused: bool) -> int:
        """Return how long until *units* more have fitted, if everything held becomes level meanwhile."""
        excess = self._level(now_ns, refunds_unused) - (self.limit - self.held - units) * self.period_ns
        return max(0, -(-excess // self.limit))

    def hold(self, cost: int) -> None:
        """Take *cost* into the open leases."""
        self.held += cost
        self.leased += cost

    def take(self, cost: int, now_ns: int, refunds_unused: bool) -> bool:
        """Hold *cost* if it fits now, as ``wait_ns`` tells; return whether it did."""
        room = (self.limit - self.held - cost) * self.period_ns
        level = (self._credited if refunds_unused else self._strict) - now_ns * self.limit
        if room < 0 or level > room:
            return False
        self.held += cost
        self.leased += cost
        return True

    def untake(self, cost: int) -> None:
        """Undo ``take``: no lease came of it."""
        self.held -= cost
        self.leased -= cost

    def settle(self, cost: int, requested: int, used: int, now_ns: int, *, is_proven: bool = False) -> None:
        """Turn an open lease into level.

        Args:
            cost: What was held for it.
            requested: What the server charged at admission, as far as known.
            used: What it really used; may exceed *requested* (a debt, never clamped).
            now_ns: The present instant.
            is_proven: *used* comes from an answer, so it is in use for certain.
        """
        self.held -= cost
        self.settled += cost
        base = now_ns * self.limit
        most = requested if requested > used else used
        if self._strict < base:
            self.restarts += 1
            self._strict = base
        self._strict += most * self.period_ns
        self._credited = (self._credited if self._credited > base else base) + used * self.period_ns
        self._asked = (self._asked if self._asked > base else base) + most * self.period_ns
        self.ended += most
        if is_proven:
            self._proven = (self._proven if self._proven > base else base) + used * self.period_ns

    def proven_use(self, slowest_ns: int, now_ns: int) -> int:
        """Return the units that our own requests certainly have in use; none took longer than *slowest_ns*.

        The server began to drain a request's units when it arrived, we when it was answered.
        """
        level = self._proven - (now_ns + slowest_ns) * self.limit
        return max(0, level // self.period_ns)

    def asked_for(self, now_ns: int) -> int:
        """Return the units that are in use if the server keeps all that our own requests asked for."""
        return self.held + max(0, -(-(self._asked - now_ns * self.limit) // self.period_ns))

    def forget_lowering(self, now_ns: int) -> None:
        """Undo what ``at_most`` did to the levels, up to a full bucket, and begin to count it anew."""
        full = now_ns * self.limit + self.limit * self.period_ns
        self.lowered, self.restarts = 0, 1
        self._strict = max(self._strict, min(self._asked, full))
        self.keep_proven()

    def keep_proven(self) -> None:
        """Raise the credited level to what our own requests certainly have in use."""
        self._credited = max(self._credited, self._proven)

    def refund(self, cost: int) -> None:
        """End a lease whose request was never charged."""
        self.held -= cost
        self.refunded += cost

    def used(self, now_ns: int, *, refunds_unused: bool = False) -> int:
        """Return the units in use, open leases included, rounded up; may exceed the limit."""
        return self.held + -(-self._level(now_ns, refunds_unused) // self.period_ns)

    def begin_at(self, used: int, now_ns: int) -> None:
        """Take the server's first word on a limit: *used*, to which every open lease may still be added."""
        self._strict = self._credited = now_ns * self.limit + used * self.period_ns

    def at_most(self, used: int, now_ns: int) -> None:
        """Accept proof that the server's level was no higher than *used*."""
        ceiling = now_ns * self.limit + used * self.period_ns
        self.lowered += max(0, self._strict - ceiling) // self.period_ns
        self._strict = min(self._strict, ceiling)
        self._credited = min(self._credited, ceiling)

    def was_given_back(self, slowest_ns: int) -> bool:
        """Return whether the server gives unused allowance back; no answer took longer than *slowest_ns*.

        A server that keeps what was requested drains ahead of us only while our level stands at zero and answers are
        under way: at most one slowest answer per restart. What the level was lowered by beyond that was given back.
        """
        return self.lowered > self.restarts * self.drain_of(slowest_ns) + self.limit // 100

    def at_least(self, used: int, drained_ns: int, now_ns: int) -> None:
        """Accept proof that the server's level was *used*, at most *drained_ns* ago.

        Open leases may be part of that level already, so only what they cannot
        explain is added: another program spends from the same budget.
        """
        floor = now_ns * self.limit + (used - self.held) * self.period_ns - drained_ns * self.limit
        self._strict = max(self._strict, floor)
        self._credited = max(self._credited, floor)

    def resize(self, limit: int, now_ns: int) -> None:
        """Change the limit and keep the units in use."""
        for name in _LEVELS:
            level = max(0, getattr(self, name) - now_ns * self.limit)
            setattr(self, name, now_ns * limit + level)
        self.limit = limit

    def change_period(self, period_ns: int, now_ns: int) -> None:
        """Change the time in which the bucket drains and keep the units in use."""
        for name in _LEVELS:
            level = max(0, getattr(self, name) - now_ns * self.limit)
            setattr(self, name, now_ns * self.limit + level * period_ns // self.period_ns)
        self.period_ns = period_ns

    def drain_of(self, duration_ns: int) -> int:
        """Return the units that drain in *duration_ns*, rounded up."""
        return -(-duration_ns * self.limit // self.period_ns)

    def _level(self, now_ns: int, refunds_unused: bool) -> int:
        """Return the drained level, in units times ``period_ns``."""
        return max(0, (self._credited if refunds_unused else self._strict) - now_ns * self.limit)
