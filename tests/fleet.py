"""A Redis of the tests' own, and worker processes in front of a simulator."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from groq_queue import GroqQueue, GroqSimulator

MODEL = "llama-3.1-8b-instant"
PATIENCE_S = 60.0
LEASE_S = 2.0


def missing() -> str | None:
    """Return why there can be no fleet here, or None."""
    if shutil.which("redis-server") is None:
        return "redis-server is not on PATH (apt-get install redis-server)"
    for package in ("celery", "redis"):
        try:
            __import__(package)
        except ImportError:
            return f"{package} is not installed (pip install 'groq_queue[celery]')"
    return None


class Server:
    """One redis-server on a free loopback port, which writes its data down."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gq-redis-")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes]
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, or start it again with what it has written down."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder.name]
        command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"]
        with (Path(self._folder.name) / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + PATIENCE_S
        while self.ask("PING") != b"+PONG":
            assert time.monotonic() < until, "redis-server does not answer"
            assert self._process.poll() is None, "redis-server has ended"
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)

    def ask(self, command: str) -> bytes:
        """Return the first line of the answer to *command*, b"" if there is none."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(command.encode() + b"\r\n")
            return connection.makefile("rb").readline().rstrip()
        return b""

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it, and forget what it kept."""
        self.kill()
        self._folder.cleanup()


class Fleet:
    """A simulator, a Redis and the workers between them.

    Args:
        server: Holds nothing at first.
        options: Of the simulator; ``rpm`` and ``tpm`` with ``minute_s`` are told the workers too.
    """

    def __init__(self, server: Server, **options: Any) -> None:
        self.server = server
        self.broker = server.url
        self._limits = {name: options[name] for name in ("rpm", "tpm") if options.get(name) is not None}
        self._minute_s = options.get("minute_s")
        self.groq = GroqSimulator(**options)
        self.groq.start()
        self.workers: list[subprocess.Popen[str]] = []

    def start_worker(self, *arguments: str, lanes: str = "urgent:2,normal:4,bulk:4", key: str = "gsk_test") -> Any:
        """Start a worker and return its process once it is at work."""
        command = [sys.executable, "-m", "groq_queue", "worker", "--broker", self.broker, "--lanes", lanes]
        command += ["--lease", str(LEASE_S)]
        for name, limit in (self._limits or {"rpm": 1_000_000}).items():
            command += [f"--{name}", str(limit)]
        if self._minute_s is not None and self._limits:
            command += ["--minute", str(self._minute_s)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GROQ_")}
        process = subprocess.Popen(
            [*command, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=kept | {"GROQ_API_KEY": key, "GROQ_BASE_URL": self.groq.base_url},
        )
        self.workers.append(process)
        assert process.stderr is not None
        told = ""
        for line in process.stderr:
            told += line
            if line.startswith("worker "):
                return process
        raise AssertionError(told)

    def queue(self, **options: Any) -> GroqQueue:
        """Return a queue of this process that the workers serve."""
        options.setdefault("model", MODEL)
        return GroqQueue(engine="celery", broker=self.broker, **options)

    def stop_worker(self, process: Any, number: int = signal.SIGTERM) -> int:
        """End a worker and return its exit code."""
        process.send_signal(number)
        _, _ = process.communicate(timeout=PATIENCE_S)
        self.workers.remove(process)
        return int(process.returncode)

    def prompts(self) -> list[str]:
        """Return the prompts that the simulator was sent, in their order."""
        return [record.prompt for record in self.groq.log]

    def close(self) -> None:
        for process in list(self.workers):
            process.kill()
            process.communicate()
        self.groq.stop()


def need_fleet() -> None:
    """Skip the test if there can be no fleet; where it may not be skipped, fail."""
    reason = missing()
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def one_server() -> Iterator[Server]:
    need_fleet()
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def server(one_server: Server) -> Server:
    """A running Redis that holds nothing."""
    one_server.ask("FLUSHALL")
    return one_server


@pytest.fixture
def fleet(server: Server) -> Iterator[Any]:
    """Make fleets; each is stopped at the end of the test."""
    made: list[Fleet] = []

    def make(**options: Any) -> Fleet:
        made.append(Fleet(server, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
