"""Budgets of every kind, for the contracts that all of them keep, and a redis-server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from extras import needs, needs_program
from organisation import OneProcess, Organisation
from redis_server import RedisServer
from stores import STORES, Store


@pytest.fixture(scope="session")
def one_redis_server() -> Iterator[RedisServer]:
    needs("redis")
    needs_program("redis-server")
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture
def redis_server(one_redis_server: RedisServer) -> RedisServer:
    """A running server that holds nothing."""
    one_redis_server.ask("FLUSHALL")
    one_redis_server.ask("SCRIPT FLUSH")
    return one_redis_server


def made(kind: str, request: pytest.FixtureRequest) -> Store:
    return STORES[kind](request.getfixturevalue("redis_server" if kind == "redis" else "tmp_path"))


@pytest.fixture(params=list(STORES))
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A fresh store of each kind."""
    fresh = made(request.param, request)
    yield fresh
    fresh.close()


@pytest.fixture(params=["process", *STORES])
def organisation(request: pytest.FixtureRequest) -> Iterator[Organisation | OneProcess]:
    """An organisation on each kind of limiter."""
    if request.param == "process":
        alone = OneProcess()
        yield alone
        alone.close()
        return
    fresh = made(request.param, request)
    organisation = Organisation(fresh)
    yield organisation
    organisation.close()
    fresh.close()


@pytest.fixture
def closings(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[bool]]:
    """Note from now on, for every SQLite connection that is opened, whether it was closed."""

    def begin() -> list[bool]:
        noted: list[bool] = []
        connect = sqlite3.connect

        class Noted(sqlite3.Connection):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.number = len(noted)
                noted.append(False)

            def close(self) -> None:
                super().close()
                noted[self.number] = True

        monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, factory=Noted, **kwargs))
        return noted

    return begin
