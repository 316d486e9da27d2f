"""Group commit: many callers, one transaction, each its own outcome; and what happens when the disk does not help."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from extras import needs
from waiting import wait_until

from groq_queue.clock import FakeClock
from groq_queue.errors import ConfigurationError, JournalError
from groq_queue.journal import Journal, Reader

from .making import entry

PATIENCE_S = 10.0
LONG = "x" * 2_000  # stands in a table of its own: two INSERTs


@contextmanager
def in_line(journal: Journal, calls: list[Callable[[], Any]]) -> Iterator[list[Any]]:
    """Let all *calls* stand in line, in order, before the first of them is written; yields their outcomes."""
    commits = journal._commits
    outcomes: list[Any] = [None] * len(calls)

    def call(place: int) -> None:
        try:
            outcomes[place] = calls[place]()
        except Exception as error:
            outcomes[place] = error

    threads = [threading.Thread(target=call, args=(place,)) for place in range(len(calls))]
    with commits._writing:
        for place, thread in enumerate(threads):
            thread.start()
            wait_until(lambda place=place: len(commits._line) == place + 1)
    yield outcomes
    commits._wake_next()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def commits_in(statements: list[str]) -> int:
    return sum(statement == "COMMIT" for statement in statements)


def test_thirty_two_callers_share_one_commit(journal, path):
    statements: list[str] = []
    journal._writer.set_trace_callback(statements.append)

    with in_line(journal, [lambda number=number: journal.add(entry(number)) for number in range(32)]) as outcomes:
        pass

    assert 1 == commits_in(statements)
    assert list(range(1, 33)) == [accepted.row_id for accepted in outcomes]
    with Reader.open(path) as reader:
        assert 32 == reader.counts()["pending"]


def test_all_who_come_during_a_commit_share_the_next(journal):
    """
    Nobody served stays behind at the writer's lock: each commit here lasts until all others have come back.

    Once they did stay: woken too early they waited for the lock, which the running thread took again and
    again, and with 32 threads and a slow disk most commits carried one change.
    """
    count, rounds = 16, 10
    finished: list[int] = []
    commits: list[int] = []
    line = journal._commits._line

    class Patient(Torn):
        def execute(self, *arguments: Any) -> Any:
            if arguments[0] == "COMMIT":
                commits.append(len(line))
                wait_until(lambda: len(line) >= count - len(finished))
            return self.real.execute(*arguments)

    journal._commits._connection = Patient(journal._writer, 0, "", KeyboardInterrupt())

    def submit(thread: int) -> None:
        for number in range(rounds):
            journal.add(entry(f"{thread}-{number}"))
        finished.append(thread)

    threads = [threading.Thread(target=submit, args=(thread,)) for thread in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()

    assert count * rounds == journal.counts()["pending"]
    assert len(commits) <= 2 * rounds + count


def test_acknowledged_means_committed(journal, path):
    """
    32 threads on their own: whoever is told "accepted" finds the row through another connection at once.
    """
    statements: list[str] = []
    journal._writer.set_trace_callback(statements.append)
    missing, barrier = [], threading.Barrier(32)
    reader = Reader.open(path)

    def submit(thread: int) -> None:
        barrier.wait(PATIENCE_S)
        for number in range(20):
            journal.add(entry(f"{thread}-{number}"))
            if reader.get(f"c-{thread}-{number}").status != "pending":
                missing.append(number)

    threads = [threading.Thread(target=submit, args=(thread,)) for thread in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    reader.close()

    assert [] == missing
    assert 640 == journal.counts()["pending"]
    assert commits_in(statements) < 640 / 2


def test_one_bad_change_does_not_fail_the_others(journal):
    """
    Refused by a rule, refused by SQLite itself halfway through, or many of which one is bad.
    """
    journal.add(entry("there"))
    unseen = entry("unseen")
    calls: list[Callable[[], Any]] = [
        lambda: journal.add(entry(1)),
        lambda: journal.add(entry("there", payload=b"{}")),
        lambda: journal._commits.run(lambda connection: connection.execute("INSERT INTO results VALUES (1, NULL)")),
        lambda: journal.add_many([unseen, entry("there", payload=b"{}")]),
        lambda: journal._commits.run(lambda connection: connection.execute("SELECT ?", (1 << 70,))),
        lambda: journal.add(entry(2)),
    ]

    with in_line(journal, calls) as outcomes:
        pass

    assert [True, False, False, False, False, True] == [not isinstance(outcome, Exception) for outcome in outcomes]
    assert all(isinstance(outcome, JournalError) for outcome in outcomes[1:5])
    assert {"c-there", "c-1", "c-2"} == {row.custom_id for row in journal.pending()}


def test_a_line_longer_than_one_transaction_is_served_whole(journal, monkeypatch):
    monkeypatch.setattr("groq_queue.journal.group_commit._MOST_AT_ONCE", 3)

    with in_line(journal, [lambda number=number: journal.add(entry(number)) for number in range(10)]) as outcomes:
        pass

    assert list(range(1, 11)) == [accepted.row_id for accepted in outcomes]


class Torn:
    """A connection that raises once, before or after its *at*-th statement."""

    def __init__(self, real: sqlite3.Connection, at: int, when: str, error: BaseException) -> None:
        self.real, self.left, self.when, self.error = real, at, when, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def execute(self, *arguments: Any) -> Any:
        self.left -= 1
        if self.left == 0 and self.when == "before":
            raise self.error
        result = self.real.execute(*arguments)
        if self.left == 0:
            raise self.error
        return result


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", range(1, 10))
def test_ctrl_c_in_the_writer_harms_nobody_else(path, at, when):
    """
    The one who happens to write for all is torn out at each statement: PRAGMA, BEGIN, six INSERTs, COMMIT.

    Its own change is made or not; those of the others are made exactly once.
    """
    with Journal.open(path) as journal:
        calls = [
            lambda number=number: _interrupted(lambda: journal.add(entry(number, text=LONG))) for number in range(3)
        ]
        statements: list[str] = []
        with in_line(journal, calls) as outcomes:
            torn = Torn(journal._writer, at, when, KeyboardInterrupt())
            journal._commits._connection = torn  # type: ignore[assignment]
            journal._writer.set_trace_callback(statements.append)

        assert torn.left <= 0
        assert (9, "after") != (at, when) or 1 == commits_in(statements), "it was made once more"
        assert 1 == sum(outcome == "interrupted" for outcome in outcomes)
        for number, outcome in enumerate(outcomes):
            if outcome != "interrupted":
                assert outcome.is_new
                assert "pending" == journal.get(f"c-{number}").status
        assert not journal._writer.in_transaction
        assert not journal._commits._line
        assert journal.add(entry("after")).is_new


def _interrupted(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except KeyboardInterrupt:
        return "interrupted"


@pytest.mark.parametrize("at", range(1, 10))
def test_a_full_disk_fails_all_and_applies_nothing(path, at):
    """
    A lasting error at any statement, then space again.
    """
    with Journal.open(path) as journal:
        real = journal._writer

        class Full(Torn):
            def execute(self, *arguments: Any) -> Any:
                self.left -= 1
                if self.left <= 0 and arguments[0] not in ("ROLLBACK",):
                    raise sqlite3.OperationalError("database or disk is full")
                return self.real.execute(*arguments)

        calls = [lambda number=number: journal.add(entry(number, text=LONG)) for number in range(3)]
        with in_line(journal, calls) as outcomes:
            journal._commits._connection = Full(real, at, "", KeyboardInterrupt())  # type: ignore[assignment]

        assert 3 == len(outcomes)
        for outcome in outcomes:
            assert isinstance(outcome, JournalError)
            assert path in str(outcome)
            assert "free some space" in str(outcome)
            assert isinstance(outcome.__cause__, sqlite3.OperationalError), "the file, not the request, was wrong"
        journal._commits._connection = real
        assert 0 == journal.counts()["pending"]
        assert journal.add(entry(0, text=LONG)).is_new


def test_a_real_full_disk_loses_nothing_accepted(path, other):
    """
    RLIMIT_FSIZE makes the disk end: what was accepted is there afterwards, what was refused is not.
    """
    needs("resource")
    process = other("full_disk", path)

    out, err = process.communicate(timeout=30)

    assert 0 == process.returncode, err
    accepted, refused, told, unclaimed, seen, at_last = json.loads(out)
    assert len(accepted) >= 3
    assert len(refused) >= 3
    assert all(path in error and "free some space" in error for error in told)
    assert unclaimed
    assert 1 + len(accepted) == seen == at_last - 1
    with Journal.open(path) as journal:
        assert {"c-first", "c-after", *accepted} == {row.custom_id for row in journal.pending()}
        assert "ok" == journal._writer.execute("PRAGMA integrity_check").fetchone()[0]


def test_another_programs_lock_is_waited_for(path, other):
    with Journal.open(path, busy_timeout_s=20) as journal:
        process = other("hold", path, "0.3")
        assert "locked\n" == process.stdout.readline()

        assert journal.add(entry(1)).is_new


def test_a_lock_held_too_long_is_a_typed_error(path, other):
    """
    A minute against a patience of 0.1 s; reading goes on meanwhile, and so does writing afterwards.
    """
    with Journal.open(path, busy_timeout_s=0.1) as journal:
        process = other("hold", path, "60")
        assert "locked\n" == process.stdout.readline()

        with in_line(journal, [lambda: journal.add(entry(1)), lambda: journal.add(entry(2))]) as outcomes:
            pass
        for outcome in outcomes:
            assert isinstance(outcome, JournalError)
            assert path in str(outcome)
            assert "busy_timeout_s" in str(outcome)
        assert 0 == journal.counts()["pending"]

        process.kill()
        process.wait(PATIENCE_S)
        assert journal.add(entry(1)).is_new


class Locked(Torn):
    """A connection whose every BEGIN waits a slice of a clock's time for another program's lock, in vain."""

    def __init__(self, real: sqlite3.Connection, clock: FakeClock, said: str = "database is locked") -> None:
        super().__init__(real, 0, "", KeyboardInterrupt())
        self.clock, self.said, self.tries = clock, said, 0

    def execute(self, *arguments: Any) -> Any:
        if arguments[0] == "BEGIN IMMEDIATE":
            self.tries += 1
            slice_ms = self.real.execute("PRAGMA busy_timeout").fetchone()[0]
            self.clock.advance(slice_ms / 1_000)
            raise sqlite3.OperationalError(self.said)
        return self.real.execute(*arguments)


@pytest.mark.parametrize(("busy_timeout_s", "tries"), [(1, 4), (None, 120), (0.1, 1)])
def test_a_lock_is_waited_for_exactly_busy_timeout_s(path, busy_timeout_s, tries):
    """
    In slices of at most a quarter of a second, so that Ctrl-C is heard in between; for half a minute unless told.
    """
    clock = FakeClock()
    options = {} if busy_timeout_s is None else {"busy_timeout_s": busy_timeout_s}
    with Journal.open(path, clock=clock, **options) as journal:
        locked = journal._commits._connection = Locked(journal._writer, clock)
        before = clock.now_ns()

        with pytest.raises(JournalError, match="another program holds a lock"):
            journal.add(entry(1, text=LONG))

        assert round((busy_timeout_s or 30) * 1e9) == clock.now_ns() - before
        assert tries == locked.tries
        journal._commits._connection = journal._writer
        assert journal.add(entry(1)).is_new


def test_what_waiting_does_not_cure_is_not_waited_for(path):
    clock = FakeClock()
    with Journal.open(path, clock=clock) as journal:
        broken = journal._commits._connection = Locked(journal._writer, clock, "disk I/O error")

        with pytest.raises(JournalError, match="disk refused") as caught:
            journal.add(entry(1, text=LONG))

        assert 1 == broken.tries
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        journal._commits._connection = journal._writer


def test_a_release_does_not_wait_for_the_disk_but_is_seen(journal):
    row_id = journal.add(entry(1)).row_id
    journal.claim(row_id)
    statements: list[str] = []
    journal._writer.set_trace_callback(statements.append)

    journal.release(row_id)

    assert "PRAGMA synchronous = NORMAL" == statements[0]
    assert "pending" == journal.get("c-1").status
    journal.claim(row_id)
    assert "PRAGMA synchronous = FULL" in statements


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
def test_durability_is_what_it_is_called(path, durability, level):
    with Journal.open(path, durability=durability) as journal:
        journal.add(entry(1))
        assert level == journal._writer.execute("PRAGMA synchronous").fetchone()[0]


def test_a_wrong_argument_of_work_is_the_callers_own(journal):
    with pytest.raises(ConfigurationError):
        journal.add_many([entry(1), entry(2, client=5)])
    assert 0 == journal.counts()["pending"]
