"""Tables of the README out of the JSON of runs: each between a pair of marks, the rest of the page left alone."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]

COLUMNS: dict[str, dict[str, str]] = {
    "http_cost": {
        "threads": "threads",
        "latency_ms": "latency, ms",
        "against": "against",
        "ours_cpu_us": "our CPU, us",
        "their_cpu_us": "theirs",
        "cpu_ratio": "ratio of CPU",
        "ours_per_s": "our requests/s",
        "theirs_per_s": "theirs",
        "speed_ratio": "ratio of speed",
    },
    "dispatch": {
        "what": "what",
        "workers": "workers",
        "ours_per_s": "ours/s",
        "executor_per_s": "ThreadPoolExecutor/s",
        "ratio": "ratio",
    },
    "decision": {"threads": "threads", "side": "what", "us": "us", "ratio": "ratio of ours to it"},
    "fairness": {
        "clients": "clients",
        "requests": "requests",
        "ours_per_s": "ours/s",
        "heapq_per_s": "plain heapq/s",
        "ratio": "ratio",
    },
    "cancel": {"what": "what", "pending": "pending", "ours": "ours", "executor": "executor", "ratio": "ratio"},
    "memory": {
        "pending": "pending",
        "ours_bytes_above_payload": "ours above the payload, bytes",
        "executor_bytes_above_payload": "executor",
        "ratio": "ratio",
        "process_mb": "our process, MB",
    },
    "idle": {"part": "what", "seconds": "seconds", "switches": "switches", "cpu_ms": "CPU, ms", "ratio": "ratio"},
    "isolation": {
        "contender": "contender",
        "time_over_ideal": "free model, time over ideal",
        "ratio": "ratio of ours to it",
        "slow_utilisation": "exhausted model, of its limit",
        "refused": "429s",
        "lost": "lost",
    },
    "startup": {
        "import": "import",
        "ms": "ms above a bare interpreter",
        "mb": "MB above it",
        "ratio": "ratio of ours to it",
    },
    "journal": {
        "durability": "synchronous",
        "threads": "threads",
        "ours_per_s": "ours/s",
        "bare_per_s": "sqlite3, one a commit",
        "ratio": "ratio",
        "bare_shared_per_s": "as many a commit as threads",
        "ratio_to_shared": "ratio to that",
    },
    "drain": {
        "latency_s": "latency, s",
        "workers": "workers",
        "durability": "synchronous",
        "ours_per_s": "with a journal/s",
        "bare_per_s": "without",
        "ratio": "ratio",
    },
    "urgent": {
        "side": "release",
        "p50_ms": "p50, ms",
        "p99_ms": "p99, ms",
        "offset_ms": "offset, ms",
        "ratio_p50": "ratio of ours to it",
    },
}


def page_with(page: str, results: Path) -> str:
    """Return *page* with each ``NAME.json`` of *results* as a table between ``<!-- NAME -->`` and ``<!-- end -->``."""
    for file in sorted(results.glob("*.json")):
        told = _table_of(file.stem, json.loads(file.read_text(encoding="utf-8")))
        mark = re.compile(rf"(<!-- {re.escape(file.stem)} -->\n).*?(<!-- end -->)", re.DOTALL)
        page = mark.sub(lambda found, told=told: f"{found[1]}{told}{found[2]}", page)  # type: ignore[misc]
    return page


def _table_of(name: str, report: dict[str, Any]) -> str:
    if report["benchmark"] == "peers":
        table = _pivot(report["rows"])
    else:
        columns = COLUMNS.get(report["benchmark"], {})
        told = report.get("beside") or report.get("rows", [])
        rows = [row for row in told if next(iter(columns), "") in row and len(columns.keys() & row) > 2]
        table = _markdown(list(columns.values()), [[_told(row.get(key, "")) for key in columns] for row in rows])
    return f"\n{table}\n{_footnote(report)}\n\n"


def _pivot(rows: Rows) -> str:
    loads = list(dict.fromkeys(row["load"] for row in rows))
    contenders = list(dict.fromkeys(row["contender"] for row in rows))
    cells = []
    for contender in contenders:
        mine = {row["load"]: row for row in rows if row["contender"] == contender}
        line = [contender]
        for load in loads:
            row = mine.get(load)
            line.append("" if row is None else f"{row['utilisation']:.4f} · {row['refused']:.0f} · {row['lost']:.0f}")
        first = mine[loads[0]]
        cells.append([*line, f"{first['cpu_ms']:.2f}", f"{first['switches']:.1f}"])
    return _markdown(["used · 429s · lost", *loads, "CPU, ms", "switches"], cells)


def _footnote(report: dict[str, Any]) -> str:
    told = f"Python {report['python']}, {report['cores']} cores"
    if "load_average_max" in report:
        told += f", load average {report['load_average_min']} to {report['load_average_max']}"
    else:
        told += f", load average {report['load_average']}"
    if "rounds" in report:
        rounds = report.get("beside_rounds", report["rounds"])
        told += f", {rounds} rounds" if rounds > 1 else ", one round"
    return f"{told}, commit {report['commit']}."


def _told(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value == int(value) and value >= 1 else f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"
