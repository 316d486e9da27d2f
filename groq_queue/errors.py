"""Every error groq_queue raises, in one tree.

Each says what happened, to which request, and what to do about it; keeps its
facts as attributes; and survives pickling (``multiprocessing``, Celery).
No error ever carries request headers, so none can leak the API key.

Source of the status codes: https://console.groq.com/docs/errors, read 2026-11.
"""

from __future__ import annotations

import functools
import queue
import reprlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, ParamSpec

_P = ParamSpec("_P")

Sent = Literal["no", "unknown", "yes"]
"""May the server have received the request? ``"no"`` is a proof, ``"unknown"`` is not."""

EXTRAS = {
    "celery": ("celery[redis]>=5.4", "redis>=5.0"),
    "otel": ("opentelemetry-api>=1.30",),
    "plots": ("matplotlib>=3.6",),
    "prometheus": ("prometheus_client>=0.20",),
    "redis": ("redis>=5",),
    "toml": ("tomli>=2",),
}
"""What each extra that the package itself uses brings, as ``setup.cfg`` says it; a test holds the two together."""

_EXCERPT = 200  # characters of a foreign body that fit into one readable line
_LARGEST_FACT = 10_000  # characters of one that is worth storing


class GroqQueueError(Exception):
    """Base of every error of this library.

    Attributes:
        request_id: Our id of the request it happened to, or None.
        custom_id: The caller's own id of that request, or None.
    """

    def __init__(self, message: str = "", *, request_id: str | None = None, custom_id: str | None = None) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.custom_id = custom_id

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self._state())

    def copy(self) -> GroqQueueError:
        """Return an equal error without a traceback, to be raised by another Future."""
        twin: GroqQueueError = _restore(type(self), self.args, self._state())
        twin.__cause__ = self.__cause__
        return twin

    def _state(self) -> dict[str, Any]:
        return self.__dict__.copy()


def _restore(cls: type[GroqQueueError], args: tuple[Any, ...], state: dict[str, Any]) -> GroqQueueError:
    """Rebuild an error without running its constructor, whose arguments differ by class."""
    error = cls.__new__(cls)
    error.args = args
    for name, value in state.items():
        setattr(error, name, value)
    return error


class ConfigurationError(GroqQueueError, ValueError):
    """An argument cannot be used; the message names the field, the value and the cure."""


class UnknownArgument(ConfigurationError, TypeError):
    """A keyword is none of the arguments; the message names the nearest one. Python's own error is a ``TypeError``."""


class MissingExtraError(GroqQueueError, ImportError):
    """An optional package is not installed; the message names the extra and the command that installs it.

    Attributes:
        extra: Name of the extra, one of ``EXTRAS``, or None.
    """

    extra: str | None = None

    @classmethod
    def needed(cls, purpose: str, extra: str, otherwise: str = "") -> MissingExtraError:
        """Return the error of *purpose*, which needs the packages of *extra*.

        The command names the packages and not ``groq_queue[extra]``: it works wherever this library came from.

        Args:
            purpose: What cannot be done without them.
            extra: A key of ``EXTRAS``.
            otherwise: What can be done instead, if there is anything.
        """
        command = " ".join(f"'{requirement}'" for requirement in EXTRAS[extra])
        instead = f", or {otherwise}" if otherwise else ""
        error = cls(f"{purpose} needs the extra {extra!r}, which is not installed: pip install {command}{instead}")
        error.extra = extra
        return error

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "msg": self.msg}  # ImportError keeps it outside __dict__


class QueueClosed(GroqQueueError, RuntimeError):
    """The queue was shut down before this call."""


class DeadlockError(GroqQueueError, RuntimeError):
    """A callable of the queue waits for a request of the same queue that cannot end before it."""


class QueueBusy(GroqQueueError):
    """The queue could not serve the request in the time or room it had.

    Attributes:
        retry_after: Seconds after which trying again makes sense, or None if unknown.
    """

    def __init__(self, message: str = "", *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after = retry_after


class QueueFull(QueueBusy, queue.Full, ValueError):
    """There is no room for one more pending request.

    Attributes:
        limit: The bound that was reached, in requests.
        client: The client whose own bound was reached, or None for the whole queue's.
    """

    def __init__(self, message: str = "", *, limit: int, client: str | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.limit = limit
        self.client = client


class QueueTimeout(QueueBusy):
    """``max_wait`` or ``deadline`` passed; the last attempt's error, if any, is the cause."""


class RequestTooLarge(GroqQueueError, ValueError):
    """The request costs more than its limit ever holds; waiting cannot help.

    Attributes:
        cost: Units the request may use.
        capacity: Units the limit holds when it is full.
        limit: Name of the limit, such as ``"tokens per minute (TPM)"``.
    """

    def __init__(self, cost: int, capacity: int, limit: str, **facts: Any) -> None:
        if "audio" in limit:
            cure = f"shorten the audio by {cost - capacity} s"
        elif "input" in limit:
            cure = f"shorten the prompt by {cost - capacity} tokens"
        else:
            cure = f"lower max_completion_tokens by {cost - capacity} or shorten the prompt"
        super().__init__(f"request may use {cost} but {limit} never holds more than {capacity}: {cure}", **facts)
        self.cost, self.capacity, self.limit = cost, capacity, limit


class DailyLimitReached(GroqQueueError):
    """A limit per day is spent; it drains continuously, there is no midnight reset.

    Attributes:
        resets_in: Seconds until the request would fit, or None if unknown.
        limit: Name of the limit.
    """

    def __init__(self, message: str = "", *, resets_in: float | None, limit: str, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.resets_in, self.limit = resets_in, limit


class LimiterUnavailable(GroqQueueError):
    """The store in which processes share their budgets cannot be used; the message names the cure.

    Attributes:
        address: Where it is, without any password.
    """

    def __init__(self, message: str = "", *, address: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.address = address


class CostLimitReached(GroqQueueError):
    """``max_cost`` leaves no room for this request."""


class JournalError(GroqQueueError):
    """The journal file cannot be read or written; the message names its path."""


class EngineUnavailable(GroqQueueError):
    """The broker of ``engine="celery"``, or the Redis behind it, cannot be reached or has lost its data.

    Attributes:
        address: Where it was looked for, without a password.
    """

    def __init__(self, message: str = "", *, address: str, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.address = address


class APIError(GroqQueueError):
    """An attempt failed at or on the way to the API.

    Attributes:
        server_request_id: The server's id of the attempt (``x-request-id``), or None.
        attempts: How many attempts were sent in all, this one included.
    """

    server_request_id: str | None = None
    attempts: int = 1


class APIConnectionError(APIError):
    """No usable answer came back.

    Attributes:
        sent: ``"no"`` if the request certainly never left, ``"yes"`` if the
            server certainly got it, else ``"unknown"``: it may have been billed.
        is_final: True if another attempt cannot help (a bad certificate, say).
        is_stale: True if a kept connection ended within about a round trip of the write, without a byte of
            answer: the server had most probably closed it before the request came.
    """

    is_stale = False

    def __init__(self, message: str = "", *, sent: Sent = "unknown", is_final: bool = False, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.sent: Sent = sent
        self.is_final = is_final


class APITimeoutError(APIConnectionError):
    """The attempt ran into its ``timeout``."""


class APIResponseError(APIError):
    """The answer's status was 200 but its body was cut short or is not the JSON expected.

    The request was processed and may have been billed.
    """


class APIStatusError(APIError):
    """The API answered with an error status.

    Attributes:
        status_code: HTTP status.
        body: The decoded JSON body, or the text of a body that is not JSON.
        headers: Response headers, names in lower case.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status_code: int,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.status_code = status_code
        self.body = body
        self.headers = dict(headers or {})
        self.server_request_id = self.headers.get("x-request-id")


class BadRequestError(APIStatusError):
    """400: the request itself is wrong."""


class AuthenticationError(APIStatusError):
    """401: the API key is missing, wrong or revoked."""


class PermissionDeniedError(APIStatusError):
    """403: the key may not use this model, or the network is not allowed."""


class NotFoundError(APIStatusError):
    """404: no such model or endpoint."""


class ContentTooLargeError(APIStatusError):
    """413, or a 429 that says "Request too large": it never fits as it is."""


class UnprocessableEntityError(APIStatusError):
    """422: the request is well formed but cannot be followed."""


class RateLimitError(APIStatusError):
    """429: refused by the server's limiter after every retry."""


class CapacityExceededError(APIStatusError):
    """498: the flex tier is full."""


class InternalServerError(APIStatusError):
    """5xx: the server or a proxy before it failed."""


_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    413: ContentTooLargeError,
    422: UnprocessableEntityError,
    429: RateLimitError,
    498: CapacityExceededError,
}


def status_error(
    status_code: int, body: Any, headers: Mapping[str, str], *, too_large: bool = False, **facts: Any
) -> APIStatusError:
    """Build the typed error of an error status.

    Args:
        status_code: HTTP status, 300..599.
        body: The decoded JSON body, or the text of a body that is not JSON.
        headers: Response headers, names in lower case.
        too_large: The limiter said that the request never fits.
        facts: ``request_id`` and ``custom_id`` of the request.

    Returns:
        An instance of the subclass for that status.
    """
    if too_large:
        cls: type[APIStatusError] = ContentTooLargeError
    else:
        cls = _BY_STATUS.get(status_code, InternalServerError if status_code >= 500 else APIStatusError)
    if 300 <= status_code < 400:
        said = f"redirect to {excerpt(headers.get('location', 'nowhere'))} refused: set base_url to the final address"
    else:
        said = excerpt(error_message(body)) or "no message"
    return cls(f"HTTP {status_code}: {said}", status_code=status_code, body=body, headers=headers, **facts)


def error_message(body: Any) -> str:
    """Return the human sentence of an error body, whatever its shape."""
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        if isinstance(inner, Mapping):
            return str(inner.get("message") or "")
        return "" if inner is None else str(inner)
    return "" if body is None else str(body)


def excerpt(text: str, most: int = _EXCERPT) -> str:
    """Return at most *most* characters of *text* on one line, control characters escaped."""
    short = text[:most]
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in short.strip())
    return printable if len(text) <= most else printable + "…"


class _Shower(reprlib.Repr):
    """Looks at no more of a value than is printed of it."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = _EXCERPT
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 8


_shower = _Shower()


def safe_repr(value: object, most: int = 100) -> str:
    """Return the first *most* characters of the repr of *value*, or its type if its repr fails.

    As that of a detached row of an ORM does, or of an int of 5,000 digits. A value whose repr holds a prompt, which
    belongs in no error, has a ``_repr_for_errors`` beside it.
    """
    try:
        shorter = getattr(type(value), "_repr_for_errors", None)
        text = _shower.repr(value) if shorter is None else shorter(value)
    except Exception:
        return f"<a {type(value).__name__}>"
    return text if len(text) <= most else text[:most] + "…"


def nearest(name: str, known: Collection[str]) -> str:
    """Return the cure for a *name* that is none of the *known* ones: the one that was meant, or all of them."""
    import difflib  # not at the top: most programs never need it

    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"


def refusing_unknown(
    init: Callable[_P, None], cure_for: Callable[[str, Collection[str]], str] = nearest
) -> Callable[_P, None]:
    """Let *init*, which takes keywords only, name the nearest argument when it is given one that it does not have.

    Args:
        init: Of a class.
        cure_for: Returns what to do about a name, given those that are known.

    Raises:
        UnknownArgument: A keyword is none of its arguments, or something was given by position; no value is shown.
    """
    checked: Any = init  # whose parameters a wrapper cannot name
    code = init.__code__
    names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    known = frozenset(names)

    @functools.wraps(init)
    def checking(self: Any, *args: Any, **given: Any) -> None:
        what = type(self).__name__
        if args:
            raise UnknownArgument(f"{what}() takes no positional arguments: name each, as in {what}({names[0]}=...)")
        if not known.issuperset(given):
            name = next(name for name in given if name not in known)
            raise UnknownArgument(f"{what}({name}=...): there is no such argument; {cure_for(name, known)}")
        checked(self, **given)

    return checking  # type: ignore[return-value]


def record_of(error: BaseException) -> dict[str, Any]:
    """Return what is worth keeping of *error* as JSON-like values: its kind, its message, its plain facts."""
    facts = {name: value for name, value in vars(error).items() if name != "headers" and _is_plain(value)}
    return {"kind": type(error).__name__, "message": str(error), "facts": facts}


def error_of(record: Mapping[str, Any]) -> GroqQueueError:
    """Return the error that ``record_of`` described, of its own type if that is one of ours."""
    cls = globals().get(str(record.get("kind")))
    facts = dict(record.get("facts") or {})
    message = str(record.get("message") or record.get("kind"))
    if not (isinstance(cls, type) and issubclass(cls, GroqQueueError)):
        # A request that was in flight when its process ended: it is not known whether it was answered.
        return APIConnectionError(message, sent="unknown", is_final=True)
    if issubclass(cls, APIStatusError):
        facts["headers"] = {}
    return _restore(cls, (message,), {"request_id": None, "custom_id": None, **facts})


def _is_plain(value: Any) -> bool:
    """Return whether *value* is of the kinds that JSON has, and not large."""
    if isinstance(value, Mapping):
        return len(str(value)) <= _LARGEST_FACT and all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return len(value) <= _EXCERPT and all(map(_is_plain, value))
    return (
        value is None
        or isinstance(value, (bool, int, float))
        or (isinstance(value, str) and len(value) <= _LARGEST_FACT)
    )
