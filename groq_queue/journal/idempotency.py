"""Under which name a request is accepted, and what it means that the name is taken.

A caller's ``custom_id`` names one request for good. A request without one is
named after its payload and counted: the second equal payload since the file was
opened is the second of that payload in the file. So a script that is run again,
as it is, finds its own requests again, in whatever order it asks.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from groq_queue.core.request import normal_form
from groq_queue.errors import JournalError
from groq_queue.journal.queries import stored_as
from groq_queue.journal.records import Accepted, Entry

_SHORT = 1_500  # bytes of a payload that is stored in its row: two such rows fit on a page

_INSERT = """
    INSERT INTO requests (id, custom_id, session, priority, client, lane, size_base, size_completion, size_audio_s,
                          size_is_exact, created_ns, options, request_id, model, endpoint, payload_hash, short_payload)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (custom_id) DO NOTHING
"""
_REOPEN = """
    UPDATE requests SET priority = ?, client = ?, lane = ?, size_base = ?, size_completion = ?, size_audio_s = ?,
                        size_is_exact = ?, created_ns = ?, options = ?, session = ?,
                        status = 'pending', unanswered = 0, finished_ns = NULL, error_kind = NULL, error = NULL
    WHERE id = ?
"""


class IdempotencyKeys:
    """Accepts requests into one file. Everything here is called in a transaction only, so one thread at a time."""

    def __init__(self, path: str, next_id: int, session: int) -> None:
        """
        Args:
            path: For messages.
            next_id: The first row id that was never given out.
            session: Number of this opening of the file.
        """
        self._path = path
        self._next_id = next_id
        self._session = session
        self._repeats: dict[str, int] = {}  # payloads that came more than once in this session: how often

    @property
    def last_id(self) -> int:
        """The last row id given out."""
        return self._next_id - 1

    def accept(self, connection: sqlite3.Connection, columns: tuple[Any, ...], entry: Entry) -> Accepted:
        """Insert a request, or find the one that has its name.

        Args:
            connection: In a transaction.
            columns: Of *entry*, as ``columns_of`` returns them.
            entry: The request.

        Raises:
            JournalError: The caller's name belongs to another payload.
        """
        if entry.custom_id is not None:
            return self._insert(connection, entry.custom_id, None, columns, entry.payload) or self._again(
                connection, entry.custom_id, None, columns, entry.payload
            )
        digest = columns[-1]
        number = self._repeats.get(digest, 1)
        while True:
            name = f"{digest[:40]}-{number}"
            accepted = self._insert(connection, name, self._session, columns, entry.payload)
            if accepted is None and not self._is_of_this_session(connection, name):
                connection.execute("UPDATE requests SET session = ? WHERE custom_id = ?", (self._session, name))
                accepted = self._again(connection, name, self._session, columns, entry.payload)
            if accepted is not None:
                return accepted
            number += 1
            self._repeats[digest] = number

    def _insert(
        self,
        connection: sqlite3.Connection,
        name: str,
        session: int | None,
        columns: tuple[Any, ...],
        payload: bytes,
    ) -> Accepted | None:
        """Insert a row, unless the name is taken."""
        row_id = self._next_id
        is_in_row = is_short(payload)
        values = (row_id, name, session, *columns, payload if is_in_row else None)
        # Given out before it is used, since a Ctrl-C can come between any two steps, and stays so if the
        # transaction does not: a gap is harmless, a second use is not.
        self._next_id = row_id + 1
        if connection.execute(_INSERT, values).rowcount != 1:
            self._next_id = row_id
            return None
        if not is_in_row:
            connection.execute("INSERT INTO payloads VALUES (?, ?)", (row_id, payload))
        return Accepted(row_id, is_new=True)

    def _is_of_this_session(self, connection: sqlite3.Connection, name: str) -> bool:
        found = connection.execute("SELECT session FROM requests WHERE custom_id = ?", (name,)).fetchone()
        return found is None or found[0] in (None, self._session)

    def _again(
        self,
        connection: sqlite3.Connection,
        name: str,
        session: int | None,
        columns: tuple[Any, ...],
        payload: bytes,
    ) -> Accepted:
        """Return the status of the request of that name; one that was called off is to be sent after all."""
        *changing, _, _, endpoint, digest = columns
        there = stored_as(connection, name)
        if there is None or there.row_id is None:
            raise JournalError(f"journal {self._path}: a row id was given out by another program; let only one write")
        is_same = there.payload_hash == digest or _asks_the_same(connection, there.row_id, payload)
        if not is_same or there.endpoint != endpoint:
            raise JournalError(
                f"journal {self._path}: custom_id {name!r} was accepted with another payload "
                f"({there.endpoint}, SHA-256 {str(there.payload_hash)[:12]}…; now {endpoint}, {digest[:12]}…); "
                "use a new custom_id, or prune the old request",
                custom_id=name,
            )
        if there.status in ("cancelled", "expired"):
            connection.execute(_REOPEN, (*changing, session, there.row_id))
            return Accepted(there.row_id, is_new=True)
        return Accepted(there.row_id, is_new=False, stored=there)


def _asks_the_same(connection: sqlite3.Connection, row_id: int, payload: bytes) -> bool:
    """Return whether *payload* says what that row's does, in another order."""
    found = connection.execute("SELECT body FROM bodies WHERE id = ?", (row_id,)).fetchone()
    try:
        return found is not None and found[0] is not None and normal_form(found[0]) == normal_form(payload)
    except ValueError:
        return False


def is_short(payload: bytes) -> bool:
    """Return whether *payload* is stored in its row, so that one statement accepts it."""
    return len(payload) <= _SHORT
