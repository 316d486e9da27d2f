"""One lane's buckets as a store keeps them, with exact figures; the laws of all stores are in test_store_contract."""

from __future__ import annotations

import json

import pytest

from groq_queue.core.budget import Blocked, TooLarge
from groq_queue.limiters.lane_state import LaneState, Reservation
from groq_queue.limiters.store import KnownLimits, ServerLimit

S = 1_000_000_000
NOW = 5_000 * S
TPM: KnownLimits = {"TPM": (6_000, 60 * S)}  # 100 drain in a second
BOTH: KnownLimits = {**TPM, "RPM": (10, 60 * S)}
TURN = 1 << 20


def fitted(limits: KnownLimits = TPM) -> LaneState:
    books = LaneState()
    books.fit(limits, [], NOW)
    return books


def used(books: LaneState, now_ns: int = NOW) -> dict[str, int]:
    return {level.dimension: level.used for level in books.standing(1, now_ns).levels}


def again(books: LaneState) -> LaneState:
    """Return what a store would load of what it has stored."""
    return LaneState(json.loads(json.dumps(books.state())))


# -- size


def test_a_lane_that_nobody_has_used_has_no_buckets_and_blocks_nothing() -> None:
    books = LaneState()

    assert {} == books.buckets
    assert books.blocks({"TPM": 10**9}, NOW) is None
    assert books.holds_until(0) is None
    assert not books.refunds_unused
    assert 0 == books.turn_now(5)
    assert (0, TURN) == books.turn(5, 0, 1, 1.0)


def test_everything_survives_the_store() -> None:
    books = fitted(BOTH)
    first = books.grant({"TPM": 500, "RPM": 1}, 5, 7 * TURN, NOW - 2 * S)
    books.settle(first, {"TPM": 500, "RPM": 1}, {"TPM": 400, "RPM": 1}, NOW)
    books.grant({"TPM": 30, "RPM": 1}, 3, 2 * TURN, NOW)
    books.hold(9 * S, "TPD", NOW)

    twin = again(books)

    assert books.state() == twin.state()
    assert books.standing(3, NOW) == twin.standing(3, NOW)
    assert Blocked("hold", 9 * S, "TPD") == twin.holds_until(NOW)
    assert (7 * TURN, 2 * TURN, 0) == tuple(twin.turn_now(priority) for priority in (5, 3, 4))
    assert 2 * S == twin.slowest_ns


def test_credit_survives_the_store() -> None:
    books = fitted()
    books.refunds_unused = True

    assert again(books).refunds_unused


def test_fit_tells_what_is_new_and_differs_tells_whether_to_fit() -> None:
    books = LaneState()

    assert books.differs_from(TPM)
    assert {"TPM"} == books.fit(TPM, [], NOW)
    assert not books.differs_from(TPM)
    assert not books.differs_from({})
    assert books.differs_from({"TPM": (6_001, 60 * S)})
    assert books.differs_from({"TPM": (6_000, 61 * S)})
    assert books.differs_from(BOTH)
    assert {"RPM"} == books.fit(BOTH, [], NOW)
    assert set() == books.fit(BOTH, [], NOW)


def test_new_buckets_hold_what_open_reservations_cost_in_them() -> None:
    books = LaneState()

    books.fit(BOTH, [{"TPM": 100, "RPM": 1}, {"TPM": 250}], NOW)

    assert {"TPM": 350, "RPM": 1} == used(books)
    assert [(6_000, 60.0), (10, 60.0)] == [(level.limit, level.period_s) for level in books.standing(1, NOW).levels]


def test_units_in_use_stay_when_the_limit_or_the_period_changes() -> None:
    books = fitted(BOTH)
    books.charge({"TPM": 3_000, "RPM": 5}, NOW)

    books.fit({"TPM": (12_000, 60 * S), "RPM": (10, 600 * S)}, [], NOW)

    assert {"TPM": 3_000, "RPM": 5} == used(books)
    assert {"TPM": 1_000, "RPM": 5} == used(books, NOW + 10 * S)
    assert {"TPM": 0, "RPM": 0} == used(books, NOW + 300 * S)
    assert {"TPM": 0, "RPM": 1} == used(books, NOW + 240 * S)


def test_a_new_clock_moves_levels_and_the_pause_alike() -> None:
    books = fitted()
    books.charge({"TPM": 3_000}, NOW)
    books.hold(10 * S, "TPM", NOW)

    books.move_by(-4_000 * S)

    assert {"TPM": 3_000} == used(books, NOW - 4_000 * S)
    assert Blocked("hold", 10 * S, "TPM") == books.holds_until(NOW - 4_000 * S)


# -- turns


def test_a_turn_begins_where_the_last_one_of_its_client_ended_or_with_the_line() -> None:
    books = fitted()
    books.grant({}, 5, 10 * TURN, NOW)

    assert (10 * TURN, 11 * TURN) == books.turn(5, 0, 1, 1.0)
    assert (12 * TURN, 13 * TURN) == books.turn(5, 12 * TURN, 1, 1.0)
    assert (0, TURN) == books.turn(6, 0, 1, 1.0)


@pytest.mark.parametrize(
    ("cost", "weight", "length"), [(1, 4.0, TURN // 4), (3, 1.0, 3 * TURN), (1, 0.5, 2 * TURN), (1, 2.0**30, 1)]
)
def test_a_turn_is_as_long_as_its_cost_by_its_weight_and_never_nothing(cost: int, weight: float, length: int) -> None:
    assert (0, length) == fitted().turn(5, 0, cost, weight)


def test_the_largest_tag_that_was_granted_stays() -> None:
    books = fitted()
    books.grant({}, 5, 10 * TURN, NOW)
    books.grant({}, 5, 3 * TURN, NOW)

    assert 10 * TURN == books.turn_now(5)


# -- what blocks


def test_what_costs_more_than_a_limit_is_too_large_and_the_limit_itself_is_not() -> None:
    books = fitted(BOTH)

    assert books.too_large({"TPM": 6_000, "RPM": 10}) is None
    assert TooLarge(6_001, 6_000, "TPM") == books.too_large({"TPM": 6_001, "RPM": 11})
    assert TooLarge(11, 10, "RPM") == books.too_large({"RPM": 11})


def test_the_longest_wait_is_told_whatever_the_order_of_the_limits() -> None:
    for limits in (BOTH, dict(reversed(BOTH.items()))):
        books = fitted(limits)
        books.charge({"TPM": 6_000, "RPM": 10}, NOW)

        assert Blocked("limit", 6 * S, "RPM", 10, 10) == books.blocks({"TPM": 100, "RPM": 1}, NOW)
        assert Blocked("limit", 30 * S, "TPM", 6_000, 6_000) == books.blocks({"TPM": 3_000, "RPM": 1}, NOW)


def test_a_wait_that_no_time_ends_counts_as_the_longest() -> None:
    for limits in (BOTH, dict(reversed(BOTH.items()))):
        books = fitted(limits)
        books.charge({"RPM": 10}, NOW)
        books.grant({"TPM": 5_950}, 5, 0, NOW)

        assert Blocked("limit", None, "TPM", 5_950, 6_000) == books.blocks({"TPM": 100, "RPM": 1}, NOW)


def test_of_two_waits_that_no_time_ends_the_first_is_told() -> None:
    books = fitted(BOTH)
    books.grant({"TPM": 6_000, "RPM": 10}, 5, 0, NOW)

    assert Blocked("limit", None, "TPM", 6_000, 6_000) == books.blocks({"TPM": 100, "RPM": 1}, NOW)


def test_a_limit_of_which_nothing_is_taken_does_not_block_and_others_after_it_do() -> None:
    books = fitted({"ASPH": (5, 3_600 * S), **TPM})
    books.charge({"ASPH": 50, "TPM": 6_000}, NOW)

    assert Blocked("limit", 1 * S, "TPM", 6_000, 6_000) == books.blocks({"TPM": 100}, NOW)
    assert books.blocks({}, NOW) is None


def test_a_wait_of_one_nanosecond_blocks_and_none_does_not() -> None:
    books = fitted()
    books.charge({"TPM": 6_000}, NOW)

    assert Blocked("limit", 1, "TPM", 5_901, 6_000) == books.blocks({"TPM": 100}, NOW + S - 1)
    assert books.blocks({"TPM": 100}, NOW + S) is None


def test_where_credit_is_given_the_credited_level_is_what_blocks_and_is_shown() -> None:
    books = fitted()
    asked = books.grant({"TPM": 6_000}, 5, 0, NOW)
    books.settle(asked, {"TPM": 6_000}, {"TPM": 500}, NOW)
    strict = books.blocks({"TPM": 6_000}, NOW)

    books.refunds_unused = True

    assert Blocked("limit", 60 * S, "TPM", 6_000, 6_000) == strict
    assert Blocked("limit", 5 * S, "TPM", 500, 6_000) == books.blocks({"TPM": 6_000}, NOW)
    assert {"TPM": 500} == used(books)


def test_a_pause_is_over_at_its_last_nanosecond_and_the_longest_one_counts() -> None:
    books = fitted()
    for seconds, dimension in ((3, "TPM"), (5, "TPD"), (5, "RPM"), (4, "RPD")):
        books.hold(seconds * S, dimension, NOW)

    assert Blocked("hold", 1, "TPD") == books.holds_until(NOW + 5 * S - 1)
    assert books.holds_until(NOW + 5 * S) is None
    assert [5 * S, 1, 0, 0] == [
        books.standing(1, NOW + passed_ns).held_ns for passed_ns in (0, 5 * S - 1, 5 * S, 9 * S)
    ]


# -- ends


def test_a_reservation_counts_in_the_dimensions_it_names_and_goes_back_whole() -> None:
    books = fitted(BOTH)

    asked = books.grant({"TPM": 500}, 5, 0, NOW)
    held = used(books)
    books.refund(asked)

    assert {"TPM": 500, "RPM": 0} == held
    assert {"TPM": 0, "RPM": 0} == used(books)
    assert Reservation(NOW, {"TPM": 500}, {"TPM": 0, "RPM": 0}) == asked


def test_a_settlement_charges_what_was_requested_even_where_nothing_was_held() -> None:
    """
    A dimension may have been learnt after the grant.
    """
    books = fitted(BOTH)
    asked = books.grant({}, 5, 0, NOW)

    books.settle(asked, {"TPM": 70}, {"RPM": 1}, NOW)

    assert {"TPM": 70, "RPM": 1} == used(books)


def test_what_was_held_and_is_named_no_more_was_neither_requested_nor_used() -> None:
    books = fitted()

    books.settle(books.grant({"TPM": 70}, 5, 0, NOW), {}, {}, NOW)
    strict = used(books)
    books.refunds_unused = True

    assert {"TPM": 0} == strict == used(books)


def test_a_settlement_is_no_restart_of_what_it_does_not_name() -> None:
    books = fitted(BOTH)
    asked = books.grant({"TPM": 70}, 5, 0, NOW)

    books.settle(asked, {"TPM": 70}, {"TPM": 70}, NOW)

    assert [2, 1] == [books.buckets[name].restarts for name in ("TPM", "RPM")]


def test_what_nobody_will_tell_the_truth_of_is_charged_in_full_strict_and_credited() -> None:
    books = fitted(BOTH)
    asked = books.grant({"TPM": 500}, 5, 0, NOW)

    books.expire(asked, NOW)
    strict = used(books)
    books.refunds_unused = True

    assert {"TPM": 500, "RPM": 0} == strict == used(books)
    assert [2, 1] == [books.buckets[name].restarts for name in ("TPM", "RPM")]
    assert {"TPM": 400, "RPM": 0} == used(books, NOW + S)


def test_what_was_spent_without_asking_is_charged_and_nothing_is_restarted_for_it() -> None:
    books = fitted(BOTH)

    books.charge({"TPM": 500, "OTPM": 3}, NOW)

    assert {"TPM": 500, "RPM": 0} == used(books)
    assert 1 == books.buckets["RPM"].restarts


def test_the_longest_flight_is_remembered() -> None:
    books = fitted()
    for flight_s in (2, 5, 3):
        books.settle(books.grant({"TPM": 1}, 5, 0, NOW - flight_s * S), {"TPM": 1}, {"TPM": 1}, NOW)

    assert 5 * S == books.slowest_ns


# -- headers


def answered(books: LaneState, requested: int, used: int, seen: dict[str, ServerLimit], *, flight_s: int = 0) -> None:
    """Grant, settle and observe one request whose flight took so long."""
    asked = books.grant({"TPM": requested}, 5, 0, NOW - flight_s * S)
    books.settle(asked, {"TPM": requested}, {"TPM": used}, NOW)
    books.observe(asked, seen, set(), NOW)


def test_a_limit_that_is_new_begins_at_what_the_header_says_and_the_others_are_read_too() -> None:
    books = fitted(BOTH)
    asked = books.grant({}, 5, 0, NOW)

    books.observe(
        asked,
        {"XPM": ServerLimit(5, 5, True), "TPM": ServerLimit(6_000, 2_000, True), "RPM": ServerLimit(10, 4, True)},
        {"TPM"},
        NOW,
    )

    assert {"TPM": 4_000, "RPM": 6} == used(books)


def test_a_header_lowers_to_its_level_plus_what_ended_since_the_grant() -> None:
    books = fitted()
    asked = books.grant({"TPM": 1_000}, 5, 0, NOW)
    other = books.grant({"TPM": 300}, 5, 0, NOW)
    books.settle(other, {"TPM": 300}, {"TPM": 300}, NOW)
    books.settle(asked, {"TPM": 1_000}, {"TPM": 10}, NOW)

    books.observe(asked, {"TPM": ServerLimit(6_000, 6_000, True)}, set(), NOW)

    assert {"TPM": 1_300} == used(books)


def test_what_had_ended_before_the_grant_is_in_the_headers_level_already() -> None:
    books = fitted()
    books.charge({"TPM": 2_000}, NOW)

    answered(books, 1_000, 10, {"TPM": ServerLimit(6_000, 5_990, True)})

    assert {"TPM": 1_010} == used(books)


def test_a_reservation_from_before_its_limit_was_known_had_seen_nothing_end() -> None:
    books = LaneState()
    asked = books.grant({"TPM": 1_000}, 5, 0, NOW)
    books.fit(TPM, [{"TPM": 1_000}], NOW)
    books.settle(asked, {"TPM": 1_000}, {"TPM": 10}, NOW)

    books.observe(asked, {"TPM": ServerLimit(6_000, 6_000, True)}, set(), NOW)

    assert {"TPM": 1_000} == used(books)


def test_a_header_raises_to_its_level_less_what_drained_in_the_flight() -> None:
    books = fitted()

    answered(books, 100, 100, {"TPM": ServerLimit(6_000, 1_000, False)}, flight_s=5)

    assert {"TPM": 4_500} == used(books)


def test_a_header_of_a_larger_limit_than_the_users_lowers_nothing_and_proves_no_credit() -> None:
    books = fitted()
    for _ in range(5):
        answered(books, 1_000, 10, {"TPM": ServerLimit(60_000, 59_990, False)})

    assert {"TPM": 5_000} == used(books)
    assert not books.refunds_unused


@pytest.mark.parametrize(("over", "is_proof"), [(0, False), (1, True)])
@pytest.mark.parametrize("flight_s", [0, 3])
def test_credit_is_believed_when_headers_lowered_by_more_than_drains_and_a_hundredth(
    over: int, is_proof: bool, flight_s: int
) -> None:
    """
    One restart more than at first, since the level rose from zero: twice the drain of the longest flight.
    """
    books = fitted()
    slack = 2 * 100 * flight_s + 60

    books.charge({"TPM": 1_000}, NOW)
    answered(books, 0, 0, {"TPM": ServerLimit(6_000, 5_000 + slack + over, True)}, flight_s=flight_s)

    assert is_proof == books.refunds_unused


def test_credit_once_proven_stays() -> None:
    books = fitted()
    books.refunds_unused = True

    answered(books, 10, 10, {"TPM": ServerLimit(6_000, 5_990, True)})

    assert books.refunds_unused


def test_proof_of_a_level_is_taken_for_the_limit_it_names_only() -> None:
    books = fitted()

    books.at_least("RPM", 5, 0, NOW)
    books.at_least("TPM", 700, 2 * S, NOW)

    assert {"TPM": 500} == used(books)


# -- standing


def test_whoever_looks_is_alive() -> None:
    assert [1, 1, 5] == [fitted().standing(count, NOW).processes for count in (0, 1, 5)]
