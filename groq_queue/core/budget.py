"""All limits of one model in one lease: everything is taken, or nothing.

A lease is ended exactly once: ``settle`` (the request was or may have been
charged) or ``refund`` (it was certainly not). Waiting is ``engine``; the lock is
``limiters``; metering a single limit is ``core.bucket``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from groq_queue.clock import NS_PER_S
from groq_queue.core.adaptive_rate import AdaptiveRate
from groq_queue.core.bucket import Bucket
from groq_queue.core.headers import RateHeader, Refusal
from groq_queue.core.limits import DAILY, DIMENSIONS, Limits
from groq_queue.core.token_estimate import TokenCost

_PLACES = {"RPM": 0, "RPD": 0, "TPM": 1, "TPD": 1, "ITPM": 2, "OTPM": 3, "ASPH": 4, "ASPD": 4}
"""Where ``(1, tokens, prompt, completion, audio_s)`` has what counts against a dimension."""
_TOKENS = _PLACES["TPM"]

_ENOUGH_UNITS = 100  # tokens in use from which the server's rounding to whole ones does not matter
_MINUTE_TOLERANCE = 0.03
_PROBE_NS = NS_PER_S  # a refusal comes sooner
_DISPROOFS = 2  # contradictions after which the headers of a limit lower its level no more
_DISBELIEF_PERIODS = 3
_LONGEST_HOLD_NS = 3_660_000_000_000  # an hour, as a server tells it, and a little
_HARMLESS_TOKENS = 1_000  # no published limit holds fewer than 1,200 tokens a minute


class Blocked(NamedTuple):
    """Why a lease was not granted.

    Attributes:
        reason: ``"limit"``, ``"hold"`` (the server told us to wait), ``"pace"`` (slowed
            down after failures) or ``"learning"`` (limits are unknown and a first
            request is on its way); of a shared budget also ``"behind"`` (requests of
            other processes go first), ``"asking"`` and ``"outage"``.
        wait_ns: Nanoseconds until it may fit, or None: when an open lease ends.
        dimension: The limit that binds, or that the server named, or ``""``.
        used: Units in use of that limit.
        limit: Its capacity.
    """

    reason: str
    wait_ns: int | None
    dimension: str = ""
    used: int = 0
    limit: int = 0

    @property
    def is_daily(self) -> bool:
        """Whether it is a limit per day: by its name, or since no other makes anybody wait for more than an hour."""
        is_long = self.reason == "hold" and self.wait_ns is not None and self.wait_ns > _LONGEST_HOLD_NS
        return self.dimension in DAILY or is_long

    def __str__(self) -> str:
        if self.reason == "limit":
            return f"{DIMENSIONS[self.dimension]}, {self.used:,} of {self.limit:,} used"
        if self.reason == "pace":
            return "the server to recover from failures"
        if self.reason == "behind":
            return "requests that go first"
        if self.reason == "asking":
            return "word from the shared budget"
        if self.reason == "outage":
            return "the shared budget, which cannot be reached"
        if self.reason == "hold":
            what = f" for {DIMENSIONS[self.dimension]}" if self.dimension else ""
            return f"the end of a wait the server set{what}"
        return "the first answer, which will tell the limits that are not known"


class TooLarge(NamedTuple):
    """The cost never fits: *cost* units against *capacity* of *dimension*."""

    cost: int
    capacity: int
    dimension: str


class Level(NamedTuple):
    """One limit's present state, for display."""

    dimension: str
    used: int
    limit: int
    period_s: float


class Lease:
    """Cost taken from every bucket of a budget, until it is ended."""

    __slots__ = ("cost", "granted_ns", "is_open", "parts")

    def __init__(self, cost: TokenCost, granted_ns: int, parts: list[Part]) -> None:
        self.cost = cost
        self.granted_ns = granted_ns
        self.parts = parts
        self.is_open = True


Part = tuple[str, Bucket, int, int]
"""``(dimension, bucket, units, ended before)``: what a lease holds of one bucket, and what had ended there when
it was granted. A plain tuple: one is made for each limit of each attempt."""


class Budget:
    """The limits of one model.

    A limit has up to two sources, the user and the server; the smaller one holds.

    Args:
        limits: What the user set, or None to learn from the server's answers.
        rng: Spreads attempts in time while the lane is slowed down.
    """

    def __init__(self, limits: Limits | None, rng: random.Random | None = None) -> None:
        self.pace = AdaptiveRate(rng or random.Random())
        self._own: dict[str, int] = {}  # what the user set; never loosened by the server
        self._servers: dict[str, int] = {}  # what answers and refusals named
        self._margin = 0.0
        self._reported: set[str] = set()  # dimensions whose mismatch was reported
        self._periods = Limits()
        self._minute_units = 0  # units in use when the length of the minute was read off the server, more is more exact
        self._unused = 0  # tokens that were requested and not used
        self._buckets: dict[str, Bucket] = {}
        self._dormant: dict[str, Bucket] = {}  # of limits that nobody sets for now; what they hold is not forgotten
        self._leases: set[Lease] = set()  # those still open
        self._is_learning = True
        self._is_probing = False  # a limit that nobody named was met: one attempt goes first, the others a second later
        self._probe: Lease | None = None
        self._hold_until_ns = 0
        self._hold_dimension = ""
        # By dimension: until when costs that count so many units or more have to wait.
        self._large_holds: dict[str, tuple[int, int]] = {}
        self._refunds_unused = False
        self._contradictions: dict[str, tuple[int, int]] = {}  # by dimension: how many, and when the last was seen
        self._slowest_ns = 0
        self.set_limits(limits, 0)

    def set_limits(self, limits: Limits | None, now_ns: int, margin: float = 0.0) -> None:
        """Replace what the user set; what is in use stays in use.

        Args:
            limits: The user's limits, or None.
            now_ns: The present instant.
            margin: Share of every limit, the server's too, that is left to others, 0 <= margin < 1.
        """
        self._margin = margin
        self._has_periods = limits is not None
        self._periods = limits or self._periods
        self._own = {} if limits is None else limits.by_dimension()
        # Whoever names some limits but not the tokens' will meet one that only the first answer tells.
        knows_enough = limits is not None and (not self._own or "TPM" in self._own)
        self._is_learning = self._is_learning and not knows_enough
        for name in dict.fromkeys([*self._own, *self._buckets, *self._dormant]):
            self._fit(name, now_ns)

    @property
    def open_leases(self) -> int:
        """How many leases have not ended."""
        return len(self._leases)

    def too_large(self, cost: TokenCost) -> TooLarge | None:
        """Return the first limit that *cost* exceeds even when it is full, or None."""
        prompt, completion, audio_s = cost
        units = (1, prompt + completion, prompt, completion, audio_s)  # see _PLACES
        for name, bucket in self._buckets.items():
            count = units[_PLACES[name]]
            if count > bucket.limit:
                return TooLarge(count, bucket.limit, name)
        return None

    def lease(self, cost: TokenCost, now_ns: int) -> Lease | Blocked:
        """Take *cost* from every bucket, or from none.

        Args:
            cost: Fits every capacity (see ``too_large``).
            now_ns: The present instant.

        Returns:
            An open lease, or what blocks it longest.
        """
        pace = self.pace
        if (
            now_ns < self._hold_until_ns
            or (self._is_learning and self._leases and not self._is_harmless(cost))
            or (pace.rate is not None and pace.wait_ns(now_ns))
            or (self._is_probing and self._probe_wait_ns(now_ns))
            or (self._large_holds and self._large_hold(cost, now_ns))
        ):
            return self._what_blocks(cost, now_ns)
        prompt, completion, audio_s = cost
        units = (1, prompt + completion, prompt, completion, audio_s)  # see _PLACES
        parts: list[Part] = []
        for name, bucket in self._buckets.items():
            count = units[_PLACES[name]]
            if not bucket.take(count, now_ns, self._refunds_unused):
                for _, taken, held, _ in parts:
                    taken.untake(held)
                return self._what_blocks(cost, now_ns)
            parts.append((name, bucket, count, bucket.ended))
        pace.sends_ns.append(now_ns)
        if pace.rate is not None:
            pace.sent(now_ns)
        lease = Lease(cost, now_ns, parts)
        self._leases.add(lease)
        if self._is_probing:
            self._is_probing = self._probe is None or not self._probe.is_open
            self._probe = lease
        return lease

    def blocks(self, cost: TokenCost, now_ns: int) -> Blocked | None:
        """Return what would block *cost* longest, or None if it would pass."""
        if now_ns < self._hold_until_ns:
            return Blocked("hold", self._hold_until_ns - now_ns, self._hold_dimension)
        if self._large_holds and (held := self._large_hold(cost, now_ns)):
            return held
        if self._is_learning and self._leases and not self._is_harmless(cost):
            return Blocked("learning", None)
        if self._is_probing and (probe_ns := self._probe_wait_ns(now_ns)):
            return Blocked("learning", probe_ns)
        pace_ns = self.pace.wait_ns(now_ns)
        blocked = Blocked("pace", pace_ns) if pace_ns else None
        costs = {name: cost.units(name) for name in self._buckets}
        return longest_wait(self._buckets, costs, now_ns, refunds_unused=self._refunds_unused, besides=blocked)

    def settle(
        self, lease: Lease, requested: TokenCost, used: TokenCost, now_ns: int, *, is_proven: bool = False
    ) -> None:
        """End *lease*: the server charged *requested*, and *used* is the truth. A second end does nothing.

        Args:
            lease: Of the attempt.
            requested: What was counted at admission, as far as known.
            used: What was really used, as far as known.
            now_ns: The present instant.
            is_proven: An answer told *used*, so that headers which tell of less are known to be wrong.
        """
        if not lease.is_open:
            return
        lease.is_open = False
        self._leases.discard(lease)
        took_ns = now_ns - lease.granted_ns
        if took_ns > self._slowest_ns:
            self._slowest_ns = took_ns
        prompt, completion, audio_s = requested
        asked = (1, prompt + completion, prompt, completion, audio_s)  # see _PLACES
        prompt, completion, audio_s = used
        spent = (1, prompt + completion, prompt, completion, audio_s)
        unused = asked[_TOKENS] - spent[_TOKENS]
        if unused > 0:
            self._unused += unused
        for name, bucket, units, _ in lease.parts:
            place = _PLACES[name]
            bucket.settle(units, asked[place], spent[place], now_ns, is_proven=is_proven)

    def refund(self, lease: Lease) -> None:
        """End *lease*: nothing was charged. A second end does nothing."""
        if not lease.is_open:
            return
        lease.is_open = False
        self._leases.discard(lease)
        for _, bucket, units, _ in lease.parts:
            bucket.refund(units)

    def observe(self, lease: Lease, seen: Iterable[RateHeader], now_ns: int) -> list[str]:
        """Take the headers of a successful answer to the settled *lease* as truth.

        Their level was read between the grant and now. So the server cannot hold
        more than it says plus what leases that ended since the grant may have
        added; and not less than it says minus what has drained since.

        Returns:
            Notices for the user, each told once.
        """
        notices: list[str] = []
        if self._contradictions:
            self._forget_contradictions(now_ns)
        for header in seen:
            if header.dimension == "TPM" and not self._own:
                self._measure_minute(header.limit, header.limit - header.remaining, header.reset_ns, now_ns)
            if self._servers.get(header.dimension) == header.limit:
                bucket = self._buckets[header.dimension]
            else:
                bucket = self._learn(header.dimension, header.limit, now_ns, notices)
            ended_before = None
            for name, _, _, ended in lease.parts:
                if name == header.dimension:
                    ended_before = ended
            if ended_before is None:  # learnt from this very answer
                bucket.begin_at(bucket.limit - header.remaining, now_ns)
                continue
            if self.may_be_lowered(header.dimension, header.limit):
                since = bucket.ended - ended_before
                most = header.limit - header.remaining + since
                if most + _ENOUGH_UNITS < bucket.proven_use(self._slowest_ns, now_ns):
                    self._contradicted(header.dimension, lease, now_ns)
                    continue
                bucket.at_most(most, now_ns)
                if bucket.lowered and not self._refunds_unused:
                    self._refunds_unused = bucket.was_given_back(self._slowest_ns)
            bucket.at_least(bucket.limit - header.remaining, now_ns - lease.granted_ns, now_ns)
        self._is_learning = False
        if lease is self._probe:
            self._is_probing, self._probe = False, None
        if self.pace.failures or self.pace.rate is not None:
            self.pace.answered()
        return notices

    def refused(self, lease: Lease, refusal: Refusal | None, wait_ns: int, now_ns: int) -> list[str]:
        """End *lease* by the server's refusal and hold everybody for *wait_ns*.

        A refusal for a limit per day that tells how much is left holds only costs that are as large: to wait for hours
        because of one large request would waste what is left.

        Args:
            lease: Of the refused request; a refusal charges nothing.
            refusal: The numbers of the message, if it had any.
            wait_ns: How long nothing more may be sent.
            now_ns: The present instant.

        Returns:
            Notices for the user, each told once.
        """
        self.refund(lease)
        notices: list[str] = []
        if refusal is not None and refusal.dimension and refusal.limit:
            if refusal.dimension.endswith("TPM") and refusal.used is not None and refusal.requested:
                excess = refusal.used + refusal.requested - refusal.limit
                self._measure_minute(refusal.limit, excess, refusal.wait_ns, now_ns)
            bucket = self._learn(refusal.dimension, refusal.limit, now_ns, notices)
            if refusal.used is not None:
                left = refusal.limit - refusal.used
                bucket.at_least(bucket.limit - left, now_ns - lease.granted_ns, now_ns)
        for name in self._buckets if refusal is None or not refusal.dimension else (refusal.dimension,):
            self._doubt(name, lease, refusal, now_ns)
        self._is_learning = False
        self._is_probing = refusal is None or refusal.wait_ns is None
        if refusal is None and now_ns >= self._hold_until_ns:  # those sent before the first one came back say no more
            self.pace.refused(now_ns)
        if refusal is not None and not holds_everybody(refusal):
            priced = lease.cost.units(refusal.dimension)
            units = (refusal.requested if refusal.dimension == "TPD" else None) or priced  # see ``pricing.corrected``
            self._large_holds[refusal.dimension] = (now_ns + wait_ns, units)
        elif now_ns + wait_ns > self._hold_until_ns:
            self._hold_until_ns = now_ns + wait_ns
            self._hold_dimension = "" if refusal is None else refusal.dimension
        return notices

    def pause(self, wait_ns: int, now_ns: int) -> None:
        """Hold everybody for *wait_ns*, by the wish of a server that fails; a longer hold set before stays."""
        if now_ns + wait_ns > self._hold_until_ns:
            self._hold_until_ns, self._hold_dimension = now_ns + wait_ns, ""

    @property
    def refunds_unused(self) -> bool:
        """Whether the server was seen to give unused allowance back."""
        return self._refunds_unused

    @property
    def expects_refunds(self) -> bool:
        """Whether unused allowance will probably come back; good enough to foretell, not to send by."""
        lowered = self._buckets["TPM"].lowered if "TPM" in self._buckets else 0
        return self._refunds_unused or self._unused < 4 * lowered or "TPM" not in self._buckets

    def assume_refunds(self) -> None:
        """Take it from others who share the budget that the server gives unused allowance back."""
        self._refunds_unused = not self._is_disproved("TPM")

    def capacities(self) -> dict[str, tuple[int, int]]:
        """Return ``{dimension: (limit, period_ns)}``, as large as they are usable."""
        return {name: (bucket.limit, bucket.period_ns) for name, bucket in self._buckets.items()}

    def may_be_lowered(self, name: str, limit: int) -> bool:
        """Return whether a server with that *limit* may lower our level.

        The user set none that is smaller, so that we count in the server's bucket; and it was not caught telling
        less than our own requests use.
        """
        if self._contradictions and self._is_disproved(name):
            return False
        return self._own.get(name, limit) >= limit

    def held(self) -> TokenCost:
        """Return what all open leases hold together."""
        costs = [lease.cost for lease in self._leases]
        return TokenCost(*(sum(parts) for parts in zip(*costs, strict=True))) if costs else TokenCost(0)

    def forecast(
        self, requests: int, ahead: TokenCost, cost: TokenCost, surplus: float, flight_ns: int, now_ns: int
    ) -> int:
        """Return the nanoseconds until *cost* will pass if *requests* of *ahead* in all go first.

        Args:
            requests: How many go first.
            ahead: What they and the open leases will have cost in the end, less what the open leases hold.
            cost: Of the request itself.
            surplus: How much more than its real cost an attempt holds while it is under way, as a share.
            flight_ns: How long an attempt takes.
            now_ns: The present instant.
        """
        wait_ns = max(0, self._hold_until_ns - now_ns)
        if self._large_holds and (held := self._large_hold(cost, now_ns)):
            wait_ns = max(wait_ns, held.wait_ns or 0)
        for name, bucket in self._buckets.items():
            if name in ("RPM", "RPD"):
                units = requests + 1
            else:
                units = ahead.units(name) + cost.units(name) + int(bucket.drain_of(flight_ns) * surplus)
            wait_ns = max(wait_ns, bucket.forecast_ns(units, now_ns, refunds_unused=self._refunds_unused))
        return wait_ns

    def levels(self, now_ns: int) -> list[Level]:
        """Return every limit's present state."""
        return levels_of(self._buckets, now_ns, refunds_unused=self._refunds_unused)

    def begin(self, name: str, limit: int, period_ns: int, used: int, age_ns: int, now_ns: int) -> None:
        """Take over how full the bucket *name* was at the end of an earlier life.

        A limit that nobody knows yet in this life blocks nobody; its level waits until somebody names it.

        Args:
            name: Its dimension.
            limit: Units it held then.
            period_ns: Time in which these drain.
            used: Units in use then.
            age_ns: How long ago that was.
            now_ns: The present instant.
        """
        left = used - max(0, age_ns) * limit // period_ns
        if left > 0:
            bucket = self._buckets.get(name)
            if bucket is None:
                bucket = self._dormant.setdefault(name, Bucket(limit, period_ns / NS_PER_S))
            bucket.at_least(left, 0, now_ns)

    def accounting(self) -> dict[str, tuple[int, int, int, int]]:
        """Return ``{dimension: (leased, settled, refunded, open)}``, in units."""
        return {name: (b.leased, b.settled, b.refunded, b.held) for name, b in self._buckets.items()}

    def _what_blocks(self, cost: TokenCost, now_ns: int) -> Blocked:
        """Return what blocks a *cost* that does not pass."""
        blocked = self.blocks(cost, now_ns)
        assert blocked is not None
        return blocked

    def _large_hold(self, cost: TokenCost, now_ns: int) -> Blocked | None:
        """Return the wait for a limit per day that the server set for costs as large as *cost*, or None."""
        for name, (until_ns, units) in list(self._large_holds.items()):
            if until_ns <= now_ns:
                del self._large_holds[name]
            elif cost.units(name) >= units:
                bucket = self._buckets[name]
                used = bucket.used(now_ns, refunds_unused=self._refunds_unused)
                return Blocked("limit", until_ns - now_ns, name, used, bucket.limit)
        return None

    def _probe_wait_ns(self, now_ns: int) -> int:
        """Return how long others have to wait for what becomes of the probe."""
        probe = self._probe
        return 0 if probe is None or not probe.is_open else max(0, probe.granted_ns + _PROBE_NS - now_ns)

    def _is_harmless(self, cost: TokenCost) -> bool:
        """Return whether *cost* may join a probe: the user named the limit of requests, and no other is as small."""
        return "RPM" in self._own and self.held().tokens + cost.tokens <= _HARMLESS_TOKENS

    def _is_disproved(self, name: str) -> bool:
        return name in self._contradictions and self._contradictions[name][0] >= _DISPROOFS

    def _doubt(self, name: str, lease: Lease, refusal: Refusal | None, now_ns: int) -> None:
        """Hold a refusal against the headers that had lowered a level, if our own requests explain all of it.

        It is then as high as what they asked for: nothing was given back, and nobody else spends.
        """
        bucket = self._buckets.get(name)
        if bucket is None or not bucket.lowered:
            return
        asked = bucket.asked_for(now_ns)
        if refusal is not None and refusal.used is not None:
            is_explained = abs(asked - refusal.used) <= bucket.limit // 10
        else:
            is_explained = bucket.limit < asked + lease.cost.units(name) <= bucket.limit * 5 // 4
        if is_explained:
            self._contradicted(name, lease, now_ns)

    def _contradicted(self, name: str, lease: Lease, now_ns: int) -> None:
        """Note that the headers of *name* tell less than is in use; those of one moment count once."""
        count, seen_ns = self._contradictions.get(name, (0, 0))
        if count and lease.granted_ns <= seen_ns:
            return
        bucket = self._buckets[name]
        if bucket.limit != self._servers.get(name):
            return  # with a margin we drain more slowly than the server, and prove nothing
        if bucket.asked_for(now_ns) - bucket.held > bucket.limit * 5 // 4:
            bucket.keep_proven()
            return  # more than a server that gives nothing back could hold: it does give back
        self._contradictions[name] = (count + 1, now_ns)
        bucket.forget_lowering(now_ns)
        if name == "TPM":
            self._refunds_unused = False  # until headers that are not contradicted show it again

    def _forget_contradictions(self, now_ns: int) -> None:
        """Believe headers again that were not contradicted for three periods: a program beside us may have been why."""
        for name, (_, seen_ns) in list(self._contradictions.items()):
            if now_ns - seen_ns > _DISBELIEF_PERIODS * self._buckets[name].period_ns:
                del self._contradictions[name]

    def _learn(self, name: str, limit: int, now_ns: int, notices: list[str]) -> Bucket:
        """Note the server's *limit* and return its bucket."""
        if self._servers.get(name) != limit:
            self._servers[name] = limit
            own = self._own.get(name, limit)
            if own != limit and name not in self._reported:
                self._reported.add(name)
                notices.append(
                    f"{DIMENSIONS[name]}: the server's limit is {limit:,}, yours is {own:,}; "
                    f"keeping {min(own, limit):,}"
                )
            self._fit(name, now_ns)
        return self._buckets[name]

    def _measure_minute(self, limit: int, units: int, drain_ns: int | None, now_ns: int) -> None:
        """Read the length of a "minute" off the server: *units* of *limit* drain in *drain_ns*.

        Simulators have shorter ones. Whoever set limits has set their periods too.
        """
        if self._own or self._has_periods or not drain_ns or units < max(_ENOUGH_UNITS, self._minute_units + 1):
            return
        minute_s = drain_ns * limit / (units - 1) / NS_PER_S  # units are rounded up; a minute too long is the safe side
        self._minute_units = units
        if abs(minute_s / 60 - 1) < _MINUTE_TOLERANCE:
            minute_s = 60
        if minute_s == self._periods.minute_s or not 1e-3 <= minute_s <= 1e9:
            return
        self._periods = replace(self._periods, minute_s=minute_s)
        for name, bucket in self._buckets.items():
            if name.endswith("PM"):
                bucket.change_period(round(minute_s * NS_PER_S), now_ns)

    def _usable(self, limits: Iterable[int]) -> int:
        return max(1, int(min(limits) * (1 - self._margin)))

    def _fit(self, name: str, now_ns: int) -> None:
        """Make the bucket of *name* as large as the smaller of its sources."""
        limits = [source[name] for source in (self._own, self._servers) if name in source]
        known = self._buckets.get(name) or self._dormant.pop(name, None)
        if not limits:
            if known is not None:
                self._buckets.pop(name, None)
                self._dormant[name] = known
        elif known is not None:
            known.resize(self._usable(limits), now_ns)
            self._buckets[name] = known
        else:
            bucket = self._buckets[name] = Bucket(self._usable(limits), self._periods.period_s(name))
            for lease in self._leases:
                units = lease.cost.units(name)
                bucket.hold(units)
                lease.parts.append((name, bucket, units, bucket.ended))


# The same law for a budget that a process holds and for the state that a store holds (``limiters.lane_state``).


def exceeded(limits: Mapping[str, int], costs: Mapping[str, int]) -> TooLarge | None:
    """Return the first of *limits* that one of *costs*, both in units by dimension, passes even when it is full."""
    for name, limit in limits.items():
        if costs.get(name, 0) > limit:
            return TooLarge(costs[name], limit, name)
    return None


def longest_wait(
    buckets: Mapping[str, Bucket],
    costs: Mapping[str, int],
    now_ns: int,
    *,
    refunds_unused: bool,
    besides: Blocked | None = None,
) -> Blocked | None:
    """Return the limit that has *costs*, in units by dimension, wait longest; *besides* if that is longer, or None.

    A dimension with a cost of 0 waits while its limit is in debt; one that *costs* does not name never waits.
    """
    blocked = besides
    for name, bucket in buckets.items():
        wait_ns = bucket.wait_ns(costs[name], now_ns, refunds_unused=refunds_unused) if name in costs else 0
        if wait_ns == 0:
            continue
        if blocked is None or wait_ns is None or (blocked.wait_ns is not None and wait_ns > blocked.wait_ns):
            used = bucket.used(now_ns, refunds_unused=refunds_unused)
            blocked = Blocked("limit", wait_ns, name, used, bucket.limit)
            if wait_ns is None:
                break
    return blocked


def levels_of(buckets: Mapping[str, Bucket], now_ns: int, *, refunds_unused: bool) -> list[Level]:
    """Return the present state of every limit."""
    return [
        Level(name, bucket.used(now_ns, refunds_unused=refunds_unused), bucket.limit, bucket.period_ns / NS_PER_S)
        for name, bucket in buckets.items()
    ]


def holds_everybody(refusal: Refusal) -> bool:
    """Return whether nothing may be sent during the wait of *refusal*, however small it is."""
    return refusal.dimension not in DAILY or not refusal.limit or refusal.used is None
