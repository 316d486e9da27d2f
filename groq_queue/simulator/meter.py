"""The law of the server: levels that drain all the time, checked all at once.

This room counts and never acts: no clock, no lock, no network. The caller says
what time it is and keeps two threads from counting at once.

Units: cost in requests, tokens or seconds of audio; time in nanoseconds. A level
is kept as units * period_ns and falls by *limit* each nanosecond, so everything
is an integer and a quoted wait is enough to the nanosecond, and no more.

Source: 85 refusals seen in public, of which 82 fit this arithmetic (Groq, 2024-04
to 2026-10); names of dimensions as in the bodies of those refusals.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

NS_PER_S = 1_000_000_000


class CallCost(NamedTuple):
    """What one call takes from each kind of bucket; differences may be negative."""

    requests: int = 0
    tokens: int = 0
    prompt: int = 0
    completion: int = 0
    seconds: int = 0


@dataclass(frozen=True)
class Dimension:
    """One of the eight things a provider counts."""

    name: str
    text: str  # as the refusals spell it
    limit_field: str
    period_field: str
    unit: int  # index into Cost
    kind: str  # the "type" of a refusal


DIMENSIONS = {
    dimension.name: dimension
    for dimension in (
        Dimension("RPM", "requests per minute (RPM)", "rpm", "minute_s", 0, "requests"),
        Dimension("RPD", "requests per day (RPD)", "rpd", "day_s", 0, "requests"),
        Dimension("TPM", "tokens per minute (TPM)", "tpm", "minute_s", 1, "tokens"),
        Dimension("TPD", "tokens per day (TPD)", "tpd", "day_s", 1, "tokens"),
        Dimension("ITPM", "input tokens per minute (ITPM)", "itpm", "minute_s", 2, "tokens"),
        Dimension("OTPM", "output tokens per minute (OTPM)", "otpm", "minute_s", 3, "tokens"),
        Dimension("ASPH", "seconds of audio per hour (ASPH)", "audio_hour", "hour_s", 4, "seconds"),
        Dimension("ASPD", "seconds of audio per day (ASPD)", "audio_day", "day_s", 4, "seconds"),
    )
}


class SimulatedBucket:
    """The level of one dimension; it may stand above its limit (a debt)."""

    __slots__ = ("_at_ns", "_level", "_period_ns", "dimension", "limit")

    def __init__(self, dimension: Dimension, limit: int, period_ns: int) -> None:
        self.dimension = dimension
        self.limit = limit
        self._period_ns = period_ns
        self._level = 0  # units * period_ns
        self._at_ns = 0

    def drain(self, now_ns: int) -> None:
        """Bring the level to *now_ns*; an earlier instant than the last changes nothing."""
        if now_ns > self._at_ns:
            self._level = max(0, self._level - (now_ns - self._at_ns) * self.limit)
            self._at_ns = now_ns

    def wait_ns(self, cost: int) -> int:
        """Return nanoseconds until *cost* fits, 0 if it fits now; exact, not rounded level."""
        over = self._level + (cost - self.limit) * self._period_ns
        return -(-over // self.limit) if over > 0 else 0

    def add(self, units: int) -> None:
        """Raise the level by *units*, or lower it (never below empty) if negative."""
        self._level = max(0, self._level + units * self._period_ns)

    @property
    def used(self) -> int:
        """The level in whole units, rounded up, as refusals show it."""
        return -(-self._level // self._period_ns)

    @property
    def remaining(self) -> int:
        """What headers call remaining: never negative, whatever the debt."""
        return max(0, self.limit - self.used)

    @property
    def full_in_ns(self) -> int:
        """What headers call reset: nanoseconds until nothing is used any more."""
        return -(-self._level // self.limit)


@dataclass(frozen=True)
class SimulatedRefusal:
    """Why a call was not admitted. ``wait_ns`` is None if no wait can help."""

    dimension: Dimension
    limit: int
    used: int
    requested: int
    wait_ns: int | None

    @property
    def status(self) -> int:
        """The HTTP status: 413 for what never fits, except that OTPM says 429."""
        return 413 if self.wait_ns is None and self.dimension.name != "OTPM" else 429

    def message(self, model: str, organization: str, tier: str) -> str:
        """Return the sentence of the error body, figures included."""
        where = f"for model `{model}` in organization `{organization}` service tier `{tier}` on {self.dimension.text}"
        if self.wait_ns is not None:
            # The tail says "today" and "billing" on purpose: the real one does, and parsers have tripped over it.
            return (
                f"Rate limit reached {where}: Limit {self.limit}, Used {self.used}, Requested {self.requested}. "
                f"Please try again in {go_duration(self.wait_ns)}. "
                "Higher limits can be had today at https://console.groq.com/settings/billing"
            )
        if self.dimension.name == "OTPM":
            cure = "The request's expected output tokens exceed this limit; lower max_completion_tokens and try again."
        else:
            cure = "please reduce your message size and try again."
        stop = "." if self.dimension.name == "OTPM" else ","
        return f"Request too large {where}: Limit {self.limit}, Requested {self.requested}{stop} {cure}"


class SimulatedBudget:
    """All the buckets of one model, charged together or not at all. Not thread-safe."""

    def __init__(self, limits: object) -> None:
        self.buckets = list(_buckets_of(limits))
        self._by_name = {bucket.dimension.name: bucket for bucket in self.buckets}

    def admit(self, now_ns: int, ask: CallCost, charge: CallCost | None = None) -> SimulatedRefusal | None:
        """Charge *charge* (default: *ask*) if *ask* fits every bucket, else charge nothing.

        A bucket the call takes nothing from cannot refuse it, not even in debt.

        Returns:
            None if admitted, else the refusal: a size that never fits comes first,
            then the dimension with the longest wait.
        """
        refusal = None
        longest_ns = 0
        for bucket in self.buckets:
            cost = ask[bucket.dimension.unit]
            if cost > bucket.limit:
                return SimulatedRefusal(bucket.dimension, bucket.limit, 0, cost, None)
            bucket.drain(now_ns)
            if cost and (wait_ns := bucket.wait_ns(cost)) > longest_ns:
                longest_ns = wait_ns
                refusal = SimulatedRefusal(bucket.dimension, bucket.limit, bucket.used, cost, wait_ns)
        if refusal is None:
            self.add(now_ns, ask if charge is None else charge)
        return refusal

    def add(self, now_ns: int, difference: CallCost) -> None:
        """Correct the levels by *difference*: upwards into debt, downwards never below empty."""
        for bucket in self.buckets:
            if units := difference[bucket.dimension.unit]:
                bucket.drain(now_ns)
                bucket.add(units)

    def find(self, name: str, now_ns: int) -> SimulatedBucket | None:
        """Return the bucket of dimension *name* as of *now_ns*, None if it is not metered."""
        bucket = self._by_name.get(name)
        if bucket is not None:
            bucket.drain(now_ns)
        return bucket


def _buckets_of(limits: object) -> Iterable[SimulatedBucket]:
    for dimension in DIMENSIONS.values():
        limit = getattr(limits, dimension.limit_field, None)
        if limit is None:
            continue
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise ValueError(
                f"{dimension.limit_field}={limit!r:.100}: give a whole number from 1 up, or None for no limit"
            )
        period_s = getattr(limits, dimension.period_field)
        if not isinstance(period_s, (int, float)) or not 0 < period_s < float("inf"):
            raise ValueError(
                f"{dimension.period_field}={period_s!r}: give the length of the period in seconds, above 0"
            )
        yield SimulatedBucket(dimension, limit, max(1, round(period_s * NS_PER_S)))


def go_duration(ns: int) -> str:
    """Write *ns* (0 or more) as Go writes a duration.

    >>> [go_duration(n) for n in (0, 240_000, 585_000_000, 2_764_800_000_000)]
    ['0s', '240µs', '585ms', '46m4.8s']
    """
    if ns == 0:
        return "0s"
    if ns < 1_000:
        return f"{ns}ns"
    if ns < 1_000_000:
        return _decimal(ns, 3) + "µs"
    if ns < NS_PER_S:
        return _decimal(ns, 6) + "ms"
    minutes, rest = divmod(ns, 60 * NS_PER_S)
    seconds = _decimal(rest, 9) + "s"
    if not minutes:
        return seconds
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}" if hours else f"{minutes}m{seconds}"


def _decimal(value: int, places: int) -> str:
    whole, rest = divmod(value, 10**places)
    return f"{whole}.{rest:0{places}d}".rstrip("0") if rest else str(whole)
