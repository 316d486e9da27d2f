"""How fast a lane sends while something is wrong."""

from __future__ import annotations

import random

import pytest

from groq_queue.core.adaptive_rate import AdaptiveRate
from groq_queue.core.budget import Budget, Lease
from groq_queue.core.limits import Limits
from groq_queue.core.token_estimate import TokenCost

SECOND = 1_000_000_000
NOW = 1_000 * SECOND


class Dice(random.Random):
    """Rolls the same place of every range: 0.0 is its start, 1.0 its end."""

    def __init__(self, place: float) -> None:
        super().__init__()
        self.place = place

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.place


def sent(pace: AdaptiveRate, now_ns: int) -> None:
    pace.sends_ns.append(now_ns)
    pace.sent(now_ns)


def certain(rate: int = 100, place: float = 1.0, sends: int = 32) -> AdaptiveRate:
    """A pace without chance that has seen *sends* attempts at *rate* a second, the last one now."""
    pace = AdaptiveRate(Dice(place))
    for n in range(sends):
        sent(pace, NOW - (sends - 1 - n) * SECOND // rate)
    return pace


def failed(pace: AdaptiveRate, times: int = 5, now_ns: int = NOW) -> AdaptiveRate:
    for _ in range(times):
        pace.failed(now_ns)
    return pace


def answered(pace: AdaptiveRate, times: int = 1) -> AdaptiveRate:
    for _ in range(times):
        pace.answered()
    return pace


def warm(rate: int = 100) -> AdaptiveRate:
    """A pace that has seen *rate* attempts a second."""
    pace = AdaptiveRate(random.Random(1))
    for n in range(32):
        sent(pace, NOW + n * SECOND // rate)
    return pace


def test_a_lane_is_open_until_something_is_wrong():
    pace = warm()

    assert 0 == pace.wait_ns(NOW)
    assert 0 == pace.retry_spacing_ns(1_000)


def test_four_failures_in_a_row_change_nothing_and_an_answer_forgets_them():
    pace = warm()

    for _ in range(10):
        for _ in range(4):
            pace.failed(NOW)
        pace.answered()

    assert 0 == pace.wait_ns(NOW)


def test_failures_in_a_row_slow_down_to_one_attempt_per_second():
    pace = warm()

    for _ in range(20):
        pace.failed(NOW)
    sent(pace, NOW)

    assert SECOND <= pace.wait_ns(NOW) <= 3 * SECOND


def test_answers_speed_up_step_by_step_until_the_lane_is_open_again():
    """
    0.7 attempts a second more with each answer: at r answers a second the pace doubles every second.
    """
    pace = warm()
    for _ in range(20):
        pace.failed(NOW)

    gaps = []
    for _ in range(30):
        pace.answered()
        gaps.append(pace.retry_spacing_ns(1))
    answers = 30
    while pace.retry_spacing_ns(1):
        pace.answered()
        answers += 1

    assert gaps[0] > 0.25 * SECOND
    assert gaps[-1] < 0.06 * SECOND
    assert 1_400 <= answers <= 1_450


def test_a_failed_request_makes_way_for_others_while_the_lane_is_slow():
    pace = warm()
    for _ in range(20):
        pace.failed(NOW)

    assert 0 == pace.retry_spacing_ns(0)
    assert 5 * SECOND <= pace.retry_spacing_ns(10) <= 10 * SECOND
    assert 15 * SECOND <= pace.retry_spacing_ns(10_000) <= 30 * SECOND


def test_a_refusal_without_numbers_slows_to_seven_tenths_and_creeps_up_again():
    pace = warm(rate=100)

    pace.refused(NOW)
    sent(pace, NOW + SECOND)
    gap_ns = pace.wait_ns(NOW + SECOND)
    for _ in range(70):
        pace.answered()
    sent(pace, NOW + 2 * SECOND)

    assert SECOND / 70 * 0.7 <= gap_ns <= SECOND / 70 * 1.3
    assert 0 < pace.wait_ns(NOW + 2 * SECOND) < SECOND / 70 * 1.25


def test_refusals_of_attempts_already_under_way_slow_down_once():
    budget = Budget(Limits())
    leases = [budget.lease(TokenCost(1), NOW + n * SECOND // 100) for n in range(32)]
    assert all(isinstance(lease, Lease) for lease in leases)

    for lease in leases:
        budget.refused(lease, None, 5 * SECOND, NOW + SECOND)

    later = NOW + 7 * SECOND
    probe = budget.lease(TokenCost(1), later)
    assert isinstance(probe, Lease)
    budget.settle(probe, TokenCost(1), TokenCost(1), later)
    budget.observe(probe, (), later)
    budget.lease(TokenCost(1), later + SECOND)
    later += SECOND
    assert budget.blocks(TokenCost(1), later).wait_ns <= SECOND / 70 * 1.3


# -- an outage, step by step and without chance


def test_the_fifth_failure_in_a_row_halves_the_pace_and_so_does_each_further_one():
    pace = failed(certain(rate=100), 4)
    rates = [pace.rate]
    for _ in range(8):
        pace.failed(NOW)
        rates.append(pace.rate)

    assert [None, 50, 25, 12.5, 6.25, 3.125, 1.5625, 1, 1] == rates


def test_an_answer_between_failures_starts_the_count_anew_at_any_pace():
    pace = answered(failed(certain(rate=100)))
    before = pace.rate

    failed(pace, 4)

    assert 50.7 == before == pace.rate
    assert 25.35 == failed(pace, 1).rate


@pytest.mark.parametrize(("place", "wait_ns"), [(0.0, SECOND // 100), (1.0, SECOND // 50)])
def test_after_a_failure_the_lane_is_still_for_half_a_gap_to_a_whole_one(place, wait_ns):
    pace = failed(certain(rate=100, place=place))

    assert wait_ns == pace.wait_ns(NOW)
    assert wait_ns - 5 == pace.wait_ns(NOW + 5)
    assert 0 == pace.wait_ns(NOW + wait_ns + 5)


@pytest.mark.parametrize(("place", "gap"), [(0.0, 0.8), (1.0, 1.2)])
def test_attempts_keep_a_distance_of_eight_to_twelve_tenths_of_the_gap(place, gap):
    pace = failed(certain(rate=100, place=place))
    start_ns = NOW + pace.wait_ns(NOW)

    sent(pace, NOW)
    one = pace.wait_ns(start_ns)
    sent(pace, NOW)
    two = pace.wait_ns(start_ns)
    later_ns = NOW + 60 * SECOND
    sent(pace, later_ns)

    assert [round(n * gap * SECOND / 50) for n in (1, 2, 1)] == [one, two, pace.wait_ns(later_ns)]


def test_a_failure_does_not_shorten_a_wait_that_is_longer():
    pace = failed(certain(rate=2, sends=9), 5)
    sent(pace, NOW)
    wait_ns = pace.wait_ns(NOW)

    pace.failed(NOW)

    assert 1 == pace.rate
    assert wait_ns == pace.wait_ns(NOW) == SECOND + round(1.2 * SECOND)


def test_the_pace_is_measured_over_the_last_32_attempts():
    pace = AdaptiveRate(Dice(1.0))
    for n in range(100):
        sent(pace, n * 1_000 * SECOND)
    for n in range(32):
        sent(pace, NOW + n * SECOND // 4)

    assert 2 == failed(pace).rate


@pytest.mark.parametrize(("sends_ns", "rate"), [([], 1), ([NOW], 1), ([NOW, NOW + SECOND // 8], 4), ([NOW] * 9, 500)])
def test_a_pace_that_cannot_be_told_is_the_slowest_and_none_is_above_a_thousand(sends_ns, rate):
    pace = AdaptiveRate(Dice(1.0))
    for now_ns in sends_ns:
        sent(pace, now_ns)

    assert rate == failed(pace).rate


@pytest.mark.parametrize(
    ("place", "waiting", "turn_s"),
    [(1.0, 10, 10), (0.0, 10, 5), (1.0, 30, 30), (1.0, 31, 30), (0.0, 31, 15), (1.0, 0, 0)],
)
def test_a_failed_request_stays_away_for_as_many_gaps_as_others_wait_and_half_a_minute_at_most(place, waiting, turn_s):
    pace = failed(certain(rate=100, place=place), 20)

    assert turn_s * SECOND == pace.retry_spacing_ns(waiting)


def test_at_a_higher_pace_a_turn_is_shorter():
    assert 2 * SECOND == failed(certain(rate=100)).retry_spacing_ns(100)


def test_answers_bring_seven_tenths_each_until_the_lane_is_open_and_it_forgets_the_outage():
    pace = failed(certain(rate=100), 20)

    rates = [answered(pace).rate for _ in range(1_427)]

    assert [1.7, 2.4, 3.1] == pytest.approx(rates[:3])
    assert 999.2 == pytest.approx(rates[1_425])
    assert rates[1_426] == pytest.approx(999.9)
    assert answered(pace).rate is None
    assert 0 == pace.wait_ns(NOW)
    assert answered(pace).rate is None
    assert [None, 50] == [failed(pace, 4).rate, failed(pace, 1).rate]


# -- refusals without numbers


def test_too_few_attempts_say_nothing_of_the_pace_the_server_bears():
    few, enough = certain(sends=7), certain(sends=8)
    few.refused(NOW)
    enough.refused(NOW)

    assert few.rate is None
    assert 70 == pytest.approx(enough.rate)


def test_each_refusal_takes_three_tenths_of_the_pace_and_one_attempt_a_second_is_left():
    pace = certain(rate=100)
    rates = []
    for _ in range(14):
        pace.refused(NOW)
        rates.append(pace.rate)

    assert [70, 49, 34.3] == pytest.approx(rates[:3])
    assert [100 * 0.7**12, 1, 1] == pytest.approx(rates[11:])


def test_after_a_refusal_the_pace_creeps_up_a_twentieth_for_each_interval_of_calm():
    """
    At 70 attempts a second an answer brings 0.05 of one, so a second of answers brings 3.5.
    """
    pace = certain(rate=100)
    pace.refused(NOW)

    answered(pace)

    assert 70.05 == pytest.approx(pace.rate)
    assert 73.5 == pytest.approx(answered(pace, 69).rate, rel=0.01)


def test_at_a_slow_pace_each_answer_brings_a_twentieth_of_an_attempt_a_second():
    pace = certain(rate=1)
    pace.refused(NOW)

    assert [1.05, 1.10, 1.15] == pytest.approx([answered(pace).rate for _ in range(3)])


def test_a_failure_after_a_refusal_is_made_good_quickly_up_to_what_the_server_bore():
    pace = certain(rate=100)
    pace.refused(NOW)
    failed(pace)

    assert 35 == pytest.approx(pace.rate)
    assert 69.3 == pytest.approx(answered(pace, 49).rate)
    assert 70 == pytest.approx(answered(pace).rate)
    assert 70.05 == pytest.approx(answered(pace).rate)


def test_a_lane_that_is_open_again_has_forgotten_what_the_server_bore():
    pace = certain(rate=1_000)
    pace.refused(NOW)
    while pace.rate is not None:
        pace.answered()
    failed(pace, 20)

    assert 1 == pace.rate
    assert 900 < answered(pace, 1_300).rate
