"""A request as a row of the journal, a row as a request, and what a row or an error of the file means."""

from __future__ import annotations

from typing import Any

from groq_queue.clock import NS_PER_S
from groq_queue.core.request import Request, State
from groq_queue.core.response import Completion, decode_object
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.errors import JournalError, error_of
from groq_queue.journal import Entry, Row, Stored, is_short

_BOUNDS = ("max_wait_ns", "deadline_ns", "not_before_ns")


def entry_of(request: Request, *, created_ns: int) -> Entry:
    """Return what is to be stored of a new request."""
    options: dict[str, Any] = {name: bound for name in _BOUNDS if (bound := getattr(request, name)) is not None}
    if request.shrinks:
        options["shrinks"] = True
    return Entry(
        request_id=request.id,
        custom_id=request.custom_id,
        lane=request.lane,
        model=request.model,
        endpoint=request.endpoint,
        priority=request.priority,
        client=request.client,
        payload=request.body or b"",
        size=request.size,
        created_ns=created_ns,
        options=options,
    )


def request_of(row: Row, *, submitted_ns: int) -> Request:
    """Make a request again from its row; a long payload stays in the file."""
    request = Request(
        model=row.model,
        endpoint=row.endpoint,
        body=row.short_payload,
        size=row.size,
        priority=row.priority,
        client=row.client,
        custom_id=row.custom_id if row.is_named else None,
        shrinks=bool(row.options.get("shrinks")),
        request_id=row.request_id,
        **{name: bound for name in _BOUNDS if (bound := row.options.get(name)) is not None},
    )
    request.lane = row.lane
    request.row_id = row.row_id
    request.attempts = row.attempts
    request.submitted_ns = submitted_ns
    return request


def ended_request_of(stored: Stored, outcome: Outcome) -> Request:
    """Return what a Future is to know of a request that ended in an earlier life."""
    request = Request(
        model=stored.model or "",
        endpoint=stored.endpoint or "",
        body=None,
        size=stored.size,
        priority=stored.priority,
        client=stored.client,
        custom_id=stored.custom_id if stored.is_named else None,
        request_id=stored.request_id,
    )
    request.state = State.COMPLETED if outcome.next is Disposition.DONE else State.FAILED
    request.attempts = stored.attempts
    ended_ns = stored.claimed_ns or stored.finished_ns or 0
    request.started_ns = max(1, ended_ns - (stored.created_ns or 0))  # after submit, which is 0: all that is asked for
    return request


def outcome_of(stored: Stored) -> Outcome | None:
    """Return how a stored request ended, or None if it has not, or was called off."""
    if stored.status == "completed":
        waited_ns = max(0, (stored.claimed_ns or 0) - (stored.created_ns or 0))
        completion = Completion(
            decode_object(stored.result or b"{}"),
            custom_id=stored.custom_id if stored.is_named else None,
            attempts=stored.attempts,
            waited=waited_ns / NS_PER_S,
        )
        return Outcome(Disposition.DONE, result=completion)
    if stored.status in ("failed", "expired") and stored.error is not None:
        return Outcome(Disposition.FAILED, error=error_of(stored.error))
    return None


def drop_body(request: Request) -> None:
    """Leave a long payload to the file until it is sent; one that was shrunk differs from the stored one."""
    if request.body is not None and not is_short(request.body) and not request.shrinks:
        request.body = None


def is_trouble(error: JournalError) -> bool:
    """Return whether the file, and not the request, is what was wrong."""
    return error.__cause__ is not None
