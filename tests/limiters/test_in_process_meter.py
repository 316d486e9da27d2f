"""The budgets of one process: one meter a lane, priced, locked, and heard of by those who wait."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from groq_queue.core.budget import Blocked, Lease, Level, TooLarge
from groq_queue.core.headers import RateHeader, Refusal
from groq_queue.core.limits import Limits
from groq_queue.core.token_estimate import Backlog, PromptSize, TokenCost
from groq_queue.errors import ConfigurationError
from groq_queue.limiters.in_process import ProcessLimiter, ProcessMeter

SECOND = 1_000_000_000
NOW = 5_000 * SECOND
PATIENCE_S = 10.0
SMALL = PromptSize(100, 50)


def leased(meter: ProcessMeter, size: PromptSize = SMALL, now_ns: int = NOW) -> Lease:
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

    assert TokenCost(100, 50) == meter.price(SMALL) == leased(meter).cost


def test_answers_teach_the_price() -> None:
    meter = ProcessMeter(Limits(tpm=1_000_000))

    meter.settle(leased(meter), SMALL, (200, 20, 0), None, NOW)

    assert 200 <= meter.price(SMALL).prompt <= 270
    assert 50 == meter.price(SMALL).completion


def test_an_answer_without_usage_teaches_nothing_and_charges_the_price() -> None:
    meter = ProcessMeter(Limits(tpm=1_000))

    meter.settle(leased(meter), SMALL, None, None, NOW)

    assert TokenCost(100, 50) == meter.price(SMALL)
    assert 150 == meter.levels(NOW)[0].used


def test_the_strict_level_charges_the_real_prompt_and_the_whole_allowance() -> None:
    meter = ProcessMeter(Limits(tpm=1_000, otpm=1_000, itpm=1_000))

    meter.settle(leased(meter), SMALL, (80, 5, 60), None, NOW)

    assert {"TPM": 130, "ITPM": 80, "OTPM": 50} == {level.dimension: level.used for level in meter.levels(NOW)}


def test_where_credit_is_given_cached_tokens_and_unused_allowance_are_free() -> None:
    meter = ProcessMeter(Limits(tpm=1_000, otpm=1_000, itpm=1_000))
    meter._budget._refunds_unused = True

    meter.settle(leased(meter), SMALL, (80, 5, 60), None, NOW)

    assert {"TPM": 25, "ITPM": 20, "OTPM": 5} == {level.dimension: level.used for level in meter.levels(NOW)}


@pytest.mark.parametrize("limits", [Limits(tpm=300), Limits(otpm=200), Limits(tpd=300)])
def test_a_guessed_allowance_never_makes_a_request_too_large_by_itself(limits: Limits) -> None:
    """
    Without a cap the allowance is our guess, so it shrinks to what the limit holds.
    """
    meter = ProcessMeter(limits)

    assert meter.too_large(PromptSize(100, None)) is None
    assert TokenCost(100, 200) == leased(meter, PromptSize(100, None)).cost


@pytest.mark.parametrize("size", [PromptSize(100, 1_000), PromptSize(1_100, 0, is_exact=True), PromptSize(1_001, None)])
def test_what_never_fits_is_told_with_both_numbers(size: PromptSize) -> None:
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
    assert meter.too_large(PromptSize(9_000, 10)) is None

    meter.settle(probe, SMALL, (100, 5, 0), [RateHeader("TPM", 8_000, 7_850)], NOW)

    assert TooLarge(9_010 + 3_000, 8_000, "TPM")[1:] == meter.lease(PromptSize(9_000, 10), NOW)[1:]


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


def test_a_guessed_allowance_that_cannot_shrink_enough_is_told() -> None:
    """
    The prompt alone is too large for the input limit, or leaves nothing for an answer.
    """
    by_input, by_both = ProcessMeter(Limits(itpm=50)), ProcessMeter(Limits(tpm=100))

    assert TooLarge(100, 50, "ITPM") == by_input.too_large(PromptSize(100, None))
    assert by_both.too_large(PromptSize(100, None)) is not None
    assert by_both.too_large(PromptSize(99, None)) is None
    assert TokenCost(99, 1) == leased(by_both, PromptSize(99, None)).cost


def test_the_smallest_of_several_limits_shrinks_a_guessed_allowance() -> None:
    meter = ProcessMeter(Limits(tpm=400, otpm=250, tpd=300))

    assert TokenCost(100, 200) == meter.price(PromptSize(100, None)) == leased(meter, PromptSize(100, None)).cost


def test_a_size_that_is_exact_is_neither_shrunk_nor_learnt_from() -> None:
    meter = ProcessMeter(Limits(tpm=10_000))
    size = PromptSize(100, 50, is_exact=True)

    meter.settle(leased(meter, size), size, (1_000, 500, 0), None, NOW)

    assert TokenCost(100, 50) == meter.price(PromptSize(100, 50))


def test_a_refusal_teaches_what_the_server_counts() -> None:
    """
    For tokens of both kinds together, and only if it says so.
    """

    def priced_after(refusal: Refusal | None) -> int:
        meter = ProcessMeter(Limits(tpm=100_000, otpm=100_000))
        meter.refused(leased(meter), SMALL, refusal, 0, NOW)
        return meter.price(SMALL).tokens

    told = [
        priced_after(Refusal(False, dimension, 100_000, 99_990, requested, SECOND))
        for dimension, requested in (("TPM", 900), ("TPD", 900), ("OTPM", 900), ("TPM", None))
    ]

    assert 150 == priced_after(None)
    assert [150, 150] == told[2:]
    assert all(tokens > 150 for tokens in told[:2])


# -- failures


def test_troubles_in_a_row_slow_the_lane_down_and_failed_requests_let_others_go_first() -> None:
    meter = ProcessMeter(Limits(rpm=1_000))
    before = meter.retry_spacing_ns(10)
    leased(meter)
    for _ in range(10):
        meter.trouble(NOW)

    assert 0 == before
    assert 0 < meter.retry_spacing_ns(10)
    blocked = meter.lease(SMALL, NOW)
    assert isinstance(blocked, Blocked)
    assert "pace" == blocked.reason


# -- an earlier life


def test_a_level_of_an_earlier_life_is_taken_over_with_what_has_drained_since() -> None:
    meter = ProcessMeter(Limits(tpm=6_000))

    meter.begin(Level("TPM", 3_000, 6_000, 60.0), 10 * SECOND, NOW)

    assert [("TPM", 2_000, 6_000, 60.0)] == [tuple(level) for level in meter.levels(NOW)]


def test_the_periods_of_an_earlier_life_may_be_short() -> None:
    meter = ProcessMeter(Limits(rpm=30, minute_s=0.5))

    meter.begin(Level("RPM", 9, 30, 0.5), SECOND // 20, NOW)

    assert [("RPM", 6, 30, 0.5)] == [tuple(level) for level in meter.levels(NOW)]


# -- what is expected


def test_what_will_be_charged_and_what_will_be_paid_differ_by_what_is_not_given_back() -> None:
    """
    Of 50 tokens that each may write, answers use 5.
    """
    meter = ProcessMeter(Limits(tpm=1_000_000))
    for _ in range(20):
        meter.settle(leased(meter), SMALL, (100, 5, 0), None, NOW)

    charged, paid = meter.expect(Backlog().plus(SMALL, 10))

    assert (10 * 100, 10 * 50) == (charged.prompt, charged.completion)
    assert paid.prompt == charged.prompt
    assert 10 * 5 <= paid.completion < 10 * 25


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

    assert {"TPM": (150, 150, 0, 0)} == one.meter("m", "m").accounting()


def test_the_widest_margin_of_the_open_queues_is_left_by_all() -> None:
    one = ProcessLimiter(Limits(tpm=1_000), "u", "margins", margin=0.25)
    alone = limits_of(one)
    two = ProcessLimiter(Limits(tpm=1_000), "u", "margins", NOW, margin=0.5)
    both = limits_of(one), limits_of(one, "new lane")
    two.close(NOW)

    assert ({"TPM": 750}, {"TPM": 500}, {"TPM": 500}) == (alone, *both)
    assert {"TPM": 750} == limits_of(one) == limits_of(one, "new lane")
    assert {"TPM": 1_000} == limits_of(ProcessLimiter(Limits(tpm=1_000)))


def test_a_queue_that_counts_in_other_periods_is_refused_and_changes_nothing() -> None:
    """
    Whether or not the model has a meter yet.
    """
    one = ProcessLimiter({"m": Limits(tpm=500)}, "u", "periods")

    with pytest.raises(ConfigurationError):
        ProcessLimiter(Limits(tpm=100, minute_s=5), "u", "periods", NOW)
    three = ProcessLimiter(Limits(rpm=9), "u", "periods", NOW)

    assert {"TPM": 500, "RPM": 9} == limits_of(one) == limits_of(three)


def test_levels_are_shown_by_lane() -> None:
    limiter = ProcessLimiter(Limits(tpm=500))
    meters = {lane: limiter.meter(lane, "m") for lane in ("m", "m (flex)")}
    leased(meters["m"])

    assert {lane: meter.levels(NOW) for lane, meter in meters.items()} == limiter.levels(NOW)
    assert [150, 0] == [limiter.levels(NOW)[lane][0].used for lane in meters]


def test_in_a_forked_child_a_limiter_counts_from_nothing_by_the_same_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = ProcessLimiter(Limits(tpm=500), "u", "forked")
    leased(limiter.meter("m", "m"))
    pid = os.getpid()
    closed = ProcessLimiter(Limits(tpm=7), "u", "forked")
    closed.close(NOW)

    monkeypatch.setattr(os, "getpid", lambda: -pid)
    for each in (limiter, closed):
        each.reset_after_fork()

    assert [("TPM", 0, 500)] == [level[:3] for level in limiter.meter("m", "m").levels(NOW)]
    assert limiter.meter("m", "m") is closed.meter("m", "m")


def test_new_limits_are_told_to_those_who_wait_and_keep_what_is_in_use() -> None:
    meter, heard = ProcessMeter(Limits(tpm=500)), []
    leased(meter)
    meter.subscribe(lambda: heard.append(1))

    meter.set_limits(Limits(tpm=300), NOW)

    assert [("TPM", 150, 300)] == [level[:3] for level in meter.levels(NOW)]
    assert [1] == heard


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
    meter.subscribe(lambda: heard.append(("one", meter.accounting()["TPM"][3])))
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
    state = meter.accounting()

    second(meter, lease)

    assert state == meter.accounting()
    assert (150, 150, 0) in {(leased, settled + refunded, held) for leased, settled, refunded, held in state.values()}


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
    assert 60 * SECOND == meter.forecast(Backlog().plus(PromptSize(150, 0, is_exact=True), 79), SMALL, 0, NOW)
    assert 0 == ProcessMeter(Limits(rpm=30)).forecast(Backlog().plus(SMALL, 29), SMALL, 0, NOW)
    assert 2 * SECOND == ProcessMeter(Limits(rpm=30)).forecast(Backlog().plus(SMALL, 30), SMALL, 0, NOW)


def test_the_forecast_counts_on_what_those_under_way_will_give_back() -> None:
    """
    Where credit is given, an open lease of 5,000 of which a fiftieth is used ends long before it would have drained.
    """

    def foretold(*, refunds_unused: bool) -> int:
        meter = ProcessMeter(Limits(tpm=6_000))
        for _ in range(20):
            size = PromptSize(0, 100)
            meter.settle(leased(meter, size), size, (0, 2, 0), None, NOW - 3_600 * SECOND)
        meter._budget._refunds_unused = refunds_unused
        leased(meter, PromptSize(0, 5_000))
        return meter.forecast(Backlog(), PromptSize(0, 4_000, is_exact=True), 0, NOW)

    assert 30 * SECOND <= foretold(refunds_unused=False) <= 31 * SECOND
    assert foretold(refunds_unused=True) <= 15 * SECOND


def test_many_threads_never_take_more_than_the_limit_and_lose_no_unit() -> None:
    meter, gate = ProcessMeter(Limits(tpm=1_000, rpm=1_000)), threading.Barrier(8)
    most: list[int] = []

    def spend() -> None:
        gate.wait(PATIENCE_S)
        for _ in range(200):
            granted = meter.lease(SMALL, NOW)
            if isinstance(granted, Lease):
                most.append(meter.accounting()["TPM"][3])
                meter.refund(granted)

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    taken, settled, refunded, held = meter.accounting()["TPM"]

    assert 200 < len(most)
    assert 150 <= min(most) <= max(most) <= 1_000
    assert (150 * len(most), 0, 150 * len(most), 0) == (taken, settled, refunded, held)
