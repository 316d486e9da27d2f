"""Does a queue that waits cost anything: how often does an idle process wake?

Voluntary context switches and CPU of the process over some seconds: a queue with 32
workers and nothing to do, one whose requests wait for a budget that is minutes
away, and as the baseline one worker that looks every 0.1 s. The ratio is ours over
the baseline's switches.

    python benchmarks/idle.py [--quick] [--seconds 5] [--json FILE]
"""

from __future__ import annotations

import json
import os
import resource
import threading
import time
from typing import Any

from rig.loads import MODEL
from rig.measure import in_child, parser_of, write_json
from rig.server import stub

from groq_queue import GroqQueue, Limits


def watched(seconds: float) -> dict[str, float]:
    """Return what the process did while this thread waited; its own wait is one switch, and left out."""
    threading.Event().wait(0.5)  # what has just been started comes to rest
    before = resource.getrusage(resource.RUSAGE_SELF)
    threading.Event().wait(seconds)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"switches": after.ru_nvcsw - before.ru_nvcsw - 1, "cpu_ms": cpu_s * 1e3}


def ours(seconds: float, waiting: int) -> dict[str, float]:
    with stub() as server:
        queue = GroqQueue(
            api_key="k", base_url=server.base_url, model=MODEL, limits=Limits(rpm=64, minute_s=36_000), max_workers=32
        )
        first = [queue.submit(f"Question {number}?") for number in range(64 + waiting)][:64]
        for future in first:  # every worker has worked, every connection is open, the bucket is empty
            future.result(60)
        return watched(seconds)


def polling(seconds: float) -> dict[str, float]:
    pending: list[Any] = []

    def work() -> None:
        while not pending:
            time.sleep(0.1)

    threading.Thread(target=work, daemon=True).start()
    return watched(seconds)


def main() -> None:
    parser = parser_of(__doc__, has_parts=True)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    if options.part:
        part, seconds_s = options.part[0], float(options.part[1])
        figures = polling(seconds_s) if part == "polling" else ours(seconds_s, 100 if part == "waiting" else 0)
        print(json.dumps(figures), flush=True)
        os._exit(0)
    seconds = 1.0 if options.quick else options.seconds
    baseline = in_child(__file__, "polling", seconds)
    rows = []
    for part in ("idle", "waiting", "polling"):
        figures = baseline if part == "polling" else in_child(__file__, part, seconds)
        ratio = figures["switches"] / max(1, baseline["switches"])
        rows.append({"part": part, "seconds": seconds, **figures, "ratio": round(ratio, 2)})
        print(
            f"{part:8} {seconds:g} s: {figures['switches']:4.0f} switches, {figures['cpu_ms']:6.2f} ms of CPU, "
            f"ratio {ratio:.2f}"
        )
    write_json(options.json, "idle", rows=rows)


if __name__ == "__main__":
    main()
