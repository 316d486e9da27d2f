"""The fault table: ``python -m tests.faults [D01 D02 ...] [--full] [--repeat N] [--gates]``.

Prints each row with what was measured, as it comes; exit code 1 if one failed. Without
``--full`` the scenarios run at a small scale, which takes two minutes in all; with it
at their own, which takes the better part of two hours with an hour of soak
(``GROQ_QUEUE_SOAK_S`` says how long else).
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import signal
import subprocess
import sys
import time

from .harness import ROOT, Figure, run_row
from .rows import ROWS, Row


def measured(row: Row, *, full: bool) -> Figure | None:
    """Measure one row; None if it cannot be measured at this scale."""
    if row.missing:
        return None
    if row.tests:
        return tested(row, full=full)
    if not full and not row.quick_s:
        return None
    return run_row(row.number, scale="full" if full else "quick", patience_s=row.full_s if full else row.quick_s)


def tested(row: Row, *, full: bool) -> Figure:
    """Run the tests of a row, at full scale their slow cases too."""
    marks = "slow or not slow" if full or "test_journal_crash" in row.tests[0] else "not slow"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marks, *row.tests]
    begin = time.monotonic()
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=row.full_s)
    except subprocess.TimeoutExpired:
        return Figure(False, f"{row.tests[0]} did not end in {row.full_s:.0f} s")
    counts = re.findall(r"\d+ (?:passed|failed|errors?|skipped|deselected)", done.stdout)
    names = ", ".join(name.rpartition("::")[2] for name in row.tests)
    said = ", ".join(counts).replace("deselected", "only at full scale") or done.stdout[-200:]
    told = f"{said} in {time.monotonic() - begin:.0f} s: {names}"
    if done.returncode:
        told += "".join(f"; {line[1:].strip()}" for line in done.stdout.splitlines() if line.startswith("E "))[:600]
    return Figure(done.returncode == 0 and any("passed" in count for count in counts), told)


def main() -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored, by children too
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Run the fault table.")
    parser.add_argument("rows", nargs="*", help="numbers, such as D01; all if none is given")
    parser.add_argument("--full", action="store_true", help="at full scale")
    parser.add_argument("--gates", action="store_true", help="only the lines that a release needs")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="each N times, all must pass")
    options = parser.parse_args()
    chosen = [row for row in ROWS if not options.rows or row.number in options.rows]
    chosen = [row for row in chosen if row.is_gate or not options.gates]
    scale = "full" if options.full else "quick"
    print(f"Python {platform.python_version()}, {os.cpu_count()} processors, {scale} scale, G: a release needs it")
    counts = {"ok": 0, "FAIL": 0, "-": 0}
    begin = time.monotonic()
    for row in chosen:
        for _ in range(options.repeat):
            figure = measured(row, full=options.full)
            state = "-" if figure is None else "ok" if figure.passed else "FAIL"
            text = (row.missing or "only at full scale") if figure is None else figure.text
            counts[state] += 1
            print(f"{row.number:4} {'G' if row.is_gate else ' '} {state:4} {row.what}: {text}", flush=True)
    print(
        f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['-']} not measured, {time.monotonic() - begin:.0f} s"
    )
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())
