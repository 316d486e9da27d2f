"""What a failed attempt means."""

from __future__ import annotations

import random
from typing import Any

import pytest

from groq_queue.core.headers import Refusal
from groq_queue.core.retry import LaneHealth, Meaning, RetryPolicy, meaning_of

REACHED = (
    "Rate limit reached for model `m` in organization `o` service tier `on_demand` on tokens per minute (TPM): "
    "Limit 6000, Used 5914, Requested 239. Please try again in 1.53s. Need more tokens? Upgrade to Dev Tier today at "
    "https://console.groq.com/settings/billing"
)
TOO_LARGE = (
    "Request too large for model `m` in organization `o` on output tokens per minute (OTPM): Limit 1000, "
    "Requested 1329. The request's expected output tokens exceed the limit."
)


def body(message: str = "", code: object = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": code}}


@pytest.mark.parametrize("status", [409, 425, 498, 503, 521, 522, 523, 525, 526, 529, 530])
def test_a_passing_fault_before_any_work_is_tried_again(status: int) -> None:
    assert (Meaning.RETRY, None) == meaning_of(status, body("is currently over capacity"))
    assert (Meaning.RETRY, None) == meaning_of(status, "<html>bad gateway</html>")


@pytest.mark.parametrize("status", [301, 302, 307, 400, 402, 403, 404, 405, 413, 422, 424, 499, 501, 505, 600, 999])
def test_a_lasting_fault_is_final(status: int) -> None:
    meaning, _ = meaning_of(status, body("no"))

    assert Meaning.FINAL is meaning


@pytest.mark.parametrize("shape", [body(REACHED), {"error": REACHED}, {"message": REACHED}, REACHED])
def test_a_refusal_of_the_limiter_is_no_failure_and_brings_its_numbers(shape: object) -> None:
    assert (Meaning.REFUSED, Refusal(False, "TPM", 6_000, 5_914, 239, 1_530_000_000)) == meaning_of(429, shape)


@pytest.mark.parametrize("shape", [None, "", {}, [], body(""), body("slow down"), {"error": None}, 5])
def test_a_429_without_a_sentence_is_a_refusal_without_numbers(shape: object) -> None:
    assert (Meaning.REFUSED, None) == meaning_of(429, shape)


@pytest.mark.parametrize("status", [413, 429])
def test_a_request_too_large_is_final_with_either_status(status: int) -> None:
    assert (Meaning.FINAL, Refusal(True, "OTPM", 1_000, None, 1_329, None)) == meaning_of(status, body(TOO_LARGE))


def test_only_413_and_429_are_read_as_refusals() -> None:
    assert (Meaning.RETRY, None) == meaning_of(503, body(REACHED))
    assert (Meaning.FINAL, None) == meaning_of(400, body(TOO_LARGE))


@pytest.mark.parametrize(
    ("status", "shape"),
    [
        (401, body("Invalid API Key", "invalid_api_key")),
        (401, None),
        (401, "unauthorized"),
        (400, body("spend limit", "blocked_api_access")),
        (429, body(REACHED, "blocked_api_access")),
        (400, body("x", "spend_limit_reached")),
        (403, body("x", "spend_alert_block")),
        (400, body("x", "organization_restricted")),
        (403, body("x", "organization_restricted")),
        (403, body("x", "invalid_api_key")),
    ],
)
def test_a_fault_of_the_key_or_its_owner_stops_everything(status: int, shape: object) -> None:
    assert (Meaning.STOP, None) == meaning_of(status, shape)


@pytest.mark.parametrize(
    ("status", "shape"),
    [
        (403, body("Access denied. Please check your network settings.")),
        (403, "error code: 1010"),
        (403, body("x", "model_permission_blocked_org")),
        (404, body("x", "model_not_found")),
        (400, body("x", "model_decommissioned")),
        (400, body("x", "tool_use_failed")),
        (400, body("x", 17)),
        (400, body("x", ["invalid_api_key"])),
        (422, body("x", "spend_something")),
        (404, body("x", "spend_something")),
        (400, body("x", "overspend_limit")),
        (400, {"error": "spend_limit"}),
        (400, {"error": ["invalid_api_key"]}),
        (400, {"code": "invalid_api_key"}),
    ],
)
def test_a_fault_of_one_model_or_request_stops_only_that(status: int, shape: object) -> None:
    assert (Meaning.FINAL, None) == meaning_of(status, shape)


@pytest.mark.parametrize(
    "status", [408, 500, 502, 504, *range(506, 521), 524, 527, 528, *range(531, 541), 561, 598, 599]
)
def test_any_other_5xx_is_tried_again_although_the_work_may_have_been_done(status: int) -> None:
    """
    Proxies invent codes, so it is a rule and no list.
    """
    assert (Meaning.UNSURE, None) == meaning_of(status, body("the upstream took too long"))
    assert (Meaning.UNSURE, None) == meaning_of(status, "<html>gateway timeout</html>")


# -- policy


def test_retries_are_counted_after_the_first_attempt() -> None:
    policy = RetryPolicy(max_retries=2)

    assert [True, True, False, False] == [policy.may_retry(retries) for retries in range(4)]
    assert not RetryPolicy(max_retries=0).may_retry(0)


def test_what_may_have_been_billed_is_sent_again_only_so_often() -> None:
    policy = RetryPolicy(max_retries=5, max_unknown=2)

    assert [2, 1, 0] == [policy.left(retries, retries) for retries in range(3)]
    assert [5, 4, 3, 0] == [policy.left(retries) for retries in (0, 1, 2, 5)]
    assert 1 == policy.left(4, 0), "the retries are a bound as well"


@pytest.mark.parametrize(("retries", "bound_s"), [(0, 0.5), (1, 1), (2, 2), (5, 16), (6, 30), (7, 30), (10_000, 30)])
def test_a_backoff_is_anywhere_below_a_doubling_bound(retries: int, bound_s: float) -> None:
    """
    Full jitter: between zero and the bound, and both ends are approached.
    """
    policy, rng = RetryPolicy(), random.Random(retries)

    waits = [policy.backoff_ns(retries, rng) for _ in range(2_000)]

    assert all(isinstance(wait, int) for wait in waits)
    assert 0 <= min(waits) < bound_s * 1e9 * 0.01
    assert bound_s * 1e9 * 0.99 < max(waits) <= bound_s * 1e9


class Lowest(random.Random):
    """Rolls the start of every range."""

    def uniform(self, a: float, b: float) -> float:
        return a


class Highest(random.Random):
    """Rolls the end of every range."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_the_bound_of_a_backoff_doubles_from_its_base_up_to_its_cap() -> None:
    policy = RetryPolicy(base_s=1, cap_s=5)

    bounds = [policy.backoff_ns(retries, Highest()) for retries in (0, 1, 2, 3, 4, 100_000)]

    assert [second * 1_000_000_000 for second in (1, 2, 4, 5, 5, 5)] == bounds


def test_a_cap_of_years_is_reached_too() -> None:
    policy = RetryPolicy(base_s=1, cap_s=1e12)

    bounds = [policy.backoff_ns(retries, Highest()) for retries in (29, 30, 31)]

    assert [2**29 * 1_000_000_000, 2**30 * 1_000_000_000, 2**30 * 1_000_000_000] == bounds


def test_the_same_dice_give_the_same_backoff_and_others_another() -> None:
    policy = RetryPolicy(base_s=1, cap_s=4)

    one, again, other = (policy.backoff_ns(1, random.Random(seed)) for seed in (7, 7, 8))

    assert one == again
    assert one != other


def test_a_request_that_is_always_refused_with_a_wait_may_ask_ten_times_for_each_retry() -> None:
    policy = RetryPolicy(max_retries=2)

    assert [True, True, False, False] == [policy.may_ask_again(refusals) for refusals in (0, 19, 20, 21)]
    assert [True, False] == [RetryPolicy(max_retries=3, refusals_per_retry=2).may_ask_again(n) for n in (5, 6)]
    assert not RetryPolicy(max_retries=0).may_ask_again(0)


def test_unless_told_otherwise_there_are_five_retries_and_two_after_an_answer_was_lost() -> None:
    policy = RetryPolicy()

    assert [True, False] == [policy.may_retry(retries) for retries in (4, 5)]
    assert [True, False] == [policy.may_ask_again(refusals) for refusals in (49, 50)]
    assert [1, 0] == [policy.left(0, before) for before in (1, 2)]


# -- an outage


@pytest.mark.parametrize(("left", "wait_s"), [(1, 30), (2, 15), (3, 7.5), (4, 3.75), (5, 1.875)])
def test_the_last_retry_comes_when_the_longest_outage_is_over_and_each_before_it_at_half_of_that(
    left: int, wait_s: float
) -> None:
    policy = RetryPolicy()

    shortest, longest = (policy.outage_wait_ns(left, 0, rng) for rng in (Lowest(), Highest()))

    assert round(wait_s * 1e9) == shortest
    assert round(wait_s * 1.1 * 1e9) == longest


def test_the_time_since_the_first_failure_counts_and_what_has_passed_is_not_waited_for() -> None:
    policy = RetryPolicy(outage_s=10)

    waits = [policy.outage_wait_ns(1, failing_ns, Lowest()) for failing_ns in (0, 4_000_000_000, 10**10, 10**11)]

    assert [10**10, 6_000_000_000, 0, 0] == waits


@pytest.mark.parametrize(("retries", "share"), [(0, 0), (1, 1), (2, 3), (3, 7), (4, 15), (5, 31), (6, 31), (10**6, 31)])
def test_whoever_asked_for_fewer_retries_than_five_knows_sooner(retries: int, share: int) -> None:
    """
    Each one less halves it, as the waits of those that are left add up.
    """
    policy = RetryPolicy(max_retries=retries, outage_s=31)

    assert share * 1_000_000_000 == policy.outage_wait_ns(1, 0, Lowest())


# -- refusals without a wait


def test_a_lane_refused_without_a_wait_is_held_longer_each_round_and_five_rounds_outlast_a_minute() -> None:
    policy = RetryPolicy()

    holds_s = [policy.blind_hold_ns(rounds, Lowest()) / 1e9 for rounds in (1, 2, 3, 4, 5, 6, 100_000)]

    assert [1.5, 3.3, 7.26, 15.972, 35.1384, 60, 60] == pytest.approx(holds_s, rel=1e-9)
    assert 60 < sum(holds_s[:5])
    assert 1_725_000_000 == policy.blind_hold_ns(1, Highest())


def test_a_request_out_of_retries_waits_on_through_as_many_rounds_as_it_had_retries() -> None:
    assert [True, True, False] == [RetryPolicy(max_retries=2).may_wait_longer(rounds) for rounds in (1, 2, 3)]


# -- what a lane met of late


def test_what_was_sent_before_the_first_refusal_of_a_round_belongs_to_it() -> None:
    health = LaneHealth()

    begins = [health.refused(sent_ns, now_ns) for sent_ns, now_ns in ((10, 100), (20, 110), (100, 120), (101, 130))]

    assert [True, False, False, True] == begins
    assert 2 == health.rounds


def test_a_round_lasts_from_its_first_refusal_and_not_from_its_last() -> None:
    health = LaneHealth()

    begins = [health.refused(sent_ns, now_ns) for sent_ns, now_ns in ((10, 100), (20, 500), (101, 600))]

    assert [True, False, True] == begins


@pytest.mark.parametrize(("sent_ns", "rounds"), [(99, 1), (100, 1), (101, 0)])
def test_only_an_answer_to_what_was_sent_after_a_round_ends_the_row(sent_ns: int, rounds: int) -> None:
    health = LaneHealth()
    health.refused(10, 100)

    health.answered(sent_ns, 200)

    assert rounds == health.rounds


def test_a_fresh_lane_has_met_nothing() -> None:
    health = LaneHealth()

    assert (0, None) == (health.rounds, health.answered_ns)
    assert not health.has_answered_since(0)
    assert not health.has_overtaken(0)
    health.answered(5, 10)
    assert 0 == health.rounds


def test_an_answer_counts_from_the_instant_after_it() -> None:
    health = LaneHealth()
    health.answered(5, 10)
    health.answered(1, 20)

    assert [True, True, False] == [health.has_answered_since(instant_ns) for instant_ns in (10, 19, 20)]
    assert 20 == health.answered_ns


def test_whoever_was_sent_before_the_newest_that_was_answered_was_overtaken() -> None:
    health = LaneHealth()
    for sent_ns in (5, 9, 7):
        health.answered(sent_ns, 20)

    assert [True, True, False, False] == [health.has_overtaken(sent_ns) for sent_ns in (4, 8, 9, 10)]


def test_a_wait_that_did_not_help_grows_to_a_minute_or_to_a_second_if_it_came_with_figures() -> None:
    """
    With figures it may be true: another program was faster each time, and a long wait would leave everything to it.
    """
    policy = RetryPolicy()

    plain, figured = ([policy.least_hold_ns(n, has_figures=has) / 1e9 for n in range(2, 15)] for has in (False, True))

    assert [0.04, 0.08, 0.16] == plain[:3] == figured[:3]
    assert (60.0, 1.0) == (plain[-1], figured[-1])
    assert sorted(plain) == plain
