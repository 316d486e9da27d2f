"""What each call does to a row, and what is told of it, to the last field."""

from __future__ import annotations

import sqlite3
import threading
from typing import Any

import pytest

from groq_queue.clock import FakeClock
from groq_queue.core.request import MAX_PAYLOAD_BYTES
from groq_queue.core.token_estimate import PromptSize
from groq_queue.errors import ConfigurationError, JournalError
from groq_queue.journal import Cursor, Journal, Reader, Recovery, SavedLevel, Stack, Stored
from groq_queue.journal import journal as store_module
from groq_queue.journal.records import hash_of

from .making import entry

LARGEST, SMALLEST = (1 << 63) - 1, -(1 << 63)


def test_everything_that_is_known_of_an_ended_request_is_told(path):
    clock = FakeClock()
    now_ns = round(clock.wall_s() * 1e9)
    size = PromptSize(7, None, 3, True)
    with Journal.open(path, clock=clock) as journal:
        row_id = journal.add(
            entry(1, size=size, priority=2, client="ann", model="big", endpoint="embeddings", lane="l")
        ).row_id
        journal.claim(row_id)
        clock.advance(1)
        journal.finish(row_id, "failed", result=b"body", error={"kind": "bad", "n": 1}, usage=(3, 4, 5))

        expected = Stored(
            status="failed",
            custom_id="c-1",
            is_named=True,
            row_id=row_id,
            request_id="id-1",
            model="big",
            endpoint="embeddings",
            payload_hash=hash_of(entry(1).payload),
            result=b"body",
            error={"kind": "bad", "n": 1},
            usage=(3, 4, 5),
            attempts=1,
            unanswered=0,
            created_ns=1_000,
            claimed_ns=now_ns,
            finished_ns=now_ns + 1_000_000_000,
            priority=2,
            client="ann",
            size=size,
        )
        assert expected == journal.get("c-1") == journal.at(row_id)
        assert expected.is_final
        assert {"bad": 1} == journal.errors_by_kind()


def test_of_a_request_that_was_never_accepted_nothing_is_claimed(journal):
    unknown = journal.get("nobody")

    assert (0, 0, 0, "", PromptSize(0, 0)) == (
        unknown.attempts,
        unknown.unanswered,
        unknown.priority,
        unknown.client,
        unknown.size,
    )
    assert unknown.is_named
    assert not unknown.is_final
    with pytest.raises(JournalError, match="row 9 is not there"):
        journal.at(9)
    with pytest.raises(JournalError, match="row 9 is not there"):
        journal.payload(9)
    assert journal.pending_row(9) is None
    with pytest.raises(ConfigurationError, match="custom_id"):
        journal.get("half \ud800")


def test_an_error_without_a_kind_is_of_kind_unknown(journal):
    journal.finish(journal.add(entry(1)).row_id, "failed", error={"message": "odd"})
    journal.finish(journal.add(entry(2)).row_id, "failed")

    assert {"unknown": 1, None: 1} == journal.errors_by_kind()


@pytest.mark.parametrize("number", [SMALLEST, LARGEST])
@pytest.mark.parametrize("field", ["priority", "created_ns"])
def test_the_largest_and_smallest_numbers_that_sqlite_holds_come_back(journal, field, number):
    row_id = journal.add(entry("ä", **{field: number})).row_id

    row = journal.pending_row(row_id)
    assert number == getattr(row, field)
    assert [row_id] == [each.row_id for each in journal.pending()]
    assert 1 == sum(stack.waiting for stack in journal.stacks())


@pytest.mark.parametrize("number", [SMALLEST - 1, LARGEST + 1, True + 0.5, "1", None])
@pytest.mark.parametrize("name", ["plain", "ä"])
def test_a_number_that_sqlite_cannot_hold_is_refused_by_name(journal, name, number):
    with pytest.raises(ConfigurationError, match=r"priority=.*use a whole number of at most 63 bits"):
        journal.add(entry(name, priority=number))
    assert 0 == sum(journal.counts().values())


@pytest.mark.parametrize("field", ["request_id", "lane", "model", "endpoint", "client"])
def test_a_text_that_is_none_is_refused_by_its_own_name(journal, field):
    with pytest.raises(ConfigurationError, match=f"^{field}=5: use a str"):
        journal.add(entry(1, **{field: 5}))


def test_sizes_are_kept_and_refused_by_name(journal):
    for number, size in enumerate((PromptSize(1, None), PromptSize(1, 0), PromptSize(1, 2, 3))):
        assert size == journal.pending_row(journal.add(entry(number, size=size)).row_id).size
    with pytest.raises(ConfigurationError, match=r"size\.completion=9223372036854775808: use a whole number"):
        journal.add(entry(9, size=PromptSize(1, 1 << 63)))


def test_the_longest_payload_is_taken_and_a_longer_one_is_not(path):
    with Journal.open(path, durability="normal") as journal:
        row_id = journal.add(entry(1, payload=b"x" * MAX_PAYLOAD_BYTES)).row_id
        assert MAX_PAYLOAD_BYTES == len(journal.payload(row_id))
        with pytest.raises(ConfigurationError, match=f"payload: use at most {MAX_PAYLOAD_BYTES:,} bytes"):
            journal.add(entry(2, payload=b"x" * (MAX_PAYLOAD_BYTES + 1)))


@pytest.mark.parametrize(("length", "is_there"), [(1_500, True), (1_501, False)])
def test_a_payload_of_at_most_1500_bytes_comes_with_its_row(journal, length, is_there):
    row_id = journal.add(entry(1, payload=b"x" * length)).row_id

    assert (b"x" * length if is_there else None) == journal.pending_row(row_id).short_payload
    assert (b"x" * length if is_there else None) == journal.pending()[0].short_payload


def test_a_damaged_short_payload_does_not_come_with_its_row(journal):
    row_id = journal.add(entry(1)).row_id
    journal._writer.execute("UPDATE requests SET short_payload = X'7B7D'")

    assert journal.pending_row(row_id).short_payload is None
    with pytest.raises(JournalError, match="damaged") as caught:
        journal.payload(row_id)
    assert "c-1" == caught.value.custom_id


class TestNames:
    def test_equal_payloads_are_counted_on_in_every_opening(self, path):
        """
        Three lives, in each one more than in the one before.
        """
        seen = []
        for count in (2, 3, 4):
            with Journal.open(path) as journal:
                accepted = [journal.add(entry(1, custom_id=None)) for _ in range(count)]
                seen.append([(each.row_id, each.is_new) for each in accepted])

        assert [
            [(1, True), (2, True)],
            [(1, False), (2, False), (3, True)],
            [(1, False), (2, False), (3, False), (4, True)],
        ] == seen

    def test_a_caller_has_the_name_of_a_payload_that_was_called_off(self, path):
        with Journal.open(path) as journal:
            row_id = journal.add(entry(1, custom_id=None)).row_id
            journal.finish(row_id, "expired", error={"kind": "late"})
        with Journal.open(path) as journal:
            again = journal.add(entry(1, custom_id=None, priority=3))
            another = journal.add(entry(1, custom_id=None))

            assert (row_id, True, True) == (again.row_id, again.is_new, another.is_new)
            assert row_id != another.row_id
            assert 3 == journal.pending_row(row_id).priority
            assert not journal.pending_row(row_id).is_named

    def test_the_same_question_in_another_order_is_the_same(self, journal):
        row_id = journal.add(entry(1, payload=b'{"a":1,"b":[2]}')).row_id

        again = journal.add(entry(1, payload=b'{"b": [2], "a": 1}'))

        assert (row_id, False) == (again.row_id, again.is_new)
        for other in (b'{"b":[2],"a":2}', b"no JSON", b"\xff"):
            with pytest.raises(JournalError, match="another payload"):
                journal.add(entry(1, payload=other))

    @pytest.mark.parametrize("payload", [b"no JSON", b"\xff"])
    def test_bytes_that_are_no_json_are_the_same_only_as_they_are(self, journal, payload):
        row_id = journal.add(entry(1, payload=payload)).row_id

        assert row_id == journal.add(entry(1, payload=payload)).row_id
        with pytest.raises(JournalError, match="another payload"):
            journal.add(entry(1, payload=b"{}"))

    def test_the_last_row_id_is_told(self, path):
        with Journal.open(path) as journal:
            assert 0 == journal.last_row_id
            assert [1, 2] == [each.row_id for each in journal.add_many([entry(1), entry(2)])]
            journal.add(entry(2))
            assert 2 == journal.last_row_id
        with Journal.open(path) as journal:
            assert 2 == journal.last_row_id


class TestStacks:
    def test_each_is_told_with_its_model_and_its_count(self, journal):
        journal.add_many(
            [entry(number, lane="ab"[number % 2], model="AB"[number % 2], priority=number // 4) for number in range(7)]
        )
        journal.claim(1)

        assert [
            Stack("a", "A", 0, "default", 1),
            Stack("a", "A", 1, "default", 2),
            Stack("b", "B", 0, "default", 2),
            Stack("b", "B", 1, "default", 1),
        ] == journal.stacks()

    def test_the_very_first_place_there_can_be_is_a_place(self, journal):
        row_id = journal.add(entry(1, lane="", client="", priority=SMALLEST)).row_id

        assert [row_id] == [row.row_id for row in journal.pending()]
        assert [Stack("", "m", SMALLEST, "", 1)] == journal.stacks()

    def test_a_page_of_one_goes_on_behind_a_row(self, journal):
        rows = [each.row_id for each in journal.add_many([entry(number) for number in range(4)])]
        journal.add(entry("other", client="zoe"))

        assert rows[1:3] == [row.row_id for row in journal.stack(Cursor("m", 5, "default", rows[0]), limit=2)]
        assert rows[2:] == [row.row_id for row in journal.stack(Cursor("m", 5, "default", rows[1]))]
        with pytest.raises(ConfigurationError, match="limit"):
            journal.stack(Cursor("m", 5, "default", 0), limit=0)

    def test_a_page_holds_a_thousand_unless_told_otherwise(self, journal):
        journal.add_many([entry(number) for number in range(1_001)])

        assert 1_000 == len(journal.pending()) == len(journal.stack(Cursor("m", 5, "default", 0)))
        assert 1_001 == len(journal.pending(limit=1_001))

    def test_a_request_of_another_level_stands_at_its_end(self, journal):
        rows = [each.row_id for each in journal.add_many([entry(1), entry(2), entry(3, priority=1)])]

        journal.set_priority(rows[0], 1)
        journal.finish(rows[1], "cancelled")
        journal.set_priority(rows[1], 1)

        assert [(1, rows[0]), (1, rows[2])] == [(row.priority, row.row_id) for row in journal.pending()]
        assert 5 == journal.get("c-2").priority

    def test_only_the_pending_of_a_stack_are_cancelled(self, path):
        clock = FakeClock()
        with Journal.open(path, clock=clock) as journal:
            rows = [each.row_id for each in journal.add_many([entry(number) for number in range(4)])]
            journal.add_many([entry("level", priority=6), entry("client", client="zoe"), entry("lane", lane="n")])
            journal.claim(rows[1])

            assert 2 == journal.cancel_stack(Cursor("m", 5, "default", rows[0]), LARGEST)

            assert "processing" == journal.get("c-1").status
            assert round(clock.wall_s() * 1e9) == journal.get("c-3").finished_ns
            assert {"c-0", "c-level", "c-client", "c-lane"} == {row.custom_id for row in journal.pending()}

    def test_the_oldest_is_the_first_that_came(self, journal):
        assert journal.oldest_pending() is None
        journal.add(entry("first", created_ns=1))
        assert 1 == journal.oldest_pending() == journal.summary().oldest_pending_ns
        journal.finish(1, "cancelled")
        journal.add_many(
            [entry(number, created_ns=created, client="ab"[number % 2]) for number, created in enumerate((7, 3, 9, 5))]
        )

        assert 3 == journal.oldest_pending()


class TestRecovery:
    def test_what_is_held_is_dated_and_told(self, path):
        clock = FakeClock()
        with Journal.open(path) as journal:
            journal.add_many([entry(1), entry(2)])
            journal.claim(1)
            journal.claim(2)

        with Journal.open(path, clock=clock) as journal:
            assert Recovery(0, 0, 2) == journal.recover(on_unknown="hold")
            stored = journal.get("c-1")

            assert ("failed", 1, 1) == (stored.status, stored.attempts, stored.unanswered)
            assert round(clock.wall_s() * 1e9) == stored.finished_ns
            assert {"kind", "message", "attempts"} == set(stored.error)
            assert 1 == stored.error["attempts"]
            assert "on_unknown='hold'" in stored.error["message"]
            assert {"unknown": 2} == journal.errors_by_kind()

    def test_what_is_sent_again_has_no_end(self, path):
        with Journal.open(path) as journal:
            journal.add_many([entry(1), entry(2)])
            journal.claim(1)
        with Journal.open(path) as journal:
            assert Recovery(1, 0, 0) == journal.recover()
            stored = journal.get("c-1")

        assert ("pending", None, None, 1) == (stored.status, stored.error, stored.finished_ns, stored.unanswered)

    @pytest.mark.parametrize(("max_sends", "poisoned"), [({}, 3), ({"max_sends": 1}, 1), ({"max_sends": 2}, 2)])
    def test_a_request_is_poison_after_so_many_crashes(self, path, max_sends, poisoned):
        with Journal.open(path) as journal:
            journal.add(entry(1))
        crashes = 0
        while True:
            with Journal.open(path) as journal:
                found = journal.recover(**max_sends)
                if found.poisoned:
                    break
                journal.claim(1)
                crashes += 1

        assert poisoned == crashes
        with Reader.open(path) as reader:
            assert f"the process ended {crashes} times" in reader.get("c-1").error["message"]

    def test_it_may_be_done_when_nothing_was_claimed_since(self, journal):
        journal.add(entry(1))
        assert Recovery(0, 0, 0) == journal.recover() == journal.recover()
        with pytest.raises(JournalError):
            journal.claim(99)
        assert Recovery() == journal.recover()

    def test_kinds_are_a_list(self, journal):
        with pytest.raises(ConfigurationError, match="kinds='poison': use a list"):
            journal.retry_failed(kinds="poison")


def test_a_claim_works_without_returning_too(journal, monkeypatch):
    """
    SQLite before 3.35 cannot say what it changed in the same statement.
    """
    monkeypatch.setattr(store_module, "_HAS_RETURNING", False)
    row_id = journal.add(entry(1)).row_id

    assert 1 == journal.claim(row_id)
    journal.release(row_id)
    assert 2 == journal.claim(row_id)
    with pytest.raises(JournalError, match="it is processing"):
        journal.claim(row_id)


def test_what_was_not_sent_is_taken_back_and_nothing_else(journal):
    row_id = journal.add(entry(1)).row_id
    for expected, was_sent in ((1, True), (2, False), (2, True)):
        assert expected == journal.claim(row_id)
        journal.release(row_id, was_sent=was_sent)

    assert 2 == journal.get("c-1").attempts
    with pytest.raises(JournalError, match="row 9 cannot be released: it is not there"):
        journal.release(9)
    with pytest.raises(JournalError, match="row 9 cannot be finished: it is not there"):
        journal.finish(9, "failed")
    with pytest.raises(JournalError, match="'c-1' cannot be released: it is pending") as caught:
        journal.release(row_id)
    assert "c-1" == caught.value.custom_id


def test_a_withdrawn_request_leaves_nothing(journal):
    kept = journal.add(entry("kept", text="x" * 5_000)).row_id
    gone = journal.add(entry("gone", text="x" * 5_000)).row_id

    journal.withdraw(gone)
    journal.claim(kept)
    journal.withdraw(kept)

    assert [(kept,)] == journal._writer.execute("SELECT id FROM payloads").fetchall()
    assert entry("kept", text="x" * 5_000).payload == journal.payload(kept)


@pytest.mark.parametrize("place", [3, 4, 6])
@pytest.mark.parametrize(("number", "fits"), [(SMALLEST, 1), (LARGEST, 1), (SMALLEST - 1, 0), (LARGEST + 1, 0)])
def test_a_level_holds_numbers_of_63_bits(journal, place, number, fits):
    values: list[Any] = ["acc", "m", "TPM", 1, 2, 3, 4]
    values[place] = number
    level = SavedLevel._make(values)

    if fits:
        journal.save_levels([level])
        assert [level] == journal.load_levels()
    else:
        with pytest.raises(ConfigurationError, match="more than 63 bits"):
            journal.save_levels([level])
        assert [] == journal.load_levels()


def test_closed_means_closed_for_every_call(path):
    journal = Journal.open(path)
    row_id = journal.add(entry(1)).row_id
    journal.close()
    calls = {
        "add": lambda: journal.add(entry(2)),
        "add_many": lambda: journal.add_many([]),
        "withdraw": lambda: journal.withdraw(row_id),
        "set_priority": lambda: journal.set_priority(row_id, 1),
        "cancel_stack": lambda: journal.cancel_stack(Cursor("m", 5, "default", 0), 9),
        "claim": lambda: journal.claim(row_id),
        "release": lambda: journal.release(row_id),
        "finish": lambda: journal.finish(row_id, "nonsense"),
        "recover": lambda: journal.recover(on_unknown="nonsense"),  # type: ignore[arg-type]
        "save_levels": lambda: journal.save_levels([]),
        "retry_failed": lambda: journal.retry_failed(kinds="nonsense"),
        "prune": lambda: journal.prune(keep="nonsense"),
        "export": lambda: journal.export(path),
        "export_batch": lambda: journal.export_batch(path),
        "get": lambda: journal.get("c-1"),
        "summary": journal.summary,
        "load_levels": journal.load_levels,
    }

    said = {}
    for name, call in calls.items():
        with pytest.raises(JournalError) as caught:
            call()
        said[name] = "it was closed; open it again" in str(caught.value)

    assert dict.fromkeys(calls, True) == said


def test_whoever_asks_while_it_is_closed_is_told(path):
    """
    1 A looks whether it is closed, 2 B closes it, 3 A takes the lock: A is told, and SQLite is not asked.
    """
    journal = Journal.open(path)
    outcomes: list[str] = []
    at_the_door, closed = threading.Event(), threading.Event()
    real = journal._reading

    class Door:
        def __enter__(self) -> None:
            at_the_door.set()
            assert closed.wait(10)
            real.acquire()

        def __exit__(self, *_: object) -> None:
            real.release()

    def look() -> None:
        try:
            journal.counts()
        except JournalError as error:
            outcomes.append(str(error))

    journal._reading = Door()  # type: ignore[assignment]
    thread = threading.Thread(target=look)
    thread.start()
    assert at_the_door.wait(10)
    journal._reading = real
    journal.close()
    closed.set()
    thread.join(10)

    assert [f"journal {path}: it was closed; open it again"] == outcomes


def test_a_failed_look_is_told_and_leaves_no_transaction_open(journal, path):
    def bad(connection: sqlite3.Connection) -> None:
        connection.execute("SELECT * FROM nowhere")

    with pytest.raises(JournalError, match="no such table: nowhere") as caught:
        journal._at_once(bad)

    assert path in str(caught.value)
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    assert not journal._connection.in_transaction


def test_a_summary_is_of_one_instant(journal):
    """
    What is added while it is made is not in it.
    """
    journal.add(entry(1))
    clock = journal._clock

    def look(connection: sqlite3.Connection) -> list[int]:
        counts = []
        for number in (2, 3):
            counts.append(connection.execute("SELECT count(*) FROM requests").fetchone()[0])
            journal.add(entry(number))
        return counts

    assert [1, 1] == journal._at_once(look)
    assert 3 == journal.counts()["pending"]
    assert clock is journal._clock


def test_a_with_block_and_a_dropped_reader_close(path):
    with Journal.open(path) as journal:
        connection = journal._connection
        with Reader.open(path) as reader:
            pass
    with pytest.raises(JournalError, match="closed"):
        reader.counts()
    with pytest.raises(sqlite3.ProgrammingError):
        connection.execute("SELECT 1")
    looking = Reader.open(path)
    connection = looking._connection
    del looking
    with pytest.raises(sqlite3.ProgrammingError):
        connection.execute("SELECT 1")


class TestPrune:
    def test_many_are_deleted_in_several_steps(self, path):
        """
        So that others get their turn in between: two thousand at a time.
        """
        with Journal.open(path, durability="normal") as journal:
            journal.add_many([entry(number) for number in range(4_001)])
            journal._writer.execute("UPDATE requests SET status = 'completed', finished_ns = 1 WHERE id <> 3000")
            statements: list[str] = []
            journal._writer.set_trace_callback(statements.append)

            assert 4_000 == journal.prune()

            assert 4 == statements.count("COMMIT")  # two thousand, two thousand, one, and a look at the end
            assert [3_000] == [row.row_id for row in journal.pending()]
            assert 4_002 == journal.add(entry("new")).row_id
        with Journal.open(path) as journal:
            assert 4_003 == journal.add(entry("newer")).row_id

    @pytest.mark.parametrize(("deleted", "is_rewritten"), [(4, False), (5, True)])
    def test_the_file_is_rewritten_when_more_than_a_quarter_went(self, journal, deleted, is_rewritten):
        """
        Of sixteen, four are a quarter and no more.
        """
        rows = [each.row_id for each in journal.add_many([entry(number) for number in range(16)])]
        for row_id in rows[:deleted]:
            journal.finish(row_id, "completed", result=b"{}")
        statements: list[str] = []
        journal._writer.set_trace_callback(statements.append)

        assert deleted == journal.prune()

        assert is_rewritten is ("VACUUM" in statements)

    def test_everything_that_ended_may_be_kept(self, journal):
        row_id = journal.add(entry(1)).row_id
        journal.finish(row_id, "completed", result=b"{}")

        every = ("pending", "processing", "completed", "failed", "cancelled", "expired")
        assert 0 == journal.prune(keep=every)

        assert "completed" == journal.get("c-1").status

    def test_results_and_payloads_go_too(self, journal):
        row_id = journal.add(entry(1, text="x" * 5_000)).row_id
        journal.finish(row_id, "completed", result=b"{}")

        assert 1 == journal.prune()

        for table in ("requests", "payloads", "results"):
            assert 0 == journal._writer.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_batch_lines_are_of_one_instant_and_all_there(journal, tmp_path, monkeypatch):
    """
    More than a page of them; what comes in while they are written is not among them.
    """
    from groq_queue.journal import maintenance

    journal.add_many([entry(number) for number in range(1_500)])
    write_line, late = maintenance._write_line, []

    def write_and_add(*arguments: Any) -> None:
        if not late:
            late.append(journal.add(entry("late")))
        write_line(*arguments)

    monkeypatch.setattr(maintenance, "_write_line", write_and_add)

    assert 1_500 == journal.export_batch(tmp_path / "rest.jsonl")

    assert 1_500 == len((tmp_path / "rest.jsonl").read_bytes().splitlines())
    assert 1_501 == journal.counts()["pending"]
