"""The questions that are asked of the tables, each on a connection that the caller has locked."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

from groq_queue.core.token_estimate import PromptSize
from groq_queue.journal.records import INT64, STATUSES, Cursor, Row, Stack, Stored, hash_of

# These must stand in a query for the partial index of that name to be used.
UNFINISHED = "status IN ('pending', 'processing')"
UNHAPPY = "status IN ('failed', 'cancelled', 'expired')"

_ROW = (
    "id, request_id, custom_id, session IS NULL, lane, model, endpoint, priority, client, "
    "size_base, size_completion, size_audio_s, size_is_exact, attempts, unanswered, created_ns, options, "
    "short_payload, payload_hash"
)
_STORED = """
    SELECT r.status, r.custom_id, r.session IS NULL, r.id, r.request_id, r.model, r.endpoint, r.payload_hash,
           results.body, r.error, r.prompt_tokens, r.completion_tokens, r.cached_tokens, r.attempts, r.unanswered,
           r.created_ns, r.claimed_ns, r.finished_ns, r.priority, r.client,
           r.size_base, r.size_completion, r.size_audio_s, r.size_is_exact
    FROM requests AS r LEFT JOIN results ON results.id = r.id
"""
_WAITING = f"SELECT {_ROW} FROM requests WHERE status = 'pending' AND {UNFINISHED}"
_ORDER = "ORDER BY lane, priority, client, id LIMIT ?"
# Four questions, not one of (lane, priority, client, id) > (?, ?, ?, ?): that would look at every row of the lane.
_SAME_STACK = f"{_WAITING} AND lane = ? AND priority = ? AND client = ? AND id > ? {_ORDER}"
_LATER_CLIENTS = f"{_WAITING} AND lane = ? AND priority = ? AND client > ? {_ORDER}"
_LATER_PRIORITIES = f"{_WAITING} AND lane = ? AND priority > ? {_ORDER}"
_LATER_LANES = f"{_WAITING} AND lane > ? {_ORDER}"

_BY_STATUS = f"""
    SELECT status, count(*) FROM requests WHERE {UNFINISHED} GROUP BY status
    UNION ALL
    SELECT status, count(*) FROM requests WHERE {UNHAPPY} GROUP BY status
"""


def stored_as(connection: sqlite3.Connection, custom_id: str) -> Stored | None:
    """Return the status and outcome of the request of that name, or None if there is none."""
    return _stored(connection.execute(_STORED + "WHERE r.custom_id = ?", (custom_id,)).fetchone())


def stored_at(connection: sqlite3.Connection, row_id: int) -> Stored | None:
    """Return the status and outcome of the request of that row, or None if there is none."""
    return _stored(connection.execute(_STORED + "WHERE r.id = ?", (row_id,)).fetchone())


def _stored(found: Any) -> Stored | None:
    if found is None:
        return None
    result, error, prompt = found[8:11]
    known = None if error is None else json.loads(error)
    usage = None if prompt is None else found[10:13]
    base, completion, audio_s, is_exact = found[20:24]
    size = PromptSize(base, completion, audio_s, bool(is_exact))
    return Stored._make([*found[:2], bool(found[2]), *found[3:8], result, known, usage, *found[13:20], size])


def page(connection: sqlite3.Connection, after: Cursor | None, limit: int) -> list[Row]:
    """Return the next *limit* pending requests, in order."""
    place = Cursor("", -INT64, "", 0) if after is None else after
    found: list[Any] = []
    for question, length in ((_SAME_STACK, 4), (_LATER_CLIENTS, 3), (_LATER_PRIORITIES, 2), (_LATER_LANES, 1)):
        if len(found) < limit:
            found += connection.execute(question, (*place[:length], limit - len(found))).fetchall()
    return [_row(each) for each in found]


def stack_page(connection: sqlite3.Connection, after: Cursor, limit: int) -> list[Row]:
    """Return the next *limit* pending requests of one stack."""
    return [_row(each) for each in connection.execute(_SAME_STACK, (*after, limit))]


def stacks(connection: sqlite3.Connection) -> list[Stack]:
    """Return every stack that has a pending request, in order; each takes one step in the index and a count there."""
    found: list[Stack] = []
    place = Cursor("", -INT64, "", 0)
    while rows := page(connection, place, 1):
        row = rows[0]
        count = connection.execute(
            f"SELECT count(*) FROM requests WHERE status = 'pending' AND {UNFINISHED} "
            "AND lane = ? AND priority = ? AND client = ?",
            (row.lane, row.priority, row.client),
        ).fetchone()[0]
        found.append(Stack(row.lane, row.model, row.priority, row.client, count))
        place = row.cursor._replace(row_id=INT64 - 1)
    return found


def pages(connection: sqlite3.Connection, size: int = 1_000) -> Iterator[list[Row]]:
    """Yield every pending request, in order, a page at a time."""
    place = None
    while rows := page(connection, place, size):
        yield rows
        place = rows[-1].cursor


def pending_row(connection: sqlite3.Connection, row_id: int) -> Row | None:
    """Return one request if it is pending."""
    found = connection.execute(f"SELECT {_ROW} FROM requests WHERE id = ? AND status = 'pending'", (row_id,)).fetchone()
    return None if found is None else _row(found)


def _row(found: tuple[Any, ...]) -> Row:
    base, completion, audio_s, is_exact, *history, options, payload, digest = found[9:]
    size = PromptSize(base, completion, audio_s, bool(is_exact))
    known = json.loads(options) if options else {}
    if payload is not None and hash_of(payload) != digest:
        payload = None  # a reader that asks for it alone gets the error that it is damaged
    return Row._make([*found[:3], bool(found[3]), *found[4:9], size, *history, known, payload])


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Count through the partial indexes; the completed are what remains of all, so no row is read."""
    found: dict[str, int] = dict.fromkeys(STATUSES, 0)
    found.update(connection.execute(_BY_STATUS).fetchall())
    found["completed"] = connection.execute("SELECT count(*) FROM requests").fetchone()[0] - sum(found.values())
    return found


def oldest_pending(connection: sqlite3.Connection) -> int | None:
    """Look at the first of each stack: its rows stand in the order they came."""
    firsts = (Cursor(stack.lane, stack.priority, stack.client, 0) for stack in stacks(connection))
    return min((stack_page(connection, first, 1)[0].created_ns for first in firsts), default=None)


def errors_by_kind(connection: sqlite3.Connection) -> dict[str, int]:
    """Count the failed by their kind of error, the most frequent first."""
    return dict(
        connection.execute(
            f"SELECT error_kind, count(*) FROM requests WHERE status = 'failed' AND {UNHAPPY} "
            "GROUP BY error_kind ORDER BY count(*) DESC, error_kind"
        ).fetchall()
    )


def completed_since(connection: sqlite3.Connection, wall_ns: int) -> int:
    """Count the requests completed after an instant."""
    found: int = connection.execute(
        "SELECT count(*) FROM requests WHERE finished_ns > ? AND status = 'completed'", (wall_ns,)
    ).fetchone()[0]
    return found
