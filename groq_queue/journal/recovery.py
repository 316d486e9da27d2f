"""What becomes of requests that were in flight when a process ended, and of those that failed."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Any

from groq_queue.journal.queries import UNFINISHED, UNHAPPY
from groq_queue.journal.records import Recovery, to_json


def recover(connection: sqlite3.Connection, may_resend: bool, max_sends: int, now_ns: int) -> Recovery:
    """Decide about each request that is in processing though nobody can be processing it."""
    found = connection.execute(
        f"SELECT id, attempts, unanswered + 1 FROM requests WHERE status = 'processing' AND {UNFINISHED}"
    ).fetchall()
    resent = poisoned = held = 0
    for row_id, attempts, unanswered in found:
        error = None
        if not may_resend:
            held += 1
            error = _held(attempts)
        elif unanswered >= max_sends:
            poisoned += 1
            error = _poisoned(attempts, unanswered)
        else:
            resent += 1
        connection.execute(
            "UPDATE requests SET status = ?, unanswered = ?, finished_ns = ?, error_kind = ?, error = ? WHERE id = ?",
            (
                "failed" if error else "pending",
                unanswered,
                now_ns if error else None,
                error["kind"] if error else None,
                to_json("error", error) if error else None,
                row_id,
            ),
        )
    return Recovery(resent, poisoned, held)


def retry_failed(connection: sqlite3.Connection, kinds: Collection[str] | None) -> int:
    """Make failed requests pending again; unanswered starts anew: who asks for a retry has judged the request."""
    chosen = "" if kinds is None else f" AND error_kind IN ({','.join('?' * len(kinds))})"
    return connection.execute(
        "UPDATE requests SET status = 'pending', unanswered = 0, finished_ns = NULL, error_kind = NULL, error = NULL, "
        "prompt_tokens = NULL, completion_tokens = NULL, cached_tokens = NULL "
        f"WHERE status = 'failed' AND {UNHAPPY}{chosen}",
        tuple(kinds or ()),
    ).rowcount


def _held(attempts: int) -> dict[str, Any]:
    return {
        "kind": "unknown",
        "message": f"the process ended while attempt {attempts} was in flight, so it may have been answered and "
        "billed; held because on_unknown='hold', retry-failed sends it again",
        "attempts": attempts,
    }


def _poisoned(attempts: int, unanswered: int) -> dict[str, Any]:
    return {
        "kind": "poison",
        "message": f"the process ended {unanswered} times while it was in flight ({attempts} attempts in all); "
        "look at what its answer does to the program, retry-failed sends it again",
        "attempts": attempts,
    }
