"""The way of a request through the journal: accepted, claimed, answered, never twice."""

from __future__ import annotations

import sqlite3

import pytest

from groq_queue.core.token_estimate import PromptSize
from groq_queue.errors import ConfigurationError, JournalError
from groq_queue.journal import Cursor, Journal, Reader, Recovery, Row, SavedLevel, Stored
from groq_queue.journal.records import hash_of

from .making import answer, entry


def test_what_goes_in_comes_out(journal):
    """
    Every field, null sizes and options included, survives the file.
    """
    options = {"tier": "flex", "weights": [1, 2.5], "ä": None}

    accepted = journal.add(entry(1, size=PromptSize(7, None, 3, True), options=options, priority=0, client="ä"))

    assert accepted.is_new
    assert [
        Row(
            accepted.row_id,
            "id-1",
            "c-1",
            True,
            "m",
            "m",
            "chat/completions",
            0,
            "ä",
            PromptSize(7, None, 3, True),
            0,
            0,
            1_000,
            options,
            entry(1).payload,
        )
    ] == journal.pending()
    assert entry(1).payload == journal.payload(accepted.row_id)


@pytest.mark.parametrize("length", [0, 1, 1_499, 1_500, 1_501, 100_000])
def test_payloads_of_any_length_come_back(journal, tmp_path, length):
    """
    Short ones stand in their row, long ones apart; nobody need know.
    """
    payload = b'"' + b"x" * length + b'"' if length else b""

    row_id = journal.add(entry(1, payload=payload)).row_id
    journal.claim(row_id)

    assert payload == journal.payload(row_id)
    journal.release(row_id)
    assert 1 == journal.export_batch(tmp_path / "rest.jsonl")
    assert payload in (tmp_path / "rest.jsonl").read_bytes()


def test_a_request_goes_from_pending_to_completed(journal):
    row_id = journal.add(entry(1)).row_id
    assert "pending" == journal.get("c-1").status

    assert 1 == journal.claim(row_id)
    assert "processing" == journal.get("c-1").status

    journal.finish(row_id, "completed", result=answer("c-1"), usage=(10, 5, 2))
    stored = journal.get("c-1")
    assert ("completed", answer("c-1"), (10, 5, 2), 1) == (stored.status, stored.result, stored.usage, stored.attempts)
    assert stored.created_ns < stored.claimed_ns <= stored.finished_ns
    assert stored.is_final
    assert [] == journal.pending()


def test_an_id_that_was_never_accepted_is_unknown(journal):
    assert Stored("unknown", "nobody") == journal.get("nobody")


def test_without_a_custom_id_the_payload_is_the_name_and_equal_ones_are_counted(journal):
    accepted = [journal.add(entry(1, custom_id=None)) for _ in range(3)]

    names = [journal.at(each.row_id).custom_id for each in accepted]
    assert [f"{hash_of(entry(1).payload)[:40]}-{number}" for number in (1, 2, 3)] == names
    assert all(each.is_new for each in accepted)
    assert not any(row.is_named for row in journal.pending())


def test_equal_payloads_find_their_own_rows_after_a_restart(path):
    """
    A script without custom_ids that is run again asks for the same things, in whatever order.
    """
    with Journal.open(path) as journal:
        first = [journal.add(entry(name, custom_id=None)).row_id for name in (1, 2, 1, 1)]

    with Journal.open(path) as journal:
        again = [journal.add(entry(name, custom_id=None)) for name in (1, 1, 2, 1, 1)]

    assert [first[0], first[2], first[1], first[3]] == [each.row_id for each in again[:4]]
    assert [False, False, False, False, True] == [each.is_new for each in again]


def test_a_name_made_of_a_payload_steps_aside_for_a_callers_own(journal):
    taken = f"{hash_of(entry(1).payload)[:40]}-1"
    journal.add(entry(2, custom_id=taken))

    accepted = journal.add(entry(1, custom_id=None))

    assert accepted.is_new
    assert taken[:-1] + "2" == journal.at(accepted.row_id).custom_id


@pytest.mark.parametrize("status", ["pending", "processing", "completed", "failed"])
def test_the_same_request_again_gives_back_the_first(journal, status):
    row_id = journal.add(entry(1)).row_id
    if status != "pending":
        journal.claim(row_id)
    if status not in ("pending", "processing"):
        journal.finish(row_id, status, result=b"{}", error={"kind": "bad"})

    again = journal.add(entry(1, request_id="another", created_ns=2_000))

    assert (row_id, False, status) == (again.row_id, again.is_new, again.stored.status)
    assert again.stored == journal.get("c-1")
    assert 1 == sum(journal.counts().values())


@pytest.mark.parametrize("status", ["cancelled", "expired"])
def test_what_was_called_off_is_pending_again_when_it_is_asked_for_again(journal, status):
    row_id = journal.add(entry(1)).row_id
    journal.finish(row_id, status, error={"kind": "late"})

    again = journal.add(entry(1, priority=0, client="b"))

    assert (row_id, True) == (again.row_id, again.is_new)
    row = journal.pending_row(row_id)
    assert (0, "b") == (row.priority, row.client)
    assert None is journal.get("c-1").error is journal.get("c-1").finished_ns


def test_a_request_that_the_queue_refused_is_forgotten(journal):
    row_id = journal.add(entry(1, text="x" * 5_000)).row_id
    journal.withdraw(row_id)
    claimed = journal.add(entry(2)).row_id
    journal.claim(claimed)
    journal.release(claimed)
    journal.withdraw(claimed)

    assert "unknown" == journal.get("c-1").status
    assert "pending" == journal.get("c-2").status, "a request that was tried is not forgotten"
    assert journal.add(entry(1)).row_id > claimed


def test_stacks_tell_how_many_wait_in_each(journal):
    for number in range(12):
        journal.add(entry(number, lane="mn"[number % 2], priority=number % 3, client="ab"[number // 6]))

    stacks = journal.stacks()

    assert 12 == len(stacks)
    assert 12 == sum(stack.waiting for stack in stacks)
    assert stacks == sorted(stacks)
    page = journal.stack(Cursor("m", 0, "b", 0), limit=5)
    assert [("m", 0, "b")] == [(row.lane, row.priority, row.client) for row in page]


def test_a_stack_is_cancelled_behind_a_row_and_up_to_one(journal):
    rows = [journal.add(entry(number)).row_id for number in range(6)]

    assert 3 == journal.cancel_stack(Cursor("m", 5, "default", rows[0]), rows[3])

    assert [rows[0], rows[4], rows[5]] == [row.row_id for row in journal.pending()]


def test_another_endpoint_under_the_same_id_is_refused(journal):
    journal.add(entry(1))

    with pytest.raises(JournalError, match="accepted with another payload"):
        journal.add(entry(1, endpoint="embeddings"))


def test_another_payload_under_the_same_id_is_refused(journal):
    journal.add(entry(1))
    first, second = journal.get("c-1").payload_hash, "3d1f0b"

    with pytest.raises(JournalError, match="accepted with another payload") as caught:
        journal.add(entry(1, payload=b"{}"))

    assert first[:12] in str(caught.value)
    assert "44136fa355b3" in str(caught.value), second
    assert "c-1" == caught.value.custom_id
    assert 1 == journal.counts()["pending"]


def test_many_are_accepted_all_or_none(journal):
    journal.add(entry(1))

    with pytest.raises(JournalError):
        journal.add_many([entry(2), entry(1, payload=b"{}"), entry(3)])
    assert 1 == journal.counts()["pending"]

    accepted = journal.add_many([entry(2), entry(1), entry(3), entry(2)])
    assert [True, False, True, False] == [each.is_new for each in accepted]
    assert 3 == journal.counts()["pending"]
    assert [] == journal.add_many([])


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "expired"])
def test_a_final_status_is_never_overwritten(journal, status):
    """
    B34: a zombie's late answer does not replace what was stored.
    """
    row_id = journal.add(entry(1)).row_id
    journal.claim(row_id)
    journal.finish(row_id, status, result=b"first")
    before = journal.get("c-1")

    for act in (
        lambda: journal.finish(row_id, "completed", result=b"second"),
        lambda: journal.finish(row_id, "failed", error={"kind": "late"}),
        lambda: journal.claim(row_id),
        lambda: journal.release(row_id),
    ):
        with pytest.raises(JournalError, match=f"'c-1' cannot be .*: it is {status}"):
            act()

    assert before == journal.get("c-1")


def test_only_a_pending_request_is_claimed(journal):
    row_id = journal.add(entry(1)).row_id
    journal.claim(row_id)

    with pytest.raises(JournalError, match="it is processing"):
        journal.claim(row_id)
    with pytest.raises(JournalError, match="not there"):
        journal.claim(99)

    assert 1 == journal.get("c-1").attempts


def test_a_released_request_waits_in_its_old_place(journal):
    first = journal.add(entry(1)).row_id
    journal.add(entry(2))
    journal.claim(first)

    journal.release(first)

    assert ["c-1", "c-2"] == [row.custom_id for row in journal.pending()]
    assert 2 == journal.claim(first)
    journal.release(first, was_sent=False)
    assert 1 == journal.get("c-1").attempts


def test_a_request_that_was_not_claimed_cannot_be_released(journal):
    with pytest.raises(JournalError, match="it is pending"):
        journal.release(journal.add(entry(1)).row_id)


def test_what_never_started_may_be_cancelled(journal):
    row_id = journal.add(entry(1)).row_id

    journal.finish(row_id, "cancelled")

    assert "cancelled" == journal.get("c-1").status


def test_pending_comes_by_priority_then_arrival_a_page_at_a_time(journal):
    journal.add_many([entry(number, priority=number % 3) for number in range(20)])
    expected = sorted(range(20), key=lambda number: (number % 3, number))

    seen, place, lengths = [], None, []
    while page := journal.pending(after=place, limit=6):
        seen += [int(row.custom_id[2:]) for row in page]
        place = page[-1].cursor
        lengths.append(len(page))

    assert expected == seen
    assert [6, 6, 6, 2] == lengths


def test_paging_reads_the_index_and_sorts_nothing(journal):
    """
    A page from the middle costs what the first costs, however many there are: the plan says so.
    """
    journal.add_many([entry(number, priority=number % 5) for number in range(500)])
    statements: list[str] = []
    journal._connection.set_trace_callback(statements.append)
    seen, place = 0, None
    while page := journal.pending(after=place, limit=50):
        assert place is None or page[0].cursor > place
        seen, place = seen + len(page), page[-1].cursor

    assert 500 == seen
    journal._connection.set_trace_callback(None)
    plans = [
        [step[3].replace("rowid>", "id>") for step in journal._connection.execute("EXPLAIN QUERY PLAN " + statement)]
        for statement in statements[:4]
    ]
    using = "SEARCH requests USING INDEX unfinished (status=? AND "
    assert [
        [f"{using}lane=? AND priority=? AND client=? AND id>?)"],
        [f"{using}lane=? AND priority=? AND client>?)"],
        [f"{using}lane=? AND priority>?)"],
        [f"{using}lane>?)"],
    ] == plans


def test_a_bad_limit_is_refused(journal):
    with pytest.raises(ConfigurationError, match="limit"):
        journal.pending(limit=0)


def test_counts_hold_every_status(journal):
    rows = [each.row_id for each in journal.add_many([entry(number) for number in range(15)])]
    journal.claim(rows[0])
    for place, (status, times) in enumerate([("completed", 4), ("failed", 3), ("cancelled", 2), ("expired", 1)]):
        for each in range(times):
            journal.finish(rows[1 + place * 4 + each - (place == 3)], status)

    assert {
        "pending": 4,
        "processing": 1,
        "completed": 4,
        "failed": 3,
        "cancelled": 2,
        "expired": 1,
    } == journal.counts()


def test_the_summary_tells_what_people_ask(journal, path):
    rows = [
        each.row_id
        for each in journal.add_many([entry(number, priority=number, created_ns=100 - number) for number in range(6)])
    ]
    journal.finish(rows[5], "failed", error={"kind": "RateLimitError", "message": "…"})
    journal.finish(rows[4], "failed", error={"kind": "poison"})
    journal.finish(rows[3], "failed", error={"kind": "poison"})
    journal.finish(rows[2], "completed", result=b"{}")

    summary = journal.summary()

    assert (path, 1, 99, {"poison": 2, "RateLimitError": 1}, 1) == (
        summary.path,
        summary.schema,
        summary.oldest_pending_ns,
        summary.errors_by_kind,
        summary.completed_last_minute,
    )
    assert {"poison": 2, "RateLimitError": 1} == journal.errors_by_kind()
    assert 99 == journal.oldest_pending()
    assert summary.wal_bytes > 0
    assert summary.owner_pid is not None


def test_others_may_look_while_the_owner_works(journal, path):
    journal.add(entry(1))

    with Reader.open(path) as reader:
        assert "pending" == reader.get("c-1").status
        row_id = reader.pending()[0].row_id
        journal.claim(row_id)
        assert "processing" == reader.get("c-1").status
        assert journal.summary() == reader.summary()


def test_a_reader_makes_no_file(tmp_path):
    with pytest.raises(JournalError, match="no such file"):
        Reader.open(tmp_path / "none.db")

    assert [] == list(tmp_path.iterdir())


class TestRecovery:
    def crash(self, path: str, *row_ids: int) -> None:
        """Leave these rows as a process that died in the middle of sending them."""
        with Journal.open(path) as journal:
            journal.recover()
            for row_id in row_ids:
                journal.claim(row_id)

    def test_in_flight_is_sent_again_by_default(self, path):
        with Journal.open(path) as journal:
            journal.add_many([entry(1), entry(2)])
        self.crash(path, 2)

        with Journal.open(path) as journal:
            assert Recovery(resent=1) == journal.recover()
            assert [(0, 0), (1, 1)] == [(row.attempts, row.unanswered) for row in journal.pending()]
            assert 2 == journal.claim(2)

    def test_the_third_crash_parks_it_as_poison(self, path):
        with Journal.open(path) as journal:
            journal.add_many([entry(1), entry(2)])
        for _ in range(3):
            self.crash(path, 1)

        with Journal.open(path) as journal:
            assert Recovery(poisoned=1) == journal.recover()
            stored = journal.get("c-1")
            assert ("failed", "poison", 3) == (stored.status, stored.error["kind"], stored.attempts)
            assert ["c-2"] == [row.custom_id for row in journal.pending()]

    def test_refusals_are_no_poison(self, path):
        """
        Five attempts that were answered with 429 do not count as crashes.
        """
        with Journal.open(path) as journal:
            journal.add(entry(1))
            for _ in range(5):
                journal.claim(1)
                journal.release(1)
        self.crash(path, 1)

        with Journal.open(path) as journal:
            assert Recovery(resent=1) == journal.recover()

    def test_hold_sends_nothing_twice_and_a_retry_starts_anew(self, path):
        with Journal.open(path) as journal:
            journal.add(entry(1))
        self.crash(path, 1)

        with Journal.open(path) as journal:
            assert Recovery(held=1) == journal.recover(on_unknown="hold")
            assert "unknown" == journal.get("c-1").error["kind"]
            assert 0 == journal.retry_failed(kinds=["poison"])
            assert 0 == journal.retry_failed(kinds=[])
            assert 1 == journal.retry_failed(kinds=["unknown"])
            assert ("pending", None, 0) == (
                journal.get("c-1").status,
                journal.get("c-1").error,
                journal.get("c-1").unanswered,
            )

    def test_a_running_request_is_never_recovered(self, journal):
        """
        B01: only what was claimed before this owner opened the file is left over from a crash.
        """
        journal.claim(journal.add(entry(1)).row_id)

        with pytest.raises(JournalError, match="before the first claim"):
            journal.recover()
        assert "processing" == journal.get("c-1").status

    @pytest.mark.parametrize("bad", [{"on_unknown": "drop"}, {"max_sends": 0}, {"max_sends": "3"}])
    def test_bad_arguments_are_named(self, journal, bad):
        with pytest.raises(ConfigurationError, match=next(iter(bad))):
            journal.recover(**bad)


def test_levels_survive_and_replace_each_other(journal, path):
    huge = 10**30
    journal.save_levels(
        [SavedLevel("acc", "m", "TPM", 6_000, 60, huge, 5), SavedLevel("acc", "m", "RPM", 30, 60, 7, 5)]
    )
    journal.save_levels([SavedLevel("acc", "m", "RPM", 30, 60, 8, 6)])
    journal.save_levels([])

    assert {
        SavedLevel("acc", "m", "TPM", 6_000, 60, huge, 5),
        SavedLevel("acc", "m", "RPM", 30, 60, 8, 6),
    } == set(journal.load_levels())
    with pytest.raises(ConfigurationError):
        journal.save_levels([SavedLevel("acc", "m", "RPM", 1 << 63, 60, 8, 6)])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("custom_id", "half \ud800"),
        ("custom_id", 5),
        ("client", b"x"),
        ("priority", 1 << 63),
        ("created_ns", 1.5),
        ("payload", "text"),
        ("size", PromptSize("a", 1)),  # type: ignore[arg-type]
        ("options", {"a": object()}),
        ("options", {"a": float("nan")}),
    ],
)
def test_what_the_file_cannot_hold_is_refused_by_name(journal, field, value):
    with pytest.raises(ConfigurationError, match=field):
        journal.add(entry(1, **{field: value}))
    assert 0 == sum(journal.counts().values())


def test_a_damaged_payload_is_not_handed_out_to_be_sent(path):
    with Journal.open(path) as journal:
        row_id = journal.add(entry(1)).row_id
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE requests SET short_payload = X'7B7D'")
    connection.close()

    with Journal.open(path) as journal, pytest.raises(JournalError, match="damaged"):
        journal.payload(row_id)


def test_bad_ends_are_refused_by_name(journal):
    row_id = journal.add(entry(1)).row_id
    with pytest.raises(ConfigurationError, match="status"):
        journal.finish(row_id, "done")
    with pytest.raises(ConfigurationError, match="error"):
        journal.finish(row_id, "failed", error={"kind": object()})
    with pytest.raises(JournalError, match="not there"):
        journal.payload(99)


def test_after_close_every_call_says_so(path):
    journal = Journal.open(path)
    journal.close()
    journal.close()

    for call in (
        lambda: journal.add(entry(1)),
        journal.counts,
        lambda: journal.claim(1),
        journal.prune,
        lambda: journal.export(path + ".copy"),
    ):
        with pytest.raises(JournalError, match="closed"):
            call()


def test_a_dropped_journal_lets_the_next_owner_in(path):
    journal = Journal.open(path)
    journal.add(entry(1))
    del journal

    with Journal.open(path) as journal:
        assert 1 == journal.counts()["pending"]


def test_any_sqlite_tool_can_read_the_file(journal, path):
    """
    The schema is documented and stable: no function or collation of ours is needed.
    """
    journal.add(entry(1))

    connection = sqlite3.connect(path)
    found = connection.execute(
        "SELECT custom_id, status, body FROM requests JOIN bodies USING (id, custom_id)"
    ).fetchall()
    connection.close()

    assert [("c-1", "pending", entry(1).payload)] == found
