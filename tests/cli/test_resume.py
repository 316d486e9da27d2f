"""``groq-queue run --resume``: an interrupted run goes on where it was, with and without a journal."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groq_queue.cli.batch_files import NotAnswers, Written
from groq_queue.simulator import GroqSimulator
from groq_queue.simulator.faults import Fault

from .conftest import MODEL, Command, batch

Simulate = Callable[..., GroqSimulator]
Write = Callable[..., Path]


def ids_in(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


def prompts_of(simulator: GroqSimulator) -> list[str]:
    return sorted(record.prompt for record in simulator.log)


def test_lines_with_an_answer_are_skipped_and_the_others_added(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path
) -> None:
    """
    What stood in the output stays as it was, byte for byte.
    """
    simulator = simulate()
    out = tmp_path / "out.jsonl"
    command("run", write(batch("a", "A"), batch("b", "B")), "-o", out, "--base-url", simulator.base_url)
    before = out.read_bytes()
    whole = write(batch("a", "A"), batch("c", "C"), batch("b", "B"), batch("d", "D"))

    ran = command("run", whole, "-o", out, "--resume", "--base-url", simulator.base_url, "--json")

    summary = json.loads(ran.out)
    assert 0 == ran.code
    assert out.read_bytes().startswith(before)
    assert ["a", "b", "c", "d"] == sorted(ids_in(out))
    assert ["A", "B", "C", "D"] == prompts_of(simulator)
    assert (2, 2, 0) == (summary["done"], summary["skipped"], summary["unsent"])
    assert "2 done, 0 failed, 2 done before" in ran.err


def test_resume_begins_a_run_that_was_never_begun(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path
) -> None:
    """
    So a script may always say --resume; once all is done it sends nothing.
    """
    simulator = simulate()
    argv = ("run", write("one", "two"), "--model", MODEL, "-o", tmp_path / "out.jsonl", "--resume")

    first, second = [command(*argv, "--base-url", simulator.base_url) for _ in range(2)]

    assert (0, 0) == (first.code, second.code)
    assert ["line-1", "line-2"] == sorted(ids_in(tmp_path / "out.jsonl"))
    assert 2 == simulator.stats().received


@pytest.mark.parametrize("kept", [1, 16, 40, -2])
def test_a_piece_of_a_line_is_cut_off_and_sent_again(
    kept: int, simulate: Simulate, command: Command, write: Write, tmp_path: Path
) -> None:
    """
    As a crash in the middle of a write leaves it, however little of the line is there.
    """
    simulator = simulate()
    out, path = tmp_path / "out.jsonl", write(batch("a"), batch("b"))
    command("run", path, "-o", out, "--workers", 1, "--base-url", simulator.base_url)
    first, second = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(first + second[:kept])

    ran = command("run", path, "-o", out, "--resume", "--base-url", simulator.base_url)

    assert 0 == ran.code, ran.err
    assert out.read_bytes().startswith(first)
    assert ["a", "b"] == sorted(ids_in(out))
    assert 3 == simulator.stats().received


def test_a_whole_last_line_without_its_newline_is_kept(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path
) -> None:
    """
    As an editor leaves it: only the newline is missing, and is added.
    """
    simulator = simulate()
    out, path = tmp_path / "out.jsonl", write(batch("a"), batch("b"))
    command("run", write(batch("a"), name="first.jsonl"), "-o", out, "--base-url", simulator.base_url)
    out.write_bytes(out.read_bytes().rstrip(b"\n"))

    ran = command("run", path, "-o", out, "--resume", "--base-url", simulator.base_url)

    assert 0 == ran.code
    assert ["a", "b"] == ids_in(out)
    assert 2 == simulator.stats().received


@pytest.mark.parametrize(
    "contents",
    ["precious", "precious\n", '{"custom_id": "a"}\n', '[{"id": 1}]\n', '{"id":"batch_req_1","custom_id":\n'],
)
def test_a_file_of_something_else_is_never_touched(
    contents: str, simulate: Simulate, command: Command, write: Write, tmp_path: Path
) -> None:
    """
    Exit code 2, nothing sent: half a line in the middle, for one, is no trace of a run.
    """
    simulator = simulate()
    out = tmp_path / "out.jsonl"
    out.write_text(contents)

    for option in (("-o", out), ("-o", tmp_path / "new.jsonl", "--errors", out)):
        ran = command("run", write(batch("a")), *option, "--resume", "--base-url", simulator.base_url)

        assert 2 == ran.code
        assert f"{out} cannot be continued: its " in ran.err
        assert contents == out.read_text()
    assert 0 == simulator.stats().received


def test_zeros_that_a_power_cut_left_are_cut_off() -> None:
    """
    A file may have grown before its bytes arrived.
    """
    line = b'{"id":"batch_req_1","custom_id":"a","response":{},"error":null}\n'

    for piece in (b"", b'{"id":"batch', line[:40]):
        assert (len(line), b"") == Written().read([line, piece + b"\0" * 100])  # type: ignore[arg-type]
    with pytest.raises(NotAnswers):
        Written().read([line, b"text" + b"\0" * 100])  # type: ignore[arg-type]


def test_failed_lines_are_done_too_and_keep_the_exit_code(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path
) -> None:
    """
    Neither sent nor written a second time, in a file of their own or among the answers; the exit code stays 1.
    """
    simulator = simulate(faults=[Fault(status=400, match="bad")])
    path = write(batch("good"), batch("bad", "bad"), "{nonsense", batch("good", "again"))
    own = ("-o", tmp_path / "out", "--errors", tmp_path / "errors")
    among = ("-o", tmp_path / "both")

    for outputs in (own, among):
        sent = simulator.stats().received
        first, second = [command("run", path, *outputs, "--resume", "--base-url", simulator.base_url) for _ in range(2)]

        assert (1, 1) == (first.code, second.code)
        assert 2 == simulator.stats().received - sent
        assert "0 done, 0 failed, 4 done before (3 of them failed)" in second.err
    assert ["good"] == ids_in(tmp_path / "out")
    assert ["bad", "good", "line-3"] == sorted(ids_in(tmp_path / "errors"))
    assert ["bad", "good", "good", "line-3"] == sorted(ids_in(tmp_path / "both"))


def test_a_second_line_of_a_custom_id_does_not_hide_the_first(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path
) -> None:
    """
    The second is refused at once, the first was on its way at the crash: it is still to be sent.
    """
    simulator = simulate()
    out, path = tmp_path / "out.jsonl", write(batch("twin", "first"), batch("twin", "second"))
    command("run", path, "-o", out, "--base-url", simulator.base_url)
    refusal = next(line for line in out.read_text().splitlines() if "duplicate_custom_id" in line)
    out.write_text(refusal + "\n")

    ran = command("run", path, "-o", out, "--resume", "--base-url", simulator.base_url)

    assert 1 == ran.code
    assert ["first", "first"] == prompts_of(simulator)
    assert ["twin", "twin"] == ids_in(out)


@pytest.mark.gate
def test_a_killed_run_goes_on(simulate: Simulate, command: Command, write: Write, tmp_path: Path, spawn: Any) -> None:
    """
    By SIGKILL, in the middle; each line is written once in the end.
    """
    simulator = simulate(latency=0.02)
    out, path = tmp_path / "out.jsonl", write(*[batch(f"{n}", f"prompt {n}") for n in range(300)])
    argv = ("run", path, "-o", out, "--workers", 8, "--rpm", 100_000, "--base-url", simulator.base_url)
    process = spawn(*argv)
    assert simulator.wait_for_requests(100, timeout=20)
    process.kill()
    process.wait(timeout=10)
    before = len(ids_in(out))

    ran = command(*argv, "--resume")

    assert 0 == ran.code, ran.err
    assert 50 <= before < 300
    assert sorted(str(n) for n in range(300)) == sorted(ids_in(out))
    assert simulator.stats().received <= 300 + 8  # those on their way at the kill


def test_two_runs_into_one_file_are_kept_apart(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path, spawn: Any
) -> None:
    """
    The second is told so; it does not take the first one's half line for a trace of a crash.
    """
    simulator = simulate(latency=5.0)
    out, path = tmp_path / "out.jsonl", write(batch("a"))
    process = spawn("run", path, "-o", out, "--base-url", simulator.base_url)
    assert simulator.wait_for_requests(1, timeout=20)

    ran = command("run", path, "-o", out, "--resume", "--base-url", simulator.base_url)
    process.kill()
    process.wait(timeout=10)

    assert 2 == ran.code
    assert f"{out} is being written by another run" in ran.err
    assert 1 == simulator.stats().received


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--resume"], "--resume goes on in a file of answers: add -o OUT"),
        (["--resume", "-o", "-"], "--resume goes on in a file of answers: add -o OUT"),
        (["--resume", "-o", os.devnull], "is not a regular file: --resume has to read what was written"),
        (["--on-outage", "raise"], "--on-outage says what happens while the limiter is away: add --limiter URL"),
        (["--durability", "normal"], "--durability says how --journal is written"),
        (["--journal", "IN"], "is both IN and --journal"),
        (["--journal", "j", "-o", "./j"], "./j is both -o and --journal"),
        (["-o", "OLD"], "or add --resume to continue the run that wrote it"),
    ],
)
def test_arguments_that_make_no_sense_together_end_with_2(
    more: list[str], said: str, command: Command, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Before anything is opened for writing.
    """
    monkeypatch.chdir(tmp_path)
    path = write("a prompt")
    Path("OLD").write_text("old")
    argv = [str(path) if argument == "IN" else argument for argument in more]

    ran = command("run", path, "--model", MODEL, *argv, "--base-url", "http://127.0.0.1:9")

    assert 2 == ran.code
    assert said in ran.err
    assert ["OLD", "in.jsonl"] == sorted(os.listdir())


def test_what_to_do_after_an_interruption_is_told(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The cure is --resume where there is a file to continue, and that command works.
    """
    simulator = simulate(api_keys=["gsk_right"])
    out, path = tmp_path / "out.jsonl", write(*[batch(f"{n}") for n in range(20)])
    monkeypatch.setenv("GROQ_API_KEY", "gsk_wrong")

    refused = command("run", path, "-o", out, "--base-url", simulator.base_url)
    monkeypatch.setenv("GROQ_API_KEY", "gsk_right")
    ran = command("run", path, "-o", out, "--resume", "--base-url", simulator.base_url)

    assert f"without an answer in {out}: 20 lines; to continue, run the same command with --resume\n" in refused.err
    assert "stored" not in refused.err
    assert 0 == ran.code
    assert 20 == len(ids_in(out))


def test_the_ids_of_an_output_take_little_memory() -> None:
    """
    Sixteen bytes and their place in a set, however long the id: at most 200 bytes each.
    """
    line = b'{"id":"batch_req_%d","custom_id":"' + b"a long custom id, " * 10 + b'%d","response":{},"error":null}\n'
    written, count = Written(), 5_000
    tracemalloc.start()
    try:
        written.read(line % (number, number) for number in range(count))  # type: ignore[arg-type]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert 16 <= taken / count <= 200
