"""The questions that are asked of the tables, each on a connection that the caller has locked."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

from groq_queue.core.pricing import Size
from groq_queue.journal.entries import INT64, STATUSES, Cursor, Row, Stored

# These must stand in a query for the partial index of that name to be used.
UNFINISHED = "status IN ('pending', 'processing')"
UNHAPPY = "status IN ('failed', 'cancelled', 'expired')"

_ROW = (
    "id, request_id, custom_id, lane, model, endpoint, priority, client, size_base, size_completion, size_audio_s, "
    "size_is_exact, attempts, unanswered, created_ns, options"
)
_STORED = """
    SELECT r.status, r.custom_id, r.id, r.request_id, r.model, r.endpoint, r.payload_hash, results.body, r.error,
           r.prompt_tokens, r.completion_tokens, r.cached_tokens, r.attempts, r.unanswered,
           r.created_ns, r.claimed_ns, r.finished_ns
    FROM requests AS r LEFT JOIN results ON results.id = r.id
    WHERE r.custom_id = ?
"""
# Two questions, not one of (priority, id) > (?, ?): for that SQLite looks at every row of the priority.
_SAME_PRIORITY = f"""
    SELECT {_ROW} FROM requests
    WHERE status = 'pending' AND {UNFINISHED} AND priority = ? AND id > ? ORDER BY id LIMIT ?
"""
_LATER_PRIORITIES = f"""
    SELECT {_ROW} FROM requests
    WHERE status = 'pending' AND {UNFINISHED} AND priority > ? ORDER BY priority, id LIMIT ?
"""

_BY_STATUS = f"""
    SELECT status, count(*) FROM requests WHERE {UNFINISHED} GROUP BY status
    UNION ALL
    SELECT status, count(*) FROM requests WHERE {UNHAPPY} GROUP BY status
"""


def stored(connection: sqlite3.Connection, custom_id: str) -> Stored | None:
    """Return where a request stands, or None if there is none of that id."""
    found = connection.execute(_STORED, (custom_id,)).fetchone()
    if found is None:
        return None
    result, error, prompt = found[7:10]
    known = None if error is None else json.loads(error)
    usage = None if prompt is None else found[9:12]
    return Stored._make([*found[:7], result, known, usage, *found[12:]])


def page(connection: sqlite3.Connection, after: Cursor | None, limit: int) -> list[Row]:
    """Return the next *limit* pending requests, in order."""
    place = Cursor(-INT64, 0) if after is None else after
    found = connection.execute(_SAME_PRIORITY, (*place, limit)).fetchall()
    if len(found) < limit:
        found += connection.execute(_LATER_PRIORITIES, (place.priority, limit - len(found))).fetchall()
    return [_row(each) for each in found]


def pages(connection: sqlite3.Connection, size: int = 1_000) -> Iterator[list[Row]]:
    """Yield every pending request, in order, a page at a time."""
    place = None
    while rows := page(connection, place, size):
        yield rows
        place = rows[-1].cursor


def _row(found: tuple[Any, ...]) -> Row:
    base, completion, audio_s, is_exact, *history, options = found[8:]
    size = Size(base, completion, audio_s, bool(is_exact))
    return Row._make([*found[:8], size, *history, json.loads(options) if options else {}])


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Count through the partial indexes; the completed are what remains of all, so no row is read."""
    found = dict.fromkeys(STATUSES, 0)
    found.update(connection.execute(_BY_STATUS).fetchall())
    found["completed"] = connection.execute("SELECT count(*) FROM requests").fetchone()[0] - sum(found.values())
    return found


def oldest_pending(connection: sqlite3.Connection) -> int | None:
    """Look at the first of each priority: rows of one priority stand in the order they came."""
    oldest: int | None = None
    priority = -INT64
    while True:
        found = connection.execute(
            f"SELECT priority, created_ns FROM requests WHERE status = 'pending' AND {UNFINISHED} AND priority > ? "
            "ORDER BY priority, id LIMIT 1",
            (priority,),
        ).fetchone()
        if found is None:
            return oldest
        priority, created_ns = found
        oldest = created_ns if oldest is None else min(oldest, created_ns)


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
