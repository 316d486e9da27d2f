"""The thread that asks a shared budget is refused, or what it runs raises: every request ends all the same."""

from __future__ import annotations

import threading

import pytest
from extras import needs, needs_program
from redis_server import RedisServer

from groq_queue import GroqQueue, GroqQueueError, GroqSimulator, Limits
from groq_queue.clock import NS_PER_S
from groq_queue.engine import background
from groq_queue.limiters.sqlite import SqliteBudgetStore

S = 30


@pytest.fixture(scope="module")
def one_redis():
    needs("redis")
    needs_program("redis-server")
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "redis"])
def shared(request, tmp_path):
    """Return the address of a shared budget and the class of its store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/budgets.db", SqliteBudgetStore
    server = request.getfixturevalue("one_redis")
    from groq_queue.limiters.redis import RedisBudgetStore

    return f"{server.url}?scope={tmp_path.name}", RedisBudgetStore


@pytest.fixture(scope="module")
def groq():
    with GroqSimulator() as simulator:
        yield simulator


def opened(groq, address):
    return GroqQueue(
        api_key="gsk_test",
        base_url=groq.base_url,
        model="llama-3.1-8b-instant",
        limiter=address,
        limits=Limits(rpm=600),
    )


@pytest.mark.parametrize("error", [MemoryError(), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_a_store_that_raises_once_ends_no_thread_and_no_request_waits_for_ever(
    groq, shared, monkeypatch, caplog, error
):
    address, budgets = shared
    reserve, errors = budgets.reserve, [error]

    def raising(self, *args):
        if errors:
            raise errors.pop()
        return reserve(self, *args)

    monkeypatch.setattr(budgets, "reserve", raising)
    monkeypatch.setattr(background, "_RUN_AGAIN_NS", NS_PER_S // 50)  # after which the task runs again
    with opened(groq, address) as queue:
        assert queue.submit("one").result(S)

    assert ["errand_failed"] == [record.groq_queue_event for record in caplog.records]


def test_an_end_that_meets_no_memory_is_told_later(groq, shared, monkeypatch):
    address, budgets = shared
    end, errors, told = budgets.settle, [MemoryError()], []

    def raising(self, *args):
        if errors:
            raise errors.pop()
        told.append(args)
        return end(self, *args)

    monkeypatch.setattr(budgets, "settle", raising)
    monkeypatch.setattr(background, "_RUN_AGAIN_NS", NS_PER_S // 50)
    with opened(groq, address) as queue:
        queue.submit("one").result(S)
        queue.submit("two").result(S)

    assert 2 == len(told)


def test_a_thread_that_was_refused_once_is_there_for_the_next_request(groq, shared, monkeypatch):
    address, _ = shared
    start, refusals = threading.Thread.start, ["-limiter"]

    def may_start(self):
        if refusals and self.name.endswith(refusals[0]):
            refusals.pop()
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", may_start)
    with opened(groq, address) as queue:
        with pytest.raises(GroqQueueError, match="could not be started"):
            queue.submit("one")
        assert queue.submit("two").result(S)
