"""One process of a fleet that spends from a shared budget: run by tests and benchmarks, told what to do by JSON.

It prints ``ready`` when it could start, waits for a line, spends and prints its figures: for ``seconds`` as much
as it can, or ``count`` requests. The completion allowance of each lies between the two of ``tokens``.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from typing import Any

from groq_queue import GroqQueue, Limits
from groq_queue.clock import Clock, SystemClock


class ShiftedClock(SystemClock):
    """A host's clock whose wall time is wrong."""

    def __init__(self, by_s: float) -> None:
        super().__init__()
        self._by_s = by_s

    def wall_s(self) -> float:
        return super().wall_s() + self._by_s


def make_queue(orders: dict[str, Any]) -> GroqQueue:
    clock: Clock = ShiftedClock(orders.get("shift_s", 0))
    return GroqQueue(
        api_key="k",
        base_url=orders["base_url"],
        model="llama-3.1-8b-instant",
        limits=Limits(**orders["limits"]) if orders["limits"] else None,
        max_workers=orders.get("workers", 4),
        max_pending=50,
        limiter=orders["limiter"],
        on_outage=orders.get("on_outage", "wait"),
        timeout=(5, 120),
        clock=clock,
    )


def submit(orders: dict[str, Any], queue: GroqQueue, rng: random.Random) -> None:
    allowance = rng.randint(*orders["tokens"])
    queue.submit(str(orders["seed"]), max_completion_tokens=allowance, priority=orders.get("priority", "normal"))


def spend(orders: dict[str, Any], queue: GroqQueue) -> None:
    """Submit what was ordered and wait for its end."""
    rng = random.Random(orders["seed"])
    if "count" in orders:
        for _ in range(orders["count"]):
            submit(orders, queue, rng)
        queue.shutdown(wait=True)
        return
    stop = threading.Timer(orders["seconds"], lambda: queue.shutdown(wait=False, cancel_futures=True))
    stop.daemon = True
    stop.start()
    try:
        while True:
            submit(orders, queue, rng)
    except RuntimeError:
        pass  # it was shut down: time is over
    queue.shutdown(wait=True, cancel_futures=True)


def main() -> None:
    orders = json.loads(sys.argv[1])
    queue = make_queue(orders)
    print("ready", flush=True)
    sys.stdin.readline()
    spend(orders, queue)
    stats = queue.stats()
    print(json.dumps({"completed": stats.completed, "failed": stats.failed, "refused": stats.refused}), flush=True)


if __name__ == "__main__":
    main()
