"""All limits of one model in one lease."""

from __future__ import annotations

import pytest

from groq_queue.core.budget import Blocked, Budget, Lease, TooLarge
from groq_queue.core.headers import RateHeader, Refusal
from groq_queue.core.limits import DIMENSIONS, Limits, tightest
from groq_queue.core.pricing import Cost
from groq_queue.errors import ConfigurationError

SECOND = 1_000_000_000
NOW = 5_000 * SECOND
ALL_EIGHT = {
    "RPM": "rpm",
    "RPD": "rpd",
    "TPM": "tpm",
    "TPD": "tpd",
    "ITPM": "itpm",
    "OTPM": "otpm",
    "ASPH": "audio_hour",
    "ASPD": "audio_day",
}


def leased(budget: Budget, cost: Cost, now_ns: int = NOW) -> Lease:
    granted = budget.lease(cost, now_ns)
    assert isinstance(granted, Lease), granted
    return granted


def blocked(budget: Budget, cost: Cost, now_ns: int = NOW) -> Blocked:
    refused = budget.lease(cost, now_ns)
    assert isinstance(refused, Blocked)
    return refused


def spend(budget: Budget, cost: Cost, now_ns: int = NOW) -> None:
    budget.settle(leased(budget, cost, now_ns), cost, cost, now_ns)


def used(budget: Budget, dimension: str, now_ns: int = NOW) -> int:
    return next(level.used for level in budget.levels(now_ns) if level.dimension == dimension)


def limit(budget: Budget, dimension: str) -> int:
    return next(level.limit for level in budget.levels(NOW) if level.dimension == dimension)


# -- limits


@pytest.mark.parametrize("value", [0, -1, 1.0, "30", True, float("nan")])
@pytest.mark.parametrize("field", ALL_EIGHT.values())
def test_a_limit_is_a_whole_number_from_1_or_none(field: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Limits(**{field: value})  # type: ignore[arg-type]

    assert f"{field}={value!r}" in str(caught.value)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "60", None, True])
@pytest.mark.parametrize("field", ["minute_s", "hour_s", "day_s"])
def test_a_period_is_a_positive_number_of_seconds(field: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Limits(**{field: value})  # type: ignore[arg-type]

    assert f"{field}={value!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("dimension", "period_s"),
    [("RPM", 2), ("TPM", 2), ("ITPM", 2), ("OTPM", 2), ("ASPH", 3), ("RPD", 5), ("TPD", 5), ("ASPD", 5)],
)
def test_each_dimension_has_the_period_of_its_name(dimension: str, period_s: float) -> None:
    limits = Limits(**{ALL_EIGHT[dimension]: 4}, minute_s=2, hour_s=3, day_s=5)  # type: ignore[arg-type]

    assert {dimension: 4} == limits.by_dimension()
    assert period_s == limits.period_s(dimension)
    assert period_s == Budget(limits).levels(NOW)[0].period_s


def test_the_real_periods_are_a_minute_an_hour_and_a_day() -> None:
    limits = Limits()

    assert [60, 3_600, 86_400] == [limits.period_s(dimension) for dimension in ("TPM", "ASPH", "ASPD")]


# -- all or nothing


@pytest.mark.parametrize("dimension", ALL_EIGHT)
def test_a_lease_is_refused_by_any_one_limit_and_then_takes_nothing(dimension: str) -> None:
    """
    One bucket is nearly full, the other seven are wide open; the refusal names it and leaves all eight as they were.
    """
    roomy = dict.fromkeys(ALL_EIGHT.values(), 1_000_000)
    cost = Cost(prompt=20, completion=30, audio_s=7)
    budget = Budget(Limits(**{**roomy, ALL_EIGHT[dimension]: cost.units(dimension)}))  # type: ignore[arg-type]
    spend(budget, cost)
    before = budget.ledger(), budget.levels(NOW)

    refused = blocked(budget, cost)

    assert ("limit", dimension) == (refused.reason, refused.dimension)
    assert (cost.units(dimension), cost.units(dimension)) == (refused.used, refused.limit)
    assert refused.wait_ns is not None
    assert before == (budget.ledger(), budget.levels(NOW))
    assert isinstance(budget.lease(cost, NOW + refused.wait_ns), Lease)


def test_a_lease_takes_its_share_of_every_limit() -> None:
    budget = Budget(Limits(**dict.fromkeys(ALL_EIGHT.values(), 1_000)))  # type: ignore[arg-type]

    leased(budget, Cost(prompt=20, completion=30, audio_s=7))

    units = {"RPM": 1, "RPD": 1, "TPM": 50, "TPD": 50, "ITPM": 20, "OTPM": 30, "ASPH": 7, "ASPD": 7}
    assert {name: (taken, 0, 0, taken) for name, taken in units.items()} == budget.ledger()


def test_the_limit_that_blocks_longest_is_named() -> None:
    budget = Budget(Limits(rpm=1, tpd=100))
    spend(budget, Cost(100))

    refused = blocked(budget, Cost(100))

    assert ("TPD", 86_400 * SECOND) == (refused.dimension, refused.wait_ns)
    assert "tokens per day, 100 of 100 used" == str(refused)


def test_a_limit_that_no_time_frees_is_named_before_any_other() -> None:
    budget = Budget(Limits(tpm=10**6, tpd=100, otpm=10))
    spend(budget, Cost(50))
    leased(budget, Cost(0, 10))

    refused = blocked(budget, Cost(50, 5))

    assert ("OTPM", None) == (refused.dimension, refused.wait_ns)


def test_without_limits_everything_passes() -> None:
    budget = Budget(Limits())

    assert all(isinstance(budget.lease(Cost(10**9), NOW), Lease) for _ in range(100))
    assert {} == budget.ledger()


# -- ends


def test_a_second_end_of_a_lease_does_nothing() -> None:
    budget = Budget(Limits(tpm=1_000, rpm=10))
    lease = leased(budget, Cost(100))
    budget.settle(lease, Cost(100), Cost(40), NOW)
    after = budget.ledger(), budget.levels(NOW)

    budget.settle(lease, Cost(900), Cost(900), NOW)
    budget.refund(lease)
    budget.refused(lease, None, 0, NOW)

    assert after == (budget.ledger(), budget.levels(NOW))
    assert {"TPM": (100, 100, 0, 0), "RPM": (1, 1, 0, 0)} == budget.ledger()


def test_a_refund_gives_everything_back() -> None:
    budget = Budget(Limits(tpm=100, rpm=1))
    lease = leased(budget, Cost(100))
    assert blocked(budget, Cost(1)).wait_ns is None

    budget.refund(lease)
    budget.settle(lease, Cost(100), Cost(100), NOW)

    assert {"TPM": (100, 0, 100, 0), "RPM": (1, 0, 1, 0)} == budget.ledger()
    assert isinstance(budget.lease(Cost(100), NOW), Lease)


# -- refusals


def test_a_refusal_charges_nothing_and_holds_everybody_for_exactly_its_wait() -> None:
    budget = Budget(Limits(tpm=1_000))
    lease = leased(budget, Cost(100))

    notices = budget.refused(lease, None, 7 * SECOND, NOW)

    assert [] == notices
    assert {"TPM": (100, 0, 100, 0)} == budget.ledger()
    assert Blocked("hold", 7 * SECOND) == budget.lease(Cost(1), NOW)
    assert Blocked("hold", 1) == budget.lease(Cost(1), NOW + 7 * SECOND - 1)
    assert isinstance(budget.lease(Cost(1), NOW + 7 * SECOND), Lease)
    assert "the end of a wait the server set" == str(Blocked("hold", 1))


def test_a_shorter_hold_does_not_end_a_longer_one() -> None:
    budget = Budget(Limits())
    one, two = leased(budget, Cost(1)), leased(budget, Cost(1))

    budget.refused(one, None, 60 * SECOND, NOW)
    budget.refused(two, None, 2 * SECOND, NOW)

    assert Blocked("hold", 60 * SECOND) == budget.lease(Cost(1), NOW)


def test_a_refusal_tells_of_a_limit_that_no_header_shows() -> None:
    """
    TPD is invisible until it refuses; then its bucket exists, as full as the server said.
    """
    budget = Budget(None)
    lease = leased(budget, Cost(2_128))
    refusal = Refusal(False, "TPD", 200_000, 197_874, 2_128, 864_000_000)

    budget.refused(lease, refusal, 864_000_000, NOW)

    assert 197_874 == used(budget, "TPD")
    assert isinstance(budget.lease(Cost(2_128), NOW + 864_000_000), Lease)
    assert "limit" == blocked(budget, Cost(2_128), NOW + 864_000_000).reason


@pytest.mark.parametrize(
    "refusal", [None, Refusal(False, "", 500_000, 500_370, 252, 1), Refusal(True, "TPM", None, None, None, None)]
)
def test_a_refusal_without_numbers_teaches_no_limit(refusal: Refusal | None) -> None:
    budget = Budget(None)

    budget.refused(leased(budget, Cost(1)), refusal, 0, NOW)

    assert [] == budget.levels(NOW)


def test_a_hold_names_the_limit_the_server_named() -> None:
    budget = Budget(Limits())

    budget.refused(leased(budget, Cost(1)), Refusal(False, "TPD", 200_000, 200_000, 73, 1), 32 * SECOND, NOW)
    held = blocked(budget, Cost(1))

    assert ("hold", "TPD", 32 * SECOND) == (held.reason, held.dimension, held.wait_ns)
    assert "the end of a wait the server set for tokens per day" == str(held)


# -- what the user sets, changed


def test_the_tightest_limits_are_the_smallest_of_each() -> None:
    assert tightest([]) is None
    assert Limits(rpm=10, tpm=500, tpd=7) == tightest([Limits(rpm=30, tpm=500), Limits(rpm=10, tpm=900, tpd=7)])
    assert Limits(rpm=5, minute_s=2) == tightest([Limits(rpm=5, minute_s=2), Limits(minute_s=2)])
    with pytest.raises(ConfigurationError, match="different periods"):
        tightest([Limits(minute_s=2), Limits()])


def test_a_changed_limit_keeps_what_is_in_use() -> None:
    budget = Budget(Limits(tpm=1_000))
    spend(budget, Cost(300))
    leased(budget, Cost(200))

    budget.set_limits(Limits(tpm=600, rpm=9), NOW)

    assert (500, 600) == (used(budget, "TPM"), limit(budget, "TPM"))
    assert 9 == limit(budget, "RPM")


def test_without_the_users_limit_the_servers_holds() -> None:
    budget = Budget(Limits(tpm=1_000, rpm=5))
    lease = leased(budget, Cost(300))
    budget.settle(lease, Cost(300), Cost(300), NOW)
    budget.observe(lease, [RateHeader("TPM", 8_000, 7_700)], NOW)

    budget.set_limits(None, NOW)

    assert [("TPM", 300, 8_000)] == [level[:3] for level in budget.levels(NOW)]


# -- learning


def test_while_limits_are_unknown_one_request_goes_first() -> None:
    budget = Budget(None)
    probe = leased(budget, Cost(10))

    waiting = [budget.lease(Cost(10), NOW) for _ in range(3)]
    budget.settle(probe, Cost(10), Cost(10), NOW)
    budget.observe(probe, [RateHeader("TPM", 8_000, 7_990)], NOW)

    assert [Blocked("learning", None)] * 3 == waiting
    assert "the first answer, which will tell the limits that are not known" == str(waiting[0])
    assert all(isinstance(budget.lease(Cost(10), NOW), Lease) for _ in range(3))
    assert 8_000 == limit(budget, "TPM")


def test_a_probe_that_is_lost_is_followed_by_another_single_one() -> None:
    budget = Budget(None)
    lost = leased(budget, Cost(10))
    budget.settle(lost, Cost(10), Cost(10), NOW)

    leased(budget, Cost(10))

    assert "learning" == blocked(budget, Cost(10)).reason


def test_an_answer_that_shows_no_limits_ends_the_learning_too() -> None:
    budget = Budget(None)
    probe = leased(budget, Cost(10))
    budget.settle(probe, Cost(10), Cost(10), NOW)

    budget.observe(probe, [], NOW)

    assert all(isinstance(budget.lease(Cost(10), NOW), Lease) for _ in range(5))


def test_a_refusal_ends_the_learning_too() -> None:
    budget = Budget(None)

    budget.refused(leased(budget, Cost(10)), Refusal(False, "TPD", 1_000, 995, 10, 1), SECOND, NOW)
    later = [budget.lease(Cost(1), NOW + 60 * SECOND) for _ in range(3)]

    assert all(isinstance(granted, Lease) for granted in later)


def test_what_was_on_its_way_when_a_limit_was_learnt_is_charged_to_it() -> None:
    budget = Budget(Limits())
    first, second = leased(budget, Cost(1_000)), leased(budget, Cost(3_000))
    budget.settle(first, Cost(1_000), Cost(1_000), NOW)
    budget.observe(first, [RateHeader("TPM", 8_000, 7_000)], NOW)

    budget.settle(second, Cost(3_000), Cost(3_000), NOW)

    assert 4_000 == used(budget, "TPM")


def test_limits_without_the_tokens_need_a_probe_too() -> None:
    budget = Budget(Limits(rpm=100))
    probe = leased(budget, Cost(600, 300))

    assert "learning" == blocked(budget, Cost(50, 51)).reason
    budget.settle(probe, Cost(600, 300), Cost(600, 300), NOW)
    budget.observe(probe, [], NOW)
    assert all(isinstance(budget.lease(Cost(600, 300), NOW), Lease) for _ in range(10))


def test_small_requests_go_with_the_probe_if_the_limit_of_requests_is_known() -> None:
    """Together they stay below every published limit of tokens; waiting would waste the time of an answer."""
    budget = Budget(Limits(rpm=100))

    assert all(isinstance(budget.lease(Cost(40, 60), NOW), Lease) for _ in range(10))
    assert "learning" == blocked(budget, Cost(1)).reason
    for limits in (Limits(rpd=100), None):
        budget = Budget(limits)
        leased(budget, Cost(1))
        assert "learning" == blocked(budget, Cost(1)).reason


def test_limits_of_the_user_need_no_probe() -> None:
    budget = Budget(Limits(tpm=100))

    assert all(isinstance(budget.lease(Cost(10), NOW), Lease) for _ in range(10))


def test_a_learnt_limit_starts_at_the_level_the_server_showed() -> None:
    budget = Budget(None)
    probe = leased(budget, Cost(50))
    budget.settle(probe, Cost(50), Cost(50), NOW)

    notices = budget.observe(probe, [RateHeader("TPM", 8_000, 5_000), RateHeader("RPD", 1_000, 998)], NOW)

    assert [] == notices
    assert (3_000, 2) == (used(budget, "TPM"), used(budget, "RPD"))


def test_a_learnt_limit_follows_the_server_up_and_down() -> None:
    budget = Budget(None)
    seen = []
    for told in (8_000, 2_000, 250_000):
        lease = leased(budget, Cost(10))
        budget.settle(lease, Cost(10), Cost(10), NOW)
        notices = budget.observe(lease, [RateHeader("TPM", told, told - 10)], NOW)
        seen.append((limit(budget, "TPM"), notices))

    assert [(8_000, []), (2_000, []), (250_000, [])] == seen


@pytest.mark.parametrize(("own", "told", "kept"), [(4_000, 8_000, 4_000), (8_000, 6_000, 6_000)])
def test_the_users_limit_is_never_loosened_and_one_notice_names_both(own: int, told: int, kept: int) -> None:
    budget = Budget(Limits(tpm=own))
    notices = []
    for _ in range(3):
        lease = leased(budget, Cost(10))
        budget.settle(lease, Cost(10), Cost(10), NOW)
        notices += budget.observe(lease, [RateHeader("TPM", told, told)], NOW)

    assert [f"tokens per minute: the server's limit is {told:,}, yours is {own:,}; keeping {kept:,}"] == notices
    assert kept == limit(budget, "TPM")


def test_a_limit_of_the_server_that_changes_is_not_told_again() -> None:
    budget = Budget(Limits(tpm=4_000))
    notices = []
    for told in (8_000, 7_000, 8_000, 4_000, 9_000):
        lease = leased(budget, Cost(10))
        budget.settle(lease, Cost(10), Cost(10), NOW)
        notices += budget.observe(lease, [RateHeader("TPM", told, told)], NOW)

    assert 1 == len(notices)


def test_a_refusal_tightens_the_users_limit_too_and_each_dimension_is_told_once() -> None:
    budget = Budget(Limits(tpm=9_000, rpd=50, otpm=5_000))
    lease = leased(budget, Cost(10))
    notices = budget.refused(lease, Refusal(True, "OTPM", 1_000, None, 1_329, None), 0, NOW)
    for _ in range(2):
        lease = leased(budget, Cost(10))
        budget.settle(lease, Cost(10), Cost(10), NOW)
        notices += budget.observe(lease, [RateHeader("TPM", 8_000, 7_000), RateHeader("RPD", 1_000, 999)], NOW)

    assert ["output tokens", "tokens per", "requests per day"] == [
        next(start for start in ("output tokens", "tokens per", "requests per day") if notice.startswith(start))
        for notice in notices
    ]
    assert (8_000, 50, 1_000) == tuple(limit(budget, name) for name in ("TPM", "RPD", "OTPM"))


# -- levels of the server


def test_what_others_spend_raises_our_level() -> None:
    budget = Budget(Limits(tpm=8_000))
    lease = leased(budget, Cost(100))
    budget.settle(lease, Cost(100), Cost(100), NOW)

    budget.observe(lease, [RateHeader("TPM", 8_000, 1_000)], NOW)

    assert 7_000 == used(budget, "TPM")


def test_what_we_have_under_way_is_not_taken_for_the_spending_of_others() -> None:
    budget = Budget(Limits(tpm=8_000))
    lease, _other = leased(budget, Cost(100)), leased(budget, Cost(3_000))
    budget.settle(lease, Cost(100), Cost(100), NOW)

    budget.observe(lease, [RateHeader("TPM", 8_000, 8_000 - 3_100)], NOW)

    assert 3_100 == used(budget, "TPM")


def test_a_level_read_some_time_ago_has_drained_since() -> None:
    budget = Budget(Limits(tpm=6_000))
    lease = leased(budget, Cost(100), NOW - 2 * SECOND)
    budget.settle(lease, Cost(100), Cost(100), NOW)

    budget.observe(lease, [RateHeader("TPM", 6_000, 4_000)], NOW)

    assert 2_000 - 200 == used(budget, "TPM")


def test_our_level_comes_down_to_the_servers_and_what_ended_since() -> None:
    """
    The server showed 100 in use; whatever ended since the grant, this one included, may have come on top.
    """
    budget = Budget(Limits(tpm=8_000))
    spend(budget, Cost(5_000))
    lease = leased(budget, Cost(200))
    spend(budget, Cost(300))
    budget.settle(lease, Cost(200), Cost(200), NOW)

    budget.observe(lease, [RateHeader("TPM", 8_000, 7_900)], NOW)

    assert 100 + 300 + 200 == used(budget, "TPM")


def test_our_level_stays_when_the_servers_limit_is_not_ours() -> None:
    """
    With 8,000 there and 4,000 here the server's level says nothing against ours.
    """
    budget = Budget(Limits(tpm=4_000))
    spend(budget, Cost(3_000))
    lease = leased(budget, Cost(200))
    budget.settle(lease, Cost(200), Cost(200), NOW)

    budget.observe(lease, [RateHeader("TPM", 8_000, 8_000)], NOW)

    assert 3_200 == used(budget, "TPM")


def test_we_never_count_on_more_than_the_server_has_left() -> None:
    budget = Budget(Limits(tpm=4_000))
    lease = leased(budget, Cost(200))
    budget.settle(lease, Cost(200), Cost(200), NOW)

    budget.observe(lease, [RateHeader("TPM", 8_000, 500)], NOW)

    assert 500 == limit(budget, "TPM") - used(budget, "TPM")


def test_headers_far_below_the_strict_level_prove_that_allowance_is_given_back() -> None:
    budget = Budget(Limits(tpm=8_000))
    first = leased(budget, Cost(100, 4_000))
    budget.settle(first, Cost(100, 4_000), Cost(100, 20), NOW)
    believed_before = budget.credits
    second = leased(budget, Cost(100, 100))
    budget.settle(second, Cost(100, 100), Cost(100, 20), NOW)

    budget.observe(second, [RateHeader("TPM", 8_000, 8_000 - 120 - 200)], NOW)

    assert not believed_before
    assert budget.credits


def test_a_small_surplus_proves_nothing() -> None:
    """
    What the server drained while the slowest answer was under way, and a hundredth, are our own slack.
    """
    budget = Budget(Limits(tpm=6_000))
    slow = leased(budget, Cost(2_000), NOW - 10 * SECOND)
    budget.settle(slow, Cost(2_000), Cost(2_000), NOW)
    probe = leased(budget, Cost(10))
    budget.settle(probe, Cost(10), Cost(10), NOW)

    budget.observe(probe, [RateHeader("TPM", 6_000, 6_000 - 2_000 + 1_000)], NOW)

    assert not budget.credits


# -- too large


@pytest.mark.parametrize("dimension", [name for name in ALL_EIGHT if not name.startswith("RP")])
def test_a_cost_above_a_capacity_is_told_with_both_numbers(dimension: str) -> None:
    cost = Cost(prompt=20, completion=30, audio_s=7)
    units = cost.units(dimension)

    fits = Budget(Limits(**{ALL_EIGHT[dimension]: units}))  # type: ignore[arg-type]
    exceeds = Budget(Limits(**{ALL_EIGHT[dimension]: units - 1}))  # type: ignore[arg-type]

    assert fits.too_large(cost) is None
    assert TooLarge(units, units - 1, dimension) == exceeds.too_large(cost)


def test_too_large_asks_for_the_capacity_not_for_the_present_level() -> None:
    budget = Budget(Limits(tpm=100))
    leased(budget, Cost(100))

    assert budget.too_large(Cost(100)) is None


# -- forecast


def test_the_forecast_for_an_idle_budget_is_now() -> None:
    assert 0 == Budget(Limits(tpm=100, rpm=10)).forecast(0, Cost(0), Cost(100), 0.0, 0, NOW)
    assert 0 == Budget(None).forecast(50, Cost(10**6), Cost(100), 0.0, 0, NOW)


def test_the_forecast_is_the_exact_wait_when_nobody_is_ahead() -> None:
    budget = Budget(Limits(tpm=6_000))
    spend(budget, Cost(6_000))

    assert blocked(budget, Cost(500)).wait_ns == budget.forecast(0, Cost(0), Cost(500), 0.0, 0, NOW) == 5 * SECOND


def test_the_forecast_counts_those_ahead_in_requests_and_in_tokens() -> None:
    by_requests = Budget(Limits(rpm=30, tpm=10**9))
    by_tokens = Budget(Limits(rpm=10**6, tpm=6_000))

    assert 2 * 60 * SECOND == by_requests.forecast(30 * 3 - 1, Cost(89), Cost(1), 0.0, 0, NOW)
    assert 60 * SECOND == by_tokens.forecast(10, Cost(10_000), Cost(2_000), 0.0, 0, NOW)


def test_the_forecast_is_at_least_the_servers_hold() -> None:
    budget = Budget(Limits(tpm=6_000))
    budget.refused(leased(budget, Cost(1)), None, 90 * SECOND, NOW)

    assert 90 * SECOND == budget.forecast(0, Cost(0), Cost(1), 0.0, 0, NOW)


def test_the_forecast_never_falls_with_more_ahead() -> None:
    budget = Budget(Limits(rpm=30, rpd=1_000, tpm=6_000, tpd=100_000, otpm=900))
    spend(budget, Cost(3_000, 600))

    forecasts = [budget.forecast(n, Cost(100 * n, 30 * n), Cost(50, 50), 0.0, 0, NOW) for n in range(200)]

    assert forecasts == sorted(forecasts)
    assert 0 == forecasts[0]
    assert 60 * SECOND < forecasts[-1]


def test_every_dimension_has_a_name_in_words() -> None:
    assert ALL_EIGHT.keys() == DIMENSIONS.keys()


# -- the length of a minute


def test_the_length_of_a_minute_is_read_off_the_server_when_nobody_set_limits() -> None:
    """
    A simulator's minute may last ten seconds: 5,000 of 6,000 tokens drain in 8.333 s.
    """
    budget = Budget(None)
    probe = leased(budget, Cost(5_000))
    budget.settle(probe, Cost(5_000), Cost(5_000), NOW)

    budget.observe(probe, [RateHeader("TPM", 6_000, 1_000, 8_333_333_334)], NOW)

    assert 10 == pytest.approx(budget.levels(NOW)[0].period_s, rel=1e-3)
    assert 10 <= budget.levels(NOW)[0].period_s
    assert 3 == pytest.approx(blocked(budget, Cost(2_800)).wait_ns / SECOND, rel=1e-2)


def test_a_refusal_tells_the_length_of_a_minute_too() -> None:
    budget = Budget(None)
    refusal = Refusal(False, "TPM", 6_000, 5_900, 1_100, 1_666_666_667)

    budget.refused(leased(budget, Cost(1_100)), refusal, 1_666_666_667, NOW)

    assert 10 == pytest.approx(budget.levels(NOW)[0].period_s, rel=2e-3)


def test_a_real_minute_stays_exactly_one_and_a_users_period_is_his() -> None:
    for budget, expected in ((Budget(None), 60), (Budget(Limits(tpm=6_000, minute_s=7)), 7)):
        probe = leased(budget, Cost(1_000))
        budget.settle(probe, Cost(1_000), Cost(1_000), NOW)

        budget.observe(probe, [RateHeader("TPM", 6_000, 5_000, 10_000_000_000)], NOW)

        assert expected == budget.levels(NOW)[0].period_s
