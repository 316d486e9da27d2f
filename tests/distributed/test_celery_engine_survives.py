"""The threads of a submitting process and of a worker go on, whatever is raised on them; every Future ends."""

from __future__ import annotations

import json
import queue
import threading

import pytest
from waiting import wait_until

from groq_queue.clock import SystemClock
from groq_queue.core.request import Request
from groq_queue.core.token_estimate import PromptSize
from groq_queue.distributed import celery_engine as engines
from groq_queue.distributed import replies
from groq_queue.distributed import worker as workers
from groq_queue.distributed.celery_engine import CeleryEngine
from groq_queue.distributed.job_store import JobStatus
from groq_queue.distributed.worker import LeasedJobs
from groq_queue.engine.background import Timers
from groq_queue.engine.worker_pool import WorkerPool
from groq_queue.errors import GroqQueueError

S = 10
ERRORS = [ValueError("a bug"), MemoryError(), SystemExit(3), KeyboardInterrupt()]
ANSWER = json.dumps({"attempts": 1, "result": {"choices": []}})


class Store:
    """What a submitting process and a worker ask of Redis, answered from memory; ``errors`` are raised first."""

    address = "redis://memory"

    def __init__(self):
        self.news = queue.Queue()
        self.ended = {}
        self.errors = []
        self.beats = threading.Semaphore(0)

    def enqueue(self, id, record, **facts):
        return 1

    def end(self, id, ending=ANSWER):
        self.ended[id] = JobStatus("completed", ending, None)
        self.news.put(["ended", id])

    def listen(self, reply):
        if self.errors:
            raise self.errors.pop(0)
        return [self.news.get(timeout=S)]

    def statuses(self, ids):
        if self.errors:
            raise self.errors.pop(0)
        return [self.ended.get(id, JobStatus("queued", None, None)) for id in ids]

    def heartbeat(self, owner, lease_ms, ids):
        if self.errors:
            raise self.errors.pop(0)
        self.beats.release()
        return []

    def wake(self, reply):
        self.news.put(["wake"])

    def expire_dead(self, *args, **options): ...

    def leave(self, owner): ...

    def pause(self, seconds): ...

    def forget_replies(self, reply): ...

    def close(self): ...


class StubNotifier:
    def notify(self, lane, times=1): ...

    def close(self): ...


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def engine(store, monkeypatch):
    monkeypatch.setattr(replies, "_AFTER_FAILURE_S", 0.01)
    monkeypatch.setattr(engines, "_TRY_AGAIN_S", 0.01)
    clock = SystemClock()
    made = CeleryEngine(
        store=store, notifier=StubNotifier(), clock=clock, timers=Timers(clock, "groq_queue"), price=lambda request: 1
    )
    yield made
    made.shutdown(wait=False, cancel_futures=False)
    assert made.join(S)
    made.shutdown(wait=True, cancel_futures=False)


def submit(engine):
    return engine.submit(Request("m", "chat/completions", b"{}", PromptSize(1, 1), 5))


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_whatever_hearing_of_answers_raises_is_told_once_and_every_future_ends(engine, store, caplog, error):
    store.errors = [error] * 3
    futures = [submit(engine) for _ in range(3)]
    for future in futures:
        store.end(future.request_id)

    assert [1, 1, 1] == [future.result(S).attempts for future in futures]
    assert 1 == len(caplog.records)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_what_was_heard_of_and_then_lost_is_asked_for(engine, store, error):
    future = submit(engine)
    store.ended[future.request_id] = JobStatus("completed", ANSWER, None)
    wait_until(lambda: store.errors == [])

    store.errors = [error]  # raised after the word was taken, when it is asked how the request ended
    store.news.put(["ended", future.request_id])

    assert future.result(S)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_an_end_that_breaks_is_tried_again(engine, store, monkeypatch, caplog, error):
    future = submit(engine)
    end, errors = type(future).end, [error]

    def raising(self, *args):
        if errors:
            raise errors.pop()
        end(self, *args)

    monkeypatch.setattr(type(future), "end", raising)
    store.end(future.request_id)

    assert future.result(S)
    assert ["a Future could not be ended and is tried again: a bug, or no memory was left"] == caplog.messages
    wait_until(lambda: not engine.stats().pending)


def test_an_outcome_that_cannot_be_read_ends_its_request_and_holds_up_no_other(engine, store):
    bad, good = submit(engine), submit(engine)
    store.end(bad.request_id, "{")
    store.end(good.request_id)

    assert "its outcome cannot be read" in str(bad.exception(S))
    assert good.result(S)


@pytest.mark.parametrize("refused", [("-replies",), ("-replies", "-timers")], ids=" and ".join)
def test_a_thread_that_was_refused_is_asked_for_again_without_another_request(
    engine, store, monkeypatch, caplog, refused
):
    begin, left = threading.Thread.start, dict.fromkeys(refused, 3)

    def may_start(self):
        for ending in left:
            if self.name.endswith(ending) and left[ending]:
                left[ending] -= 1
                raise RuntimeError("can't start new thread")
        begin(self)

    monkeypatch.setattr(threading.Thread, "start", may_start)
    future = submit(engine)
    store.end(future.request_id)

    assert future.result(S)
    assert {"no_thread"} == {record.groq_queue_event for record in caplog.records}


@pytest.fixture
def leased(store, monkeypatch):
    monkeypatch.setattr(workers, "_AFTER_FAILURE_S", 0.01)
    made = LeasedJobs(
        store,
        StubNotifier(),
        SystemClock(),
        owner="w",
        lease_s=0.03,
        threads={"normal": 1},
        base_url="",
        on_stopped=list,
    )
    yield made
    made.close()


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_the_heart_beats_on_whatever_is_raised_and_tells_it_once(leased, store, caplog, error):
    leased.begin(None, None)
    store.errors = [error] * 3
    wait_until(lambda: not store.errors)
    while store.beats.acquire(blocking=False):
        pass

    assert store.beats.acquire(timeout=S)
    assert 1 == len(caplog.records)


def test_a_worker_without_a_thread_for_its_heart_beat_does_not_begin(leased, monkeypatch):
    """
    The others would take it for dead, and send once more what it sends.
    """

    def refuse(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(GroqQueueError, match=r"heartbeat could not be started \(can't start new thread\)"):
            leased.begin(None, None)


def test_the_pool_gives_up_an_end_that_breaks_every_time(engine, store, monkeypatch, caplog):
    future = submit(engine)
    monkeypatch.setattr(engines, "_MOST_TRIES", 3)
    monkeypatch.setattr("groq_queue.engine.worker_pool._AFTER_FAILURE_S", 0.01)
    tries = []

    def raising(self, *args):
        tries.append(args)
        raise ValueError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(type(future), "end", raising)
        store.end(future.request_id)
        wait_until(lambda: 2 == len(caplog.records))

    assert 3 == len(tries)
    assert isinstance(engine._pool, WorkerPool)
    engine._end_soon(future.request_id, engines.decode_ending("completed", ANSWER, custom_id=None))
    assert future.result(S)


@pytest.mark.parametrize("error", [ValueError("mine"), MemoryError()], ids=repr)
def test_a_part_that_cannot_be_closed_keeps_no_other_open(engine, store, monkeypatch, caplog, error):
    closed = []
    end_listening = engine._listener.close

    def fail():
        end_listening()
        raise error

    monkeypatch.setattr(engine._listener, "close", fail)
    engine.at_close(lambda: closed.append("store"))

    engine.shutdown(wait=True, cancel_futures=False)

    assert ["store"] == closed
    assert ["close_failed"] == [record.groq_queue_event for record in caplog.records]
