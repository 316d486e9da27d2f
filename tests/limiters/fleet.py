"""A fleet of processes in front of one simulator, and the oracle that reads what the simulator saw."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from redis_server import RedisServer

from groq_queue.limiters.sqlite import SqliteBudgetStore
from groq_queue.limiters.store import LaneStatus

SPENDER = Path(__file__).with_name("spender.py")
NS_PER_S = 1_000_000_000


class Fleet:
    """Spenders that start together; none outlives the ``with`` block."""

    def __init__(self, count: int, orders: dict[str, Any], each: Iterable[dict[str, Any]] | None = None) -> None:
        own = list(each or [{}] * count)
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(SPENDER), json.dumps({**orders, "seed": seed, **own[seed]})],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for seed in range(count)
        ]

    def go(self, *numbers: int) -> None:
        """Start those of these numbers, or all, at once, when all are ready."""
        chosen = [self.processes[number] for number in numbers] or self.processes
        for process in chosen:
            assert process.stdout is not None
            assert "ready\n" == process.stdout.readline()
        for process in chosen:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    def kill(self, number: int) -> None:
        """Kill one with SIGKILL."""
        self.processes[number].kill()
        self.processes[number].wait()

    def figures(self, timeout_s: float) -> list[dict[str, Any]]:
        """Return what those that were not killed say at their end."""
        said = [process.communicate(timeout=timeout_s)[0] for process in self.processes]
        return [json.loads(each) for each in said if each]

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


def highest_level(records: Iterable[Any], limit: int, period_s: float, *, counts_requests: bool) -> float:
    """Return the highest level that a bucket ever had, in units, charging real use at arrival.

    An oracle of its own: it shares no code with the meters it judges.
    """
    level = highest = 0.0
    last_ns = 0
    for each in sorted(records, key=lambda each: each.arrived_ns):
        level = max(0.0, level - (each.arrived_ns - last_ns) / NS_PER_S * limit / period_s)
        level += 1 if counts_requests else each.used_tokens
        last_ns = each.arrived_ns
        highest = max(highest, level)
    return highest


def utilisation(records: list[Any], limit: int, period_s: float, seconds: float) -> float:
    """Return the real tokens of what was admitted in *seconds* over what the limit allows in them."""
    first_ns = min(each.arrived_ns for each in records)
    used = sum(each.used_tokens for each in records if each.arrived_ns <= first_ns + seconds * NS_PER_S)
    return used / (limit * (1 + seconds / period_s))


class Place(Protocol):
    """A store for a fleet, looked at from outside."""

    url: str

    def waiting(self) -> int:
        """Return how many claims stand in line, in all lanes."""
        ...

    def status(self) -> LaneStatus:
        """Return the state of the only lane."""
        ...


class SqlitePlace:
    """A file in a fresh directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "budgets.db"
        self.url = f"sqlite://{self._path}"

    def waiting(self) -> int:
        return int(self._asked("SELECT count(*) FROM waiters"))

    def status(self) -> LaneStatus:
        lane = self._asked("SELECT name FROM lanes")
        with closing(SqliteBudgetStore(str(self._path))) as budgets:
            return budgets.status(lane)

    def _asked(self, question: str) -> Any:
        if not self._path.exists():
            return 0
        with closing(sqlite3.connect(self._path, timeout=10)) as db:
            return db.execute(question).fetchone()[0]


class RedisPlace:
    """An empty server of the test session."""

    def __init__(self, server: RedisServer) -> None:
        self.url = f"{server.url}?scope=fleet"
        self._server = server

    def waiting(self) -> int:
        import redis

        with closing(redis.Redis(port=self._server.port)) as client:
            return sum(client.hlen(key) for key in client.scan_iter("gq:*:waiters"))

    def status(self) -> LaneStatus:
        """Lanes are stored under fingerprints, so the only one goes by the name its keys have."""
        import redis

        from groq_queue.limiters import redis as redis_store

        with closing(redis.Redis(port=self._server.port)) as client:
            [state] = client.scan_iter("gq:*:state")
        with closing(redis_store.RedisBudgetStore.open(self.url)) as budgets:
            budgets._know("the only one", state.decode().removesuffix(":state"))
            return budgets.status("the only one")


PLACES: dict[str, Callable[[Any], Place]] = {"sqlite": SqlitePlace, "redis": RedisPlace}
"""One of each kind, in a fresh directory or on an empty server."""
