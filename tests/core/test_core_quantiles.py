"""Quantiles in bounded memory."""

from __future__ import annotations

import random

import pytest

from groq_queue.core.quantiles import QuantileSketch
from groq_queue.core.token_estimate import quantile


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_a_quantile_is_within_one_per_cent_of_the_truth(fraction):
    """
    Over twelve orders of magnitude, since waits may take microseconds or days.
    """
    draws = random.Random(5)
    values = [round(10 ** draws.uniform(3.5, 15)) for _ in range(5_000)]
    sketch = QuantileSketch()
    for value in values:
        sketch.add(value)

    truth = quantile(values, fraction)

    assert truth == pytest.approx(sketch.quantile(fraction), rel=0.0101)
    assert 5_000 == sketch.count


def test_memory_does_not_grow_with_the_number_of_values():
    """
    A year in nanoseconds and everything below it fits into 1,600 bins.
    """
    sketch = QuantileSketch()
    for exponent in range(16_500):
        sketch.add(round(10 ** (exponent / 1_000)))

    assert 1_500 < len(sketch._bins) < 1_600
    assert 16_500 == sketch.count


def test_merged_sketches_count_like_one():
    """
    The waits of all levels together are those of each.
    """
    one, two, both = QuantileSketch(), QuantileSketch(), QuantileSketch()
    for value in range(1, 1_000):
        (one if value % 3 else two).add(value * 1_000_000)
        both.add(value * 1_000_000)

    one.merge(two)

    assert both.quantile(0.9) == one.quantile(0.9)
    assert (both.count, both.largest) == (one.count, one.largest)


def test_an_empty_sketch_says_nought():
    """
    A report may be asked for before anything was sent.
    """
    assert 0 == QuantileSketch().quantile(0.5)


def test_what_is_shorter_than_a_microsecond_counts_as_none():
    sketch = QuantileSketch()
    for value_ns in (0, 1, 999, 1_000):
        sketch.add(value_ns)

    assert [0, 0, 0, 990] == [sketch.quantile(fraction) for fraction in (0.0, 0.5, 0.74, 0.75)]
    assert (4, 1_000) == (sketch.count, sketch.largest)


def test_a_quantile_stands_in_the_order_of_the_values_and_not_of_their_coming():
    sketch = QuantileSketch()
    for ms in (900, 1, 50, 900, 1):
        sketch.add(ms * 1_000_000)

    quantiles = [sketch.quantile(fraction) / 1e6 for fraction in (0.0, 0.2, 0.39, 0.4, 0.6, 0.99, 1.0)]

    assert [1, 1, 1, 50, 900, 900, 900] == pytest.approx(quantiles, rel=0.01)


def test_no_quantile_is_above_the_largest_value():
    for value_ns in range(1_000, 30_000, 7):
        sketch = QuantileSketch()
        sketch.add(value_ns)

        assert 0.98 * value_ns <= sketch.quantile(1.0) <= value_ns


def test_equal_values_are_counted_each():
    one, two = QuantileSketch(), QuantileSketch()
    for sketch, times in ((one, 3), (two, 2)):
        for _ in range(times):
            sketch.add(5_000_000)
    two.add(80_000_000)

    one.merge(two)

    assert (6, 80_000_000) == (one.count, one.largest)
    assert [5, 5, 80] == pytest.approx([one.quantile(fraction) / 1e6 for fraction in (0.0, 0.8, 0.84)], rel=0.01)
    assert (3, 80_000_000) == (two.count, two.largest)
