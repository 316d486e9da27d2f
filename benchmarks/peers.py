"""How much of the limit does each way of sending use, at how many refusals, losses and how much CPU?

A fixed list of jobs goes through ours and through what people run instead, each
in a process of its own against a simulator of its own. Utilisation is what the
server admitted until the last admission over capacity + rate * T; the ratio is
ours over the contender's. A job is lost if its caller has no answer in the end.
Jitter is 5 to 60 ms before the meter; faults are 500s that cost budget.

    python benchmarks/peers.py [--quick] [--minute 5] [--capacities 3.5] [--rounds 1] [--parallel 1]
        [--loads NAME …] [--contenders NAME …] [--figure FILE] [--json FILE]
"""

from __future__ import annotations

import json
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rig.contenders import CONTENDERS, Course
from rig.loads import LOADS, MODEL, SEED, WARM, jobs_of
from rig.measure import in_child, load_average, median, parser_of, write_json
from rig.server import simulator

LATENCY_S = (0.05, 0.15)
_QUICK = ("groq_queue", "thread pool", "groq SDK")


def measure(contender: str, name: str, minute_s: float, capacities: float) -> dict[str, Any]:
    """Run one contender under one load; in a child, so that CPU and switches are its own."""
    load = LOADS[name]
    jobs = jobs_of(load, capacities)
    limits = {MODEL: load.limit}
    served = {MODEL: {**load.limit, "minute_s": minute_s}, WARM: {}}
    with simulator(served, latency=LATENCY_S, output=load.used, seed=SEED, **load.server) as groq:
        course = Course(groq.base_url, limits, minute_s, sum(job.tokens for job in jobs) / len(jobs))
        run = CONTENDERS[contender].make(course)
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        answered = run(jobs)
        took_s, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
        records = [each for each in groq.records() if each[1] == MODEL]
    admitted = [each for each in records if each[2] not in (0, 429)]
    first_s, last_s = records[0][0], admitted[-1][0]
    used = sum(load.units(each[3], each[4]) for each in admitted)
    answers = [each[5].split(":")[0] for each in admitted if each[2] == 200]
    ideal_s = (sum(load.units(*_price(job, load.used)) for job in jobs) / load.capacity - 1) * minute_s
    return {
        "contender": contender,
        "load": name,
        "jobs": len(jobs),
        "utilisation": used / (load.capacity * (1 + (last_s - first_s) / minute_s)),
        "refused": sum(each[2] == 429 for each in records),
        "lost": len(jobs) - answered,
        "answered_twice": len(answers) - len(set(answers)),
        "makespan_ratio": (last_s - first_s) / ideal_s,
        "took_s": took_s,
        "cpu_ms": (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3 / len(jobs),
        "switches": (after.ru_nvcsw - before.ru_nvcsw) / len(jobs),
        "load_average": load_average(),
        "answers_at": [round(each[0] - first_s, 3) for each in admitted],
        "refusals_at": [round(each[0] - first_s, 3) for each in records if each[2] == 429],
    }


def _price(job: Any, used: float) -> tuple[int, int]:
    allowance = job.payload["max_completion_tokens"]
    return job.tokens, job.tokens - allowance + round(allowance * used)


def draw(rows: list[dict[str, Any]], minute_s: float, capacities: float, file: str) -> None:
    """Draw answers and refusals over time, of a plain pool, the SDK and ours, as far as they ran.

    *capacities* full buckets hold the jobs, so the limit is their number over *capacities*.
    """
    from groq_queue.reporting.plot import Series, comparison_svg

    panels = [
        Series(
            f"{row['contender']}: {row['refused']:,} refused, {row['lost']:,} lost, {row['utilisation']:.1%} used",
            row["answers_at"],
            row["refusals_at"],
        )
        for name in ("thread pool", "groq SDK", "groq_queue")
        for row in [next((each for each in rows if each["contender"] == name), None)]
        if row is not None
    ]
    limit = round(rows[0]["jobs"] / capacities)
    title = f"{rows[0]['jobs']:,} jobs at {limit:,} a minute of {minute_s:g} s"
    figure = comparison_svg(title, panels, minute_s / 30, limit=limit, period_s=minute_s)
    Path(file).write_text(figure, encoding="utf-8")


def main() -> None:
    parser = parser_of(__doc__, rounds=1, has_parts=True)
    parser.add_argument("--minute", type=float, default=5.0, help="seconds of the simulator's minute")
    parser.add_argument("--capacities", type=float, default=3.5, help="how many full buckets the jobs take")
    parser.add_argument("--parallel", type=int, default=1, help="runs at once; they mostly sleep, but share the CPU")
    parser.add_argument("--loads", nargs="*", choices=LOADS, default=list(LOADS))
    parser.add_argument("--contenders", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--figure", metavar="FILE", help="draw the first load as SVG")
    options = parser.parse_args()
    if options.part:
        _, contender, load, minute, capacities = options.part
        print(json.dumps(measure(contender, load, float(minute), float(capacities))))
        return
    minute, capacities, loads, names = options.minute, options.capacities, options.loads, options.contenders
    parallel = options.parallel
    if options.quick:
        minute, capacities, loads, names, parallel = 2.0, 2.0, ["uniform tokens"], list(_QUICK), len(_QUICK)
    for name in options.contenders:
        if not CONTENDERS[name].is_here:
            print(f"{name}: not installed, skipped (pip install '.[bench]')")
    names = [name for name in names if CONTENDERS[name].is_here]

    # Round by round, load by load: those that are compared run close to each other.
    todo = [(load, name) for load in loads for _ in range(options.rounds) for name in names]
    with ThreadPoolExecutor(parallel) as pool:
        rows = list(pool.map(lambda each: in_child(__file__, "run", each[1], each[0], minute, capacities), todo))
    print(f"{'load':17} {'contender':20} {'use':>7} {'ratio':>6} {'429s':>6} {'lost':>5} {'time':>5} {'CPU ms':>7}")
    table = []
    for load in loads:
        ours: list[float] = []
        for name in names:
            runs = [row for row in rows if (row["load"], row["contender"]) == (load, name)]
            use = [row["utilisation"] for row in runs]
            ours = ours or use
            both = [mine / other for mine, other in zip(ours, use, strict=True)]
            told: dict[str, Any] = {"load": load, "contender": name, "ratio": round(median(both), 3)}
            told |= {"utilisation_min": round(min(use), 4), "utilisation_max": round(max(use), 4)}
            told |= {"refused_max": max(row["refused"] for row in runs), "lost_max": max(row["lost"] for row in runs)}
            for key in ("utilisation", "refused", "lost", "answered_twice", "makespan_ratio", "cpu_ms", "switches"):
                told[key] = round(median([row[key] for row in runs]), 4)
            table.append(told)
            print(
                f"{load:17} {name:20} {told['utilisation']:7.4f} {told['ratio']:6.3f} {told['refused']:6.0f} "
                f"{told['lost']:5.0f} {told['makespan_ratio']:5.2f} {told['cpu_ms']:7.2f}"
            )
    if options.figure:
        draw([row for row in rows if row["load"] == loads[0]], minute, capacities, options.figure)
    averages = [row["load_average"] for row in rows]
    write_json(
        options.json,
        "peers",
        minute_s=minute,
        capacities=capacities,
        rounds=options.rounds,
        parallel=parallel,
        load_average_min=min(averages),
        load_average_max=max(averages),
        rows=table,
    )


if __name__ == "__main__":
    main()
