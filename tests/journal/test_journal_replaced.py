"""A journal that is deleted, moved, replaced or opened under another name while its owner is at work."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from waiting import wait_until

from groq_queue import GroqQueue, GroqSimulator, Limits
from groq_queue.clock import FakeClock
from groq_queue.errors import JournalError
from groq_queue.journal import Journal
from groq_queue.journal.file_identity import FileIdentity
from groq_queue.journal.group_commit import GroupCommit

from .making import entry

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be renamed there")

WIDE = Limits(rpm=100_000, tpm=100_000_000)


class InThread:
    """A call on a thread of its own, and what it returned."""

    def __init__(self, call):
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._returned = None

    def _run(self):
        self._returned = self._call()

    def start(self):
        self._thread.start()

    def result(self):
        self._thread.join(10)
        return self._returned


def delete(path):
    for name in (path, path + "-wal", path + "-shm"):
        os.unlink(name)


def move(path):
    for end in ("", "-wal", "-shm"):
        os.rename(path + end, path + ".away" + end)


def replace(path):
    shutil.copy(path, path + ".copy")
    os.replace(path + ".copy", path)


def delete_log(path):
    os.unlink(path + "-wal")


def delete_directory(path):
    shutil.rmtree(os.path.dirname(path))


@pytest.fixture
def path(tmp_path):
    (tmp_path / "inner").mkdir()
    return str(tmp_path.resolve() / "inner" / "run.db")


@pytest.mark.parametrize("act", [delete, move, replace, delete_log, delete_directory])
def test_a_journal_that_is_gone_takes_nothing_more_and_says_so(path, act):
    with Journal.open(path) as journal:
        row_id = journal.add(entry(1)).row_id
        act(path)

        calls = [
            lambda: journal.add(entry(2)),
            lambda: journal.add_many([entry(3), entry(4)]),
            lambda: journal.claim(row_id),
            lambda: journal.finish(row_id, "failed"),
            journal.prune,
        ]
        for call in calls:
            with pytest.raises(JournalError, match="was deleted, moved or replaced while it was open"):
                call()


def test_a_journal_that_is_moved_back_goes_on(path):
    with Journal.open(path) as journal:
        journal.add(entry(1))
        move(path)
        with pytest.raises(JournalError):
            journal.add(entry(2))
        for end in ("", "-wal", "-shm"):
            os.rename(path + ".away" + end, path + end)

        assert journal.add(entry(3)).is_new

    with Journal.open(path) as journal:
        assert 2 == journal.counts()["pending"]


def test_a_new_journal_of_that_name_is_left_alone_by_the_old_owners_end(path):
    """
    The last of SQLite's connections removes the log by its name.
    """
    old = Journal.open(path)
    old.add(entry(1))
    delete(path)
    os.unlink(path + ".lock")
    with Journal.open(path) as new:
        new.add(entry(2))

        old.close()

        assert os.path.exists(path + "-wal")
        assert new.add(entry(3)).is_new
    with Journal.open(path) as new:
        assert 2 == new.counts()["pending"]


def test_a_queue_whose_journal_is_deleted_accepts_nothing_more(path):
    with (
        GroqSimulator(limits=WIDE, latency=0.0) as simulator,
        GroqQueue(
            api_key="k", base_url=simulator.base_url, model="llama-3.1-8b-instant", limits=WIDE, journal=path
        ) as queue,
    ):
        queue.submit("a", custom_id="a").result(10)
        delete(path)

        with pytest.raises(JournalError, match="was deleted, moved or replaced"):
            queue.submit("b", custom_id="b")

        assert 1 == simulator.stats().received


@pytest.fixture
def looks(monkeypatch):
    """Each look at the file of a journal that is opened from now on, and the clock that says how old it is."""
    clock, found = FakeClock(), []
    look, watch = FileIdentity.lost, GroupCommit.watch
    monkeypatch.setattr(FileIdentity, "lost", lambda identity: found.append(identity) or look(identity))

    def watched(commits, lost):
        commits._machine = clock
        watch(commits, lost)

    monkeypatch.setattr(GroupCommit, "watch", watched)
    return SimpleNamespace(found=found, clock=clock)


def test_a_look_serves_claims_releases_and_ends_for_a_millisecond_and_no_new_request(path, looks):
    with Journal.open(path) as journal:
        row_id = journal.add(entry(1)).row_id
        looks.found.clear()

        journal.claim(row_id)
        journal.release(row_id)
        looks.clock.advance(0.000_999)
        journal.claim(row_id)
        assert 0 == len(looks.found)
        looks.clock.advance(0.000_001)
        journal.finish(row_id, "failed", error={"kind": "x"})
        assert 1 == len(looks.found)

        journal.add(entry(2))
        journal.add(entry(3))
        assert 3 == len(looks.found)


def test_a_request_that_comes_while_an_end_is_written_has_a_look_of_its_own(path, looks):
    with Journal.open(path) as journal:
        row_id = journal.add(entry(1)).row_id
        journal.claim(row_id)
        commits, begin = journal._commits, journal._commits._begin
        late = InThread(lambda: journal.add(entry(2)))

        def begin_late():
            begin()
            commits._begin = begin
            late.start()
            wait_until(lambda: len(commits._line) == 2)

        commits._begin, commits._write_alone = begin_late, lambda change: None
        looks.found.clear()
        journal.finish(row_id, "failed", error={"kind": "x"})

        assert late.result().is_new
        assert 1 == len(looks.found)


def test_a_clock_that_stands_still_puts_off_no_look(path):
    with Journal.open(path, clock=FakeClock()) as journal:
        row_id = journal.add(entry(1)).row_id
        move(path)
        began_ns = time.monotonic_ns()
        wait_until(lambda: time.monotonic_ns() - began_ns > 2_000_000)

        with pytest.raises(JournalError, match="was deleted, moved or replaced"):
            journal.claim(row_id)


def test_once_a_journal_was_found_gone_nothing_is_claimed_until_it_is_back(path):
    with Journal.open(path) as journal:
        first, second = (journal.add(entry(n)).row_id for n in (1, 2))
        move(path)
        with pytest.raises(JournalError, match="was deleted, moved or replaced"):
            journal.add(entry(3))

        for row_id in (first, second):
            with pytest.raises(JournalError, match="was deleted, moved or replaced"):
                journal.claim(row_id, is_durable=False)
        for end in ("", "-wal", "-shm"):
            os.rename(path + ".away" + end, path + end)

        assert [1, 1] == [journal.claim(row_id, is_durable=False) for row_id in (first, second)]


def test_a_lock_file_that_is_removed_is_made_again_at_the_next_commit(path):
    with Journal.open(path) as journal:
        os.unlink(path + ".lock")
        journal.add(entry(1))

        with pytest.raises(JournalError, match="has it open"):
            Journal.open(path)

        assert journal.add(entry(2)).is_new


def test_an_owner_whose_lock_file_was_removed_gives_way_to_the_next(path):
    first = Journal.open(path)
    first.add(entry(1))
    os.unlink(path + ".lock")
    with Journal.open(path) as second:
        second.add(entry(2))

        with pytest.raises(JournalError, match="has it open"):
            first.add(entry(3))

        assert second.add(entry(4)).is_new
        first.close()
        assert second.add(entry(5)).is_new
    with Journal.open(path) as journal:
        assert 4 == journal.counts()["pending"]


def test_a_journal_of_two_names_is_refused_under_both(path):
    Journal.open(path).close()
    other = path + ".other"
    os.link(path, other)

    for name in (path, other):
        with pytest.raises(JournalError, match=r"has 2 names \(hard links\)"):
            Journal.open(name)

    os.unlink(other)
    Journal.open(path).close()


def test_a_second_name_that_is_given_while_it_is_open_lets_nobody_in(path):
    with Journal.open(path) as journal:
        os.link(path, path + ".other")

        with pytest.raises(JournalError, match="hard links"):
            Journal.open(path + ".other")

        assert journal.add(entry(1)).is_new
