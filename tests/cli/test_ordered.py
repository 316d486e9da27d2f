"""``groq-queue run --ordered``: answers in the order of the lines, and what that may cost."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from groq_queue.cli.batch import InputOrder
from groq_queue.simulator import GroqSimulator
from groq_queue.simulator.faults import Fault

from .conftest import MODEL, Command, batch

Simulate = Callable[..., GroqSimulator]
Write = Callable[..., Path]


def test_answers_come_in_the_order_of_the_lines(simulate: Simulate, command: Command, write: Write) -> None:
    """
    Though the first takes longest and the third is refused here; errors have their turns too.
    """
    simulator = simulate(faults=[Fault(delay_s=0.2, match="slow"), Fault(status=400, match="bad")])
    lines = [batch("0", "slow"), batch("1"), "{no JSON", batch("3", "bad"), *[batch(f"{n}") for n in range(4, 20)]]

    ran = command("run", write(*lines), "--ordered", "--base-url", simulator.base_url)

    assert 1 == ran.code
    assert ["0", "1", "line-3", *[f"{n}" for n in range(3, 20)]] == [line["custom_id"] for line in ran.lines]
    assert "18 done, 2 failed" in ran.err


def test_errors_apart_keep_their_order_in_their_own_file(
    simulate: Simulate, command: Command, write: Write, tmp_path: Path
) -> None:
    simulator = simulate(
        faults=[
            Fault(status=400, delay_s=0.2, match="bad and slow"),
            Fault(status=400, match="bad"),
            Fault(delay_s=0.2, match="slow"),
        ]
    )
    lines = [batch("0", "bad and slow"), batch("1", "slow"), batch("2", "bad"), batch("3")]
    out, errors = tmp_path / "out.jsonl", tmp_path / "errors.jsonl"

    ran = command("run", write(*lines), "-o", out, "--errors", errors, "--ordered", "--base-url", simulator.base_url)

    assert 1 == ran.code
    for path, expected in ((out, ["1", "3"]), (errors, ["0", "2"])):
        assert expected == [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


def test_an_interrupt_writes_what_was_done_and_no_more_was_read_than_the_window(
    simulate: Simulate, spawn: Any, write: Write
) -> None:
    """
    The second line is never answered: 4 lines for each worker and 64 more are read, and all answers wait in memory.
    """
    simulator = simulate(faults=[Fault(silent=True, match="never")])
    lines = write(batch("first"), batch("0", "never"), *[batch(f"{n}") for n in range(1, 300)])
    process = spawn("run", lines, "--ordered", "--workers", 2, "--rpm", 100_000, "--base-url", simulator.base_url)

    assert "first" == json.loads(process.stdout.readline())["custom_id"]
    assert simulator.wait_for_requests(73, timeout=20)
    process.send_signal(signal.SIGINT)
    answered = {json.loads(process.stdout.readline())["custom_id"] for _ in range(71)}
    process.send_signal(signal.SIGINT)

    assert 130 == process.wait(timeout=20)
    assert {f"{n}" for n in range(1, 72)} == answered
    assert "" == process.stdout.read()
    assert 73 == simulator.stats().received


def test_without_it_nothing_waits_for_a_turn(simulate: Simulate, spawn: Any, write: Write) -> None:
    simulator = simulate(faults=[Fault(silent=True, match="never")])
    lines = write(batch("first"), batch("0", "never"), batch("1"))
    process = spawn("run", lines, "--rpm", 100_000, "--base-url", simulator.base_url)

    assert {"first", "1"} == {json.loads(process.stdout.readline())["custom_id"] for _ in range(2)}


def test_an_ordered_run_can_be_resumed(simulate: Simulate, command: Command, write: Write, tmp_path: Path) -> None:
    simulator = simulate(latency=(0, 0.05))
    out = tmp_path / "out.jsonl"
    command("run", write(*[f"{n}" for n in range(10)]), "--model", MODEL, "-o", out, "--ordered",
            "--base-url", simulator.base_url)  # fmt: skip

    ran = command("run", write(*[f"{n}" for n in range(30)]), "--model", MODEL, "-o", out, "--ordered", "--resume",
                  "--base-url", simulator.base_url)  # fmt: skip

    assert 0 == ran.code
    assert [f"line-{n}" for n in range(1, 31)] == [
        json.loads(line)["custom_id"] for line in out.read_text().splitlines()
    ]
    assert 30 == simulator.stats().received


def test_each_place_is_let_out_once_in_its_turn():
    """
    In whatever order they end, and with nothing held back that is due.
    """
    for seed in range(50):
        places = list(range(20))
        random.Random(seed).shuffle(places)
        out: list[int] = []
        turns = InputOrder(is_open=False)

        for number, place in enumerate(places):
            turns.ended(place, partial(out.append, place))
            ended = set(places[: number + 1])
            assert out == [n for n in range(20) if set(range(n + 1)) <= ended]

        assert list(range(20)) == out


def test_an_opened_one_lets_out_what_it_holds_and_holds_no_more():
    out: list[int] = []
    turns = InputOrder(is_open=False)
    for place in (3, 1):
        turns.ended(place, partial(out.append, place))

    turns.open()
    turns.ended(2, lambda: out.append(2))
    turns.ended(0, lambda: out.append(0))

    assert [1, 3, 2, 0] == out
