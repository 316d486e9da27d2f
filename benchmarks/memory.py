"""What does a pending request weigh as the queue grows, against ThreadPoolExecutor.submit(fn, dict)?

Resident memory of the process above what it had with 200 pending, a request, less
the bytes of its payload as JSON; its Future is held, as a caller would. The payload
is a chat call of some 500 bytes, of its own text for each. Each measurement in a
process of its own. The ratio is ours over the executor's, payload left out, and in
whole bytes a request where the executor holds the dict and ours the JSON.
What a submit and a take cost at these sizes is in scaling.py.

    python benchmarks/memory.py [--quick] [--json FILE]
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rig.measure import in_child, parser_of, write_json

from groq_queue import GroqQueue, Limits

_FIRST = 200
_PROMPT = "Why does the kettle sing before the water boils, and why does it then fall silent? " * 5


def resident_bytes() -> int:
    """Return what the process holds in memory now; where /proc does not tell, the most it ever held."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def payload_of(number: int) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": f"{number:07} {_PROMPT}"}], "max_tokens": 50}


def weigh(submit: Callable[[dict[str, Any]], Any], pending: int) -> dict[str, float]:
    futures: list[Any] = [None] * (pending + _FIRST)
    for number in range(_FIRST):
        futures[number] = submit(payload_of(number))
    gc.collect()
    before = resident_bytes()
    for number in range(_FIRST, _FIRST + pending):
        futures[number] = submit(payload_of(number))
    gc.collect()
    return {"bytes": (resident_bytes() - before) / pending, "process_mb": resident_bytes() / 1e6}


def ours(pending: int) -> dict[str, float]:
    queue = GroqQueue(
        api_key="k", base_url="http://127.0.0.1:9/v1", limits=Limits(rpm=10**9, tpm=10**12), max_pending=None
    )
    queue.pause()
    return weigh(queue.submit, pending)


def executor(pending: int) -> dict[str, float]:
    pool, gate = ThreadPoolExecutor(8), threading.Event()
    for _ in range(8):
        pool.submit(gate.wait)
    return weigh(lambda payload: pool.submit(str, payload), pending)


def main() -> None:
    parser = parser_of(__doc__, has_parts=True)
    options = parser.parse_args()
    if options.part:
        side, pending = options.part
        print(json.dumps({"ours": ours, "executor": executor}[side](int(pending))), flush=True)
        os._exit(0)  # nobody waits for what is pending
    payload = len(json.dumps(payload_of(0), separators=(",", ":")))
    rows = []
    print(f"a payload of {payload} bytes")
    print(f"{'pending':>10} {'ours':>7} {'executor':>9} {'ratio':>6} {'of all':>7} {'MB':>7}")
    for pending in (1_000, 10_000) if options.quick else (1_000, 10_000, 100_000, 1_000_000):
        mine, other = in_child(__file__, "ours", pending), in_child(__file__, "executor", pending)
        above, theirs = mine["bytes"] - payload, other["bytes"] - payload
        row = {
            "pending": pending,
            "ours_bytes_above_payload": round(above),
            "executor_bytes_above_payload": round(theirs),
            "ratio": round(above / theirs, 2),
            "ratio_of_all": round(mine["bytes"] / other["bytes"], 2),
            "process_mb": round(mine["process_mb"], 1),
        }
        rows.append(row)
        print(
            f"{pending:10,} {above:7,.0f} {theirs:9,.0f} {row['ratio']:6.2f} {row['ratio_of_all']:7.2f} "
            f"{row['process_mb']:7,.1f}",
            flush=True,
        )
    write_json(options.json, "memory", payload_bytes=payload, rows=rows)


if __name__ == "__main__":
    main()
