"""A Redis that takes no writes for a moment is waited for; one that takes none for long says what cures it."""

from __future__ import annotations

import threading

import pytest

from groq_queue import GroqQueue
from groq_queue.clock import SystemClock
from groq_queue.distributed.job_store import JobStore
from groq_queue.errors import EngineUnavailable

S = 10


@pytest.fixture
def full(server):
    """Return a function that makes Redis full, and not any more after so many seconds."""
    timers = []

    def make(seconds=None):
        assert b"+OK" == server.ask("CONFIG SET maxmemory 1")
        if seconds is not None:
            timers.append(threading.Timer(seconds, server.ask, ["CONFIG SET maxmemory 0"]))
            timers[-1].start()

    yield make
    for timer in timers:
        timer.join()
    assert b"+OK" == server.ask("CONFIG SET maxmemory 0")


def test_a_request_that_meets_a_redis_full_for_a_moment_is_accepted(server, full):
    store = JobStore(server.url, SystemClock())
    full(seconds=0.3)

    facts = {"priority": 5, "model": "m", "client": "c", "weight": 1.0, "cost": 1, "reply": "me", "custom_id": None}
    assert 1 == store.enqueue("a", "record", **facts)
    assert "a" == store.claim("w", 60_000, 0, 10).id
    store.close()


@pytest.mark.usefixtures("impatient")
def test_a_request_that_meets_a_redis_full_for_long_is_refused_with_the_cure_and_counts_nowhere(server, full):
    full()
    with GroqQueue(engine="celery", broker=server.url, model="m") as queue:
        with pytest.raises(EngineUnavailable, match="raise its maxmemory"):
            queue.submit("hello")
        assert (0, 0) == (queue.stats().submitted, queue.stats().pending)


def test_the_outcome_of_a_paid_request_is_stored_by_a_full_redis_as_soon_as_there_is_room(server, full):
    store = JobStore(server.url, SystemClock())
    facts = {"priority": 5, "model": "m", "client": "c", "weight": 1.0, "cost": 1, "reply": "me", "custom_id": None}
    store.enqueue("a", "record", **facts)
    store.claim("w", 60_000, 0, 10)
    store.begin("a", "w", 60_000)
    full(seconds=0.3)

    assert 1 == store.finish("a", "completed", "{}")
    assert "completed" == store.statuses(["a"])[0].status
    store.close()
