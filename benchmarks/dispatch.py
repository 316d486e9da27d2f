"""What does a no-op cost on its way through the engine, against a bare ThreadPoolExecutor?

Both submit N calls that do nothing and wait for the last result; ours with
priorities, fair turns, limits and leases switched on. The ratio is ours over
the baseline's: above 1 we are faster. Rounds alternate, so that a noisy machine
disturbs both.

    python benchmarks/dispatch.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait

from groq_queue import Limits, __version__
from groq_queue.clock import SystemClock
from groq_queue.core.budget import Lease
from groq_queue.core.completion import Completion
from groq_queue.core.pricing import Cost, Size
from groq_queue.core.request import Request
from groq_queue.engine.lane import Meter
from groq_queue.engine.runner import Next, Outcome
from groq_queue.engine.threads import ThreadEngine
from groq_queue.engine.timers import Timers
from groq_queue.limiters.process import ProcessLimiter

_ANSWER = Outcome(Next.DONE, result=Completion({}))
_SIZE = Size(10, 10, is_exact=True)


class Nothing:
    """Attempts that settle their lease and do nothing else."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock

    def attempt(self, request: Request, lease: Lease, meter: Meter) -> Outcome:
        meter.settle(lease, request.size, (10, 10, 0), (), self._clock.now_ns())
        return _ANSWER


def engine_of(workers: int) -> ThreadEngine:
    clock = SystemClock()
    limits = Limits(rpm=10**9, tpm=10**12)
    return ThreadEngine(
        attempts=Nothing(clock),
        meter_of=ProcessLimiter(limits).meter,
        clock=clock,
        timers=Timers(clock, "bench"),
        max_workers=workers,
    )


def ours(workers: int, count: int) -> float:
    engine = engine_of(workers)
    began = time.perf_counter()
    futures = [
        engine.submit(Request(model="m", endpoint="e", body=b"{}", size=_SIZE, priority=5)) for _ in range(count)
    ]
    wait(futures)
    took = time.perf_counter() - began
    engine.shutdown(wait=True, cancel_futures=False)
    return count / took


def theirs(workers: int, count: int) -> float:
    with ThreadPoolExecutor(workers) as pool:
        began = time.perf_counter()
        wait([pool.submit(Cost, 10, 10) for _ in range(count)])
        return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small round, to see that it runs")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    count, rounds = (500, 1) if options.quick else (20_000, 5)

    rows = []
    for workers in (4, 8, 32):
        pairs = [(ours(workers, count), theirs(workers, count)) for _ in range(rounds)]
        ratios = [mine / other for mine, other in pairs]
        rows.append(
            {
                "workers": workers,
                "ours_per_s": round(statistics.median(mine for mine, _ in pairs)),
                "executor_per_s": round(statistics.median(other for _, other in pairs)),
                "ratio": round(statistics.median(ratios), 3),
                "ratio_min": round(min(ratios), 3),
                "ratio_max": round(max(ratios), 3),
            }
        )
        print(
            f"{workers:3} workers: {rows[-1]['ours_per_s']:>9,} no-ops/s, ThreadPoolExecutor "
            f"{rows[-1]['executor_per_s']:>9,}/s, ratio {rows[-1]['ratio']:.2f} "
            f"[{rows[-1]['ratio_min']:.2f}..{rows[-1]['ratio_max']:.2f}]"
        )
    if options.json:
        report = {
            "benchmark": "dispatch",
            "version": __version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "rounds": rounds,
            "requests": count,
            "rows": rows,
        }
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump(report, out, indent=2)
    sys.exit(0)


if __name__ == "__main__":
    main()
