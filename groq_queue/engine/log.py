"""What a log record carries beside its sentence, so that machines need not parse the sentence.

All records come from the logger ``groq_queue`` and its children. Their attributes
(the ``extra=`` of the standard library) are, where they apply:

| key | is |
|---|---|
| ``groq_queue_event`` | what happened; on every record, one of ``EVENTS`` |
| ``request_id`` | our id of the request |
| ``custom_id`` | the caller's own id, or None |
| ``model`` | its model |
| ``lane`` | the model, and the service tier if it is not the usual one |
| ``client`` | whose turn it used |
| ``priority`` | 0..10 |
| ``attempt`` | how many times it was sent so far |
| ``status`` | HTTP status of the answer, or None |
| ``error`` | class of the error, such as ``"RateLimitError"`` |
| ``wait_s`` | seconds until the next attempt |
| ``limit`` | which limit a record is about, such as ``"tokens per minute"`` |

Never a prompt, an answer or a key: records are copied to places that the user does not think of.

WARNING and above is what the user should know: the message says what happened and what to do. A program that has
set up no logging gets it on stderr, see ``engine.last_resort``.
"""

from __future__ import annotations

from typing import Any

from groq_queue.core.request import Request
from groq_queue.engine import last_resort
from groq_queue.errors import APIResponseError, APIStatusError

last_resort.attach()  # here, since whatever logs is loaded together with this

EVENTS = {
    "attempt_broke": "an attempt raised what it must not: a bug, or no memory; ERROR",
    "attempt_failed": "an attempt failed and is repeated; DEBUG",
    "call_waits": "a callable waits for another request of its queue and holds what that needs; WARNING",
    "callback_raised": "a done-callback raised; ERROR",
    "close_failed": "a part of the queue could not be closed at its end; ERROR",
    "column_failed": "some rows of map_column have no answer; WARNING",
    "daily_limit": "a lane waits for a limit per day; WARNING",
    "ended_before": "a request that workers share had ended already; WARNING",
    "errand_failed": "what keeps a shared budget up to date broke: a bug; ERROR",
    "future_taken": "code of the program ended a Future of the queue; ERROR",
    "journal_recovered": "what was on its way when the last process ended was decided about; WARNING",
    "journal_trouble": "the journal could not be read or written, or had the answer already; DEBUG to ERROR",
    "left_to_workers": "the program ends while workers still have its requests; WARNING",
    "limits_noticed": "the server's limits differ from what was set; WARNING",
    "limiter_trouble": "the store of a shared budget could not be reached, or can be again; WARNING or ERROR",
    "long_wait": "a server that fails asks for hours, and is asked again every minute; WARNING",
    "no_thread": "the system refused another worker thread; WARNING",
    "observer_raised": "an observer raised; ERROR",
    "progress_failed": "a progress callable raised, or a display could not be updated; DEBUG or ERROR",
    "queue_replaced": "a named queue was asked for with other settings; WARNING",
    "queue_stopped": "an error that holds for all, such as a rejected key; ERROR",
    "scraped_alone": "a Prometheus registry of several processes does not see their queues; WARNING",
    "session_retries": "a session, an SDK or a callable repeats by itself what the queue repeats; WARNING",
    "store_away": 'broker or Redis of engine="celery" cannot be reached; DEBUG to ERROR',
    "store_back": "it can be reached again; WARNING",
    "stream_unread": "a stream of an adapter was not read for too long and gave its slot back; WARNING",
    "timer_failed": "a timer's callback raised; ERROR",
}


def log_fields(event: str, request: Request | None = None, **more: Any) -> dict[str, Any]:
    """Return the ``extra=`` of a record about *event*, and about *request* if there is one."""
    assert event in EVENTS, event
    facts: dict[str, Any] = {"groq_queue_event": event}
    if request is not None:
        facts |= {
            "request_id": request.id,
            "custom_id": request.custom_id,
            "model": request.model,
            "lane": request.lane,
            "client": request.client,
            "priority": request.priority,
            "attempt": request.attempts,
        }
    return facts | more


def error_fields(error: BaseException) -> dict[str, Any]:
    """Return what may be logged of an error: not its text, which may repeat the prompt."""
    return {
        "error": type(error).__name__,
        "status": error.status_code if isinstance(error, APIStatusError) else None,
    }


def error_text(error: BaseException) -> str:
    """Return the text of an error for a message; of one that repeats what the server said, its class and status."""
    if isinstance(error, APIStatusError):
        return f"{type(error).__name__} (HTTP {error.status_code})"
    if isinstance(error, APIResponseError):
        return f"{type(error).__name__} (the answer was cut short or is not JSON)"
    return str(error)
