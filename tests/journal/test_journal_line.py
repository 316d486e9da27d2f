"""The line of changes: who is woken, what shares a commit, what waits for the disk, and what is undone."""

from __future__ import annotations

import sqlite3
import threading
from typing import Any

import pytest
from waiting import wait_until

from groq_queue.errors import JournalError
from groq_queue.journal import Journal, SavedLevel, group_commit

from .making import entry
from .test_journal_group_commit import LONG, PATIENCE_S, Torn, in_line

PLAIN = {"is_durable": True, "is_wide": False, "is_single": False, "is_later": False}
FULL, NORMAL = 2, 1  # what SQLite calls waiting for the disk at each commit, and not


@pytest.fixture(autouse=True)
def _nobody_looks_again_by_the_clock(monkeypatch):
    """Whoever is not woken stays in line for a minute, longer than any test waits."""
    monkeypatch.setattr(group_commit, "_LOOK_AGAIN_S", 60.0)


class Watched(Torn):
    """A connection that notes, at each COMMIT, whether it waits for the disk."""

    def __init__(self, real: sqlite3.Connection) -> None:
        super().__init__(real, 0, "", KeyboardInterrupt())
        self.levels: list[int] = []

    def execute(self, *arguments: Any) -> Any:
        if arguments[0] == "COMMIT":
            self.levels.append(self.real.execute("PRAGMA synchronous").fetchone()[0])
        return self.real.execute(*arguments)


def in_thread(call: Any) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def test_a_single_caller_pays_for_one_statement(journal):
    """
    A short request under the caller's own name, its claim and its end: each is a transaction of its own.
    """
    journal.add(entry(0))
    statements: list[str] = []
    journal._writer.set_trace_callback(statements.append)

    row_id = journal.add(entry(1)).row_id
    journal.claim(row_id)
    journal.finish(row_id, "completed")

    assert len(statements) >= 3
    assert [] == [each for each in statements if each.startswith(("BEGIN", "COMMIT", "SAVEPOINT", "PRAGMA"))]


@pytest.mark.parametrize(
    "call",
    [
        lambda journal: journal.add(entry(2, text=LONG)),
        lambda journal: journal.add(entry(2, custom_id=None)),
        lambda journal: journal.add_many([entry(2), entry(3)]),
        lambda journal: journal.withdraw(1),
        lambda journal: journal.recover(),
        lambda journal: journal.save_levels([]) or journal.set_priority(1, 0),
    ],
)
def test_what_takes_several_statements_is_one_transaction(journal, call):
    """
    Else a kill between two of them would leave half.
    """
    journal.add(entry(1, text=LONG))
    statements: list[str] = []
    journal._writer.set_trace_callback(statements.append)

    call(journal)

    ours = [each for each in statements if not each.startswith(("PRAGMA", "--"))]
    assert ("BEGIN IMMEDIATE", "COMMIT") == (ours[0], ours[-1])
    assert 1 == ours.count("COMMIT")


@pytest.mark.parametrize(("durable", "level"), [("ynn", FULL), ("nyn", FULL), ("nny", FULL), ("nnn", NORMAL)])
def test_a_shared_commit_waits_for_the_disk_if_one_of_its_changes_does(journal, durable, level):
    for number in range(3):
        journal.claim(journal.add(entry(number)).row_id)
    calls = {"y": lambda row_id: journal.finish(row_id, "completed"), "n": journal.release}
    watched = journal._commits._connection = Watched(journal._writer)

    with in_line(
        journal, [lambda kind=kind, place=place: calls[kind](place + 1) for place, kind in enumerate(durable)]
    ):
        pass

    assert [level] == watched.levels


@pytest.mark.parametrize(
    "call",
    [
        lambda journal: journal.release(1),
        lambda journal: journal.withdraw(2),
        lambda journal: journal.set_priority(2, 0),
        lambda journal: journal.save_levels([SavedLevel("a", "m", "RPM", 30, 60, 7, 5)]),
        lambda journal: journal.claim(2, is_durable=False),
    ],
)
def test_what_may_be_lost_with_the_power_does_not_wait_for_the_disk(journal, call):
    journal.add_many([entry(1), entry(2)])
    journal.claim(1)
    before = journal._writer.execute("PRAGMA synchronous").fetchone()[0]

    call(journal)

    assert (FULL, NORMAL) == (before, journal._writer.execute("PRAGMA synchronous").fetchone()[0])


def test_an_opening_does_not_wait_for_the_disk(path):
    """
    What it writes is only needed by what is accepted later, whose commit carries it.
    """
    with Journal.open(path) as journal:
        assert NORMAL == journal._writer.execute("PRAGMA synchronous").fetchone()[0]


def test_a_release_takes_one_statement(journal):
    journal.claim(journal.add(entry(1)).row_id)
    statements: list[str] = []
    journal._writer.set_trace_callback(statements.append)

    journal.release(1)

    assert ["PRAGMA", "UPDATE"] == [each.split()[0] for each in statements]


def test_a_commit_does_not_wait_for_changes_that_it_does_not_carry(journal, monkeypatch):
    monkeypatch.setattr(group_commit, "_MOST_AT_ONCE", 2)
    for number in range(3):
        journal.claim(journal.add(entry(number)).row_id)
    watched = journal._commits._connection = Watched(journal._writer)

    with in_line(journal, [lambda: journal.release(1), lambda: journal.release(2), journal.retry_failed]):
        pass

    assert [NORMAL, FULL] == watched.levels


@pytest.mark.parametrize(
    ("first", "levels"),
    [(lambda journal: journal.add(entry(1)), [FULL]), (lambda journal: journal.release(1), [NORMAL, FULL])],
    ids=["waiting", "not"],
)
def test_who_comes_during_begin_joins_only_a_commit_that_waits_for_the_disk(journal, first, levels):
    """
    What was acknowledged as stored must not have been carried by a commit that did not wait.
    """
    journal.claim(journal.add(entry(0)).row_id)
    late: list[threading.Thread] = []

    class Slow(Watched):
        def execute(self, *arguments: Any) -> Any:
            if arguments[0] == "BEGIN IMMEDIATE" and not late:
                late.append(in_thread(journal.retry_failed))
                wait_until(lambda: len(journal._commits._line) == 2)
            return super().execute(*arguments)

    watched = journal._commits._connection = Slow(journal._writer)
    with in_line(journal, [lambda: first(journal)]):
        journal._commits._line[0].is_single = False  # as if somebody else had stood in line
    late[0].join(PATIENCE_S)

    assert not late[0].is_alive()
    assert levels == watched.levels


def test_at_most_512_changes_share_a_commit(journal):
    """
    So that nobody waits for an endless transaction.
    """
    line = journal._commits
    watched = line._connection = Watched(journal._writer)
    done: list[int] = []
    changes = [
        group_commit._Change(lambda connection, number=number: done.append(number), **PLAIN) for number in range(513)
    ]
    with line._writing:
        line._line.extend(changes)
        line._write()
        after_one = len(done)
        line._write()

    assert (512, 513) == (after_one, len(done))
    assert [FULL, FULL] == watched.levels


def test_nobody_is_woken_while_somebody_writes(journal):
    """
    Woken too early it would wait for the lock instead of for its turn, long after its change is over.
    """
    line = journal._commits
    change = group_commit._Change(lambda connection: None, **PLAIN)

    with line._writing:
        line._line.append(change)
        line._wake_next()
        slept_on = change.turn.locked()
    line._wake_next()

    assert slept_on
    assert not change.turn.locked()
    line._line.clear()


def test_the_first_who_still_waits_is_woken(journal):
    line = journal._commits
    changes = [group_commit._Change(lambda connection: None, **PLAIN) for _ in range(4)]
    changes[0].is_withdrawn = changes[1].is_withdrawn = True
    line._line.extend(changes)

    line._wake_next()

    assert [True, True, False, True] == [change.turn.locked() for change in changes]
    line._line.clear()


def test_whoever_stands_in_line_is_served_when_what_is_done_alone_has_ended(journal):
    """
    By a wake, not by looking again.
    """
    served: list[Any] = []
    waiting: list[threading.Thread] = []

    def work(connection: sqlite3.Connection) -> str:
        waiting.append(in_thread(lambda: served.append(journal.add(entry(1)))))
        wait_until(lambda: len(journal._commits._line) == 1)
        return "done"

    assert "done" == journal._commits.alone(work)

    waiting[0].join(PATIENCE_S)
    assert not waiting[0].is_alive()
    assert served[0].is_new


def test_what_is_done_alone_fails_typed_too(journal, path):
    with pytest.raises(JournalError, match="no such table") as caught:
        journal._commits.alone(lambda connection: connection.execute("DELETE FROM not_there"))

    assert path in str(caught.value)
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    assert journal.add(entry(1)).is_new


def test_after_the_end_nothing_is_done_alone(path):
    journal = Journal.open(path)
    journal.close()

    with pytest.raises(JournalError, match="it was closed"):
        journal._commits.alone(lambda connection: pytest.fail("it was done"))


def test_who_stands_in_line_at_the_end_is_served_and_who_comes_later_is_refused(path):
    journal = Journal.open(path)
    line = journal._commits
    outcomes: dict[str, Any] = {}

    def call(name: str) -> None:
        try:
            outcomes[name] = line.run(lambda connection: connection.execute("SELECT 1").fetchone()[0])
        except JournalError as error:
            outcomes[name] = error

    with line._writing:
        early = [in_thread(lambda name=name: call(name)) for name in ("a", "b")]
        wait_until(lambda: len(line._line) == 2)
    journal.close()
    for thread in early:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    with line._writing:
        late = [in_thread(lambda name=name: call(name)) for name in ("c", "d")]
        wait_until(lambda: len(line._line) == 2)
    line._wake_next()
    for thread in late:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()

    assert [1, 1] == [outcomes[name] for name in "ab"]
    assert ["it was closed" in str(outcomes[name]) for name in "cd"] == [True, True]
    assert outcomes["c"] is not outcomes["d"]  # each is raised on a thread of its own


def test_half_a_change_is_undone_when_sqlite_refuses_the_rest(journal):
    """
    Alone and among others, whose changes are made.
    """

    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO facts VALUES ('half', 1)")
        connection.execute("INSERT INTO results VALUES (1, NULL)")

    calls = [lambda: journal.add(entry(1)), lambda: journal._commits.run(half), lambda: journal.add(entry(2))]
    with in_line(journal, calls) as outcomes:
        pass
    with pytest.raises(JournalError):
        journal._commits.run(half)

    assert [False, True, False] == [isinstance(outcome, JournalError) for outcome in outcomes]
    assert 0 == journal._writer.execute("SELECT count(*) FROM facts WHERE name = 'half'").fetchone()[0]
    assert {"c-1", "c-2"} == {row.custom_id for row in journal.pending()}


def test_a_change_that_is_made_again_forgets_how_it_failed(journal):
    """
    The first try is spoilt by somebody else's change; the second is what counts.
    """
    tries: list[str] = []

    def shy(connection: sqlite3.Connection) -> str:
        tries.append("shy")
        if len(tries) == 1:
            raise JournalError("not yet")
        return "made"

    def bad(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO results VALUES (1, NULL)")

    with in_line(journal, [lambda: journal._commits.run(shy), lambda: journal._commits.run(bad)]) as outcomes:
        pass

    assert "made" == outcomes[0]
    assert isinstance(outcomes[1], JournalError)


def test_a_programs_own_error_leaves_nothing_open(journal):
    """
    What is no error of ours and none of SQLite's is the caller's alone; the file goes on.
    """

    def wrong(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO facts VALUES ('half', 1)")
        raise ZeroDivisionError

    with in_line(
        journal, [lambda: journal.add(entry(1)), lambda: journal._commits.run(wrong), lambda: journal.add(entry(2))]
    ) as outcomes:
        pass

    assert isinstance(outcomes[1], JournalError)
    assert "ZeroDivisionError" in str(outcomes[1])
    assert not journal._writer.in_transaction
    assert [True, True] == [outcomes[place].is_new for place in (0, 2)]
    assert 0 == journal._writer.execute("SELECT count(*) FROM facts WHERE name = 'half'").fetchone()[0]


@pytest.mark.parametrize("place", [0, 1])
def test_who_is_interrupted_while_it_waits_changes_nothing(journal, monkeypatch, place):
    """
    Its change is not made, and the others are neither left asleep nor left out.
    """

    class Interrupted:
        def acquire(self, timeout: float) -> bool:
            raise KeyboardInterrupt

        def release(self) -> None:
            raise RuntimeError("not held")

        def locked(self) -> bool:
            return True

    def interrupted() -> Any:
        monkeypatch.setattr(group_commit, "_Change", doomed)
        try:
            return journal.add(entry("interrupted"))
        except KeyboardInterrupt:
            return "interrupted"
        finally:
            monkeypatch.setattr(group_commit, "_Change", usual)

    usual = group_commit._Change

    def doomed(*arguments: Any, **kinds: Any) -> Any:
        change = usual(*arguments, **kinds)
        change.turn = Interrupted()
        return change

    calls = [lambda: journal.add(entry(1)), lambda: journal.add(entry(2))]
    calls.insert(place, interrupted)
    with in_line(journal, calls) as outcomes:
        wait_until(lambda: "interrupted" in outcomes)

    assert {"c-1", "c-2"} == {row.custom_id for row in journal.pending()}
    assert not journal._commits._line


def test_whoever_was_not_woken_looks_again_by_itself(journal, monkeypatch):
    """
    As after a Ctrl-C between the end of a commit and the look at the line.
    """
    monkeypatch.setattr(group_commit, "_LOOK_AGAIN_S", 0.01)
    outcomes: list[Any] = []
    with journal._commits._writing:
        thread = in_thread(lambda: outcomes.append(journal.add(entry(1))))
        wait_until(lambda: len(journal._commits._line) == 1)

    thread.join(PATIENCE_S)  # nobody called _wake_next

    assert not thread.is_alive()
    assert outcomes[0].is_new
