"""A real redis-server of a test's own, on a free loopback port."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path

START_S = 30.0


def missing() -> str | None:
    """Return why there can be no server here, or None."""
    return None if shutil.which("redis-server") else "redis-server is not on PATH (apt-get install redis-server)"


class RedisServer:
    """One server process; it dies with ``stop`` and keeps nothing but its append-only file, if it has one."""

    def __init__(self, *, is_durable: bool = False, is_cluster: bool = False) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gq-redis-")
        self._is_durable = is_durable
        self._is_cluster = is_cluster
        self._process: subprocess.Popen[bytes] | None = None
        for _ in range(5):  # somebody else may take the port before the server does
            self.port = _free_port()
            with contextlib.suppress(ConnectionError):
                self.start()
                return
        raise AssertionError((Path(self._folder.name) / "log").read_text())

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and return when it answers."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder.name]
        command += ["--save", "", "--appendonly", "yes" if self._is_durable else "no", "--appendfsync", "always"]
        command += ["--maxmemory-policy", "noeviction", "--daemonize", "no"]
        if self._is_cluster:
            command += ["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"]
        with (Path(self._folder.name) / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + START_S
        while self.ask("PING") != b"+PONG":
            if self._process.poll() is not None:
                raise ConnectionError("redis-server has ended")
            assert time.monotonic() < until, "redis-server does not answer"
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)
        if self._is_cluster:
            self.ask("CLUSTER ADDSLOTSRANGE 0 16383")
            while self.ask("SET ready 1") != b"+OK":
                assert time.monotonic() < until, "the cluster does not come up"

    def ask(self, command: str) -> bytes:
        """Return the first line of what the server says to *command*, b"" if it says nothing."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(command.encode() + b"\r\n")
            return connection.makefile("rb").readline().rstrip()
        return b""

    def freeze(self) -> None:
        """Stop it from answering while its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo ``freeze``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it, and forget what it kept."""
        self.kill()
        self._folder.cleanup()


def _free_port() -> int:
    """Return a port that is free, and low enough for a cluster's bus, which is 10,000 above."""
    for port in random.sample(range(20_000, 30_000), 200):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def let_pass(port: int, us: int) -> None:
    """Make everything that the stores of a server have written *us* microseconds older."""
    import redis

    client = redis.Redis(port=port)
    for key in client.scan_iter("gq:*"):
        what = key.rpartition(b":")[2]
        if what == b"state":
            for name, value in client.hgetall(key).items():
                if name.startswith(b"d:"):
                    numbers = list(struct.unpack("<10d", value))
                    for index in (2, 3, 8, 9):  # the instants at which levels will have drained
                        numbers[index] -= us
                    client.hset(key, name, struct.pack("<10d", *numbers))
                elif name in (b"t", b"pause", b"heal"):
                    client.hset(key, name, str(int(value) - us))
        elif what in (b"processes", b"ended"):
            for member in client.zrange(key, 0, -1):
                client.zincrby(key, -us, member)
        elif what == b"leases":
            for lease, record in client.hgetall(key).items():
                facts, _, rest = record.partition(b"|")
                epoch, process, granted = facts.split()
                client.hset(key, lease, b"%s %s %d|%s" % (epoch, process, int(granted) - us, rest))
    client.close()
