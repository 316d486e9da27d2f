"""A Ctrl-C at any step of a call leaves a journal that works, with all that was acknowledged and nothing twice.

It raises between any two steps of the main thread; so the tests raise at each entry into a function, and at each
return out of one of C, in turn.
"""

from __future__ import annotations

import gc
import os
import sqlite3
import sys
import threading
from contextlib import closing, suppress

import pytest

import groq_queue
from groq_queue.errors import JournalError
from groq_queue.journal import Journal

from .making import answer, entry

LIBRARY = os.path.dirname(groq_queue.__file__)
LONG = "x" * 3_000  # a payload that does not stand in its row


def interrupted_at(step, act, times=1):
    """Run *act* and raise at its *step*-th step, and at those after it until it was raised *times* times.

    Return whether there was one so late.
    """
    steps = raised = 0

    def count(frame, event, _):
        nonlocal steps, raised
        # Not "c_call": there a ``with`` block would not call its lock's __exit__, and no signal comes then.
        if event not in ("call", "c_return") or not frame.f_code.co_filename.startswith(LIBRARY):
            return
        steps += 1
        if steps >= step:
            raised += 1
            if raised >= times:
                sys.setprofile(None)
            raise KeyboardInterrupt

    def again(frame, event, argument):  # Python forgets a profile function that has raised
        try:
            count(frame, event, argument)
        except KeyboardInterrupt:
            if raised < times:
                sys.setprofile(again)
            raise

    gc.disable()
    sys.setprofile(again)
    try:
        act()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
        gc.enable()
    return raised > 0


def every_step(act_of, times=1):
    """Call *act_of* for a fresh act, and interrupt each one step later, until there is no further one."""
    step = 1
    while interrupted_at(step, act_of(step), times):
        step += 1
        assert step < 500
    assert step > 10
    return step - 1


@pytest.fixture
def quick(path):
    with Journal.open(path, durability="normal") as opened:
        yield opened


def sound(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]


@pytest.mark.parametrize("text", ["short", LONG])
@pytest.mark.parametrize("name", [True, False])
@pytest.mark.parametrize("times", [1, 2])
def test_an_add_that_is_interrupted_anywhere_costs_no_later_one(quick, path, text, name, times):
    """
    With a name of the caller's and without; in the row and beside it; by one Ctrl-C, and by two at once.
    """
    added, before = {}, []

    def act_of(step):
        made = entry(step, text=f"{text} {step}", custom_id=f"c-{step}" if name else None)
        added[step] = made
        before.append(quick.add(entry(f"before {step}")).row_id)  # which ends what the last one left in line
        return lambda: quick.add(made)

    every_step(act_of, times)

    ids = [quick.add(made).row_id for made in added.values() if name]
    ids += [*before, quick.add(entry("last")).row_id]
    assert len(ids) == len(set(ids))
    for row_id in ids:
        assert 1 == quick.claim(row_id)
        assert quick.payload(row_id)
    assert quick.counts()["pending"] <= len(added) + len(before) + 1
    assert "ok" == sound(path)


def test_several_that_are_interrupted_anywhere_are_all_stored_or_none(quick):
    def act_of(step):
        return lambda: quick.add_many([entry(f"{step}-{n}", text=LONG * (n % 2)) for n in range(3)])

    steps = every_step(act_of)

    quick.add(entry("last"))
    for step in range(1, steps + 1):
        there = {quick.get(f"c-{step}-{n}").status for n in range(3)}
        assert 1 == len(there)


def test_an_add_that_finds_its_name_taken_leaves_no_gap(quick):
    first = quick.add(entry(1)).row_id
    assert [first] * 50 == [quick.add(entry(1)).row_id for _ in range(50)]

    assert first + 1 == quick.add(entry(2)).row_id


@pytest.mark.parametrize("verb", ["claim", "release", "finish"])
def test_a_step_of_a_request_that_is_interrupted_anywhere_is_done_or_not(quick, verb):
    ids = {}

    def act_of(step):
        row_id = ids[step] = quick.add(entry(step)).row_id
        if verb == "release":
            quick.claim(row_id)
        acts = {
            "claim": lambda: quick.claim(row_id),
            "release": lambda: quick.release(row_id),
            "finish": lambda: quick.finish(row_id, "completed", result=answer("a")),
        }
        return acts[verb]

    every_step(act_of)

    for step, row_id in ids.items():
        with suppress(JournalError):  # it was finished by the one that was interrupted
            quick.finish(row_id, "completed", result=answer("a"))
        stored = quick.get(f"c-{step}")
        assert ("completed", answer("a")) == (stored.status, stored.result)


def test_an_interrupt_of_one_caller_costs_the_others_in_line_nothing(quick):
    """
    Each of the others is told that its request is stored, and it is; whichever of them writes for all.
    """
    acknowledged = []
    is_over = threading.Event()

    def others(name):
        number = 0
        while not is_over.is_set():
            made = entry(f"{name}-{number}", text=LONG * (number % 2))
            acknowledged.append((made.custom_id, quick.add(made).row_id))
            number += 1

    threads = [threading.Thread(target=others, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for step in range(1, 120):
        interrupted_at(step % 60 + 1, lambda step=step: quick.add(entry(step)), 1 + step % 2)
    is_over.set()
    for thread in threads:
        thread.join(20)

    assert not any(thread.is_alive() for thread in threads)
    assert acknowledged
    for custom_id, row_id in acknowledged:
        assert row_id == quick.get(custom_id).row_id


def test_a_commit_that_is_to_wait_for_the_disk_does_so_after_an_interrupt_anywhere(path):
    """
    What need not wait makes SQLite wait no longer; torn out between this and the note of it, the next commit says so.
    """
    with Journal.open(path) as journal:
        waits = []

        def act_of(step):
            row_id = journal.add(entry(step)).row_id
            waits.append(journal._writer.execute("PRAGMA synchronous").fetchone()[0])
            return lambda: journal.claim(row_id, is_durable=False)

        every_step(act_of)
        journal.add(entry("last"))
        waits.append(journal._writer.execute("PRAGMA synchronous").fetchone()[0])

    assert {2} == set(waits)


def test_a_close_that_is_interrupted_anywhere_can_be_called_again(tmp_path):
    journals = []

    def act_of(step):
        path = str(tmp_path / f"{step}.db")
        journal = Journal.open(path, durability="normal")
        journal.add(entry(step))
        journals.append((path, journal))
        return journal.close

    every_step(act_of)

    for path, journal in journals:
        journal.close()
        with Journal.open(path) as again:
            assert 1 == again.counts()["pending"]


@pytest.mark.gate
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of what was torn out of our hands
def test_a_journal_that_is_interrupted_while_it_is_opened_can_be_opened_again(tmp_path):
    path = str(tmp_path / "run.db")
    opened = []

    def act_of(step):
        for journal in opened:
            journal.close()
        opened.clear()
        return lambda: opened.append(Journal.open(path, durability="normal"))

    step = 1
    while interrupted_at(step, act_of(step)):
        step += 7
        gc.collect()
    assert step > 50
    for journal in opened:
        journal.close()
    gc.collect()

    with Journal.open(path) as journal:
        assert journal.add(entry(1)).is_new


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_question_that_is_interrupted_anywhere_can_be_asked_again(quick):
    quick.add(entry(1))

    every_step(lambda step: quick.summary)

    gc.collect()
    assert 1 == quick.summary().counts["pending"]
