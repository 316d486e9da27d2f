"""What does a journal cost from end to end, against the same queue without one?

Requests that wait behind ``pause`` are drained over real HTTP against a simulator
in a process of its own, whose limits never bind. The ratio is requests a second
with the journal over those without. Latency 0 is the worst case: the queue does
nothing but compute. Rounds alternate, so that a noisy machine disturbs both.

    python benchmarks/drain.py [--quick] [--json FILE] [--directory DIR]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

from rig.measure import parser_of, write_json

from groq_queue import GroqQueue, Limits

NO_LIMITS = Limits(rpm=10**8, tpm=10**11)
SIMULATOR = """
import sys
from groq_queue import Limits
from groq_queue.simulator import GroqSimulator
with GroqSimulator(limits=Limits(rpm=10**8, tpm=10**11), latency=float(sys.argv[1])) as groq:
    print(groq.base_url, flush=True)
    sys.stdin.read()
"""


def drained_per_s(base_url: str, journal: str | None, durability: str, workers: int, count: int) -> float:
    with GroqQueue(
        api_key="none",
        base_url=base_url,
        model="llama-3.1-8b-instant",
        limits=NO_LIMITS,
        max_workers=workers,
        max_pending=None,
        journal=journal,
        durability=durability,  # type: ignore[arg-type]
    ) as queue:
        queue.submit("the first one connects").result()
        queue.pause()
        prompts = [f"question {number} " + "x" * 200 for number in range(count)]
        futures = [queue.submit(prompt, max_completion_tokens=20) for prompt in prompts]
        began = time.perf_counter()
        queue.resume()
        for future in futures:
            future.result()
        return count / (time.perf_counter() - began)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--directory", help="where the files are made; the disk that is measured")
    options = parser.parse_args()
    rounds = 1 if options.quick else 5

    rows = []
    with tempfile.TemporaryDirectory(dir=options.directory) as place:
        for latency_s, workers, count in ((0.0, 8, 3_000), (0.0, 32, 3_000), (0.02, 8, 1_500), (0.02, 32, 3_000)):
            command = [sys.executable, "-c", SIMULATOR, str(latency_s)]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as simulator:
                assert simulator.stdout is not None
                base_url = simulator.stdout.readline().strip()
                for durability in ("full", "normal"):
                    taken = []
                    for number in range(rounds):
                        path = os.path.join(place, f"{latency_s}-{workers}-{durability}-{number}.db")
                        many = 200 if options.quick else count
                        taken.append(
                            (
                                drained_per_s(base_url, None, "full", workers, many),
                                drained_per_s(base_url, path, durability, workers, many),
                            )
                        )
                    ratios = [ours / bare for bare, ours in taken]
                    row = {
                        "latency_s": latency_s,
                        "workers": workers,
                        "durability": durability,
                        "bare_per_s": round(statistics.median(bare for bare, _ in taken)),
                        "ours_per_s": round(statistics.median(ours for _, ours in taken)),
                        "ratio": round(statistics.median(ratios), 3),
                        "ratio_min": round(min(ratios), 3),
                        "ratio_max": round(max(ratios), 3),
                    }
                    rows.append(row)
                    print(
                        f"latency {latency_s * 1e3:3.0f} ms, {workers:2} workers, {durability.upper():6}: "
                        f"{row['ours_per_s']:>6,}/s, without {row['bare_per_s']:>6,}/s, "
                        f"ratio {row['ratio']:.2f} [{row['ratio_min']:.2f}..{row['ratio_max']:.2f}]"
                    )
                assert simulator.stdin is not None
                simulator.stdin.close()
    write_json(options.json, "drain", rounds=rounds, rows=rows)


if __name__ == "__main__":
    main()
