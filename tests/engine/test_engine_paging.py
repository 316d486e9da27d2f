"""What stands in a file only keeps its place, its Future and its count."""

from __future__ import annotations

import gc
import itertools
import random
import threading
import weakref
from concurrent.futures import CancelledError, wait
from contextlib import suppress

import pytest

from groq_queue.core.limits import Limits
from groq_queue.core.priority import parse_priority
from groq_queue.core.request import Request
from groq_queue.core.token_estimate import PromptSize
from groq_queue.engine import paging
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.paging import AlreadyFetched, Group
from groq_queue.errors import APIConnectionError, AuthenticationError, DailyLimitReached, JournalError, QueueFull
from tests.conftest import PATIENCE_S

LOST = APIConnectionError("reset", sent="no")
SLOW = Limits(rpm=60)  # one a second, after the first sixty


class File:
    """A journal in memory: rows by id, until they end."""

    def __init__(self) -> None:
        self.ids = itertools.count(1)
        self.rows: dict[int, tuple[str | None, int, str]] = {}
        self.ends: list[tuple[int, str]] = []
        self.pages = 0
        self.is_broken = False
        self._lock = threading.Lock()

    def add(self, name=None, priority="normal", client="default"):
        with self._lock:
            row_id = next(self.ids)
            self.rows[row_id] = (name, parse_priority(priority), client)
            return row_id

    def request(self, row_id):
        name, priority, client = self.rows[row_id]
        return self.make(row_id, name, priority, client)

    def make(self, row_id, name=None, priority="normal", client="default"):
        request = Request(
            model="m",
            endpoint="chat/completions",
            body=b"{}",
            size=PromptSize(1, 0, is_exact=True),
            priority=parse_priority(priority),
            client=client,
            custom_id=name,
        )
        request.row_id = row_id
        return request

    def fetch(self, page):
        with self._lock:
            if self.is_broken:
                raise JournalError("the disk is gone")
            self.pages += 1
            key = (page.group.priority, page.group.client)
            found = [row for row in sorted(self.rows) if row > page.after and self.rows[row][1:] == key]
            return [self.request(row) for row in found[: page.limit]], len(found) < page.limit

    def ended(self, request, result, error):
        with self._lock:
            self.rows.pop(request.row_id, None)
            self.ends.append((request.row_id, request.state.value))

    def moved(self, request):
        with self._lock:
            if request.row_id in self.rows:
                name, _, client = self.rows[request.row_id]
                self.rows[request.row_id] = (name, request.priority, client)

    def cancel_group(self, group, after):
        with self._lock:
            meant = [row for row in self.rows if row > after and self.rows[row][1:] == (group.priority, group.client)]
            for row in meant:
                del self.rows[row]
            return len(meant)


@pytest.fixture
def file(monkeypatch):
    """A file, and so little memory that nearly everything stands in it only."""
    monkeypatch.setattr(paging, "_RESIDENT_AT_MOST", 6)
    monkeypatch.setattr(paging, "_PAGE", 4)
    return File()


@pytest.fixture
def submit(file):
    def submit(played, name=None, *, callback=None, is_new=True, row=None, **options):
        row = file.add(name, **options) if row is None else row
        request = file.make(row, name, **options)
        while True:
            with suppress(AlreadyFetched), played.engine.reading():
                if is_new or row in file.rows:
                    request = request if is_new else file.request(row)
                    return played.engine.submit(request, callback=callback, is_new=is_new)
            is_new = False
            future = played.engine.future_of(row)
            if future is not None or row not in file.rows:
                return future

    return submit


def in_memory(played):
    return len(played.engine._table.open)


def test_a_hundred_wait_and_six_are_in_memory(stage, file, submit):
    played = stage(keeper=file)
    played.engine.pause(None)

    futures = [submit(played, f"r{number}") for number in range(100)]

    assert 6 == in_memory(played)
    assert 100 == played.engine.stats().pending
    assert played.engine.is_kept is True
    played.engine.resume(None)
    assert all(future.result(10) is not None for future in futures)
    assert 0 == played.engine.stats().pending
    assert 100 == played.engine.stats().completed == played.engine.stats().submitted
    assert [f"r{number}" for number in range(100)] == played.taken


def test_order_and_fairness_are_what_they_are_without_a_backlog(stage, file, submit):
    """
    The same load with and without: the same clients' turns, but for ties, and each client's own order.
    """
    rng = random.Random(7)
    load = [(f"r{n}", rng.choice(["high", "low"]), rng.choice("abc")) for n in range(120)]
    taken = []
    for keeper in (None, file):
        played = stage(SLOW, max_workers=1, keeper=keeper)
        played.engine.pause(None)
        for name, priority, client in load:
            if keeper is None:
                played.submit(name, priority=priority, client=client, size=PromptSize(1, 0, is_exact=True))
            else:
                submit(played, name, priority=priority, client=client)
        played.engine.resume(None)
        played.settle_down()
        while len(played.taken) < 120:
            played.clock.advance(1)
            played.settle_down()
        taken.append(played.taken)

    client_of = {name: client for name, _, client in load}
    without, with_backlog = ([client_of[name] for name in names] for names in taken)
    for client in "abc":
        own = [[name for name in names if client_of[name] == client] for names in taken]
        assert own[0] == own[1]
        for length in range(120):
            assert abs(without[:length].count(client) - with_backlog[:length].count(client)) <= 1


def test_an_urgent_request_overtakes_the_whole_backlog(stage, file, submit):
    played = stage(max_workers=1, keeper=file)
    played.hold()
    for number in range(50):
        submit(played, f"r{number}")
    played.wait_for_sends(1)

    submit(played, "urgent", priority="high")
    played.release(2)

    assert ["r0", "urgent"] == played.wait_for_sends(2)
    played.release()


def test_what_a_file_held_at_the_start_is_sent(stage, file):
    for number in range(40):
        file.add(f"r{number}", client="ab"[number % 2])
    played = stage(keeper=file)

    played.engine.add_stored({Group("m", "m", 5, client): 20 for client in "ab"})

    assert played.engine.join(10)
    assert {f"r{number}" for number in range(40)} == set(played.taken)
    assert 40 == played.engine.stats().completed


def test_join_waits_for_what_is_in_the_file_only(stage, file):
    for number in range(40):
        file.add(f"r{number}")
    played = stage(keeper=file)
    played.hold()

    played.engine.add_stored({Group("m", "m", 5, "default"): 40})

    assert not played.engine.join(0)
    played.release()
    assert played.engine.join(10)
    assert {} == file.rows


def test_a_wrong_count_is_mended_by_the_last_page(stage, file):
    """
    Rows may come and go between the counting and the fetching; the file is right.
    """
    for number in range(10):
        file.add(f"r{number}")
    for counted in (3, 30):
        for number in range(10 if counted == 30 else 0):
            file.add(f"again{number}")
        played = stage(keeper=file)
        played.engine.add_stored({Group("m", "m", 5, "default"): counted})

        assert played.engine.join(10)

        stats = played.engine.stats()
        assert (0, 10, 10) == (stats.pending, stats.completed, stats.submitted)


def test_a_future_in_the_backlog_is_the_one_that_is_ended(stage, file, submit):
    played = stage(keeper=file)
    played.engine.pause(None)
    futures = [submit(played, f"r{number}") for number in range(30)]
    assert futures[29] is played.engine.future_of(30)
    assert not futures[29].done()
    assert not futures[29].running()

    played.engine.resume(None)

    assert not wait(futures, 10).not_done


def test_a_future_that_nobody_holds_costs_nothing_but_its_callback_is_called(stage, file, submit):
    played = stage(keeper=file)
    played.engine.pause(None)
    called = []
    for number in range(20):
        submit(played, f"r{number}")
    kept = weakref.ref(submit(played, "kept", callback=lambda future: called.append(future.custom_id)))
    later = submit(played, "later")
    later.add_done_callback(lambda future: called.append(future.custom_id))
    dropped = weakref.ref(submit(played, "dropped"))
    later_ref = weakref.ref(later)
    del later
    gc.collect()
    assert dropped() is None
    assert kept() is not None
    assert later_ref() is not None

    played.engine.resume(None)

    assert played.engine.join(10)
    assert ["kept", "later"] == sorted(called)
    assert "dropped" in played.taken


def test_one_in_the_backlog_can_be_cancelled(stage, file, submit):
    played = stage(keeper=file)
    played.engine.pause(None)
    futures = [submit(played, f"r{number}") for number in range(30)]

    assert futures[20].cancel()

    assert futures[20].cancelled()
    with pytest.raises(CancelledError):
        futures[20].result(0)
    assert (21, "cancelled") in file.ends
    assert 29 == played.engine.stats().pending
    played.engine.resume(None)
    assert played.engine.join(10)
    assert "r20" not in played.taken
    assert 29 == len(played.taken)


def test_the_last_ones_in_the_backlog_may_all_be_cancelled(stage, file, submit):
    played = stage(keeper=file)
    played.engine.pause(None)
    futures = [submit(played, f"r{number}") for number in range(10)]

    assert all(future.cancel() for future in futures)

    assert played.engine.join(10)
    assert 0 == played.engine.stats().pending
    assert [] == played.taken


def test_one_in_the_backlog_can_be_made_urgent(stage, file, submit):
    played = stage(max_workers=1, keeper=file)
    played.hold()
    futures = [submit(played, f"r{number}") for number in range(30)]
    played.wait_for_sends(1)

    assert played.engine.set_priority(futures[25]._request, 0)
    played.release(2)

    assert ["r0", "r25"] == played.wait_for_sends(2)
    played.release()
    assert played.engine.join(10)
    assert 30 == len(played.taken) == len(set(played.taken))


def test_cancel_all_reaches_the_backlog(stage, file, submit):
    played = stage(keeper=file)
    played.engine.pause(None)
    held = [submit(played, f"a{number}", client="a") for number in range(12)]
    for number in range(20):
        submit(played, f"a-dropped{number}", client="a")
        submit(played, f"b{number}", client="b")
    gc.collect()

    assert 32 == played.engine.cancel_all(lambda request: request.client == "a")

    assert all(future.cancelled() for future in held)
    stats = played.engine.stats()
    assert ({"b": 20}, 32) == (stats.pending_by_client, stats.cancelled)
    played.engine.resume(None)
    assert played.engine.join(10)
    assert {f"b{number}" for number in range(20)} == set(played.taken)


def test_shutdown_ends_every_future_and_leaves_the_rows(stage, file, submit):
    played = stage(keeper=file)
    played.engine.pause(None)
    futures = [submit(played, f"r{number}") for number in range(30)]

    played.engine.shutdown(wait=True, cancel_futures=True)

    assert all(future.cancelled() for future in futures)
    assert 30 == len(file.rows)
    assert [] == file.ends
    assert 0 == played.engine.stats().pending


def test_a_rejected_key_ends_every_future_and_leaves_the_rows(stage, file, submit):
    played = stage(max_workers=1, keeper=file)
    refusal = AuthenticationError("wrong key", status_code=401)
    played.script = lambda request: Outcome(Disposition.STOP_ALL, error=refusal)
    played.engine.pause(None)
    futures = [submit(played, f"r{number}") for number in range(30)]
    played.engine.resume(None)

    errors = [future.exception(10) for future in futures]

    assert all(isinstance(error, AuthenticationError) for error in errors)
    assert 30 == len(file.rows)
    late = submit(played, "late")
    assert isinstance(late.exception(10), AuthenticationError)
    assert 31 == len(file.rows)


def test_a_row_that_is_here_already_gives_its_future(stage, file, submit):
    played = stage(keeper=file)
    played.engine.pause(None)
    resident, stored = [submit(played, f"r{number}") for number in range(20)][::19]

    assert resident is submit(played, row=1, is_new=False)
    assert stored is submit(played, row=20, is_new=False)
    assert 20 == played.engine.stats().pending


def test_a_row_in_the_backlog_gets_a_future_when_somebody_asks(stage, file, submit):
    for number in range(20):
        file.add(f"r{number}")
    played = stage(keeper=file)
    played.engine.pause(None)
    played.engine.add_stored({Group("m", "m", 5, "default"): 20})

    future = submit(played, row=18, is_new=False)

    assert 20 == played.engine.stats().pending
    played.engine.resume(None)
    assert future.result(10) is not None
    assert played.engine.join(10)
    assert 20 == len(played.taken) == played.engine.stats().completed


def test_a_page_that_cannot_be_read_is_read_later(stage, file):
    for number in range(20):
        file.add(f"r{number}")
    played = stage(keeper=file)
    file.is_broken = True
    played.engine.add_stored({Group("m", "m", 5, "default"): 20})
    assert 20 == played.engine.stats().pending

    file.is_broken = False
    played.clock.advance(1)

    assert played.engine.join(10)
    assert 20 == len(played.taken)


def test_a_request_with_a_time_limit_never_stands_in_the_backlog(stage, file, submit):
    played = stage(keeper=file)
    played.engine.pause(None)
    for number in range(20):
        submit(played, f"r{number}")
    request = file.request(file.add("hurried"))
    request.max_wait_ns = 1_000_000_000
    future = played.engine.submit(request)

    played.clock.advance(2)

    assert future.exception(10) is not None
    assert 20 == played.engine.stats().pending
    played.engine.resume(None)
    assert played.engine.join(10)
    assert 20 == len(played.taken)


def test_a_callback_of_a_row_that_is_here_already_is_called_once_whoever_holds_the_future(stage, file, submit):
    """
    In memory, on the backlog with a Future that somebody holds, and on the backlog where nobody held one.
    """
    for number in range(20):
        file.add(f"r{number}")
    played = stage(keeper=file)
    played.engine.pause(None)
    played.engine.add_stored({Group("m", "m", 5, "default"): 20})
    called = []

    for row in (1, 20, 20, 19):
        submit(played, row=row, is_new=False, callback=lambda future, row=row: called.append(row))
    gc.collect()
    played.engine.resume(None)

    assert played.engine.join(10)
    assert [1, 19, 20, 20] == sorted(called)
    assert 20 == played.engine.stats().completed


def test_a_new_row_that_stands_in_the_backlog_has_its_callback_called_once(stage, file, submit):
    played = stage(keeper=file)
    played.engine.pause(None)
    called = []
    for number in range(20):
        submit(played, f"r{number}", callback=lambda future: called.append(future.custom_id))
    gc.collect()
    played.engine.resume(None)

    assert played.engine.join(10)
    assert sorted(f"r{number}" for number in range(20)) == sorted(called)


def test_a_new_priority_is_written_down_for_those_in_memory_and_in_the_backlog(stage, file, submit):
    played = stage(keeper=file)
    played.engine.pause(None)
    futures = [submit(played, f"r{number}") for number in range(20)]

    for number in (2, 18):
        assert played.engine.set_priority(futures[number]._request, 0)

    assert {"r2": 0, "r18": 0} == {name: level for name, level, _ in file.rows.values() if level != 5}
    assert {0: 2, 5: 18} == played.engine.stats().pending_by_priority
    played.engine.resume(None)
    assert played.engine.join(10)
    assert {"r2", "r18"} == set(played.taken[:2])


def test_one_that_is_taken_out_of_the_backlog_is_sent_though_all_who_work_are_busy(stage, file, submit):
    """
    Nothing else is in memory, so nobody looks; another worker is started for it.
    """
    played = stage(max_workers=2, keeper=file)
    played.engine._pool.ensure_one()
    played.settle_down()
    played.hold()
    played.submit("busy")
    played.wait_for_sends(1)
    file.is_broken = True
    row = file.add("mine")
    played.engine.add_stored({Group("m", "m", 5, "default"): 1})
    future = submit(played, row=row, is_new=False)
    played.settle_down()
    assert (1, 1) == (len(played.sent), played.engine._pool._workers)

    assert played.engine.set_priority(future._request, 0)

    played.wait_for_sends(2)
    assert future._request is played.sent[1]
    file.is_broken = False
    played.release()


def test_a_page_that_cannot_be_read_is_told_and_asked_for_each_second(stage, file, caplog):
    file.add("r")
    played = stage(keeper=file)
    file.is_broken = True
    played.engine.add_stored({Group("m", "m", 5, "default"): 1})
    for _ in range(2):
        played.settle_down()
        assert played.clock.is_awaited(1)
        played.clock.advance(1)
        played.settle_down()
    assert ["journal_trouble"] * 3 == [record.groq_queue_event for record in caplog.records]

    file.is_broken = False
    played.clock.advance(1)

    assert played.engine.join(10)
    assert ["r"] == played.taken


def test_a_full_queue_with_a_backlog_counts_what_is_in_it(stage, file, submit):
    played = stage(keeper=file, max_pending=20, when_full="raise")
    played.engine.pause(None)
    futures = [submit(played, f"r{number}") for number in range(20)]

    with pytest.raises(QueueFull):
        submit(played, "one more")

    assert 20 == played.engine.stats().pending
    for row in (1, 20):
        assert futures[row - 1] is submit(played, row=row, is_new=False), "it has its place already"


def test_how_each_request_ended_is_written_down_before_its_future_ends(stage, file, submit):
    played = stage(keeper=file, max_workers=1)
    written = []
    played.script = lambda request: Outcome(Disposition.FAILED, error=LOST) if request.custom_id == "bad" else None
    for name in ("good", "bad"):
        submit(played, name, callback=lambda future: written.append(file.ends[-1]))

    assert played.engine.join(10)
    assert [(1, "completed"), (2, "failed")] == written


def test_what_ends_without_an_attempt_is_written_down_too(stage, file, submit):
    """
    A day that is spent, a time that has run out, a cancel; but not what a stopped queue leaves for the next run.
    """
    played = stage(Limits(rpd=1), keeper=file)
    submit(played, "first").result(10)
    assert isinstance(submit(played, "no budget").exception(10), DailyLimitReached)
    played.engine.pause(None)
    request = file.make(file.add("hurried"), "hurried")
    request.max_wait_ns = 1_000_000_000
    hurried = played.engine.submit(request)
    played.clock.advance(1)
    assert hurried.exception(10) is not None
    submit(played, "called off")
    assert 1 == played.engine.cancel_all(lambda request: True)
    submit(played, "left")

    played.engine.shutdown(wait=True, cancel_futures=True)

    assert [(1, "completed"), (2, "failed"), (3, "expired"), (4, "cancelled")] == file.ends
    assert {5} == set(file.rows)


def test_a_page_that_was_read_before_an_end_was_stored_brings_nothing_back(stage, file, submit):
    """
    The page is on its way while the request it holds is cancelled, its end stored, and it is forgotten.
    """
    has_read, may_go_on = threading.Event(), threading.Event()
    fetch, ended = file.fetch, file.ended

    def slow_fetch(page):
        found = fetch(page)
        if not has_read.is_set():
            has_read.set()
            assert may_go_on.wait(PATIENCE_S)
        return found

    def slow_ended(request, result, error):
        if request.custom_id == "cancelled":
            making_room.start()
            assert has_read.wait(PATIENCE_S)
        ended(request, result, error)

    played = stage(keeper=file)
    played.engine.pause(None)
    cancelled = submit(played, "cancelled")
    others = [submit(played, f"{n}") for n in range(5)] + [submit(played, "on the backlog")]
    assert "on the backlog" not in {request.custom_id for request in played.engine._table.open}
    file.fetch, file.ended = slow_fetch, slow_ended
    making_room = threading.Thread(target=lambda: [future.cancel() for future in others[:5]])
    cancelled.cancel()
    may_go_on.set()
    making_room.join(PATIENCE_S)
    played.engine.resume(None)

    assert played.engine.join(PATIENCE_S)
    assert ["on the backlog"] == [request.custom_id for request in played.sent]
    assert (7, 6, 1) == tuple(getattr(played.engine.stats(), name) for name in ("submitted", "cancelled", "completed"))


def test_a_row_whose_request_ends_while_it_is_looked_up_is_not_sent_again(stage, file, submit):
    """
    It was pending when it was read, and has been answered before its reader submits what it read.
    """
    played = stage(keeper=file)
    played.engine.pause(None)
    first = submit(played, "first")

    with played.engine.reading():
        request = file.request(1)
        played.engine.resume(None)
        assert first.result(PATIENCE_S)
        assert played.engine.join(PATIENCE_S)
        with pytest.raises(AlreadyFetched):
            played.engine.submit(request, is_new=False)

    assert ["first"] == [request.custom_id for request in played.sent]


def test_requests_that_come_behind_later_rows_are_counted_when_they_are_cancelled(stage, file, submit):
    """
    Their rows are older than those of a client of which nothing is left, so nobody can tell whether they were fetched.
    """
    played = stage(keeper=file)
    rows = [file.add(name, client="slow") for name in ("late", "later")]
    played.engine.pause(None)
    done = [submit(played, f"quick {number}", client="quick") for number in range(20)]
    played.engine.resume(None)
    assert all(future.result(PATIENCE_S) for future in done)
    assert played.engine.join(PATIENCE_S)
    played.engine.pause(None)
    others = [submit(played, f"slow {number}", client="slow") for number in range(7)]

    late = [submit(played, name, client="slow", row=row) for name, row in zip(("late", "later"), rows, strict=True)]
    assert all(future.cancel() for future in late)
    played.engine.resume(None)
    assert all(future.result(PATIENCE_S) for future in others)
    assert played.engine.join(PATIENCE_S)

    stats = played.engine.stats()
    assert (29, 27, 2, 0) == (stats.submitted, stats.completed, stats.cancelled, stats.pending)


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_or_sent_twice_whatever_happens_at_once(stage, file, submit, seed):
    """
    Four threads submit, cancel and reprioritise while eight workers drain through a backlog of a few rows.
    """
    played = stage(keeper=file)
    futures: list = []

    def act(number):
        rng = random.Random(seed * 10 + number)
        for index in range(150):
            future = submit(played, f"t{number}-{index}", client=rng.choice("ab"), priority=rng.choice(["high", "low"]))
            if future is not None and rng.random() < 0.7:
                futures.append(future)
            if futures and rng.random() < 0.2:
                rng.choice(futures).cancel()
            if futures and rng.random() < 0.1:
                played.engine.set_priority(rng.choice(futures)._request, rng.choice([1, 5, 8]))

    threads = [threading.Thread(target=act, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert played.engine.join(10)
    stats = played.engine.stats()
    assert 600 == stats.submitted == stats.completed + stats.cancelled
    assert 0 == stats.pending == stats.in_flight == in_memory(played)
    assert len(played.taken) == len(set(played.taken)) == stats.completed
    assert all(future.done() for future in futures)
    assert {} == stats.pending_by_client == stats.pending_by_priority
    assert {} == file.rows
    table = played.engine._table
    assert ({}, {}) == (table.rows, table.pager._stacks)
