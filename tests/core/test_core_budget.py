"""All limits of one model in one lease."""

from __future__ import annotations

import random

import pytest

from groq_queue.core.budget import Blocked, Budget, Lease, TooLarge
from groq_queue.core.headers import RateHeader, Refusal
from groq_queue.core.limits import DIMENSIONS, Limits, tightest
from groq_queue.core.token_estimate import TokenCost
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


def leased(budget: Budget, cost: TokenCost, now_ns: int = NOW) -> Lease:
    granted = budget.lease(cost, now_ns)
    assert isinstance(granted, Lease), granted
    return granted


def blocked(budget: Budget, cost: TokenCost, now_ns: int = NOW) -> Blocked:
    refused = budget.lease(cost, now_ns)
    assert isinstance(refused, Blocked)
    return refused


def spend(budget: Budget, cost: TokenCost, now_ns: int = NOW) -> None:
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
    cost = TokenCost(prompt=20, completion=30, audio_s=7)
    budget = Budget(Limits(**{**roomy, ALL_EIGHT[dimension]: cost.units(dimension)}))  # type: ignore[arg-type]
    spend(budget, cost)
    before = budget.accounting(), budget.levels(NOW)

    refused = blocked(budget, cost)

    assert ("limit", dimension) == (refused.reason, refused.dimension)
    assert (cost.units(dimension), cost.units(dimension)) == (refused.used, refused.limit)
    assert refused.wait_ns is not None
    assert before == (budget.accounting(), budget.levels(NOW))
    assert isinstance(budget.lease(cost, NOW + refused.wait_ns), Lease)


def test_a_lease_takes_its_share_of_every_limit() -> None:
    budget = Budget(Limits(**dict.fromkeys(ALL_EIGHT.values(), 1_000)))  # type: ignore[arg-type]

    leased(budget, TokenCost(prompt=20, completion=30, audio_s=7))

    units = {"RPM": 1, "RPD": 1, "TPM": 50, "TPD": 50, "ITPM": 20, "OTPM": 30, "ASPH": 7, "ASPD": 7}
    assert {name: (taken, 0, 0, taken) for name, taken in units.items()} == budget.accounting()


def test_the_limit_that_blocks_longest_is_named() -> None:
    budget = Budget(Limits(rpm=1, tpd=100))
    spend(budget, TokenCost(100))

    refused = blocked(budget, TokenCost(100))

    assert ("TPD", 86_400 * SECOND) == (refused.dimension, refused.wait_ns)
    assert "tokens per day, 100 of 100 used" == str(refused)


def test_a_limit_in_debt_holds_back_what_is_priced_at_nothing_there() -> None:
    """
    A price that the caller gave says nothing of the output, and the answer still has some.
    """
    budget = Budget(Limits(rpm=10, otpm=100))
    spent = leased(budget, TokenCost(1, 0))
    budget.settle(spent, spent.cost, TokenCost(1, 200), NOW)

    assert "OTPM" == blocked(budget, TokenCost(1, 0)).dimension
    assert budget.lease(TokenCost(1, 0), NOW) == budget.blocks(TokenCost(1, 0), NOW)


def test_a_limit_that_no_time_frees_is_named_before_any_other() -> None:
    budget = Budget(Limits(tpm=10**6, tpd=100, otpm=10))
    spend(budget, TokenCost(50))
    leased(budget, TokenCost(0, 10))

    refused = blocked(budget, TokenCost(50, 5))

    assert ("OTPM", None) == (refused.dimension, refused.wait_ns)


def test_without_limits_everything_passes() -> None:
    budget = Budget(Limits())

    assert all(isinstance(budget.lease(TokenCost(10**9), NOW), Lease) for _ in range(100))
    assert {} == budget.accounting()


# -- ends


def test_a_second_end_of_a_lease_does_nothing() -> None:
    budget = Budget(Limits(tpm=1_000, rpm=10))
    lease = leased(budget, TokenCost(100))
    budget.settle(lease, TokenCost(100), TokenCost(40), NOW)
    after = budget.accounting(), budget.levels(NOW)

    budget.settle(lease, TokenCost(900), TokenCost(900), NOW)
    budget.refund(lease)
    budget.refused(lease, None, 0, NOW)

    assert after == (budget.accounting(), budget.levels(NOW))
    assert {"TPM": (100, 100, 0, 0), "RPM": (1, 1, 0, 0)} == budget.accounting()


def test_a_refund_gives_everything_back() -> None:
    budget = Budget(Limits(tpm=100, rpm=1))
    lease = leased(budget, TokenCost(100))
    assert blocked(budget, TokenCost(1)).wait_ns is None

    budget.refund(lease)
    budget.settle(lease, TokenCost(100), TokenCost(100), NOW)

    assert {"TPM": (100, 0, 100, 0), "RPM": (1, 0, 1, 0)} == budget.accounting()
    assert isinstance(budget.lease(TokenCost(100), NOW), Lease)


# -- refusals


def test_a_refusal_charges_nothing_and_holds_everybody_for_exactly_its_wait() -> None:
    budget = Budget(Limits(tpm=1_000))
    lease = leased(budget, TokenCost(100))

    notices = budget.refused(lease, None, 7 * SECOND, NOW)

    assert [] == notices
    assert {"TPM": (100, 0, 100, 0)} == budget.accounting()
    assert Blocked("hold", 7 * SECOND) == budget.lease(TokenCost(1), NOW)
    assert Blocked("hold", 1) == budget.lease(TokenCost(1), NOW + 7 * SECOND - 1)
    assert isinstance(budget.lease(TokenCost(1), NOW + 7 * SECOND), Lease)
    assert "the end of a wait the server set" == str(Blocked("hold", 1))


def test_a_shorter_hold_does_not_end_a_longer_one() -> None:
    budget = Budget(Limits())
    one, two = leased(budget, TokenCost(1)), leased(budget, TokenCost(1))

    budget.refused(one, None, 60 * SECOND, NOW)
    budget.refused(two, None, 2 * SECOND, NOW)

    assert Blocked("hold", 60 * SECOND) == budget.lease(TokenCost(1), NOW)


def test_a_refusal_tells_of_a_limit_that_no_header_shows() -> None:
    """
    TPD is invisible until it refuses; then its bucket exists, as full as the server said.
    """
    budget = Budget(None)
    lease = leased(budget, TokenCost(2_128))
    refusal = Refusal(False, "TPD", 200_000, 197_874, 2_128, 864_000_000)

    budget.refused(lease, refusal, 864_000_000, NOW)

    assert 197_874 == used(budget, "TPD")
    assert isinstance(budget.lease(TokenCost(2_128), NOW + 864_000_000), Lease)
    assert "limit" == blocked(budget, TokenCost(2_128), NOW + 864_000_000).reason


@pytest.mark.parametrize(
    "refusal", [None, Refusal(False, "", 500_000, 500_370, 252, 1), Refusal(True, "TPM", None, None, None, None)]
)
def test_a_refusal_without_numbers_teaches_no_limit(refusal: Refusal | None) -> None:
    budget = Budget(None)

    budget.refused(leased(budget, TokenCost(1)), refusal, 0, NOW)

    assert [] == budget.levels(NOW)


def test_a_hold_names_the_limit_the_server_named() -> None:
    budget = Budget(Limits())

    budget.refused(leased(budget, TokenCost(1)), Refusal(False, "TPD", None, None, None, 1), 32 * SECOND, NOW)
    held = blocked(budget, TokenCost(1))

    assert ("hold", "TPD", 32 * SECOND) == (held.reason, held.dimension, held.wait_ns)
    assert "the end of a wait the server set for tokens per day" == str(held)


TOO_MUCH_FOR_TODAY = Refusal(False, "TPD", 100_000, 97_050, 3_560, 550 * SECOND)


def test_a_daily_refusal_of_a_large_request_holds_only_what_is_as_large() -> None:
    """
    2,950 tokens are left for the others, and every second a little more.
    """
    budget = Budget(None)

    budget.refused(leased(budget, TokenCost(3_560)), TOO_MUCH_FOR_TODAY, 550 * SECOND, NOW)
    held = blocked(budget, TokenCost(3_560))

    assert Blocked("limit", 550 * SECOND, "TPD", 97_050, 100_000) == held
    assert isinstance(budget.lease(TokenCost(100), NOW), Lease)
    assert 97_150 == blocked(budget, TokenCost(5_000)).used
    assert isinstance(budget.lease(TokenCost(2_850), NOW), Lease)
    assert ("limit", "TPD") == (blocked(budget, TokenCost(100)).reason, blocked(budget, TokenCost(100)).dimension)


def test_the_wait_of_a_large_request_is_the_servers_and_not_what_the_level_says() -> None:
    """
    The server's figures are rounded, and its wait is exact: the level alone would let the request go too early.
    """
    budget = Budget(None)
    budget.refused(leased(budget, TokenCost(3_560)), TOO_MUCH_FOR_TODAY, 550 * SECOND, NOW)

    assert 1 == blocked(budget, TokenCost(3_560), NOW + 550 * SECOND - 1).wait_ns
    assert isinstance(budget.lease(TokenCost(3_560), NOW + 550 * SECOND), Lease)


def test_a_daily_limit_of_requests_that_is_spent_holds_every_request() -> None:
    budget = Budget(Limits(rpm=30))
    spent = Refusal(False, "RPD", 1_000, 1_000, 1, 87 * SECOND)

    budget.refused(leased(budget, TokenCost(3_560)), spent, 87 * SECOND, NOW)

    assert Blocked("limit", 87 * SECOND, "RPD", 1_000, 1_000) == blocked(budget, TokenCost(1))
    assert isinstance(budget.lease(TokenCost(1), NOW + 87 * SECOND), Lease)


def test_what_is_left_of_the_day_counts_by_the_smaller_limit() -> None:
    """
    The user allows 98,000 of the server's 100,000, so the server's last 2,000 are left alone.
    """
    budget = Budget(Limits(tpd=98_000))
    budget.refused(leased(budget, TokenCost(3_560)), TOO_MUCH_FOR_TODAY, 550 * SECOND, NOW)

    assert isinstance(budget.lease(TokenCost(2_950), NOW), Lease)
    assert "limit" == blocked(budget, TokenCost(1)).reason


def test_a_refusal_by_the_minute_holds_everybody_whatever_it_tells() -> None:
    """
    The wait is short, and requests in front of the large one would only make it longer.
    """
    budget = Budget(None)

    budget.refused(leased(budget, TokenCost(500)), Refusal(False, "TPM", 6_000, 5_958, 500, SECOND), SECOND, NOW)

    assert Blocked("hold", SECOND, "TPM") == blocked(budget, TokenCost(1))


# -- what the user sets, changed


def test_the_tightest_limits_are_the_smallest_of_each() -> None:
    assert tightest([]) is None
    assert Limits(rpm=10, tpm=500, tpd=7) == tightest([Limits(rpm=30, tpm=500), Limits(rpm=10, tpm=900, tpd=7)])
    assert Limits(rpm=5, minute_s=2) == tightest([Limits(rpm=5, minute_s=2), Limits(minute_s=2)])
    with pytest.raises(ConfigurationError, match="different periods"):
        tightest([Limits(minute_s=2), Limits()])


def test_a_changed_limit_keeps_what_is_in_use() -> None:
    budget = Budget(Limits(tpm=1_000))
    spend(budget, TokenCost(300))
    leased(budget, TokenCost(200))

    budget.set_limits(Limits(tpm=600, rpm=9), NOW)

    assert (500, 600) == (used(budget, "TPM"), limit(budget, "TPM"))
    assert 9 == limit(budget, "RPM")


def test_without_the_users_limit_the_servers_holds() -> None:
    budget = Budget(Limits(tpm=1_000, rpm=5))
    lease = leased(budget, TokenCost(300))
    budget.settle(lease, TokenCost(300), TokenCost(300), NOW)
    budget.observe(lease, [RateHeader("TPM", 8_000, 7_700)], NOW)

    budget.set_limits(None, NOW)

    assert [("TPM", 300, 8_000)] == [level[:3] for level in budget.levels(NOW)]


# -- learning


def test_while_limits_are_unknown_one_request_goes_first() -> None:
    budget = Budget(None)
    probe = leased(budget, TokenCost(10))

    waiting = [budget.lease(TokenCost(10), NOW) for _ in range(3)]
    budget.settle(probe, TokenCost(10), TokenCost(10), NOW)
    budget.observe(probe, [RateHeader("TPM", 8_000, 7_990)], NOW)

    assert [Blocked("learning", None)] * 3 == waiting
    assert "the first answer, which will tell the limits that are not known" == str(waiting[0])
    assert all(isinstance(budget.lease(TokenCost(10), NOW), Lease) for _ in range(3))
    assert 8_000 == limit(budget, "TPM")


def test_a_probe_that_is_lost_is_followed_by_another_single_one() -> None:
    budget = Budget(None)
    lost = leased(budget, TokenCost(10))
    budget.settle(lost, TokenCost(10), TokenCost(10), NOW)

    leased(budget, TokenCost(10))

    assert "learning" == blocked(budget, TokenCost(10)).reason


def test_an_answer_that_shows_no_limits_ends_the_learning_too() -> None:
    budget = Budget(None)
    probe = leased(budget, TokenCost(10))
    budget.settle(probe, TokenCost(10), TokenCost(10), NOW)

    budget.observe(probe, [], NOW)

    assert all(isinstance(budget.lease(TokenCost(10), NOW), Lease) for _ in range(5))


def test_a_refusal_ends_the_learning_too() -> None:
    budget = Budget(None)

    budget.refused(leased(budget, TokenCost(10)), Refusal(False, "TPD", 1_000, 995, 10, 1), SECOND, NOW)
    later = [budget.lease(TokenCost(1), NOW + 60 * SECOND) for _ in range(3)]

    assert all(isinstance(granted, Lease) for granted in later)


def test_what_was_on_its_way_when_a_limit_was_learnt_is_charged_to_it() -> None:
    budget = Budget(Limits())
    first, second = leased(budget, TokenCost(1_000)), leased(budget, TokenCost(3_000))
    budget.settle(first, TokenCost(1_000), TokenCost(1_000), NOW)
    budget.observe(first, [RateHeader("TPM", 8_000, 7_000)], NOW)

    budget.settle(second, TokenCost(3_000), TokenCost(3_000), NOW)

    assert 4_000 == used(budget, "TPM")


def test_limits_without_the_tokens_need_a_probe_too() -> None:
    budget = Budget(Limits(rpm=100))
    probe = leased(budget, TokenCost(600, 300))

    assert "learning" == blocked(budget, TokenCost(50, 51)).reason
    budget.settle(probe, TokenCost(600, 300), TokenCost(600, 300), NOW)
    budget.observe(probe, [], NOW)
    assert all(isinstance(budget.lease(TokenCost(600, 300), NOW), Lease) for _ in range(10))


def test_small_requests_go_with_the_probe_if_the_limit_of_requests_is_known() -> None:
    """Together they stay below every published limit of tokens; waiting would waste the time of an answer."""
    budget = Budget(Limits(rpm=100))

    assert all(isinstance(budget.lease(TokenCost(40, 60), NOW), Lease) for _ in range(10))
    assert "learning" == blocked(budget, TokenCost(1)).reason
    for limits in (Limits(rpd=100), None):
        budget = Budget(limits)
        leased(budget, TokenCost(1))
        assert "learning" == blocked(budget, TokenCost(1)).reason


def test_limits_of_the_user_need_no_probe() -> None:
    budget = Budget(Limits(tpm=100))

    assert all(isinstance(budget.lease(TokenCost(10), NOW), Lease) for _ in range(10))


def test_a_learnt_limit_starts_at_the_level_the_server_showed() -> None:
    budget = Budget(None)
    probe = leased(budget, TokenCost(50))
    budget.settle(probe, TokenCost(50), TokenCost(50), NOW)

    notices = budget.observe(probe, [RateHeader("TPM", 8_000, 5_000), RateHeader("RPD", 1_000, 998)], NOW)

    assert [] == notices
    assert (3_000, 2) == (used(budget, "TPM"), used(budget, "RPD"))


def test_a_learnt_limit_follows_the_server_up_and_down() -> None:
    budget = Budget(None)
    seen = []
    for told in (8_000, 2_000, 250_000):
        lease = leased(budget, TokenCost(10))
        budget.settle(lease, TokenCost(10), TokenCost(10), NOW)
        notices = budget.observe(lease, [RateHeader("TPM", told, told - 10)], NOW)
        seen.append((limit(budget, "TPM"), notices))

    assert [(8_000, []), (2_000, []), (250_000, [])] == seen


@pytest.mark.parametrize(("own", "told", "kept"), [(4_000, 8_000, 4_000), (8_000, 6_000, 6_000)])
def test_the_users_limit_is_never_loosened_and_one_notice_names_both(own: int, told: int, kept: int) -> None:
    budget = Budget(Limits(tpm=own))
    notices = []
    for _ in range(3):
        lease = leased(budget, TokenCost(10))
        budget.settle(lease, TokenCost(10), TokenCost(10), NOW)
        notices += budget.observe(lease, [RateHeader("TPM", told, told)], NOW)

    assert [f"tokens per minute: the server's limit is {told:,}, yours is {own:,}; keeping {kept:,}"] == notices
    assert kept == limit(budget, "TPM")


def test_a_limit_of_the_server_that_changes_is_not_told_again() -> None:
    budget = Budget(Limits(tpm=4_000))
    notices = []
    for told in (8_000, 7_000, 8_000, 4_000, 9_000):
        lease = leased(budget, TokenCost(10))
        budget.settle(lease, TokenCost(10), TokenCost(10), NOW)
        notices += budget.observe(lease, [RateHeader("TPM", told, told)], NOW)

    assert 1 == len(notices)


def test_a_refusal_tightens_the_users_limit_too_and_each_dimension_is_told_once() -> None:
    budget = Budget(Limits(tpm=9_000, rpd=50, otpm=5_000))
    lease = leased(budget, TokenCost(10))
    notices = budget.refused(lease, Refusal(True, "OTPM", 1_000, None, 1_329, None), 0, NOW)
    for _ in range(2):
        lease = leased(budget, TokenCost(10))
        budget.settle(lease, TokenCost(10), TokenCost(10), NOW)
        notices += budget.observe(lease, [RateHeader("TPM", 8_000, 7_000), RateHeader("RPD", 1_000, 999)], NOW)

    assert ["output tokens", "tokens per", "requests per day"] == [
        next(start for start in ("output tokens", "tokens per", "requests per day") if notice.startswith(start))
        for notice in notices
    ]
    assert (8_000, 50, 1_000) == tuple(limit(budget, name) for name in ("TPM", "RPD", "OTPM"))


# -- levels of the server


def test_what_others_spend_raises_our_level() -> None:
    budget = Budget(Limits(tpm=8_000))
    lease = leased(budget, TokenCost(100))
    budget.settle(lease, TokenCost(100), TokenCost(100), NOW)

    budget.observe(lease, [RateHeader("TPM", 8_000, 1_000)], NOW)

    assert 7_000 == used(budget, "TPM")


def test_what_we_have_under_way_is_not_taken_for_the_spending_of_others() -> None:
    budget = Budget(Limits(tpm=8_000))
    lease, _other = leased(budget, TokenCost(100)), leased(budget, TokenCost(3_000))
    budget.settle(lease, TokenCost(100), TokenCost(100), NOW)

    budget.observe(lease, [RateHeader("TPM", 8_000, 8_000 - 3_100)], NOW)

    assert 3_100 == used(budget, "TPM")


def test_a_level_read_some_time_ago_has_drained_since() -> None:
    budget = Budget(Limits(tpm=6_000))
    lease = leased(budget, TokenCost(100), NOW - 2 * SECOND)
    budget.settle(lease, TokenCost(100), TokenCost(100), NOW)

    budget.observe(lease, [RateHeader("TPM", 6_000, 4_000)], NOW)

    assert 2_000 - 200 == used(budget, "TPM")


def test_our_level_comes_down_to_the_servers_and_what_ended_since() -> None:
    """
    The server showed 100 in use; whatever ended since the grant, this one included, may have come on top.
    """
    budget = Budget(Limits(tpm=8_000))
    spend(budget, TokenCost(5_000))
    lease = leased(budget, TokenCost(200))
    spend(budget, TokenCost(300))
    budget.settle(lease, TokenCost(200), TokenCost(200), NOW)

    budget.observe(lease, [RateHeader("TPM", 8_000, 7_900)], NOW)

    assert 100 + 300 + 200 == used(budget, "TPM")


def test_our_level_stays_when_the_servers_limit_is_not_ours() -> None:
    """
    With 8,000 there and 4,000 here the server's level says nothing against ours.
    """
    budget = Budget(Limits(tpm=4_000))
    spend(budget, TokenCost(3_000))
    lease = leased(budget, TokenCost(200))
    budget.settle(lease, TokenCost(200), TokenCost(200), NOW)

    budget.observe(lease, [RateHeader("TPM", 8_000, 8_000)], NOW)

    assert 3_200 == used(budget, "TPM")


def test_we_never_count_on_more_than_the_server_has_left() -> None:
    budget = Budget(Limits(tpm=4_000))
    lease = leased(budget, TokenCost(200))
    budget.settle(lease, TokenCost(200), TokenCost(200), NOW)

    budget.observe(lease, [RateHeader("TPM", 8_000, 500)], NOW)

    assert 500 == limit(budget, "TPM") - used(budget, "TPM")


def test_headers_far_below_the_strict_level_prove_that_allowance_is_given_back() -> None:
    budget = Budget(Limits(tpm=8_000))
    first = leased(budget, TokenCost(100, 4_000))
    budget.settle(first, TokenCost(100, 4_000), TokenCost(100, 20), NOW)
    believed_before = budget.refunds_unused
    second = leased(budget, TokenCost(100, 100))
    budget.settle(second, TokenCost(100, 100), TokenCost(100, 20), NOW)

    budget.observe(second, [RateHeader("TPM", 8_000, 8_000 - 120 - 200)], NOW)

    assert not believed_before
    assert budget.refunds_unused


def test_a_small_surplus_proves_nothing() -> None:
    """
    What the server drained while the slowest answer was under way, and a hundredth, are our own slack.
    """
    budget = Budget(Limits(tpm=6_000))
    slow = leased(budget, TokenCost(2_000), NOW - 10 * SECOND)
    budget.settle(slow, TokenCost(2_000), TokenCost(2_000), NOW)
    probe = leased(budget, TokenCost(10))
    budget.settle(probe, TokenCost(10), TokenCost(10), NOW)

    budget.observe(probe, [RateHeader("TPM", 6_000, 6_000 - 2_000 + 1_000)], NOW)

    assert not budget.refunds_unused


# -- too large


@pytest.mark.parametrize("dimension", [name for name in ALL_EIGHT if not name.startswith("RP")])
def test_a_cost_above_a_capacity_is_told_with_both_numbers(dimension: str) -> None:
    cost = TokenCost(prompt=20, completion=30, audio_s=7)
    units = cost.units(dimension)

    fits = Budget(Limits(**{ALL_EIGHT[dimension]: units}))  # type: ignore[arg-type]
    exceeds = Budget(Limits(**{ALL_EIGHT[dimension]: units - 1}))  # type: ignore[arg-type]

    assert fits.too_large(cost) is None
    assert TooLarge(units, units - 1, dimension) == exceeds.too_large(cost)


def test_too_large_asks_for_the_capacity_not_for_the_present_level() -> None:
    budget = Budget(Limits(tpm=100))
    leased(budget, TokenCost(100))

    assert budget.too_large(TokenCost(100)) is None


# -- forecast


def test_the_forecast_for_an_idle_budget_is_now() -> None:
    assert 0 == Budget(Limits(tpm=100, rpm=10)).forecast(0, TokenCost(0), TokenCost(100), 0.0, 0, NOW)
    assert 0 == Budget(None).forecast(50, TokenCost(10**6), TokenCost(100), 0.0, 0, NOW)


def test_the_forecast_is_the_exact_wait_when_nobody_is_ahead() -> None:
    budget = Budget(Limits(tpm=6_000))
    spend(budget, TokenCost(6_000))

    assert (
        blocked(budget, TokenCost(500)).wait_ns
        == budget.forecast(0, TokenCost(0), TokenCost(500), 0.0, 0, NOW)
        == 5 * SECOND
    )


def test_the_forecast_counts_those_ahead_in_requests_and_in_tokens() -> None:
    by_requests = Budget(Limits(rpm=30, tpm=10**9))
    by_tokens = Budget(Limits(rpm=10**6, tpm=6_000))

    assert 2 * 60 * SECOND == by_requests.forecast(30 * 3 - 1, TokenCost(89), TokenCost(1), 0.0, 0, NOW)
    assert 60 * SECOND == by_tokens.forecast(10, TokenCost(10_000), TokenCost(2_000), 0.0, 0, NOW)


def test_the_forecast_is_at_least_the_servers_hold() -> None:
    budget = Budget(Limits(tpm=6_000))
    budget.refused(leased(budget, TokenCost(1)), None, 90 * SECOND, NOW)

    assert 90 * SECOND == budget.forecast(0, TokenCost(0), TokenCost(1), 0.0, 0, NOW)


def test_the_forecast_never_falls_with_more_ahead() -> None:
    budget = Budget(Limits(rpm=30, rpd=1_000, tpm=6_000, tpd=100_000, otpm=900))
    spend(budget, TokenCost(3_000, 600))

    forecasts = [budget.forecast(n, TokenCost(100 * n, 30 * n), TokenCost(50, 50), 0.0, 0, NOW) for n in range(200)]

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
    probe = leased(budget, TokenCost(5_000))
    budget.settle(probe, TokenCost(5_000), TokenCost(5_000), NOW)

    budget.observe(probe, [RateHeader("TPM", 6_000, 1_000, 8_333_333_334)], NOW)

    assert 10 == pytest.approx(budget.levels(NOW)[0].period_s, rel=1e-3)
    assert 10 <= budget.levels(NOW)[0].period_s
    assert 3 == pytest.approx(blocked(budget, TokenCost(2_800)).wait_ns / SECOND, rel=1e-2)


def test_a_refusal_tells_the_length_of_a_minute_too() -> None:
    budget = Budget(None)
    refusal = Refusal(False, "TPM", 6_000, 5_900, 1_100, 1_666_666_667)

    budget.refused(leased(budget, TokenCost(1_100)), refusal, 1_666_666_667, NOW)

    assert 10 == pytest.approx(budget.levels(NOW)[0].period_s, rel=2e-3)


def test_a_real_minute_stays_exactly_one_and_a_users_period_is_his() -> None:
    for budget, expected in ((Budget(None), 60), (Budget(Limits(tpm=6_000, minute_s=7)), 7)):
        probe = leased(budget, TokenCost(1_000))
        budget.settle(probe, TokenCost(1_000), TokenCost(1_000), NOW)

        budget.observe(probe, [RateHeader("TPM", 6_000, 5_000, 10_000_000_000)], NOW)

        assert expected == budget.levels(NOW)[0].period_s


# -- what blocks


@pytest.mark.parametrize(
    ("blocked", "words"),
    [
        (Blocked("limit", 1, "TPD", 1_234, 5_678), "tokens per day, 1,234 of 5,678 used"),
        (Blocked("pace", 1), "the server to recover from failures"),
        (Blocked("behind", 1), "requests that go first"),
        (Blocked("asking", 1), "word from the shared budget"),
        (Blocked("outage", 1), "the shared budget, which cannot be reached"),
        (Blocked("hold", 1), "the end of a wait the server set"),
        (Blocked("hold", 1, "RPM"), "the end of a wait the server set for requests per minute"),
        (Blocked("learning", None), "the first answer, which will tell the limits that are not known"),
    ],
)
def test_what_blocks_is_told_in_words(blocked: Blocked, words: str) -> None:
    assert words == str(blocked)
    assert ("", 0, 0) == Blocked("pace", 1)[2:]


def slowed(limits: Limits | None = None) -> Budget:
    """A budget after five failures in a row: one attempt a second."""
    budget = Budget(limits if limits is not None else Limits(), random.Random(1))
    for _ in range(5):
        budget.pace.failed(NOW)
    return budget


def test_a_slow_pace_keeps_attempts_apart() -> None:
    budget = slowed()
    start_ns = NOW + budget.pace.wait_ns(NOW)

    too_early = blocked(budget, TokenCost(1), start_ns - 1)
    leased(budget, TokenCost(1), start_ns)
    again = blocked(budget, TokenCost(1), start_ns)

    assert Blocked("pace", 1) == too_early
    assert "pace" == again.reason
    assert again.wait_ns is not None
    assert 0.8 * SECOND <= again.wait_ns <= 1.2 * SECOND
    leased(budget, TokenCost(1), start_ns + again.wait_ns)


def test_of_the_pace_and_the_limits_the_one_that_blocks_longest_is_named() -> None:
    budget = slowed(Limits(tpm=60))
    start_ns = NOW + budget.pace.wait_ns(NOW)
    spend(budget, TokenCost(60), start_ns)

    long_wait, short_wait = (
        blocked(budget, TokenCost(60), start_ns),
        blocked(budget, TokenCost(60), start_ns + 59_900_000_000),
    )
    budget.pace.sent(start_ns + 60 * SECOND)
    paced = blocked(budget, TokenCost(60), start_ns + 59_900_000_000)

    assert ("limit", "TPM", 60 * SECOND) == (long_wait.reason, long_wait.dimension, long_wait.wait_ns)
    assert ("limit", SECOND // 10) == (short_wait.reason, short_wait.wait_ns)
    assert "pace" == paced.reason


def test_a_wait_for_an_open_lease_is_named_before_the_pace() -> None:
    budget = slowed(Limits(tpm=60))
    start_ns = NOW + budget.pace.wait_ns(NOW)
    leased(budget, TokenCost(60), start_ns)

    assert Blocked("limit", None, "TPM", 60, 60) == blocked(budget, TokenCost(60), start_ns)


def test_the_servers_hold_comes_before_anything_else() -> None:
    budget = Budget(None)
    leased(budget, TokenCost(1))
    budget._hold_until_ns = NOW + 5

    assert Blocked("hold", 5) == budget.blocks(TokenCost(1), NOW)
    assert Blocked("learning", None) == budget.blocks(TokenCost(1), NOW + 5)


def test_what_passes_is_blocked_by_nothing_and_asking_takes_nothing() -> None:
    budget = Budget(Limits(tpm=100))

    assert budget.blocks(TokenCost(100), NOW) is None
    assert {"TPM": (0, 0, 0, 0)} == budget.accounting()


def test_of_several_limits_that_block_the_longest_wait_is_named_wherever_it_stands() -> None:
    for limits in (Limits(rpm=2, tpm=100, tpd=100), Limits(rpm=2, rpd=1, tpm=100)):
        budget = Budget(limits)
        spend(budget, TokenCost(100))

        found = budget.blocks(TokenCost(50), NOW)

        assert found is not None
        assert found.dimension in ("TPD", "RPD")
        assert 86_400 * SECOND // (2 if found.dimension == "TPD" else 1) == found.wait_ns


# -- a share left to others


@pytest.mark.parametrize(
    ("limit_", "margin", "usable"), [(1_000, 0.1, 900), (7, 0.5, 3), (1, 0.9, 1), (1_000, 0.0, 1_000)]
)
def test_a_share_of_every_limit_is_left_to_others_and_one_unit_is_ours(limit_: int, margin: float, usable: int) -> None:
    budget = Budget(None)
    budget.set_limits(Limits(tpm=limit_), NOW, margin)

    assert {"TPM": (usable, 60 * SECOND)} == budget.capacities()


def test_a_share_of_the_servers_limit_is_left_to_others_too() -> None:
    budget = Budget(None)
    budget.set_limits(None, NOW, 0.25)
    probe = leased(budget, TokenCost(100))
    budget.settle(probe, TokenCost(100), TokenCost(100), NOW)

    budget.observe(probe, [RateHeader("TPM", 8_000, 7_900)], NOW)

    assert 6_000 == limit(budget, "TPM")


# -- limits that come and go


def test_a_limit_that_is_unset_and_set_again_has_forgotten_nothing() -> None:
    budget = Budget(Limits(tpm=1_000, rpm=5))
    spend(budget, TokenCost(300))

    budget.set_limits(Limits(rpm=5), NOW)
    without = list(budget.capacities())
    budget.set_limits(Limits(rpm=5, tpm=2_000), NOW)

    assert ["RPM"] == without
    assert (300, 2_000) == (used(budget, "TPM"), limit(budget, "TPM"))


def test_a_limit_that_is_set_counts_what_is_on_its_way() -> None:
    budget = Budget(Limits())
    lease = leased(budget, TokenCost(200, 100))

    budget.set_limits(Limits(otpm=1_000, rpm=7), NOW)

    assert TokenCost(200, 100) == budget.held()
    assert {"OTPM": (100, 0, 0, 100), "RPM": (1, 0, 0, 1)} == budget.accounting()
    budget.settle(lease, TokenCost(200, 100), TokenCost(200, 40), NOW)
    assert {"OTPM": (100, 100, 0, 0), "RPM": (1, 1, 0, 0)} == budget.accounting()
    assert (100, 1) == (used(budget, "OTPM"), used(budget, "RPM"))


def test_naming_the_limit_of_tokens_or_that_there_is_none_ends_the_learning() -> None:
    for limits, knows in ((Limits(), True), (Limits(tpm=1_000), True), (Limits(tpd=1_000), False), (None, False)):
        budget = Budget(None)
        leased(budget, TokenCost(1))

        budget.set_limits(limits, NOW)

        assert knows == (budget.blocks(TokenCost(1), NOW) is None), limits


def test_taking_the_limits_back_does_not_begin_the_learning_anew() -> None:
    budget = Budget(Limits(tpm=1_000))
    leased(budget, TokenCost(1))

    budget.set_limits(None, NOW)

    assert isinstance(budget.lease(TokenCost(1), NOW), Lease)


def test_the_users_periods_stay_when_his_limits_are_taken_back() -> None:
    budget = Budget(Limits(tpm=1_000, minute_s=7))
    budget.set_limits(None, NOW)

    budget.begin("TPM", 1_000, 7 * SECOND, 500, 0, NOW)
    budget.set_limits(Limits(tpm=1_000, minute_s=7), NOW)

    assert [("TPM", 500, 1_000, 7)] == budget.levels(NOW)


def test_what_all_open_leases_hold_is_added_up() -> None:
    budget = Budget(Limits())
    one, two = leased(budget, TokenCost(10, 20, 3)), leased(budget, TokenCost(100, 200, 30))
    both = budget.held()
    budget.refund(one)
    after = budget.held()
    budget.settle(two, TokenCost(1), TokenCost(1), NOW)

    assert [TokenCost(110, 220, 33), TokenCost(100, 200, 30), TokenCost(0)] == [both, after, budget.held()]


def test_a_lease_knows_when_it_was_granted_and_whether_it_is_open() -> None:
    budget = Budget(Limits(tpm=100))
    lease = leased(budget, TokenCost(7))
    before = lease.is_open
    budget.refund(lease)

    assert (TokenCost(7), NOW) == (lease.cost, lease.granted_ns)
    assert [True, False] == [before, lease.is_open]


# -- the server's levels, to the unit


@pytest.mark.parametrize(("surplus", "believed"), [(80, False), (81, True)])
def test_a_hundredth_of_the_limit_given_back_proves_nothing_and_one_token_more_does(
    surplus: int, believed: bool
) -> None:
    budget = Budget(Limits(tpm=8_000))
    spend(budget, TokenCost(4_000))
    probe = leased(budget, TokenCost(10))
    budget.settle(probe, TokenCost(10), TokenCost(10), NOW)

    budget.observe(probe, [RateHeader("TPM", 8_000, 8_000 - 4_000 + surplus)], NOW)

    assert believed == budget.refunds_unused


@pytest.mark.parametrize(("surplus", "believed"), [(60 + 2 * 500, False), (60 + 2 * 500 + 1, True)])
def test_what_drains_while_the_slowest_answer_is_under_way_proves_nothing_once_for_each_start_from_zero(
    surplus: int, believed: bool
) -> None:
    """
    5 s of 6,000 a minute are 500 tokens; the level began from zero twice, before the first and before this lease.
    """
    budget = Budget(Limits(tpm=6_000))
    slow = leased(budget, TokenCost(4_000), NOW - 5 * SECOND)
    budget.settle(slow, TokenCost(4_000), TokenCost(4_000), NOW)
    for _ in range(3):
        spend(budget, TokenCost(1))
    probe = leased(budget, TokenCost(7))
    budget.settle(probe, TokenCost(7), TokenCost(7), NOW)

    budget.observe(probe, [RateHeader("TPM", 6_000, 6_000 - 4_003 + surplus)], NOW)

    assert believed == budget.refunds_unused


def test_a_server_once_seen_to_give_allowance_back_is_believed_for_good() -> None:
    budget = Budget(Limits(tpm=8_000))
    budget.assume_refunds()
    lease = leased(budget, TokenCost(100, 900))
    budget.settle(lease, TokenCost(100, 900), TokenCost(100, 20), NOW)

    budget.observe(lease, [RateHeader("TPM", 8_000, 7_880)], NOW)

    assert budget.refunds_unused
    assert 120 == used(budget, "TPM")
    assert isinstance(budget.lease(TokenCost(7_880), NOW), Lease)


def test_which_level_is_believed_decides_what_passes_what_blocks_and_what_is_shown() -> None:
    seen = []
    for believes in (False, True):
        budget = Budget(Limits(tpm=1_000))
        lease = leased(budget, TokenCost(100, 800))
        budget.settle(lease, TokenCost(100, 800), TokenCost(100, 200), NOW)
        if believes:
            budget.assume_refunds()
        refused = blocked(budget, TokenCost(1_000))
        forecast = budget.forecast(0, TokenCost(0), TokenCost(700), 0.0, 0, NOW)
        seen.append(
            (used(budget, "TPM"), refused.used, refused.wait_ns, forecast, budget.blocks(TokenCost(700), NOW) is None)
        )

    assert (900, 900, 54 * SECOND, 36 * SECOND, False) == seen[0]
    assert (300, 300, 18 * SECOND, 0, True) == seen[1]


def test_allowance_is_expected_back_while_headers_show_that_a_quarter_of_it_came_back() -> None:
    expected = []
    for surplus in (26, 25, 24):
        budget = Budget(Limits(tpm=8_000))
        lease = leased(budget, TokenCost(100, 103))
        budget.settle(lease, TokenCost(100, 103), TokenCost(100, 0), NOW)
        probe = leased(budget, TokenCost(1))
        budget.settle(probe, TokenCost(1), TokenCost(1), NOW)
        budget.observe(probe, [RateHeader("TPM", 8_000, 8_000 - 203 + surplus)], NOW)
        assert not budget.refunds_unused
        expected.append(budget.expects_refunds)

    assert [True, False, False] == expected


def test_allowance_is_expected_back_where_no_limit_of_tokens_is_known_or_where_it_was_seen() -> None:
    unknown, known, seen = Budget(Limits(rpm=5)), Budget(Limits(tpm=1_000)), Budget(Limits(tpm=1_000))
    for budget in (unknown, known, seen):
        lease = leased(budget, TokenCost(1, 100))
        budget.settle(lease, TokenCost(1, 100), TokenCost(1, 0), NOW)
    seen.assume_refunds()

    assert [True, False, True] == [budget.expects_refunds for budget in (unknown, known, seen)]


def test_an_answer_larger_than_its_request_gives_nothing_back() -> None:
    budget = Budget(Limits(tpm=8_000))
    one, two = leased(budget, TokenCost(100, 0)), leased(budget, TokenCost(100, 100))
    budget.settle(one, TokenCost(100, 0), TokenCost(100, 500), NOW)
    budget.settle(two, TokenCost(100, 100), TokenCost(100, 60), NOW)
    probe = leased(budget, TokenCost(1))
    budget.settle(probe, TokenCost(1), TokenCost(1), NOW)

    budget.observe(probe, [RateHeader("TPM", 8_000, 8_000 - 800 + 11)], NOW)

    assert budget.expects_refunds  # 11 of 40 came back, not of 40 - 500


def test_a_server_may_lower_our_level_unless_the_users_limit_is_smaller() -> None:
    budget = Budget(Limits(tpm=4_000))

    assert [True, True, False] == [budget.may_be_lowered("TPM", told) for told in (3_999, 4_000, 4_001)]
    assert budget.may_be_lowered("RPD", 10**9)


def test_headers_of_several_limits_are_each_taken_to_their_own_bucket() -> None:
    budget = Budget(Limits(tpm=8_000, rpd=100))
    lease = leased(budget, TokenCost(100))
    budget.settle(lease, TokenCost(100), TokenCost(100), NOW)

    budget.observe(
        lease, [RateHeader("RPD", 100, 40), RateHeader("TPM", 8_000, 5_000), RateHeader("ASPH", 50, 45)], NOW
    )

    assert (60, 3_000, 5) == (used(budget, "RPD"), used(budget, "TPM"), used(budget, "ASPH"))


def test_a_refusal_fills_the_bucket_as_the_server_said_less_what_drained_since_the_grant() -> None:
    budget = Budget(Limits(tpm=6_000))
    lease = leased(budget, TokenCost(500), NOW - 3 * SECOND)

    budget.refused(lease, Refusal(False, "TPM", 6_000, 5_800, 500, 3 * SECOND), 3 * SECOND, NOW)

    assert 5_800 - 300 == used(budget, "TPM")


def test_a_refusal_without_its_level_tells_the_limit_alone() -> None:
    budget = Budget(None)

    notices = budget.refused(leased(budget, TokenCost(500)), Refusal(True, "OTPM", 1_000, None, 1_329, None), 0, NOW)

    assert [] == notices
    assert [("OTPM", 0, 1_000)] == [level[:3] for level in budget.levels(NOW)]


def test_the_hold_is_named_by_the_refusal_that_lasts_longest() -> None:
    budget = Budget(Limits())
    leases = [leased(budget, TokenCost(1)) for _ in range(3)]
    for lease, dimension, wait_s in zip(leases, ("TPM", "TPD", "RPM"), (5, 9, 9), strict=True):
        budget.refused(lease, Refusal(False, dimension, None, None, None, None), wait_s * SECOND, NOW)

    assert Blocked("hold", 9 * SECOND, "TPD") == budget.lease(TokenCost(1), NOW)


def test_a_refusal_without_numbers_slows_down_and_one_with_them_does_not() -> None:
    rates = []
    for refusal in (None, Refusal(False, "TPM", None, None, None, None)):
        budget = Budget(Limits())
        for n in range(32):
            lease = leased(budget, TokenCost(1), NOW + n * SECOND // 31)
        budget.refused(lease, refusal, 0, NOW + SECOND)
        rates.append(budget.pace.rate)

    assert [pytest.approx(31 * 0.7), None] == rates


def test_a_refusal_at_the_end_of_a_hold_slows_down_again() -> None:
    budget = Budget(Limits(), random.Random(1))
    leases = [leased(budget, TokenCost(1), NOW + n * SECOND // 31) for n in range(32)]
    rates = []
    for lease, after_ns in zip(leases, (0, SECOND - 1, 2 * SECOND - 1), strict=False):
        budget.refused(lease, None, SECOND, NOW + SECOND + after_ns)
        rates.append(budget.pace.rate)

    assert [31 * 0.7, 31 * 0.7, 31 * 0.7 * 0.7] == pytest.approx(rates)


def test_an_answer_ends_a_row_of_failures() -> None:
    budget = Budget(Limits())
    lease = leased(budget, TokenCost(1))
    for _ in range(4):
        budget.pace.failed(NOW)

    budget.observe(lease, [], NOW)
    budget.pace.failed(NOW)

    assert budget.pace.rate is None


# -- a limit that nobody named


def met_a_limit(refusal: Refusal | None = None) -> Budget:
    """A budget of which one attempt was refused without a wait."""
    budget = Budget(Limits())
    budget.refused(leased(budget, TokenCost(1), NOW - 2 * SECOND), refusal, 0, NOW - SECOND)
    return budget


@pytest.mark.parametrize("refusal", [None, Refusal(False, "TPM", 100, None, None, None)])
def test_after_a_refusal_without_a_wait_one_attempt_goes_first_and_the_others_a_second_later(
    refusal: Refusal | None,
) -> None:
    budget = met_a_limit(refusal)
    leased(budget, TokenCost(1))

    assert Blocked("learning", SECOND) == budget.lease(TokenCost(1), NOW) == budget.blocks(TokenCost(1), NOW)
    assert Blocked("learning", 1) == budget.lease(TokenCost(1), NOW + SECOND - 1)
    assert all(isinstance(budget.lease(TokenCost(1), NOW + SECOND), Lease) for _ in range(3))
    assert isinstance(budget.lease(TokenCost(1), NOW + SECOND), Lease)


def test_an_answer_to_the_one_that_went_first_lets_the_others_go() -> None:
    budget = met_a_limit()
    probe = leased(budget, TokenCost(1))
    budget.settle(probe, TokenCost(1), TokenCost(1), NOW)

    budget.observe(probe, [], NOW)

    assert all(isinstance(budget.lease(TokenCost(1), NOW), Lease) for _ in range(3))


def test_an_answer_to_another_does_not() -> None:
    budget = Budget(Limits())
    one, two = leased(budget, TokenCost(1)), leased(budget, TokenCost(1))
    budget.refused(one, None, 0, NOW)
    leased(budget, TokenCost(1))
    budget.settle(two, TokenCost(1), TokenCost(1), NOW)

    budget.observe(two, [], NOW)

    assert Blocked("learning", SECOND) == budget.lease(TokenCost(1), NOW)


def test_if_the_one_that_went_first_ended_without_an_answer_another_goes_first() -> None:
    budget = met_a_limit()
    budget.refund(leased(budget, TokenCost(1)))

    leased(budget, TokenCost(1), NOW + 5)

    assert Blocked("learning", SECOND) == budget.lease(TokenCost(1), NOW + 5)


def test_a_refusal_that_names_its_wait_lets_all_go_after_it() -> None:
    budget = met_a_limit()

    budget.refused(leased(budget, TokenCost(1)), Refusal(False, "", None, None, None, SECOND), SECOND, NOW)

    assert all(isinstance(budget.lease(TokenCost(1), NOW + SECOND), Lease) for _ in range(3))


def test_a_server_that_fails_may_hold_everybody_and_does_not_shorten_a_longer_hold() -> None:
    budget = Budget(Limits())
    refusal = Refusal(False, "TPD", None, None, None, 9 * SECOND)
    budget.refused(leased(budget, TokenCost(1)), refusal, 9 * SECOND, NOW)

    holds = []
    for wait_s in (5, 9, 11):
        budget.pause(wait_s * SECOND, NOW)
        holds.append(budget.lease(TokenCost(1), NOW))

    assert [*[Blocked("hold", 9 * SECOND, "TPD")] * 2, Blocked("hold", 11 * SECOND)] == holds


# -- while the limit of tokens is unknown


def test_a_thousand_tokens_may_go_with_the_probe_and_not_one_more() -> None:
    budget = Budget(Limits(rpm=100))
    leased(budget, TokenCost(300, 200))

    assert "learning" == blocked(budget, TokenCost(300, 201)).reason
    leased(budget, TokenCost(300, 200))
    assert "learning" == blocked(budget, TokenCost(0, 1)).reason


# -- what is foretold


def test_those_ahead_count_against_each_limit_in_its_own_units() -> None:
    ahead, cost = TokenCost(100, 40, 5), TokenCost(10, 20, 5)
    units = {"rpm": 8, "rpd": 8, "tpm": 170, "tpd": 170, "itpm": 110, "otpm": 60, "audio_hour": 10, "audio_day": 10}

    for field, fits in units.items():
        enough = Budget(Limits(**{field: fits}))  # type: ignore[arg-type]
        short = Budget(Limits(**{field: fits - 1}))  # type: ignore[arg-type]
        assert 0 == enough.forecast(7, ahead, cost, 0.0, 0, NOW), field
        assert 0 < short.forecast(7, ahead, cost, 0.0, 0, NOW), field


def test_what_attempts_hold_in_excess_while_they_are_under_way_is_foretold_too() -> None:
    """
    Ten seconds of 6,000 a minute are 1,000 tokens under way, which hold half as much again; no request does.
    """
    budget = Budget(Limits(tpm=6_000, rpm=6))

    forecasts = [
        budget.forecast(5, TokenCost(5_000), TokenCost(700), 0.5, flight_s * SECOND, NOW) for flight_s in (0, 6, 10)
    ]

    assert [0, 0, 2 * SECOND] == forecasts


def test_the_longest_of_all_waits_is_foretold() -> None:
    budget = Budget(Limits(tpm=60, rpm=60))
    spend(budget, TokenCost(60))
    assert 10 * SECOND == budget.forecast(0, TokenCost(0), TokenCost(10), 0.0, 0, NOW)

    budget.refused(leased(budget, TokenCost(0)), None, 7 * SECOND, NOW)

    assert [10 * SECOND, 7 * SECOND] == [budget.forecast(0, TokenCost(0), TokenCost(n), 0.0, 0, NOW) for n in (10, 7)]
    assert 9 * SECOND == budget.forecast(0, TokenCost(4), TokenCost(5), 0.0, 0, NOW)


# -- an earlier life


def test_what_was_in_use_in_an_earlier_life_has_drained_since() -> None:
    budget = Budget(Limits(tpm=6_000))

    budget.begin("TPM", 6_000, 60 * SECOND, 5_000, 20 * SECOND, NOW)

    assert 3_000 == used(budget, "TPM")
    assert 10 * SECOND == blocked(budget, TokenCost(4_000)).wait_ns


def test_a_single_unit_of_an_earlier_life_counts() -> None:
    budget = Budget(Limits(rpm=30))

    budget.begin("RPM", 30, 60 * SECOND, 1, 0, NOW)

    assert 1 == used(budget, "RPM")


def test_what_was_in_use_just_now_is_in_use_however_large_the_limit() -> None:
    budget = Budget(Limits(tpm=10**15 - 1))

    budget.begin("TPM", 10**15 - 1, 60 * SECOND, 5_000, 0, NOW)

    assert 5_000 == used(budget, "TPM")


@pytest.mark.parametrize(("age_ns", "left"), [(-5 * SECOND, 5_000), (0, 5_000), (50 * SECOND, 0), (10**20, 0)])
def test_an_earlier_life_lies_behind_and_leaves_no_credit(age_ns: int, left: int) -> None:
    budget = Budget(Limits(tpm=6_000))

    budget.begin("TPM", 6_000, 60 * SECOND, 5_000, age_ns, NOW)

    assert left == used(budget, "TPM")


def test_an_earlier_life_drained_by_its_own_limit_and_period() -> None:
    budget = Budget(Limits(tpm=6_000))

    budget.begin("TPM", 600, 6 * SECOND, 500, 2 * SECOND, NOW)

    assert 300 == used(budget, "TPM")


def test_the_level_of_a_limit_nobody_knows_yet_waits_until_somebody_names_it() -> None:
    budget = Budget(Limits(rpm=5))
    budget.begin("TPD", 100_000, 86_400 * SECOND, 40_000, 0, NOW)
    budget.begin("TPD", 100_000, 86_400 * SECOND, 30_000, 0, NOW)
    before = list(budget.capacities())

    budget.set_limits(Limits(rpm=5, tpd=200_000), NOW)

    assert ["RPM"] == before
    assert [("RPM", 0, 5, 60), ("TPD", 40_000, 200_000, 86_400)] == budget.levels(NOW)


def test_a_level_that_has_drained_makes_no_bucket() -> None:
    budget = Budget(Limits(rpm=5))

    budget.begin("TPM", 600, 60 * SECOND, 600, 60 * SECOND, NOW)
    budget.set_limits(Limits(rpm=5, tpm=1_000, minute_s=7), NOW)

    assert 7 == next(level.period_s for level in budget.levels(NOW) if level.dimension == "TPM")


# -- the length of a minute, to the unit


def told(used_: int, reset_s: float, limit_: int = 6_000, limits: Limits | None = None) -> float:
    """Return the minute that one header tells."""
    budget = Budget(limits)
    probe = leased(budget, TokenCost(used_))
    budget.settle(probe, TokenCost(used_), TokenCost(used_), NOW)
    budget.observe(probe, [RateHeader("TPM", limit_, limit_ - used_, round(reset_s * SECOND))], NOW)
    return next(level.period_s for level in budget.levels(NOW) if level.dimension == "TPM")


def test_fewer_than_a_hundred_units_tell_no_minute_and_a_hundred_do() -> None:
    assert 60 == told(99, 0.165)
    assert 0.165 * 6_000 / 99 == pytest.approx(told(100, 0.165), rel=1e-9)


@pytest.mark.parametrize(
    ("minute_s", "taken"), [(58.3, 60), (61.7, 60), (58.1, 58.1), (61.9, 61.9), (120, 120), (30, 30)]
)
def test_a_minute_within_three_hundredths_of_sixty_seconds_is_one(minute_s: float, taken: float) -> None:
    assert taken == pytest.approx(told(3_001, minute_s / 2), rel=1e-9)


def test_a_minute_is_never_taken_for_shorter_than_it_is() -> None:
    """
    The units in use were rounded up by less than one.
    """
    for used_ in (101, 500, 5_999):
        for true_units in (used_ - 0.999, used_):
            assert 10 <= told(used_, 10 * true_units / 6_000) * (1 + 1e-9)


@pytest.mark.parametrize(("minute_s", "is_taken"), [(0.0009, False), (0.0012, True), (0.9e9, True), (1.1e9, False)])
def test_a_minute_of_less_than_a_millisecond_or_more_than_thirty_years_is_none(minute_s: float, is_taken: bool) -> None:
    assert is_taken == (60 != told(6_000, minute_s))


@pytest.mark.parametrize("minute_s", [0.001, 1e9])
def test_a_minute_may_be_just_a_millisecond_or_thirty_years(minute_s: float) -> None:
    assert minute_s == told(501, minute_s / 2, 1_000)
    assert 60 == told(501, 0.000_499_999, 1_000) == told(501, (10**9 + 1) / 2, 1_000)


@pytest.mark.parametrize("limits", [Limits(), Limits(rpm=5), Limits(tpm=6_000)])
def test_whoever_set_limits_has_set_their_minute_too(limits: Limits) -> None:
    assert 60 == told(3_000, 5.0, limits=limits)


def test_a_header_without_a_reset_or_with_none_to_wait_tells_no_minute() -> None:
    budget = Budget(None)
    probe = leased(budget, TokenCost(3_000))
    budget.settle(probe, TokenCost(3_000), TokenCost(3_000), NOW)

    for reset_ns in (None, 0):
        budget.observe(probe, [RateHeader("TPM", 6_000, 3_000, reset_ns)], NOW)

    assert 60 == budget.levels(NOW)[0].period_s


def test_only_more_units_than_before_tell_a_better_minute() -> None:
    budget = Budget(None)
    minutes = []
    for used_, minute_s in ((1_001, 10), (1_001, 20), (1_000, 20), (1_002, 30), (6_000, 60)):
        lease = leased(budget, TokenCost(1))
        budget.settle(lease, TokenCost(1), TokenCost(1), NOW)
        reset_ns = round(minute_s * SECOND * (used_ - 1) / 6_000)
        budget.observe(lease, [RateHeader("TPM", 6_000, 6_000 - used_, reset_ns)], NOW)
        minutes.append(round(budget.levels(NOW)[0].period_s, 6))

    assert [10, 10, 10, 30, 60] == minutes


def test_the_minute_that_was_read_holds_for_every_limit_of_a_minute_and_for_no_other() -> None:
    budget = Budget(None)
    probe = leased(budget, TokenCost(3_001))
    budget.settle(probe, TokenCost(3_001), TokenCost(3_001), NOW)
    headers = [RateHeader("RPD", 100, 50), RateHeader("RPM", 30, 20), RateHeader("TPM", 6_000, 2_999, 5 * SECOND)]
    budget.observe(probe, headers, NOW)
    budget.refused(leased(budget, TokenCost(1)), Refusal(False, "OTPM", 30, 30, 1, 0), 0, NOW)

    periods = {level.dimension: level.period_s for level in budget.levels(NOW)}

    assert {"RPD": 86_400, "RPM": 10, "TPM": 10, "OTPM": 10} == periods


@pytest.mark.parametrize("dimension", ["TPM", "ITPM", "OTPM"])
def test_a_refusal_by_any_limit_of_tokens_a_minute_tells_its_length(dimension: str) -> None:
    budget = Budget(None)
    refusal = Refusal(False, dimension, 6_000, 5_901, 1_100, round(10 * SECOND * 1_000 / 6_000))

    budget.refused(leased(budget, TokenCost(1_100)), refusal, SECOND, NOW)

    assert 10 == pytest.approx(budget.levels(NOW)[0].period_s, rel=1e-9)


@pytest.mark.parametrize("dimension", ["RPM", "TPD"])
def test_a_refusal_by_another_limit_tells_no_minute(dimension: str) -> None:
    budget = Budget(None)

    later_ns = NOW + 10**6 * SECOND

    budget.refused(leased(budget, TokenCost(1)), Refusal(False, dimension, 6_000, 6_000, 1_000, SECOND), SECOND, NOW)
    lease = leased(budget, TokenCost(1), later_ns)
    budget.refused(lease, Refusal(False, "TPM", 6_000, 0, None, None), 0, later_ns)

    assert 60 == next(level.period_s for level in budget.levels(NOW) if level.dimension == "TPM")
