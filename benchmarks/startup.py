"""What does it cost a program to start, against importing the two dependencies alone?

Each figure is the median of fresh interpreters. "installed" has the bytecode that pip
leaves beside the files; "source" is a checkout under PYTHONDONTWRITEBYTECODE, where
our files are compiled at each start and those of the dependencies are not. The
ratio is ours and theirs together over theirs alone: 1 would be free. The page of
help is compared with an interpreter that imports argparse and ends.

    python benchmarks/startup.py [--quick] [--json FILE]
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rig.measure import parser_of, write_json

import groq_queue

DOORS = {
    "import groq_queue": "import groq_queue",
    "from groq_queue import GroqQueue": "from groq_queue import GroqQueue",
}


def imports(door: str, place: str) -> tuple[float, float]:
    """Return the milliseconds that the dependencies take, and those that *door* adds."""
    script = (
        "from time import perf_counter as now\n"
        f"start = now()\nimport requests, urllib3\nmiddle = now()\n{door}\nend = now()\n"
        "print(middle - start, end - middle)"
    )
    theirs, ours = run(["-c", script], place).split()
    return float(theirs) * 1_000, float(ours) * 1_000


def runs(words: list[str], place: str) -> float:
    """Return the milliseconds from the start of an interpreter to its end."""
    began = time.perf_counter()
    run(words, place)
    return (time.perf_counter() - began) * 1_000


def run(words: list[str], place: str) -> str:
    """Run an interpreter that finds the copy of the package in *place*, and return what it prints."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPYCACHEPREFIX", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=place,
        env={**kept, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return done.stdout


def row(name: str, theirs: list[float], ours: list[float]) -> dict[str, str | float]:
    ratios = [(other + mine) / other for other, mine in zip(theirs, ours, strict=True)]
    return {
        "what": name,
        "adds_ms": round(statistics.median(ours), 1),
        "baseline_ms": round(statistics.median(theirs), 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_min": round(min(ratios), 2),
        "ratio_max": round(max(ratios), 2),
    }


def measured(place: str, kind: str, rounds: int) -> list[dict[str, str | float]]:
    rows = []
    for name, door in DOORS.items():
        pairs = [imports(door, place) for _ in range(rounds)]
        rows.append(row(f"{name}, {kind}", [other for other, _ in pairs], [mine for _, mine in pairs]))
    both = [
        (runs(["-c", "import argparse"], place), runs(["-m", "groq_queue", "--help"], place)) for _ in range(rounds)
    ]
    rows.append(row(f"groq-queue --help, {kind}", [bare for bare, _ in both], [full - bare for bare, full in both]))
    return rows


def main() -> None:
    parser = parser_of(__doc__)
    options = parser.parse_args()
    rounds = 2 if options.quick else 25

    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, "groq_queue")
        shutil.copytree(Path(groq_queue.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
        rows = measured(place, "source", rounds)
        run(["-m", "compileall", "-q", str(copy)], place)
        rows += measured(place, "installed", rounds)
    for each in rows:
        print(
            f"{each['what']:45} adds {each['adds_ms']:6} ms to {each['baseline_ms']:6} ms, ratio {each['ratio']:.2f} "
            f"[{each['ratio_min']:.2f}..{each['ratio_max']:.2f}]"
        )
    write_json(options.json, "startup", rounds=rounds, rows=rows)


if __name__ == "__main__":
    main()
