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
    state = LaneState()
    state.fit(limits, [], NOW)
    return state


def used(state: LaneState, now_ns: int = NOW) -> dict[str, int]:
    return {level.dimension: level.used for level in state.status(1, now_ns).levels}


def again(state: LaneState) -> LaneState:
    """Return what a store would load of what it has stored."""
    return LaneState(json.loads(json.dumps(state.state())))


# -- size


def test_a_lane_that_nobody_has_used_has_no_buckets_and_blocks_nothing() -> None:
    state = LaneState()

    assert {} == state.buckets
    assert state.blocks({"TPM": 10**9}, NOW) is None
    assert state.holds_until(0) is None
    assert not state.refunds_unused
    assert 0 == state.turn_now(5)
    assert (0, TURN) == state.turn(5, 0, 1, 1.0)


def test_everything_survives_the_store() -> None:
    state = fitted(BOTH)
    first = state.grant({"TPM": 500, "RPM": 1}, 5, 7 * TURN, NOW - 2 * S)
    state.settle(first, {"TPM": 500, "RPM": 1}, {"TPM": 400, "RPM": 1}, NOW)
    state.grant({"TPM": 30, "RPM": 1}, 3, 2 * TURN, NOW)
    state.hold(9 * S, "TPD", NOW)

    twin = again(state)

    assert state.state() == twin.state()
    assert state.status(3, NOW) == twin.status(3, NOW)
    assert Blocked("hold", 9 * S, "TPD") == twin.holds_until(NOW)
    assert (7 * TURN, 2 * TURN, 0) == tuple(twin.turn_now(priority) for priority in (5, 3, 4))
    assert 2 * S == twin.slowest_ns


def test_credit_survives_the_store() -> None:
    state = fitted()
    state.refunds_unused = True

    assert again(state).refunds_unused


def test_fit_tells_what_is_new_and_differs_tells_whether_to_fit() -> None:
    state = LaneState()

    assert state.differs_from(TPM)
    assert {"TPM"} == state.fit(TPM, [], NOW)
    assert not state.differs_from(TPM)
    assert not state.differs_from({})
    assert state.differs_from({"TPM": (6_001, 60 * S)})
    assert state.differs_from({"TPM": (6_000, 61 * S)})
    assert state.differs_from(BOTH)
    assert {"RPM"} == state.fit(BOTH, [], NOW)
    assert set() == state.fit(BOTH, [], NOW)


def test_new_buckets_hold_what_open_reservations_cost_in_them() -> None:
    state = LaneState()

    state.fit(BOTH, [{"TPM": 100, "RPM": 1}, {"TPM": 250}], NOW)

    assert {"TPM": 350, "RPM": 1} == used(state)
    assert [(6_000, 60.0), (10, 60.0)] == [(level.limit, level.period_s) for level in state.status(1, NOW).levels]


def test_units_in_use_stay_when_the_limit_or_the_period_changes() -> None:
    state = fitted(BOTH)
    state.charge({"TPM": 3_000, "RPM": 5}, NOW)

    state.fit({"TPM": (12_000, 60 * S), "RPM": (10, 600 * S)}, [], NOW)

    assert {"TPM": 3_000, "RPM": 5} == used(state)
    assert {"TPM": 1_000, "RPM": 5} == used(state, NOW + 10 * S)
    assert {"TPM": 0, "RPM": 0} == used(state, NOW + 300 * S)
    assert {"TPM": 0, "RPM": 1} == used(state, NOW + 240 * S)


def test_a_new_clock_moves_levels_and_the_pause_alike() -> None:
    state = fitted()
    state.charge({"TPM": 3_000}, NOW)
    state.hold(10 * S, "TPM", NOW)

    state.move_by(-4_000 * S)

    assert {"TPM": 3_000} == used(state, NOW - 4_000 * S)
    assert Blocked("hold", 10 * S, "TPM") == state.holds_until(NOW - 4_000 * S)


# -- turns


def test_a_turn_begins_where_the_last_one_of_its_client_ended_or_with_the_line() -> None:
    state = fitted()
    state.grant({}, 5, 10 * TURN, NOW)

    assert (10 * TURN, 11 * TURN) == state.turn(5, 0, 1, 1.0)
    assert (12 * TURN, 13 * TURN) == state.turn(5, 12 * TURN, 1, 1.0)
    assert (0, TURN) == state.turn(6, 0, 1, 1.0)


@pytest.mark.parametrize(
    ("cost", "weight", "length"), [(1, 4.0, TURN // 4), (3, 1.0, 3 * TURN), (1, 0.5, 2 * TURN), (1, 2.0**30, 1)]
)
def test_a_turn_is_as_long_as_its_cost_by_its_weight_and_never_nothing(cost: int, weight: float, length: int) -> None:
    assert (0, length) == fitted().turn(5, 0, cost, weight)


def test_the_largest_tag_that_was_granted_stays() -> None:
    state = fitted()
    state.grant({}, 5, 10 * TURN, NOW)
    state.grant({}, 5, 3 * TURN, NOW)

    assert 10 * TURN == state.turn_now(5)


# -- what blocks


def test_what_costs_more_than_a_limit_is_too_large_and_the_limit_itself_is_not() -> None:
    state = fitted(BOTH)

    assert state.too_large({"TPM": 6_000, "RPM": 10}) is None
    assert TooLarge(6_001, 6_000, "TPM") == state.too_large({"TPM": 6_001, "RPM": 11})
    assert TooLarge(11, 10, "RPM") == state.too_large({"RPM": 11})


def test_the_longest_wait_is_told_whatever_the_order_of_the_limits() -> None:
    for limits in (BOTH, dict(reversed(BOTH.items()))):
        state = fitted(limits)
        state.charge({"TPM": 6_000, "RPM": 10}, NOW)

        assert Blocked("limit", 6 * S, "RPM", 10, 10) == state.blocks({"TPM": 100, "RPM": 1}, NOW)
        assert Blocked("limit", 30 * S, "TPM", 6_000, 6_000) == state.blocks({"TPM": 3_000, "RPM": 1}, NOW)


def test_a_wait_that_no_time_ends_counts_as_the_longest() -> None:
    for limits in (BOTH, dict(reversed(BOTH.items()))):
        state = fitted(limits)
        state.charge({"RPM": 10}, NOW)
        state.grant({"TPM": 5_950}, 5, 0, NOW)

        assert Blocked("limit", None, "TPM", 5_950, 6_000) == state.blocks({"TPM": 100, "RPM": 1}, NOW)


def test_of_two_waits_that_no_time_ends_the_first_is_told() -> None:
    state = fitted(BOTH)
    state.grant({"TPM": 6_000, "RPM": 10}, 5, 0, NOW)

    assert Blocked("limit", None, "TPM", 6_000, 6_000) == state.blocks({"TPM": 100, "RPM": 1}, NOW)


def test_a_limit_of_which_nothing_is_taken_does_not_block_and_others_after_it_do() -> None:
    state = fitted({"ASPH": (5, 3_600 * S), **TPM})
    state.charge({"ASPH": 50, "TPM": 6_000}, NOW)

    assert Blocked("limit", 1 * S, "TPM", 6_000, 6_000) == state.blocks({"TPM": 100}, NOW)
    assert state.blocks({}, NOW) is None


def test_a_wait_of_one_nanosecond_blocks_and_none_does_not() -> None:
    state = fitted()
    state.charge({"TPM": 6_000}, NOW)

    assert Blocked("limit", 1, "TPM", 5_901, 6_000) == state.blocks({"TPM": 100}, NOW + S - 1)
    assert state.blocks({"TPM": 100}, NOW + S) is None


def test_where_credit_is_given_the_credited_level_is_what_blocks_and_is_shown() -> None:
    state = fitted()
    asked = state.grant({"TPM": 6_000}, 5, 0, NOW)
    state.settle(asked, {"TPM": 6_000}, {"TPM": 500}, NOW)
    strict = state.blocks({"TPM": 6_000}, NOW)

    state.refunds_unused = True

    assert Blocked("limit", 60 * S, "TPM", 6_000, 6_000) == strict
    assert Blocked("limit", 5 * S, "TPM", 500, 6_000) == state.blocks({"TPM": 6_000}, NOW)
    assert {"TPM": 500} == used(state)


def test_a_pause_is_over_at_its_last_nanosecond_and_the_longest_one_counts() -> None:
    state = fitted()
    for seconds, dimension in ((3, "TPM"), (5, "TPD"), (5, "RPM"), (4, "RPD")):
        state.hold(seconds * S, dimension, NOW)

    assert Blocked("hold", 1, "TPD") == state.holds_until(NOW + 5 * S - 1)
    assert state.holds_until(NOW + 5 * S) is None
    assert [5 * S, 1, 0, 0] == [state.status(1, NOW + passed_ns).held_ns for passed_ns in (0, 5 * S - 1, 5 * S, 9 * S)]


# -- ends


def test_a_reservation_counts_in_the_dimensions_it_names_and_goes_back_whole() -> None:
    state = fitted(BOTH)

    asked = state.grant({"TPM": 500}, 5, 0, NOW)
    held = used(state)
    state.refund(asked)

    assert {"TPM": 500, "RPM": 0} == held
    assert {"TPM": 0, "RPM": 0} == used(state)
    assert Reservation(NOW, {"TPM": 500}, {"TPM": 0, "RPM": 0}) == asked


def test_a_settlement_charges_what_was_requested_even_where_nothing_was_held() -> None:
    """
    A dimension may have been learnt after the grant.
    """
    state = fitted(BOTH)
    asked = state.grant({}, 5, 0, NOW)

    state.settle(asked, {"TPM": 70}, {"RPM": 1}, NOW)

    assert {"TPM": 70, "RPM": 1} == used(state)


def test_what_was_held_and_is_named_no_more_was_neither_requested_nor_used() -> None:
    state = fitted()

    state.settle(state.grant({"TPM": 70}, 5, 0, NOW), {}, {}, NOW)
    strict = used(state)
    state.refunds_unused = True

    assert {"TPM": 0} == strict == used(state)


def test_a_settlement_is_no_restart_of_what_it_does_not_name() -> None:
    state = fitted(BOTH)
    asked = state.grant({"TPM": 70}, 5, 0, NOW)

    state.settle(asked, {"TPM": 70}, {"TPM": 70}, NOW)

    assert [2, 1] == [state.buckets[name].restarts for name in ("TPM", "RPM")]


def test_what_nobody_will_tell_the_truth_of_is_charged_in_full_strict_and_credited() -> None:
    state = fitted(BOTH)
    asked = state.grant({"TPM": 500}, 5, 0, NOW)

    state.expire(asked, NOW)
    strict = used(state)
    state.refunds_unused = True

    assert {"TPM": 500, "RPM": 0} == strict == used(state)
    assert [2, 1] == [state.buckets[name].restarts for name in ("TPM", "RPM")]
    assert {"TPM": 400, "RPM": 0} == used(state, NOW + S)


def test_what_was_spent_without_asking_is_charged_and_nothing_is_restarted_for_it() -> None:
    state = fitted(BOTH)

    state.charge({"TPM": 500, "OTPM": 3}, NOW)

    assert {"TPM": 500, "RPM": 0} == used(state)
    assert 1 == state.buckets["RPM"].restarts


def test_the_longest_flight_is_remembered() -> None:
    state = fitted()
    for flight_s in (2, 5, 3):
        state.settle(state.grant({"TPM": 1}, 5, 0, NOW - flight_s * S), {"TPM": 1}, {"TPM": 1}, NOW)

    assert 5 * S == state.slowest_ns


# -- headers


def answered(state: LaneState, requested: int, used: int, seen: dict[str, ServerLimit], *, flight_s: int = 0) -> None:
    """Grant, settle and observe one request whose flight took so long."""
    asked = state.grant({"TPM": requested}, 5, 0, NOW - flight_s * S)
    state.settle(asked, {"TPM": requested}, {"TPM": used}, NOW)
    state.observe(asked, seen, set(), NOW)


def test_a_limit_that_is_new_begins_at_what_the_header_says_and_the_others_are_read_too() -> None:
    state = fitted(BOTH)
    asked = state.grant({}, 5, 0, NOW)

    state.observe(
        asked,
        {"XPM": ServerLimit(5, 5, True), "TPM": ServerLimit(6_000, 2_000, True), "RPM": ServerLimit(10, 4, True)},
        {"TPM"},
        NOW,
    )

    assert {"TPM": 4_000, "RPM": 6} == used(state)


def test_a_header_lowers_to_its_level_plus_what_ended_since_the_grant() -> None:
    state = fitted()
    asked = state.grant({"TPM": 1_000}, 5, 0, NOW)
    other = state.grant({"TPM": 300}, 5, 0, NOW)
    state.settle(other, {"TPM": 300}, {"TPM": 300}, NOW)
    state.settle(asked, {"TPM": 1_000}, {"TPM": 10}, NOW)

    state.observe(asked, {"TPM": ServerLimit(6_000, 6_000, True)}, set(), NOW)

    assert {"TPM": 1_300} == used(state)


def test_what_had_ended_before_the_grant_is_in_the_headers_level_already() -> None:
    state = fitted()
    state.charge({"TPM": 2_000}, NOW)

    answered(state, 1_000, 10, {"TPM": ServerLimit(6_000, 5_990, True)})

    assert {"TPM": 1_010} == used(state)


def test_a_reservation_from_before_its_limit_was_known_had_seen_nothing_end() -> None:
    state = LaneState()
    asked = state.grant({"TPM": 1_000}, 5, 0, NOW)
    state.fit(TPM, [{"TPM": 1_000}], NOW)
    state.settle(asked, {"TPM": 1_000}, {"TPM": 10}, NOW)

    state.observe(asked, {"TPM": ServerLimit(6_000, 6_000, True)}, set(), NOW)

    assert {"TPM": 1_000} == used(state)


def test_a_header_raises_to_its_level_less_what_drained_in_the_flight() -> None:
    state = fitted()

    answered(state, 100, 100, {"TPM": ServerLimit(6_000, 1_000, False)}, flight_s=5)

    assert {"TPM": 4_500} == used(state)


def test_a_header_of_a_larger_limit_than_the_users_lowers_nothing_and_proves_no_credit() -> None:
    state = fitted()
    for _ in range(5):
        answered(state, 1_000, 10, {"TPM": ServerLimit(60_000, 59_990, False)})

    assert {"TPM": 5_000} == used(state)
    assert not state.refunds_unused


@pytest.mark.parametrize(("over", "is_proof"), [(0, False), (1, True)])
@pytest.mark.parametrize("flight_s", [0, 3])
def test_credit_is_believed_when_headers_lowered_by_more_than_drains_and_a_hundredth(
    over: int, is_proof: bool, flight_s: int
) -> None:
    """
    One restart more than at first, since the level rose from zero: twice the drain of the longest flight.
    """
    state = fitted()
    slack = 2 * 100 * flight_s + 60

    state.charge({"TPM": 1_000}, NOW)
    answered(state, 0, 0, {"TPM": ServerLimit(6_000, 5_000 + slack + over, True)}, flight_s=flight_s)

    assert is_proof == state.refunds_unused


def test_credit_once_proven_stays() -> None:
    state = fitted()
    state.refunds_unused = True

    answered(state, 10, 10, {"TPM": ServerLimit(6_000, 5_990, True)})

    assert state.refunds_unused


def test_proof_of_a_level_is_taken_for_the_limit_it_names_only() -> None:
    state = fitted()

    state.at_least("RPM", 5, 0, NOW)
    state.at_least("TPM", 700, 2 * S, NOW)

    assert {"TPM": 500} == used(state)


# -- standing


def test_whoever_looks_is_alive() -> None:
    assert [1, 1, 5] == [fitted().status(count, NOW).processes for count in (0, 1, 5)]
