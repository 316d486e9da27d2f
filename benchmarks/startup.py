"""What does it cost a program to start, against importing the two dependencies alone?

Each figure is the median of fresh interpreters. "installed" has the bytecode that pip
leaves beside the files; "source" is a checkout under PYTHONDONTWRITEBYTECODE, where
our files are compiled at each start and those of the dependencies are not. The
ratio is ours and theirs together over theirs alone: 1 would be free. The page of
help is compared with an interpreter that imports argparse and ends. A second table
tells what each import takes above a bare interpreter, in time and in resident memory
(where /proc tells it), beside the official SDKs where they are installed; its ratio is
that of the times, ours over the other's.

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
from typing import Any

from rig.measure import is_installed, parser_of, ratios, spread, write_json

import groq_queue

DOORS = {
    "import groq_queue": "import groq_queue",
    "from groq_queue import GroqQueue": "from groq_queue import GroqQueue",
}


OTHERS = ("urllib3", "requests", "groq", "openai", "litellm")
_RESIDENT = """
import os, time
def now():
    try:
        with open("/proc/self/statm") as file:
            return time.perf_counter(), int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return time.perf_counter(), 0.0
began, before = now()
"""


def above_bare(door: str, place: str) -> tuple[float, float]:
    """Return the milliseconds and megabytes that *door* adds to a bare interpreter."""
    script = f"{_RESIDENT}{door}\nended, after = now()\nprint((ended - began) * 1e3, after - before)"
    ms, mb = run(["-c", script], place).split()
    return float(ms), float(mb)


def beside_others(place: str, rounds: int) -> list[dict[str, Any]]:
    doors = {"groq_queue": "from groq_queue import GroqQueue"}
    for name in OTHERS:
        if is_installed(name):
            doors[name] = f"import {name}"
        else:
            print(f"{name}: not installed, skipped (pip install '.[bench]')")
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in doors}
    for _ in range(rounds):
        for name, door in doors.items():
            taken[name].append(above_bare(door, place))
    ours = [ms for ms, _ in taken["groq_queue"]]
    rows = []
    for name, pairs in taken.items():
        times = [ms for ms, _ in pairs]
        row = {"import": name, "ms": spread(times, ".0f"), "mb": spread([mb for _, mb in pairs], ".1f")}
        rows.append(row | {"ratio": spread(ratios(ours, times))})
        print(
            f"import {name:10}: {row['ms']} ms and {row['mb']} MB above a bare interpreter, ratio {rows[-1]['ratio']}"
        )
    return rows


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
        env={**kept, "PYTHONDONTWRITEBYTECODE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
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
        beside = beside_others(place, min(rounds, 9))
    for each in rows:
        print(
            f"{each['what']:45} adds {each['adds_ms']:6} ms to {each['baseline_ms']:6} ms, ratio {each['ratio']:.2f} "
            f"[{each['ratio_min']:.2f}..{each['ratio_max']:.2f}]"
        )
    write_json(options.json, "startup", rounds=rounds, rows=rows, beside=beside, beside_rounds=min(rounds, 9))


if __name__ == "__main__":
    main()
