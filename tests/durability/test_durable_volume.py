"""Much in one file: the log stays short, the file gets small again, memory does not grow."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from groq_queue.core.token_estimate import PromptSize
from groq_queue.journal import Entry, Journal

from .conftest import Program, Simulate
from .living import MODEL

Run = Callable[..., list[str]]
gate = pytest.mark.gate
slow = pytest.mark.slow


def _command(*argv: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "groq_queue", *argv], capture_output=True, text=True, timeout=300, check=False
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


@pytest.mark.parametrize("count", [pytest.param(2_000, marks=gate), pytest.param(100_000, marks=slow)])
def test_a_hundred_thousand_requests_through_one_file(
    count: int, path: str, tmp_path: Path, simulate: Simulate, run: Run
) -> None:
    """
    Log at most 64 MB, the pruned file hardly more than its live data, memory the same at the end as at a fifth.
    """
    simulator = simulate(log_size=0)

    told = json.loads(run("flood", path, simulator.base_url, count, timeout=900)[-1])
    sizes = [os.path.getsize(path)]
    connection = sqlite3.connect(path)
    # Every second is kept: no page of the file gets free, all get half empty.
    connection.execute("UPDATE requests SET status = 'failed', error_kind = 'made up' WHERE id % 2 = 0")
    connection.commit()
    connection.close()
    _command("prune", "--journal", path)
    sizes.append(os.path.getsize(path))
    copy = str(tmp_path / "copy.db")
    _command("export", "--journal", path, copy)
    sizes.append(os.path.getsize(copy))

    print(f"{count}: {told}, file {[f'{size / 1e6:.1f} MB' for size in sizes]} full, pruned, live")
    assert 0 == told["failed"]
    assert count == simulator.stats().by_status[200]
    assert told["wal"] <= 64 * 1024 * 1024
    assert sizes[1] <= 1.2 * sizes[2]
    assert sizes[1] < 0.7 * sizes[0]
    assert told["memory"][-1] - told["memory"][2] <= 20


def _fill(path: str, count: int) -> None:
    """Let *count* requests wait in a new journal."""
    payload = json.dumps(
        {"model": MODEL, "messages": [{"role": "user", "content": "word " * 80}], "max_completion_tokens": 16},
        separators=(",", ":"),
    ).encode()
    with Journal.open(path, durability="normal") as journal:
        for start in range(0, count, 20_000):
            journal.add_many(
                Entry(
                    f"req_{n}",
                    f"n{n}",
                    MODEL,
                    MODEL,
                    "chat/completions",
                    5,
                    f"client{n % 3}",
                    payload,
                    PromptSize(90, 16),
                    10**18 + n,
                )
                for n in range(start, min(start + 20_000, count))
            )


@pytest.mark.parametrize(
    ("count", "sends"),
    [(2_000, 16), pytest.param(20_000, 400, marks=gate), pytest.param(1_000_000, 1_000, marks=slow)],
)
def test_much_that_waits_delays_neither_the_start_nor_the_first_send(
    count: int, sends: int, path: str, simulate: Simulate, program: Program
) -> None:
    """
    A million: open in 5 s, the first is sent within 1 s of that, 300 MB at most; leaving leaves the rest there.
    """
    if shutil.disk_usage(os.path.dirname(path)).free < 3 * count * 1_200:
        pytest.skip("not enough room for the file")
    _fill(path, count)
    simulator = simulate(latency=0.05)

    process = program("start_up", path, simulator.base_url)
    seen = simulator.wait_for_requests(sends, timeout=120)
    out, err = process.communicate("leave\n", timeout=120)

    assert seen, err
    assert 0 == process.returncode, err
    told = json.loads(out)
    log = simulator.log
    opened_s = (told["ready"] - told["begin"]) / 1e9
    first_s = (log[0].arrived_ns - told["ready"]) / 1e9
    counts = json.loads(_command("status", "--journal", path, "--json"))["counts"]
    print(
        f"{count} wait: open in {opened_s:.2f} s, first sent {first_s:.2f} s later, {len(log)} sent, "
        f"peak {told['peak_mb']:.0f} MB, left in {told['leave_s']:.2f} s, {counts}"
    )
    assert opened_s <= 5
    assert first_s <= 1
    assert told["peak_mb"] <= 300
    assert len(log) == counts["completed"]
    assert count == counts["completed"] + counts["pending"]
