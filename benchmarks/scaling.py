"""What does a submit or a take cost as the queue grows, and what does a pending request weigh?

Three parts, each measurement in a process of its own, so that none inherits
another's heap:

* growth: cost of ``GroqQueue.submit``, and of a take (lease and pop in one critical
  section), behind 10^3 to 10^6 pending requests of 1 to 10,000 clients, five
  priority levels. The ratio is the cost over that at 10^3; log n allows
  log(n) / log(1,000).
* latency: one ``submit`` behind 100,000 pending ones of 10,000 clients, against
  ``ThreadPoolExecutor.submit(fn, dict)`` behind as many. The ratio is ours over theirs.
* memory: bytes of a pending request above its encoded payload, against the same call
  of the executor. The ratio is ours over theirs.

    python benchmarks/scaling.py [--quick] [--json FILE]
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import os
import random
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rig.measure import parser_of, write_json

from groq_queue import GroqQueue, Limits, Priority

_LEVELS = tuple(Priority)
_BATCHES = 8  # of which the median counts: a busy machine disturbs some
_KEPT: list[GroqQueue] = []  # a queue that is dropped would begin to send
_PROMPT = "Why does the kettle sing before the water boils, and why does it then fall silent? " * 4


def paused_queue() -> GroqQueue:
    """Return a queue that takes requests and sends none."""
    queue = GroqQueue(
        api_key="benchmark",
        base_url="http://127.0.0.1:9/openai/v1",
        model="m",
        limits=Limits(rpm=10**9, tpm=10**12),
        max_pending=None,
    )
    queue.pause()
    _KEPT.append(queue)
    return queue


def submitter(queue: GroqQueue, clients: int) -> Callable[[], Any]:
    """Return a function that submits one more request, in a repeatable mix, drawn beforehand: drawing takes 1 us."""
    rng = random.Random(1)
    names = [f"client-{n}" for n in range(clients)]
    mix = itertools.cycle([(rng.choice(names), rng.choice(_LEVELS)) for _ in range(100_003)])

    def submit_one() -> Any:
        client, priority = next(mix)
        return queue.submit("Why?", client=client, priority=priority, max_completion_tokens=50)

    return submit_one


def timed(call: Callable[[], Any], times: int) -> list[int]:
    """Return the nanoseconds of each of *times* calls."""
    took = []
    for _ in range(times):
        began = time.perf_counter_ns()
        call()
        took.append(time.perf_counter_ns() - began)
    return took


def growth(pending: int, clients: int) -> dict[str, float]:
    """Measure a submit and a take behind *pending* requests, in microseconds."""
    queue = paused_queue()
    submit_one = submitter(queue, min(clients, pending))
    batch = min(1_000, pending // 4)
    for _ in range(pending - batch * _BATCHES // 2):
        submit_one()
    submits = [statistics.mean(timed(submit_one, batch)) for _ in range(_BATCHES)]

    engine = queue._engine
    # The workers find no job while we hold their lock; so a take is timed alone, without the thread that follows it.
    with engine._lock:
        for lane in engine._table.lanes.values():
            lane.is_paused = False
        takes = [statistics.mean(timed(engine.find_job, batch)) for _ in range(_BATCHES // 2)]
        for lane in engine._table.lanes.values():
            lane.is_paused = True
    return {"submit_us": statistics.median(submits) / 1e3, "take_us": statistics.median(takes) / 1e3}


def latency_ours(pending: int, clients: int) -> dict[str, float]:
    submit_one = submitter(paused_queue(), clients)
    for _ in range(pending):
        submit_one()
    return percentiles(timed(submit_one, pending // 5))


def latency_theirs(pending: int) -> dict[str, float]:
    pool, gate = blocked_pool()
    submit_one = lambda: pool.submit(str, {"messages": [{"role": "user", "content": "Why?"}]})  # noqa: E731
    for _ in range(pending):
        submit_one()
    figures = percentiles(timed(submit_one, pending // 5))
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    return figures


def memory_ours(pending: int) -> dict[str, float]:
    queue = paused_queue()
    rng = random.Random(1)
    payload_bytes = len(json.dumps(payload_of(0), separators=(",", ":")))
    queue.submit(payload_of(0), model="m")
    weight = traced(pending, lambda n: queue.submit(payload_of(n), model="m", client=f"c{rng.randrange(100)}"))
    return {"bytes": weight - payload_bytes}


def memory_theirs(pending: int) -> dict[str, float]:
    pool, gate = blocked_pool()
    payload_bytes = len(json.dumps(payload_of(0), separators=(",", ":")))
    weight = traced(pending, lambda n: pool.submit(str, payload_of(n)))
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    return {"bytes": weight - payload_bytes}


def payload_of(number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"{number:07} {_PROMPT}"}], "model": "m"}


def traced(count: int, submit: Callable[[int], Any]) -> float:
    """Return the bytes that each of *count* submits leaves behind, its Future included."""
    futures: list[Any] = [None] * count
    gc.collect()
    tracemalloc.start()
    for n in range(count):
        futures[n] = submit(n)
    gc.collect()
    weight = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    return weight


def blocked_pool() -> tuple[ThreadPoolExecutor, threading.Event]:
    """Return an executor whose eight workers wait for an Event."""
    pool, gate = ThreadPoolExecutor(8), threading.Event()
    for _ in range(8):
        pool.submit(gate.wait)
    return pool, gate


def percentiles(took_ns: list[int]) -> dict[str, float]:
    took_ns.sort()
    return {f"p{percent}_us": took_ns[len(took_ns) * percent // 100] / 1e3 for percent in (50, 99)}


_PARTS = {part.__name__: part for part in (growth, latency_ours, latency_theirs, memory_ours, memory_theirs)}


def in_child(part: str, *sizes: int) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--part", part, *map(str, sizes)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def median_of(rounds: int, part: str, *sizes: int) -> dict[str, float]:
    runs = [in_child(part, *sizes) for _ in range(rounds)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    parser = parser_of(__doc__, has_parts=True)
    options = parser.parse_args()
    if options.part:
        figures = _PARTS[options.part[0]](*map(int, options.part[1:]))
        print(json.dumps(figures), flush=True)
        os._exit(0)  # the exit hook would wait for the takes, which nobody ends
    if options.quick:
        pendings, crowds = (1_000, 4_000), (1, 100)
        rounds, many, crowd = 1, 4_000, 400
    else:
        pendings, crowds = (1_000, 10_000, 100_000, 1_000_000), (1, 100, 10_000)
        rounds, many, crowd = 3, 100_000, 10_000

    rows = []
    print(f"{'clients':>8} {'pending':>10} {'submit us':>10} {'ratio':>6} {'take us':>8} {'ratio':>6}   log n allows")
    for clients in crowds:
        base: dict[str, float] = {}
        for pending in pendings:
            figures = median_of(1 if pending > 100_000 else rounds, "growth", pending, clients)
            base = base or figures
            row: dict[str, Any] = {"clients": clients, "pending": pending}
            row.update({name: round(value, 1) for name, value in figures.items()})
            row["submit_ratio"] = round(figures["submit_us"] / base["submit_us"], 2)
            row["take_ratio"] = round(figures["take_us"] / base["take_us"], 2)
            row["log_ratio"] = round(math.log(pending) / math.log(pendings[0]), 2)
            rows.append(row)
            print(
                f"{clients:8,} {pending:10,} {row['submit_us']:10.1f} {row['submit_ratio']:6.2f} "
                f"{row['take_us']:8.1f} {row['take_ratio']:6.2f}   {row['log_ratio']:.2f}",
                flush=True,
            )

    mine, other = median_of(rounds, "latency_ours", many, crowd), median_of(rounds, "latency_theirs", many)
    latency = {
        "pending": many,
        "clients": crowd,
        "ours": mine,
        "executor": other,
        "ratio_p50": round(mine["p50_us"] / other["p50_us"], 2),
        "ratio_p99": round(mine["p99_us"] / other["p99_us"], 2),
    }
    print(
        f"submit behind {many:,} of {crowd:,} clients: p50 {mine['p50_us']:.0f} us, p99 {mine['p99_us']:.0f} us; "
        f"ThreadPoolExecutor {other['p50_us']:.0f} and {other['p99_us']:.0f} us; "
        f"ratio {latency['ratio_p50']:.2f} and {latency['ratio_p99']:.2f}"
    )

    heavy = 2_000 if options.quick else 50_000
    mine, other = in_child("memory_ours", heavy), in_child("memory_theirs", heavy)
    memory = {"pending": heavy, "ours_bytes": round(mine["bytes"]), "executor_bytes": round(other["bytes"])}
    memory["ratio"] = round(mine["bytes"] / other["bytes"], 2)
    print(
        f"a pending request above its payload: {memory['ours_bytes']:,} bytes; "
        f"ThreadPoolExecutor {memory['executor_bytes']:,}; ratio {memory['ratio']:.2f}"
    )
    write_json(options.json, "scaling", rounds=rounds, growth=rows, latency=latency, memory=memory)


if __name__ == "__main__":
    main()
