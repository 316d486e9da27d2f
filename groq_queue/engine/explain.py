"""Looks at a request table: counts, one request's state, why it waits, when it will start and whether its time is up.

The engine's lock is held throughout, so that each is a snapshot of one instant.
"""

from __future__ import annotations

from groq_queue.clock import NS_PER_S
from groq_queue.core.request import Request, State
from groq_queue.core.token_estimate import Backlog
from groq_queue.engine import failures
from groq_queue.engine.lane import Lane
from groq_queue.engine.pending import PendingRequests
from groq_queue.engine.stats import Explanation, LaneStats, RequestInfo, Stats
from groq_queue.errors import QueueTimeout


def stats_of(table: PendingRequests, now_ns: int, *, is_running: bool, cost: float) -> Stats:
    """Return all counts."""
    counters = table.counters
    lanes = (
        LaneStats(
            name=lane.name,
            model=lane.model,
            pending=counters.pending_by_lane[lane.name],
            in_flight=lane.in_flight,
            paused=lane.is_paused,
            waits_for=reason_of(lane, now_ns) if lane.head() is not None else None,
            limits=tuple(lane.levels(now_ns)),
        )
        for lane in table.lanes.values()
    )
    return counters.stats(lanes, cost=cost, is_running=is_running)


def info_of(table: PendingRequests, request: Request, now_ns: int) -> RequestInfo:
    """Return one request's state."""
    return info_at(request, table.lane(request).meter.price(request.size).tokens, now_ns)


def info_at(request: Request, tokens: int, now_ns: int) -> RequestInfo:
    """Return the state of a request that is priced at *tokens*."""
    return RequestInfo(
        request_id=request.id,
        custom_id=request.custom_id,
        client=request.client,
        model=request.model,
        priority=request.priority,
        state=request.state.value,
        attempts=request.attempts,
        waited=((request.started_ns or now_ns) - request.submitted_ns) / NS_PER_S,
        tokens=tokens,
        last_error=request.last_error,
    )


def explanation_of(table: PendingRequests, request: Request, now_ns: int, workers: int) -> Explanation:
    """Return why a request waits and when it is expected to start, *workers* threads serving."""
    lane = table.lane(request)
    if request.state is not State.PENDING:
        return Explanation(request.id, request.custom_id, request.state.value, None, None, None)
    if request in table.away:
        due_ns = max(0, (request.due_ns or now_ns) - now_ns)
        reason = "its retry" if request.attempts else "its not_before"
        return Explanation(request.id, request.custom_id, "pending", None, reason, due_ns / NS_PER_S)
    place, ahead = lane.place_of(request)
    start_ns = expected_start(table, request, ahead, now_ns, workers)
    start_s = None if lane.is_paused or start_ns is None else start_ns / NS_PER_S
    return Explanation(request.id, request.custom_id, "pending", place, reason_of(lane, now_ns), start_s)


def expected_start(table: PendingRequests, request: Request, ahead: Backlog, now_ns: int, workers: int) -> int | None:
    """Return the nanoseconds until *request* is expected to start behind those *ahead*.

    Returns:
        None if that depends on how long an attempt takes, and none has ended yet.
    """
    flight_ns = table.counters.mean_flight_ns()
    wait_ns = table.lane(request).meter.forecast(ahead, request.size, flight_ns, now_ns)
    free = max(0, workers - table.counters.in_flight)
    if not wait_ns and not flight_ns and ahead.requests >= free:
        return None
    return max(wait_ns, (ahead.requests - free + 1) * flight_ns // workers)


def reason_of(lane: Lane, now_ns: int) -> str:
    """Return in words what the head of *lane* waits for."""
    if lane.is_paused:
        return "resume(), the lane is paused"
    if lane.max_in_flight is not None and lane.in_flight >= lane.max_in_flight:
        return f"one of {lane.max_in_flight} attempts of its model to end"
    head = lane.head()
    blocked = None if head is None else lane.meter.blocks(head.size, now_ns)
    if blocked is None:
        return "a free worker"
    why = f": {lane.last_failure}" if blocked.reason == "pace" and lane.last_failure else ""
    return f"{blocked}{why}"


def check_in_time(table: PendingRequests, request: Request, workers: int) -> None:
    """Refuse a request that cannot be expected to start before its ``deadline``, *workers* threads serving.

    Raises:
        QueueTimeout: It cannot.
    """
    if request.deadline_ns is None:
        return
    count = table.lane(request).ahead_of_newcomer(request)
    ahead = Backlog().plus(request.size, count)
    start_ns = expected_start(table, request, ahead, request.submitted_ns, workers)
    start_ns = start_ns or 0  # not known: the request is taken in
    late_ns = max(start_ns, request.not_before_ns or 0) - request.deadline_ns
    if late_ns > 0:
        raise failures.too_late(request, start_ns, late_ns, count)


def timed_out(table: PendingRequests, request: Request, bound: str, after_ns: int, now_ns: int) -> QueueTimeout:
    """Return the error of a request whose *bound*, an argument of submit, has passed while it waited."""
    return failures.timed_out(request, bound, after_ns, reason_of(table.lane(request), now_ns))
