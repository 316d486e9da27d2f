"""Makes requests of the user's own callables; see ``GroqQueue.submit_call``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from groq_queue.core.priority import parse_priority
from groq_queue.core.request import Request, tier_of
from groq_queue.core.token_estimate import size_of
from groq_queue.core.validation import check_count, check_nanoseconds, check_order, check_seconds, check_text
from groq_queue.engine.callables import Call, hidden_retries, priceable
from groq_queue.engine.log import log_fields
from groq_queue.errors import ConfigurationError, safe_repr
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_OPTIONS = (
    *("model", "tokens", "audio_seconds", "priority", "client", "custom_id", "max_wait", "deadline", "not_before"),
    "callback",
)

Callback = Callable[[Future[Any]], object]


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
    _check(options)
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


def _check(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in _OPTIONS:
            import difflib  # only whoever mistyped needs it

            near = difflib.get_close_matches(safe_repr(name, 50).strip("'"), _OPTIONS, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(_OPTIONS)}"
            raise ConfigurationError(f"queue_options[{safe_repr(name, 50)}]: unknown; {meant}")
    check_text("model", options.get("model"), optional=True)
    callback = options.get("callback")
    if callback is not None and not callable(callback):
        raise ConfigurationError(f"callback={safe_repr(callback)}: use a callable of one argument, the Future")
