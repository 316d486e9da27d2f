"""What a worker holds ends or is given back, whatever is raised while it is taken, read or stored."""

from __future__ import annotations

import json
from concurrent.futures import Future

import pytest

from groq_queue.clock import SystemClock
from groq_queue.core.request import Request
from groq_queue.core.response import Completion
from groq_queue.core.token_estimate import PromptSize
from groq_queue.distributed import worker as workers
from groq_queue.distributed.codec import encode_request
from groq_queue.distributed.job_store import Claimed
from groq_queue.distributed.wakeups import LANES
from groq_queue.distributed.worker import LeasedJobs

BULK = LANES[2]
NO_MEMORY = [MemoryError(), SystemExit(3), KeyboardInterrupt()]


class Store:
    """One request that waits; ``errors`` are raised by the next calls of ``finish``."""

    address = "redis://memory"

    def __init__(self):
        request = Request("m", "chat/completions", b"{}", PromptSize(1, 1), 7)
        self.left = [Claimed(request.id, encode_request(request, None), 0, 0, 5, 7, 1.0)] * 2
        self.errors = []
        self.done = []

    def claim(self, *args):
        return self.left.pop() if self.left else None

    def finish(self, id, status, ending):
        if self.errors:
            raise self.errors.pop()
        self.done.append((status, json.loads(ending)))
        return 1

    def release(self, id, owner):
        self.done.append(("given back", None))
        return True


class StubNotifier:
    def notify(self, lane, times=1): ...


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def work(store, monkeypatch):
    """Return a function that works on both requests; the first is accepted by raising *error*."""
    monkeypatch.setattr(workers, "_AFTER_FAILURE_S", 0.0)

    def go(error=None):
        errors = [] if error is None else [error]

        def accept(request, callback):
            if errors:
                raise errors.pop()
            future = Future()
            future.set_result(Completion({"choices": []}, custom_id=None, attempts=1, waited=0.0))
            return future

        leased = LeasedJobs(
            store,
            StubNotifier(),
            SystemClock(),
            owner="w",
            lease_s=9,
            threads={"bulk": 1},
            base_url="",
            on_stopped=list,
        )
        leased._accept = accept
        return leased.work(BULK)

    return go


@pytest.mark.parametrize("error", NO_MEMORY, ids=repr)
def test_a_request_that_meets_no_memory_is_given_back_and_the_next_is_taken(store, work, caplog, error):
    assert 2 == work(error)

    assert ["given back", "completed"] == [status for status, _ in store.done]
    assert ["attempt_broke"] == [record.groq_queue_event for record in caplog.records]


def test_a_request_on_which_a_worker_breaks_fails_and_is_not_taken_again_and_again(store, work):
    assert 2 == work(RuntimeError("a bug"))

    assert ["failed", "completed"] == [status for status, _ in store.done]
    assert "its worker broke on it: RuntimeError('a bug')" in str(store.done[0][1])


@pytest.mark.parametrize("error", [ValueError("a bug"), *NO_MEMORY], ids=repr)
def test_an_answer_whose_storing_breaks_is_stored_all_the_same(store, work, caplog, error):
    store.errors = [error] * 3

    assert 2 == work()

    assert ["completed"] * 2 == [status for status, _ in store.done]
    assert ["attempt_broke"] == [record.groq_queue_event for record in caplog.records]


def test_an_answer_that_can_never_be_stored_ends_its_request_with_the_reason(store, work):
    store.errors = [ValueError("a bug")] * 25

    assert 2 == work()

    assert ["failed", "completed"] == [status for status, _ in store.done]
    assert "its outcome cannot be stored: ValueError('a bug')" in str(store.done[0][1])
