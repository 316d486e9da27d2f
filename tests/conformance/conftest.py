"""One program, two engines: a queue whose requests this process sends, and one whose requests a worker sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from worker_fleet import MODEL, Fleet, need_fleet, one_server, server

from groq_queue import GroqQueue, GroqSimulator, Limits

__all__ = ["one_server", "server"]

ENGINES = ("threads", "celery")


class Stage:
    """A simulator with a queue in front of it, over one of the engines.

    Args:
        fleet: The simulator's workers, or None if the queue sends by itself.
        groq: The simulator.
        limits: What whoever sends knows of its limits.
        workers: Threads that send, in each lane if there are lanes.
    """

    def __init__(self, fleet: Fleet | None, groq: GroqSimulator, limits: Limits, workers: int) -> None:
        self.groq = groq
        self._fleet = fleet
        self._limits = limits
        self._workers = workers

    @property
    def engine(self) -> str:
        return "threads" if self._fleet is None else "celery"

    def queue(self, **options: Any) -> GroqQueue:
        options = {"model": MODEL, "api_key": "gsk_test"} | options
        if self._fleet is not None:
            return GroqQueue(engine="celery", broker=self._fleet.broker, **options)
        return GroqQueue(base_url=self.groq.base_url, limits=self._limits, max_workers=self._workers, **options)

    def prompts(self) -> list[str]:
        return [record.prompt for record in self.groq.log]

    def wait_for_requests(self, count: int) -> None:
        assert self.groq.wait_for_requests(count, 60)


@pytest.fixture
def play(request: pytest.FixtureRequest) -> Iterator[Callable[..., Stage]]:
    """Set stages; each is cleared at the end of the test."""
    clears: list[Callable[[], None]] = []

    def make(engine: str, *, workers: int = 4, key: str = "gsk_test", **options: Any) -> Stage:
        if engine == "threads":
            groq = GroqSimulator(**options)
            groq.start()
            clears.append(groq.stop)
            known = {name: options[name] for name in ("rpm", "tpm", "minute_s") if name in options}
            return Stage(None, groq, Limits(**known), workers)
        need_fleet()
        fleet = Fleet(request.getfixturevalue("server"), **options)
        clears.append(fleet.close)
        fleet.start_worker(lanes=f"urgent:{workers},normal:{workers},bulk:{workers}", key=key)
        return Stage(fleet, fleet.groq, Limits(), workers)

    yield make
    for clear in clears:
        clear()


@pytest.fixture(params=ENGINES)
def stage(request: pytest.FixtureRequest, play: Callable[..., Stage]) -> Callable[..., Stage]:
    """Set stages over one of the engines; the test runs once for each."""
    return lambda **options: play(request.param, **options)
