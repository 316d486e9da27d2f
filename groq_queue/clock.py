"""The one clock: every instant and every wait of the library goes through it.

Instants are integer nanoseconds of a clock that never steps; its zero means
nothing. Where the platform has it the clock goes on while the machine sleeps
(``CLOCK_BOOTTIME``), because the server's buckets drain meanwhile.

``time.monotonic`` is not used: freezegun replaces it, and a library whose waits
are frozen while its arithmetic is not (or the other way round) never wakes up.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

NS_PER_S = 1_000_000_000
_SLICE_S = 30.0  # a longer wait is cut here, so that a resumed machine looks again soon


class Clock(Protocol):
    """What the rooms that wait need to know about time."""

    def now_ns(self) -> int:
        """Return the current instant in nanoseconds."""
        ...

    def wall_s(self) -> float:
        """Return seconds of the Unix epoch; only for dates in headers and on screen."""
        ...

    def wait(self, condition: threading.Condition, until_ns: int | None) -> None:
        """Wait on *condition*, whose lock is held, until notified or until *until_ns*.

        May return early; callers look at the world again and wait once more.
        None waits for a notification only.
        """
        ...


def _steady_reader() -> Callable[[], int]:
    """Return the best reader of steady nanoseconds that this platform has."""
    for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):
        clock_id = getattr(time, name, None)
        if clock_id is None:
            continue
        try:
            time.clock_gettime_ns(clock_id)
        except OSError:
            continue
        return partial(time.clock_gettime_ns, clock_id)
    return time.monotonic_ns


class SystemClock:
    """The clock of this machine."""

    # The reader itself is in the class: it is read several times for each request, and a subclass can override it.
    now_ns = staticmethod(_steady_reader())

    def wall_s(self) -> float:
        return time.time()

    def wait(self, condition: threading.Condition, until_ns: int | None) -> None:
        if until_ns is None:
            condition.wait()
            return
        timeout_s = (until_ns - self.now_ns()) / NS_PER_S
        if timeout_s > 0:
            condition.wait(min(timeout_s, _SLICE_S))


class FakeClock:
    """A clock that stands still until a test moves it.

    ``_lock`` guards ``_now`` and ``_alarms``; no other lock is taken under it.
    """

    def __init__(self, start_ns: int = 1_000_000 * NS_PER_S) -> None:
        self._lock = threading.Lock()
        self._now = start_ns
        self._alarms: list[tuple[int, int, threading.Condition]] = []
        self._count = 0

    def now_ns(self) -> int:
        with self._lock:
            return self._now

    def wall_s(self) -> float:
        return self.now_ns() / NS_PER_S

    def wait(self, condition: threading.Condition, until_ns: int | None) -> None:
        if until_ns is not None:
            with self._lock:
                if until_ns <= self._now:
                    return
                self._count += 1
                heapq.heappush(self._alarms, (until_ns, self._count, condition))
        condition.wait()

    def is_awaited(self, seconds: float) -> bool:
        """Return whether a thread waits for the instant in *seconds* from now."""
        with self._lock:
            return any(when_ns == self._now + round(seconds * NS_PER_S) for when_ns, _, _ in self._alarms)

    def advance(self, seconds: float) -> None:
        """Move the clock on and wake everyone whose instant has come."""
        with self._lock:
            self._now += round(seconds * NS_PER_S)
            due = []
            while self._alarms and self._alarms[0][0] <= self._now:
                due.append(heapq.heappop(self._alarms)[2])
        for condition in due:
            with condition:
                condition.notify_all()
