"""groq-queue estimate: the lines of run, and nothing is sent."""

from __future__ import annotations

import json
import os

import pytest

from .conftest import MODEL, batch, run_process


def test_a_file_is_estimated_without_a_key(command, write):
    """
    The table says how much, how long and why.
    """
    path = write(*(batch(f"q{number}") for number in range(60)))

    ran = command("estimate", path, "--rpm", 30, "--tpm", 6_000)

    assert (0, "") == (ran.code, ran.err)
    assert "requests" in ran.out
    assert "62 s" in ran.out
    assert "requests per minute, 30" in ran.out


def test_the_estimate_is_one_json_object(command, write):
    """
    With what the table says, and the bad lines.
    """
    path = write(*(batch(f"q{number}") for number in range(60)))

    told = json.loads(command("estimate", path, "--rpm", 30, "--latency", 2, "--workers", 4, "--json").out)

    assert (60, 64.0, "RPM", 0) == (told["requests"], told["seconds"], told["bottleneck"], told["bad_lines"])
    assert 60 * 16 == told["completion_tokens"]
    assert 0 < told["cost"] < 0.001


def test_what_can_never_be_sent_is_told_and_ends_with_1(command, write):
    """
    A line that is too large by its custom_id, with the number; lines that ask for nothing by their numbers.
    """
    path = write(batch("fine"), batch("huge", max_completion_tokens=9_000), {"nothing": 1}, batch("fine"))

    ran = command("estimate", path, "--tpm", 6_000)

    assert 1 == ran.code
    assert "huge" in ran.out
    assert "line 3 has none of" in ran.err
    assert "'fine' was used before" in ran.err
    excess = json.loads(command("estimate", path, "--tpm", 6_000, "--json").out)["too_large"][0]
    assert "huge" == excess["custom_id"]
    assert excess["cost"] - 6_000 == excess["lower_by"] > 3_000


def test_many_bad_lines_are_counted_and_five_are_told(command, write):
    """
    A wrong file does not fill the screen.
    """
    path = write(batch("fine"), *({"nothing": number} for number in range(1_000)))

    ran = command("estimate", path)

    assert 1 == ran.code
    assert 6 == len(ran.err.splitlines())
    assert "1,000 lines" in ran.err


def test_plain_text_from_stdin_needs_a_model(command, write):
    """
    As with run.
    """
    without = command("estimate", write("Why?", "Why not?"))
    given = run_process("estimate", "-", "--model", MODEL, stdin="Why?\nWhy not?\n")

    assert (2, "") == (without.code, without.out)
    assert "names no model: add --model" in without.err
    assert (0, "") == (given.code, given.err)
    assert "requests            2" in given.out


def test_a_missing_file_and_a_wrong_form_are_usage(command, write, tmp_path):
    """
    Exit code 2, with the reason.
    """
    array = tmp_path / "array.json"
    array.write_text('[{"prompt": "x"}]')

    assert 2 == command("estimate", tmp_path / "missing").code
    assert 2 == command("estimate", array).code
    assert 2 == command("estimate", write(batch("a")), "--output-share", 2).code
    assert 2 == command("estimate", write(batch("a")), "--minute", 2).code


def test_the_seconds_of_audio_of_a_line_count(command, write):
    """
    As with run: audio is counted in seconds, and takes no tokens.
    """
    audio = {"url": "/v1/audio/transcriptions", "body": {"model": "whisper-large-v3", "url": "https://a.test/b.mp3"}}

    def tokens(**options):
        told = json.loads(command("estimate", write({**audio, **options}), "--json").out)
        assert (1, 0) == (told["requests"], told["bad_lines"])
        return told["prompt_tokens"] + told["completion_tokens"]

    assert 0 == tokens(audio_seconds=60)
    assert tokens() > 0


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"priority": "hgih"}, "priority='hgih'"),
        ({"client": 7}, "client=7"),
        ({"deadline": "soon"}, "deadline='soon'"),
        ({"max_wait": -1}, "max_wait=-1"),
        ({"dedupe": "yes"}, "dedupe='yes'"),
        ({"shrink": 1}, "shrink=1"),
        ({"tokens": 0}, "tokens=0"),
        ({"audio_seconds": 0}, "audio_seconds=0"),
        ({"not_before": 10, "max_wait": 5}, "not_before=10"),
        ({"custom_id": "x" * 600}, "custom_id="),
        ({"model": 7}, "model"),
    ],
)
def test_what_run_refuses_of_a_line_is_refused_here_in_the_same_words(command, write, simulate, option, said):
    """
    Whoever looks before a run of hours is not to learn of it then.
    """
    path = write(batch("fine"), {"prompt": "hi", "model": MODEL, **option})

    looked = command("estimate", path)
    ran = command("run", path, "--quiet", "--base-url", simulate().base_url)

    assert (1, 1) == (looked.code, ran.code)
    (refused,) = [each["error"]["message"] for each in ran.lines if each["error"]]
    assert said in refused
    assert f"groq-queue: {refused}\n" == looked.err


def test_help_answers_at_once():
    """
    In 0.4 s of its processor, whatever else the machine does; that it compiles first is left out.
    """
    assert "estimate" in run_process("--help").out

    before = os.times()
    ran = run_process("--help")
    after = os.times()

    assert 0 == ran.code
    assert 0 < after.children_user + after.children_system - before.children_user - before.children_system < 0.4
