"""The job of the README, with both programs as a user starts them. Minutes long: marked slow."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .conftest import COMMAND, MODEL, batch, clean_environment, run_process

pytestmark = pytest.mark.slow


@contextmanager
def _simulated(*options: str) -> Iterator[str]:
    process = subprocess.Popen(
        [*COMMAND, "simulate", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=clean_environment(),
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate(timeout=10)


def _stats(url: str) -> Any:
    with urllib.request.urlopen(url.replace("/openai/v1", "/simulator/stats"), timeout=5) as response:
        return json.load(response)


def _questions(count: int, tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    given = os.environ.get("GROQ_QUEUE_QUESTIONS")
    if given:
        lines = Path(given).read_text(encoding="utf-8").splitlines()[:count]
    else:
        draws = random.Random(0)
        words = ("eggs", "each", "day", "sells", "the", "remainder", "for", "dollars", "how", "many", "left")
        lines = []
        for number in range(count):
            text = " ".join(draws.choices(words, k=200))[: draws.randint(100, 600)]
            line = batch(f"generated-{number:04}", text + " Answer with the number only.", max_completion_tokens=256)
            lines.append(json.dumps(line))
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("knows_limits", [True, False], ids=["limits given", "limits learnt"])
@pytest.mark.parametrize(("count", "rpm", "tpm"), [(1_319, 1_000, 250_000), (60, 30, 6_000)])
def test_the_job_ends_as_fast_as_the_limits_allow_without_refusals(
    count: int, rpm: int, tpm: int, knows_limits: bool, tmp_path: Path
) -> None:
    """
    Every line is answered once and no time is wasted. Headers never tell the RPM: learning it takes one refusal.
    """
    questions, out = _questions(count, tmp_path), tmp_path / "out.jsonl"
    limits = ["--rpm", str(rpm), "--tpm", str(tpm)]
    with _simulated(*limits, "--latency", "0.2-2") as url:
        start = time.monotonic()
        given = limits if knows_limits else []
        ran = run_process("run", questions, "-o", out, "--base-url", url, "--quiet", *given, timeout=400)
        seconds = time.monotonic() - start
        stats = _stats(url)

    asked = [json.loads(line)["custom_id"] for line in questions.read_text(encoding="utf-8").splitlines()]
    answers = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    by_tokens = (stats["tokens_admitted"] - tpm) / (tpm / 60)
    by_requests = (count - rpm) / (rpm / 60)
    bound = 1.02 * max(by_tokens, by_requests, 0.0) + 3
    print(f"{count} lines, {rpm} RPM, {tpm} TPM: {seconds:.1f} s, bound {bound:.1f} s, {stats}")
    assert 0 == ran.code, ran.err
    assert sorted(asked) == sorted(answer["custom_id"] for answer in answers)
    assert [] == [answer for answer in answers if answer["error"] or answer["response"]["body"]["model"] != MODEL]
    assert stats["refused"] <= (0 if knows_limits else 1)
    assert count == stats["admitted"]
    assert seconds <= bound
