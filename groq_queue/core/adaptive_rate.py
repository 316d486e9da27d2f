"""How fast to send while something is wrong that no number explains.

Two troubles slow a lane down. An outage (failures in a row, no answer between
them) must not be amplified by retries: the pace halves with each failure, down
to one attempt per second, and with the answers doubles every second until it is
back where it was. A server that refuses without naming a limit is probed from below: the
pace falls to seven tenths and then rises by a twentieth per interval of calm.

Source: slow start and additive increase/multiplicative decrease, RFC 5681.
"""

from __future__ import annotations

import random
from collections import deque

from groq_queue.clock import NS_PER_S

_FAILURES_IN_A_ROW = 5  # a tenth of failures at random makes five in a row once in 100,000 attempts
_ENOUGH = 8  # attempts from which a pace can be measured
_SLOWEST = 1.0  # attempts per second
_FASTEST = 1_000.0  # from here on the lane is open again
_LONGEST_TURN_S = 30.0
_DECREASE = 0.7
_INCREASE = 0.05
_RECOVERY = 0.7  # attempts per second gained by an answer: the pace doubles every second


class AdaptiveRate:
    """Not thread-safe: the limiter that owns it locks.

    While all is well there is nothing to do for an attempt but to append its instant to ``sends_ns``.

    Attributes:
        rate: Attempts per second; None is open: they keep no distance.
        failures: In a row, with no answer between them.
        sends_ns: When the last attempts were sent; the sender appends.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.rate: float | None = None
        self.failures = 0
        self.sends_ns: deque[int] = deque(maxlen=32)
        self._threshold = _FASTEST  # below it the pace doubles every second, above it it creeps up
        self._next_ns = 0

    def wait_ns(self, now_ns: int) -> int:
        """Return how long the next attempt has to wait for the pace alone."""
        return 0 if self.rate is None else max(0, self._next_ns - now_ns)

    def retry_spacing_ns(self, waiting: int) -> int:
        """Return how long a failed request stays away so that others are tried first.

        In an outage the oldest requests would otherwise be the only ones tried, and
        use up their retries.

        Args:
            waiting: Requests of the lane that could be tried instead.
        """
        if self.rate is None:
            return 0
        return round(min(_LONGEST_TURN_S, waiting / self.rate) * self._rng.uniform(0.5, 1.0) * NS_PER_S)

    def sent(self, now_ns: int) -> None:
        """Keep the distance to the next attempt; to be called for each while there is a rate."""
        if self.rate is not None:
            gap_ns = NS_PER_S / self.rate * self._rng.uniform(0.8, 1.2)
            self._next_ns = max(self._next_ns, now_ns) + round(gap_ns)

    def failed(self, now_ns: int) -> None:
        """Note an attempt that failed by no fault of its request."""
        self.failures += 1
        if self.failures < _FAILURES_IN_A_ROW:
            return
        rate = self._measured() if self.rate is None else self.rate
        self._slow_to(max(_SLOWEST, rate / 2), now_ns)

    def refused(self, now_ns: int) -> None:
        """Note a refusal that named no limit."""
        if self.rate is None and len(self.sends_ns) < _ENOUGH:
            return  # too little was sent to say how fast is too fast; the hold alone must do
        rate = self._measured() if self.rate is None else self.rate
        self._threshold = max(_SLOWEST, rate * _DECREASE)
        self._slow_to(self._threshold, now_ns)

    def answered(self) -> None:
        """Note an answer; to be called for each after failures, and while there is a rate."""
        self.failures = 0
        if self.rate is None:
            return
        if self.rate < self._threshold:
            self.rate = min(self.rate + _RECOVERY, self._threshold)
        else:
            self.rate += max(_SLOWEST * _INCREASE, self._threshold * _INCREASE / max(1.0, self.rate))
        if self.rate >= _FASTEST:
            self.rate, self._threshold = None, _FASTEST

    def _slow_to(self, rate: float, now_ns: int) -> None:
        self.rate = rate
        self._next_ns = max(self._next_ns, now_ns + round(NS_PER_S / rate * self._rng.uniform(0.5, 1.0)))

    def _measured(self) -> float:
        """Return the attempts per second of late."""
        if len(self.sends_ns) < 2:
            return _SLOWEST
        span_ns = max(1, self.sends_ns[-1] - self.sends_ns[0])
        return min(_FASTEST, (len(self.sends_ns) - 1) * NS_PER_S / span_ns)
