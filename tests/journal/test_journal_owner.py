"""One owner at a time, in this process, in another, after a kill and across a fork."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading

import pytest

from groq_queue.errors import JournalError
from groq_queue.journal import Journal, Reader

from .making import entry

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and forks are POSIX")


def test_a_second_owner_in_this_process_is_refused(journal, path):
    with pytest.raises(JournalError, match=rf"this program \(pid {os.getpid()} since .*\) has it open"):
        Journal.open(path)

    assert journal.add(entry(1)).is_new


def test_an_owner_elsewhere_is_named_and_its_death_frees_the_file(path, other):
    """
    Refused while it lives; taken over at once when it is killed, with nothing to wait for or to delete.
    """
    owner = other("own", path)
    assert owner.stdout.readline().startswith("open")

    with pytest.raises(JournalError, match=f"pid {owner.pid} "):
        Journal.open(path)
    with Reader.open(path) as reader:
        assert owner.pid == reader.summary().owner_pid

    owner.send_signal(signal.SIGKILL)
    owner.wait(10)
    with Reader.open(path) as reader:
        assert reader.summary().owner_pid is None
    with Journal.open(path) as journal:
        assert journal.add(entry(1)).is_new


def test_a_child_that_outlives_the_owner_does_not_keep_the_lock(path, other):
    """
    A forked child inherits the descriptor; it lets go of it, or the file would be locked for as long as it lives.
    """
    owner = other("own_with_child", path)
    child = int(re.match(r"child (\d+)", owner.stdout.readline())[1])
    try:
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
        os.kill(child, 0)

        with Journal.open(path) as journal:
            assert journal.add(entry(1)).is_new
    finally:
        os.kill(child, signal.SIGKILL)


def test_the_owner_keeps_the_lock_when_a_child_ends(path, journal):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)

    with pytest.raises(JournalError, match="has it open"):
        Journal.open(path)


def test_a_forked_child_may_call_nothing(path, other):
    """
    Every method raises; the child's ordinary end does not touch the file; the parent goes on.
    """
    process = other("fork", path)

    out, err = process.communicate(timeout=30)

    assert ["refused 17 of 17", "child ended with 0"] == out.splitlines(), err
    with Journal.open(path) as journal:
        assert ["c-before", "c-after"] == [row.custom_id for row in journal.pending()]
        assert "ok" == journal._writer.execute("PRAGMA integrity_check").fetchone()[0]


def test_a_child_forked_in_the_middle_of_a_write_is_not_stuck(journal):
    """
    The writer's lock is held at the fork, for ever in the child: it is not asked for there.
    """
    with journal._commits._writing, journal._reader._reading:
        child = os.fork()
        if child == 0:
            refused = 0
            for call in (journal.counts, lambda: journal.add(entry(1)), journal.close):
                try:
                    call()
                except JournalError:
                    refused += 1
            os._exit(refused)
    _, status = os.waitpid(child, 0)

    assert 2 == os.waitstatus_to_exitcode(status)


def test_two_that_open_at_once_get_one_owner(path):
    barrier, opened, refused = threading.Barrier(8), [], []

    def go() -> None:
        barrier.wait(10)
        try:
            opened.append(Journal.open(path))
        except JournalError as error:
            refused.append(error)

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert (1, 7) == (len(opened), len(refused))
    opened[0].close()
