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

from groq_queue.api.context import current_client, current_priority
from groq_queue.core.priority import parse_priority
from groq_queue.core.request import Request, encode_payload, tier_of
from groq_queue.core.token_estimate import size_of
from groq_queue.core.validation import (
    check_count,
    check_nanoseconds,
    check_order,
    check_seconds,
    check_text,
)
from groq_queue.engine.callables import Call, hidden_retries, priceable
from groq_queue.engine.log import log_fields
from groq_queue.errors import ConfigurationError, UnknownArgument, safe_repr
from groq_queue.logger import SafeLogger
from groq_queue.wiring.options import OF_CALLS, OF_SUBMIT, check_callback, check_parameters

_log = SafeLogger("groq_queue")

Callback = Callable[[Future[Any]], object]


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse defaults that could serve no request.

    Raises:
        ConfigurationError: One of our options cannot be used, or a parameter is not JSON.
        UnknownArgument: A name is a slip of one that exists, or belongs to another call.
    """
    for field, value in options.items():
        option = OF_SUBMIT.get(field)
        if option is not None and option.alone:
            raise ConfigurationError(f"{field}={safe_repr(value)}: cannot be shared by many requests: {option.alone}")
        if option is not None and value is not None:
            option.check(field, value)
    check_parameters(options)
    if options.get("stream"):
        raise ConfigurationError("stream=True: a queued answer is delivered whole; leave stream out")
    encode_payload({field: value for field, value in options.items() if field not in OF_SUBMIT})


def shows_options(method: Callable[..., Any], name: str) -> Any:
    """Let *method*, which takes ``**options``, show each option of ``submit`` as a parameter, under its public name."""
    shown = inspect.signature(method)
    own = [each for each in shown.parameters.values() if each.kind is not each.VAR_KEYWORD]
    taken = {each.name for each in own}
    options = [
        inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default)
        for option in OF_SUBMIT.values()
        if option.name not in taken
    ]
    params = inspect.Parameter("params", inspect.Parameter.VAR_KEYWORD)
    method.__signature__ = shown.replace(parameters=[*own, *options, params])  # type: ignore[attr-defined]
    method.__name__, method.__qualname__ = name, f"{method.__qualname__.rpartition('.')[0]}.{name}"
    return method


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


def options_of_calls(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the *options* of a view that its calls of the user's own have; parameters of the API are no options.

    Raises:
        ConfigurationError: One asks for what no callable can have.
    """
    for name, value in options.items():
        option = OF_SUBMIT.get(name)
        if option is None or not option.no_call or value is None:
            continue
        if option.check(name, value) != option.default:
            raise ConfigurationError(
                f"{name}={safe_repr(value)}: a view with it makes no calls of your own: {option.no_call}; "
                "make them with the queue, or with a view without it"
            )
    return {name: value for name, value in options.items() if name in OF_CALLS and value is not None}


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
    priority, client = options.get("priority"), options.get("client")
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
        priority=current_priority.get() if priority is None else parse_priority(priority),
        client=current_client.get() if client is None else check_text("client", client),
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
        if name in OF_SUBMIT and name not in OF_CALLS:
            raise UnknownArgument(f"queue_options[{name!r}]: a call cannot have it: {OF_SUBMIT[name].no_call}")
        if name not in OF_CALLS:
            import difflib  # needed for a mistyped name only

            near = difflib.get_close_matches(safe_repr(name, 50).strip("'"), OF_CALLS, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(OF_CALLS)}"
            raise UnknownArgument(f"queue_options[{safe_repr(name, 50)}]: unknown; {meant}")
    check_text("model", options.get("model"), optional=True)
    if options.get("callback") is not None:
        check_callback("callback", options["callback"])
