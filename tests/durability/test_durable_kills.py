"""Killed at any moment: accepted means stored, completed means never sent again.

The server is outside, so what was sent is counted by somebody who was not killed.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Program, Simulate, Witness, rows_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")

Run = Callable[..., list[str]]
slow = pytest.mark.slow


def _kill(process: subprocess.Popen[str]) -> list[str]:
    process.send_signal(signal.SIGKILL)
    out = process.stdout.read()  # communicate() would pass over what readline() has in its buffer
    _, err = process.communicate(timeout=30)
    assert -signal.SIGKILL == process.returncode, err
    return out.splitlines()


@pytest.mark.parametrize("kills", [5, pytest.param(200, marks=slow)])
def test_killed_at_random_moments_over_one_journal(
    kills: int, path: str, tmp_path: Path, simulate: Simulate, program: Program, run: Run
) -> None:
    """
    Nothing lost, nothing completed is sent again, no result changes, and only what was in flight goes out twice.
    """
    simulator = simulate(latency=(0.0, 0.03), log_size=1_000_000)
    dice, witness = random.Random(5), Witness(path, simulator, tmp_path)
    cut_early = 0
    for kill in range(kills):
        process = program("life", path, simulator.base_url, kill)
        heard = []
        if dice.random() < 0.8:
            heard.append(process.stdout.readline())
            time.sleep(dice.uniform(0.0, 0.4))
        else:
            time.sleep(dice.uniform(0.0, 0.6))
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


@pytest.mark.parametrize("kills", [5, pytest.param(200, marks=slow)])
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


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: no kill at an exact write")
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"])
@pytest.mark.parametrize("numbers", [(1, 5, 40), pytest.param(range(1, 61), marks=slow)], ids=["few", "each"])
def test_killed_at_the_nth_write_of_a_new_file(
    numbers: list[int], call: str, tmp_path: Path, simulate: Simulate, program: Program, run: Run
) -> None:
    """
    The first ones are those of the file's creation. strace counts for each thread by itself.
    """
    figures = []
    for number in numbers:
        path = str(tmp_path.resolve() / f"{call}-{number}.db")
        simulator = simulate(latency=(0.0, 0.01))
        witness = Witness(path, simulator, tmp_path)
        spoil = ("-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}")
        process = program(
            "life", path, simulator.base_url, 1, before=("strace", "-f", "-qq", "-o", "/dev/null", *spoil)
        )
        out, err = process.communicate(timeout=60)
        if "ptrace" in err.lower() or "not permitted" in err.lower():
            pytest.skip(f"strace may not trace here: {err.strip()[:80]}")

        witness.hear(out.splitlines())
        witness.look()
        witness.hear(run("drain", path, simulator.base_url))
        figures.append(witness.judge())
        simulator.stop()
    print(f"{len(figures)} kills at {call}: {sum(each['accepted'] for each in figures)} accepted, none lost")
    assert sum(each["accepted"] for each in figures) > 0


@pytest.mark.parametrize("kills", [3, pytest.param(60, marks=slow)])
def test_killed_while_the_file_is_made(
    kills: int, tmp_path: Path, simulate: Simulate, program: Program, run: Run
) -> None:
    """
    At random moments around the creation, a new file each time, strace or not.
    """
    simulator = simulate()
    dice = random.Random(7)
    for kill in range(kills):
        path = str(tmp_path.resolve() / f"{kill}.db")
        process = program("life", path, simulator.base_url, 10 * kill + 1)
        time.sleep(dice.uniform(0.1, 0.5))
        heard = _kill(process)

        accepted = {line.split()[1] for line in heard if line.startswith("accepted")}
        assert set() == accepted - set(rows_of(path, tmp_path))
        run("drain", path, simulator.base_url)
        assert {"completed"} >= {row.status for row in rows_of(path, tmp_path).values()}


def test_the_witness_misses_what_was_lost(path: str, tmp_path: Path, simulate: Simulate, run: Run) -> None:
    """
    The witness itself: a request that is said to be accepted and is not there, and one that is sent when completed.
    """
    simulator = simulate()
    run("again", path, simulator.base_url, 1)
    lost, doubled = (Witness(path, simulator, tmp_path) for _ in range(2))

    lost.hear(["accepted n7"])
    with pytest.raises(AssertionError, match="accepted and lost"):
        lost.look()
    doubled.look()
    run("again", path + "2", simulator.base_url, 1)
    with pytest.raises(AssertionError, match="n0: sent when completed"):
        doubled.judge()
