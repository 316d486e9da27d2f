"""The journal as its owner uses it: accept, claim, finish; the way of one request, on disk."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from groq_queue.clock import Clock, SystemClock
from groq_queue.core.validation import check_count, check_seconds
from groq_queue.errors import ConfigurationError, GroqQueueError, JournalError
from groq_queue.journal import maintenance, opener
from groq_queue.journal.file_identity import FileIdentity
from groq_queue.journal.group_commit import GroupCommit
from groq_queue.journal.idempotency import IdempotencyKeys, is_short
from groq_queue.journal.owner_lock import OwnerLock
from groq_queue.journal.queries import UNFINISHED
from groq_queue.journal.reader import Reader
from groq_queue.journal.records import (
    FINAL,
    INT64,
    Accepted,
    Cursor,
    Entry,
    Recovery,
    SavedLevel,
    columns_of,
    to_json,
)
from groq_queue.journal.schema import END
from groq_queue.sqlite_file import keep, let_go


class Journal(Reader):
    """One file of accepted requests, owned by this object until ``close``; who owns it may look at it, too.

    Every method may be called from any thread and blocks no longer than the disk, or
    another program's lock for ``busy_timeout_s``. A method that raises ``JournalError``
    has changed nothing. In a forked child every method raises, and the inherited
    connections are neither used nor closed.

    What is locked is in ``GroupCommit`` (writing) and ``Reader`` (reading); ``_closing`` guards the end,
    which anybody may call again whom a Ctrl-C tore out of it. Only the lock of ``GroupCommit`` is taken under it.
    """

    def __init__(
        self,
        path: str,
        commits: GroupCommit,
        writer: sqlite3.Connection,
        owner: OwnerLock,
        busy_timeout_s: float,
        clock: Clock,
    ) -> None:
        """Use ``open``."""
        self._is_closed = True
        self._commits = commits
        self._writer = writer
        self._owner = owner
        self._has_claimed = False  # set in transactions only
        self._keys = IdempotencyKeys(path, *commits.run(_begin_session, is_durable=False))
        keep(writer)
        commits.watch(FileIdentity(path, owner, clock).lost)
        self._has_let_go = False
        self._closing = threading.RLock()
        super().__init__(path, busy_timeout_s, clock)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        durability: Literal["full", "normal"] = "full",
        busy_timeout_s: float = 30.0,
        clock: Clock | None = None,
        may_make: bool = True,
    ) -> Journal:
        """Own the journal at *path*, which is made if it is missing (its directory is not).

        Args:
            path: On a local disk.
            durability: ``"full"``: what was acknowledged survives a power cut. ``"normal"``:
                it survives the end of the process, however it ends, but a power cut may take
                the last moments.
            busy_timeout_s: How long another program's lock is waited for.
            clock: Where the time in the rows is read.
            may_make: False: it has to be there.

        Raises:
            ConfigurationError: An argument cannot be used.
            JournalError: The file cannot be used, or has an owner; the message names the path and the cure.
        """
        if durability not in ("full", "normal"):
            raise ConfigurationError(f"durability={durability!r}: use 'full' or 'normal'")
        check_seconds("busy_timeout_s", busy_timeout_s, optional=False)
        name = opener.checked_path(path)
        clock = clock or SystemClock()
        opener.check_place(name, for_writing=True)
        if not may_make:
            opener.check_is_there(name)
        owner = OwnerLock(name)
        writer = None
        try:
            opener.create_if_missing(name)
            opener.check_contents(name)
            writer = opener.writer(name, durability, busy_timeout_s)
            commits = GroupCommit(writer, name, durability=durability, busy_timeout_s=busy_timeout_s, clock=clock)
            return cls(name, commits, writer, owner, busy_timeout_s, clock)
        except BaseException:
            if writer is not None:
                writer.close()
            owner.release()
            raise

    # -- the way of a request

    def add(self, entry: Entry) -> Accepted:
        """Accept one request; it is stored when this returns.

        The name of an earlier request with the same payload gives that one back, as it is; one
        that was cancelled or has expired is pending again. For names see ``idempotency``.

        Raises:
            ConfigurationError: A field that the file cannot hold.
            JournalError: The ``custom_id`` belongs to another payload, or the file cannot be written.
        """
        self.check_here()
        columns = columns_of(entry)
        is_single = is_short(entry.payload) and entry.custom_id is not None
        return self._commits.run(lambda connection: self._keys.accept(connection, columns, entry), is_single=is_single)

    def add_many(self, entries: Iterable[Entry]) -> list[Accepted]:
        """Accept several requests in one transaction, all or none; otherwise as ``add``."""
        self.check_here()
        rows = [(columns_of(entry), entry) for entry in entries]
        if not rows:
            return []
        return self._commits.run(
            lambda connection: [self._keys.accept(connection, columns, entry) for columns, entry in rows],
            is_wide=True,
        )

    def withdraw(self, row_id: int) -> None:
        """Undo ``add``: the queue did not take the request. One that was ever claimed stays."""
        self.check_here()

        def withdraw(connection: sqlite3.Connection) -> None:
            gone = connection.execute(
                "DELETE FROM requests WHERE id = ? AND status = 'pending' AND attempts = 0", (row_id,)
            ).rowcount
            if gone:
                connection.execute("DELETE FROM payloads WHERE id = ?", (row_id,))

        self._commits.run(withdraw, is_durable=False)

    def set_priority(self, row_id: int, priority: int) -> None:
        """Let a request that has not ended stand at the end of another level when it is read again."""
        self.check_here()
        self._commits.run(
            lambda connection: connection.execute(
                f"UPDATE requests SET priority = ? WHERE id = ? AND {UNFINISHED}", (priority, row_id)
            ),
            is_durable=False,
        )

    def cancel_stack(self, stack: Cursor, up_to: int) -> int:
        """Cancel the pending requests behind *stack* in its stack, up to a row id, and return how many."""
        self.check_here()
        now_ns = self.now_ns()
        return self._commits.run(
            lambda connection: (
                connection.execute(
                    "UPDATE requests SET status = 'cancelled', finished_ns = ? WHERE status = 'pending' "
                    f"AND {UNFINISHED} AND lane = ? AND priority = ? AND client = ? AND id > ? AND id <= ?",
                    (now_ns, *stack, up_to),
                ).rowcount
            ),
            is_wide=True,
        )

    def claim(self, row_id: int, *, is_durable: bool = True) -> int:
        """Count one attempt, before its first byte leaves.

        Args:
            row_id: Of a pending request.
            is_durable: It is on disk when this returns. Else it is only certain to outlive this process,
                however that ends: after a power cut the request may be found pending, and be sent again.

        Returns:
            Attempts so far, this one included.

        Raises:
            JournalError: The request is not pending, or the file cannot be written; do not send.
        """
        self.check_here()
        now_ns = self.now_ns()

        def claim(connection: sqlite3.Connection) -> int:
            attempts = _claim(connection, row_id, now_ns)
            if attempts is None:
                raise self._not(connection, row_id, "claimed")
            self._has_claimed = True
            return attempts

        return self._commits.run(claim, is_durable=is_durable, is_single=True, is_later=True)

    def release(self, row_id: int, *, was_sent: bool = True) -> None:
        """Let a claimed request wait again: for a retry, after a refusal, at a shutdown.

        Seen at once; on disk with the next commit that waits for it. Lost with the power, it
        is found in flight, and ``recover`` decides.

        Args:
            row_id: The request's row.
            was_sent: False takes the attempt back: no byte of it left.

        Raises:
            JournalError: It was not claimed, or the file cannot be written.
        """
        self.check_here()

        def release(connection: sqlite3.Connection) -> None:
            changed = connection.execute(
                "UPDATE requests SET status = 'pending', attempts = attempts - ? "
                "WHERE id = ? AND status = 'processing'",
                (0 if was_sent else 1, row_id),
            ).rowcount
            if not changed:
                raise self._not(connection, row_id, "released")

        self._commits.run(release, is_durable=False, is_single=True, is_later=True)

    def finish(
        self,
        row_id: int,
        status: str,
        *,
        result: bytes | None = None,
        error: Mapping[str, Any] | None = None,
        usage: tuple[int, int, int] | None = None,
    ) -> None:
        """Store how a request ended, with its result, in one transaction; on disk when this returns.

        A pending one may be finished too (cancelled, expired; and an answer that comes after
        all is paid for). One that has ended stays as it ended.

        Args:
            row_id: The request's row.
            status: ``"completed"``, ``"failed"``, ``"cancelled"`` or ``"expired"``.
            result: The response body.
            error: ``{"kind", "message", ...}``, JSON-like.
            usage: Prompt, completion and cached tokens.

        Raises:
            ConfigurationError: An argument cannot be stored.
            JournalError: It had ended before, or the file cannot be written.
        """
        self.check_here()
        if status not in FINAL:
            raise ConfigurationError(f"status={status!r}: use one of {', '.join(FINAL)}")
        error_json = None if error is None else to_json("error", error)
        kind = None if error is None else str(error.get("kind", "unknown"))
        values = (row_id, status, self.now_ns(), *(usage or (None, None, None)), kind, error_json, result)

        def finish(connection: sqlite3.Connection) -> None:
            try:
                connection.execute(END, values)
            except sqlite3.IntegrityError:
                raise self._not(connection, row_id, "finished") from None

        self._commits.run(finish, is_single=True, is_later=True)

    def recover(self, *, on_unknown: Literal["resend", "hold"] = "resend", max_sends: int = 3) -> Recovery:
        """Decide about the requests that were in flight when the last owner ended. Once, before the first ``claim``.

        Args:
            on_unknown: ``"resend"`` makes them pending again, but for those that this happened to
                *max_sends* times: they fail with error kind ``"poison"``. ``"hold"`` lets all fail
                with kind ``"unknown"``: none may be paid for twice. ``retry_failed`` brings both back.
            max_sends: Sends without an outcome after which a request is held to be the cause. Attempts
                that were answered, with a refusal say, do not count.

        Raises:
            ConfigurationError: An argument cannot be used.
            JournalError: Something was claimed since ``open``, or the file cannot be written.
        """
        self.check_here()
        if on_unknown not in ("resend", "hold"):
            raise ConfigurationError(f"on_unknown={on_unknown!r}: use 'resend' or 'hold'")
        check_count("max_sends", max_sends)
        now_ns = self.now_ns()

        def recover(connection: sqlite3.Connection) -> Recovery:
            if self._has_claimed:
                raise JournalError(f"journal {self.path}: recover() belongs before the first claim()")
            return maintenance.recover(connection, on_unknown == "resend", max_sends, now_ns)

        return self._commits.run(recover, is_wide=True)

    @property
    def last_row_id(self) -> int:
        """The last row id that was given out, as far as the asking thread knows."""
        return self._keys.last_id

    # -- budgets

    def save_levels(self, levels: Iterable[SavedLevel]) -> None:
        """Store how full buckets are, each in place of what was stored of it; on disk with the next commit."""
        self.check_here()
        rows = [(*level[:5], str(level.used), level.at_wall_ns) for level in levels]
        for row in rows:
            if not all(-INT64 <= number < INT64 for number in (row[3], row[4], row[6])):
                raise ConfigurationError(f"levels: {row!r:.120} holds a number of more than 63 bits")
        if rows:
            self._commits.run(
                lambda connection: connection.executemany("INSERT OR REPLACE INTO levels VALUES (?,?,?,?,?,?,?)", rows),
                is_durable=False,
                is_wide=True,
            )

    # -- upkeep

    def retry_failed(self, *, kinds: Collection[str] | None = None) -> int:
        """Make failed requests pending again, and return how many.

        Args:
            kinds: Kinds of error to bring back, or None for all.
        """
        self.check_here()
        if isinstance(kinds, str):
            raise ConfigurationError(f"kinds={kinds!r}: use a list of kinds")
        return self._commits.run(lambda connection: maintenance.retry_failed(connection, kinds))

    def prune(self, *, keep: Collection[str] = ("pending", "processing", "failed")) -> int:
        """Delete requests that have ended, with their payloads and results, and make the file small again.

        Others may go on meanwhile but for the rewriting at the end, in which writers wait.

        Args:
            keep: Statuses to keep; what has not ended is kept in any case.

        Returns:
            How many were deleted. Their ``custom_id`` is unknown afterwards: submitted again, they are sent again.
        """
        self.check_here()
        return maintenance.prune(self._commits, self.path, keep)

    def close(self) -> None:
        """Finish what is being written and let the next owner in. Twice is harmless."""
        if os.getpid() != self._pid:
            return
        try:
            self._end_reading()
            with self._closing:
                if self._commits.close() and not self._has_let_go:
                    self._has_let_go = True
                    let_go(self._writer)
        finally:
            with self._closing:
                self._owner.release()

    def _not(self, connection: sqlite3.Connection, row_id: int, done: str) -> GroqQueueError:
        found = connection.execute("SELECT status, custom_id FROM requests WHERE id = ?", (row_id,)).fetchone()
        if found is None:
            return JournalError(f"journal {self.path}: row {row_id} cannot be {done}: it is not there")
        return JournalError(f"journal {self.path}: {found[1]!r} cannot be {done}: it is {found[0]}", custom_id=found[1])


def _begin_session(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the first row id that was never given out, and the number of this opening."""
    next_id: int = connection.execute(
        "SELECT max(coalesce((SELECT max(id) FROM requests), 0) + 1, "
        "coalesce((SELECT value FROM facts WHERE name = 'next_id'), 1))"
    ).fetchone()[0]
    connection.execute("INSERT OR IGNORE INTO facts VALUES ('session', 0)")
    connection.execute("UPDATE facts SET value = value + 1 WHERE name = 'session'")
    session: int = connection.execute("SELECT value FROM facts WHERE name = 'session'").fetchone()[0]
    return next_id, session


_CLAIM = (
    "UPDATE requests SET status = 'processing', attempts = attempts + 1, claimed_ns = ? "
    "WHERE id = ? AND status = 'pending'"
)
_HAS_RETURNING = sqlite3.sqlite_version_info >= (3, 35)


def _claim(connection: sqlite3.Connection, row_id: int, now_ns: int) -> int | None:
    """Count one attempt of a pending row and return how many there are, or None if it is not pending."""
    if _HAS_RETURNING:  # one statement, so that Python's lock is let go of and waited for once less
        found = connection.execute(f"{_CLAIM} RETURNING attempts", (now_ns, row_id)).fetchall()
        return found[0][0] if found else None
    if not connection.execute(_CLAIM, (now_ns, row_id)).rowcount:
        return None
    attempts: int = connection.execute("SELECT attempts FROM requests WHERE id = ?", (row_id,)).fetchone()[0]
    return attempts
