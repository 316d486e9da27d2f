"""Queues of one key share their budgets if they share their time."""

from __future__ import annotations

from groq_queue import GroqQueue, GroqSimulator, Limits
from groq_queue.clock import SystemClock
from groq_queue.testing import FakeClock

MODEL = "llama-3.1-8b-instant"


class Plain(FakeClock):
    """A clock that takes no weak reference."""

    __slots__ = ()
    __hash__ = None


def used_in_the_second(first_clock, second_clock):
    """Return how much of a limit the second of two queues of one key finds used after a request of the first."""
    with GroqSimulator(models=[MODEL]) as groq:
        options = {"api_key": "k", "base_url": groq.base_url, "model": MODEL, "limits": Limits(rpd=5)}
        with GroqQueue(clock=first_clock, **options) as first:
            first.complete("one")
            with GroqQueue(clock=second_clock, **options) as second:
                second.complete("two")
                return second.stats().lanes[0].limits[0].used


def test_two_queues_on_one_clock_count_together():
    clock = FakeClock()

    assert 2 == used_in_the_second(clock, clock)
    assert 2 == used_in_the_second(None, None)
    assert 2 == used_in_the_second(None, SystemClock())


def test_two_queues_on_two_clocks_count_apart():
    """
    An instant of one clock may be years away on the other, and what waits would wait for it.
    """
    assert 1 == used_in_the_second(FakeClock(), FakeClock(start_ns=5))
    assert 1 == used_in_the_second(None, FakeClock())
    assert 1 == used_in_the_second(Plain(), FakeClock())
