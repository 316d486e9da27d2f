"""The job of the README, killed three times and gone on with, as a user does it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .conftest import Simulate, rows_of
from .living import MODEL

COMMAND = (sys.executable, "-m", "groq_queue")


def _questions(count: int, tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    given = os.environ.get("GROQ_QUEUE_QUESTIONS")
    lines = []
    if given and count > 100:
        lines = Path(given).read_text(encoding="utf-8").splitlines()[:count]
    else:
        draws = random.Random(0)
        words = ("eggs", "each", "day", "sells", "the", "remainder", "for", "dollars", "how", "many", "left")
        for number in range(count):
            text = f"{number}: " + " ".join(draws.choices(words, k=200))[: draws.randint(100, 600)]
            body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_completion_tokens": 256}
            lines.append(
                json.dumps({"custom_id": f"q-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})
            )
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def _start(*argv: object) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GROQ_")}
    return subprocess.Popen(
        [*COMMAND, *map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=kept
    )


def _ids(path: Path) -> list[str]:
    """The custom_ids of the whole lines that stand there."""
    text = path.read_bytes() if path.exists() else b""
    return [json.loads(line)["custom_id"] for line in text[: text.rfind(b"\n") + 1].splitlines()]


@pytest.mark.parametrize(
    ("seed", "count"),
    [
        pytest.param(1, 60, marks=pytest.mark.gate),
        *(pytest.param(seed, 60, marks=pytest.mark.slow) for seed in (2, 3)),
        *(pytest.param(seed, 1_319, marks=pytest.mark.slow) for seed in (1, 2, 3)),
    ],
)
def test_killed_three_times_and_resumed_every_line_is_answered_once(
    seed: int, count: int, tmp_path: Path, simulate: Simulate
) -> None:
    """
    Each custom_id once; what the journal or the output had an answer of is never sent again.
    """
    questions, out, journal = _questions(count, tmp_path), tmp_path / "out.jsonl", str(tmp_path.resolve() / "run.db")
    asked = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    name_of = {one["body"]["messages"][-1]["content"][:1_000]: one["custom_id"] for one in asked}
    assert len(asked) == len(name_of) == count, "the questions are not told apart by their prompts"
    simulator = simulate(latency=(0.02, 0.1))
    argv = ("run", questions, "-o", out, "--journal", journal, "--resume", "--base-url", simulator.base_url)
    argv = (*argv, "--rpm", 1_000_000, "--workers", 8)
    rng = random.Random(seed)

    done_before: dict[str, int] = {}  # calls the server had seen when an answer was first found
    in_flight: Counter[str] = Counter()
    for part in (0.2, 0.45, 0.7):  # far enough apart that no request is on its way at all three: it would be parked
        sends = round(count * (part + rng.uniform(0.0, 0.05))) + sum(in_flight.values())
        process = _start(*argv)
        seen = simulator.wait_for_requests(sends, timeout=60)
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate(timeout=30)
        assert seen, err
        rows = rows_of(journal, tmp_path)
        completed = {name for name, row in rows.items() if row.status == "completed"}
        calls = len(simulator.log)
        for name in completed | set(_ids(out)):
            done_before.setdefault(name, calls)
        in_flight.update(name for name, row in rows.items() if row.status == "processing")
        assert set(_ids(out)) <= completed, "a line was written before its answer was stored"
    last = _start(*argv)
    _, err = last.communicate(timeout=300)

    sent = Counter()
    for number, record in enumerate(simulator.log):
        name = name_of[record.prompt]
        sent[name] += 1
        assert number < done_before.get(name, number + 1), f"{name} was sent again after its answer"
    print(f"{count} lines, 3 kills: {sum(sent.values())} sent, {len(done_before)} answered before the last run")
    assert 0 == last.returncode, err
    assert sorted(one["custom_id"] for one in asked) == sorted(_ids(out))
    assert [] == [line for line in out.read_text(encoding="utf-8").splitlines() if json.loads(line)["error"]]
    assert all(times <= 1 + in_flight[name] for name, times in sent.items())


def test_an_answer_that_was_stored_and_not_written_is_written_without_being_sent(
    tmp_path: Path, simulate: Simulate
) -> None:
    """
    As after a crash between the two: its line was cut, or never begun.
    """
    questions, out, journal = _questions(20, tmp_path), tmp_path / "out.jsonl", str(tmp_path / "run.db")
    simulator = simulate()
    argv = ("run", questions, "-o", out, "--journal", journal, "--resume", "--base-url", simulator.base_url)
    first = _start(*argv)
    first.communicate(timeout=60)
    before = {json.loads(line)["custom_id"]: json.loads(line)["response"] for line in out.read_text().splitlines()}
    out.write_bytes(out.read_bytes()[:-2_000])

    second = _start(*argv)
    _, err = second.communicate(timeout=60)

    after = [json.loads(line) for line in out.read_text().splitlines()]
    assert (0, 0) == (first.returncode, second.returncode), err
    assert before == {line["custom_id"]: line["response"] for line in after}
    assert 20 == len(after) == len(simulator.log)
