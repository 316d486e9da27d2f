"""One lane's buckets as a store keeps them: the arithmetic of ``core.budget`` on state that is loaded from a store.

This room decides and never acts. Whoever keeps the store loads the lane's state, lets
them decide, and stores them again, all in one step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from groq_queue.core.bucket import Bucket
from groq_queue.core.budget import Blocked, TooLarge, exceeded, levels_of, longest_wait
from groq_queue.limiters.store import KnownLimits, LaneStatus, ServerLimit, Units

_TURN = 1 << 20  # virtual time of a turn of cost 1 at weight 1


class Reservation(NamedTuple):
    """A claim that was granted and has not ended.

    Attributes:
        granted_ns: When.
        cost: What it holds, by dimension.
        ended: What had ended by then in each bucket there was.
    """

    granted_ns: int
    cost: Units
    ended: Mapping[str, int]


class LaneState:
    """The state of one lane.

    Args:
        state: What ``state`` returned, or None for a lane nobody has used.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self.buckets = {name: Bucket.from_state(numbers) for name, numbers in state.get("buckets", {}).items()}
        self.hold_until_ns: int = state.get("hold_until_ns", 0)
        self.hold_dimension: str = state.get("hold_dimension", "")
        self.refunds_unused: bool = state.get("credits", False)
        self.slowest_ns: int = state.get("slowest_ns", 0)
        self._turns: dict[str, int] = dict(state.get("turns", {}))  # by priority: the largest tag granted

    def state(self) -> dict[str, Any]:
        """Return everything, as JSON can hold it."""
        return {
            "buckets": {name: bucket.state() for name, bucket in self.buckets.items()},
            "hold_until_ns": self.hold_until_ns,
            "hold_dimension": self.hold_dimension,
            "credits": self.refunds_unused,
            "slowest_ns": self.slowest_ns,
            "turns": self._turns,
        }

    def move_by(self, shift_ns: int) -> None:
        """Go over to a clock that is ahead of the old one by *shift_ns*."""
        self.hold_until_ns += shift_ns
        for bucket in self.buckets.values():
            bucket.move_by(shift_ns)

    def differs_from(self, limits: KnownLimits) -> bool:
        """Return whether ``fit`` would change something."""
        return any(
            name not in self.buckets or (self.buckets[name].limit, self.buckets[name].period_ns) != known
            for name, known in limits.items()
        )

    def fit(self, limits: KnownLimits, held: Iterable[Units], now_ns: int) -> set[str]:
        """Make the buckets as large as *limits* say; those that are new hold what the open reservations cost.

        Returns:
            The dimensions that are new.
        """
        costs = list(held)
        new = set()
        for name, (limit, period_ns) in limits.items():
            bucket = self.buckets.get(name)
            if bucket is None:
                bucket = self.buckets[name] = Bucket(limit, 1)
                bucket.period_ns = period_ns
                bucket.hold(sum(cost.get(name, 0) for cost in costs))
                new.add(name)
                continue
            if bucket.limit != limit:
                bucket.resize(limit, now_ns)
            if bucket.period_ns != period_ns:
                bucket.change_period(period_ns, now_ns)
        return new

    # -- granting

    def turn(self, priority: int, end: int, turn_cost: int, weight: float) -> tuple[int, int]:
        """Return the tag of a client's next turn, and where it ends; *end* is that of its last one, or 0."""
        tag = max(self._turns.get(str(priority), 0), end)
        return tag, tag + max(1, int(turn_cost * _TURN / weight))

    def turn_now(self, priority: int) -> int:
        """Return the largest tag granted; a client whose last turn ended before is owed nothing."""
        return self._turns.get(str(priority), 0)

    def too_large(self, cost: Units) -> TooLarge | None:
        """Return the first limit that *cost* exceeds even when it is full, or None."""
        return exceeded({name: bucket.limit for name, bucket in self.buckets.items()}, cost)

    def holds_until(self, now_ns: int) -> Blocked | None:
        """Return the pause that the server set, if it is not over."""
        if now_ns < self.hold_until_ns:
            return Blocked("hold", self.hold_until_ns - now_ns, self.hold_dimension)
        return None

    def blocks(self, cost: Units, now_ns: int) -> Blocked | None:
        """Return the limit that blocks *cost* longest, or None."""
        taken = {name: units for name, units in cost.items() if units}  # the others do not wait, not even in debt
        return longest_wait(self.buckets, taken, now_ns, refunds_unused=self.refunds_unused)

    def grant(self, cost: Units, priority: int, tag: int, now_ns: int) -> Reservation:
        """Hold *cost* in every bucket."""
        for name, bucket in self.buckets.items():
            bucket.hold(cost.get(name, 0))
        self._turns[str(priority)] = max(tag, self.turn_now(priority))
        return Reservation(now_ns, cost, {name: bucket.ended for name, bucket in self.buckets.items()})

    # -- ends

    def settle(self, ended: Reservation, requested: Units, used: Units, now_ns: int) -> None:
        """Turn what a reservation holds into level."""
        self.slowest_ns = max(self.slowest_ns, now_ns - ended.granted_ns)
        for name, bucket in self.buckets.items():
            cost = ended.cost.get(name, 0)
            if cost or requested.get(name, 0) or used.get(name, 0):
                bucket.settle(cost, requested.get(name, 0), used.get(name, 0), now_ns)

    def expire(self, ended: Reservation, now_ns: int) -> None:
        """Charge a reservation in full, strict and credited, because nobody will tell its truth."""
        for name, bucket in self.buckets.items():
            cost = ended.cost.get(name, 0)
            if cost:
                bucket.settle(cost, cost, cost, now_ns)

    def refund(self, ended: Reservation) -> None:
        """Give back what a reservation holds."""
        for name, bucket in self.buckets.items():
            bucket.refund(ended.cost.get(name, 0))

    def charge(self, used: Units, now_ns: int) -> None:
        """Raise the levels by what was spent without asking."""
        for name, bucket in self.buckets.items():
            units = used.get(name, 0)
            if units:
                bucket.settle(0, units, units, now_ns)

    def observe(self, ended: Reservation, seen: Mapping[str, ServerLimit], new: set[str], now_ns: int) -> None:
        """Take the headers of an answer to the settled *ended* as truth; see ``BudgetStore.settle``."""
        for name, header in seen.items():
            bucket = self.buckets.get(name)
            if bucket is None:
                continue
            if name in new:
                bucket.begin_at(bucket.limit - header.remaining, now_ns)
                continue
            if header.lowers:
                since = bucket.ended - ended.ended.get(name, 0)
                bucket.at_most(header.limit - header.remaining + since, now_ns)
                self.refunds_unused = self.refunds_unused or bucket.was_given_back(self.slowest_ns)
            bucket.at_least(bucket.limit - header.remaining, now_ns - ended.granted_ns, now_ns)

    def at_least(self, dimension: str, used: int, age_ns: int, now_ns: int) -> None:
        """Accept proof that *used* units were in use at most *age_ns* ago."""
        bucket = self.buckets.get(dimension)
        if bucket is not None:
            bucket.at_least(used, age_ns, now_ns)

    def hold(self, wait_ns: int, dimension: str, now_ns: int) -> None:
        """Let nobody pass for *wait_ns*, unless a longer wait was set before."""
        if now_ns + wait_ns > self.hold_until_ns:
            self.hold_until_ns, self.hold_dimension = now_ns + wait_ns, dimension

    def status(self, processes: int, now_ns: int) -> LaneStatus:
        """Return the present state of every limit."""
        levels = levels_of(self.buckets, now_ns, refunds_unused=self.refunds_unused)
        return LaneStatus(levels, self.refunds_unused, max(1, processes), max(0, self.hold_until_ns - now_ns))
