"""One process of a fleet that spends from a shared budget: run by tests and benchmarks, told what to do by JSON.

It prints ``ready`` when it could start, waits for a line, spends for the given time and prints its figures.
Given ``keep``, it takes that many answers' time without end: whoever started it kills it.
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


def spend(orders: dict[str, Any], queue: GroqQueue) -> dict[str, Any]:
    """Keep the queue full for the given time and return what came of it."""
    dice = random.Random(orders["seed"])
    stop = threading.Timer(orders["seconds"], lambda: queue.shutdown(wait=False, cancel_futures=True))
    stop.daemon = True
    stop.start()
    try:
        number = 0
        while True:
            number += 1
            queue.submit(
                f"{orders['seed']}/{number}",
                max_completion_tokens=dice.randint(*orders["tokens"]),
                priority=orders.get("priority", "normal"),
            )
    except RuntimeError:
        pass  # it was shut down: time is over
    queue.shutdown(wait=True, cancel_futures=True)
    stats = queue.stats()
    return {"completed": stats.completed, "failed": stats.failed, "refused": stats.refused}


def main() -> None:
    orders = json.loads(sys.argv[1])
    queue = make_queue(orders)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(spend(orders, queue)), flush=True)


if __name__ == "__main__":
    main()
