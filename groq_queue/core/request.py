"""What was submitted: a snapshot of the payload as bytes, and its state.

The caller's objects are read once, at ``submit``; what is sent later is what was
checked and priced then, whatever happens to them in between.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from json import encoder
from typing import Any, TypeAlias

from groq_queue.core.token_estimate import PromptSize
from groq_queue.errors import ConfigurationError, GroqQueueError

CHAT = "chat/completions"
MAX_PAYLOAD_BYTES = 10 * 1024 * 1024
_MAX_DEPTH = 100

Prompt: TypeAlias = str | Sequence[Mapping[str, Any]] | Mapping[str, Any]
"""What ``submit`` takes: one user message, messages, or a whole payload."""

_LONG = 300  # characters of a path inside the payload, with what is wrong there

_LEAVES = frozenset({str, int, float, bool, type(None)})

_rng = random.Random()  # of our own: a program that seeds the stdlib's would repeat its ids
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_rng.seed)  # ids of a forked child are not those of its parent


def _make_encode() -> Callable[[Any, int], Iterable[str]]:
    """Return what writes JSON in pieces; made once, as ``json.dumps`` makes it anew for each call, which takes longer.

    Nothing is remembered to find circles: ``encode_payload`` has looked.
    """
    plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))
    in_c: Any = getattr(encoder, "c_make_encoder", None)  # undocumented, and missing on some interpreters
    write: Any = getattr(encoder, "encode_basestring", None)
    try:
        made: Callable[[Any, int], Iterable[str]] = in_c(
            None, plain.default, write, None, ":", ",", False, False, False
        )
    except TypeError:
        return plain.iterencode  # type: ignore[return-value]
    return made


_encode = _make_encode()


class State(Enum):
    """The state of a request. It is pending again while it waits for a retry."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    __hash__ = object.__hash__  # ends are counted by state; Enum's own is a call in Python


_PENDING = State.PENDING  # looked up once, not by each request


class Request:
    """One submitted request.

    Everything that changes is guarded by the lock of the engine that holds it.
    A million may wait: what few of them have is not stored until it differs from the default.
    """

    __slots__ = (
        "__dict__",  # made for the first of those below, 0.5 kB: only with a value that is not the default
        "_id",
        "arrival",
        "attempts",
        "body",
        "client",
        "custom_id",
        "endpoint",
        "future",
        "is_paged_out",
        "lane",
        "model",
        "priority",
        "rank",
        "row_id",
        "seq",
        "size",
        "started_ns",
        "state",
        "submitted_ns",
        "turn_cost",
        "was_taken",
    )

    call: Any = None  # the user's callable, dropped when the request ends
    max_wait_ns: int | None = None
    deadline_ns: int | None = None
    not_before_ns: int | None = None
    shrinks = False
    retries = 0
    refusals = 0
    unknown = 0  # attempts that the server may have processed without our getting the answer
    overtaken = 0  # refusals while attempts sent later were answered
    was_stale = False  # one attempt met a kept connection that the server was just closing
    refused_ns: int | None = None  # when the last attempt that was refused without numbers was sent
    failing_ns: int | None = None  # when the first of its failures came, with no request answered since
    last_error: GroqQueueError | None = None
    due_ns: int | None = None  # when it comes back into its lane
    noted: tuple[Any, ...] = ()  # by each observer when it was submitted
    timers: tuple[Callable[[], None], ...] = ()  # each calls one timer off

    def __init__(
        self,
        model: str,
        endpoint: str,
        body: bytes | None,
        size: PromptSize,
        priority: int,
        client: str = "default",
        custom_id: str | None = None,
        tier: str | None = None,
        *,
        max_wait_ns: int | None = None,
        deadline_ns: int | None = None,
        not_before_ns: int | None = None,
        turn_cost: int = 1,
        shrinks: bool = False,
        request_id: str | None = None,
        call: Any = None,
    ) -> None:
        """
        Args:
            model: Its model.
            endpoint: Path below the base URL.
            body: The payload, encoded as JSON; None if the journal has it.
            size: What is known of its cost.
            priority: 0..10.
            client: Whose turn it uses.
            custom_id: The caller's own id.
            tier: Service tier with budgets of its own, or None for the usual one.
            max_wait_ns: Nanoseconds from submit in which it must have started.
            deadline_ns: Nanoseconds from submit after which no attempt starts.
            not_before_ns: Nanoseconds from submit before which no attempt starts.
            turn_cost: Units of its client's share that it uses.
            shrinks: The completion allowance may be lowered to what fits.
            request_id: Our id of it, if it has one already.
            call: The user's callable to run instead of sending *body*, see ``engine.callables``.
        """
        self._id: str | int = request_id or _rng.getrandbits(128)
        self.model = model
        self.lane = model if tier is None else lane_of(model, tier)
        self.endpoint = endpoint
        self.body: bytes | None = body  # dropped when the request ends, and while a journal has it
        self.size = size
        self.priority = priority
        self.client = client
        self.custom_id = custom_id
        self.turn_cost = turn_cost
        self.rank = priority
        self.arrival = 0  # number of its place in its lane's line; 0 while it is in none
        self.seq: tuple[int, int] | None = None  # its entry's place in the heap, once it had one
        self.was_taken = False  # its client's turn was counted
        self.state = _PENDING
        self.attempts = 0
        self.submitted_ns = 0
        self.started_ns: int | None = None
        self.row_id: int | None = None  # of its row in the journal
        self.is_paged_out = False  # it is there only
        self.future: Any = None
        if call is not None:
            self.call = call
        if max_wait_ns is not None:
            self.max_wait_ns = max_wait_ns
        if deadline_ns is not None:
            self.deadline_ns = deadline_ns
        if not_before_ns is not None:
            self.not_before_ns = not_before_ns
        if shrinks:
            self.shrinks = True

    @property
    def id(self) -> str:
        """Our id of it: 32 hex digits, unlike any other's. Written out when it is first asked for."""
        known = self._id
        if not isinstance(known, str):
            known = self._id = f"{known:032x}"
        return known

    @property
    def has_bounds(self) -> bool:
        """Whether its time can run out."""
        return self.max_wait_ns is not None or self.deadline_ns is not None

    @property
    def bounds_ns(self) -> list[int]:
        """The nanoseconds after which its time has run out."""
        return [bound for bound in (self.deadline_ns, self.max_wait_ns) if bound is not None]

    def is_past(self, now_ns: int) -> bool:
        """Return whether its time has run out while no process had it."""
        age_ns = now_ns - self.submitted_ns
        if self.deadline_ns is not None and age_ns >= self.deadline_ns:
            return True
        return self.max_wait_ns is not None and age_ns >= self.max_wait_ns and not self.attempts

    def __str__(self) -> str:
        return f"request {self.custom_id!r}" if self.custom_id is not None else f"request {self.id[:8]}"


def build_payload(
    content: Any, messages: Any, model: str | None, params: Mapping[str, Any], endpoint: str
) -> dict[str, Any]:
    """Turn what a caller passed to ``submit`` into one payload.

    Args:
        content: A str (one user message), a sequence of message mappings, a whole
            payload, or None.
        messages: The messages by keyword, or None.
        model: Used where the payload names none.
        params: Passed to the API untouched.
        endpoint: Where it goes; only chat needs messages.

    Raises:
        ConfigurationError: Nothing, or two things, to send; no model; wrong shapes.
        TypeError: A callable, which belongs to ``submit_call``.
    """
    if callable(content):
        raise TypeError(
            "submit() takes a prompt, messages or a payload; for your own callable use submit_call(fn, *args)"
        )
    if content is not None and messages is not None:
        raise ConfigurationError("messages=: the prompt was given as well; pass one of the two")
    payload: dict[str, Any] = {}
    prompt: list[dict[str, str]] | None = None
    if isinstance(content, str):
        messages = prompt = [{"role": "user", "content": content}]
    elif isinstance(content, (dict, Mapping)):
        payload.update(content)
    elif isinstance(content, (list, Sequence)) and not isinstance(content, (bytes, bytearray)):
        messages = content
    elif content is not None:
        raise ConfigurationError(
            f"prompt={reprlib.repr(content)}: pass a str, a list of message dicts or a payload dict, "
            f"not {type(content).__name__}"
        )
    if messages is not None:
        payload["messages"] = messages
    payload.update(params)
    if payload.get("model") is None:
        payload["model"] = model
    if not isinstance(payload["model"], str) or not payload["model"].strip():
        given = reprlib.repr(payload["model"])
        raise ConfigurationError(f"model={given}: name a model in submit(), in the payload or in GroqQueue(model=...)")
    if endpoint == CHAT and (prompt is None or payload["messages"] is not prompt):
        _check_messages(payload.get("messages"), payload)
    if payload.get("stream"):
        raise ConfigurationError("stream=True: a queued answer is delivered whole; leave stream out")
    return payload


def tier_of(payload: Mapping[str, Any]) -> str | None:
    """Return the service tier if it has budgets of its own."""
    tier = payload.get("service_tier")
    return tier if isinstance(tier, str) and tier not in ("auto", "on_demand") else None


def lane_of(model: str, tier: str | None) -> str:
    """Return the name of the lane, and of the budget, of *model* in *tier*."""
    return model if tier is None else f"{model} ({tier})"


def _check_messages(messages: Any, payload: Mapping[str, Any]) -> None:
    if messages is None and "role" in payload:
        raise ConfigurationError(
            f"prompt={reprlib.repr(dict(payload))}: one message; pass a list of them, as in [{{'role': 'user', "
            "'content': '...'}]"
        )
    if messages is None:
        raise ConfigurationError("messages: nothing to send; pass a prompt, messages or a payload with messages")
    # The usual types stand first: asking an abstract class takes a quarter of a microsecond.
    if not isinstance(messages, (list, tuple, Sequence)) or isinstance(messages, (str, bytes)):
        raise ConfigurationError(
            f"messages={reprlib.repr(messages)}: a list of message dicts is needed, as in [{{'role': 'user', "
            "'content': '...'}]"
        )
    if not messages:
        raise ConfigurationError("messages=[]: at least one message is needed")
    for index, message in enumerate(messages):
        if not isinstance(message, (dict, Mapping)):
            raise ConfigurationError(
                f"messages[{index}]={reprlib.repr(message)}: a message is a dict with role and content"
            )
        if not isinstance(message.get("role"), str):
            raise ConfigurationError(f"messages[{index}]['role']={reprlib.repr(message.get('role'))}: a str is needed")


def encode_payload(payload: Mapping[str, Any], most: int = MAX_PAYLOAD_BYTES) -> bytes:
    """Return *payload* as compact UTF-8 JSON.

    Raises:
        ConfigurationError: A value that JSON cannot hold, named by its path, or
            more than *most* bytes in all.
    """
    body, problem = b"", None if _is_plain(payload, _MAX_DEPTH) else _problem_in(payload, "payload", 0)
    if problem is None:
        try:
            body = "".join(_encode(payload, 0)).encode("utf-8")
        except UnicodeEncodeError as error:
            near = error.object[max(0, error.start - 20) : error.start]
            problem = f"payload: holds half of a surrogate pair after {near!r}"
        except (TypeError, ValueError) as error:
            problem = _problem_in(payload, "payload", 0) or f"payload: {error}"
    if problem is not None:
        if len(problem) > _LONG:  # names of keys and depth are the caller's; both ends tell enough
            problem = f"{problem[: _LONG // 2]}…{problem[-_LONG // 2 :]}"
        raise ConfigurationError(f"{problem}; JSON cannot carry it")
    if len(body) > most:
        raise ConfigurationError(
            f"payload: {len(body):,} bytes, more than max_payload_bytes={most:,}: shorten it, or raise that bound"
        )
    return body


def normal_form(body: bytes) -> bytes:
    """Return what two payloads that ask for the same have in common.

    The order of keywords does not matter, nor that inside messages; inside the rest it
    does, because models follow the order of a JSON schema's properties.

    Raises:
        ValueError: It is not a JSON object.
    """
    payload = json.loads(body)
    if not isinstance(payload, dict):
        raise ValueError("not a JSON object")
    parts = {name: json.dumps(part, sort_keys=name == "messages") for name, part in payload.items()}
    return json.dumps(parts, sort_keys=True).encode()


def lower_cap(body: bytes, by: int) -> tuple[bytes, int] | None:
    """Return *body* with its completion allowance lowered *by* that many tokens, and the new allowance.

    Returns:
        None if it has none, or not that many.
    """
    payload = json.loads(body)
    for field in ("max_completion_tokens", "max_tokens"):
        cap = payload.get(field)
        if isinstance(cap, int) and not isinstance(cap, bool):
            if cap - by < 1:
                return None
            payload[field] = cap - by
            return encode_payload(payload, len(body)), cap - by
    return None


def _is_plain(value: Any, depth: int) -> bool:
    """Return whether *value* is dicts and lists of the plainest kind, at most *depth* of them inside each other.

    What is inside a float or a str is left to the encoder.
    """
    inner: Iterable[Any]
    if type(value) is dict:
        for key in value:
            if type(key) is not str:
                return False
        inner = value.values()
    elif type(value) is list:
        inner = value
    else:
        return False
    for each in inner:
        if type(each) in _LEAVES:
            continue
        if depth == 1 or not _is_plain(each, depth - 1):
            return False
    return True


def _problem_in(value: Any, path: str, depth: int) -> str | None:
    """Return where and why *value* is not JSON, or None."""
    if isinstance(value, (str, bool, int)) or value is None:
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path}={value!r}"
    if depth >= _MAX_DEPTH:
        return f"{path}: nested deeper than {_MAX_DEPTH} levels, or holding itself"
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                return f"{path}: the key {key!r:.50} is not a str"
            problem = _problem_in(inner, f"{path}[{key!r}]", depth + 1)
            if problem is not None:
                return problem
        return None
    if isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            problem = _problem_in(inner, f"{path}[{index}]", depth + 1)
            if problem is not None:
                return problem
        return None
    return f"{path}={reprlib.repr(value)} is a {type(value).__name__}"


_TEXT_NAMES = (b'"content":', b'"text":', b'"input":', b'"prompt":')
_TEXT = re.compile(rb'"\w+": ?\[?"((?:[^"\\]|\\.){1,400})')


def head_of_prompt(body: bytes) -> str:
    """Return the first 60 characters of what a payload asks last, ``""`` if it asks nothing in words.

    >>> head_of_prompt(b'{"model":"m","messages":[{"role":"user","content":"Why?"}]}')
    'Why?'
    """
    end = len(body)
    for _ in range(16):  # names that hold no text may come behind the last that does
        end = max(body.rfind(name, 0, end) for name in _TEXT_NAMES)
        if end < 0:
            return ""
        found = _TEXT.match(body, end)
        if found is not None:
            return _head(found[1].decode("utf-8", "ignore"))
    return ""


def _head(escaped: str) -> str:
    try:
        text = str(json.loads(f'"{escaped}"'))
    except ValueError:  # it was cut inside an escape
        text = escaped
    return text if len(text) <= 60 else f"{text[:60]}…"
