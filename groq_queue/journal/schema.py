"""The tables, and how a file of an older schema becomes one of this.

A file says what it is in its header, see ``sqlite_file``: ``application_id`` spells
GRQJ. A version newer than ours is refused before anything is written.

To change the schema append a migration; never edit one that was released.

``requests`` holds what the queue is ordered and reported by. Results and long
payloads live in tables of their own, because SQLite rewrites a whole row when
one column of it changes; a short payload is stored in its row, which saves one
page, a fifth of the work of accepting it. The view ``bodies`` hides the difference.
"""

from __future__ import annotations

import sqlite3

from groq_queue.journal.errors import refused
from groq_queue.journal.records import STATUSES
from groq_queue.sqlite_file import FileKind, Migration

JOURNAL_FILE = FileKind(
    error=refused,
    application_id=0x4752514A,  # "GRQJ"
    no_access="the file is {lack} for this user",
    sidecars="SQLite keeps files beside the journal, so make it writable",
    linked=(
        "the file has {count} names (hard links), and under each of them another process could own it; "
        "remove the other names, or copy the file"
    ),
    mounted=(
        "the file is mounted here by itself, so its lock and its write-ahead log would lie elsewhere than those of "
        "a program that has it under another name, and be lost with this container; mount the directory that it is in"
    ),
    remote="where write-ahead logging and locks are not reliable; put it on a local disk",
    foreign="this is a SQLite file of another program; name another path, it was left as it is",
    newer=(
        "its schema is version {version} and this release knows up to {known}; "
        "upgrade groq-queue, the file was left as it is"
    ),
)

_FIRST: Migration = (
    f"""
    CREATE TABLE requests (
        id INTEGER PRIMARY KEY,              -- order of acceptance; never used twice
        request_id TEXT NOT NULL,
        custom_id TEXT NOT NULL UNIQUE,      -- the caller's own id, else made of the payload
        session INTEGER,                     -- NULL: the caller's own; else who last submitted this payload
        status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN {STATUSES!r}),
        priority INTEGER NOT NULL,           -- smaller goes first
        client TEXT NOT NULL,
        lane TEXT NOT NULL,
        model TEXT NOT NULL,
        endpoint TEXT NOT NULL,
        size_base INTEGER NOT NULL,          -- estimated prompt tokens
        size_completion INTEGER,             -- max_completion_tokens of the payload
        size_audio_s INTEGER NOT NULL,
        size_is_exact INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0, -- counted before each send
        unanswered INTEGER NOT NULL DEFAULT 0, -- attempts in flight when a process died
        created_ns INTEGER NOT NULL,         -- wall clock, nanoseconds of the Unix epoch; so are the next two
        claimed_ns INTEGER,
        finished_ns INTEGER,
        prompt_tokens INTEGER,
        completion_tokens INTEGER,
        cached_tokens INTEGER,
        error_kind TEXT,
        error TEXT,                          -- JSON
        options TEXT,                        -- JSON
        payload_hash TEXT NOT NULL,          -- SHA-256 of the payload, hexadecimal
        short_payload BLOB                   -- NULL: it is in payloads
    )
    """,
    "CREATE TABLE payloads (id INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    """
    CREATE VIEW bodies AS
        SELECT requests.id AS id, custom_id, payload_hash, coalesce(short_payload, payloads.body) AS body
        FROM requests LEFT JOIN payloads ON payloads.id = requests.id
    """,
    "CREATE TABLE results (id INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    # How full each bucket of a budget was; used is a decimal number of any length.
    """
    CREATE TABLE levels (
        account TEXT NOT NULL, lane TEXT NOT NULL, dimension TEXT NOT NULL,
        "limit" INTEGER NOT NULL, period_ns INTEGER NOT NULL, used TEXT NOT NULL, at_ns INTEGER NOT NULL,
        PRIMARY KEY (account, lane, dimension)
    ) WITHOUT ROWID
    """,
    # Facts about the file itself. next_id: no id below it is given out again, whatever was pruned.
    # session: how often it was opened by an owner.
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    # Three partial indexes: a request costs one entry while it waits and one when it has ended.
    "CREATE INDEX unfinished ON requests (status, lane, priority, client, id) "
    "WHERE status IN ('pending', 'processing')",
    "CREATE INDEX unhappy ON requests (status, error_kind) WHERE status IN ('failed', 'cancelled', 'expired')",
    "CREATE INDEX finished ON requests (finished_ns) WHERE finished_ns IS NOT NULL",
)

# One statement that ends a request: status and result change together, without BEGIN and COMMIT around them. It is
# no part of the file: every writer makes it for itself.
ENDING = (
    "CREATE TEMP VIEW endings AS SELECT id, status, finished_ns, prompt_tokens, completion_tokens, cached_tokens, "
    "error_kind, error, '' AS result FROM main.requests",
    """
    CREATE TEMP TRIGGER ending INSTEAD OF INSERT ON endings BEGIN
        UPDATE requests SET status = NEW.status, finished_ns = NEW.finished_ns, prompt_tokens = NEW.prompt_tokens,
               completion_tokens = NEW.completion_tokens, cached_tokens = NEW.cached_tokens,
               error_kind = NEW.error_kind, error = NEW.error
        WHERE id = NEW.id AND status IN ('pending', 'processing');
        SELECT RAISE(ABORT, 'it has ended') WHERE changes() = 0;
        INSERT OR REPLACE INTO results SELECT NEW.id, NEW.result WHERE NEW.result IS NOT NULL;
    END
    """,
)
END = "INSERT INTO endings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"

MIGRATIONS: tuple[Migration, ...] = (_FIRST,)


def check_kind(connection: sqlite3.Connection, path: str) -> int:
    """Return the version of a file, 0 if it is new, without writing.

    Raises:
        JournalError: It belongs to another program, or to a newer release of this one.
        sqlite3.Error: It cannot be read.
    """
    return JOURNAL_FILE.version_of(connection, path, len(MIGRATIONS))


def bring_up(connection: sqlite3.Connection, path: str) -> None:
    """Make the schema the newest, in one transaction, all or nothing.

    Raises:
        JournalError: As ``check_kind``.
        sqlite3.Error: It cannot be written.
    """
    if check_kind(connection, path) < len(MIGRATIONS):
        JOURNAL_FILE.bring_up(connection, path, MIGRATIONS)
