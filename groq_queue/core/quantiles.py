"""Quantiles of any number of durations in bounded memory, within one per cent.

Values are counted in bins whose bounds grow by a constant factor, so the middle of
a value's bin is never further from it than that error, whatever the values are.

Units: nanoseconds.

Source: DDSketch, Masson, Rim and Lee, VLDB 2019.
"""

from __future__ import annotations

from math import ceil, exp, log

_ERROR = 0.01
_GROWTH = log((1 + _ERROR) / (1 - _ERROR))
_LEAST_NS = 1_000  # shorter ones are counted as none; so a year needs no more than 1,600 bins


class QuantileSketch:
    """Not thread-safe.

    >>> sketch = QuantileSketch()
    >>> for ms in range(1, 101):
    ...     sketch.add(ms * 1_000_000)
    >>> round(sketch.quantile(0.5) / 1e6), sketch.count
    (51, 100)
    """

    __slots__ = ("_bins", "count", "largest")

    def __init__(self) -> None:
        self._bins: dict[int, int] = {}
        self.count = 0
        self.largest = 0

    def add(self, value_ns: int) -> None:
        """Count a duration."""
        place = -1 if value_ns < _LEAST_NS else ceil(log(value_ns / _LEAST_NS) / _GROWTH)
        self._bins[place] = self._bins.get(place, 0) + 1
        self.count += 1
        if value_ns > self.largest:
            self.largest = value_ns

    def merge(self, other: QuantileSketch) -> None:
        """Count everything *other* has counted."""
        for place, count in other._bins.items():
            self._bins[place] = self._bins.get(place, 0) + count
        self.count += other.count
        self.largest = max(self.largest, other.largest)

    def quantile(self, fraction: float) -> int:
        """Return the value at *fraction* of all in ascending order, 0 if there are none."""
        left = min(self.count - 1, int(fraction * self.count))
        for place in sorted(self._bins):
            left -= self._bins[place]
            if left < 0:
                if place < 0:
                    return 0
                middle = _LEAST_NS * exp(place * _GROWTH) * (1 - _ERROR)
                return min(self.largest, round(middle))
        return 0
