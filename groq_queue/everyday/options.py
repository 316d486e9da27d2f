"""Options of ``submit`` that are given once for many requests, checked at once.

What is not known here is a parameter of the API and passes untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from groq_queue.core.checks import check_count, check_flag, check_path, check_seconds, check_text
from groq_queue.core.rank import parse_priority
from groq_queue.core.request import encode_payload
from groq_queue.errors import ConfigurationError

_ALONE = {
    "messages": "the prompts are given to each call",
    "custom_id": "each request needs its own; give it to submit(), or map(custom_id='row-{}')",
}


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse defaults that could serve no request.

    Raises:
        ConfigurationError: One of our options cannot be used, or a parameter is not JSON.
    """
    for field, value in options.items():
        if field in _ALONE:
            raise ConfigurationError(f"{field}={value!r:.100}: cannot be shared by many requests: {_ALONE[field]}")
        if field in _CHECKS and value is not None:
            _CHECKS[field](value)
    encode_payload({field: value for field, value in options.items() if field not in _CHECKS})


def check_callback(value: Any) -> Any:
    """Return *value* if it can be called.

    Raises:
        ConfigurationError: It cannot.
    """
    if not callable(value):
        raise ConfigurationError(f"callback={value!r:.100}: use a callable of one argument, the Future")
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
