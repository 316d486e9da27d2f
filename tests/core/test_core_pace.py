"""How fast a lane sends while something is wrong."""

from __future__ import annotations

import random

from groq_queue.core.budget import Budget, Lease
from groq_queue.core.limits import Limits
from groq_queue.core.pace import Pace
from groq_queue.core.pricing import Cost

SECOND = 1_000_000_000
NOW = 1_000 * SECOND


def warm(rate: int = 100) -> Pace:
    """A pace that has seen *rate* attempts a second."""
    pace = Pace(random.Random(1))
    for n in range(32):
        pace.sent(NOW + n * SECOND // rate)
    return pace


def test_a_lane_is_open_until_something_is_wrong():
    pace = warm()

    assert 0 == pace.wait_ns(NOW)
    assert 0 == pace.turn_ns(1_000)


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
    pace.sent(NOW)

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
        gaps.append(pace.turn_ns(1))
    answers = 30
    while pace.turn_ns(1):
        pace.answered()
        answers += 1

    assert gaps[0] > 0.25 * SECOND
    assert gaps[-1] < 0.06 * SECOND
    assert 1_400 <= answers <= 1_450


def test_a_failed_request_makes_way_for_others_while_the_lane_is_slow():
    pace = warm()
    for _ in range(20):
        pace.failed(NOW)

    assert 0 == pace.turn_ns(0)
    assert 5 * SECOND <= pace.turn_ns(10) <= 10 * SECOND
    assert 15 * SECOND <= pace.turn_ns(10_000) <= 30 * SECOND


def test_a_refusal_without_numbers_slows_to_seven_tenths_and_creeps_up_again():
    pace = warm(rate=100)

    pace.refused(NOW)
    pace.sent(NOW + SECOND)
    gap_ns = pace.wait_ns(NOW + SECOND)
    for _ in range(70):
        pace.answered()
    pace.sent(NOW + 2 * SECOND)

    assert SECOND / 70 * 0.7 <= gap_ns <= SECOND / 70 * 1.3
    assert 0 < pace.wait_ns(NOW + 2 * SECOND) < SECOND / 70 * 1.25


def test_refusals_of_attempts_already_under_way_slow_down_once():
    budget = Budget(Limits())
    leases = [budget.lease(Cost(1), NOW + n * SECOND // 100) for n in range(32)]
    assert all(isinstance(lease, Lease) for lease in leases)

    for lease in leases:
        budget.refused(lease, None, 5 * SECOND, NOW + SECOND)

    later = NOW + 7 * SECOND
    assert isinstance(budget.lease(Cost(1), later), Lease)
    assert budget.blocks(Cost(1), later).wait_ns <= SECOND / 70 * 1.3
