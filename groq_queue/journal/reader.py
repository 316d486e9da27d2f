"""Looking at a journal: through a connection of its own that cannot write.

So a reader never waits for a writer's disk. The owner reads through this
too; others may open a ``Reader`` while the owner is at work.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from groq_queue.clock import NS_PER_S, Clock, SystemClock
from groq_queue.core.validation import check_count
from groq_queue.errors import JournalError
from groq_queue.journal import maintenance, opener, owner_lock, queries
from groq_queue.journal.errors import journal_error
from groq_queue.journal.records import Cursor, JournalSummary, Row, SavedLevel, Stack, Stored, check_text, hash_of
from groq_queue.sqlite_file import keep, let_go

_T = TypeVar("_T")
_R = TypeVar("_R", bound="Reader")


class Reader:
    """Looks at one journal, changes nothing, owns nothing.

    ``_reading`` guards ``_connection`` and is a leaf. It is held for one query.
    """

    def __init__(self, path: str, timeout_s: float, clock: Clock) -> None:
        """Use ``open``."""
        self._is_closed = True
        connection = opener.reader(path, timeout_s)
        self.path = path
        self._timeout_s = timeout_s
        self._connection = connection
        self._clock = clock
        self._reading = threading.Lock()
        self._pid = os.getpid()
        self._is_closed = False
        keep(connection)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, busy_timeout_s: float = 5.0, clock: Clock | None = None) -> Reader:
        """Look at the journal at *path*, whichever process owns it.

        Raises:
            ConfigurationError: Not the path of a file.
            JournalError: It cannot be read; the message names the path and the cure.
        """
        name = opener.checked_path(path)
        opener.check_place(name, for_writing=False)
        opener.check_is_there(name)
        opener.check_contents(name, needs_schema=True)
        return cls(name, busy_timeout_s, clock or SystemClock())

    def get(self, custom_id: str) -> Stored:
        """Return the status and outcome of the request of *custom_id*; ``"unknown"`` if there is none."""
        check_text("custom_id", custom_id)
        return self._read(lambda connection: queries.stored_as(connection, custom_id)) or Stored("unknown", custom_id)

    def at(self, row_id: int) -> Stored:
        """Return the status and outcome of the request of a row.

        Raises:
            JournalError: There is none.
        """
        found = self._read(lambda connection: queries.stored_at(connection, row_id))
        if found is None:
            raise JournalError(f"journal {self.path}: row {row_id} is not there; it was pruned, or never accepted")
        return found

    def payload(self, row_id: int) -> bytes:
        """Return what is to be sent.

        Raises:
            JournalError: No such row, or its bytes are not those that were accepted.
        """
        found = self._one("SELECT body, payload_hash, custom_id FROM bodies WHERE id = ?", (row_id,))
        if found is None:
            raise JournalError(f"journal {self.path}: row {row_id} is not there; it was pruned, or never accepted")
        body, expected, custom_id = found
        if hash_of(body) != expected:
            raise JournalError(
                f"journal {self.path}: the payload of {custom_id!r} is damaged (SHA-256 differs); submit it again",
                custom_id=custom_id,
            )
        return bytes(body)

    def pending(self, *, after: Cursor | None = None, limit: int = 1_000) -> list[Row]:
        """Return the next pending requests by lane, priority, client and arrival, without their payloads.

        What comes in before *after* meanwhile is not seen by those who page on.

        Args:
            after: Where the page before ended (its last row's ``cursor``), or None for the first.
            limit: Rows at most.
        """
        check_count("limit", limit)
        return self._read(lambda connection: queries.page(connection, after, limit))

    def stack(self, after: Cursor, *, limit: int = 1_000) -> list[Row]:
        """Return the next pending requests of the lane, priority and client of *after*, as ``pending``."""
        check_count("limit", limit)
        return self._read(lambda connection: queries.stack_page(connection, after, limit))

    def stacks(self) -> list[Stack]:
        """Return how many requests of each lane, priority and client are pending."""
        return self._at_once(queries.stacks)

    def pending_row(self, row_id: int) -> Row | None:
        """Return one request, or None if it is not pending."""
        return self._read(lambda connection: queries.pending_row(connection, row_id))

    def counts(self) -> dict[str, int]:
        """Return how many requests there are of each status, zeros included."""
        return self._at_once(queries.counts)

    def oldest_pending(self) -> int | None:
        """Return when the pending request that arrived first was accepted, or None if none is pending."""
        return self._at_once(queries.oldest_pending)

    def errors_by_kind(self) -> dict[str, int]:
        """Return how many requests failed with each kind of error, the most frequent first."""
        return self._read(queries.errors_by_kind)

    def summary(self) -> JournalSummary:
        """Return the journal in one view, all of one instant."""
        minute_ago = self.now_ns() - 60 * NS_PER_S

        def look(connection: sqlite3.Connection) -> JournalSummary:
            return JournalSummary(
                path=self.path,
                schema=connection.execute("PRAGMA user_version").fetchone()[0],
                counts=queries.counts(connection),
                oldest_pending_ns=queries.oldest_pending(connection),
                errors_by_kind=queries.errors_by_kind(connection),
                completed_last_minute=queries.completed_since(connection, minute_ago),
                file_bytes=opener.size_of(self.path),
                wal_bytes=opener.size_of(self.path + "-wal"),
                owner_pid=owner_lock.owner_of(self.path),
            )

        return self._at_once(look)

    def load_levels(self) -> list[SavedLevel]:
        """Return how full each bucket was when that was last stored."""
        found = self._all('SELECT account, lane, dimension, "limit", period_ns, used, at_ns FROM levels', ())
        return [SavedLevel._make([*level[:5], int(level[5]), level[6]]) for level in found]

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write a consistent, compact copy to a new file, while the owner goes on.

        Copying the file by other means misses what is still in its log.

        Raises:
            JournalError: *path* exists or cannot be written.
        """
        self.check_here()
        maintenance.export(self.path, path, self._timeout_s)

    def export_batch(self, path: str | os.PathLike[str]) -> int:
        """Write the pending requests as Batch lines to a new file, and return how many.

        Those in flight are not among them; after a crash, ``recover`` first.

        Raises:
            JournalError: *path* exists or cannot be written.
        """
        self.check_here()
        return maintenance.export_batch(self.path, path, self._timeout_s)

    def close(self) -> None:
        """Let go of the file. Twice is harmless; in a forked child nothing happens."""
        self._end_reading()

    def __enter__(self: _R) -> _R:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_is_closed", True):
            self.close()

    def check_here(self) -> None:
        """Refuse to work where SQLite must not be touched.

        Raises:
            JournalError: This is a forked child, or it was closed.
        """
        if os.getpid() != self._pid:
            raise JournalError(
                f"journal {self.path}: it was opened in another process (pid {self._pid}) and came here by fork; "
                "open it after the fork, in one of the two"
            )
        if self._is_closed:
            raise opener.closed(self.path)

    def _end_reading(self) -> None:
        """Close the connection, unless that was done before, or is not this process's to do."""
        if os.getpid() != self._pid:
            return
        with self._reading:
            if self._is_closed:
                return
            self._connection.close()
            self._is_closed = True  # not before: a Ctrl-C may come, and then the next call closes
            let_go(self._connection)

    def _read(self, look: Callable[[sqlite3.Connection], _T]) -> _T:
        self.check_here()
        try:
            with self._reading:
                if self._is_closed:
                    raise opener.closed(self.path)
                if self._connection.in_transaction:  # a Ctrl-C interrupted an earlier reader
                    self._connection.execute("ROLLBACK")
                return look(self._connection)
        except sqlite3.Error as error:
            raise journal_error(self.path, error) from error

    def _at_once(self, look: Callable[[sqlite3.Connection], _T]) -> _T:
        """As ``_read``, with all queries of *look* seeing the file at one instant."""

        def in_transaction(connection: sqlite3.Connection) -> _T:
            try:
                connection.execute("BEGIN")
                return look(connection)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

        return self._read(in_transaction)

    def _one(self, query: str, values: tuple[Any, ...]) -> Any:
        return self._read(lambda connection: connection.execute(query, values).fetchone())

    def _all(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        return self._read(lambda connection: connection.execute(query, values).fetchall())

    def now_ns(self) -> int:
        """Return the wall-clock instant that goes into rows."""
        return round(self._clock.wall_s() * NS_PER_S)
