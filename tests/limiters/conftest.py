"""A redis-server for the tests of shared budgets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis_server import RedisServer, missing, must_be_there


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
