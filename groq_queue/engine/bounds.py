"""The times a caller set for a request: whether they have passed, and whether they can be kept."""

from __future__ import annotations

from groq_queue.core.pricing import Backlog
from groq_queue.core.request import Request
from groq_queue.engine import verdicts
from groq_queue.engine.roster import Roster
from groq_queue.engine.views import expected_start, reason_of
from groq_queue.errors import QueueTimeout


def has_bounds(request: Request) -> bool:
    """Return whether its time can run out."""
    return request.max_wait_ns is not None or request.deadline_ns is not None


def bounds_of(request: Request) -> list[int]:
    """Return the nanoseconds after which its time has run out."""
    return [bound for bound in (request.deadline_ns, request.max_wait_ns) if bound is not None]


def is_past(request: Request, now_ns: int) -> bool:
    """Return whether the time of a request has run out while no process had it."""
    age_ns = now_ns - request.submitted_ns
    if request.deadline_ns is not None and age_ns >= request.deadline_ns:
        return True
    return request.max_wait_ns is not None and age_ns >= request.max_wait_ns and not request.attempts


def check_in_time(roster: Roster, request: Request, workers: int) -> None:
    """Refuse a request that cannot be expected to start before its ``deadline``, *workers* threads serving.

    Raises:
        QueueTimeout: It cannot.
    """
    if request.deadline_ns is None:
        return
    count = roster.lane(request).ahead_of_newcomer(request)
    ahead = Backlog().plus(request.size, count)
    start_ns = expected_start(roster, request, ahead, request.submitted_ns, workers)
    start_ns = start_ns or 0  # nobody can tell: it is taken in
    late_ns = max(start_ns, request.not_before_ns or 0) - request.deadline_ns
    if late_ns > 0:
        raise verdicts.too_late(request, start_ns, late_ns, count)


def timed_out(roster: Roster, request: Request, bound: str, after_ns: int, now_ns: int) -> QueueTimeout:
    """Return the error of a request whose *bound*, an argument of submit, has passed while it waited."""
    return verdicts.timed_out(request, bound, after_ns, reason_of(roster.lane(request), now_ns))
