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

    assert 0 == bucket.wait_ns(6_000, NOW)
    assert 0 == bucket.used(NOW)


def test_quoted_wait_is_enough_and_one_nanosecond_less_is_not() -> None:
    bucket = Bucket(6_000, 60)
    spend(bucket, 6_000, NOW)

    wait_ns = bucket.wait_ns(500, NOW)

    assert 5 * SECOND == wait_ns
    assert 0 == bucket.wait_ns(500, NOW + wait_ns)
    assert 1 == bucket.wait_ns(500, NOW + wait_ns - 1)


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

    assert 500 == bucket.used(NOW) == bucket.used(NOW, credits=True)


def test_real_use_above_the_request_counts_in_both_levels() -> None:
    bucket = Bucket(1_000, 60)
    bucket.hold(200)
    bucket.settle(200, 150, 300, NOW)

    assert 300 == bucket.used(NOW) == bucket.used(NOW, credits=True)


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
    assert 250 == bucket.used(NOW, credits=True)
    assert 0 < bucket.wait_ns(700, NOW)  # type: ignore[operator]
    assert 0 == bucket.wait_ns(700, NOW, credits=True)


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
    assert 30 + 7 == bucket.used(NOW, credits=True)
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
    assert 300 == bucket.used(NOW, credits=True)


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
    assert 400 == bucket.used(NOW, credits=True)
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
