"""A clock for what waits on real sockets: the backoffs of seconds pass in milliseconds, in their true order."""

from __future__ import annotations

import threading

from groq_queue.clock import SystemClock


class HastyClock:
    """The machine's clock, *times* as fast.

    For queues without limits only: the simulator counts its minutes on the machine's own clock.
    """

    def __init__(self, times: int = 200) -> None:
        self._clock = SystemClock()
        self._times = times

    def now_ns(self) -> int:
        return self._clock.now_ns() * self._times

    def wall_s(self) -> float:
        return self._clock.wall_s()

    def wait(self, condition: threading.Condition, until_ns: int | None) -> None:
        self._clock.wait(condition, None if until_ns is None else until_ns // self._times)
