"""A RabbitMQ of a test's own, on free loopback ports."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

START_S = 90.0


def script() -> Path | None:
    """Return the server's own start script (the one on PATH insists on its own user), or None if it is not there."""
    found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    return found[-1] if found and shutil.which("epmd") else None


class Rabbit:
    """One broker, with a port mapper of its own; both end with ``stop``."""

    def __init__(self) -> None:
        command = script()
        assert command is not None
        self._folder = tempfile.TemporaryDirectory(prefix="gq-rabbit-")
        self.port, distribution, mapper = (_free_port() for _ in range(3))
        folder = Path(self._folder.name)
        self._env = os.environ | {
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"gq{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "none"),
        }
        with (folder / "out").open("ab") as out:
            self._process = subprocess.Popen([str(command)], env=self._env, stdout=out, stderr=out)
        until = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, (folder / "out").read_text()
            assert time.monotonic() < until, "rabbitmq-server does not answer"
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def stop(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self._process.kill()
        self._process.wait()
        subprocess.run(["epmd", "-kill"], env=self._env, capture_output=True, check=False)
        self._folder.cleanup()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return bool(connection.recv(1))
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
