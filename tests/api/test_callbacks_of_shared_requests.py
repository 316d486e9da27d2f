"""On which thread the callbacks of a shared request are called, where the one who was to send it did not."""

from __future__ import annotations

import threading

import pytest

from groq_queue import Completion, QueueBusy, QueueClosed, QueueFull
from groq_queue.api.single_flight import SingleFlight
from groq_queue.core.request import Request
from groq_queue.core.token_estimate import PromptSize

PATIENCE_S = 10


def request():
    return Request(model="m", endpoint="e", body=b'{"model":"m"}', size=PromptSize(10, 0, is_exact=True), priority=5)


@pytest.fixture
def join(stage):
    """Have two callers share a request; the first is at the door, and ends as *act* says, when the second joins."""

    def join(act, callback):
        play, joined = stage(max_workers=1), []

        def submit(request, leader_callback):
            joined.append(sharing.submit(other, callback))
            return act(play, request, leader_callback)

        sharing, other = SingleFlight(play.engine, submit), request()
        try:
            sharing.submit(request(), None)
        except BaseException as error:
            return play, joined[0], error
        return play, joined[0], None

    return join


def test_who_gives_up_under_a_lock_that_anothers_callback_takes_goes_on(join):
    lock, threads = threading.Lock(), []

    def callback(future):
        with lock:
            threads.append(threading.current_thread().name)

    def refuse(play, request, leader_callback):
        raise QueueFull("full", limit=1)

    with lock:
        play, future, error = join(refuse, callback)
        assert isinstance(future.exception(0), QueueFull)
        assert isinstance(error, QueueFull)
        assert [] == threads
    assert play.engine.join(PATIENCE_S)

    assert ["stage-worker"] == threads


def test_the_callback_is_called_at_once_where_no_worker_is_left(join):
    called = []

    def refuse(play, request, leader_callback):
        play.engine.shutdown(wait=True, cancel_futures=False)
        raise QueueClosed("closed")

    _, future, _ = join(refuse, called.append)

    assert [future] == called


def test_an_interrupt_of_the_first_caller_is_no_success_of_the_other(join):
    def interrupted(play, request, leader_callback):
        raise KeyboardInterrupt

    threads = []
    play, future, error = join(interrupted, lambda future: threads.append(threading.current_thread().name))

    assert isinstance(error, KeyboardInterrupt)
    assert isinstance(future.exception(0), QueueBusy)
    assert play.engine.join(PATIENCE_S)
    assert ["stage-worker"] == threads


def test_an_answer_that_was_there_already_ends_everybody_and_calls_back_from_a_worker(join):
    lock, threads = threading.Lock(), []

    def callback(future):
        with lock:
            threads.append(threading.current_thread().name)

    def known(play, request, leader_callback):
        done = play.submit("known")
        done.result(PATIENCE_S)
        play.engine.call_back(done, leader_callback)
        return done

    with lock:
        play, future, _ = join(known, callback)
        assert isinstance(future.result(PATIENCE_S), Completion)
    assert play.engine.join(PATIENCE_S)

    assert ["stage-worker"] == threads
