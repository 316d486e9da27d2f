"""One program, two engines: a queue whose requests this process sends, and one whose requests a worker sends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from redis_server import RedisServer
from worker_fleet import MODEL, Fleet, need_fleet, one_server, server

from groq_queue import GroqQueue, GroqSimulator, Limits
from groq_queue.simulator import Fault, Record

__all__ = ["one_server", "server"]

ONE_AT_A_TIME_S = {"threads": 0.1, "celery": 1.0}
"""How far apart requests are sent by ``one_at_a_time``: in the first such time a test must have submitted all."""

FLIGHT_S = {"threads": 0.15, "celery": 1.0}
"""How long a request is on its way by ``is_slow``: long enough to do something about it meanwhile."""


class Stage:
    """A simulator with a queue in front of it, over one of the engines.

    Args:
        fleet: The simulator's workers, or None if the queue sends by itself.
        groq: The simulator; what it was sent before does not count.
        limits: What whoever sends knows of its limits.
        workers: Threads that send, in each lane if there are lanes.
    """

    def __init__(self, fleet: Fleet | None, groq: GroqSimulator, limits: Limits, workers: int) -> None:
        self._groq = groq
        self._before = len(groq.log)
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
        return GroqQueue(base_url=self._groq.base_url, limits=self._limits, max_workers=self._workers, **options)

    @property
    def log(self) -> list[Record]:
        return self._groq.log[self._before :]

    def prompts(self) -> list[str]:
        return [record.prompt for record in self.log]

    def wait_for_requests(self, count: int) -> None:
        assert self._groq.wait_for_requests(self._before + count, 60)


@pytest.fixture(scope="session")
def resident() -> Iterator[Fleet]:
    """A fleet without limits that stays up for every test that needs no other: to start a worker takes seconds."""
    need_fleet()
    fleet = Fleet(RedisServer())
    fleet.start_worker(lanes="urgent:4,normal:4,bulk:4")
    yield fleet
    fleet.close()
    fleet.server.stop()


@pytest.fixture
def play(request: pytest.FixtureRequest) -> Iterator[Callable[..., Stage]]:
    """Set stages; each is cleared at the end of the test.

    ``faults`` are the simulator's, ``is_slow`` makes it take its time. With limits, as ``rpm``, or ``one_at_a_time``
    the stage has a simulator, and over Celery a worker, of its own.
    """
    clears: list[Callable[[], None]] = []

    def make(
        engine: str,
        *,
        workers: int = 4,
        faults: Iterable[Fault] = (),
        is_slow: bool = False,
        one_at_a_time: bool = False,
        **limits: Any,
    ) -> Stage:
        faults = [*faults, *([Fault(delay_s=FLIGHT_S[engine])] if is_slow else [])]
        if one_at_a_time:
            limits = {"rpm": 1, "minute_s": ONE_AT_A_TIME_S[engine]}
        if engine == "threads":
            groq = GroqSimulator(faults=faults, **limits)
            groq.start()
            clears.append(groq.stop)
            return Stage(None, groq, Limits(**limits), workers)
        need_fleet()
        if not limits:
            fleet = request.getfixturevalue("resident")
            assert all(worker.is_up() for worker in fleet.workers)
            fleet.groq.set_faults(faults)
            return Stage(fleet, fleet.groq, Limits(), workers)
        fleet = Fleet(request.getfixturevalue("server"), faults=faults, **limits)
        clears.append(fleet.close)
        fleet.start_worker(lanes=f"urgent:{workers},normal:{workers},bulk:{workers}")
        return Stage(fleet, fleet.groq, Limits(), workers)

    yield make
    for clear in clears:
        clear()


@pytest.fixture(scope="session", params=["threads", "celery"])
def engine(request: pytest.FixtureRequest) -> str:
    """The name of an engine; the fleet is up before a test begins, which leaves no thread behind then."""
    if request.param == "celery":
        request.getfixturevalue("resident")
    return str(request.param)


@pytest.fixture
def stage(engine: str, play: Callable[..., Stage]) -> Callable[..., Stage]:
    """Set stages over one of the engines; the test runs once for each."""
    return lambda **options: play(engine, **options)


@pytest.fixture(params=["threads", pytest.param("celery", marks=pytest.mark.gate)])
def limited_stage(request: pytest.FixtureRequest, play: Callable[..., Stage]) -> Callable[..., Stage]:
    """The same with limits; over Celery each starts a worker of its own, for which the quick suite has no time."""
    return lambda **options: play(request.param, **options)
