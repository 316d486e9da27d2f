"""The command as a process: signals, pipes, terminals, and the two commands that need no file."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import groq_queue
from groq_queue.simulator import GroqSimulator
from groq_queue.simulator.faults import Fault

from .conftest import COMMAND, MODEL, Command, Demo, batch, clean_environment, run_process

Simulate = Callable[..., GroqSimulator]
Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.gate)]
)
def test_a_signal_stops_the_run_and_leaves_whole_lines(
    number: int, code: int, simulate: Simulate, spawn: Any, write: Write, tmp_path: Path
) -> None:
    """
    What is on its way is still answered and written; the rest is never sent, and counted.
    """
    simulator = simulate(latency=0.05)
    out = tmp_path / "out.jsonl"
    lines = write(*[batch(f"{n}") for n in range(2_000)])
    process = spawn(
        "run", lines, "-o", out, "--workers", 4, "--rpm", 100_000, "--base-url", simulator.base_url, "--json"
    )

    assert simulator.wait_for_requests(40, timeout=20)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=20)

    summary = json.loads(stdout)
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert code == process.returncode == summary["exit_code"]
    assert 40 <= len(answers) < 400
    assert simulator.stats().by_status[200] == len(answers) == summary["done"]
    assert 2_000 - len(answers) == summary["unsent"]
    assert f"without an answer in {out}: {summary['unsent']:,} lines;" in stderr


def test_a_second_signal_leaves_at_once(simulate: Simulate, spawn: Any, write: Write) -> None:
    """
    A server that never answers cannot hold anybody who wants to leave.
    """
    simulator = simulate(faults=[Fault(silent=True, match="never")])
    lines = write(batch("a"), batch("b", "never"))
    process = spawn("run", lines, "--rpm", 1_000, "--base-url", simulator.base_url)

    assert "a" == json.loads(process.stdout.readline())["custom_id"]
    assert simulator.wait_for_requests(2, timeout=20)
    process.send_signal(signal.SIGINT)
    while "press Ctrl-C again to quit now" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)

    assert 130 == process.wait(timeout=5)
    assert "" == process.stdout.read()


def test_a_signal_ends_the_reading_of_stdin(simulate: Simulate, spawn: Any) -> None:
    """
    A run that waits for the next line is stopped as well; it says that stdin was not read to its end.
    """
    simulator = simulate()
    process = spawn("run", "-", "--model", MODEL, "--base-url", simulator.base_url)
    process.stdin.write("first\n")
    process.stdin.flush()
    assert process.stdout.readline()

    process.send_signal(signal.SIGINT)

    assert 130 == process.wait(timeout=10)
    assert "and the rest of stdin was not read" in process.stderr.read()


def test_a_reader_that_goes_away_ends_the_run_quietly(simulate: Simulate, spawn: Any, write: Write) -> None:
    """
    As behind ``| head -1``: no traceback, no complaint.
    """
    simulator = simulate(latency=0.02)
    lines = write(*[batch(f"{n}") for n in range(1_000)])
    process = spawn("run", lines, "--workers", 2, "--rpm", 100_000, "--base-url", simulator.base_url)

    assert process.stdout.readline()
    process.stdout.close()

    assert 1 == process.wait(timeout=20)
    assert "" == process.stderr.read()
    assert simulator.stats().received < 500


def test_a_disk_that_fills_up_leaves_whole_lines(simulate: Simulate, write: Write, tmp_path: Path) -> None:
    """
    Half a line is taken back, and nothing is written behind it.
    """
    simulator = simulate()
    out = tmp_path / "out.jsonl"
    lines = write(*[batch(f"{n}", "word " * 10) for n in range(100)])
    command = [*COMMAND, "run", lines, "-o", out, "--rpm", "10000", "--base-url", simulator.base_url]

    ended = subprocess.run(
        ["sh", "-c", 'ulimit -f 8 && exec "$@"', "sh", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=20,
        env=clean_environment(),
        check=False,
    )

    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert 2 == ended.returncode, ended.stderr
    assert f"stopped: cannot write {out}: File too large" in ended.stderr
    assert 3 <= len(answers) < 20
    assert out.read_text().endswith("\n")


def _on_terminal(*argv: object, url: str, stdout: int | None = None) -> tuple[int, str]:
    """Run the command with stderr, and stdout unless it is given, on a terminal of 80 columns."""
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, argv)],
        stdin=subprocess.DEVNULL,
        stdout=terminal if stdout is None else stdout,
        stderr=terminal,
        env=clean_environment(GROQ_BASE_URL=url, NO_COLOR="1", TERM="xterm"),
    )
    os.close(terminal)
    alarm = threading.Timer(20, process.kill)
    alarm.start()
    shown = b""
    try:
        while piece := _read(screen):
            shown += piece
    finally:
        os.close(screen)
        code = process.wait(timeout=10)
        alarm.cancel()
        alarm.join()
    return code, shown.decode().replace("\r\n", "\n")


def _read(screen: int) -> bytes:
    try:
        return os.read(screen, 4_096)
    except OSError:  # how Linux says that the other side is closed
        return b""


def test_a_terminal_sees_one_line_rewritten_without_escape_sequences(
    simulate: Simulate, write: Write, tmp_path: Path
) -> None:
    """
    It tells how far the run is and what it waits for; NO_COLOR has nothing to take away.
    """
    simulator = simulate(rpm=10, minute_s=2.0)
    lines = write(*[batch(f"{n}") for n in range(15)])

    code, text = _on_terminal(
        "run",
        lines,
        "-o",
        tmp_path / "out",
        "--rpm",
        10,
        "--minute",
        2,
        url=simulator.base_url,
        stdout=subprocess.DEVNULL,
    )

    assert 0 == code, text
    assert "\x1b" not in text
    assert 3 <= text.count("\r1")
    assert "/15 done" in text
    assert "waits: RPM 10 of 10" in text
    assert 1 == text.count("\n")
    assert all(len(line.rstrip()) < 80 for line in text.split("\r")[:-1])


@pytest.mark.gate
def test_answers_on_the_same_terminal_stand_on_lines_of_their_own(simulate: Simulate, write: Write) -> None:
    """
    The progress line makes room for each.
    """
    simulator = simulate(rpm=10, minute_s=1.0)
    lines = write(*[batch(f"{n}") for n in range(18)])

    code, text = _on_terminal("run", lines, "--rpm", 10, "--minute", 1, url=simulator.base_url)

    visible = [line.rpartition("\r")[2] for line in text.splitlines() if '"custom_id"' in line]
    assert 0 == code, text
    assert "\r1" in text
    assert 18 == len([json.loads(line) for line in visible])


def test_simulate_serves_until_it_is_told_to_stop_and_then_counts(spawn: Any) -> None:
    """
    The base URL is the first line of stdout; the counts are its last.
    """
    process = spawn("simulate", "--model", "m", "--rpm", 2, "--latency", "0", "--json")
    url = process.stdout.readline().strip()
    ran = run_process("run", "-", "--model", "m", "--rpm", 2, "--quiet", "--base-url", url, stdin="one\ntwo\n")
    with urllib.request.urlopen(url.replace("/openai/v1", "/simulator/stats"), timeout=5) as response:
        seen = json.load(response)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=10)

    counts = json.loads(stdout)
    assert 0 == process.returncode
    assert url.startswith("http://127.0.0.1:")
    assert url.endswith("/openai/v1")
    assert 0 == ran.code, ran.err
    assert 2 == counts["received"] == counts["by_status"]["200"]
    assert counts == seen
    assert f"groq-queue run questions.jsonl --base-url {url}" in stderr


def test_simulate_tells_its_refusals_by_dimension(spawn: Any) -> None:
    """
    Without --json the counts are a sentence on stderr, also after SIGTERM.
    """
    process = spawn("simulate", "--model", "m", "--rpm", 1, "--tpm", 0, "--minute", 600, "--latency", "0")
    url = process.stdout.readline().strip()
    # A queue that believes in a higher limit meets one refusal, and then nothing may be sent for minutes.
    run_process("run", "-", "--model", "m", "--rpm", 9, "--max-retries", 0, "--base-url", url, stdin="one\ntwo\n")
    process.terminate()
    stdout, stderr = process.communicate(timeout=10)

    assert (0, "") == (process.returncode, stdout)
    assert "2 received, 1 answered, 1 refused (429): 1 by RPM" in stderr


@pytest.mark.gate
def test_the_demo_proves_its_claims_in_twenty_seconds(demo: Demo) -> None:
    """
    No 429 through the queue, no lost answer, and the urgent request before those not sent yet.
    """
    ran = demo.ran

    assert 0 == ran.code, ran.out + ran.err
    assert demo.took_s < 20
    rows = [re.split(r"\s{2,}", line.strip()) for line in ran.out.splitlines()]
    table = {row[0]: row[1:] for row in rows if len(row) == 3}
    assert ["thread pool", "groq_queue"] in rows
    assert ["refused by the server (429)", "urgent request, submitted last, went as", "lost"] == list(table)[:3]
    assert ["0", "0"] == table["lost"]
    refused = table["refused by the server (429)"]
    assert 0 < int(refused[0])
    assert "0" == refused[1]
    assert int(table["urgent request, submitted last, went as"][1].split()[0]) < 30
    assert "Proven: 100 of 100 answered without a single 429" in ran.out
    assert "groq-queue run prompts.txt --model" in ran.out


def test_help_answers_at_once_and_offers_no_key_argument(command: Command) -> None:
    """
    The program and each command; heavy modules are not loaded for it.
    """
    for argv in (["--help"], ["run", "--help"], ["simulate", "--help"], ["demo", "--help"]):
        ran = command(*argv)

        assert (0, "") == (ran.code, ran.err)
        assert "usage: groq-queue" in ran.out
        assert "--api-key" not in ran.out
    probe = "import sys; from groq_queue.cli import main; main(['--help']); print('asyncio' in sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=10, check=True, env=clean_environment()
    )
    assert "False" == loaded.stdout.splitlines()[-1]


def test_help_says_in_plain_words_what_each_command_does(command: Command) -> None:
    """
    And the pages of the commands speak of requests in flight, of pending ones and of input order.
    """
    lines = [
        line.split(None, 1) for line in command("--help").out.replace("retry-failed\n", "retry-failed").splitlines()
    ]
    told = {line[0]: line[1] for line in lines if len(line) == 2}
    run, journal = command("run", "--help").out, command("retry-failed", "--help").out

    assert "tokens, cost and time of a file; sends nothing" == told["estimate"]
    assert "serve a simulated Groq on this machine" == told["simulate"]
    assert "queue failed requests of a journal again" == told["retry-failed"]
    assert "print a completion script for bash, zsh or fish" == told["completion"]
    assert "write answers in input order" in run
    assert "most requests in flight at once" in run
    assert "Make failed requests pending again" in journal
    pages = [command(name, "--help").out for name in ("run", "estimate", "worker", "prune", "export", "doctor")]
    assert not [
        word for word in ("on its way", "on their way", "whose turn", "learnt") for page in pages if word in page
    ]


def test_the_key_of_the_environment_is_never_shown(
    simulate: Simulate, write: Write, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Neither in help, nor in messages, nor in answers; it goes nowhere but into the request.
    """
    key = "gsk_SENTINEL0123456789"
    simulator = simulate(api_keys=["another"])
    monkeypatch.setenv("GROQ_API_KEY", key)

    rans = [
        command("run", "--help"),
        run_process("run", write(batch("a")), "--base-url", simulator.base_url, GROQ_API_KEY=key),
        command("run", "-", "--api-key", key),
        command("run", "-", f"--api-key={key}"),
    ]

    assert [0, 3, 2, 2] == [ran.code for ran in rans]
    assert 0 == sum("SENTINEL" in ran.out + ran.err for ran in rans)


@pytest.mark.parametrize(
    ("closed", "code", "said"),
    [
        ("<&-", 2, "cannot read stdin: it is closed"),
        (">&-", 2, "cannot write stdout: it is closed"),
        ("2>&-", 0, ""),
    ],
)
def test_a_closed_stream_is_told_and_a_closed_stderr_stops_nothing(
    simulate: Simulate, tmp_path: Path, closed: str, code: int, said: str
) -> None:
    simulator = simulate()
    source = "-" if closed == "<&-" else tmp_path / "in.jsonl"
    (tmp_path / "in.jsonl").write_text('{"prompt": "x"}\n')
    command = f"{sys.executable} -m groq_queue run {source} --model {MODEL} --base-url {simulator.base_url} {closed}"

    ended = subprocess.run(command, shell=True, capture_output=True, text=True, env=clean_environment(), timeout=30)

    assert code == ended.returncode, ended.stderr
    assert said in ended.stderr
    assert (code == 0) is ("Simulated" in ended.stdout)


def test_a_terminal_that_lacks_characters_shows_all_the_others() -> None:
    ended = run_process("run", "--help", PYTHONIOENCODING="latin-1")

    assert 0 == ended.code, ended.err
    assert "\\u2026" in ended.out


def test_the_version_is_the_packages(command: Command) -> None:
    """
    Bug reports need it.
    """
    assert (0, f"groq-queue {groq_queue.__version__}\n") == ((ran := command("--version")).code, ran.out)
