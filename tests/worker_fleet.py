"""A Redis of the tests' own, and worker processes in front of a simulator."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from extras import needs, needs_program
from redis_server import RedisServer

from groq_queue import GroqQueue, GroqSimulator

MODEL = "llama-3.1-8b-instant"
PATIENCE_S = 60.0
LEASE_S = 2.0


class Worker:
    """A worker process, whose stderr is read as it comes: a full pipe would stop it."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self._told: list[str] = []
        self._is_up = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._is_up.wait(PATIENCE_S), self.told
        assert any(line.startswith("worker ") for line in self._told), self.told

    @property
    def told(self) -> str:
        """What it wrote to stderr so far."""
        return "".join(self._told)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_up(self) -> bool:
        return self._process.poll() is None

    def wait(self) -> int:
        """Wait until it ends, and return its exit code."""
        code = self._process.wait(PATIENCE_S)
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()
        return code

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._told.append(line)
            if line.startswith("worker "):
                self._is_up.set()
        self._is_up.set()


class Fleet:
    """A simulator, a Redis and the workers between them.

    Args:
        server: Holds nothing at first.
        options: Of the simulator; ``rpm`` and ``tpm`` with ``minute_s`` are told the workers too.
    """

    def __init__(self, server: RedisServer, **options: Any) -> None:
        self.server = server
        self.broker = server.url
        self._limits = {name: options[name] for name in ("rpm", "tpm") if options.get(name) is not None}
        self._minute_s = options.get("minute_s")
        self.groq = GroqSimulator(**options)
        self.groq.start()
        self.workers: list[Worker] = []

    def start_worker(self, *arguments: str, lanes: str = "urgent:2,normal:4,bulk:4", key: str = "gsk_test") -> Worker:
        """Start a worker and return it once it is at work."""
        command = [sys.executable, "-m", "groq_queue", "worker", "--broker", self.broker, "--lanes", lanes]
        command += ["--lease", str(LEASE_S)]
        for name, limit in (self._limits or {"rpm": 1_000_000}).items():
            command += [f"--{name}", str(limit)]
        if self._minute_s is not None and self._limits:
            command += ["--minute", str(self._minute_s)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GROQ_")}
        environment = kept | {"GROQ_API_KEY": key, "GROQ_BASE_URL": self.groq.base_url}
        worker = Worker([*command, *arguments], environment)
        self.workers.append(worker)
        return worker

    def queue(self, **options: Any) -> GroqQueue:
        """Return a queue of this process that the workers serve."""
        options.setdefault("model", MODEL)
        return GroqQueue(engine="celery", broker=self.broker, **options)

    def stop_worker(self, worker: Worker, number: int = signal.SIGTERM) -> int:
        """End a worker and return its exit code."""
        worker.signal(number)
        self.workers.remove(worker)
        return worker.wait()

    def prompts(self) -> list[str]:
        """Return the prompts that the simulator was sent, in their order."""
        return [record.prompt for record in self.groq.log]

    def close(self) -> None:
        for worker in self.workers:
            worker.signal(signal.SIGKILL)
            worker.wait()
        self.groq.stop()


def need_fleet() -> None:
    """Skip the test if there can be no fleet; where it may not be skipped, fail."""
    need_celery()
    needs_program("redis-server")


def need_celery() -> None:
    """The same for what a queue over Celery imports."""
    needs("celery")
    needs("redis")


@pytest.fixture(scope="session")
def one_server() -> Iterator[RedisServer]:
    need_fleet()
    server = RedisServer(is_durable=True)
    yield server
    server.stop()


@pytest.fixture
def server(one_server: RedisServer) -> RedisServer:
    """A running Redis that holds nothing."""
    one_server.ask("FLUSHALL")
    return one_server


@pytest.fixture
def fleet(server: RedisServer) -> Iterator[Any]:
    """Make fleets; each is stopped at the end of the test."""
    made: list[Fleet] = []

    def make(**options: Any) -> Fleet:
        made.append(Fleet(server, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
