"""A worker that is told to stop gives a failed request back at once, with what it has been through."""

from __future__ import annotations

import signal
import time

import pytest
from worker_fleet import PATIENCE_S

from groq_queue.simulator import Fault

S = 60
BUSY = {"error": {"message": "busy", "type": "server_error"}}


def stopped_in_mid_attempt(ours, *arguments):
    """Start a worker, end it while its first attempt is on its way; return how long that took, and what it said."""
    before = len(ours.groq.log)
    worker = ours.start_worker(*arguments, lanes="normal:2")
    assert ours.groq.wait_for_requests(before + 1, PATIENCE_S)
    began_s = time.monotonic()
    assert 0 == ours.stop_worker(worker)
    return time.monotonic() - began_s


@pytest.mark.gate
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=503, headers={"retry-after": "30"}, body=BUSY, delay_s=0.7, times=1),
        Fault(status=429, headers={"retry-after": "30"}, delay_s=0.7, times=1),
        Fault(reset="before", delay_s=0.7, times=1),
    ],
    ids=["failed", "refused", "lost"],
)
def test_a_request_that_fails_after_the_signal_is_given_back_at_once(fleet, fault):
    """
    The stopping worker sits out no wait and sends nothing more; the next one has the attempt in its count.
    """
    ours = fleet(faults=[fault])
    with ours.queue() as queue:
        future = queue.submit("hello", max_wait=S)
        took_s = stopped_in_mid_attempt(ours)
        sent = len(ours.prompts())
        assert not future.done()
        future.cancel()

    assert 10 > took_s
    assert 1 == sent
    assert future.cancelled()


@pytest.mark.gate
def test_a_request_that_was_given_back_keeps_its_wait_and_its_number(fleet):
    ours = fleet(faults=[Fault(status=503, headers={"retry-after": "3"}, body=BUSY, delay_s=0.7, times=1)])
    with ours.queue() as queue:
        future = queue.submit("hello")
        stopped_in_mid_attempt(ours)
        failed_s = time.monotonic()
        ours.start_worker(lanes="normal:2")
        answer = future.result(S)

    assert 2 == answer.attempts
    assert 2 < time.monotonic() - failed_s
    assert 2 == len(ours.prompts())


@pytest.mark.gate
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_stopping_worker_tells_a_shared_budget_how_its_last_attempt_ended(fleet, tmp_path, kind):
    """
    A refusal gives its tokens back: the next worker need not wait until the lease of the first one has run out.
    """
    ours = fleet(faults=[Fault(status=498, delay_s=0.7, times=1)])
    limiter = f"sqlite:///{tmp_path}/budgets.db" if kind == "sqlite" else f"{ours.broker}?scope=stop"
    with ours.queue() as queue:
        future = queue.submit("hello", max_completion_tokens=900)
        stopped_in_mid_attempt(ours, "--limiter", limiter, "--tpm", "1000")
        began_s = time.monotonic()
        ours.start_worker("--limiter", limiter, "--tpm", "1000", lanes="normal:2")
        answer = future.result(S)

    assert 2 == answer.attempts
    assert 10 > time.monotonic() - began_s


@pytest.mark.gate
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_max_retries_holds_over_workers(fleet, number):
    """
    Each allows one retry: the first worker's failure, the second's, and no more.
    """
    ours = fleet(faults=[Fault(status=503, headers={"retry-after": "1"}, body=BUSY, delay_s=0.3)])
    with ours.queue() as queue:
        future = queue.submit("hello")
        first = ours.start_worker("--max-retries", "1", lanes="normal:2")
        assert ours.groq.wait_for_requests(1, PATIENCE_S)
        if number == signal.SIGKILL:
            while not queue.info(future).attempts or future.running():  # it has failed, and waits for its retry there
                ours.groq.wait_for_requests(2, 0.01)
        ours.stop_worker(first, number)
        ours.start_worker("--max-retries", "1", lanes="normal:2")
        error = future.exception(S)

    assert 2 == error.attempts
    assert 2 == len(ours.prompts())
