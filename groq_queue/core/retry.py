"""What a failed attempt means: try again, wait for the limit, give up, or stop everything.

Decides only; waiting is ``engine``. Source of the table:
https://console.groq.com/docs/errors, read 2026-11, and captured bodies.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from groq_queue.clock import NS_PER_S
from groq_queue.core.headers import Refusal, parse_refusal
from groq_queue.errors import error_message


class Meaning(Enum):
    """What an error status says about sending the same request again."""

    RETRY = "retry"  # a passing fault, before which nothing was processed
    UNSURE = "unsure"  # a passing fault after which the request may have been processed and billed
    REFUSED = "refused"  # the limiter; not a failure, the lane waits
    FINAL = "final"  # the same request fails again
    STOP = "stop"  # every request of this key fails


# A server that says these did no work: it is full (498, 503, 529), has not taken the request (409, 425), or no server
# that could was reached (521 to 523, 525, 526 and 530, all of Cloudflare).
_NOT_PROCESSED = frozenset({409, 425, 498, 503, 521, 522, 523, 525, 526, 529, 530})
_LASTING = frozenset({501, 505})  # the 5xx that say of a request "never"
_LONGEST_BLIND_S = 60.0
_STOP_CODES = frozenset({"blocked_api_access", "organization_restricted", "invalid_api_key"})


def meaning_of(status: int, body: Any) -> tuple[Meaning, Refusal | None]:
    """Read an error status and its decoded body.

    Returns:
        The meaning, and the limiter's numbers if the body is a refusal.
    """
    code = ""
    if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping):
        code = str(body["error"].get("code") or "")
    if status == 401 or code in _STOP_CODES or (status in (400, 403) and code.startswith("spend_")):
        return Meaning.STOP, None
    refusal = parse_refusal(error_message(body)) if status in (413, 429) else None
    if status == 413 or (refusal is not None and refusal.is_too_large):
        return Meaning.FINAL, refusal
    if status == 429:
        return Meaning.REFUSED, refusal
    if status in _NOT_PROCESSED:
        return Meaning.RETRY, None
    # By rule and not by list, since proxies invent codes. Behind a gateway that gave up (408, 502, 504, 524), or in a
    # server that broke at the end (500), the work may have been done. Groq does not charge for 5xx; others do.
    if status == 408 or (500 <= status < 600 and status not in _LASTING):
        return Meaning.UNSURE, None
    return Meaning.FINAL, None


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how late a request is sent again.

    Args:
        max_retries: Further attempts after the first, >= 0.
        refusals_per_retry: How many refusals that name their wait count as one retry. They are no failures: another
            program of the organisation was faster. But a server that always refuses must not hold a lane for ever.
            With no retries at all, the first refusal is the end.
        max_unknown: Of these, how many may follow an attempt the server may have
            processed (a reset or timeout after the bytes had left, a gateway that gave
            up, a broken server), because each may be billed again.
        base_s: Upper bound of the first backoff; it doubles with each retry.
        cap_s: Largest upper bound of a backoff.
        outage_s: How long an outage may last that five retries outlive.
    """

    max_retries: int = 5
    refusals_per_retry: int = 10
    max_unknown: int = 2
    base_s: float = 0.5
    cap_s: float = 30.0
    outage_s: float = 30.0

    def may_retry(self, retries: int) -> bool:
        """Return whether a request that was retried *retries* times may be sent once more."""
        return retries < self.max_retries

    def may_ask_again(self, refusals: int) -> bool:
        """Return whether a request that was refused *refusals* times, each time with a wait, may be sent once more."""
        return refusals < self.max_retries * self.refusals_per_retry

    def may_wait_longer(self, rounds: int) -> bool:
        """Return whether a request that is out of retries may be sent again after a refusal without a wait.

        Args:
            rounds: Refused rounds of its lane since the last answer, this one included. While others are answered,
                the lane is at a limit that no answer named, and a request that was sent too early is not to blame.
        """
        return rounds <= self.max_retries

    def left(self, retries: int, unknown: int | None = None) -> int:
        """Return how many retries are left, at most 0 if none is.

        Args:
            retries: How often the request was retried.
            unknown: After an attempt that may have been billed, how many such attempts there were before it.
        """
        left = self.max_retries - retries
        return left if unknown is None else min(left, self.max_unknown - unknown)

    def backoff_ns(self, retries: int, rng: random.Random) -> int:
        """Return a full-jitter wait before retry number *retries* + 1, in nanoseconds."""
        bound_s = min(self.cap_s, self.base_s * 2.0 ** min(retries, 30))
        return round(rng.uniform(0, bound_s) * NS_PER_S)

    def outage_wait_ns(self, left: int, failing_ns: int, rng: random.Random) -> int:
        """Return how long a retry has to wait at least while no request is answered.

        Backoffs alone may be over in six seconds, and most outages last longer. So the last retry waits until
        ``outage_s`` after the first failure, the one before it until half of that, and so on. A user who sets fewer
        retries than five wants to know sooner: each one less halves it.

        Args:
            left: Retries left, this one included, >= 1.
            failing_ns: Since when attempts of this request have failed with no request answered.
            rng: Spreads those that failed together.
        """
        patience_s = self.outage_s * min(1.0, (2.0 ** min(self.max_retries, 30) - 1) / 31)
        return max(0, round(patience_s * 0.5 ** (left - 1) * rng.uniform(1.0, 1.1) * NS_PER_S) - failing_ns)

    def least_hold_ns(self, rounds: int, *, has_figures: bool) -> int:
        """Return how long to hold a lane at least that was refused with a wait, *rounds* times in a row.

        40 ms, 80 ms, and so on: the end of a "try again in 0 s". Up to a minute; or up to a second if the refusal gave
        its figures, since then another program may have been faster each time, and the waits are true.
        """
        longest_s = 1.0 if has_figures else _LONGEST_BLIND_S
        return min(round(longest_s * NS_PER_S), 10_000_000 << min(rounds, 30))

    def blind_hold_ns(self, rounds: int, rng: random.Random) -> int:
        """Return how long to hold a lane that was refused without a wait, *rounds* times in a row.

        1.5, 3.3, 7, 16, 35 s, then a minute: five of them outlast a window of a minute.
        """
        return round(min(_LONGEST_BLIND_S, 1.5 * 2.2 ** min(rounds - 1, 20)) * rng.uniform(1.0, 1.15) * NS_PER_S)


class LaneHealth:
    """What the attempts of one lane met of late: answers, and rounds of refusals.

    A round is everything that was sent before its first refusal came back: those attempts knew nothing of it, so
    together they prove no more than the first alone.

    Not thread-safe. Threads that come together blur a wait, nothing else.

    Attributes:
        rounds: Refused in a row, since the last answer to what was sent after one.
        answered_ns: When the last answer came, or None.
    """

    __slots__ = ("_newest_answered_ns", "_round_ns", "answered_ns", "rounds")

    def __init__(self) -> None:
        self.rounds = 0
        self.answered_ns: int | None = None
        self._round_ns: int | None = None  # when the first refusal of the last round came
        self._newest_answered_ns: int | None = None  # when the latest sent of the answered ones was sent

    def answered(self, sent_ns: int, now_ns: int) -> None:
        """Note the answer to an attempt."""
        self.answered_ns = now_ns
        if self._round_ns is None or sent_ns > self._round_ns:  # an older one says nothing of the present
            self.rounds = 0
        if self._newest_answered_ns is None or sent_ns > self._newest_answered_ns:
            self._newest_answered_ns = sent_ns

    def refused(self, sent_ns: int, now_ns: int) -> bool:
        """Note the refusal of an attempt; return whether it begins a round."""
        if self._round_ns is not None and sent_ns <= self._round_ns:
            return False
        self._round_ns = now_ns
        self.rounds += 1
        return True

    def has_answered_since(self, instant_ns: int) -> bool:
        """Return whether anybody was answered after an instant."""
        return self.answered_ns is not None and self.answered_ns > instant_ns

    def has_overtaken(self, sent_ns: int) -> bool:
        """Return whether an attempt that was sent later than *sent_ns* was answered."""
        return self._newest_answered_ns is not None and self._newest_answered_ns > sent_ns
