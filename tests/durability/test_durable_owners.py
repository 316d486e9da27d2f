"""One owner at a time, and others who look: none disturbs another."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from groq_queue.errors import JournalError

from .conftest import Program, Simulate, rows_of
from .living import opened

Run = Callable[..., list[str]]
gate = pytest.mark.gate
slow = pytest.mark.slow

_READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM requests").fetchone()
print("reading", flush=True)
sys.stdin.read()
"""


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Another program in a read transaction."""
    process = subprocess.Popen(
        [sys.executable, "-c", _READER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "reading\n" == process.stdout.readline()
    try:
        yield
    finally:
        process.communicate(timeout=10)


def test_a_second_run_of_a_script_sends_nothing(path: str, simulate: Simulate, run: Run) -> None:
    """
    The same answers, from the file.
    """
    simulator = simulate(output=(0.1, 1.0))  # answers that differ

    first, second = (json.loads(run("again", path, simulator.base_url, 60)[-1]) for _ in range(2))

    assert first == second
    assert 60 == len(first) == len(simulator.log)
    assert len(set(first.values())) > 1


def refusal_of(path: str, url: str) -> str:
    """Try to open a journal that another process has; return what was said, at once."""
    begin = time.monotonic()
    with pytest.raises(JournalError) as caught:
        opened(path, url).shutdown(cancel_futures=True)
    assert time.monotonic() - begin <= 4, "a lock would have been waited for longer"
    return str(caught.value)


def test_a_second_process_is_refused_at_once(path: str, simulate: Simulate, program: Program) -> None:
    """
    It is told the pid; what the first has on its way is sent once.
    """
    simulator = simulate(latency=0.2)
    first = program("own", path, simulator.base_url)
    assert "accepted owned\n" == first.stdout.readline()

    said = refusal_of(path, simulator.base_url)
    out, _ = first.communicate("end\n", timeout=30)

    assert said.startswith(f"journal {path}: another process (pid {first.pid} since ")
    assert "ended" in out
    assert ["owned"] == [record.prompt for record in simulator.log]
    with opened(path, simulator.base_url) as queue:
        assert "completed" == queue.get("owned").status


def test_a_stopped_owner_stays_the_owner(path: str, tmp_path: Path, simulate: Simulate, program: Program) -> None:
    """
    However long it is stopped: nobody takes over, it goes on, and there is one completion.
    """
    simulator = simulate(latency=0.2)
    owner = program("own", path, simulator.base_url)
    assert "accepted owned\n" == owner.stdout.readline()
    assert simulator.wait_for_requests(1, timeout=10)
    owner.send_signal(signal.SIGSTOP)

    refusals = [refusal_of(path, simulator.base_url) for _ in range(2)]
    owner.send_signal(signal.SIGCONT)
    out, _ = owner.communicate("end\n", timeout=30)

    assert [True, True] == [f"(pid {owner.pid} since " in said for said in refusals]
    assert 1 == sum(line.startswith("done owned") for line in out.splitlines())
    assert "ended" in out
    assert 1 == len(simulator.log)
    assert ("completed", 1) == rows_of(path, tmp_path)["owned"][:2]


@pytest.mark.parametrize("seconds", [pytest.param(2, marks=gate), pytest.param(60, marks=slow)])
def test_somebody_who_reads_for_long_slows_no_submit(seconds: float, path: str, simulate: Simulate) -> None:
    """
    In a read transaction of its own; compared with the same time without it.
    """
    simulator = simulate(log_size=0)

    def p99(prefix: str) -> float:
        took, number = [], 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begin = time.monotonic()
            queue.submit(f"{prefix}{number}", custom_id=f"{prefix}{number}", max_completion_tokens=16)
            took.append(time.monotonic() - begin)
            number += 1
        assert queue.join(60)
        return sorted(took)[int(len(took) * 0.99)]

    with opened(path, simulator.base_url, max_pending=None) as queue:
        alone = p99("a")
        with _reading(path):
            beside = p99("b")
        stats = queue.stats()

    print(f"submit p99 {alone * 1e3:.1f} ms alone, {beside * 1e3:.1f} ms beside a reader; {stats.completed} completed")
    assert 0 == stats.failed
    assert beside <= max(0.25, 2 * alone)


@pytest.mark.parametrize("copies", [1, pytest.param(5, marks=gate), pytest.param(20, marks=slow)])
def test_an_export_under_load_has_all_that_was_accepted_before(
    copies: int, path: str, tmp_path: Path, simulate: Simulate, program: Program
) -> None:
    """
    It opens, it is whole, and nothing acknowledged before the export began is missing.
    """
    simulator = simulate(latency=(0.0, 0.01), log_size=0)
    owner = program("life", path, simulator.base_url, 1)
    accepted: set[str] = set()
    for number in range(copies):
        wanted = len(accepted) + 150
        while len(accepted) < wanted:
            act, *words = owner.stdout.readline().split()
            if act == "accepted":
                accepted.add(words[0])
        before = set(accepted)
        copy = str(tmp_path / f"{number}.db")

        done = subprocess.run(
            [sys.executable, "-m", "groq_queue", "export", "--journal", path, copy],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip

        assert 0 == done.returncode, done.stderr
        assert not os.path.exists(copy + "-wal")
        assert set() == before - set(rows_of(copy, tmp_path))
    assert owner.poll() is None


def test_the_file_can_be_read_with_any_sqlite_tool(path: str, simulate: Simulate) -> None:
    """
    By the names of the documented schema.
    """
    with opened(path, simulate().base_url) as queue:
        for number in range(3):
            queue.submit(f"n{number}", custom_id=f"n{number}")

    connection = sqlite3.connect(path)
    found = connection.execute(
        "SELECT custom_id, status, attempts, finished_ns >= created_ns, prompt_tokens > 0, length(results.body) > 0 "
        "FROM requests JOIN results USING (id) ORDER BY custom_id"
    ).fetchall()
    connection.close()

    assert [(f"n{number}", "completed", 1, 1, 1, 1) for number in range(3)] == found
