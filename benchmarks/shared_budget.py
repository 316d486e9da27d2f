"""What does it cost to reserve and settle four dimensions of a budget that processes share in a file?

Each process reserves and settles as fast as it can, limits far away. The baseline,
in the same run, is two bare transactions of sqlite3 that change one row each, with
the same settings of the file; the ratio is ours over that. A denied reserve, asked
again and again by claims that stand in line, is timed too.

    python benchmarks/shared_budget.py [--quick] [--seconds 5] [--processes 1 8] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from groq_queue import __version__
from groq_queue.limiters.sqlite import SqliteBudgetStore
from groq_queue.limiters.store import ReservationRequest, Reserved

MINUTE_NS = 60_000_000_000
FAR = dict.fromkeys(("RPM", "RPD", "TPM", "TPD"), (10**12, MINUTE_NS))
NEAR = dict.fromkeys(FAR, (1, 10**18))
COST = {"RPM": 1, "RPD": 1, "TPM": 500, "TPD": 500}


def rounds(path: str) -> Callable[[], None]:
    """Return one request's calls: reserve and settle."""
    ledger, number = SqliteBudgetStore(path), 0

    def one() -> None:
        nonlocal number
        number += 1
        claim = ReservationRequest(f"{ledger.token}-{number}", "lane", COST)
        assert isinstance(ledger.reserve(claim, FAR), Reserved)
        ledger.settle("lane", claim.id, COST, COST, {}, FAR)

    return one


def denials(path: str) -> Callable[[], None]:
    """Return one denied reserve of a claim that stands in line."""
    ledger = SqliteBudgetStore(path)
    ledger.charge("full", dict.fromkeys(COST, 1), NEAR)
    claim = ReservationRequest(f"{ledger.token}-1", "full", dict.fromkeys(COST, 1))

    def one() -> None:
        assert not isinstance(ledger.reserve(claim, NEAR), Reserved)

    return one


def bare(path: str) -> Callable[[], None]:
    """Return two transactions of sqlite3 that change one row each."""
    db = sqlite3.connect(path + "-bare", isolation_level=None, timeout=5.0)
    db.execute("PRAGMA journal_mode = PERSIST")
    db.execute("PRAGMA synchronous = OFF")
    db.execute("CREATE TABLE IF NOT EXISTS levels (name TEXT PRIMARY KEY, level INTEGER)")
    db.execute("INSERT OR IGNORE INTO levels VALUES ('lane', 0)")

    def one() -> None:
        for _ in range(2):
            db.execute("BEGIN IMMEDIATE")
            db.execute("SELECT level FROM levels WHERE name = 'lane'").fetchone()
            db.execute("UPDATE levels SET level = level + 1 WHERE name = 'lane'")
            db.execute("COMMIT")

    return one


WORK = {"ours": rounds, "denied": denials, "bare": bare}


def work(kind: str, path: str, seconds: float) -> None:
    """Be one process: start when told, print how often it was done and the 99th percentile of its time."""
    one = WORK[kind](path)
    print("ready", flush=True)
    sys.stdin.readline()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        one()
        times.append(time.perf_counter() - began)
    times.sort()
    print(json.dumps({"count": len(times), "p99_ms": times[int(0.99 * (len(times) - 1))] * 1e3}), flush=True)


def measure(kind: str, processes: int, path: str, seconds: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "--as", kind, "--path", path, "--seconds", str(seconds)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    for each in started:
        assert each.stdout is not None
        each.stdout.readline()
    for each in started:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    told = [json.loads(each.communicate(timeout=seconds + 60)[0]) for each in started]
    return {
        "kind": kind,
        "processes": processes,
        "per_second": sum(each["count"] for each in told) / seconds,
        "worst_p99_ms": max(each["p99_ms"] for each in told),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short, to see that it runs")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--as", dest="kind", choices=WORK, help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind:
        work(options.kind, options.path, options.seconds)
        return
    seconds, counts = (0.5, [2]) if options.quick else (options.seconds, options.processes)

    rows = []
    print(f"{'processes':>9} {'ours/s':>8} {'p99 ms':>7} {'bare/s':>8} {'ratio':>6} {'denied/s':>9}")
    with tempfile.TemporaryDirectory() as directory:
        for processes in counts:
            path = str(Path(directory) / f"{processes}.db")
            ours, plain, denied = (measure(kind, processes, path, seconds) for kind in ("ours", "bare", "denied"))
            rows += [ours, plain, denied]
            print(
                f"{processes:9} {ours['per_second']:8.0f} {ours['worst_p99_ms']:7.1f} {plain['per_second']:8.0f} "
                f"{ours['per_second'] / plain['per_second']:6.3f} {denied['per_second']:9.0f}",
                flush=True,
            )
    if options.json:
        report = {
            "benchmark": "shared_budget",
            "version": __version__,
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "machine": platform.machine(),
            "seconds": seconds,
            "rows": rows,
        }
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump(report, out, indent=2)


if __name__ == "__main__":
    main()
