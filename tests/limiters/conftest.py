"""Budgets of every kind, for the contracts that all of them keep, and a redis-server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import RedisServer, missing, must_be_there
from stores import STORES, Store


@pytest.fixture(scope="session")
def one_redis_server() -> Iterator[RedisServer]:
    reason = missing()
    if reason is not None:
        if must_be_there():
            pytest.fail(reason)
        pytest.skip(reason)
    pytest.importorskip("redis")
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture
def redis_server(one_redis_server: RedisServer) -> RedisServer:
    """A running server that holds nothing."""
    one_redis_server.ask("FLUSHALL")
    one_redis_server.ask("SCRIPT FLUSH")
    return one_redis_server


@pytest.fixture(params=list(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A fresh store of each kind."""
    place = request.getfixturevalue("redis_server") if request.param == "redis" else tmp_path
    made = STORES[request.param](place)
    yield made
    made.close()
