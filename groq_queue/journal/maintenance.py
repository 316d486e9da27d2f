"""What is done to a journal now and then: recovery after a crash, retrying what failed, copies, making it small again.

Recovery decides about the requests that were in flight when a process ended.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from groq_queue.errors import ConfigurationError, JournalError
from groq_queue.journal import opener
from groq_queue.journal.errors import journal_error
from groq_queue.journal.group_commit import GroupCommit
from groq_queue.journal.queries import UNFINISHED, UNHAPPY, pages
from groq_queue.journal.records import STATUSES, Recovery, to_json

_AT_ONCE = 2_000  # rows deleted in one commit, so that others get their turn in between
_WORTH_A_REWRITE = 4  # one free page in four, or one deleted request in four


def recover(connection: sqlite3.Connection, may_resend: bool, max_sends: int, now_ns: int) -> Recovery:
    """Decide about each request that is in processing though no process can be processing it."""
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


def export(source: str, path: str | os.PathLike[str], timeout_s: float) -> None:
    """Write a consistent copy of *source*, one file without sidecars, while its owner goes on."""
    with _new_file(source, path) as target:
        with _looking(source, target, timeout_s) as connection:
            connection.execute("VACUUM INTO ?", (target,))
        _sync(target)


def export_batch(source: str, path: str | os.PathLike[str], timeout_s: float) -> int:
    """Write the pending requests of *source* as Batch lines, and return how many."""
    count = 0
    with _new_file(source, path) as target:
        with _looking(source, target, timeout_s) as connection, open(target, "wb") as out:
            connection.execute("BEGIN")  # all of one instant
            for page in pages(connection):
                for row in page:
                    body = connection.execute("SELECT body FROM bodies WHERE id = ?", (row.row_id,)).fetchone()
                    _write_line(out, row.custom_id, row.endpoint, body[0])
                    count += 1
        _sync(target)
    return count


def prune(commits: GroupCommit, path: str, keep: Collection[str]) -> int:
    """Delete the requests whose status is not in *keep*, give their space back, and return how many."""
    if isinstance(keep, str) or not set(keep) <= set(STATUSES):
        raise ConfigurationError(f"keep={keep!r}: name some of {', '.join(STATUSES)}")
    doomed = sorted(set(STATUSES) - set(keep) - {"pending", "processing"})
    total, above = 0, 0
    while doomed:
        deleted, above = commits.run(functools.partial(_delete, doomed=doomed, above=above), is_wide=True)
        if not above:
            break
        total += deleted
    commits.alone(functools.partial(_shrink, deleted=total))
    return total


def _delete(connection: sqlite3.Connection, doomed: Sequence[str], above: int) -> tuple[int, int]:
    """Delete the doomed among the next rows; return how many, and the last row looked at, or 0 at the end."""
    ids = connection.execute("SELECT id, status FROM requests WHERE id > ? ORDER BY id LIMIT ?", (above, _AT_ONCE))
    looked = ids.fetchall()
    if not looked:
        return 0, 0
    rows = [(row_id,) for row_id, status in looked if status in doomed]
    connection.execute(
        "INSERT OR REPLACE INTO facts SELECT 'next_id', "
        "max((SELECT max(id) + 1 FROM requests), coalesce((SELECT value FROM facts WHERE name = 'next_id'), 0))"
    )
    for table in ("requests", "payloads", "results"):
        connection.executemany(f"DELETE FROM {table} WHERE id = ?", rows)
    return len(rows), looked[-1][0]


def _shrink(connection: sqlite3.Connection, deleted: int) -> None:
    """Rewrite the file if much of it is free, and empty the log into it as far as others' reading allows.

    Free pages do not tell all: where every second request was kept, no page is free and each is
    half empty. So what was deleted just now counts as well.
    """
    pages_free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    pages_all = connection.execute("PRAGMA page_count").fetchone()[0]
    kept = connection.execute("SELECT count(*) FROM requests").fetchone()[0]
    if pages_free * _WORTH_A_REWRITE > pages_all or deleted * _WORTH_A_REWRITE > deleted + kept:
        connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


@contextlib.contextmanager
def _looking(source: str, target: str, timeout_s: float) -> Iterator[sqlite3.Connection]:
    """Open a connection of its own, so that a long copy stops no reader."""
    try:
        with contextlib.closing(opener.connect(source, "ro", timeout_s)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise journal_error(f"{source} to {target}", error) from error
    except OSError as error:
        raise JournalError(f"journal {source}: {target} cannot be written ({error.strerror})") from error


@contextlib.contextmanager
def _new_file(source: str, path: str | os.PathLike[str]) -> Iterator[str]:
    """Make an empty file for this user alone, never over another, and remove it if the writing fails."""
    target = opener.checked_path(path)
    try:
        os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise JournalError(f"journal {source}: {target} exists and is not overwritten; name a new file") from None
    except OSError as error:
        raise JournalError(f"journal {source}: {target} cannot be created ({error.strerror})") from error
    try:
        yield target
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(target)
        raise
    opener.sync_directory(os.path.dirname(target))


def _write_line(out: IO[bytes], custom_id: str, endpoint: str, body: bytes) -> None:
    out.write(
        b'{"custom_id":%b,"method":"POST","url":%b,"body":%b}\n'
        % (json.dumps(custom_id).encode(), json.dumps(f"/v1/{endpoint}").encode(), body)
    )


def _sync(target: str) -> None:
    with Path(target).open("rb+") as file:
        os.fsync(file.fileno())
