"""How many requests a second can a shared Redis budget grant and settle, against a script that does nothing?

A pair is one ``reserve`` and one ``settle`` of four dimensions, all processes in one lane whose limits nobody
reaches. The baseline is two bare ``EVALSHA`` of ``return 1`` through the same client library, at the same server,
from as many processes; rounds alternate, so that a noisy machine disturbs both alike. The ratio is ours over bare.

The server is this program's own, on a free loopback port. Without ``redis-server`` on PATH it says so and ends.

    python benchmarks/redis_budget.py [--quick] [--seconds 5] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from groq_queue import __version__

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from redis_server import RedisServer, missing

MINUTE_NS = 60_000_000_000
LIMITS = {
    "RPM": (10**9, MINUTE_NS),
    "RPD": (10**10, 1_440 * MINUTE_NS),
    "TPM": (10**12, MINUTE_NS),
    "TPD": (10**13, 1_440 * MINUTE_NS),
}
COST = {"RPM": 1, "RPD": 1, "TPM": 700, "TPD": 700}
USED = {"RPM": 1, "RPD": 1, "TPM": 300, "TPD": 300}


def pairs_of_ours(url: str, seconds: float) -> int:
    from groq_queue.limiters.redis import RedisBudgetStore
    from groq_queue.limiters.store import ReservationRequest, Reserved

    ledger = RedisBudgetStore.open(url)
    ledger.status("benchmark")
    wait_for_start()
    until, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        number += 1
        claim = ReservationRequest(f"{ledger.token}-{number}", "benchmark", COST)
        assert isinstance(ledger.reserve(claim, LIMITS), Reserved)
        ledger.settle(claim.lane, claim.id, COST, USED, {}, LIMITS)
    ledger.close()
    return number


def pairs_of_nothing(url: str, seconds: float) -> int:
    import redis

    client = redis.Redis.from_url(url.partition("?")[0])
    sha = client.script_load("return 1")
    wait_for_start()
    until, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        number += 1
        client.evalsha(sha, 0)
        client.evalsha(sha, 0)
    client.close()
    return number


def wait_for_start() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def rate(kind: str, url: str, processes: int, seconds: float) -> float:
    """Return the pairs a second of so many processes together."""
    command = [sys.executable, __file__, "--process", kind, url, str(seconds)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(int(process.communicate(timeout=seconds + 60)[0]) for process in running) / seconds


def measure(processes: int, rounds: int, seconds: float) -> dict[str, Any]:
    ours, bare = [], []
    server = RedisServer()
    try:
        for _ in range(rounds):
            ours.append(rate("ours", f"{server.url}?scope=benchmark", processes, seconds))
            bare.append(rate("nothing", server.url, processes, seconds))
    finally:
        server.stop()
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    figures = {"ours": statistics.median(ours), "bare": statistics.median(bare), "ratio": statistics.median(ratios)}
    print(
        f"{processes} process{'es' if processes > 1 else ''}: {figures['ours']:,.0f} reserve + settle a second, "
        f"two bare scripts {figures['bare']:,.0f}; ratio {figures['ratio']:.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}, {rounds} rounds of {seconds:g} s)"
    )
    return figures


def why_not() -> str | None:
    try:
        import redis  # noqa: F401
    except ImportError:
        return "redis-py is not installed (pip install '.[redis]')"
    return missing()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only show that it runs")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--process", nargs=3, metavar=("KIND", "URL", "SECONDS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.process:
        kind, url, seconds = args.process
        print((pairs_of_ours if kind == "ours" else pairs_of_nothing)(url, float(seconds)))
        return
    result: dict[str, Any] = {"version": __version__, "python": platform.python_version(), "skipped": why_not()}
    if result["skipped"]:
        print(f"skipped, no ratio: {result['skipped']}")
    else:
        rounds, seconds = (1, 0.5) if args.quick else (args.rounds, args.seconds)
        result["processes"] = {count: measure(count, rounds, seconds) for count in (1, 8)}
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
