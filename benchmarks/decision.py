"""What does one decision of the limiter cost: may this request go now?

Two dimensions (requests and tokens) at once, with budget there, from 1 and from 8
threads: a lease and its settling by ours; two levels drained by the clock under one
Lock, the least that does the work; and ``try_acquire`` of pyrate-limiter's token
bucket with one rate, where it is installed. The ratio is ours over the other's time.

    python benchmarks/decision.py [--quick] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rig.measure import is_installed, median, paired, parser_of, ratios, spread, write_json

from groq_queue import Limits
from groq_queue.core.token_estimate import PromptSize
from groq_queue.limiters.in_process import ProcessLimiter

_LIMITS = Limits(rpm=10**9, tpm=10**12)
_SIZE = PromptSize(10, 10, is_exact=True)


def of_ours() -> Callable[[], Any]:
    meter = ProcessLimiter(_LIMITS).meter("m", "m")

    def decide() -> None:
        lease = meter.lease(_SIZE, time.monotonic_ns())
        meter.settle(lease, _SIZE, (10, 10, 0), (), time.monotonic_ns())  # type: ignore[arg-type]

    return decide


def of_lease() -> Callable[[], Any]:
    meter = ProcessLimiter(_LIMITS).meter("m", "m")
    return lambda: meter.lease(_SIZE, time.monotonic_ns())


def of_two_levels() -> Callable[[], Any]:
    lock, levels, at = threading.Lock(), [0.0, 0.0], [time.monotonic()]

    def decide() -> bool:
        with lock:
            now = time.monotonic()
            passed, at[0] = now - at[0], now
            levels[0] = max(0.0, levels[0] - passed * 1e7)
            levels[1] = max(0.0, levels[1] - passed * 1e10)
            if levels[0] + 1 > 1e9 or levels[1] + 20 > 1e12:
                return False
            levels[0] += 1
            levels[1] += 20
            return True

    return decide


def of_pyrate() -> Callable[[], Any]:
    from pyrate_limiter import Limiter, Rate, StateBucket, TokenBucket

    limiter = Limiter(StateBucket([Rate(10**9, 60_000)], TokenBucket()))
    return lambda: limiter.try_acquire("m", weight=1)


def each_us(make: Callable[[], Callable[[], Any]], threads: int, count: int) -> float:
    """Return microseconds a decision, as *threads* make *count* together."""
    decide = make()
    barrier = threading.Barrier(threads + 1)

    def work() -> None:
        barrier.wait()
        for _ in range(count // threads):
            decide()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - began) * 1e6 / count


def main() -> None:
    parser = parser_of(__doc__, rounds=5)
    options = parser.parse_args()
    count, rounds = (2_000, 1) if options.quick else (40_000, options.rounds)
    sides = {"lease and settle": of_ours, "lease alone": of_lease, "two levels, one Lock": of_two_levels}
    if is_installed("pyrate_limiter"):
        sides["pyrate-limiter"] = of_pyrate
    else:
        print("pyrate-limiter: not installed, skipped (pip install '.[bench]')")
    rows = []
    for threads in (1, 8):
        runs = [partial(each_us, make, threads, count) for make in sides.values()]
        taken = dict(zip(sides, paired(rounds, *runs), strict=True))
        for name, times in taken.items():
            row = {"threads": threads, "side": name, "us": round(median(times), 2)}
            row["ratio"] = spread(ratios(taken["lease and settle"], times))
            rows.append(row)
            print(f"{threads} threads, {name:21}: {spread(times)} us, ratio of ours to it {row['ratio']}")
    write_json(options.json, "decision", rounds=rounds, rows=rows)


if __name__ == "__main__":
    main()
