"""Options of requests, checked, and requests made of the user's own callables.

Options that are given once for many requests are checked at once. What is not known here
is a parameter of the API and passes untouched.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from groq_queue.core.priority import parse_priority
from groq_queue.core.request import Request, encode_payload, tier_of
from groq_queue.core.token_estimate import size_of
from groq_queue.core.validation import (
    check_count,
    check_flag,
    check_nanoseconds,
    check_order,
    check_path,
    check_seconds,
    check_text,
)
from groq_queue.engine.callables import Call, hidden_retries, priceable
from groq_queue.engine.log import log_fields
from groq_queue.errors import ConfigurationError, safe_repr
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_OF_CALLS = (
    *("model", "tokens", "audio_seconds", "priority", "client", "custom_id", "max_wait", "deadline", "not_before"),
    "callback",
)

Callback = Callable[[Future[Any]], object]

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


# -- requests of the user's own callables, see ``GroqQueue.submit_call``


def call_of(fn: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Any, engine: object) -> Call:
    """Return the call of *fn*, checked.

    Raises:
        TypeError: *fn* cannot be called, or only with ``await``.
        ConfigurationError: The options are no mapping.
    """
    if not callable(fn):
        raise TypeError(f"submit_call() takes a callable and its arguments, not {safe_repr(fn)}")
    if inspect.iscoroutinefunction(fn):
        raise TypeError(f"{safe_repr(fn)} is asynchronous: pass the method of the synchronous client")
    if options is not None and not isinstance(options, Mapping):
        raise ConfigurationError(f"queue_options={safe_repr(options)}: use a dict such as {{'priority': 'high'}}")
    return Call(functools.partial(fn, *args, **kwargs), engine)


def request_of_call(
    call: Call,
    arguments: Mapping[str, Any],
    options: Mapping[str, Any],
    endpoint: str,
    model: str | None,
) -> tuple[Request, Callback | None]:
    """Return the request of *call* and what is to be called when it has ended.

    Args:
        call: What is run.
        arguments: Its keyword arguments, by which it is priced.
        options: The caller's ``queue_options``.
        endpoint: Named in events.
        model: Used where neither options nor arguments name one.

    Raises:
        ConfigurationError: An option cannot be used, or no model is named.
    """
    _check_call_options(options)
    payload = {name: priceable(value) for name, value in arguments.items()}
    model = options.get("model") or payload.get("model") or model
    if not isinstance(model, str) or not model.strip():
        raise ConfigurationError(
            f"model={safe_repr(model)}: the call names none; pass queue_options={{'model': ...}} or set the queue's"
        )
    request = Request(
        model=model,
        endpoint=endpoint,
        body=b"",
        call=call,
        size=size_of(
            payload,
            check_count("tokens", options.get("tokens"), optional=True),
            check_seconds("audio_seconds", options.get("audio_seconds")) or 0,
        ),
        priority=parse_priority(options.get("priority", "normal")),
        client=check_text("client", options.get("client", "default")),
        custom_id=check_text("custom_id", options.get("custom_id"), optional=True),
        max_wait_ns=check_nanoseconds("max_wait", options.get("max_wait")),
        deadline_ns=check_nanoseconds("deadline", options.get("deadline")),
        not_before_ns=check_nanoseconds("not_before", options.get("not_before")),
        tier=tier_of(payload),
    )
    check_order(options.get("not_before"), options.get("max_wait"), options.get("deadline"))
    return request, options.get("callback")


def warn_of_hidden_retries(fn: Callable[..., Any]) -> bool:
    """Warn if *fn* is the method of a client that retries by itself; return whether it is."""
    retries = hidden_retries(fn)
    if retries:
        _log.warning(
            "the client of %s.%s retries up to %d times by itself, unmetered and on top of the queue's retries: "
            "make it with max_retries=0",
            type(getattr(fn, "__self__", None)).__name__,
            getattr(fn, "__name__", "callable"),
            retries,
            extra=log_fields("session_retries"),
        )
    return bool(retries)


def _check_call_options(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in _OF_CALLS:
            import difflib  # only whoever mistyped needs it

            near = difflib.get_close_matches(safe_repr(name, 50).strip("'"), _OF_CALLS, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(_OF_CALLS)}"
            raise ConfigurationError(f"queue_options[{safe_repr(name, 50)}]: unknown; {meant}")
    check_text("model", options.get("model"), optional=True)
    if options.get("callback") is not None:
        check_callback(options["callback"])
