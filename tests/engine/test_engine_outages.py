"""Outages: retries that outlive them, and pauses that a failing server asks for."""

from __future__ import annotations

import random

import pytest

from groq_queue.clock import NS_PER_S
from groq_queue.core.retry import RetryPolicy
from groq_queue.engine.attempt import Disposition
from groq_queue.errors import APIConnectionError
from tests.engine.test_engine_attempt import Answer as Reply
from tests.engine.test_engine_attempt import Bench
from tests.engine.test_engine_refused_without_a_wait import Answer, Play, play  # noqa: F401


class Lowest(random.Random):
    """Rolls the beginning of every range."""

    def uniform(self, a: float, b: float) -> float:
        return a

    def randint(self, a: int, b: int) -> int:
        return a


class Impatient(Bench):
    """Attempts follow each other as soon as they may, with the shortest waits that chance can give."""

    def __init__(self, *answers, **policy):
        super().__init__(*answers, **policy)
        self.runner._rng = Lowest()
        self._ready_ns = 0

    def attempt(self, request):
        self.clock.advance(max(0, self._ready_ns - self.clock.now_ns()) / NS_PER_S)
        lease = self.meter.lease(request.size, self.clock.now_ns())
        outcome = self.runner.attempt(request, lease, self.meter)
        self._ready_ns = self.clock.now_ns() + outcome.wait_ns
        return outcome

    def seconds_until_the_last(self, request):
        start_ns = self.clock.now_ns()
        while self.attempt(request).next is Disposition.RETRY:
            pass
        return (self.clock.now_ns() - start_ns) / NS_PER_S


@pytest.mark.parametrize(
    ("fault", "sends"),
    [
        (Reply(503, {}), 6),
        (Reply(529, {}), 6),
        (Reply(500, {}), 3),
        (Reply(502, {}), 3),
        (APIConnectionError("refused", sent="no"), 6),
        (APIConnectionError("reset", sent="unknown"), 3),
    ],
    ids=["503", "529", "500", "502", "refused", "reset"],
)
def test_the_last_retry_of_a_lone_request_comes_half_a_minute_after_the_first_failure(fault, sends):
    """
    Most outages are over by then. By chance alone, five backoffs can be over in no time.
    """
    bench = Impatient(*[fault] * sends)

    took_s = bench.seconds_until_the_last(bench.request())

    assert [] == bench.answers
    assert 30 <= took_s < 31


def test_a_failure_is_retried_soon_if_others_were_answered_meanwhile():
    """
    Then it is no outage, and the plain backoff will do.
    """
    bench = Impatient(Reply(503, {}), Reply(), Reply(503, {}), Reply(), Reply(503, {}))
    request = bench.request()
    waits = []
    for _ in range(2):
        waits.append(bench.attempt(request).wait_ns)
        bench.clock.advance(0.1)
        bench.attempt(bench.request())
    waits.append(bench.attempt(request).wait_ns)

    assert [0, 0, 0] == waits


def test_the_first_retry_does_not_wait_for_an_outage():
    bench = Impatient(Reply(500, {}))

    assert 0 == bench.attempt(bench.request()).wait_ns


def test_retries_that_failed_together_do_not_come_back_together():
    policy = RetryPolicy()

    waits = {policy.outage_wait_ns(1, 0, random.Random(seed)) for seed in range(50)}

    assert 40 < len(waits)
    assert 30 * NS_PER_S <= min(waits)
    assert max(waits) <= 33 * NS_PER_S


@pytest.mark.parametrize(("max_retries", "last_s"), [(2, 2.9), (3, 6.8), (5, 30), (50, 30)])
def test_whoever_allows_few_retries_is_told_sooner(max_retries, last_s):
    policy = RetryPolicy(max_retries=max_retries)

    assert last_s == round(policy.outage_wait_ns(1, 0, Lowest()) / NS_PER_S, 1)
    assert last_s / 2 == pytest.approx(policy.outage_wait_ns(2, 0, Lowest()) / NS_PER_S, rel=0.02)


@pytest.mark.parametrize("status", [498, 500, 502, 503, 529])
def test_a_pause_that_a_failing_server_asks_for_binds_its_whole_lane(play, status: int):  # noqa: F811
    """
    Nobody is sent into the pause but who was under way when it was told, and all are served right after it.
    """
    stage: Play = play(lambda name, now_s: Answer(200 if now_s >= 3 else status, retry_after="3"), max_workers=4)

    futures = stage.ask(*map(str, range(40)))
    stage.run(2.9, step_s=0.1)
    sent_into_it = sum(stage.times.values())
    stage.run(5, step_s=0.05)

    assert 1 <= sent_into_it <= 4, "those under way"
    assert ["yes"] * 40 == [future.result(0).text for future in futures]
    assert max(stage.answered_s.values()) <= 5


def test_a_pause_of_a_day_by_a_failing_server_stops_its_lane_for_a_minute_only():
    """
    A day is a mistake or a limit's; one attempt a minute finds out.
    """
    bench = Bench(Reply(503, {}, {"retry-after": "86400"}))
    request = bench.request()

    outcome = bench.attempt(request)

    assert 60 * NS_PER_S == outcome.wait_ns
    assert 60 * NS_PER_S == bench.meter.blocks(request.size, bench.clock.now_ns()).wait_ns


def test_a_shorter_pause_does_not_end_a_longer_one():
    bench = Bench()
    bench.meter.pause(5 * NS_PER_S, bench.clock.now_ns())

    bench.meter.pause(2 * NS_PER_S, bench.clock.now_ns())

    assert 5 * NS_PER_S == bench.meter.blocks(bench.request().size, bench.clock.now_ns()).wait_ns
