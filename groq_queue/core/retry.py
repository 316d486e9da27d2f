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

from groq_queue.core.headers import Refusal, parse_refusal
from groq_queue.errors import APIConnectionError, error_message


class Meaning(Enum):
    """What an error status says about sending the same request again."""

    RETRY = "retry"  # a passing fault
    REFUSED = "refused"  # the limiter; not a failure, the lane waits
    FINAL = "final"  # the same request fails again
    STOP = "stop"  # every request of this key fails


_RETRY = frozenset({408, 409, 425, 429, 498, 500, 502, 503, 504, *range(520, 530)})
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
    return (Meaning.RETRY if status in _RETRY else Meaning.FINAL), None


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how late a request is sent again.

    Args:
        max_retries: Further attempts after the first, >= 0.
        refusals_per_retry: How many refusals that name their wait count as one retry. They are no failures: another
            program of the organisation was faster. But a server that always refuses must not hold a lane for ever.
            Without retries as many are allowed as with one.
        max_unknown: Of these, how many may follow an attempt the server may have
            processed (a reset or timeout after the bytes had left), because each
            may be billed again.
        base_s: Upper bound of the first backoff; it doubles with each retry.
        cap_s: Largest upper bound of a backoff.
    """

    max_retries: int = 5
    refusals_per_retry: int = 10
    max_unknown: int = 2
    base_s: float = 0.5
    cap_s: float = 30.0

    def may_retry(self, retries: int) -> bool:
        """Return whether a request that was retried *retries* times may be sent once more."""
        return retries < self.max_retries

    def may_ask_again(self, refusals: int) -> bool:
        """Return whether a request that was refused *refusals* times, each time with a wait, may be sent once more."""
        return refusals < max(1, self.max_retries) * self.refusals_per_retry

    def may_resend(self, error: APIConnectionError, unknown_before: int) -> bool:
        """Return whether a lost exchange may be repeated, *unknown_before* such repeats having happened."""
        if error.is_final:
            return False
        return error.sent == "no" or unknown_before < self.max_unknown

    def backoff_ns(self, retries: int, dice: random.Random) -> int:
        """Return a full-jitter wait before retry number *retries* + 1, in nanoseconds."""
        bound_s = min(self.cap_s, self.base_s * 2.0 ** min(retries, 30))
        return round(dice.uniform(0, bound_s) * 1e9)
