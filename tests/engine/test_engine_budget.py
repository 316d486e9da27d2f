"""Budgets at work in the engine: days, money, outages, conservation; on a clock that stands still."""

from __future__ import annotations

import logging
import random
from concurrent.futures import wait

import pytest

from groq_queue.clock import NS_PER_S
from groq_queue.core.limits import Limits
from groq_queue.core.price_table import PriceTable
from groq_queue.core.token_estimate import PromptSize, TokenCost
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.errors import (
    APIConnectionError,
    CostLimitReached,
    DailyLimitReached,
    InternalServerError,
)

HOUR_S = 3_600


def tokens(count: int) -> PromptSize:
    return PromptSize(count, 0, is_exact=True)


def test_a_spent_day_parks_the_lane_for_its_hours_and_tells_it_once(stage, caplog):
    """
    100,000 tokens a day drain at 4,166 an hour, without a reset at midnight; the other model goes on.
    """
    limits = {"daily": Limits(tpm=10**6, tpd=100_000), "other": Limits(rpm=60)}
    play = stage(limits, max_workers=4, raises_daily=False)
    play.submit("all", model="daily", size=tokens(100_000)).result(10)

    with caplog.at_level(logging.WARNING, "groq_queue"):
        parked = play.submit("parked", model="daily", size=tokens(50_000))
        for n in range(30):
            play.submit(f"other-{n}", model="other").result(10)
        expected = play.engine.explain(parked._request).expected_start
        play.clock.advance(12 * HOUR_S - 1)
        play.submit("later", model="other").result(10)
        play.settle_down()
        assert not parked.done()

        play.clock.advance(1)
        parked.result(10)

    assert 12 * HOUR_S == pytest.approx(expected, rel=1e-3)
    told = [record.getMessage() for record in caplog.records]
    assert 1 == len(told)
    assert "12 h" in told[0]


def test_a_spent_day_is_raised_with_the_time_until_it_fits(stage):
    play = stage(Limits(tpm=10**6, tpd=100_000))
    play.submit(size=tokens(100_000)).result(10)

    error = play.submit("mine", size=tokens(25_000)).exception(10)

    assert isinstance(error, DailyLimitReached)
    assert 6 * HOUR_S == pytest.approx(error.resets_in, rel=1e-3)
    assert ("tokens per day (TPD)", "mine") == (error.limit, error.custom_id)
    assert "midnight" in str(error)


def test_a_lease_that_ends_wakes_the_leader_only_if_the_head_passes_earlier_for_it(stage):
    """
    Two of four are used, less ten seconds' worth, and two held. One lease that is settled changes no instant.
    """
    play = stage(Limits(rpm=4))
    assert not wait([play.submit(f"{n}") for n in range(2)], timeout=10).not_done
    meter, clock = play.limiter.meter("m", "m"), play.clock
    size = tokens(1)
    clock.advance(10)
    others = [meter.lease(size, clock.now_ns()) for _ in range(2)]
    future = play.submit("waits")
    play.settle_down()
    assert clock.is_awaited(5)
    woken = []
    wake, play.engine._pool.wake = play.engine._pool.wake, lambda: (woken.append(clock.now_ns()), wake())

    meter.settle(others[0], size, None, (), clock.now_ns())
    assert [] == woken
    meter.refund(others[1])
    assert 1 == len(woken)
    assert future.result(10)


def test_a_spend_cap_of_one_cent_is_never_overdrawn(stage):
    play = stage(max_workers=32, price_table=PriceTable({"m": (1.0, 1.0)}), max_usd=0.01)
    play.script = lambda request: Outcome(Disposition.DONE, charged=TokenCost(100))
    play.hold()

    futures = [play.submit(size=tokens(100)) for _ in range(200)]  # 100 of them cost one cent
    play.release()
    assert not wait(futures, timeout=10).not_done

    errors = [future.exception() for future in futures if future.exception() is not None]
    assert 100 == len(play.sent) == 200 - len(errors)
    assert {CostLimitReached} == {type(error) for error in errors}
    assert 0.01 == play.engine.stats().cost


def test_money_that_was_reserved_and_not_spent_comes_back(stage):
    play = stage(max_workers=1, price_table=PriceTable({"m": (1.0, 1.0)}), max_usd=0.01)
    play.script = lambda request: Outcome(Disposition.DONE, charged=TokenCost(1_000))

    futures = [play.submit(size=tokens(10_000)) for _ in range(3)]

    assert not wait(futures, timeout=10).not_done
    assert [False, True, True] == [future.exception() is not None for future in futures]
    assert 0.001 == play.engine.stats().cost


def test_an_outage_is_not_amplified_and_nothing_is_lost(stage):
    """
    60 s of nothing but 500s under 200 requests: about one probe a second; then all are answered, not at once.
    """
    play = stage(max_workers=8)
    over = play.clock.now_ns() + 60 * NS_PER_S
    rng = random.Random(1)

    def script(request):
        if play.clock.now_ns() >= over:
            return None
        play.limiter.meter("m", "m").trouble(play.clock.now_ns())
        request.retries += 1
        error = InternalServerError("HTTP 500", status_code=500)
        wait_ns = round(rng.uniform(0, min(30, 0.5 * 2**request.retries)) * NS_PER_S)
        return Outcome(Disposition.RETRY, error=error, wait_ns=wait_ns)

    play.script = script
    futures = [play.submit() for _ in range(200)]
    for _ in range(600):
        play.settle_down()
        play.clock.advance(0.1)
    during = len(play.sent)
    for _ in range(1_200):
        play.settle_down()
        play.clock.advance(0.1)

    assert not wait(futures, timeout=10).not_done
    assert not [future for future in futures if future.exception()]
    assert during <= 8 + 5 + 60 * 2
    first_second = [n for n in play.sent_ns if over <= n < over + NS_PER_S]
    assert len(first_second) <= 8


def test_every_lease_ends_once_under_random_schedules(stage):
    """
    Success, failure, refusal, cancel, timeout, retry and shutdown: leased = settled + refunded + open.
    """
    for seed in range(10):
        rng = random.Random(seed)
        play = stage(Limits(rpm=50, tpm=5_000), max_workers=4)

        def script(request, rng=rng):
            lost = APIConnectionError("reset", sent="unknown")
            return rng.choice(
                [
                    None,
                    None,
                    Outcome(Disposition.FAILED, error=lost),
                    Outcome(Disposition.RETRY, error=lost, wait_ns=rng.randint(1, 10**10))
                    if request.attempts < 4
                    else None,
                    Outcome(Disposition.RATE_LIMITED, error=lost, wait_ns=rng.randint(1, 10**9))
                    if request.attempts < 4
                    else None,
                ]
            )

        play.script = script
        futures = []
        for _ in range(150):
            futures.append(play.submit(size=tokens(rng.randint(1, 400)), max_wait_ns=rng.choice([None, 10**12])))
            if rng.random() < 0.3:
                rng.choice(futures).cancel()
            if rng.random() < 0.2:
                play.clock.advance(rng.uniform(0, 5))
        for _ in range(200):
            play.settle_down()
            play.clock.advance(5)
        play.engine.shutdown(wait=True, cancel_futures=True)

        assert not wait(futures, timeout=10).not_done
        ledger = play.limiter.meter("m", "m").accounting()
        assert {"RPM", "TPM"} == set(ledger)
        assert min(leased for leased, *_ in ledger.values()) >= 100
        for leased, settled, refunded, held in ledger.values():
            assert 0 == held
            assert leased == settled + refunded
