"""How much of the limit is used, and how often does the server refuse, under a steady backlog?

Utilisation is what the server admitted (real use, where it gives unused
allowance back) over capacity + rate * T. Each load runs through the queue and
through a plain ThreadPoolExecutor whose calls wait for Retry-After and try
again, each against a simulator of its own, at the same time. The ratio is
ours over the pool's utilisation.

    python benchmarks/utilisation.py [--quick] [--minute 10] [--seconds 60] [--only NAME …] [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import urllib3
from rig.measure import parser_of, write_json

from groq_queue import GroqQueue, GroqSimulator, Limits

MODEL = "llama-3.1-8b-instant"
WORKERS = 32
LATENCY = (0.05, 0.3)
TOKENS = 60_000  # a minute
ALLOWANCE = 280

Load = dict[str, Any]


def lognormal(rng: random.Random) -> int:
    return max(1, min(4_000, round(rng.lognormvariate(5.3, 0.8))))


def tokens(**simulator: Any) -> Load:
    return {"limits": {"tpm": TOKENS}, "simulator": {"output": 1.0, **simulator}, "sizes": lambda rng: ALLOWANCE}


LOADS: dict[str, Load] = {
    "uniform requests": {"limits": {"rpm": 300}, "simulator": {}, "sizes": lambda rng: 10},
    "uniform tokens": tokens(),
    "lognormal sizes": {**tokens(), "sizes": lognormal},
    "real use 0.4 x": {**tokens(output=0.32), "by": "used"},
    "real use 1.5 x": {**tokens(output=lambda rng, allowance: allowance * 8 // 5), "by": "used"},
    "jitter 5-60 ms": tokens(arrival_delay=(0.005, 0.06)),
    "first connection 300 ms": tokens(connect_delay=0.3),
    "kept, 0.4 x": tokens(output=0.32, settlement="kept"),
    "deferred, 0.4 x": {**tokens(output=0.32, settlement="deferred"), "by": "used"},
    "limits unknown": {**tokens(), "is_known": False},
    "limits unknown, 0.4 x": {**tokens(output=0.32), "is_known": False, "by": "used"},
    "30 % spent by others": {**tokens(), "others": 0.3},
}


def prompts(load: Load) -> Iterator[dict[str, Any]]:
    rng = random.Random(7)
    for number in itertools.count():
        yield {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"Question {number}: how far is it from {number} to the sea?"}],
            "max_completion_tokens": load["sizes"](rng),
        }


def through_queue(groq: GroqSimulator, limits: Limits | None, load: Load, is_over: threading.Event) -> None:
    queue = GroqQueue(
        api_key="k", base_url=groq.base_url, limits=limits, max_workers=WORKERS, max_pending=500, timeout=(5, 30)
    )
    stopper = threading.Thread(target=lambda: (is_over.wait(), queue.shutdown(cancel_futures=True)))
    stopper.start()
    try:
        for payload in prompts(load):
            queue.submit(payload)
    except RuntimeError:
        pass  # it was shut down: time is over
    stopper.join()


def through_pool(groq: GroqSimulator, limits: Limits | None, load: Load, is_over: threading.Event) -> None:
    http = urllib3.PoolManager(maxsize=WORKERS, retries=False)
    lines = prompts(load)
    lock = threading.Lock()

    def work() -> None:
        while not is_over.is_set():
            with lock:
                body = json.dumps(next(lines))
            while not is_over.is_set():
                answer = http.request(
                    "POST", f"{groq.base_url}/chat/completions", body=body, headers={"Authorization": "Bearer k"}
                )
                if answer.status != 429:
                    break
                is_over.wait(float(answer.headers["retry-after"]))

    with ThreadPoolExecutor(WORKERS) as pool:
        for future in [pool.submit(work) for _ in range(WORKERS)]:
            future.result()


def spend_for_others(groq: GroqSimulator, share: float, minute_s: float, is_over: threading.Event) -> list[int]:
    """Let another program of the organisation try to spend *share* of the budget, at random moments."""
    rng, spent = random.Random(3), [0]

    def spend() -> None:
        while not is_over.wait(rng.expovariate(share * TOKENS / minute_s / 500)):
            if groq.spend(MODEL, tokens=500):
                spent[0] += 500

    threading.Thread(target=spend, daemon=True).start()
    return spent


def measure(name: str, side: str, minute_s: float, seconds: float) -> dict[str, Any]:
    load = LOADS[name]
    limits = Limits(minute_s=minute_s, **load["limits"])
    is_over = threading.Event()
    run: Callable[..., None] = through_queue if side == "queue" else through_pool
    with GroqSimulator(limits=limits, latency=LATENCY, seed=1, **load["simulator"]) as groq:
        spent = spend_for_others(groq, load["others"], minute_s, is_over) if "others" in load else [0]
        known = limits if load.get("is_known", True) or side == "pool" else None
        runner = threading.Thread(target=run, args=(groq, known, load, is_over))
        runner.start()
        groq.wait_for_requests(1, 10)
        is_over.wait(seconds)
        is_over.set()
        runner.join()
        records = list(groq.log)
        refused = dict(groq.stats().refused_by_dimension)
    first_ns = records[0].arrived_ns
    admitted = [each for each in records if each.status == 200 and each.arrived_ns <= first_ns + seconds * 1e9]
    if "rpm" in load["limits"]:
        used, limit = len(admitted), load["limits"]["rpm"]
    else:
        by = "used_tokens" if load.get("by") == "used" else "requested"
        used, limit = sum(getattr(each, by) for each in admitted) + spent[0], TOKENS
    return {
        "load": name,
        "side": side,
        "utilisation": used / (limit * (1 + seconds / minute_s)),
        "admitted": len(admitted),
        "refused": sum(refused.values()),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--minute", type=float, default=10.0, help="seconds of the simulator's minute")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each load")
    parser.add_argument("--only", nargs="*", choices=LOADS, help="loads to run")
    parser.add_argument("--side", choices=("queue", "pool"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.only[0], options.side, options.minute, options.seconds)))
        return
    names = options.only or (["uniform tokens"] if options.quick else list(LOADS))
    minute, seconds = (1.0, 4.0) if options.quick else (options.minute, options.seconds)

    rows = []
    print(f"{'load':26} {'queue':>7} {'429s':>5} {'pool':>7} {'429s':>6} {'ratio':>6}")
    for name in names:
        command = [sys.executable, __file__, "--minute", str(minute), "--seconds", str(seconds), "--only", name]
        sides = [
            subprocess.Popen([*command, "--side", side], stdout=subprocess.PIPE, text=True)
            for side in ("queue", "pool")
        ]
        queue, pool = (json.loads(side.communicate(timeout=seconds + 120)[0]) for side in sides)
        rows += [queue, pool]
        print(
            f"{name:26} {queue['utilisation']:7.4f} {queue['refused']:5} {pool['utilisation']:7.4f} "
            f"{pool['refused']:6} {queue['utilisation'] / pool['utilisation']:6.3f}",
            flush=True,
        )
    write_json(options.json, "utilisation", minute_s=minute, seconds=seconds, rows=rows)


if __name__ == "__main__":
    main()
