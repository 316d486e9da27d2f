"""One limit, metered: worked examples with their exact nanoseconds. The general laws are in test_core_bucket_laws."""

from __future__ import annotations

import pytest

from groq_queue.core.bucket import Bucket

SECOND = 1_000_000_000
NOW = 1_000_000 * SECOND


def spend(bucket: Bucket, units: int, now_ns: int) -> None:
    bucket.hold(units)
    bucket.settle(units, units, units, now_ns)


def test_a_fresh_bucket_passes_all_it_holds_at_once() -> None:
    bucket = Bucket(6_000, 60)

    for now_ns in (0, NOW):  # the zero of a clock means nothing
        assert 0 == bucket.wait_ns(6_000, now_ns) == bucket.wait_ns(6_000, now_ns, refunds_unused=True)
        assert 0 == bucket.used(now_ns) == bucket.used(now_ns, refunds_unused=True)
    assert (0, 0, 0, 0) == (bucket.leased, bucket.settled, bucket.refunded, bucket.held)
    assert (0, 0) == (bucket.ended, bucket.lowered)


def test_quoted_wait_is_enough_and_one_nanosecond_less_is_not() -> None:
    bucket = Bucket(6_000, 60)
    spend(bucket, 6_000, NOW)

    wait_ns = bucket.wait_ns(500, NOW)

    assert 5 * SECOND == wait_ns
    assert 0 == bucket.wait_ns(500, NOW + wait_ns)
    assert 1 == bucket.wait_ns(500, NOW + wait_ns - 1)


def test_the_last_nanosecond_of_a_wait_is_waited_for_by_the_smallest_limit_too() -> None:
    bucket = Bucket(1, 1)
    spend(bucket, 1, NOW)

    assert [1, 0, 0] == [bucket.wait_ns(1, NOW + SECOND + late_ns) for late_ns in (-1, 0, 1)]


def test_a_wait_that_does_not_divide_is_rounded_up() -> None:
    bucket = Bucket(7, 1)
    spend(bucket, 7, NOW)

    assert 142_857_143 == bucket.wait_ns(1, NOW)
    assert 0 == bucket.wait_ns(1, NOW + 142_857_143)


def test_held_units_do_not_drain_and_settled_ones_do() -> None:
    bucket = Bucket(100, 10)
    bucket.hold(60)

    held_later = bucket.used(NOW + 3_600 * SECOND)
    bucket.settle(60, 60, 60, NOW + 3_600 * SECOND)

    assert 60 == held_later
    assert 60 == bucket.used(NOW + 3_600 * SECOND)
    assert 50 == bucket.used(NOW + 3_601 * SECOND)
    assert 0 == bucket.used(NOW + 3_606 * SECOND)


def test_no_time_suffices_while_an_open_lease_is_in_the_way() -> None:
    bucket = Bucket(100, 10)
    bucket.hold(60)

    assert bucket.wait_ns(41, NOW) is None
    assert 0 == bucket.wait_ns(40, NOW)


def test_a_debt_above_the_limit_is_waited_for_in_full() -> None:
    """
    The server settles to real use and never clamps: 73,124 on 30,000 was seen.
    """
    bucket = Bucket(30_000, 60)
    bucket.hold(100)
    bucket.settle(100, 100, 73_124, NOW)

    assert 73_124 == bucket.used(NOW)
    assert (73_124 + 1_000 - 30_000) * 60 * SECOND // 30_000 == bucket.wait_ns(1_000, NOW)


def test_debts_add_up() -> None:
    bucket = Bucket(100, 10)
    spend(bucket, 250, NOW)
    spend(bucket, 250, NOW)

    assert 500 == bucket.used(NOW) == bucket.used(NOW, refunds_unused=True)


def test_real_use_above_the_request_counts_in_both_levels() -> None:
    bucket = Bucket(1_000, 60)
    bucket.hold(200)
    bucket.settle(200, 150, 300, NOW)

    assert 300 == bucket.used(NOW) == bucket.used(NOW, refunds_unused=True)


def test_used_rounds_up_to_whole_units() -> None:
    bucket = Bucket(100, 10)
    spend(bucket, 50, NOW)

    assert 50 == bucket.used(NOW + 1)
    assert 49 == bucket.used(NOW + SECOND // 10)


def test_the_strict_level_keeps_the_request_and_the_credited_one_real_use() -> None:
    bucket = Bucket(1_000, 60)
    bucket.hold(900)
    bucket.settle(900, 800, 250, NOW)

    assert 800 == bucket.used(NOW)
    assert 250 == bucket.used(NOW, refunds_unused=True)
    assert 0 < bucket.wait_ns(700, NOW)  # type: ignore[operator]
    assert 0 == bucket.wait_ns(700, NOW, refunds_unused=True)


def test_a_refund_leaves_no_trace_but_in_the_books() -> None:
    bucket = Bucket(100, 10)
    bucket.hold(70)
    bucket.refund(70)

    assert 0 == bucket.used(NOW)
    assert (70, 0, 70, 0) == (bucket.leased, bucket.settled, bucket.refunded, bucket.held)
    assert 0 == bucket.ended


def test_ended_counts_the_most_that_was_charged() -> None:
    bucket = Bucket(100, 10)
    bucket.hold(70)
    bucket.settle(70, 60, 20, NOW)
    bucket.hold(10)
    bucket.settle(10, 5, 15, NOW)

    assert 60 + 15 == bucket.ended


@pytest.mark.parametrize("limit", [10, 60, 5_000])
def test_another_limit_keeps_the_units_in_use(limit: int) -> None:
    bucket = Bucket(100, 10)
    bucket.hold(80)
    bucket.settle(80, 80, 30, NOW)
    bucket.hold(7)

    bucket.resize(limit, NOW)

    assert limit == bucket.limit
    assert 80 + 7 == bucket.used(NOW)
    assert 30 + 7 == bucket.used(NOW, refunds_unused=True)
    assert max(0, 80 - limit // 10) + 7 == bucket.used(NOW + SECOND)


def test_a_limit_changed_after_idleness_charges_nothing() -> None:
    bucket = Bucket(100, 10)
    spend(bucket, 100, NOW)

    bucket.resize(50, NOW + 3_600 * SECOND)

    assert 0 == bucket.wait_ns(50, NOW + 3_600 * SECOND)


def test_at_most_lowers_both_levels_and_tells_by_how_much() -> None:
    bucket = Bucket(1_000, 60)
    bucket.hold(900)
    bucket.settle(900, 900, 500, NOW)

    bucket.at_most(300, NOW)

    assert 600 == bucket.lowered
    assert 300 == bucket.used(NOW)
    assert 300 == bucket.used(NOW, refunds_unused=True)


def test_at_most_never_raises_a_level() -> None:
    bucket = Bucket(1_000, 60)
    spend(bucket, 200, NOW)

    bucket.at_most(300, NOW)

    assert 0 == bucket.lowered
    assert 200 == bucket.used(NOW)


def test_a_level_that_begins_anew_from_zero_is_counted() -> None:
    bucket = Bucket(1_000, 60)

    for now_ns in (NOW, NOW + 1, NOW + 3_600 * 10**9):
        spend(bucket, 500, now_ns)

    assert 1 + 2 == bucket.restarts


def test_at_least_raises_by_what_open_leases_cannot_explain() -> None:
    bucket = Bucket(1_000, 60)
    bucket.hold(100)

    bucket.at_least(400, 0, NOW)

    assert 400 == bucket.used(NOW)
    assert 400 == bucket.used(NOW, refunds_unused=True)
    assert 300 == bucket.used(NOW) - bucket.held


def test_at_least_subtracts_what_drained_since_the_server_looked() -> None:
    bucket = Bucket(1_000, 60)

    bucket.at_least(400, 6 * SECOND, NOW)

    assert 300 == bucket.used(NOW)


def test_at_least_never_lowers_a_level() -> None:
    bucket = Bucket(1_000, 60)
    spend(bucket, 500, NOW)

    bucket.at_least(400, 0, NOW)

    assert 500 == bucket.used(NOW)


def test_what_drains_in_a_while_is_rounded_up() -> None:
    bucket = Bucket(100, 60)

    assert 0 == bucket.drain_of(0)
    assert 1 == bucket.drain_of(1)
    assert 100 == bucket.drain_of(60 * SECOND)
    assert 101 == bucket.drain_of(60 * SECOND + 1)


def test_a_period_may_be_a_fraction_of_a_second() -> None:
    bucket = Bucket(10, 0.5)
    spend(bucket, 10, NOW)

    assert 50_000_000 == bucket.wait_ns(1, NOW)


# -- taking


@pytest.mark.parametrize("refunds_unused", [False, True])
def test_what_is_taken_is_held_if_it_fits_to_the_unit_and_to_the_nanosecond(refunds_unused: bool) -> None:
    bucket = Bucket(100, 10)
    spend(bucket, 60, NOW)

    too_many, fits, more = (bucket.take(units, NOW, refunds_unused) for units in (41, 40, 1))

    assert (False, True, False) == (too_many, fits, more)
    assert (100, 40) == (bucket.leased, bucket.held)
    assert 100 == bucket.used(NOW)
    assert not bucket.take(1, NOW + SECOND // 10 - 1, refunds_unused)
    assert bucket.take(1, NOW + SECOND // 10, refunds_unused)


def test_taking_believes_the_level_it_is_told_to() -> None:
    bucket = Bucket(100, 10)
    bucket.hold(90)
    bucket.settle(90, 90, 20, NOW)

    assert not bucket.take(11, NOW, False)
    assert bucket.take(80, NOW, True)
    assert not bucket.take(1, NOW, True)


def test_a_bucket_emptied_long_ago_passes_no_more_than_it_holds() -> None:
    """
    Idleness earns nothing.
    """
    bucket = Bucket(100, 10)
    spend(bucket, 100, NOW)
    later_ns = NOW + 3_600 * SECOND

    assert not bucket.take(101, later_ns, False)
    assert bucket.take(100, later_ns, False)
    assert not bucket.take(1, later_ns, False)


def test_what_is_untaken_was_never_taken() -> None:
    bucket = Bucket(100, 10)
    bucket.take(30, NOW, False)
    before = bucket.state()

    assert bucket.take(70, NOW, False)
    bucket.untake(70)

    assert before == bucket.state()
    assert (30, 30) == (bucket.leased, bucket.held)


# -- foretelling


def test_what_is_held_is_foretold_to_drain_from_now_on() -> None:
    """
    50 held and 60 settled of 100 in 10 s: 40 more fit after 5 s, 90 after 10 s and 140, of which 40 wait for the rest,
    after 15 s.
    """
    bucket = Bucket(100, 10)
    spend(bucket, 60, NOW)
    bucket.hold(50)

    forecasts = [bucket.forecast_ns(units, NOW, refunds_unused=False) for units in (0, 40, 90, 140)]

    assert [SECOND, 5 * SECOND, 10 * SECOND, 15 * SECOND] == forecasts


def test_what_fits_now_is_foretold_for_now() -> None:
    bucket = Bucket(100, 10)
    spend(bucket, 60, NOW)

    assert 0 == bucket.forecast_ns(40, NOW, refunds_unused=False)
    assert SECOND // 10 == bucket.forecast_ns(41, NOW, refunds_unused=False)
    assert 0 == bucket.forecast_ns(1, NOW, refunds_unused=False)


def test_a_forecast_is_rounded_up_and_believes_the_level_it_is_told_to() -> None:
    bucket = Bucket(7, 1)
    bucket.hold(7)
    bucket.settle(7, 7, 3, NOW)

    assert 142_857_143 == bucket.forecast_ns(1, NOW, refunds_unused=False)
    assert 0 == bucket.forecast_ns(4, NOW, refunds_unused=True)
    assert 142_857_143 == bucket.forecast_ns(5, NOW, refunds_unused=True)


# -- another life


def test_a_bucket_made_from_its_state_is_the_same() -> None:
    bucket = Bucket(1_000, 60)
    bucket.hold(900)
    bucket.settle(900, 800, 250, NOW)
    bucket.hold(50)
    bucket.at_most(700, NOW)
    bucket.hold(7)
    bucket.refund(7)

    twin = Bucket.from_state(bucket.state())

    assert bucket.state() == twin.state()
    assert (1_000, 60 * SECOND) == (twin.limit, twin.period_ns)
    assert (750, 300) == (twin.used(NOW), twin.used(NOW, refunds_unused=True))
    assert (957, 900, 7, 50) == (twin.leased, twin.settled, twin.refunded, twin.held)
    assert (800, 100, 2) == (twin.ended, twin.lowered, twin.restarts)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_state_of_another_length_is_refused(change: int) -> None:
    state = Bucket(1, 1).state()

    with pytest.raises(ValueError):
        Bucket.from_state([*state, 0][: len(state) + change])


@pytest.mark.parametrize("shift_ns", [5 * SECOND, -7 * SECOND])
def test_on_another_clock_everything_is_as_it_was(shift_ns: int) -> None:
    bucket = Bucket(1_000, 60)
    bucket.hold(900)
    bucket.settle(900, 800, 250, NOW)

    bucket.move_by(shift_ns)

    assert (800, 250) == (bucket.used(NOW + shift_ns), bucket.used(NOW + shift_ns, refunds_unused=True))
    assert 36 * SECOND == bucket.wait_ns(800, NOW + shift_ns)


# -- the server's word


def test_the_first_word_on_a_limit_is_taken_as_it_is() -> None:
    bucket = Bucket(1_000, 60)
    spend(bucket, 900, NOW)
    bucket.hold(30)

    bucket.begin_at(200, NOW)

    assert (230, 230) == (bucket.used(NOW), bucket.used(NOW, refunds_unused=True))
    assert 130 == bucket.used(NOW + 6 * SECOND)


def test_the_two_levels_are_lowered_and_raised_each_for_itself() -> None:
    bucket = Bucket(1_000, 60)
    bucket.hold(900)
    bucket.settle(900, 900, 200, NOW)

    bucket.at_most(500, NOW)
    lowered = bucket.used(NOW), bucket.used(NOW, refunds_unused=True)
    bucket.at_least(300, 0, NOW)

    assert (500, 200) == lowered
    assert (500, 300) == (bucket.used(NOW), bucket.used(NOW, refunds_unused=True))
    assert 400 == bucket.lowered


def test_each_lowering_is_added_up() -> None:
    bucket = Bucket(1_000, 60)
    spend(bucket, 900, NOW)

    for used in (700, 800, 650):
        bucket.at_most(used, NOW)

    assert 250 == bucket.lowered


@pytest.mark.parametrize("refunds_unused", [False, True])
def test_another_period_keeps_the_units_in_use_and_drains_them_in_its_own_time(refunds_unused: bool) -> None:
    bucket = Bucket(100, 10)
    bucket.hold(80)
    bucket.settle(80, 80, 30, NOW)
    level = 30 if refunds_unused else 80

    bucket.change_period(20 * SECOND, NOW + SECOND)

    assert 20 * SECOND == bucket.period_ns
    assert level - 10 == bucket.used(NOW + SECOND, refunds_unused=refunds_unused)
    assert level - 15 == bucket.used(NOW + 2 * SECOND, refunds_unused=refunds_unused)


def test_another_period_charges_nothing_to_an_idle_bucket() -> None:
    bucket = Bucket(100, 10)
    spend(bucket, 100, NOW)

    bucket.change_period(20 * SECOND, NOW + 3_600 * SECOND)

    assert bucket.take(100, NOW + 3_600 * SECOND, False)


def test_another_limit_is_reached_by_both_levels_alike() -> None:
    bucket = Bucket(100, 10)
    bucket.hold(80)
    bucket.settle(80, 80, 30, NOW)

    bucket.resize(200, NOW + SECOND)

    assert (70, 20) == (bucket.used(NOW + SECOND), bucket.used(NOW + SECOND, refunds_unused=True))
    assert (50, 0) == (bucket.used(NOW + 2 * SECOND), bucket.used(NOW + 2 * SECOND, refunds_unused=True))
