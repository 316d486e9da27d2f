"""The pool: how many threads there are, who of them is woken, and when they go."""

from __future__ import annotations

import logging
import threading
from collections import deque

import pytest

from groq_queue.clock import NS_PER_S, FakeClock
from groq_queue.engine.worker_pool import WorkerPool
from groq_queue.errors import GroqQueueError

PATIENCE_S = 10.0


class Desk:
    """Work by hand: jobs are callables; the test looks into the pool while nobody runs."""

    def __init__(self, size, clock):
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.jobs = deque()
        self.next_ns = None
        self.is_closed = False
        self.looks = 0
        self.prepared = 0
        self.has_to_prepare = False
        self.left = 0
        self.done = []
        self.broken = []
        self.pool = WorkerPool(self, self.lock, clock, size, "desk")

    # -- what the pool asks for

    def find_job(self):
        self.looks += 1
        self.changed.notify_all()
        return (self.jobs.popleft(), None) if self.jobs else (None, self.next_ns)

    def has_more(self):
        return bool(self.jobs)

    def is_over(self):
        return self.is_closed and not self.jobs

    def run(self, job):
        job()
        with self.lock:
            self.done.append(job)
            self.changed.notify_all()

    def prepare(self):
        self.prepared += 1

    def is_prepared(self):
        return not self.has_to_prepare

    def broke(self, job, error):
        with self.lock:
            self.broken.append((job, error))
            self.changed.notify_all()
        return True

    def all_left(self):
        self.left += 1

    # -- what tests do

    def put(self, *jobs):
        with self.lock:
            self.jobs.extend(jobs)
            self.pool.wake()
        self.pool.grow()

    def wait_until(self, is_so):
        pause = threading.Event()
        for _ in range(round(PATIENCE_S / 0.0005)):
            with self.lock:
                if is_so():
                    return
            pause.wait(0.0005)
        raise AssertionError(self.counts())

    def rest(self, workers):
        """Wait until that many workers are there and wait, one of them as the leader."""
        pool = self.pool
        self.wait_until(
            lambda: (
                workers == pool._workers == len(pool._due._waiters) + len(pool._parked._waiters) and not pool.missing
            )
        )

    def counts(self):
        pool = self.pool
        return pool._workers, pool._parked_count, pool._has_leader, pool.missing, pool._blocked

    def close(self):
        with self.lock:
            self.is_closed = True
            self.jobs.clear()
            self.pool.dismiss()
        self.pool.join()


class Held:
    """A job that stays until it is let go."""

    def __init__(self):
        self.entered, self.leave = threading.Event(), threading.Event()
        self.thread = None

    def __call__(self):
        self.thread = threading.current_thread()
        self.entered.set()
        assert self.leave.wait(PATIENCE_S)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def desk(clock):
    made = []

    def make(size):
        made.append(Desk(size, clock))
        return made[-1]

    yield make
    for each in made:
        each.close()


def held(desk, count):
    """Return that many jobs, each in the hands of a worker."""
    jobs = [Held() for _ in range(count)]
    for job in jobs:
        desk.put(job)
    for job in jobs:
        assert job.entered.wait(PATIENCE_S)
    return jobs


def release(jobs):
    for job in jobs:
        job.leave.set()


def test_a_worker_that_was_woken_looks_at_once_and_prepares_first_only_if_there_is_something_to_do(desk):
    one = desk(1)
    one.pool.ensure_one()
    one.rest(1)
    before, looks = one.prepared, one.looks

    with one.lock:
        one.pool.wake()
    one.wait_until(lambda: one.looks == looks + 1)
    one.rest(1)
    assert before == one.prepared

    with one.lock:
        one.has_to_prepare = True
        one.pool.wake()
    one.wait_until(lambda: one.prepared > before)
    with one.lock:
        one.has_to_prepare = False
    one.rest(1)


def test_a_worker_that_has_nothing_to_wait_for_lets_others_have_the_lock(desk, clock):
    """
    A clock may return from its wait without having let go of the lock.
    """
    one = desk(1)
    one.next_ns = clock.now_ns()
    one.pool.ensure_one()

    got = [one.lock.acquire(timeout=PATIENCE_S)]
    if got[0]:
        one.lock.release()
    one.next_ns = None

    assert [True] == got
    one.wait_until(lambda: one.pool._has_leader)


def test_there_are_no_more_workers_than_needed_and_no_more_than_allowed(desk):
    three = desk(3)
    assert three.pool.is_empty()
    three.pool.ensure_one()
    three.pool.ensure_one()
    three.rest(1)
    assert not three.pool.is_empty()

    jobs = held(three, 1)
    assert 1 == three.pool._workers
    jobs += held(three, 2)
    assert 3 == three.pool._workers
    waiting = Held()
    three.put(waiting)
    assert (3, 0) == (three.pool._workers, three.pool.missing)
    assert not waiting.entered.is_set()
    assert {"desk-worker"} == {job.thread.name for job in jobs}
    assert all(job.thread.daemon for job in jobs)

    release([*jobs, waiting])
    three.rest(3)
    assert (3, 2, True, 0, 0) == three.counts()


def test_one_change_wakes_one_worker(desk):
    four = desk(4)
    release(held(four, 4))
    four.rest(4)
    looks = four.looks

    done = len(four.done)
    four.put(lambda: None)
    four.wait_until(lambda: len(four.done) == done + 1)
    four.rest(4)

    assert four.looks <= looks + 3, "the one that took it looks again, and perhaps the one that leads meanwhile"


def test_who_takes_a_job_hands_the_lead_on_if_there_is_more(desk):
    """
    Two jobs, one wake-up: the first worker sees to it that somebody takes the second while it runs.
    """
    two = desk(2)
    release(held(two, 2))
    two.rest(2)
    first, second = Held(), Held()

    two.put(first, second)

    assert first.entered.wait(PATIENCE_S)
    assert second.entered.wait(PATIENCE_S)
    release([first, second])


def test_who_takes_a_job_starts_another_worker_if_there_is_more(desk):
    two = desk(2)
    first, second = Held(), Held()

    two.put(first, second)

    assert first.entered.wait(PATIENCE_S)
    assert second.entered.wait(PATIENCE_S)
    assert 2 == two.pool._workers
    release([first, second])


def test_who_takes_the_last_job_wakes_nobody(desk):
    two = desk(2)
    (job,) = held(two, 1)

    assert (1, 0, 0) == (two.pool._workers, two.pool.missing, two.pool._parked_count)
    release([job])


def test_the_leader_looks_again_at_its_instant_and_the_parked_sleep_on(desk, clock):
    two = desk(2)
    release(held(two, 2))
    two.rest(2)
    two.next_ns = clock.now_ns() + 5 * NS_PER_S
    with two.lock:
        two.pool.wake()
    two.rest(2)
    two.wait_until(lambda: clock.is_awaited(5))
    looks = two.looks
    two.jobs.append(lambda: None)
    two.next_ns = None

    clock.advance(5)

    two.wait_until(lambda: 3 == len(two.done))
    two.rest(2)
    assert looks < two.looks


@pytest.mark.parametrize(("leads_until_s", "asked_s", "wakes"), [(5, 4, True), (5, 5, False), (5, 6, False)])
def test_a_leader_that_looks_in_time_anyway_is_not_woken(desk, clock, leads_until_s, asked_s, wakes):
    one = desk(1)
    one.next_ns = clock.now_ns() + leads_until_s * NS_PER_S
    one.pool.ensure_one()
    one.rest(1)
    looks = one.looks

    with one.lock:
        one.pool.wake_by(clock.now_ns() + asked_s * NS_PER_S)
        was_notified = not one.pool._due._waiters
    one.rest(1)

    assert wakes is was_notified
    assert looks + wakes == one.looks


def test_a_leader_that_waits_for_a_change_only_is_woken(desk, clock):
    one = desk(1)
    one.pool.ensure_one()
    one.rest(1)

    with one.lock:
        one.pool.wake_by(clock.now_ns() + 10**15)
        assert not one.pool._due._waiters


def test_where_nobody_leads_a_worker_is_started_to_look_in_time(desk, clock):
    two = desk(2)
    (job,) = held(two, 1)

    with two.lock:
        two.pool.wake_by(clock.now_ns() + NS_PER_S)
    assert two.pool.missing
    two.pool.grow()

    assert not two.pool.missing
    two.wait_until(lambda: two.pool._has_leader)
    assert 2 == two.pool._workers
    release([job])


def test_another_worker_takes_the_place_of_one_that_steps_aside_and_the_last_one_too_many_goes(desk):
    one = desk(1)
    (job,) = held(one, 1)
    inner = []

    with one.pool.blocking_section():
        (inner,) = held(one, 1)
        assert (2, 1) == (one.pool._workers, one.pool._blocked)
    assert 0 == one.pool._blocked
    release([inner])
    one.wait_until(lambda: 1 == one.pool._workers)
    release([job])

    one.rest(1)
    assert (1, 0, True, 0, 0) == one.counts()


def test_two_that_step_aside_make_room_for_two(desk):
    one = desk(1)
    jobs = held(one, 1)
    with one.pool.blocking_section():
        jobs += held(one, 1)
        with one.pool.blocking_section():
            jobs += held(one, 1)
            assert (3, 2) == (one.pool._workers, one.pool._blocked)
            waiting = Held()
            one.put(waiting)
            assert 3 == one.pool._workers
    release([*jobs, waiting])
    one.rest(1)


def test_who_is_inside_is_known_by_thread(desk):
    one = desk(1)
    seen = []
    one.put(lambda: seen.append(one.pool.is_inside()))
    one.wait_until(lambda: len(one.done) == 1)

    assert not one.pool.is_inside()
    one.pool.inside.depth = 1
    assert one.pool.is_inside()
    other = threading.Thread(target=lambda: seen.append(one.pool.is_inside()))
    other.start()
    other.join(PATIENCE_S)
    one.pool.inside.depth = 0
    assert not one.pool.is_inside()
    assert [True, False] == seen


def test_when_it_is_over_everybody_goes_and_the_last_one_says_so(desk):
    three = desk(3)
    release(held(three, 3))
    three.rest(3)

    three.close()

    assert (0, 0, False, 0, 0) == three.counts()
    assert three.pool.is_empty()
    assert 1 == three.left
    assert "desk-worker" not in [thread.name for thread in threading.enumerate()]


def test_join_waits_for_those_that_still_work(desk):
    one = desk(1)
    (job,) = held(one, 1)
    with one.lock:
        one.is_closed = True
        one.pool.dismiss()
    joined = threading.Event()
    joiner = threading.Thread(target=lambda: (one.pool.join(), joined.set()))
    joiner.start()
    one.wait_until(lambda: len(one.pool._gone._waiters) == 1)
    assert not joined.is_set()

    release([job])

    assert joined.wait(PATIENCE_S)
    joiner.join(PATIENCE_S)
    assert not job.thread.is_alive()


def test_nobody_is_started_when_it_is_over(desk):
    two = desk(2)
    two.is_closed = True

    two.pool.ensure_one()
    with two.lock:
        two.pool.wake()
    assert two.pool.missing
    two.pool.grow()

    assert (0, 0, False, 0, 0) == two.counts()
    assert 0 == two.looks


def test_without_a_first_thread_nothing_is_accepted(desk, monkeypatch):
    one = desk(1)
    monkeypatch.setattr(threading.Thread, "start", refuse)

    with pytest.raises(GroqQueueError, match="no worker thread could be started: can't start new thread"):
        one.pool.ensure_one()

    monkeypatch.undo()
    assert one.pool.is_empty()
    assert set() == one.pool._threads
    one.put(lambda: None)
    one.wait_until(lambda: len(one.done) == 1)


def test_without_a_further_thread_the_others_go_on(desk, monkeypatch, caplog):
    three = desk(3)
    (job,) = held(three, 1)
    monkeypatch.setattr(threading.Thread, "start", refuse)

    with caplog.at_level(logging.WARNING, "groq_queue"):
        three.put(lambda: None)

    monkeypatch.undo()
    assert ["no_thread"] == [record.groq_queue_event for record in caplog.records]
    assert (1, 0) == (three.pool._workers, three.pool.missing)
    release([job])
    three.wait_until(lambda: len(three.done) == 2)


def refuse(thread):
    raise RuntimeError("can't start new thread")


def test_what_a_job_raises_ends_no_worker_and_is_handed_back_with_the_job(desk):
    one = desk(1)
    error = MemoryError()
    threads = []

    def explode():
        threads.append(threading.current_thread())
        raise error

    one.put(explode)
    one.wait_until(lambda: one.broken)
    one.put(lambda: threads.append(threading.current_thread()))
    one.wait_until(lambda: len(one.done) == 1)

    assert [(explode, error)] == one.broken
    assert threads[0] is threads[1]
    assert 1 == one.pool._workers


def test_a_look_for_a_job_that_fails_ends_no_worker(desk):
    one = desk(1)
    error = RuntimeError("the clock is broken")
    find_job, failures = one.find_job, [error]

    def find():
        if failures:
            raise failures.pop()
        return find_job()

    one.find_job = find
    one.put(lambda: None)
    one.wait_until(lambda: len(one.done) == 1)

    assert [(None, error)] == one.broken


def test_threads_that_have_ended_are_forgotten(desk):
    one = desk(1)
    outer = held(one, 1)
    for _ in range(5):
        with one.pool.blocking_section():
            (inner,) = held(one, 1)
        release([inner])
        one.wait_until(lambda: 1 == one.pool._workers)
        inner.thread.join(PATIENCE_S)

    assert len(one.pool._threads) <= 2
    release(outer)
