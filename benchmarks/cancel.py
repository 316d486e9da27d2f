"""What does it cost to drop what waits, against ThreadPoolExecutor?

``cancel()`` of one Future among many pending ones, the median of a thousand; and
``shutdown(cancel_futures=True)`` with all the others still waiting. The ratio is
ours over the executor's time, rounds alternating.

    python benchmarks/cancel.py [--quick] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import json
import os
import random
import statistics
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from rig.measure import in_child, parser_of, ratios, spread, write_json

from groq_queue import GroqQueue, Limits


def ours(pending: int) -> dict[str, float]:
    queue = GroqQueue(
        api_key="k",
        base_url="http://127.0.0.1:9/v1",
        model="m",
        limits=Limits(rpm=10**9, tpm=10**12),
        max_pending=None,
    )
    queue.pause()
    futures: list[Any] = [queue.submit("Why?", client=f"client {n % 100}") for n in range(pending)]
    cancels_us = cancelled(futures)
    began = time.perf_counter()
    queue.shutdown(wait=True, cancel_futures=True)
    return {"cancel_us": cancels_us, "shutdown_ms": (time.perf_counter() - began) * 1e3}


def executor(pending: int) -> dict[str, float]:
    pool, gate = ThreadPoolExecutor(8), threading.Event()
    for _ in range(8):
        pool.submit(gate.wait)
    futures: list[Any] = [pool.submit(str, {"content": "Why?"}) for _ in range(pending)]
    cancels_us = cancelled(futures)
    began = time.perf_counter()
    pool.shutdown(wait=False, cancel_futures=True)
    took_ms = (time.perf_counter() - began) * 1e3
    gate.set()
    return {"cancel_us": cancels_us, "shutdown_ms": took_ms}


def cancelled(futures: list[Future[Any]]) -> float:
    took = []
    for future in random.Random(3).sample(futures, min(1_000, len(futures) // 2)):
        began = time.perf_counter_ns()
        future.cancel()
        took.append(time.perf_counter_ns() - began)
    return statistics.median(took) / 1e3


def main() -> None:
    parser = parser_of(__doc__, rounds=5, has_parts=True)
    options = parser.parse_args()
    if options.part:
        side, pending = options.part
        print(json.dumps({"ours": ours, "executor": executor}[side](int(pending))), flush=True)
        os._exit(0)
    pending, rounds = (2_000, 1) if options.quick else (100_000, options.rounds)
    pairs = [(in_child(__file__, "ours", pending), in_child(__file__, "executor", pending)) for _ in range(rounds)]
    rows = []
    for name in ("cancel_us", "shutdown_ms"):
        mine, other = ([pair[place][name] for pair in pairs] for place in (0, 1))
        row = {"what": name, "pending": pending, "ours": spread(mine), "executor": spread(other)}
        row["ratio"] = spread(ratios(mine, other))
        rows.append(row)
        print(f"{name} with {pending:,} pending: {row['ours']}, executor {row['executor']}, ratio {row['ratio']}")
    write_json(options.json, "cancel", rounds=rounds, rows=rows)


if __name__ == "__main__":
    main()
