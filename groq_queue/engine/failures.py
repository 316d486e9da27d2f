"""The errors with which the engine ends a request, each with the reason and the cure worked out."""

from __future__ import annotations

import os

from groq_queue.clock import NS_PER_S
from groq_queue.core.budget import Blocked, TooLarge
from groq_queue.core.limits import DIMENSIONS
from groq_queue.core.price_table import SpendCap
from groq_queue.core.request import Request
from groq_queue.display import duration_text, plural
from groq_queue.errors import (
    APIError,
    CostLimitReached,
    DailyLimitReached,
    GroqQueueError,
    QueueClosed,
    QueueTimeout,
    RequestTooLarge,
)


def too_large(request: Request, excess: TooLarge) -> RequestTooLarge:
    """Return the error of a request that can never fit."""
    name = f"{DIMENSIONS[excess.dimension]} ({excess.dimension})"
    return RequestTooLarge(excess.cost, excess.capacity, name, request_id=request.id, custom_id=request.custom_id)


def of(request: Request, error: GroqQueueError) -> GroqQueueError:
    """Return *error*, which is everybody's, as that of one request: its ids, and how often that one was sent."""
    own = error.copy()
    own.request_id, own.custom_id = request.id, request.custom_id
    if isinstance(own, APIError):
        own.attempts = request.attempts
    return own


def day_is_spent(request: Request, blocked: Blocked) -> DailyLimitReached:
    """Return the error of a request that only tomorrow's budget could pay for."""
    resets_in = None if blocked.wait_ns is None else blocked.wait_ns / NS_PER_S
    when = "later" if resets_in is None else f"in {duration_text(resets_in)}"
    name = blocked.dimension
    why = "the limit drains all day, there is no reset at midnight"
    if not name:
        why = "so long a wait is that of a limit per day, which the server did not name"
    return DailyLimitReached(
        f"{blocked}; {request} would fit {when}: {why}",
        resets_in=resets_in,
        limit=f"{DIMENSIONS[name]} ({name})" if name else "",
        request_id=request.id,
        custom_id=request.custom_id,
    )


def over_cost_limit(request: Request, amount: int, spend_cap: SpendCap) -> CostLimitReached:
    """Return the error of a request whose price, *amount* picodollars, ``max_cost`` does not leave."""
    return CostLimitReached(
        f"{request} may cost {amount / 1e12:.6f} USD, more than max_cost leaves after {spend_cap.spent_usd:.6f} USD: "
        "raise max_cost or lower max_completion_tokens",
        request_id=request.id,
        custom_id=request.custom_id,
    )


def too_late(request: Request, start_ns: int, late_ns: int, count: int) -> QueueTimeout:
    """Return the error of a request that would start *late_ns* after its deadline, behind *count* others."""
    start, late = (duration_text(wait_ns / NS_PER_S) for wait_ns in (start_ns, late_ns))
    return QueueTimeout(
        f"{request} would start in about {start}, {late} after its deadline ({plural(count, 'request')} ahead): "
        "raise its priority or its deadline",
        retry_after=late_ns / NS_PER_S,
        request_id=request.id,
        custom_id=request.custom_id,
    )


def timed_out(request: Request, bound: str, after_ns: int, reason: str) -> QueueTimeout:
    """Return the error of a request that *bound*, an argument of submit, has ended while it waited for *reason*."""
    tried = f"{plural(request.attempts, 'attempt')} failed" if request.attempts else "it was not sent"
    long = f" ({duration_text(after_ns / NS_PER_S)})" if after_ns >= 120 * NS_PER_S else ""
    error = QueueTimeout(
        f"{request} ended by {bound}={after_ns / NS_PER_S:g}{long}: {tried}; its lane waits for {reason}",
        request_id=request.id,
        custom_id=request.custom_id,
    )
    error.__cause__ = request.last_error
    return error


def submitted_elsewhere(custom_id: str | None, request_id: str | None = None) -> QueueClosed:
    """Return the error of a Future that came into this process by fork."""
    return QueueClosed(
        f"this request was submitted before the fork and is answered in the parent (pid {os.getppid()}): "
        f"take the result there, or submit it again in this process (pid {os.getpid()})",
        request_id=request_id,
        custom_id=custom_id,
    )


def internal_error(error: BaseException, request: Request) -> GroqQueueError:
    """Return an error of ours for what an attempt raised."""
    if isinstance(error, GroqQueueError):
        return error
    ours = APIError(f"{request}: the attempt broke: {error!r}", request_id=request.id, custom_id=request.custom_id)
    ours.__cause__ = error.with_traceback(None)
    return ours


def stopped(error: BaseException) -> GroqQueueError:
    """Return the error of a queue that can no longer look for what to send."""
    ours = GroqQueueError(
        f"the queue has stopped, because looking for the next request failed again and again: {error!r}"
    )
    ours.__cause__ = error.with_traceback(None)
    return ours
