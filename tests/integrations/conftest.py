"""What adapters are tried on: a simulator, and a queue in front of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from groq_queue import GroqQueue, GroqSimulator, Limits

PATIENCE_S = 10.0
MODEL = "llama-3.1-8b-instant"
KEY = "gsk_the_callers_own_key_0123456789"


@pytest.fixture
def simulator():
    with GroqSimulator() as groq:
        yield groq


@pytest.fixture
def make_queue(simulator):
    """Make queues; each is shut down at the end. Their own key is not the one that adapters send."""
    queues = []

    def make(**options: Any) -> GroqQueue:
        options = {"limits": Limits(), "api_key": "queue", "base_url": simulator.base_url, **options}
        queues.append(GroqQueue(**options))
        return queues[-1]

    yield make
    for queue in queues:
        queue.shutdown(cancel_futures=True)


class HurriedClock:
    """A clock on which waits take a hundredth of their time, for what is only to be waited out."""

    def now_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC) * 100

    def wall_s(self) -> float:
        return time.time()

    def wait(self, condition: threading.Condition, until_ns: int | None) -> None:
        condition.wait(None if until_ns is None else max(0, until_ns - self.now_ns()) / 100e9)


class InThread:
    """A call on a thread of its own, and what came of it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._outcome: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome = self._call()
        except BaseException as error:
            self._error = error

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "it still waits"
        if self._error is not None:
            raise self._error
        return self._outcome
