"""``groq-queue run --journal``: what is kept, what is said of it, and how a run goes on from it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groq_queue.simulator import GroqSimulator
from groq_queue.simulator.faults import Fault

from .conftest import MODEL, Command, Ran, batch

Simulate = Callable[..., GroqSimulator]
Write = Callable[..., Path]


@pytest.fixture
def journal(tmp_path: Path) -> str:
    return str(tmp_path / "run.db")


def ids_in(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


def counts_of(command: Command, journal: str) -> dict[str, int]:
    told: dict[str, int] = json.loads(command("status", "--journal", journal, "--json").out)["counts"]
    return told


def test_every_request_and_answer_is_kept(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path, journal: str
) -> None:
    """
    Another output gets the same answers out of the file; nothing is sent, paid for or waited for again.
    """
    simulator = simulate()
    path = write(batch("a"), batch("b"), {"prompt": "no id", "model": MODEL})

    runs = [
        command("run", path, "-o", tmp_path / name, "--journal", journal, "--base-url", simulator.base_url)
        for name in ("first", "second")
    ]

    first, second = (
        {line["custom_id"]: line for line in map(json.loads, (tmp_path / name).read_text().splitlines())}
        for name in ("first", "second")
    )
    assert [0, 0] == [ran.code for ran in runs]
    assert {"a", "b", "line-3"} == set(first)
    assert first == second
    assert 3 == len(simulator.log)
    assert 3 == counts_of(command, journal)["completed"]


def test_a_rejected_key_keeps_the_rest_and_says_so_truly(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path, journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Exit code 3; with the right key the same command with --resume answers all, each sent once more at most.
    """
    simulator = simulate(api_keys=["gsk_right"])
    out, path = tmp_path / "out.jsonl", write(*[batch(f"{n}") for n in range(50)])
    argv = ("run", path, "-o", out, "--journal", journal, "--base-url", simulator.base_url, "--json")

    monkeypatch.setenv("GROQ_API_KEY", "gsk_wrong")
    refused = command(*argv)
    left = counts_of(command, journal)
    monkeypatch.setenv("GROQ_API_KEY", "gsk_right")
    ran = command(*argv, "--resume")

    stored = json.loads(refused.out)["stored"]
    assert 3 == refused.code
    assert stored == left["pending"] == sum(left.values())
    assert f"without an answer in {out}: 50 lines, {stored} of them stored in {journal}; to continue" in refused.err
    assert 0 == ran.code, ran.err
    assert sorted(str(n) for n in range(50)) == sorted(ids_in(out))
    assert 50 == len(simulator.log)


def test_a_spent_day_stops_with_4_and_the_rest_goes_out_another_day(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path, journal: str
) -> None:
    """
    What could not be sent is pending, and the next server has room for it.
    """
    poor, rich = simulate(rpd=10), simulate()
    out, path = tmp_path / "out.jsonl", write(*[batch(f"{n}") for n in range(30)])
    argv = ("run", path, "-o", out, "--journal", journal, "--workers", 4)

    spent = command(*argv, "--rpd", 10, "--base-url", poor.base_url)
    left = counts_of(command, journal)
    ran = command(*argv, "--resume", "--base-url", rich.base_url)

    assert 4 == spent.code
    assert f"{left['pending']} of them stored in {journal}" in spent.err
    assert (10, 0) == (left["completed"], left["failed"])
    assert 0 == ran.code, ran.err
    assert (10, 20) == (len(poor.log), len(rich.log))
    assert sorted(str(n) for n in range(30)) == sorted(ids_in(out))


def test_ctrl_c_keeps_what_was_accepted(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path, journal: str, spawn: Any
) -> None:
    """
    Exit code 130, and the figure that is told is the one in the file.
    """
    simulator = simulate(latency=0.05)
    out, path = tmp_path / "out.jsonl", write(*[batch(f"{n}") for n in range(500)])
    argv = ("run", path, "-o", out, "--journal", journal, "--workers", 4, "--rpm", 100_000)
    process = spawn(*argv, "--base-url", simulator.base_url, "--json")
    assert simulator.wait_for_requests(40, timeout=20)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)

    summary, left = json.loads(stdout), counts_of(command, journal)
    assert 130 == process.returncode == summary["exit_code"]
    assert summary["done"] == left["completed"] == len(ids_in(out))
    assert summary["stored"] == left["pending"] > 0
    assert 0 == left["processing"] == left["cancelled"] == left["failed"]
    assert (
        f"{summary['stored']:,} of them stored in {journal}; to continue, run the same command with --resume" in stderr
    )


def test_failed_lines_go_out_again_after_retry_failed_only(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path, journal: str
) -> None:
    """
    A plain --resume leaves them; the answer then stands in OUT, the old error in its own file.
    """
    simulator = simulate(faults=[Fault(status=400, match="bad", times=1)])
    out, errors = tmp_path / "out.jsonl", tmp_path / "errors.jsonl"
    argv = ("run", write(batch("good"), batch("bad", "bad")), "-o", out, "--errors", errors, "--journal", journal)
    argv = (*argv, "--resume", "--base-url", simulator.base_url)

    ran: list[Ran] = [command(*argv), command(*argv)]
    assert 0 == command("retry-failed", "--journal", journal).code
    ran += [command(*argv), command(*argv)]

    assert [1, 1, 0, 0] == [each.code for each in ran]
    assert ["good", "bad"] == ids_in(out)
    assert ["bad"] == ids_in(errors)
    assert 3 == len(simulator.log)


def test_a_custom_id_with_another_payload_fails_that_line_alone(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path, journal: str
) -> None:
    """
    As after editing line 1 of a file of prompts: the error names what to do, the other lines go on.
    """
    simulator = simulate()
    argv = ("--model", MODEL, "--journal", journal, "--base-url", simulator.base_url)
    command("run", write("one", "two"), "-o", tmp_path / "first", *argv)

    ran = command("run", write("changed", "two", "three"), "-o", tmp_path / "second", *argv)

    lines = {line["custom_id"]: line for line in map(json.loads, (tmp_path / "second").read_text().splitlines())}
    assert 1 == ran.code
    assert {"line-1", "line-2", "line-3"} == set(lines)
    assert "custom_id_taken" == lines["line-1"]["error"]["code"]
    assert "use a new custom_id" in lines["line-1"]["error"]["message"]
    assert ["one", "three", "two"] == sorted(record.prompt for record in simulator.log)


@pytest.mark.parametrize("kind", ["folder", "text", "owned"])
def test_a_journal_that_cannot_be_used_ends_with_2_and_sends_nothing(
    kind: str, simulate: Simulate, command: Command, write: Write, tmp_path: Path, journal: str, spawn: Any
) -> None:
    """
    The cause and the cure on one line.
    """
    simulator = simulate(latency=5)
    path = write(batch("a"))
    said = {"folder": "this is a directory", "text": "no SQLite file", "owned": "has it open"}[kind]
    if kind == "folder":
        os.mkdir(journal)
    elif kind == "text":
        Path(journal).write_text("some text " * 100)
    else:
        spawn("run", path, "-o", tmp_path / "other.jsonl", "--journal", journal, "--base-url", simulator.base_url)
        assert simulator.wait_for_requests(1, timeout=20)

    ran = command("run", path, "-o", tmp_path / "out", "--journal", journal, "--base-url", simulator.base_url)

    assert 2 == ran.code
    assert f"journal {journal}: " in ran.err
    assert said in ran.err
    assert 1 == len(ran.err.splitlines())
    assert (1 if kind == "owned" else 0) == len(simulator.log)


def test_normal_durability_is_passed_on(
    simulate: Simulate, command: Command, write: Write, journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    As the library takes it.
    """
    from groq_queue.journal import Journal

    opened: list[str] = []
    real = Journal.open.__func__  # type: ignore[attr-defined]

    def note(cls: type[Journal], path: str, **options: Any) -> Journal:
        opened.append(options["durability"])
        made: Journal = real(cls, path, **options)
        return made

    monkeypatch.setattr(Journal, "open", classmethod(note))
    for more in ([], ["--durability", "normal"]):
        ran = command("run", write(batch("a")), "--journal", journal, *more, "--base-url", simulate().base_url)
        assert 0 == ran.code

    assert ["full", "normal"] == opened


def test_a_cancelled_request_of_the_journal_is_sent_when_it_is_asked_for_again(
    simulate: Simulate, command: Command, write: Write, journal: str
) -> None:
    """
    No line is left without an answer in silence.
    """
    simulator = simulate()
    argv = ("run", write(batch("a")), "--journal", journal, "--base-url", simulator.base_url)
    command(*argv)
    connection = sqlite3.connect(journal)
    connection.execute("UPDATE requests SET status = 'cancelled'")
    connection.execute("DELETE FROM results")
    connection.commit()
    connection.close()

    ran = command(*argv)

    assert 0 == ran.code
    assert ["a"] == [line["custom_id"] for line in ran.lines]
    assert 2 == len(simulator.log)
