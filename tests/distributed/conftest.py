"""A Redis and workers for the tests of this folder; see ``tests/worker_fleet.py``."""

from __future__ import annotations

import pytest
from worker_fleet import fleet, one_server, server

from groq_queue.distributed import job_store

__all__ = ["fleet", "one_server", "server"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up on a Redis that is away after half a second."""
    monkeypatch.setattr(job_store, "PATIENCE_S", 0.5)
    monkeypatch.setattr(job_store, "SOCKET_TIMEOUT_S", 0.5)
