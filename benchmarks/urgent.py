"""How late is a request once its budget is there, and what does an urgent one wait behind 100,000 others?

Lateness is the arrival at a stub in a process of its own minus the instant at which
a draining bucket, opened by the first arrival, had room for it: so it holds the
wake-up, the way over the loopback and the stub's reading. A queue that may not be
refused starts its clock at the first answer: that offset, the least lateness of the
run, is told apart and taken off. Ratios: ours over the baseline's.

* release: 60 releases a second, 32 threads, against a loop that waits on a Condition
  until each instant (the floor of a timer), one that polls every 0.1 s, and
  pyrate-limiter in front of a pool where it is installed.
* urgent: HIGH submitted behind LOW of which budget frees 20 a second, against workers
  that take from a ``queue.PriorityQueue`` and then wait for budget.

    python benchmarks/urgent.py [--quick] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from typing import Any

from rig.contenders import CONTENDERS, Connection, Course
from rig.loads import MODEL, Job
from rig.measure import in_child, median, parser_of, spread, write_json
from rig.server import Remote, stub

from groq_queue import GroqQueue, Limits

_PER_S = 60
_URGENT_PER_S = 20
_SETTLED_S = 2.0  # by then the first bucketful is gone, and each slot is waited for


def _job(text: str) -> Job:
    return Job({"model": MODEL, "messages": [{"role": "user", "content": text}], "max_completion_tokens": 10}, 30)


def late_ms(remote: Remote, capacity: int, per_s: float) -> tuple[list[float], list[str]]:
    """Return how late each arrival after the first *capacity* was, in milliseconds, and whose it was."""
    records = remote.records()
    began = records[0][0]
    lates = [1e3 * (each[0] - began - (n + 1) / per_s) for n, each in enumerate(records[capacity:])]
    return lates, [each[5] for each in records[capacity:]]


def _figures(lates: list[float]) -> dict[str, float]:
    """Return percentiles beyond the offset; the second half of a run is free of its first burst."""
    kept = sorted(lates[len(lates) // 4 :])
    offset = kept[0]
    beyond = [late - offset for late in kept]
    return {"offset_ms": offset} | {f"p{p}_ms": beyond[min(len(beyond) - 1, len(beyond) * p // 100)] for p in (50, 99)}


def timer_loop(course: Course, jobs: list[Job], poll_s: float | None) -> None:
    """Send one job at each instant from one thread, which waits on a Condition, or polls."""
    connection = Connection(course)
    condition = threading.Condition()
    burst = jobs[:_PER_S]
    for job in burst[:1]:
        connection.post(job)
    began = time.monotonic()
    for job in burst[1:]:
        connection.post(job)
    with condition:
        for number, job in enumerate(jobs[_PER_S:], start=1):
            while (wait_s := began + number / _PER_S - time.monotonic()) > 0:
                condition.wait(wait_s if poll_s is None else poll_s)
            connection.post(job)


def release(side: str, seconds: float) -> dict[str, float]:
    with stub() as server:
        course = Course(server.base_url, {MODEL: {"rpm": _PER_S}}, 1.0, 30)
        jobs = [_job(f"Job {n}") for n in range(round(_PER_S * (seconds + 1)))]
        if side in ("timer", "poll"):
            timer_loop(course, jobs, None if side == "timer" else 0.1)
        else:
            CONTENDERS[side].make(course)(jobs)
        return _figures(late_ms(server, _PER_S, _PER_S)[0])


def urgent_ours(behind: int, urgent: int) -> dict[str, float]:
    """Return how late HIGH was after the next slot, and how many LOW left between its submit and it."""
    with stub() as server:
        queue_ = GroqQueue(
            api_key="k",
            base_url=server.base_url,
            limits={MODEL: Limits(rpm=_URGENT_PER_S, minute_s=1)},
            max_workers=32,
            max_pending=None,
        )
        for number in range(behind):
            queue_.submit(_job(f"LOW {number}").payload, priority="low")
        _let_pass(_SETTLED_S)
        submitted = []
        for number in range(urgent):
            _let_pass(0.13)
            submitted.append(time.monotonic())
            queue_.submit(_job(f"HIGH {number}").payload, priority="high").result(60)
        figures = _urgent_figures(server, submitted)
        queue_.shutdown(wait=False, cancel_futures=True)
    return figures


def urgent_theirs(behind: int, urgent: int) -> dict[str, float]:
    with stub() as server:
        waiting: queue.PriorityQueue[tuple[int, int, Job, threading.Event]] = queue.PriorityQueue()
        connection = Connection(Course(server.base_url, {}, 1.0, 30))
        lock = threading.Lock()  # guards the slots
        slot = [time.monotonic() - 1 / _URGENT_PER_S]

        def work() -> None:
            while True:
                _, _, job, done = waiting.get()
                with lock:
                    slot[0] = max(slot[0] + 1 / _URGENT_PER_S, time.monotonic() - 1)
                    wait_s = slot[0] - time.monotonic()
                if wait_s > 0:
                    time.sleep(wait_s)
                connection.post(job)
                done.set()

        for number in range(behind):
            waiting.put((8, number, _job(f"LOW {number}"), threading.Event()))
        for _ in range(32):
            threading.Thread(target=work, daemon=True).start()
        _let_pass(_SETTLED_S)
        submitted = []
        for number in range(urgent):
            _let_pass(0.13)
            done = threading.Event()
            submitted.append(time.monotonic())
            waiting.put((1, number, _job(f"HIGH {number}"), done))
            done.wait(60)
        return _urgent_figures(server, submitted)


def _let_pass(seconds: float) -> None:
    threading.Event().wait(seconds)


def _urgent_figures(server: Remote, submitted: list[float]) -> dict[str, float]:
    records = server.records()
    began = records[0][0]
    dues = [began + (place + 1 - _URGENT_PER_S) / _URGENT_PER_S for place in range(len(records))]
    low = [
        each[0] - due
        for each, due in list(zip(records, dues, strict=True))[2 * _URGENT_PER_S :]
        if each[5].startswith("LOW")
    ]
    offset = min(low, default=0.0)  # what the whole run stands behind a bucket opened by the first arrival
    lates, waits, passed = [], [], []
    for each, due in zip(records, dues, strict=True):
        if each[5].startswith("HIGH"):
            asked = submitted[int(each[5].split()[1])]
            lates.append(1e3 * (each[0] - max(due + offset, asked)))
            waits.append(1e3 * (each[0] - asked))
            passed.append(sum(asked < other[0] < each[0] for other in records))
    return {
        "late_ms": median(lates),
        "late_max_ms": max(lates),
        "waited_ms": median(waits),
        "low_that_passed": max(passed),
        "offset_ms": 1e3 * offset,
    }


def main() -> None:
    parser = parser_of(__doc__, rounds=5, has_parts=True)
    options = parser.parse_args()
    if options.part:
        parts: dict[str, Any] = {"ours": urgent_ours, "theirs": urgent_theirs}
        what, *rest = options.part
        figures = release(rest[0], float(rest[1])) if what == "release" else parts[what](*map(int, rest))
        print(json.dumps(figures), flush=True)
        os._exit(0)  # threads of the baseline wait for ever
    rounds, seconds, behind = (1, 1.5, 2_000) if options.quick else (options.rounds, 10.0, 100_000)

    sides = ["groq_queue", "timer", "poll"]
    if options.quick:
        sides = sides[:2]
    elif CONTENDERS["pyrate-limiter"].is_here:
        sides.append("pyrate-limiter")
    else:
        print("pyrate-limiter: not installed, skipped (pip install '.[bench]')")
    taken: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            taken[side].append(in_child(__file__, "release", side, seconds))
    rows: list[dict[str, Any]] = []
    for side in sides:
        row: dict[str, Any] = {"what": "release", "side": side}
        for name in ("p50_ms", "p99_ms", "offset_ms"):
            row[name] = spread([run[name] for run in taken[side]])
        both = [mine["p50_ms"] / run["p50_ms"] for mine, run in zip(taken["groq_queue"], taken[side], strict=True)]
        row["ratio_p50"] = spread(both, ".3f")
        rows.append(row)
        print(
            f"release, {side:15}: p50 {row['p50_ms']} ms, p99 {row['p99_ms']} ms beyond an offset of "
            f"{row['offset_ms']} ms; ratio of ours to it {row['ratio_p50']}",
            flush=True,
        )

    pairs = [
        (
            in_child(__file__, "ours", behind, 10),
            in_child(__file__, "theirs", min(behind, 5_000), 1 if options.quick else 3),
        )
        for _ in range(rounds)
    ]
    row = {"what": "urgent", "behind": behind}
    for place, side in enumerate(("ours", "theirs")):
        for name in ("late_ms", "late_max_ms", "waited_ms", "low_that_passed"):
            row[f"{side}_{name}"] = spread([pair[place][name] for pair in pairs])
    row["ratio_waited"] = spread([mine["waited_ms"] / other["waited_ms"] for mine, other in pairs], ".4f")
    rows.append(row)
    print(
        f"HIGH behind {behind:,} LOW: {row['ours_late_ms']} ms after its budget is there (latest "
        f"{row['ours_late_max_ms']}), {row['ours_low_that_passed']} LOW before it; PriorityQueue whose workers hold "
        f"what they wait for: {row['theirs_waited_ms']} ms after its submit, {row['theirs_low_that_passed']} LOW "
        f"before it; ratio of the waits {row['ratio_waited']}"
    )
    write_json(options.json, "urgent", rounds=rounds, rows=rows)


if __name__ == "__main__":
    main()
