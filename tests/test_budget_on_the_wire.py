"""Budgets against the simulator's own meter: shared, learnt, shrunk, spent by others."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import wait

import pytest
from hasty import HastyClock

from groq_queue import (
    ConfigurationError,
    CostLimitReached,
    DailyLimitReached,
    GroqQueue,
    GroqSimulator,
    Limits,
    RequestTooLarge,
)
from groq_queue.simulator import Fault

MODEL = "llama-3.1-8b-instant"


def queue_for(simulator, **options):
    options.setdefault("api_key", "gsk_test")
    return GroqQueue(base_url=simulator.base_url, model=MODEL, **options)


def all_answered(futures, timeout=30):
    assert not wait(futures, timeout=timeout).not_done
    return not [future for future in futures if future.exception() is not None]


def test_two_queues_of_one_key_share_one_budget():
    limits = Limits(rpm=30, minute_s=0.2)
    with (
        GroqSimulator(limits=limits) as groq,
        queue_for(groq, limits=limits) as one,
        queue_for(groq, limits=limits) as other,
    ):
        futures = [queue.submit(f"{n}") for n in range(30) for queue in (one, other)]

        assert all_answered(futures)
        assert 0 == groq.stats().refused


def test_two_keys_of_one_organisation_share_one_budget():
    limits = Limits(rpm=30, minute_s=0.2)
    with (
        GroqSimulator(limits=limits) as groq,
        queue_for(groq, limits=limits, api_key="key-one", organization="acme") as one,
        queue_for(groq, limits=limits, api_key="key-two", organization="acme") as other,
    ):
        futures = [queue.submit(f"{n}") for n in range(30) for queue in (one, other)]

        assert all_answered(futures)
        assert 0 == groq.stats().refused


def test_a_queue_opened_after_another_knows_what_that_spent():
    limits = Limits(rpm=30, minute_s=0.2)
    with GroqSimulator(limits=limits) as groq:
        for _ in range(3):
            with queue_for(groq, limits=limits) as queue:
                assert all_answered([queue.submit(f"{n}") for n in range(20)])

        assert 0 == groq.stats().refused


def test_queues_that_count_in_different_periods_are_refused():
    with (
        GroqSimulator() as groq,
        queue_for(groq, limits=Limits(rpm=30)),
        pytest.raises(ConfigurationError, match="periods"),
    ):
        queue_for(groq, limits=Limits(rpm=30, minute_s=5))


@pytest.mark.parametrize("settlement", ["corrected", "kept", "deferred"])
def test_no_rule_of_settlement_leads_to_a_refusal(settlement):
    limits = Limits(rpm=10_000, tpm=20_000, minute_s=0.2)
    with (
        GroqSimulator(limits=limits, settlement=settlement, output=(0.1, 1.0), latency=(0.01, 0.06)) as groq,
        queue_for(groq, limits=limits, max_workers=32) as queue,
    ):
        futures = [queue.submit(f"question {n}", max_completion_tokens=300) for n in range(200)]

        assert all_answered(futures, 60)
        assert 0 == groq.stats().refused


@pytest.mark.parametrize("settlement", ["corrected", "kept", "deferred"])
def test_prompts_without_a_cap_are_not_refused_either(settlement):
    limits = Limits(rpm=1_000, tpm=12_000, minute_s=0.2)
    with (
        GroqSimulator(limits=limits, settlement=settlement, latency=0.05) as groq,
        queue_for(groq, limits=limits) as queue,
    ):
        futures = [queue.submit(f"Name {n} rivers.") for n in range(30)]

        assert all_answered(futures, 60)
        assert 0 == groq.stats().refused


def test_a_shorter_minute_is_learnt_with_the_limits():
    """
    60,000 tokens in a second: with a minute of 60 s it would take minutes.
    """
    with (
        GroqSimulator(rpm=10_000, tpm=20_000, minute_s=0.5, latency=0.01) as groq,
        queue_for(groq, limits=None, max_workers=16) as queue,
    ):
        futures = [queue.submit(f"{n}", max_completion_tokens=500) for n in range(120)]

        assert all_answered(futures, 20)
        assert groq.stats().refused <= 1


def test_models_of_one_queue_may_count_in_different_periods():
    limits = {MODEL: Limits(rpm=5, minute_s=600), "other": Limits(rpm=60)}
    with GroqSimulator(limits=limits) as groq, queue_for(groq, limits=limits) as queue:
        assert all_answered([queue.submit(f"{n}", model=model) for n in range(5) for model in limits])


def test_a_late_first_connection_leads_to_no_refusal():
    limits = Limits(rpm=40, minute_s=0.4)
    with (
        GroqSimulator(limits=limits, connect_delay=0.2, arrival_delay=(0.0, 0.05)) as groq,
        queue_for(groq, limits=limits, max_workers=16) as queue,
    ):
        assert all_answered([queue.submit(f"{n}") for n in range(80)])

        assert 0 == groq.stats().refused


def test_unknown_limits_cost_at_most_one_refusal_each():
    """
    Tokens per minute are in every header; requests per minute only in the refusal. Somebody else has used most of both.
    """
    with (
        GroqSimulator(rpm=60, tpm=6_000, minute_s=6) as groq,
        queue_for(groq, limits=None, max_workers=1) as queue,
    ):
        assert groq.spend(MODEL, requests=57)
        futures = [queue.submit(f"{n}", max_completion_tokens=100) for n in range(10)]

        assert all_answered(futures)
        assert 1 == groq.stats().refused
        assert {("RPM", 60), ("TPM", 6_000)} <= {
            (level.dimension, level.limit) for level in queue.stats().lanes[0].limits
        }


def test_a_mismatch_with_the_server_is_one_warning_with_both_numbers_and_loosens_nothing(caplog):
    limits = Limits(tpm=5_000, minute_s=2)
    with (
        GroqSimulator(tpm=8_000, minute_s=2) as groq,
        queue_for(groq, limits=limits) as queue,
        caplog.at_level(logging.WARNING, "groq_queue"),
    ):
        assert all_answered([queue.submit(f"{n}", max_completion_tokens=100) for n in range(20)])
        kept = {level.dimension: level.limit for level in queue.stats().lanes[0].limits}

    told = [record.getMessage() for record in caplog.records]
    assert 1 == len(told)
    assert "8,000" in told[0]
    assert "5,000" in told[0]
    assert 5_000 == kept["TPM"]


def test_shrinking_lowers_the_allowance_to_what_the_limit_holds():
    with GroqSimulator(tpm=2_000) as groq, queue_for(groq, limits=Limits(tpm=2_000)) as queue:
        with pytest.raises(RequestTooLarge):
            queue.submit("x", max_completion_tokens=8_000)

        queue.submit("x", max_completion_tokens=8_000, shrink=True).result(10)

        assert 1 == groq.stats().admitted
        assert groq.log[0].requested <= 2_000


def test_shrinking_recovers_from_a_413_of_a_limit_nobody_knew():
    with GroqSimulator(tpm=2_000) as groq, queue_for(groq, limits=None) as queue:
        answer = queue.submit("x", max_completion_tokens=8_000, shrink=True).result(10)

        assert 2 == answer.attempts
        assert [413, 200] == [record.status for record in groq.log]
        assert 2_000 == groq.log[1].requested


def test_audio_is_counted_in_seconds():
    limits = Limits(audio_hour=100, hour_s=0.3)
    with (
        GroqSimulator(limits=limits, models=("whisper-large-v3",)) as groq,
        GroqQueue(api_key="k", base_url=groq.base_url, model="whisper-large-v3", limits=limits) as queue,
    ):
        futures = [
            queue.submit(
                {"url": f"https://example.com/{n}.wav", "seconds": 40},
                endpoint="audio/transcriptions",
                audio_seconds=40,
            )
            for n in range(5)
        ]

        assert all_answered(futures)
        assert 0 == groq.stats().refused


def test_a_spent_day_ends_what_waits_and_leaves_other_models_alone():
    limits = {MODEL: Limits(tpm=10**6, tpd=2_000), "other": Limits(rpm=600)}
    with GroqSimulator(limits=limits) as groq, queue_for(groq, limits=limits) as queue:
        futures = [queue.submit(f"{n}", max_completion_tokens=400) for n in range(20)]
        others = [queue.submit(f"{n}", model="other") for n in range(20)]

        wait(futures, timeout=10)
        assert all_answered(others)
        errors = [future.exception() for future in futures if future.exception() is not None]
        assert errors
        assert {DailyLimitReached} == {type(error) for error in errors}
        assert 0 == groq.stats().refused


def test_a_day_spent_by_others_is_told_by_the_servers_refusal():
    with GroqSimulator(tpm=10**6, tpd=10_000) as groq, queue_for(groq, limits=None) as queue:
        assert groq.spend(MODEL, tokens=9_990)

        error = queue.submit("x", max_completion_tokens=500).exception(10)

    assert isinstance(error, DailyLimitReached)
    assert error.resets_in > 1_000


def test_a_cent_is_not_overspent_by_32_threads():
    with (
        GroqSimulator(latency=0.005, output=1.0) as groq,
        queue_for(groq, limits=Limits(), max_cost=0.01, prices={MODEL: (10.0, 10.0)}, max_workers=32) as queue,
    ):
        futures, lock = [], threading.Lock()

        def submit_ten():
            for n in range(10):
                future = queue.submit(f"question {n}", max_completion_tokens=40)
                with lock:
                    futures.append(future)

        threads = [threading.Thread(target=submit_ten) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert not wait(futures, timeout=20).not_done

        errors = [future.exception() for future in futures if future.exception() is not None]
        assert {CostLimitReached} == {type(error) for error in errors}
        assert 10 * groq.stats().tokens_used <= 0.01 * 10**6
        assert 0.009 < queue.stats().cost <= 0.01


def test_a_cap_on_cost_needs_a_price():
    with (
        GroqSimulator() as groq,
        queue_for(groq, max_cost=1.0) as queue,
        pytest.raises(ConfigurationError, match="no price of model 'mystery'"),
    ):
        queue.submit("x", model="mystery")


def test_a_margin_leaves_its_share_to_others():
    limits = Limits(rpm=100, minute_s=60)
    with GroqSimulator(limits=limits) as groq, queue_for(groq, limits=limits, margin=0.4) as queue:
        futures = [queue.submit(f"{n}") for n in range(100)]
        assert all_answered(futures[:60])
        last = queue.explain(futures[-1])
        left = queue.cancel_all()

        assert 39 <= left <= 40, "one more may have come free meanwhile"
        assert "requests per minute, 60 of 60 used" == last.waits_for
        assert left - 2 <= last.expected_start <= left
        assert 100 - left == len(groq.log)


def test_an_outage_of_the_server_costs_few_attempts_and_no_request():
    with GroqSimulator() as groq, queue_for(groq, limits=Limits(), max_workers=8, clock=HastyClock()) as queue:
        groq.add_fault(Fault(status=500, times=10))
        futures = [queue.submit(f"{n}") for n in range(100)]

        assert all_answered(futures, 60)
        assert 110 == len(groq.log)
