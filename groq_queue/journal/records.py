"""What goes into the journal and what comes out: plain values, no behaviour to speak of."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from groq_queue.core.request import MAX_PAYLOAD_BYTES
from groq_queue.core.token_estimate import PromptSize
from groq_queue.errors import ConfigurationError

FINAL = ("completed", "failed", "cancelled", "expired")
STATUSES = ("pending", "processing", *FINAL)
INT64 = 1 << 63


class Entry(NamedTuple):
    """One request, as it is accepted.

    Attributes:
        request_id: Our id of it.
        custom_id: The caller's own id, unique in the journal. Of None the payload is the id: the n-th
            equal payload since ``open`` is the n-th of that payload in the file.
        lane: Whose line it waits in.
        model: Its model.
        endpoint: Path below the base URL.
        priority: Smaller goes first.
        client: Whose turn it uses.
        payload: Compact JSON; what is hashed, and what is sent.
        size: What is known of its cost.
        created_ns: Wall-clock instant of ``submit``.
        options: Whatever else is needed to make the request again; JSON-like, returned as it was given.
    """

    request_id: str
    custom_id: str | None
    lane: str
    model: str
    endpoint: str
    priority: int
    client: str
    payload: bytes
    size: PromptSize
    created_ns: int
    options: Mapping[str, Any] | None = None


class Cursor(NamedTuple):
    """A place in the order of the pending requests: by stack (lane, level, client), then by arrival."""

    lane: str
    priority: int
    client: str
    row_id: int


class Stack(NamedTuple):
    """The pending requests of one lane, level and client."""

    lane: str
    model: str
    priority: int
    client: str
    waiting: int


class Row(NamedTuple):
    """One pending request, with its payload if that is short.

    Attributes:
        custom_id: The id under which it is stored.
        is_named: That is the caller's own, not one made of the payload.
        attempts: How many times it was claimed, so sent at most.
        unanswered: How many of these ended in a crash, outcome unknown.
    """

    row_id: int
    request_id: str
    custom_id: str
    is_named: bool
    lane: str
    model: str
    endpoint: str
    priority: int
    client: str
    size: PromptSize
    attempts: int
    unanswered: int
    created_ns: int
    options: dict[str, Any]
    short_payload: bytes | None = None

    @property
    def cursor(self) -> Cursor:
        """Its place; ``pending(after=...)`` continues behind it."""
        return Cursor(self.lane, self.priority, self.client, self.row_id)


class Stored(NamedTuple):
    """The status of one request, and how it ended.

    Attributes:
        status: ``"unknown"`` (never accepted, or pruned), ``"pending"``, ``"processing"``,
            ``"completed"``, ``"failed"``, ``"cancelled"`` or ``"expired"``.
        result: The response body, or None.
        error: ``{"kind", "message", ...}`` dict, or None.
        usage: Prompt, completion and cached tokens, or None.
        attempts: How many times it was claimed, so sent at most.
        unanswered: How many of these ended in a crash, outcome unknown.
        claimed_ns: When it was claimed last, or None.
        finished_ns: When it reached its final status, or None.
    """

    status: str
    custom_id: str
    is_named: bool = True
    row_id: int | None = None
    request_id: str | None = None
    model: str | None = None
    endpoint: str | None = None
    payload_hash: str | None = None
    result: bytes | None = None
    error: dict[str, Any] | None = None
    usage: tuple[int, int, int] | None = None
    attempts: int = 0
    unanswered: int = 0
    created_ns: int | None = None
    claimed_ns: int | None = None
    finished_ns: int | None = None
    priority: int = 0
    client: str = ""
    size: PromptSize = PromptSize(0, 0)

    @property
    def is_final(self) -> bool:
        """It will not be sent any more."""
        return self.status in FINAL


class Accepted(NamedTuple):
    """What ``add`` did.

    Attributes:
        is_new: It is to be sent: it was not there, or had been cancelled or had expired.
        stored: The status of the earlier request of this ``custom_id``, or None if this one is new.
    """

    row_id: int
    is_new: bool
    stored: Stored | None = None


class Recovery(NamedTuple):
    """What became of the requests that were in flight when the last owner ended."""

    resent: int = 0  # pending again
    poisoned: int = 0  # failed: they were in flight at too many crashes
    held: int = 0  # failed: the policy is not to send what may have been answered


class SavedLevel(NamedTuple):
    """How full one bucket of a budget was.

    Attributes:
        used: Units in use.
        at_wall_ns: Wall-clock instant at which that was so.
    """

    account: str
    lane: str
    dimension: str
    limit: int
    period_ns: int
    used: int
    at_wall_ns: int


class JournalSummary(NamedTuple):
    """The journal in one view, for people."""

    path: str
    schema: int
    counts: dict[str, int]
    oldest_pending_ns: int | None  # when the pending request that came first was accepted
    errors_by_kind: dict[str, int]
    completed_last_minute: int
    file_bytes: int
    wal_bytes: int
    owner_pid: int | None  # who has it open, or None


def hash_of(payload: bytes) -> str:
    """Return what two payloads are compared by."""
    return hashlib.sha256(payload).hexdigest()


def columns_of(entry: Entry) -> tuple[Any, ...]:
    """Return *entry* as ``idempotency`` inserts it, but for the row id and the name, after checking every field.

    Checked here, on the caller's thread and before anything is queued, because a
    value that SQLite refuses in the middle of a shared commit costs everyone a second try.

    Raises:
        ConfigurationError: A field that the file cannot hold, named.
    """
    size = entry.size
    texts = (entry.request_id, entry.lane, entry.model, entry.endpoint, entry.client, entry.custom_id or "")
    numbers = (entry.priority, entry.created_ns, size.base, size.completion or 0, size.audio_s)
    if not _are_plain(texts, numbers):
        for field, text in zip(_TEXTS, texts, strict=True):
            check_text(field, text)
        for field, number in zip(_NUMBERS, numbers, strict=True):
            if not isinstance(number, int) or not -INT64 <= number < INT64:
                raise ConfigurationError(f"{field}={number!r:.50}: use a whole number of at most 63 bits")
    if not isinstance(entry.payload, bytes) or len(entry.payload) > MAX_PAYLOAD_BYTES:
        raise ConfigurationError(f"payload: use at most {MAX_PAYLOAD_BYTES:,} bytes of JSON")
    return (
        entry.priority,
        entry.client,
        entry.lane,
        size.base,
        size.completion,
        size.audio_s,
        int(size.is_exact),
        entry.created_ns,
        to_json("options", entry.options) if entry.options else None,
        entry.request_id,
        entry.model,
        entry.endpoint,
        hash_of(entry.payload),
    )


_TEXTS = ("request_id", "lane", "model", "endpoint", "client", "custom_id")
_NUMBERS = ("priority", "created_ns", "size.base", "size.completion", "size.audio_s")
_pack = struct.Struct("5q").pack


def _are_plain(texts: tuple[str, ...], numbers: tuple[int, ...]) -> bool:
    """Return whether SQLite surely takes them; asked of each request, where looking at each field would be felt."""
    try:
        _pack(*numbers)
        return "".join(texts).isascii()
    except (struct.error, TypeError):
        return False


def check_text(field: str, value: Any) -> None:
    """Refuse what SQLite cannot store as text.

    Raises:
        ConfigurationError: Not a str, or half of a surrogate pair in it.
    """
    if not isinstance(value, str):
        raise ConfigurationError(f"{field}={value!r:.50}: use a str")
    if value.isascii():
        return
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigurationError(f"{field}={value!r:.50}: holds half of a surrogate pair; use valid Unicode") from None


def to_json(field: str, value: Mapping[str, Any]) -> str:
    """Return *value* as ASCII JSON, which any reader of the file can decode.

    Raises:
        ConfigurationError: JSON cannot carry it.
    """
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{field}: JSON cannot carry it ({error})") from None
