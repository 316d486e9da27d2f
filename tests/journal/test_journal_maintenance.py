"""Copies of a journal, and making it small again, while it is in use."""

from __future__ import annotations

import json
import os
import sqlite3
import threading

import pytest

from groq_queue.errors import ConfigurationError, JournalError
from groq_queue.journal import Journal, Reader

from .making import entry


def test_an_export_under_load_holds_all_that_was_accepted_before(journal, tmp_path):
    """
    Four threads go on submitting; the copy opens as a journal of its own, complete and sound.
    """
    accepted: list[str] = []
    stop, warm = threading.Event(), threading.Event()

    def submit(thread: int) -> None:
        number = 0
        while not stop.is_set():
            journal.add(entry(f"{thread}-{number}"))
            accepted.append(f"c-{thread}-{number}")
            number += 1
            if number == 50:
                warm.set()

    threads = [threading.Thread(target=submit, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    assert warm.wait(10)
    before = list(accepted)

    journal.export(tmp_path / "copy.db")

    stop.set()
    for thread in threads:
        thread.join(10)
    with Journal.open(tmp_path / "copy.db") as copy:
        names = set()
        place = None
        while page := copy.pending(after=place):
            names |= {row.custom_id for row in page}
            place = page[-1].cursor
        assert "ok" == copy._writer.execute("PRAGMA integrity_check").fetchone()[0]
    assert len(before) >= 50
    assert set(before) <= names


def test_an_export_never_overwrites_and_leaves_nothing_half_done(journal, tmp_path):
    there = tmp_path / "there"
    there.write_text("mine")

    for export in (journal.export, journal.export_batch):
        with pytest.raises(JournalError, match="not overwritten"):
            export(there)
        with pytest.raises(JournalError, match="cannot be created"):
            export(tmp_path / "none" / "copy")
        with pytest.raises(ConfigurationError):
            export(5)
    assert "mine" == there.read_text()

    journal.path = str(tmp_path / "gone.db")
    with pytest.raises(JournalError):
        journal.export(tmp_path / "half.db")
    assert not (tmp_path / "half.db").exists()


def test_the_remaining_queue_becomes_batch_lines_in_order(journal, tmp_path):
    journal.add_many([entry(number, priority=number % 2) for number in range(5)])
    journal.add(entry('ä "', endpoint="embeddings", payload='{"input":"ö"}'.encode()))
    journal.finish(1, "completed", result=b"{}")
    journal.claim(2)

    assert 4 == journal.export_batch(tmp_path / "rest.jsonl")

    lines = [json.loads(line) for line in (tmp_path / "rest.jsonl").read_bytes().splitlines()]
    assert ["c-2", "c-4", "c-3", 'c-ä "'] == [line["custom_id"] for line in lines]
    assert {"custom_id": 'c-ä "', "method": "POST", "url": "/v1/embeddings", "body": {"input": "ö"}} == lines[-1]
    assert json.loads(entry(2).payload) == lines[0]["body"]


def test_prune_deletes_what_has_ended_well_and_keeps_the_rest(journal):
    rows = [each.row_id for each in journal.add_many([entry(number) for number in range(10)])]
    journal.claim(rows[0])
    for row_id, status in zip(rows[1:5], ("completed", "failed", "cancelled", "expired"), strict=True):
        journal.finish(row_id, status, result=b"{}")

    assert 3 == journal.prune()

    assert (5, 1, 0, 1, 0, 0) == tuple(journal.counts().values())
    assert "unknown" == journal.get("c-1").status
    assert 1 == journal.prune(keep=())
    assert (5, 1, 0, 0, 0, 0) == tuple(journal.counts().values())


@pytest.mark.parametrize("keep", ["failed", ["done"], [5]])
def test_prune_refuses_what_is_no_status(journal, keep):
    with pytest.raises(ConfigurationError, match="keep"):
        journal.prune(keep=keep)


def test_a_row_number_is_never_used_twice(path):
    """
    Else the late answer of a pruned request would be stored as another's.
    """
    with Journal.open(path) as journal:
        journal.finish(journal.add(entry(1)).row_id, "completed")
        assert 1 == journal.prune()
    with Journal.open(path) as journal:
        assert 2 == journal.add(entry(2)).row_id


def test_the_file_shrinks_to_what_lives_in_it(journal, path):
    """
    2,500 requests, one in ten left: the file is at most twice the live data, and the log is empty.
    """
    entries = [entry(number, text="x" * (number * 7919 % 3_000)) for number in range(1, 2_501)]
    journal.add_many(entries)
    journal._commits.run(
        lambda connection: connection.execute("UPDATE requests SET status = 'completed' WHERE id % 10").rowcount
    )
    before = os.path.getsize(path) + os.path.getsize(path + "-wal")

    assert 2_250 == journal.prune()

    live = sum(len(each.payload) + 250 for each in entries[9::10])
    assert os.path.getsize(path) < before / 5
    assert os.path.getsize(path) <= 2 * live
    assert 0 == journal.summary().wal_bytes
    assert 250 == journal.counts()["pending"]


def test_the_log_stays_small_over_many_commits(path):
    """
    30 MB go through it.
    """
    with Journal.open(path, durability="normal") as journal:
        for number in range(300):
            journal.add(entry(number, text="x" * 100_000))

        assert os.path.getsize(path + "-wal") <= 6 * 1024 * 1024


def test_a_log_that_grew_behind_a_reader_shrinks_to_16_mb(path):
    with Journal.open(path, durability="normal") as journal:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM requests").fetchone()
        for number in range(20):
            journal.add(entry(number, text="x" * 1_000_000))
        grown = os.path.getsize(path + "-wal")
        connection.close()

        for number in range(20, 23):  # the log is emptied, then begun anew, then cut
            journal.add(entry(number))

        assert grown > 19_000_000
        assert 16 * 1024 * 1024 == os.path.getsize(path + "-wal")


def test_a_reader_elsewhere_does_not_stop_the_owner(journal, path):
    """
    A read transaction is held open throughout; nobody is refused, and prune gives back what it can.
    """
    journal.add(entry(0))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM requests").fetchone()

    for number in range(1, 50):
        journal.finish(journal.add(entry(number)).row_id, "completed")
    assert 49 == journal.prune()

    assert 1 == connection.execute("SELECT count(*) FROM requests").fetchone()[0]
    connection.close()
    with Reader.open(path) as reader:
        assert 1 == reader.counts()["pending"]
