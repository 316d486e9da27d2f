"""What does one HTTP request cost, in CPU and in requests a second, against urllib3 and the official SDK?

The same chat call goes to a stub in a process of its own: through ours, through
``urllib3.PoolManager.request`` with JSON both ways in a ThreadPoolExecutor of the
same size, and through the official SDK in such a pool. CPU is that of the client's
process, user and system. Ratios: CPU of ours over the other's (below 1 we are
cheaper), requests a second of ours over the other's (above 1 we are faster). Ours
is timed from the first submit to the last result, as theirs.

The file is not called http.py: it would hide the standard library's http.

    python benchmarks/http_cost.py [--quick] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import json
import resource
import time
from typing import Any

from rig.contenders import CONTENDERS, Course
from rig.loads import MODEL, Job
from rig.measure import in_child, is_installed, median, parser_of, ratios, spread, write_json
from rig.server import stub

_PAYLOAD = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Why does the kettle sing before the water boils? " * 10}],
    "max_completion_tokens": 200,
}
_LIMITS = {"rpm": 10**9, "tpm": 10**12}
_WARMED = {"groq_queue": 2, "thread pool": 2, "groq SDK": 1}  # jobs for each thread before the watch starts


def measure(contender: str, threads: int, latency_s: float, count: int) -> dict[str, float]:
    """Send *count* requests; return CPU microseconds and requests a second."""
    with stub(latency_s) as server:
        limits = {MODEL: _LIMITS} if contender == "groq_queue" else {}
        course = Course(server.base_url, limits, 60, 300, threads)
        run = CONTENDERS[contender].make(course)
        jobs = [Job(dict(_PAYLOAD), 300) for _ in range(count)]
        run(jobs[: threads * _WARMED[contender]])
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        answered = run(jobs)
        took_s, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    if answered != count:
        raise RuntimeError(f"{contender} got {answered} answers to {count} requests")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_us": cpu_s * 1e6 / count, "per_s": count / took_s}


def main() -> None:
    parser = parser_of(__doc__, rounds=5, has_parts=True)
    options = parser.parse_args()
    if options.part:
        _, contender, threads, latency_s, count = options.part
        print(json.dumps(measure(contender, int(threads), float(latency_s), int(count))))
        return
    cases = [(8, 0.0, 6_000), (32, 0.0, 6_000), (8, 0.02, 2_000), (32, 0.02, 6_000)]
    rounds = options.rounds
    if options.quick:
        cases, rounds = [(8, 0.0, 300)], 1
    names = ["groq_queue", "thread pool"]
    if is_installed("groq"):
        names.append("groq SDK")
    else:
        print("groq SDK: not installed, skipped (pip install '.[bench]')")

    rows: list[dict[str, Any]] = []
    for threads, latency_s, count in cases:
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                jobs = count // 3 if name == "groq SDK" else count
                taken[name].append(in_child(__file__, "run", name, threads, latency_s, jobs))
        cpu = {name: [run["cpu_us"] for run in runs] for name, runs in taken.items()}
        speed = {name: [run["per_s"] for run in runs] for name, runs in taken.items()}
        for name in names[1:]:
            cpu_ratio, speed_ratio = (ratios(each["groq_queue"], each[name]) for each in (cpu, speed))
            rows.append(
                {
                    "threads": threads,
                    "latency_ms": latency_s * 1e3,
                    "against": name,
                    "ours_cpu_us": round(median(cpu["groq_queue"])),
                    "their_cpu_us": round(median(cpu[name])),
                    "cpu_ratio": spread(cpu_ratio),
                    "ours_per_s": round(median(speed["groq_queue"])),
                    "theirs_per_s": round(median(speed[name])),
                    "speed_ratio": spread(speed_ratio),
                }
            )
            row = rows[-1]
            print(
                f"{threads:2} threads, {latency_s * 1e3:2.0f} ms, against {name:11}: CPU {row['ours_cpu_us']:>4} us to "
                f"{row['their_cpu_us']:>5} us, ratio {row['cpu_ratio']}; {row['ours_per_s']:>5,}/s to "
                f"{row['theirs_per_s']:>5,}/s, ratio {row['speed_ratio']}",
                flush=True,
            )
    write_json(options.json, "http_cost", rounds=rounds, rows=rows)


if __name__ == "__main__":
    main()
