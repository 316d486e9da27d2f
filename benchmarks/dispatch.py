"""What does a no-op cost on its way through the engine, against a bare ThreadPoolExecutor?

Both submit N calls that do nothing and wait for the last result; ours with
priorities, fair turns, limits and leases switched on. The round trip is one call
at a time: submit, then wait for its result. The ratio is ours over the baseline's:
above 1 we are faster. Rounds alternate, so that a noisy machine disturbs both.

    python benchmarks/dispatch.py [--quick] [--json FILE]
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial

from rig.measure import median, paired, parser_of, ratios, spread, write_json

from groq_queue import Limits
from groq_queue.clock import SystemClock
from groq_queue.core.budget import Lease
from groq_queue.core.request import Request
from groq_queue.core.response import Completion
from groq_queue.core.token_estimate import PromptSize, TokenCost
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.background import Timers
from groq_queue.engine.lane import Meter
from groq_queue.engine.thread_engine import ThreadEngine
from groq_queue.limiters.in_process import ProcessLimiter

_ANSWER = Outcome(Disposition.DONE, result=Completion({}))
_SIZE = PromptSize(10, 10, is_exact=True)


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
        wait([pool.submit(TokenCost, 10, 10) for _ in range(count)])
        return count / (time.perf_counter() - began)


def ours_in_turn(workers: int, count: int) -> float:
    engine = engine_of(workers)
    began = time.perf_counter()
    for _ in range(count):
        engine.submit(Request(model="m", endpoint="e", body=b"{}", size=_SIZE, priority=5)).result()
    took = time.perf_counter() - began
    engine.shutdown(wait=True, cancel_futures=False)
    return count / took


def theirs_in_turn(workers: int, count: int) -> float:
    with ThreadPoolExecutor(workers) as pool:
        began = time.perf_counter()
        for _ in range(count):
            pool.submit(TokenCost, 10, 10).result()
        return count / (time.perf_counter() - began)


def main() -> None:
    parser = parser_of(__doc__)
    options = parser.parse_args()
    count, rounds = (500, 1) if options.quick else (20_000, 5)

    rows = []
    cases = [("burst", workers, ours, theirs) for workers in (4, 8, 32)]
    cases.append(("round trip", 4, ours_in_turn, theirs_in_turn))
    for what, workers, one, other in cases:
        mine, executor = paired(rounds, partial(one, workers, count), partial(other, workers, count))
        row = {"what": what, "workers": workers, "ours_per_s": round(median(mine))}
        row |= {"executor_per_s": round(median(executor)), "ratio": spread(ratios(mine, executor))}
        rows.append(row)
        print(
            f"{what:10} {workers:3} workers: {row['ours_per_s']:>9,} no-ops/s, ThreadPoolExecutor "
            f"{row['executor_per_s']:>9,}/s, ratio {row['ratio']}"
        )
    write_json(options.json, "dispatch", rounds=rounds, requests=count, rows=rows)


if __name__ == "__main__":
    main()
