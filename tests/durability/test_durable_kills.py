"""Killed at any moment: accepted means stored, completed means never sent again.

The server is outside, so what was sent is counted by somebody who was not killed.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from extras import needs_program

from .conftest import Program, Simulate, Witness, rows_of
from .living import opened

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")

Run = Callable[..., list[str]]
gate = pytest.mark.gate
slow = pytest.mark.slow


def _hear(process: subprocess.Popen[str], lines: int) -> list[str]:
    """Return the next lines that a program says; it lives until they are said."""
    heard = [process.stdout.readline() for _ in range(lines)]
    assert all(heard), process.stderr.read()
    return heard


def _let_live(process: subprocess.Popen[str], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        raise AssertionError(process.stderr.read())


def _kill(process: subprocess.Popen[str]) -> list[str]:
    process.send_signal(signal.SIGKILL)
    out = process.stdout.read()  # communicate() would pass over what readline() has in its buffer
    _, err = process.communicate(timeout=30)
    assert -signal.SIGKILL == process.returncode, err
    return out.splitlines()


@pytest.mark.parametrize("kills", [pytest.param(10, marks=gate), pytest.param(200, marks=slow)])
def test_killed_at_random_moments_over_one_journal(
    kills: int, path: str, tmp_path: Path, simulate: Simulate, program: Program, run: Run
) -> None:
    """
    Nothing lost, nothing completed is sent again, no result changes, and only what was in flight goes out twice.

    The moments are after a number of words, so that a slow machine is killed at its work too; one in five is by the
    clock, and may come before the queue is open.
    """
    simulator = simulate(latency=(0.0, 0.03), log_size=1_000_000)
    rng, witness = random.Random(5), Witness(path, simulator, tmp_path)
    cut_early = 0
    for kill in range(kills):
        process = program("life", path, simulator.base_url, kill)
        heard = []
        if kill % 5:
            heard += _hear(process, rng.randrange(1, 150))
        else:
            _let_live(process, rng.uniform(0.0, 0.6))
        heard += _kill(process)
        cut_early += not any(line.startswith("open") for line in heard)
        witness.hear(heard)
        witness.look()
    witness.hear(run("drain", path, simulator.base_url))

    figures = witness.judge()
    print(f"{kills} kills, {cut_early} before the queue was open: {figures}")
    assert figures["completed"] >= 5 * kills
    assert figures["in_flight_at_a_kill"] >= kills / 4
    assert figures["completed"] - figures["accepted"] <= 2 * kills  # stored, and killed before it could be said


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=gate), pytest.param(200, marks=slow)])
def test_killed_right_after_submit_has_returned(
    kills: int, path: str, tmp_path: Path, simulate: Simulate, program: Program
) -> None:
    """
    All are there.
    """
    simulator = simulate()
    for kill in range(kills):
        process = program("accept", path, simulator.base_url, f"n{kill}")
        _, err = process.communicate(timeout=30)
        assert -signal.SIGKILL == process.returncode, err

        there = rows_of(path, tmp_path)
        assert {f"n{number}" for number in range(kill + 1)} == set(there)


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"])
@pytest.mark.parametrize(
    "numbers", [pytest.param((1, 5, 40), marks=gate), pytest.param(range(1, 61), marks=slow)], ids=["few", "each"]
)
def test_killed_at_the_nth_write_of_a_new_file(
    numbers: list[int], call: str, tmp_path: Path, simulate: Simulate, program: Program, run: Run
) -> None:
    """
    The first ones are those of the file's creation. strace counts for each thread by itself.
    """
    strace = needs_program("strace")
    figures = []
    for number in numbers:
        path = str(tmp_path.resolve() / f"{call}-{number}.db")
        simulator = simulate(latency=(0.0, 0.01))
        witness = Witness(path, simulator, tmp_path)
        spoil = ("-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}")
        process = program("life", path, simulator.base_url, 1, before=(strace, "-f", "-qq", "-o", "/dev/null", *spoil))
        out, err = process.communicate(timeout=60)
        if "ptrace" in err.lower() or "not permitted" in err.lower():
            pytest.skip(f"strace may not trace here: {err.strip()[:80]}")

        witness.hear(out.splitlines())
        witness.look()
        witness.hear(run("drain", path, simulator.base_url))
        assert -signal.SIGKILL == process.returncode, err
        figures.append(witness.judge())
        simulator.stop()
    assert len(numbers) == len(figures)
    print(f"{len(figures)} kills at {call}: {sum(each['accepted'] for each in figures)} accepted, none lost")
    assert sum(each["accepted"] for each in figures) > 0


@pytest.mark.parametrize("kills", [pytest.param(6, marks=gate), pytest.param(60, marks=slow)])
def test_killed_while_the_file_is_made(
    kills: int, tmp_path: Path, simulate: Simulate, program: Program, run: Run
) -> None:
    """
    At random moments around the creation, a new file each time, strace or not; every third right after it.
    """
    simulator = simulate()
    rng = random.Random(7)
    accepted_in_all = 0
    for kill in range(kills):
        path = str(tmp_path.resolve() / f"{kill}.db")
        process = program("life", path, simulator.base_url, 10 * kill + 1)
        heard = []
        if kill % 3:
            _let_live(process, rng.uniform(0.1, 0.5))
        else:
            heard += _hear(process, 2)
        heard += _kill(process)

        accepted = {line.split()[1] for line in heard if line.startswith("accepted")}
        accepted_in_all += len(accepted)
        assert set() == accepted - set(rows_of(path, tmp_path))
        run("drain", path, simulator.base_url)
        rows = rows_of(path, tmp_path)
        assert accepted <= set(rows)
        assert {"completed"} >= {row.status for row in rows.values()}
    assert accepted_in_all >= kills / 3


def _answer(path: str, url: str) -> None:
    """Have one request answered, by a program that is not killed."""
    with opened(path, url) as queue:
        queue.submit("n0", custom_id="n0", max_completion_tokens=16)


def test_the_witness_misses_what_was_lost(path: str, tmp_path: Path, simulate: Simulate) -> None:
    """
    The witness itself: a request that is said to be accepted and is not there, and one that is sent when completed.
    """
    simulator = simulate()
    _answer(path, simulator.base_url)
    lost, doubled = (Witness(path, simulator, tmp_path) for _ in range(2))

    lost.hear(["accepted n7"])
    with pytest.raises(AssertionError, match="accepted and lost"):
        lost.look()
    doubled.look()
    _answer(path + "2", simulator.base_url)
    with pytest.raises(AssertionError, match="n0: sent when completed"):
        doubled.judge()
