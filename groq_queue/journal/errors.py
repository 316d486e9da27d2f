"""The one door through which SQLite's errors leave this room: the path, what happened, what to do.

SQLite's sentences are matched, not its codes: Python tells the codes only from 3.11 on,
and the sentences have been the same since long before.
"""

from __future__ import annotations

from groq_queue.errors import JournalError

_CURES = (
    (
        "locked",
        "another program holds a lock on it for longer than busy_timeout_s; "
        "close that program (a database browser, a backup), or raise busy_timeout_s",
    ),
    ("full", "the disk is full; nothing of this call was stored; free some space and call again"),
    (
        "disk i/o error",
        "the disk refused to read or write, it may be full; nothing of this call was stored; "
        "free some space or check the disk, and call again",
    ),
    ("malformed", "the file is damaged; restore an export, or salvage it with `sqlite3 FILE .recover`"),
    ("not a database", "this is no SQLite file, so no journal; name another path, it was left as it is"),
    ("readonly", "the file or its directory is read-only; make both writable for this user"),
    ("unable to open", "it cannot be opened; check that the directory exists and is writable for this user"),
)


def refused(path: str, reason: str) -> JournalError:
    """Return the error that *path* cannot be used, for *reason*, which names the cure."""
    return JournalError(f"journal {path}: {reason}")


def journal_error(path: str, error: BaseException) -> JournalError:
    """Return *error* as a ``JournalError`` that names the path and the cure; raise it ``from`` the original."""
    said = str(error)
    for sign, cure in _CURES:
        if sign in said.lower():
            return JournalError(f"journal {path}: {cure} (SQLite said: {said})")
    return JournalError(f"journal {path}: {type(error).__name__}: {said}; nothing of this call was stored")
