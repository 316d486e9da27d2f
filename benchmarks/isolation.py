"""Does a model whose budget is exhausted hold up one whose budget is free?

Jobs of two models arrive mixed: few of one that gets a bucketful and then a trickle,
many of one without limits, all taking the same time on the server. The free model's
ideal is its jobs * latency over the threads. Told are its time over that ideal, and
how much of its limit the exhausted one used meanwhile; ours and peers, each in a
process of its own. The ratio is ours over the contender's time.

    python benchmarks/isolation.py [--quick] [--minute 5] [--rounds 1] [--contenders NAME …] [--json FILE]
"""

from __future__ import annotations

import json
import random
from typing import Any

from rig.contenders import CONTENDERS, THREADS, Course
from rig.loads import MODEL, OTHER, SEED, WARM, Job
from rig.measure import in_child, median, parser_of, spread, write_json
from rig.server import simulator

LATENCY_S = 0.1
_RPM = 12  # of the exhausted model: its own share of the threads stays below 2 %
_MORE = 72  # its jobs: more wait than there are threads
_QUICK = ("groq_queue", "thread pool")


def measure(contender: str, minute_s: float, free_jobs: int, slow_jobs: int) -> dict[str, float]:
    slow = {"rpm": _RPM}
    served = {MODEL: {}, OTHER: {**slow, "minute_s": minute_s}, WARM: {}}
    models = [MODEL] * free_jobs + [OTHER] * slow_jobs
    random.Random(SEED).shuffle(models)
    jobs = [
        Job({"model": model, "messages": [{"role": "user", "content": f"Job {n}?"}], "max_completion_tokens": 10}, 30)
        for n, model in enumerate(models)
    ]
    with simulator(served, latency=LATENCY_S, seed=SEED) as groq:
        course = Course(groq.base_url, {OTHER: slow}, minute_s, 30)
        answered = CONTENDERS[contender].make(course)(jobs)
        records = [each for each in groq.records() if each[1] != WARM]
    began = records[0][0]
    free = [each[0] for each in records if each[1] == MODEL and each[2] == 200]
    trickle = [each[0] for each in records if each[1] == OTHER and each[2] == 200]
    return {
        "time_ratio": (free[-1] + LATENCY_S - began) / (free_jobs * LATENCY_S / THREADS),
        "slow_utilisation": len(trickle) / (_RPM * (1 + (trickle[-1] - trickle[0]) / minute_s)),
        "refused": sum(each[2] == 429 for each in records),
        "lost": len(jobs) - answered,
    }


def main() -> None:
    parser = parser_of(__doc__, rounds=1, has_parts=True)
    parser.add_argument("--minute", type=float, default=5.0, help="seconds of the simulator's minute")
    parser.add_argument("--free", type=int, default=1_600, help="jobs of the free model")
    parser.add_argument("--contenders", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    options = parser.parse_args()
    if options.part:
        _, contender, minute, free, slow = options.part
        print(json.dumps(measure(contender, float(minute), int(free), int(slow))))
        return
    minute, free, slow, names = options.minute, options.free, _MORE, options.contenders
    if options.quick:
        minute, free, slow, names = 1.0, 160, 40, list(_QUICK)
    rows: list[dict[str, Any]] = []
    ours: list[float] = []
    for name in options.contenders:
        if not CONTENDERS[name].is_here:
            print(f"{name}: not installed, skipped (pip install '.[bench]')")
    for name in names:
        if not CONTENDERS[name].is_here:
            continue
        runs = [in_child(__file__, "run", name, minute, free, slow) for _ in range(options.rounds)]
        times = [run["time_ratio"] for run in runs]
        ours = ours or times
        rows.append({"contender": name, "time_over_ideal": spread(times)})
        rows[-1]["ratio"] = spread([mine / other for mine, other in zip(ours, times, strict=True)])
        rows[-1]["slow_utilisation"] = round(median([run["slow_utilisation"] for run in runs]), 4)
        rows[-1] |= {key: round(max(run[key] for run in runs)) for key in ("refused", "lost")}
        row = rows[-1]
        print(
            f"{name:20} free model {row['time_over_ideal']} x its ideal, ratio {row['ratio']}; exhausted model "
            f"{row['slow_utilisation']:.4f} of its limit; {row['refused']} refused, {row['lost']} lost",
            flush=True,
        )
    write_json(options.json, "isolation", minute_s=minute, rounds=options.rounds, rows=rows)


if __name__ == "__main__":
    main()
