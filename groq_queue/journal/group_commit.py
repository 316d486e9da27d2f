"""Many threads, one writer, few waits for the disk.

A commit costs a wait for the disk whether it carries one change or five
hundred. So callers put their change in line, and a caller that finds no other
writing writes for all in line: one transaction, one wait, and each caller gets the
outcome of its own change. No thread is needed for it, and a single caller pays
for nothing but a lock.

Rejected: every caller waiting for the writer's lock. It is right, and simpler,
but after each commit the lock passes through the hands of all who were served
before the next commit can start.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from groq_queue.clock import NS_PER_S, Clock, SystemClock
from groq_queue.errors import ConfigurationError, JournalError
from groq_queue.journal.errors import journal_error
from groq_queue.journal.opener import closed

_T = TypeVar("_T")
_MOST_AT_ONCE = 512  # changes in one transaction; the disk is waited for long before that is felt
_LOOK_AGAIN_S = 1.0  # see ``GroupCommit.run``
_TRUSTED_NS = NS_PER_S // 1_000  # a look at the file serves claims, releases and ends for so long
_SLICE_S = 0.25  # a wait for another program's lock is cut here, so that Ctrl-C is heard


class _Transaction:
    """What became of one transaction, for all changes in it."""

    __slots__ = ("is_made", "is_sealed")

    def __init__(self) -> None:
        self.is_made = False  # nothing is left of it but COMMIT
        self.is_sealed = False  # its changes have their outcomes, and will not be tried again


class _Change:
    """One caller's change, in line."""

    __slots__ = (
        *("error", "transaction", "is_durable", "is_later", "is_single", "is_wide", "is_withdrawn"),
        *("result", "turn", "work"),
    )

    def __init__(
        self,
        work: Callable[[sqlite3.Connection], Any],
        is_durable: bool,
        is_wide: bool,
        is_single: bool,
        is_later: bool,
    ) -> None:
        self.work = work
        self.is_later = is_later
        self.is_durable = is_durable
        self.is_wide = is_wide
        self.is_single = is_single
        self.is_withdrawn = False
        self.transaction: _Transaction | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.turn = threading.Lock()  # guards nothing: taken here, released by the thread that wakes the caller
        self.turn.acquire()

    @property
    def is_over(self) -> bool:
        return self.transaction is not None and self.transaction.is_sealed

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # another thread did
            self.turn.release()


class GroupCommit:
    """The only way to write to one journal.

    Invariants, true whenever ``_writing`` is free:

    * the connection is in no transaction, unless Ctrl-C tore a writer out: the next one rolls it back;
    * no change at the head of the line is over;
    * a change in line has a caller that waits for it, or is withdrawn.

    ``_writing`` guards the connection, ``_is_closed``, ``_is_in_place``, ``_looked_ns`` and the head of ``_line``
    (anyone may append). It is held while the disk is waited for; no lock of ours
    is taken under it.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: str, *, durability: str, busy_timeout_s: float, clock: Clock
    ) -> None:
        self.lost: Callable[[], JournalError | None] = lambda: None  # see ``watch``
        self._connection = connection
        self._path = path
        self._waits = durability == "full"  # a durable commit waits for the disk
        self._is_waiting: bool | None = True  # the connection is set to ``durability``; None is not known
        self._busy_ns = round(busy_timeout_s * NS_PER_S)
        self._clock = clock
        self._writing = threading.Lock()
        self._line: deque[_Change] = deque()
        self._is_closed = False
        self._machine = SystemClock()  # one that a test holds still must not put off a look
        self._is_in_place = False  # whether the last look found the file there
        self._looked_ns = 0
        self._slice_ns = round(min(_SLICE_S, busy_timeout_s) * NS_PER_S)
        connection.execute(f"PRAGMA busy_timeout = {self._slice_ns // 1_000_000}")

    def watch(self, lost: Callable[[], JournalError | None]) -> None:
        """Before changes are made, ask *lost* why the file must not be written any more; None is no reason."""
        self.lost, self._is_in_place = lost, False

    def run(
        self,
        work: Callable[[sqlite3.Connection], _T],
        *,
        is_durable: bool = True,
        is_wide: bool = False,
        is_single: bool = False,
        is_later: bool = False,
    ) -> _T:
        """Run *work* in a transaction, and return what it returned when that is committed.

        Args:
            work: Gets the connection, maybe more than once, on any caller's thread. It must
                raise its own errors before it writes, unless it *is_wide*.
            is_durable: Wait for the disk; else the next commit that does will carry it.
            is_wide: It writes several rows and may give up halfway.
            is_single: It writes by one statement, which is a transaction of its own where no other change is in line.
            is_later: It is the claim, release or end of a request; then a look at the file of the last millisecond
                will do.

        Raises:
            JournalError: *work* raised it, or it could not be committed; nothing of it was stored.
        """
        change = _Change(work, is_durable=is_durable, is_wide=is_wide, is_single=is_single, is_later=is_later)
        try:
            self._line.append(change)
            while not change.is_over:
                if self._writing.locked():
                    # The writer wakes us when our change is over, or when we are first in line and it has
                    # finished. 1 we see it writing, 2 it finishes, 3 it looks at the line: the line was longer
                    # before 1, so 3 sees us. The time is for a writer that Ctrl-C tears out between 2 and 3.
                    change.turn.acquire(timeout=_LOOK_AGAIN_S)
                    continue
                with self._writing:
                    if change.is_single and len(self._line) == 1 and self._line[0] is change:
                        self._write_alone(change)
                    while not change.is_over:  # one turn, unless hundreds stand before us
                        self._write()
        except BaseException:
            change.is_withdrawn = True
            raise
        finally:
            self._wake_next()
        if change.error is not None:
            raise change.error
        return change.result  # type: ignore[no-any-return]

    def alone(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Call *work* outside any transaction while no other thread writes.

        Raises:
            JournalError: SQLite refused.
        """
        try:
            with self._writing:
                if self._is_closed:
                    raise closed(self._path)
                if (trouble := self._trouble()) is not None:
                    raise trouble
                self._back_out()
                return work(self._connection)
        except sqlite3.Error as error:
            raise journal_error(self._path, error) from error
        finally:
            self._wake_next()

    def close(self) -> bool:
        """Finish what is in line, refuse what comes, close the connection.

        Returns:
            Whether it was closed. If the file was lost it stays open: closing it, SQLite would remove the log
            of that name, and that may belong to another journal that has the name now.
        """
        with self._writing:
            while self._line and not self._is_closed:
                self._write()
            self._is_closed = True
            is_lost = self._trouble() is not None
            if not is_lost:
                self._connection.close()
        self._wake_next()
        return not is_lost

    def _wake_next(self) -> None:
        """Wake the first in line that still waits, if it would find no thread writing.

        If a thread is, that one does it after us. Waking the first all the same makes it wait for the
        lock instead of for its turn: then it waits on though its change is long over, because the
        lock goes to a thread that is running; with 32 threads and a slow disk most commits carried one change.
        """
        if not self._line or self._writing.locked():
            return
        with contextlib.suppress(IndexError):  # the line is empty by now
            place = 0
            while self._line[place].is_withdrawn:
                place += 1
            self._line[place].wake()

    def _trouble(self, *, is_later: bool = False) -> JournalError | None:
        """Look at the file; return why it must not be written any more, or None.

        A look lets go of Python's lock while the journal is held. So claims, releases and ends share one for a
        millisecond, once it has found the file in its place.
        """
        now_ns = self._machine.now_ns()
        if is_later and self._is_in_place and now_ns - self._looked_ns < _TRUSTED_NS:
            return None
        trouble = self.lost()
        self._is_in_place, self._looked_ns = trouble is None, now_ns
        return trouble

    def _write_alone(self, change: _Change) -> None:
        """Make the caller's change, alone in its transaction, without BEGIN and COMMIT.

        Around each statement Python's lock is let go of and waited for, which among many threads
        costs more than the statement. Where SQLite refuses, ``_write`` tries again and tells.
        """
        if self._is_closed or self._trouble(is_later=change.is_later) is not None:
            return
        try:
            self._back_out()
            if change.is_durable is not self._is_waiting:
                self._wait_for_disk(change.is_durable)
            change.result = change.work(self._connection)
        except sqlite3.Error:
            return
        except (JournalError, ConfigurationError) as error:
            change.error = error
        change.transaction = _Transaction()
        change.transaction.is_sealed = True
        self._line.popleft()

    def _write(self) -> None:
        """Make the changes at the head of the line, in one transaction.

        Nothing leaves the line before its outcome is sealed, so if Ctrl-C tears us out,
        the next writer makes them.
        """
        if self._is_closed:
            self._refuse(len(self._line), closed(self._path))
            return
        before = len(self._line)  # these have waited as long as we when the time is up
        is_later = True
        for place in range(min(before, _MOST_AT_ONCE)):
            is_later = is_later and self._line[place].is_later
        if (trouble := self._trouble(is_later=is_later)) is not None:
            self._refuse(before, trouble)
            return
        batch: list[_Change] = []
        transaction = _Transaction()
        try:
            self._back_out()
            is_durable = self._line[0].is_durable or any(
                self._line[place].is_durable for place in range(1, min(before, _MOST_AT_ONCE))
            )
            if is_durable is not self._is_waiting:
                self._wait_for_disk(is_durable)
            self._begin()
            ready = len(self._line) if is_durable else before  # those who came since may be durable
            count = min(before, _MOST_AT_ONCE)
            while count < min(ready, _MOST_AT_ONCE) and (self._line[count].is_later or not is_later):
                count += 1  # a new request that has come since the look was decided on needs one of its own
            batch = [self._line[place] for place in range(count)]
            for change in batch:
                change.transaction = transaction
            self._make(batch)
            transaction.is_made = True
            self._connection.execute("COMMIT")
            transaction.is_sealed = True
        except sqlite3.Error as error:
            self._back_out()
            for change in batch:
                change.error = journal_error(self._path, error)
                change.error.__cause__ = error
            transaction.is_sealed = True
            if not batch:
                self._refuse(before, error)
        except BaseException:
            if transaction.is_made and not self._connection.in_transaction:
                transaction.is_sealed = True  # the commit was done, only the line after it was not
            self._back_out()
            raise
        finally:
            while self._line and self._line[0].is_over:
                self._line.popleft().wake()

    def _refuse(self, count: int, error: BaseException) -> None:
        transaction = _Transaction()
        for place in range(count):
            change = self._line[place]
            change.error = error.copy() if isinstance(error, JournalError) else journal_error(self._path, error)
            change.error.__cause__ = error
            change.transaction = transaction
        transaction.is_sealed = True
        while self._line and self._line[0].is_over:
            self._line.popleft().wake()

    def _begin(self) -> None:
        give_up_ns = None
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if give_up_ns is None:
                    give_up_ns = self._clock.now_ns() + self._busy_ns - self._slice_ns
                if "locked" not in str(error) or self._clock.now_ns() >= give_up_ns:
                    raise

    def _make(self, batch: list[_Change]) -> None:
        """Do the work; if one change fails in SQLite itself, begin again with each on its own."""
        try:
            self._make_each(batch, apart=False)
        except Exception:
            self._back_out()
            self._begin()
            self._make_each(batch, apart=True)

    def _make_each(self, batch: list[_Change], *, apart: bool) -> None:
        execute = self._connection.execute
        for change in batch:
            change.error = None
            if change.is_withdrawn:
                continue
            is_apart = apart or change.is_wide
            if is_apart:
                execute("SAVEPOINT change")
            try:
                change.result = change.work(self._connection)
            except Exception as error:
                is_ours = isinstance(error, (JournalError, ConfigurationError))
                if not is_ours and not (apart and self._connection.in_transaction):
                    raise
                change.error = error if is_ours else journal_error(self._path, error)
                if is_apart:
                    execute("ROLLBACK TO change")
            if is_apart:
                execute("RELEASE change")

    def _wait_for_disk(self, is_durable: bool) -> None:
        """Set whether the next commit waits for the disk; SQLite takes it only between transactions."""
        self._is_waiting = None  # a Ctrl-C may come between the two
        if self._waits:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
        self._is_waiting = is_durable

    def _back_out(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # it rolls back by itself after some errors
                self._connection.execute("ROLLBACK")
