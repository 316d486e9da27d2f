"""What is mistyped or missed in the first hour with the command: it says the cure, and a signal ends a run well."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import COMMAND, Command, batch
from .test_run import Simulate, Write

posix = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("localhost:8091", "http://localhost:8091"),
        ("127.0.0.1:8091/openai/v1", "http://127.0.0.1:8091/openai/v1"),
        ("[::1]:8091", "http://[::1]:8091"),
        ("api.groq.com", "https://api.groq.com"),
        ("example.com:8443/v1", "https://example.com:8443/v1"),
    ],
)
@pytest.mark.parametrize("is_argument", [True, False], ids=["argument", "environment"])
def test_an_address_without_a_scheme_is_answered_by_the_one_with_it_and_no_key_is_asked_for(
    command: Command, write: Write, monkeypatch: pytest.MonkeyPatch, typed: str, meant: str, is_argument: bool
) -> None:
    if not is_argument:
        monkeypatch.setenv("GROQ_BASE_URL", typed)

    ran = command("run", write(batch("a")), *(["--base-url", typed] if is_argument else []))

    assert 3 == ran.code
    assert f"write {meant}\n" in ran.err
    assert "GROQ_API_KEY" not in ran.err


def test_a_right_address_off_this_machine_still_asks_for_the_key(command: Command, write: Write) -> None:
    ran = command("run", write(batch("a")), "--base-url", "https://api.groq.com")

    assert 3 == ran.code
    assert "GROQ_API_KEY is not set" in ran.err


def test_a_key_in_an_address_without_a_scheme_is_not_repeated(command: Command, write: Write) -> None:
    ran = command("run", write(batch("a")), "--base-url", "user:secret@localhost:8091")

    assert 3 == ran.code
    assert "secret" not in ran.err


def test_a_limit_that_no_header_tells_is_named_once_after_its_refusals(
    simulate: Simulate, command: Command, write: Write
) -> None:
    one, other = simulate(rpm=1), simulate(rpm=1)
    lines = write(batch("a"), batch("b"))

    unnamed = command("run", lines, "--base-url", one.base_url, "--max-retries", 0)
    named = command("run", lines, "--base-url", other.base_url, "--max-retries", 0, "--rpm", 9)

    assert [{"RPM": 1}] * 2 == [server.stats().refused_by_dimension for server in (one, other)]
    assert 1 == unnamed.err.count("next time name --rpm 1\n")
    assert "next time" not in named.err


@pytest.mark.parametrize(
    ("typed", "limits"),
    [
        (("--minute", 6), " --rpm 1000 --tpm 250000 --minute 6\n"),
        (("--rpm", 60), " --rpm 60 --tpm 250000\n"),
        ((), "/openai/v1\n"),
    ],
)
@posix
def test_the_commands_that_simulate_proposes_name_the_limits_that_no_header_tells(
    spawn: Any, typed: tuple[object, ...], limits: str
) -> None:
    process = spawn("simulate", *typed)
    url = process.stdout.readline().strip()
    process.terminate()
    _, told = process.communicate(timeout=20)

    proposed = [line for line in told.splitlines(keepends=True) if "groq-queue run" in line]
    assert 2 == len(proposed)
    assert all(url in line and line.endswith(limits) for line in proposed)


def test_a_report_that_draws_a_figure_says_where_it_is(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path
) -> None:
    simulator = simulate()
    report, figure = tmp_path / "run.json", tmp_path / "run.svg"
    command("run", write(batch("a")), "--base-url", simulator.base_url, "--report", report)

    drawn = command("report", report, "--svg", figure)
    on_stdout = command("report", report, "--svg", "-")

    assert f"wrote the figure into {figure}\n" == drawn.err
    assert "" == on_stdout.err
    assert on_stdout.out == figure.read_text()


def start_run(spawn: Any, simulator: Any, write: Write, out: Path, *, ignoring: str = "") -> Any:
    """Start a run of many lines, with a signal ignored by whoever starts it, and return it while it sends."""
    lines = write(*[batch(f"{number}") for number in range(2_000)])
    arguments = ("run", lines, "-o", out, "--workers", 4, "--rpm", 100_000, "--base-url", simulator.base_url, "--json")
    process = spawn(*arguments, ignoring=ignoring)
    assert simulator.wait_for_requests(20, timeout=20)
    return process


@pytest.fixture
def spawn_ignoring(monkeypatch: pytest.MonkeyPatch, spawn: Any) -> Any:
    """Start the command by a shell that ignores a signal."""

    def start(*argv: object, ignoring: str) -> Any:
        if not ignoring:
            return spawn(*argv)
        shell = ("sh", "-c", f"trap '' {ignoring}; exec \"$@\"", "sh")
        monkeypatch.setattr(f"{spawn.__module__}.COMMAND", (*shell, *COMMAND))
        return spawn(*argv)

    return start


@posix
def test_a_terminal_that_hangs_up_ends_a_run_as_sigterm_does_however_often_it_tells(
    simulate: Simulate, spawn_ignoring: Any, write: Write, tmp_path: Path
) -> None:
    simulator = simulate(latency=0.1)
    out = tmp_path / "out.jsonl"
    process = start_run(spawn_ignoring, simulator, write, out)

    for _ in range(3):
        process.send_signal(signal.SIGHUP)
    stdout, stderr = process.communicate(timeout=20)

    assert 129 == process.returncode == json.loads(stdout)["exit_code"], stderr
    assert simulator.stats().received == len(out.read_text().splitlines())
    assert "to continue, run the same command with --resume" in stderr


@posix
def test_a_ctrl_c_that_was_ignored_from_the_start_stays_ignored(
    simulate: Simulate, spawn_ignoring: Any, write: Write, tmp_path: Path
) -> None:
    simulator = simulate(latency=0.02)
    process = start_run(spawn_ignoring, simulator, write, tmp_path / "out.jsonl", ignoring="INT")
    before = simulator.stats().received

    process.send_signal(signal.SIGINT)
    assert simulator.wait_for_requests(before + 40, timeout=20)
    process.terminate()
    stdout, _ = process.communicate(timeout=20)

    assert 143 == json.loads(stdout)["exit_code"]
