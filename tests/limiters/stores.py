"""Stores of shared budgets as the contract tests see them, whatever they are made of."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import redis_server
from redis_server import RedisServer

from groq_queue.clock import NS_PER_S, Clock, FakeClock
from groq_queue.limiters.sqlite import SqliteBudgetStore
from groq_queue.limiters.store import BudgetStore


class Store(Protocol):
    """One place that several processes share, and its clock.

    ``slack_ns`` is by how much a told wait may be shorter than worked out, because the store's clock runs by itself.
    """

    clock: Clock  # of the processes
    slack_ns: int
    longest_step_s: float  # of a random history: short where time really passes

    def open(self) -> BudgetStore:
        """Open it for one more process, alive until it is closed or killed."""
        ...

    def kill(self, budgets: BudgetStore) -> None:
        """Let a process never beat again."""
        ...

    def advance(self, seconds: float) -> None:
        """Let so much time pass on the store's clock, while whoever is alive goes on beating."""
        ...

    def now_s(self) -> float:
        """Return the present instant of a clock that runs no slower than the store's."""
        ...

    def close(self) -> None: ...


class _Stores:
    """The processes of one store, alive and dead, and a clock that the test moves."""

    longest_step_s = 1.0

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self._alive: list[Any] = []
        self._dead: list[Any] = []

    def kill(self, budgets: Any) -> None:
        self._alive.remove(budgets)
        self._dead.append(budgets)

    def advance(self, seconds: float) -> None:
        left_ns = round(seconds * NS_PER_S)
        while left_ns > 0:
            step_ns = min(left_ns, NS_PER_S) if left_ns < 100 * NS_PER_S else left_ns
            self._let_pass(step_ns)
            left_ns -= step_ns
            for budgets in self._alive:
                budgets.heartbeat()

    def _let_pass(self, step_ns: int) -> None:
        self.clock.advance(step_ns / NS_PER_S)

    def now_s(self) -> float:
        return self.clock.now_ns() / NS_PER_S

    def close(self) -> None:
        for budgets in (*self._alive, *self._dead):
            budgets.close()


class SqliteStore(_Stores):
    """A file, on a clock that the test moves."""

    slack_ns = 0

    def __init__(self, directory: Path) -> None:
        super().__init__(FakeClock())
        self.path = directory / "budgets.db"

    def open(self, clock: Any = None, **options: Any) -> SqliteBudgetStore:
        self._alive.append(SqliteBudgetStore(str(self.path), clock or self.clock, **options))
        return self._alive[-1]


class RunningClock(FakeClock):
    """One that goes by itself, too, as the clock of a real server does."""

    def __init__(self) -> None:
        super().__init__()
        self._began_ns = time.monotonic_ns()

    def now_ns(self) -> int:
        return super().now_ns() + time.monotonic_ns() - self._began_ns


class RedisStore(_Stores):
    """A Redis, whose clock is its own: what time would have done is done to what it holds."""

    slack_ns = NS_PER_S

    def __init__(self, server: RedisServer) -> None:
        super().__init__(RunningClock())
        self.server = server

    def open(self) -> Any:
        from groq_queue.limiters.redis import RedisBudgetStore

        self._alive.append(RedisBudgetStore.open(f"{self.server.url}?scope=test", self.clock))
        return self._alive[-1]

    def _let_pass(self, step_ns: int) -> None:
        super()._let_pass(step_ns)
        redis_server.let_pass(self.server.port, step_ns // 1_000)


STORES: dict[str, Callable[[Any], Store]] = {"sqlite": SqliteStore, "redis": RedisStore}
"""How each kind is made, in a fresh directory or on an empty server."""
