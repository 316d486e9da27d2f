"""A request and its outcome as JSON: what the journal keeps in its rows, between processes.

Neither holds a key, a callable or a pickle. Times are durations, so clocks of different hosts need not agree:
the store measures the age of a request on its own clock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from groq_queue.core.request import Request, State
from groq_queue.core.response import Completion, decode_object
from groq_queue.core.token_estimate import PromptSize, TokenCost
from groq_queue.errors import APIError, GroqQueueError, error_of, record_of

_BOUNDS = ("max_wait_ns", "deadline_ns")
_COUNTS = ("retries", "refusals", "overtaken", "was_stale")
_FINAL = {state.value: state for state in (State.COMPLETED, State.FAILED, State.CANCELLED, State.EXPIRED)}


class Ending(NamedTuple):
    """How a request ended.

    Attributes:
        charged: What has to be paid for, of its last attempt.
    """

    state: State
    result: Completion | None = None
    error: GroqQueueError | None = None
    attempts: int = 0
    waited_s: float = 0.0
    charged: TokenCost = TokenCost(0)


def encode_request(request: Request, base_url: str | None) -> str:
    """Return *request* as it travels.

    Args:
        request: Its body is there.
        base_url: Where it may be sent only, or None: wherever the worker sends.
    """
    assert request.body is not None
    record: dict[str, Any] = {
        "request_id": request.id,
        "lane": request.lane,
        "model": request.model,
        "endpoint": request.endpoint,
        "priority": request.priority,
        "client": request.client,
        "payload": request.body.decode("utf-8"),
        "size": list(request.size),
        "turn_cost": request.turn_cost,
        "options": {name: bound for name in _BOUNDS if (bound := getattr(request, name)) is not None},
    }
    if request.shrinks:
        record["options"]["shrinks"] = True
    if base_url is not None:
        record["options"]["base_url"] = base_url
    return json.dumps(record, separators=(",", ":"))


def decode_request(text: str) -> tuple[Request, str | None]:
    """Return the request that ``encode_request`` described, and where it may be sent only.

    It has no ``custom_id``: that is unique among the requests of one submitting process, and a worker serves many.

    Raises:
        ValueError: It is not such a description, or one of a version that knows more.
    """
    try:
        record = json.loads(text)
        options = record["options"]
        base, completion, audio_s, is_exact = record["size"]
        request = Request(
            model=record["model"],
            endpoint=record["endpoint"],
            body=record["payload"].encode("utf-8"),
            size=PromptSize(base, completion, audio_s, is_exact),
            priority=record["priority"],
            client=record["client"],
            max_wait_ns=options.get("max_wait_ns"),
            deadline_ns=options.get("deadline_ns"),
            turn_cost=record["turn_cost"],
            shrinks=bool(options.get("shrinks")),
            request_id=record["request_id"],
        )
        request.lane = record["lane"]
    except (KeyError, TypeError, AttributeError, ValueError) as problem:
        raise ValueError(f"not a request of this version of groq_queue: {problem!r:.200}") from None
    return request, options.get("base_url")


def encode_counts(request: Request) -> str:
    """Return what was counted of *request* besides its attempts, so that its retries are counted on elsewhere."""
    counts = {name: count for name in _COUNTS if (count := getattr(request, name))}
    return json.dumps(counts, separators=(",", ":")) if counts else ""


def take_over_counts(request: Request, text: str) -> None:
    """Give *request* the counts that ``encode_counts`` wrote, so that it continues with them.

    Raises:
        ValueError: It is not such a text.
    """
    counts = decode_object(text.encode()) if text else {}
    for name in _COUNTS:
        if name in counts:
            setattr(request, name, type(getattr(request, name))(counts[name]))


def encode_ending(ending: Ending) -> str:
    """Return *ending* as it travels; the headers of an error stay behind."""
    fields: dict[str, Any] = {
        "attempts": ending.attempts,
        "waited_s": ending.waited_s,
        "charged": [ending.charged.prompt, ending.charged.completion],
    }
    if ending.result is not None:
        fields["result"] = ending.result
    if ending.error is not None:
        fields["error"] = record_of(ending.error)
        if isinstance(ending.error.__cause__, GroqQueueError):
            fields["cause"] = record_of(ending.error.__cause__)
    return json.dumps(fields, separators=(",", ":"))


def decode_ending(status: str, text: str | None, *, custom_id: str | None) -> Ending:
    """Return the ending that ``encode_ending`` described, for the request of that name."""
    fields: Mapping[str, Any] = decode_object((text or "{}").encode())
    state = _FINAL[status]
    attempts, waited_s = fields.get("attempts", 0), fields.get("waited_s", 0.0)
    result, error = None, None
    if "result" in fields:
        result = Completion(fields["result"], custom_id=custom_id, attempts=attempts, waited=waited_s)
    if "error" in fields:
        error = error_of(fields["error"])
        error.custom_id = custom_id
        if isinstance(error, APIError):
            error.__dict__.setdefault("attempts", attempts)
        if "cause" in fields:
            error.__cause__ = error_of(fields["cause"])
    return Ending(state, result, error, attempts, waited_s, TokenCost(*fields.get("charged", (0, 0))))


def is_final(status: str | None) -> bool:
    """Return whether a request of that status has ended."""
    return status in _FINAL
