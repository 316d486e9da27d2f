"""Eight processes of four threads share a Redis that dies, forgets and comes back; the simulator's log is the judge.

Each takes half a minute: real minutes, real processes, real kills.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from extras import needs
from fleet import Fleet, highest_level, utilisation
from redis_server import RedisServer
from waiting import wait_until

from groq_queue import GroqSimulator

needs("redis", is_module=True)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_redis_server")]

RPM, TPM = 600, 60_000
NS_PER_S = 1_000_000_000
COMMANDS = ("evalsha", "eval", "subscribe", "hello", "auth", "select", "ping", "get", "client|setinfo")


@contextmanager
def server(**options: Any):
    """A server of the test's own: it will be hurt."""
    own = RedisServer(**options)
    try:
        yield own
    finally:
        own.stop()


def simulator(**options: Any) -> GroqSimulator:
    def output(rng, allowance):
        return max(1, round(allowance * rng.uniform(0.1, 1)))

    return GroqSimulator(**{"rpm": RPM, "tpm": TPM, "latency": (0.3, 2.0), "output": output, **options})


def orders(groq: GroqSimulator, redis_server: RedisServer, **more: Any) -> dict[str, Any]:
    common = {"base_url": groq.base_url, "limits": {"rpm": RPM, "tpm": TPM}, "tokens": [200, 1_000], "workers": 4}
    return {**common, "limiter": f"{redis_server.url}?scope=acme", **more}


def assert_never_over(groq: GroqSimulator) -> list[Any]:
    """Nothing was refused and no bucket ever held more than its limit; return what was admitted."""
    admitted = [each for each in groq.log if each.status == 200]

    assert len(groq.log) == len(admitted)
    assert RPM >= highest_level(admitted, RPM, 60, counts_requests=True)
    assert TPM >= highest_level(admitted, TPM, 60, counts_requests=False)
    return admitted


def resumed_after_s(admitted: list[Any], since_ns: int) -> float:
    """Return how long after *since_ns* the first request came that was not on its way already."""
    return (
        min(each.arrived_ns for each in admitted if each.arrived_ns > since_ns + NS_PER_S // 20) / 1e9 - since_ns / 1e9
    )


def commands(redis_server: RedisServer) -> int:
    """Return how many commands clients have sent; what a script calls is not one."""
    import redis

    client = redis.Redis(port=redis_server.port)
    stats = client.info("commandstats")
    client.close()
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in COMMANDS)


def let_run(seconds: float) -> None:
    threading.Event().wait(seconds)


def test_the_limits_are_used_and_never_passed():
    with server() as redis_server, simulator() as groq, Fleet(8, orders(groq, redis_server, seconds=60)) as fleet:
        fleet.go()
        figures = fleet.figures(timeout_s=200)

        admitted = assert_never_over(groq)
        assert [0] * 8 == [each["failed"] + each["refused"] for each in figures]
        assert utilisation(admitted, TPM, 60, 60) >= 0.97
        assert commands(redis_server) / len(admitted) <= 8


def test_clocks_an_hour_off_change_nothing():
    with server() as redis_server, simulator() as groq:
        shifts = [{"shift_s": shift_s} for shift_s in (3_600, -3_600, 0, 0)]
        with Fleet(4, orders(groq, redis_server, seconds=25, workers=8), shifts) as fleet:
            fleet.go()
            fleet.figures(timeout_s=100)

        admitted = assert_never_over(groq)
        assert utilisation(admitted, TPM, 60, 25) >= 0.95


@pytest.mark.parametrize("accident", ["flush", "restart", "restart with a file", "scripts flushed"])
def test_after_an_accident_it_goes_on_within_five_seconds_and_never_over(accident):
    with server(is_durable=accident == "restart with a file") as redis_server, simulator() as groq:
        with Fleet(8, orders(groq, redis_server, seconds=30)) as fleet:
            fleet.go()
            let_run(15)
            if accident.startswith("restart"):
                redis_server.kill()
                redis_server.start()
            else:
                assert b"+OK" == redis_server.ask("FLUSHALL" if accident == "flush" else "SCRIPT FLUSH")
            happened_ns = time.monotonic_ns()
            figures = fleet.figures(timeout_s=100)

        admitted = assert_never_over(groq)
        assert 8 == len(figures)
        assert resumed_after_s(admitted, happened_ns) <= 5


@pytest.mark.parametrize("on_outage", ["wait", "local_share"])
@pytest.mark.parametrize("hangs", [False, True])
def test_an_outage_is_lived_through(on_outage, hangs):
    """
    Fifteen seconds without Redis; what was settled meanwhile is told afterwards. Whoever goes on with a share
    has one to spend here: fewer and longer requests leave room.
    """
    load = {"latency": (3.0, 5.0)} if on_outage == "local_share" else {}
    workers = 1 if on_outage == "local_share" else 4
    with server() as redis_server, simulator(**load) as groq:
        with Fleet(8, orders(groq, redis_server, seconds=45, on_outage=on_outage, workers=workers)) as fleet:
            fleet.go()
            let_run(12)
            redis_server.freeze() if hangs else redis_server.kill()
            let_run(15)
            redis_server.thaw() if hangs else redis_server.start()
            back_ns = time.monotonic_ns()
            figures = fleet.figures(timeout_s=120)

        admitted = assert_never_over(groq)
        assert [0] * 8 == [each["failed"] for each in figures]
        assert resumed_after_s(admitted, back_ns) <= 5
        outage = [each for each in admitted if back_ns - 11 * NS_PER_S < each.arrived_ns < back_ns]
        assert bool(outage) == (on_outage == "local_share")


def test_a_killed_process_and_the_best_waiter_hold_nobody_up():
    """
    One dies with three requests under way, one as head of the line; the others go on within the heart-beat + 2 s.
    """
    slow = {"latency": 60, "output": 1.0, "tpm": 30_000}
    with server() as redis_server, simulator(**slow) as groq:
        limits = {"limits": {"rpm": RPM, "tpm": 30_000}, "tokens": [9_900, 9_900], "workers": 3}
        each = [{"count": 3}, {"count": 1, "priority": "critical"}, {"count": 1}]
        with Fleet(3, orders(groq, redis_server, **limits), each) as fleet:
            fleet.go(0)
            wait_until(lambda: 3 == len(groq.log) or leases(redis_server) == 3)
            fleet.go(1)
            wait_until(lambda: waiters(redis_server) == 1)
            fleet.go(2)
            wait_until(lambda: waiters(redis_server) == 2)
            fleet.kill(1)
            fleet.kill(0)
            died = time.monotonic()
            wait_until(lambda: waiters(redis_server) == 1 and leases(redis_server) == 0)

            assert time.monotonic() - died <= 5


class Door:
    """An address that leads to one port, and then to another: what moves at a failover."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._let_in, daemon=True)]
        self._threads[0].start()

    def lead_to(self, port: int) -> None:
        """Lead there from now on, and cut whoever went elsewhere."""
        self._to = port
        self._cut()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._cut()
        for each in self._threads:
            each.join(30)
        for end in (self._listener, *self._pairs):
            end.close()

    def _cut(self) -> None:
        for each in self._pairs:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _let_in(self) -> None:
        with suppress(OSError):
            while True:
                outer, _ = self._listener.accept()
                try:
                    inner = socket.create_connection(("127.0.0.1", self._to))
                except OSError:
                    outer.close()
                    continue
                self._pairs += [outer, inner]
                for ends in ((outer, inner), (inner, outer)):
                    self._threads.append(threading.Thread(target=self._carry, args=ends, daemon=True))
                    self._threads[-1].start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65_536):
                target.sendall(piece)
        for each in (source, target):  # a close alone would not wake who reads the other way
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def test_after_a_failover_to_a_replica_that_lags_it_goes_on_within_five_seconds_and_never_over():
    """
    The replica has not heard from its master for three seconds when that dies: what was granted since is not there.
    """
    with server() as master, server() as replica, simulator() as groq:
        door = Door(master.port)
        assert b"+OK" == replica.ask(f"REPLICAOF 127.0.0.1 {master.port}")
        common = orders(groq, master, seconds=30) | {"limiter": f"redis://127.0.0.1:{door.port}/0?scope=acme"}
        with Fleet(8, common) as fleet:
            fleet.go()
            let_run(12)
            lag(replica)
            let_run(3)
            master.kill()
            assert b"+OK" == replica.ask("REPLICAOF NO ONE")
            door.lead_to(replica.port)
            happened_ns = time.monotonic_ns()
            fleet.figures(timeout_s=100)
        door.close()

        admitted = assert_never_over(groq)
        assert resumed_after_s(admitted, happened_ns) <= 5


def lag(replica: RedisServer) -> None:
    """Cut a replica off, so that it stays behind with what it has."""
    assert b"+OK" == replica.ask("REPLICAOF 127.0.0.1 1")


def leases(redis_server: RedisServer) -> int:
    return length(redis_server, "leases")


def waiters(redis_server: RedisServer) -> int:
    return length(redis_server, "waiters")


def length(redis_server: RedisServer, what: str) -> int:
    import redis

    client = redis.Redis(port=redis_server.port)
    total = sum(client.hlen(key) for key in client.scan_iter(f"gq:*:{what}"))
    client.close()
    return total


def test_idle_waiters_cost_little():
    """
    32 threads in 8 processes wait for a budget that is spent for an hour.
    """
    with server() as redis_server, simulator(tpm=3_000, minute_s=6_000, latency=0.1) as groq:
        spent = {"limits": {"rpm": RPM, "tpm": 3_000, "minute_s": 6_000}, "tokens": [900, 1_000], "seconds": 25}
        with Fleet(8, orders(groq, redis_server, **spent)) as fleet:
            fleet.go()
            let_run(8)
            before = commands(redis_server)
            let_run(10)
            sent = commands(redis_server) - before
            fleet.figures(timeout_s=100)

    assert 0 < sent / 10 < 60
