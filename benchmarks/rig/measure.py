"""Arguments, rounds, ratios and the JSON of a benchmark."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

from groq_queue import __version__

PEERS = (
    *("requests", "urllib3", "groq", "openai", "tenacity", "pyrate-limiter", "langchain-core", "langchain-openai"),
    *("litellm", "persist-queue", "huey"),
)


def parser_of(
    description: str | None, *, rounds: int | None = None, has_parts: bool = False
) -> argparse.ArgumentParser:
    """Return a parser that knows ``--quick`` and ``--json``.

    Args:
        description: The page of help.
        rounds: How often the benchmark measures unless ``--rounds`` tells otherwise; None: it has no rounds.
        has_parts: It runs itself as a process of its own, with ``--part``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small round, to see that it runs")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help=f"how often it is measured (default: {rounds})")
    if has_parts:
        parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    return parser


def is_installed(module: str) -> bool:
    """Tell whether *module* can be imported, without importing it."""
    return util.find_spec(module) is not None


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Write the median of *values*, and the lowest and highest where there are several."""
    told = format(median(values), form)
    return told if len(values) == 1 else f"{told} [{min(values):{form}}..{max(values):{form}}]"


def paired(rounds: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Run the *sides* one after the other, *rounds* times, so that noise disturbs all alike; one list a side."""
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for place, side in enumerate(sides):
            taken[place].append(side())
    return taken


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratio of each pair of one round."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def in_child(file: str, part: str, *arguments: object, timeout_s: float = 1_800) -> Any:
    """Run ``file --part part arguments…`` in a fresh interpreter and return the JSON it prints last."""
    done = subprocess.run(
        [sys.executable, file, "--part", part, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{part} {arguments}: {done.stderr[-2_000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> dict[str, Any]:
    """Return what the figures depend on: machine, versions, commit, load average."""
    versions = {}
    for name in PEERS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "version": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_average": load_average(),
        "versions": versions,
    }


def load_average() -> float:
    """Return the number of runnable processes of the last minute, 0 where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def write_json(file: str | None, benchmark: str, **figures: Any) -> None:
    """Print the load of the machine; write the figures with all they depend on, if *file* is given."""
    report = {"benchmark": benchmark, **machine(), **figures}
    print(f"load average {report['load_average']} on {report['cores']} cores")
    if file:
        Path(file).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
