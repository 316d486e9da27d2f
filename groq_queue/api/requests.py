"""Options of ``submit`` that are given once for many requests, checked at once.

What is not known here is a parameter of the API and passes untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from groq_queue.core.priority import parse_priority
from groq_queue.core.request import encode_payload
from groq_queue.core.validation import check_count, check_flag, check_path, check_seconds, check_text
from groq_queue.errors import ConfigurationError, safe_repr

_ALONE = {
    "messages": "the prompts are given to each call",
    "custom_id": "each request needs its own; give it to submit(), or map(custom_id='row-{}')",
}


_QUEUES = frozenset(
    (
        *("api_key", "base_url", "timeout", "max_retries", "max_workers", "max_pending", "max_concurrency", "max_cost"),
        *("max_payload_bytes", "max_response_bytes", "when_full", "queue_options"),
    )
)
"""Arguments of other calls that no API knows: in a payload they would travel to it, a key too."""


def refuse_misplaced(params: Mapping[str, Any]) -> None:
    """Refuse parameters of the API that are arguments of ``GroqQueue`` or ``submit_call``.

    Raises:
        ConfigurationError: One is; its value may be a key and is not shown.
    """
    if not _QUEUES.isdisjoint(params):
        name = next(name for name in params if name in _QUEUES)
        where = "submit_call()" if name == "queue_options" else "GroqQueue(), for all its requests"
        raise ConfigurationError(f"{name}: no option of a request and no parameter of the API; give it to {where}")


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse defaults that could serve no request.

    Raises:
        ConfigurationError: One of our options cannot be used, or a parameter is not JSON.
    """
    for field, value in options.items():
        if field in _ALONE:
            raise ConfigurationError(f"{field}={safe_repr(value)}: cannot be shared by many requests: {_ALONE[field]}")
        if field in _CHECKS and value is not None:
            _CHECKS[field](value)
    refuse_misplaced(options)
    if options.get("stream"):
        raise ConfigurationError("stream=True: a queued answer is delivered whole; leave stream out")
    encode_payload({field: value for field, value in options.items() if field not in _CHECKS})


def check_id(custom_id: Any, for_a_future: str) -> str:
    """Return *custom_id* if it can be one.

    Raises:
        ConfigurationError: It cannot; of a Future the message says what is there *for_a_future*.
    """
    if isinstance(custom_id, Future):
        raise ConfigurationError(
            f"custom_id={safe_repr(custom_id)}: a Future is no custom_id, a str is; {for_a_future}"
        )
    text: str = check_text("custom_id", custom_id)
    return text


def check_callback(value: Any) -> Any:
    """Return *value* if it can be called.

    Raises:
        ConfigurationError: It cannot.
    """
    if not callable(value):
        raise ConfigurationError(f"callback={safe_repr(value)}: use a callable of one argument, the Future")
    return value


def ours(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are not parameters of the API."""
    return {field: value for field, value in options.items() if field in _CHECKS}


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "priority": parse_priority,
    "client": lambda value: check_text("client", value),
    "model": lambda value: check_text("model", value),
    "endpoint": lambda value: check_path("endpoint", value),
    "tokens": lambda value: check_count("tokens", value),
    "audio_seconds": lambda value: check_seconds("audio_seconds", value),
    "shrink": lambda value: check_flag("shrink", value),
    "max_wait": lambda value: check_seconds("max_wait", value),
    "deadline": lambda value: check_seconds("deadline", value),
    "not_before": lambda value: check_seconds("not_before", value),
    "callback": check_callback,
    "dedupe": lambda value: check_flag("dedupe", value),
}
