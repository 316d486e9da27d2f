"""Quantiles in bounded memory."""

from __future__ import annotations

import random

import pytest

from groq_queue.core.pricing import quantile
from groq_queue.core.sketch import Sketch


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_a_quantile_is_within_one_per_cent_of_the_truth(fraction):
    """
    Over twelve orders of magnitude, since waits may take microseconds or days.
    """
    draws = random.Random(5)
    values = [round(10 ** draws.uniform(3.5, 15)) for _ in range(5_000)]
    sketch = Sketch()
    for value in values:
        sketch.add(value)

    truth = quantile(values, fraction)

    assert truth == pytest.approx(sketch.quantile(fraction), rel=0.0101)
    assert 5_000 == sketch.count


def test_memory_does_not_grow_with_the_number_of_values():
    """
    A year in nanoseconds and everything below it fits into 1,600 bins.
    """
    sketch = Sketch()
    for exponent in range(16_500):
        sketch.add(round(10 ** (exponent / 1_000)))

    assert len(sketch._bins) < 1_600


def test_merged_sketches_count_like_one():
    """
    The waits of all levels together are those of each.
    """
    one, two, both = Sketch(), Sketch(), Sketch()
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
    assert 0 == Sketch().quantile(0.5)
