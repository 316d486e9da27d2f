"""``groq-queue run`` against the simulator: what comes out, and with which exit code."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from groq_queue import GroqQueue
from groq_queue.errors import CostLimitReached, DailyLimitReached
from groq_queue.simulator import GroqSimulator
from groq_queue.simulator.faults import Fault

from .conftest import COMMAND, MODEL, Command, batch, clean_environment, run_process

Simulate = Callable[..., GroqSimulator]
Write = Callable[..., Path]


def test_batch_lines_become_batch_output_lines(simulate: Simulate, command: Command, write: Write) -> None:
    """
    Exit code 0; each answer carries its custom_id and the server's own id.
    """
    simulator = simulate()

    ran = command("run", write(batch("a"), batch("b")), "--base-url", simulator.base_url)

    assert 0 == ran.code
    assert {"a", "b"} == set(ran.by_id)
    line = ran.by_id["a"]
    assert ["id", "custom_id", "response", "error"] == list(line)
    assert line["id"].startswith("batch_req_")
    assert line["error"] is None
    assert 200 == line["response"]["status_code"]
    assert line["response"]["body"]["x_groq"]["id"] == line["response"]["request_id"]
    assert MODEL == line["response"]["body"]["model"]
    assert "2 done, 0 failed" in ran.err


def test_prompts_come_from_stdin_and_answers_go_to_stdout(simulate: Simulate) -> None:
    """
    As a process in a pipe: nothing but answers on stdout.
    """
    simulator = simulate()

    ran = run_process("run", "-", "--model", MODEL, "--base-url", simulator.base_url, stdin="Say one\n\nSay three\n")

    assert 0 == ran.code, ran.err
    assert {"line-1", "line-3"} == set(ran.by_id)
    assert ["Say one", "Say three"] == sorted(record.prompt for record in simulator.log)


def test_an_answer_is_written_while_stdin_is_still_open(simulate: Simulate, spawn: Any) -> None:
    """
    Somebody who types sees the answer to one line before typing the next.
    """
    simulator = simulate()
    process = spawn("run", "-", "--model", MODEL, "--base-url", simulator.base_url)

    process.stdin.write("first\n")
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    process.stdin.close()

    assert "line-1" == answer["custom_id"]
    assert 0 == process.wait(timeout=10)


def test_every_kind_of_line_is_sent_to_its_endpoint(simulate: Simulate, command: Command, write: Write) -> None:
    """
    Chat, prompts, messages, embeddings and audio in one file; --model serves those without a model.
    """
    simulator = simulate()
    path = write(
        batch("chat"),
        {"custom_id": "prompt", "prompt": "hi", "max_completion_tokens": 8},
        {"custom_id": "messages", "messages": [{"role": "user", "content": "hi"}]},
        {"custom_id": "vector", "url": "/v1/embeddings", "body": {"model": MODEL, "input": "a"}},
        {"custom_id": "audio", "url": "/v1/audio/transcriptions", "body": {"model": MODEL, "url": "https://a/b.mp3"}},
    )

    ran = command("run", path, "--model", MODEL, "--base-url", simulator.base_url)

    assert 0 == ran.code, ran.out
    assert 5 == len(ran.lines)
    assert ["audio/transcriptions", *["chat/completions"] * 3, "embeddings"] == sorted(
        record.endpoint for record in simulator.log
    )


def test_what_cannot_be_sent_becomes_error_lines_and_the_rest_is_sent(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path
) -> None:
    """
    Exit code 1; failures go to their own file, and the first of them is told.
    """
    simulator = simulate(tpm=1_000)
    out, errors = tmp_path / "out.jsonl", tmp_path / "errors.jsonl"
    path = write(
        batch("good"),
        batch("good"),
        "{bad",
        batch("gone", model="no-such-model"),
        batch("large", max_completion_tokens=2_000),
        {"custom_id": "no-model", "prompt": "hi"},
        {"custom_id": "no-priority", "prompt": "hi", "model": MODEL, "priority": "soon"},
    )

    ran = command("run", path, "-o", out, "--errors", errors, "--tpm", 1_000, "--base-url", simulator.base_url)

    assert 1 == ran.code
    assert "" == ran.out
    assert ["good"] == [json.loads(line)["custom_id"] for line in out.read_text().splitlines()]
    failed = [json.loads(line) for line in errors.read_text().splitlines()]
    assert {
        "good": "duplicate_custom_id",
        "line-3": "invalid_line",
        "gone": "model_not_found",
        "large": "request_too_large",
        "no-model": "invalid_line",
        "no-priority": "invalid_line",
    } == {line["custom_id"]: line["error"]["code"] for line in failed}
    assert 6 == len(failed)
    assert 404 == next(line["response"]["status_code"] for line in failed if line["custom_id"] == "gone")
    assert 2 == simulator.stats().received
    assert f"1 done, 6 failed (see {errors})" in ran.err
    assert "first failure: line 2: custom_id 'good' was used before" in ran.err


def test_priorities_of_lines_decide_who_goes_first(simulate: Simulate, command: Command, write: Write) -> None:
    """
    A line's own priority beats --priority. One worker, and the first request is held up until all are read.
    """
    simulator = simulate(faults=[Fault(delay_s=0.3, match="first")])
    prompts = [{"prompt": "first", "model": MODEL, "priority": 0}]
    prompts += [{"prompt": f"low {n}", "model": MODEL} for n in range(3)]
    prompts += [{"prompt": "high", "model": MODEL, "priority": "high"}]

    ran = command(
        "run", write(*prompts), "--workers", 1, "--rpm", 1_000, "--priority", "low", "--base-url", simulator.base_url
    )

    assert 0 == ran.code
    assert ["first", "high", "low 0", "low 1", "low 2"] == [record.prompt for record in simulator.log]


def test_an_output_with_something_in_it_is_never_touched(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path
) -> None:
    """
    Exit code 2, nothing sent; an empty file may be used.
    """
    simulator = simulate()
    path, out, empty = write(batch("a")), tmp_path / "out.jsonl", tmp_path / "empty.jsonl"
    out.write_text("precious")
    empty.touch()

    for option in ("-o", "--errors"):
        refused = command("run", path, option, out, "--base-url", simulator.base_url)

        assert 2 == refused.code
        assert f"{out} exists and is not empty: name another file" in refused.err
        assert "precious" == out.read_text()
    assert 2 == command("run", path, "-o", path, "--base-url", simulator.base_url).code
    assert 0 == simulator.stats().received
    assert 0 == command("run", path, "-o", empty, "--base-url", simulator.base_url).code
    assert "a" == json.loads(empty.read_text())["custom_id"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["run"], "the following arguments are required: IN"),
        (["run", "no-such-file"], "cannot read no-such-file"),
        (["run", "."], "cannot read ."),
        (["run", "IN", "-o", "no/such/folder"], "there is no directory no/such: make it first"),
        (["run", "IN", "-o", "."], "cannot write .: Is a directory: name another file"),
        (["run", "IN", "--client", ""], "argument --client: client='': use a str of 1 to 512 characters"),
        (["run", "IN"], "line 1 names no model: add --model"),
        (["run", "IN", "--rpm", "none"], "'none' is not a whole number from 1 up"),
        (["run", "IN", "--workers", "0"], "'0' is not a whole number from 1 up"),
        (["run", "IN", "--minute", "5"], "--minute says how long the minute of --rpm and --tpm is"),
        (["run", "IN", "--minute", "-1", "--rpm", "1"], "is not a number of seconds above 0"),
        (["run", "IN", "--priority", "soon"], "use one of critical, high, normal"),
        (["run", "IN", "--api-key", "gsk_SECRET"], "no argument takes the API key"),
        (["run", "IN", "--mod", "m"], "run: unrecognized arguments: --mod m\nTry 'groq-queue run --help'"),
        (["simulate", "--latency", "2-1"], "write the smaller number first"),
        (["simulate", "--latency", "fast"], "neither a number nor a range"),
        (["simulate", "--port", "70000"], "give 0 (any free port) to 65535"),
        (["simulate", "--host", "192.0.2.1"], "give an address of this machine"),
    ],
)
def test_what_cannot_be_done_ends_with_2_and_its_cure(
    argv: list[str], said: str, command: Command, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    One message on stderr, nothing on stdout.
    """
    monkeypatch.setenv("GROQ_BASE_URL", "http://127.0.0.1:9")
    path = write("a prompt")

    ran = command(*[str(path) if argument == "IN" else argument for argument in argv])

    assert 2 == ran.code
    assert said in ran.err
    assert "" == ran.out
    assert "gsk_" not in ran.err


def test_a_json_array_is_refused_before_anything_is_sent(simulate: Simulate, command: Command, write: Write) -> None:
    """
    Exit code 2, with the command that turns it into lines.
    """
    simulator = simulate()

    ran = command("run", write(json.dumps([batch("a")])), "--model", MODEL, "--base-url", simulator.base_url)

    assert 2 == ran.code
    assert "jq -c '.[]'" in ran.err
    assert 0 == simulator.stats().received


def test_a_missing_key_ends_with_3_and_names_the_variable(command: Command, write: Write, tmp_path: Path) -> None:
    """
    Nothing is left behind that would stand in the way of the next try.
    """
    ran = command("run", write(batch("a")), "-o", tmp_path / "out.jsonl")

    assert 3 == ran.code
    assert "GROQ_API_KEY is not set" in ran.err
    assert not (tmp_path / "out.jsonl").exists()


def test_an_address_that_sends_the_key_in_clear_ends_with_3(
    command: Command, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The library refuses it; nothing is sent.
    """
    monkeypatch.setenv("GROQ_API_KEY", "gsk_" + "x" * 20)

    ran = command("run", write(batch("a")), "--base-url", "http://192.0.2.1/v1")

    assert 3 == ran.code
    assert "would send the key in clear" in ran.err


def test_a_rejected_key_stops_with_3_and_the_same_command_can_be_run_again(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    No line is written for requests that only met the wrong key, so the output stays empty.
    """
    simulator = simulate(api_keys=["gsk_right"])
    out = tmp_path / "out.jsonl"
    argv = ("run", write(*[batch(f"{n}") for n in range(200)]), "-o", out, "--base-url", simulator.base_url)

    monkeypatch.setenv("GROQ_API_KEY", "gsk_wrong")
    refused = command(*argv)
    sent = simulator.stats().received
    monkeypatch.setenv("GROQ_API_KEY", "gsk_right")
    ran = command(*argv)

    assert 3 == refused.code
    assert 1 <= sent <= 64
    assert "stopped: HTTP 401: Invalid API Key: check GROQ_API_KEY" in refused.err
    assert f"without an answer in {out}: 200 lines" in refused.err
    assert "gsk_wrong" not in refused.err
    assert 0 == ran.code
    assert 200 == len(out.read_text().splitlines())


def test_a_spend_limit_stops_with_4_and_keeps_what_is_done(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path
) -> None:
    """
    The account's own cap: no further request can pass.
    """
    body = {"error": {"message": "Spend limit reached", "code": "spend_limit_reached"}}
    simulator = simulate(faults=[Fault(status=403, body=body, match="dear")])
    lines = [batch("cheap"), batch("dear", "dear"), *[batch(f"{n}") for n in range(50)]]

    ran = command(
        "run", write(*lines), "-o", tmp_path / "out", "--workers", 1, "--base-url", simulator.base_url, "--json"
    )

    summary = json.loads(ran.out)
    assert 4 == ran.code
    assert 4 == summary["exit_code"]
    assert 1 == summary["done"]
    assert 0 == summary["failed"]
    assert 51 == summary["unsent"]
    assert "HTTP 403: Spend limit reached" == summary["stopped_by"]
    assert ["cheap"] == [json.loads(line)["custom_id"] for line in (tmp_path / "out").read_text().splitlines()]


@pytest.mark.parametrize("error", [DailyLimitReached("spent", resets_in=60.0, limit="RPD"), CostLimitReached("spent")])
def test_a_daily_or_cost_limit_stops_with_4(
    error: Exception, simulate: Simulate, command: Command, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Raised by submit, it ends the run without an error line.
    """

    def submit(*_args: object, **_options: object) -> None:
        raise error

    simulator = simulate()
    monkeypatch.setattr(GroqQueue, "submit", submit)

    ran = command("run", write(batch("a"), batch("b")), "--base-url", simulator.base_url)

    assert 4 == ran.code
    assert "" == ran.out
    assert "stopped: spent" in ran.err
    assert "without an answer in stdout: 2 lines" in ran.err


def test_a_daily_limit_tells_when_the_request_fits_as_a_person_says_it(
    simulate: Simulate, command: Command, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(*_args: object, **_options: object) -> None:
        raise DailyLimitReached("spent", resets_in=57_600.0, limit="RPD")

    simulator = simulate()
    monkeypatch.setattr(GroqQueue, "submit", submit)

    ran = command("run", write(batch("a")), "--base-url", simulator.base_url)

    assert "stopped: spent (fits again in 16 h)" in ran.err
    assert "without an answer in stdout: 1 line;" in ran.err


@pytest.mark.parametrize(("has_output", "place"), [(True, "out"), (False, "err")])
def test_the_summary_is_one_json_object_where_no_answers_are(
    has_output: bool, place: str, simulate: Simulate, command: Command, write: Write, tmp_path: Path
) -> None:
    """
    On stdout if the answers go to a file, else the last line of stderr.
    """
    simulator = simulate()
    output = ["-o", tmp_path / "out.jsonl"] if has_output else []

    ran = command("run", write(batch("a")), *output, "--json", "--quiet", "--base-url", simulator.base_url)

    summary = json.loads(getattr(ran, place).splitlines()[-1])
    stats = simulator.stats()
    assert 1 == summary["done"]
    assert 0 == summary["failed"] == summary["unsent"] == summary["refused"] == summary["exit_code"]
    assert 1 == summary["requests"]
    assert stats.tokens_used == summary["tokens"] > 0
    assert summary["stopped_by"] is None


def test_quiet_says_nothing_when_all_goes_well(simulate: Simulate, command: Command, write: Write) -> None:
    """
    Neither progress nor a summary.
    """
    ran = command("run", write(batch("a")), "--quiet", "--base-url", simulate().base_url)

    assert (0, "") == (ran.code, ran.err)


def test_an_empty_input_is_done_at_once(simulate: Simulate, command: Command, write: Write) -> None:
    """
    Nothing to do is no failure.
    """
    ran = command("run", write("", "  "), "--base-url", simulate().base_url)

    assert (0, "") == (ran.code, ran.out)
    assert "0 done, 0 failed" in ran.err


class _CountedInput(io.RawIOBase):
    """Lines that exist only when they are read, and the distance to the answers at each reading."""

    def __init__(self, simulator: GroqSimulator, count: int) -> None:
        self.read_lines = 0
        self.furthest = 0
        self._simulator = simulator
        self._count = count

    def readline(self, size: int | None = -1, /) -> bytes:
        if self.read_lines == self._count:
            return b""
        self.read_lines += 1
        if self.read_lines % 10 == 0:
            answered = self._simulator.stats().by_status.get(200, 0)
            self.furthest = max(self.furthest, self.read_lines - answered)
        return b"a prompt\n"


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_more_than_a_window_of_lines_is_read_ahead(
    count: int, simulate: Simulate, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    However long the input, what is read and not answered stays small: the window, and one line in hand.
    """
    simulator = simulate(log_size=0)
    source = _CountedInput(simulator, count)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=source))

    ran = command(
        "run", "-", "--model", MODEL, "--workers", 4, "--rpm", 10**9, "--quiet", "--base-url", simulator.base_url
    )

    assert 0 == ran.code, ran.err
    assert count == source.read_lines == len(ran.lines)
    assert 10 <= source.furthest <= 4 * 4 + 64 + 1


def test_warnings_of_the_library_are_told_on_one_escaped_line(
    simulate: Simulate, command: Command, write: Write
) -> None:
    """
    A limit set higher than the server's is mentioned once; server text cannot forge lines.
    """
    evil = {"error": {"message": "no\ngroq-queue: 1 done\x1b[2J", "code": "x"}}
    simulator = simulate(tpm=5_000, faults=[Fault(status=400, body=evil, match="evil")])

    ran = command("run", write(batch("a"), batch("b", "evil")), "--tpm", 9_000, "--base-url", simulator.base_url)

    assert 1 == ran.code
    assert 1 == ran.err.count("the server's limit is 5,000, yours is 9,000; keeping 5,000")
    assert "\x1b" not in ran.err
    assert not [line for line in ran.err.splitlines() if line.startswith("groq-queue: 1 done")]


def test_a_full_disk_stops_the_run_with_2(simulate: Simulate, command: Command, write: Write) -> None:
    """
    What cannot be written is not paid for again and again.
    """
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this platform")
    simulator = simulate(latency=0.3)  # in which the run has to notice, on a busy machine too

    lines = [batch(f"{n}") for n in range(300)]
    ran = command("run", write(*lines), "-o", "/dev/full", "--workers", 2, "--base-url", simulator.base_url)

    assert 2 == ran.code
    assert "stopped: cannot write /dev/full" in ran.err
    assert simulator.stats().received <= 4


def test_full_disks_behind_stdout_are_told_once_without_a_traceback(simulate: Simulate, write: Write) -> None:
    """
    Also when the little that was printed is lost only at the very end.
    """
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this platform")
    simulator = simulate()
    for words in (
        ["run", str(write(batch("a"))), "--base-url", simulator.base_url],
        ["completion", "fish"],
    ):
        with open("/dev/full", "wb") as full:
            ended = subprocess.run(
                [*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, env=clean_environment()
            )

        assert 2 == ended.returncode, words
        assert 1 == ended.stderr.count("cannot write stdout: No space left on device"), ended.stderr
        assert "Exception" not in ended.stderr


def test_a_reader_who_has_gone_is_no_error_worth_a_word() -> None:
    """
    ``groq-queue completion fish | head -1``
    """
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [*COMMAND, "completion", "fish"], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=30,
        env=clean_environment(),
    )  # fmt: skip
    os.close(writing)

    assert (1, "") == (ended.returncode, ended.stderr)


def test_a_line_without_a_model_fails_alone_if_others_have_one(
    simulate: Simulate, command: Command, write: Write
) -> None:
    simulator = simulate()

    ran = command("run", write(batch("a"), {"prompt": "b", "custom_id": "b"}), "--base-url", simulator.base_url)

    assert 1 == ran.code
    assert "line 2 names no model, and there is no --model" == ran.by_id["b"]["error"]["message"]


def test_only_what_can_be_resumed_is_offered_to_be(simulate: Simulate, command: Command, write: Write) -> None:
    """
    A report that exists is neither overwritten nor continued.
    """
    simulator = simulate()
    there = write("there", name="there.json")
    path = write(batch("a"))

    report = command("run", path, "--report", there, "--base-url", simulator.base_url)
    answers = command("run", path, "-o", there, "--base-url", simulator.base_url)

    assert (2, 2) == (report.code, answers.code)
    assert "exists and is not empty: name another file or move that one away\n" in report.err
    assert "or move that one away, or add --resume to continue the run that wrote it\n" in answers.err
    assert 0 == simulator.stats().received
