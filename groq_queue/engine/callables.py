"""The user's own callable, run as an attempt: what it returned or raised, read as an answer of the API.

SDKs are known by the shape of what they return and raise, never by import:

* an error with a ``status_code`` (its own or its ``response``'s) is an error status;
* one named as connection errors and time-outs are (builtin, requests, httpx, groq,
  openai), or derived from one, is a lost connection;
* any other is the callable's own affair, and final;
* a value with a ``status_code`` from 400 up is an error status as well, since
  ``requests.post`` and its like return what others raise.

Nothing is decided here: ``attempt`` retries, settles and gives up as for any other attempt.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from groq_queue.core.response import usage_in_body, usage_of
from groq_queue.errors import APIConnectionError, APIError, APITimeoutError, GroqQueueError, Sent, excerpt

if TYPE_CHECKING:
    from groq_queue.core.request import Request

_LOST = frozenset(
    {
        "APIConnectionError",  # groq, openai
        "APITimeoutError",
        "ConnectionError",  # builtin, requests
        "TimeoutError",
        "Timeout",  # requests
        "ChunkedEncodingError",
        "TransportError",  # httpx
        "HTTPException",  # http.client
        "ProtocolError",  # urllib3
        "MaxRetryError",
        "NewConnectionError",
        "gaierror",
    }
)
_TIMED_OUT = frozenset({"APITimeoutError", "TimeoutError", "Timeout", "TimeoutException"})
_UNSENT = frozenset(  # the bytes never left
    {
        "ConnectTimeout",
        "ConnectTimeoutError",
        "ConnectError",
        "ConnectionRefusedError",
        "NewConnectionError",
        "NameResolutionError",
        "PoolTimeout",
        "gaierror",
    }
)
_HOPELESS = frozenset({"UnsupportedProtocol", "LocalProtocolError", "InvalidURL", "InvalidSchema", "MissingSchema"})
_DEPTH = 20  # of objects inside each other that are priced

_on_this_thread = threading.local()  # .calls: those that run here, the innermost last


class CallOutcome(NamedTuple):
    """What a callable's value or error says, in the terms of an HTTP answer.

    Attributes:
        status: Of the answer; 200 for a value that names none.
        headers: Names in lower case; empty if it offers none.
        body: Of an error status.
        usage: ``(prompt, completion, cached)`` tokens, or None.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    usage: tuple[int, int, int] | None = None


class Call:
    """A callable with its arguments, and how its last run ended.

    Used by one thread at a time: the worker that attempts its request, then the
    one that ends its Future. ``let_go`` may come from any thread.

    Args:
        fn: Called without arguments, once for each attempt.
        owner: The engine it runs for.
        let_go: Makes a run that waits for another program end soon; None if none does.
    """

    def __init__(self, fn: Callable[[], Any], owner: object, let_go: Callable[[], None] | None = None) -> None:
        self._fn = fn
        self._owner = owner
        self._let_go = let_go
        self._value: Any = None
        self._raised: BaseException | None = None
        self._error: GroqQueueError | None = None  # our error of what was returned or raised
        self._on_begun: Callable[[Mapping[str, str]], None] | None = None

    def run(self, on_begun: Callable[[Mapping[str, str]], None]) -> CallOutcome | APIError:
        """Call it once.

        Args:
            on_begun: Called with the headers, if the answer is handed on before it has ended.

        Returns:
            What its value says, or the error that no answer came.
        """
        self._value = self._raised = self._error = None
        self._on_begun = on_begun
        running = _running()
        running.append(self)
        try:
            self._value = self._fn()
            return _outcome_of_value(self._value)
        except BaseException as error:
            # SystemExit too ends this request, not the worker. Our own frame would keep the arguments alive.
            tail = error.__traceback__
            self._raised = error.with_traceback(None if tail is None else tail.tb_next)
            return _outcome_of_error(error)
        finally:
            running.pop()
            self._on_begun = None

    def begun(self, headers: Mapping[str, str]) -> None:
        """Tell that the answer has begun and is handed on; called by the callable itself."""
        if self._on_begun is not None:
            self._on_begun(headers)

    def failed_with(self, error: GroqQueueError | None) -> None:
        """Note the error that the engine will end the request with, should it be the last."""
        self._error = error
        if error is not None and error.__cause__ is None:
            error.__cause__ = self._raised

    def ending(self, result: Any, error: BaseException | None) -> tuple[Any, BaseException | None]:
        """Return how the Future ends: with what the callable returned or raised, if *error* stands for that."""
        if error is None:
            return self._value if result is None else result, None
        if error is not self._error:
            return None, error
        return (self._value, None) if self._raised is None else (None, self._raised)

    def is_of(self, owner: object) -> bool:
        """Return whether it runs for *owner*."""
        return self._owner is owner

    def let_go(self) -> None:
        """Let a run that waits for another program end soon."""
        if self._let_go is not None:
            self._let_go()


def current_call(owner: object) -> Call | None:
    """Return the call that runs on this thread for *owner*, or None."""
    return next((call for call in reversed(_running()) if call.is_of(owner)), None)


@contextmanager
def waiting(request: Request, blocking_section: AbstractContextManager[None], *, is_bounded: bool) -> Iterator[None]:
    """Wait for *request* as the call that runs on this thread, inside *blocking_section*.

    Raises:
        DeadlockError: A call waits for what waits for it.
    """
    call = next(reversed(_running()), None)
    owner: Any = None if call is None else call._owner
    if call is None or not hasattr(owner, "begin_wait"):  # workers elsewhere run no callables
        with blocking_section:
            yield
        return
    owner.begin_wait(call, request, is_bounded=is_bounded)
    try:
        with blocking_section:
            yield
    finally:
        if not is_bounded:
            owner.end_wait(call)


def hidden_retries(fn: Callable[..., Any]) -> int:
    """Return how often the SDK client behind a bound method repeats a request on its own account."""
    client = _attribute(_attribute(fn, "__self__"), "_client")
    retries = _attribute(client, "max_retries")
    return retries if isinstance(retries, int) else 0


def priceable(value: Any, depth: int = 0) -> Any:
    """Return *value* as what JSON could hold, for pricing alone; iterators are left unread."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if depth < _DEPTH:
        if isinstance(value, Mapping):
            return {str(key): priceable(inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [priceable(inner, depth + 1) for inner in value]
        dump = _attribute(value, "model_dump")  # the message objects of SDKs
        if callable(dump):
            return priceable(_tried(dump), depth + 1)
    return None


def _running() -> list[Call]:
    calls: list[Call] | None = getattr(_on_this_thread, "calls", None)
    if calls is None:
        calls = _on_this_thread.calls = []
    return calls


def _outcome_of_value(value: Any) -> CallOutcome:
    status = _status_of(value)
    inner = _attribute(value, "http_response")  # what an SDK's raw response wraps
    body = _content_of(value if inner is None else inner)
    headers = _headers_of(value)
    if status is not None and status >= 400:
        return CallOutcome(status, headers, body or b"")
    usage = _usage_of(value)
    if usage is None and body:
        usage = _counts(usage_in_body(body))
    if usage is None and headers and callable(_attribute(value, "parse")):
        usage = _usage_of(_tried(value.parse))
    return CallOutcome(200, headers, usage=usage)


def _outcome_of_error(error: BaseException) -> CallOutcome | APIError:
    """Read what a callable raised.

    Errors of this library are final: the code that raised them has retried already.
    """
    if isinstance(error, GroqQueueError):
        return error if isinstance(error, APIConnectionError) and error.is_final else _own_affair(error)
    response = _attribute(error, "response")
    status = _status_of(error) or _status_of(response)
    if status is not None and status >= 400:
        return CallOutcome(
            status, _headers_of(response) or _headers_of(error), _content_of(response) or _body_of(error)
        )
    if isinstance(error, Exception) and _names(error) & _LOST:
        return _lost(error)
    return _own_affair(error)


def _own_affair(error: BaseException) -> APIError:
    return APIError(f"the callable raised {type(error).__name__}: {excerpt(str(error))}")


def _lost(error: Exception) -> APIConnectionError:
    """Translate a lost connection, whatever library says so."""
    layers = list(_layers(error))
    names = set[str]().union(*map(_names, layers))
    is_untrusted = any(isinstance(layer, ssl.SSLCertVerificationError) for layer in layers)
    is_final = is_untrusted or bool(names & _HOPELESS)
    sent: Sent = "no" if is_final or names & _UNSENT else "unknown"
    kind = APITimeoutError if names & _TIMED_OUT else APIConnectionError
    said = f"the callable lost its connection: {type(error).__name__}: {excerpt(str(error))}"
    return kind(said, sent=sent, is_final=is_final)


def _layers(error: BaseException) -> Iterator[BaseException]:
    """Yield *error* and what it wraps, outermost first."""
    seen: set[int] = set()
    todo: list[Any] = [error]
    while todo:
        layer = todo.pop(0)
        if isinstance(layer, BaseException) and id(layer) not in seen:
            seen.add(id(layer))
            yield layer
            todo += [layer.__cause__, layer.__context__, _attribute(layer, "reason"), *layer.args]


def _names(error: BaseException) -> frozenset[str]:
    return frozenset(cls.__name__ for cls in type(error).__mro__)


def _status_of(value: Any) -> int | None:
    status = _attribute(value, "status_code")
    is_status = isinstance(status, int) and not isinstance(status, bool) and 100 <= status <= 599
    return status if is_status else None


def _headers_of(value: Any) -> dict[str, str]:
    headers = _attribute(value, "headers")
    pairs = _tried(lambda: list(headers.items())) if headers is not None else None
    return {str(name).lower(): str(text) for name, text in pairs or ()}


def _content_of(response: Any) -> bytes | None:
    """Return a response's body if it was read already; asking for ``content`` would read it."""
    content = _attribute(response, "_content")
    return content if isinstance(content, bytes) else None


def _body_of(error: BaseException) -> bytes:
    """Return an SDK error's ``body`` as it came over the wire: openai keeps only what was under ``"error"``."""
    body = _attribute(error, "body")
    if isinstance(body, Mapping):
        whole = body if "error" in body else {"error": body}
        return json.dumps(priceable(whole), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return str(error if body is None else body).encode("utf-8", "replace")


def _usage_of(value: Any) -> tuple[int, int, int] | None:
    for holder in (value, _field(value, "x_groq")):
        found = _counts(_field(holder, "usage"))
        if found is not None:
            return found
    return None


def _counts(usage: Any) -> tuple[int, int, int] | None:
    """Return ``(prompt, completion, cached)`` of a usage object or mapping, in either of the two vocabularies."""
    if usage is None:
        return None
    counts = {}
    for said, alias in (("prompt", "input"), ("completion", "output")):
        count = _field(usage, f"{said}_tokens")
        counts[f"{said}_tokens"] = _field(usage, f"{alias}_tokens") if count is None else count
    if counts["completion_tokens"] is None:
        counts["completion_tokens"] = 0
    details = (_field(usage, f"{word}_tokens_details") for word in ("prompt", "input"))
    cached = next((count for each in details if (count := _field(each, "cached_tokens")) is not None), 0)
    return usage_of({"usage": {**counts, "prompt_tokens_details": {"cached_tokens": cached}}})


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else _attribute(value, name)


def _attribute(value: Any, name: str) -> Any:
    """Return an attribute of a foreign object, or None: a property may raise anything."""
    return _tried(lambda: getattr(value, name, None))


def _tried(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception:  # a value may answer for its attributes itself: then it has none that count
        return None
