"""The budgets of one process: one meter a lane, priced, locked, and heard of by those who wait."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from groq_queue.core.budget import Blocked, Lease, TooLarge
from groq_queue.core.headers import RateHeader, Refusal
from groq_queue.core.limits import Limits
from groq_queue.core.pricing import Backlog, Cost, Size
from groq_queue.limiters.process import ProcessLimiter, ProcessMeter

SECOND = 1_000_000_000
NOW = 5_000 * SECOND
PATIENCE_S = 10.0
SMALL = Size(100, 50)


def leased(meter: ProcessMeter, size: Size = SMALL, now_ns: int = NOW) -> Lease:
    granted = meter.lease(size, now_ns)
    assert isinstance(granted, Lease), granted
    return granted


# -- meters


def test_a_lane_has_one_meter() -> None:
    limiter = ProcessLimiter(Limits(tpm=100))

    assert limiter.meter("m", "m") is limiter.meter("m", "m")
    assert limiter.meter("m", "m") is not limiter.meter("m (flex)", "m")


def test_threads_that_come_at_once_get_the_same_meter() -> None:
    limiter, gate, meters = ProcessLimiter(None), threading.Barrier(8), []

    def ask() -> None:
        gate.wait(PATIENCE_S)
        meters.append(limiter.meter("m", "m"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)

    assert 8 == len(meters)
    assert 1 == len(set(meters))


def test_limits_are_of_every_model_or_of_the_one_named() -> None:
    for_all = ProcessLimiter(Limits(tpm=100))
    by_model = ProcessLimiter({"a": Limits(tpm=100)})

    assert [100, 100] == [for_all.meter(name, name).levels(NOW)[0].limit for name in "ab"]
    assert 100 == by_model.meter("a (flex)", "a").levels(NOW)[0].limit
    assert [] == by_model.meter("b", "b").levels(NOW)
    leased(by_model.meter("b", "b"))
    assert Blocked("learning", None) == by_model.meter("b", "b").lease(SMALL, NOW)


# -- the price


def test_a_lease_costs_what_the_price_says() -> None:
    meter = ProcessMeter(Limits(tpm=1_000))

    assert Cost(100, 50) == meter.price(SMALL) == leased(meter).cost


def test_answers_teach_the_price() -> None:
    meter = ProcessMeter(Limits(tpm=1_000_000))

    meter.settle(leased(meter), SMALL, (200, 20, 0), None, NOW)

    assert 200 <= meter.price(SMALL).prompt <= 270
    assert 50 == meter.price(SMALL).completion


def test_an_answer_without_usage_teaches_nothing_and_charges_the_price() -> None:
    meter = ProcessMeter(Limits(tpm=1_000))

    meter.settle(leased(meter), SMALL, None, None, NOW)

    assert Cost(100, 50) == meter.price(SMALL)
    assert 150 == meter.levels(NOW)[0].used


def test_the_strict_level_charges_the_real_prompt_and_the_whole_allowance() -> None:
    meter = ProcessMeter(Limits(tpm=1_000, otpm=1_000, itpm=1_000))

    meter.settle(leased(meter), SMALL, (80, 5, 60), None, NOW)

    assert {"TPM": 130, "ITPM": 80, "OTPM": 50} == {level.dimension: level.used for level in meter.levels(NOW)}


def test_where_credit_is_given_cached_tokens_and_unused_allowance_are_free() -> None:
    meter = ProcessMeter(Limits(tpm=1_000, otpm=1_000, itpm=1_000))
    meter._budget._credits = True

    meter.settle(leased(meter), SMALL, (80, 5, 60), None, NOW)

    assert {"TPM": 25, "ITPM": 20, "OTPM": 5} == {level.dimension: level.used for level in meter.levels(NOW)}


@pytest.mark.parametrize("limits", [Limits(tpm=300), Limits(otpm=200), Limits(tpd=300)])
def test_a_guessed_allowance_never_makes_a_request_too_large_by_itself(limits: Limits) -> None:
    """
    Without a cap the allowance is our guess, so it shrinks to what the limit holds.
    """
    meter = ProcessMeter(limits)

    assert meter.too_large(Size(100, None)) is None
    assert Cost(100, 200) == leased(meter, Size(100, None)).cost


@pytest.mark.parametrize("size", [Size(100, 1_000), Size(1_100, 0, is_exact=True), Size(1_001, None)])
def test_what_never_fits_is_told_with_both_numbers(size: Size) -> None:
    meter = ProcessMeter(Limits(tpm=1_000))

    excess = meter.too_large(size)

    assert isinstance(excess, TooLarge)
    assert 1_000 == excess.capacity < excess.cost
    assert excess == meter.lease(size, NOW)


def test_a_request_that_a_learnt_limit_makes_hopeless_is_told_at_its_lease() -> None:
    """
    It was accepted while limits were unknown; it must not wait for ever.
    """
    meter = ProcessMeter(None)
    probe = leased(meter)
    assert meter.too_large(Size(9_000, 10)) is None

    meter.settle(probe, SMALL, (100, 5, 0), [RateHeader("TPM", 8_000, 7_850)], NOW)

    assert TooLarge(9_010 + 3_000, 8_000, "TPM")[1:] == meter.lease(Size(9_000, 10), NOW)[1:]


def test_a_full_bucket_is_no_reason_to_call_a_request_too_large() -> None:
    meter = ProcessMeter(Limits(tpm=200))
    leased(meter)

    blocked = meter.lease(SMALL, NOW)

    assert isinstance(blocked, Blocked)
    assert ("limit", None, "TPM") == (blocked.reason, blocked.wait_ns, blocked.dimension)


def test_asking_what_blocks_takes_nothing() -> None:
    meter = ProcessMeter(Limits(tpm=200))

    assert meter.blocks(SMALL, NOW) is None
    assert meter.blocks(SMALL, NOW) is None
    leased(meter)
    assert meter.lease(SMALL, NOW) == meter.blocks(SMALL, NOW)


# -- several queues of one account


def limits_of(limiter: ProcessLimiter, model: str = "m") -> dict[str, int]:
    return {level.dimension: level.limit for level in limiter.meter(model, model).levels(NOW)}


def test_queues_of_one_account_at_one_address_share_their_meters() -> None:
    one, two = (ProcessLimiter(None, "https://a", "shared meters") for _ in range(2))
    others = [ProcessLimiter(None, "https://b", "shared meters"), ProcessLimiter(None, "https://a", "not shared")]

    assert one.meter("m", "m") is two.meter("m", "m")
    assert all(one.meter("m", "m") is not other.meter("m", "m") for other in others)
    assert ProcessLimiter(None).meter("m", "m") is not ProcessLimiter(None).meter("m", "m")


def test_the_tightest_limits_of_the_open_queues_hold_for_all() -> None:
    one = ProcessLimiter(Limits(tpm=500, rpm=30), "u", "tightest")
    before = limits_of(one)
    two = ProcessLimiter({"m": Limits(tpm=900, rpm=10)}, "u", "tightest", NOW)
    both = limits_of(one), limits_of(two), limits_of(two, "other")
    two.close(NOW)
    two.close(NOW)

    assert {"TPM": 500, "RPM": 30} == before
    assert ({"TPM": 500, "RPM": 10}, {"TPM": 500, "RPM": 10}, {"TPM": 500, "RPM": 30}) == both
    assert {"TPM": 500, "RPM": 30} == limits_of(one)


def test_what_one_queue_used_counts_for_the_next() -> None:
    """
    The second opens while the first is there, and outlives it.
    """
    one = ProcessLimiter(Limits(tpm=500), "u", "handed on")
    meter = one.meter("m", "m")
    meter.settle(leased(meter), SMALL, (100, 50, 0), None, NOW)
    two = ProcessLimiter(Limits(tpm=400), "u", "handed on", NOW)

    one.close(NOW)

    assert 150 == two.meter("m", "m").levels(NOW)[0].used
    assert {"TPM": 400} == limits_of(two)


def test_listeners_hear_of_changed_limits_without_any_lock_held() -> None:
    """
    1. Another queue of the account opens and changes the limits; the listener takes its engine's lock.
    2. Meanwhile ``submit`` holds the engine's lock and asks for the meter of a new lane.

    If the first held the account's lock, both would wait for ever; so a meter must be had inside the listener.
    """
    limiter, had = ProcessLimiter(Limits(rpm=5), "u", "lock order"), []

    def listener() -> None:
        other_thread = threading.Thread(target=lambda: had.append(limiter.meter(f"lane {len(had)}", "m")), daemon=True)
        other_thread.start()
        other_thread.join(1.0)
        had.append(other_thread.is_alive())

    limiter.meter("m", "m").subscribe(listener)
    other = ProcessLimiter(Limits(rpm=3), "u", "lock order", NOW)
    other.close(NOW)

    assert [False, False] == had[1::2]
    assert 4 == len(had)


def test_a_lease_that_outlives_a_change_of_limits_is_ended_in_its_bucket() -> None:
    one = ProcessLimiter(Limits(tpm=500), "u", "lease outlives")
    two = ProcessLimiter(Limits(tpm=300, rpm=9), "u", "lease outlives", NOW)
    lease = leased(two.meter("m", "m"))

    two.close(NOW)
    one.meter("m", "m").settle(lease, SMALL, (100, 50, 0), None, NOW)

    assert {"TPM": (150, 150, 0, 0)} == one.meter("m", "m").ledger()


# -- ends


def settle(meter: ProcessMeter, lease: Lease) -> None:
    meter.settle(lease, SMALL, (100, 5, 0), None, NOW)


def settle_with_headers(meter: ProcessMeter, lease: Lease) -> None:
    meter.settle(lease, SMALL, (100, 5, 0), [RateHeader("TPM", 1_000, 900)], NOW)


def refund(meter: ProcessMeter, lease: Lease) -> None:
    meter.refund(lease)


def refuse(meter: ProcessMeter, lease: Lease) -> None:
    meter.refused(lease, SMALL, Refusal(False, "TPM", 1_000, 990, 150, 8 * SECOND), 8 * SECOND, NOW)


ENDS = [settle, settle_with_headers, refund, refuse]


@pytest.mark.parametrize("end", ENDS)
def test_every_end_of_a_lease_is_told_to_those_who_wait(end: Any) -> None:
    """
    Each listener once; and it may use the meter, because it is called outside its lock.
    """
    meter, heard = ProcessMeter(Limits(tpm=1_000)), []
    meter.subscribe(lambda: heard.append(("one", meter.ledger()["TPM"][3])))
    meter.subscribe(lambda: heard.append(("two", len(meter.levels(NOW)))))
    lease = leased(meter)
    before = list(heard)

    end(meter, lease)

    assert [] == before
    assert [("one", 0), ("two", 1)] == heard


def test_who_unsubscribed_hears_nothing() -> None:
    meter, heard = ProcessMeter(None), []

    def listener() -> None:
        heard.append(1)

    meter.subscribe(listener)
    meter.unsubscribe(listener)
    meter.unsubscribe(listener)
    meter.refund(leased(meter))

    assert [] == heard


@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("second", ENDS)
def test_a_lease_ends_once(first: Any, second: Any) -> None:
    meter = ProcessMeter(Limits(tpm=1_000))
    lease = leased(meter)
    first(meter, lease)
    books = meter.ledger()

    second(meter, lease)

    assert books == meter.ledger()
    assert (150, 150, 0) in {(leased, settled + refunded, held) for leased, settled, refunded, held in books.values()}


def test_notices_of_the_budget_are_passed_on() -> None:
    meter = ProcessMeter(Limits(tpm=500, otpm=5_000))

    by_headers = meter.settle(leased(meter), SMALL, (100, 5, 0), [RateHeader("TPM", 1_000, 900)], NOW)
    by_refusal = meter.refused(leased(meter), SMALL, Refusal(True, "OTPM", 1_000, None, 1_329, None), 0, NOW)

    assert ["tokens per minute: the server's limit is 1,000, yours is 500; keeping 500"] == by_headers
    assert ["output tokens per minute: the server's limit is 1,000, yours is 5,000; keeping 1,000"] == by_refusal


def test_a_refusal_holds_the_lane() -> None:
    meter = ProcessMeter(Limits(tpm=1_000))

    refuse(meter, leased(meter))

    blocked = meter.lease(SMALL, NOW)

    assert isinstance(blocked, Blocked)
    assert ("hold", 8 * SECOND) == (blocked.reason, blocked.wait_ns)
    assert blocked == meter.blocks(SMALL, NOW)
    assert isinstance(meter.lease(SMALL, NOW + 20 * SECOND), Lease)


def test_the_forecast_prices_those_ahead() -> None:
    meter = ProcessMeter(Limits(tpm=6_000))

    assert 0 == meter.forecast(Backlog(), SMALL, 0, NOW)
    assert 60 * SECOND == meter.forecast(Backlog().plus(Size(150, 0, is_exact=True), 79), SMALL, 0, NOW)
    assert 0 == ProcessMeter(Limits(rpm=30)).forecast(Backlog().plus(SMALL, 29), SMALL, 0, NOW)
    assert 2 * SECOND == ProcessMeter(Limits(rpm=30)).forecast(Backlog().plus(SMALL, 30), SMALL, 0, NOW)


def test_many_threads_never_take_more_than_the_limit_and_lose_no_unit() -> None:
    meter, gate = ProcessMeter(Limits(tpm=1_000, rpm=1_000)), threading.Barrier(8)
    most: list[int] = []

    def spend() -> None:
        gate.wait(PATIENCE_S)
        for _ in range(200):
            granted = meter.lease(SMALL, NOW)
            if isinstance(granted, Lease):
                most.append(meter.ledger()["TPM"][3])
                meter.refund(granted)

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    taken, settled, refunded, held = meter.ledger()["TPM"]

    assert 200 < len(most)
    assert 150 <= min(most) <= max(most) <= 1_000
    assert (150 * len(most), 0, 150 * len(most), 0) == (taken, settled, refunded, held)
