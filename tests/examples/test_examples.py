"""Each example does what its first lines say, with the real packages, in a process of its own."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
from extras import needs

from groq_queue import GroqQueue, Limits
from groq_queue.journal import Reader
from groq_queue.testing import Fault

from .conftest import EXAMPLES, PATIENCE_S, Bench, Pace

Make = Callable[..., Bench]

CITIES = ["Oslo", "Lima", "Pune", "Kyiv", "Accra", "Quito", "Hanoi", "Turin"]


def answers_in(path: Path) -> int:
    """Return how many requests of a journal were answered."""
    with Reader.open(path) as reader:
        return reader.counts()["completed"]


def test_the_script_prints_answers_in_the_order_of_its_questions(make_bench: Make) -> None:
    """
    One that fails for good is told in its place; one that fails once is asked again.
    """
    faults = [
        Fault(status=400, match=lambda call: "Pune" in call.prompt),
        Fault(status=503, match=lambda call: "Lima" in call.prompt, times=1),
    ]
    bench = make_bench(faults=faults)

    ran = bench.run_example("script.py")

    assert CITIES == [line.partition(":")[0] for line in ran.lines]
    assert "Pune: failed, " in ran.lines[2]
    assert all(f'river near {city}."' in line for city, line in zip(CITIES, ran.lines, strict=True) if city != "Pune")
    assert "8/8 done, 1 failed" in ran.err
    assert 0 == bench.groq.stats().refused
    assert 2 == sum("Lima" in prompt for prompt in bench.prompts())


def test_the_notebook_cell_runs_again_on_the_queue_it_made(make_bench: Make) -> None:
    """
    Five runs leave no more threads than one may; the second cell, with nothing interrupted, asks nothing.
    """
    ran = make_bench().drive(
        dedent(f"""
        import threading
        cell = compile(open({str(EXAMPLES / "notebook_cell.py")!r}).read(), "cell", "exec")
        names = {{}}
        counts = []
        for _ in range(5):
            exec(cell, names)
            counts.append(threading.active_count())
        print(counts)
        """)
    )

    assert ["None -> None"] * 5 == ran.lines[2:-1:6]
    assert [f"{4 * run} answers so far" for run in range(1, 6)] == ran.lines[5:-1:6]
    assert max(json.loads(ran.lines[-1])) <= 1 + 4 + 1  # the main thread, four workers, one that watches the clock


@pytest.mark.gate
def test_an_interrupted_notebook_cell_goes_on_from_what_it_had(make_bench: Make) -> None:
    """
    Between the two runs nothing is asked twice.
    """
    # The first answer comes at once and teaches the limits; the interrupt comes while the others are on their way.
    pace = Pace(quick=1, then_s=3)
    bench = make_bench(latency=pace)
    process = bench.start(
        sys.executable,
        "-c",
        dedent(f"""
        cells = open({str(EXAMPLES / "notebook_cell.py")!r}).read().split("# %%")
        names = {{}}
        try:
            exec("#" + cells[1], names)
        except KeyboardInterrupt:
            print("interrupted with", sum(mood is not None for mood in names["queue"].last_partial))
        exec("#" + cells[2], names)
        exec("#" + cells[3], names)
        """),
    )
    assert bench.groq.wait_for_requests(2, timeout=PATIENCE_S)

    pace.is_quick.set()
    process.send_signal(signal.SIGINT)
    ran = bench.wait(process)

    assert 0 == ran.code, ran.err
    kept = int(re.search(r"interrupted with (\d)", ran.out)[1])  # type: ignore[index]
    assert kept >= 1
    assert "to continue: map_column" in ran.err
    assert [False, False, True, False, False] == [line.endswith("-> None") for line in ran.lines[1:6]]
    assert bench.groq.stats().received <= 2 * 4 - kept


def test_the_pandas_column_fits_its_frame(make_bench: Make) -> None:
    """
    Filtered rows, a missing value, the same text twice: the answers stand beside their questions.
    """
    needs("pandas")
    bench = make_bench(faults=[Fault(status=400, match=lambda call: "lamp" in call.prompt)], latency=0.3)
    tickets = [("Where is it?", "open"), ("Broken cup", "open"), ("", "open"), ("old", "closed"), ("No lamp", "open")]
    with open(bench.directory / "tickets.csv", "w", newline="") as file:
        csv.writer(file).writerows([("text", "status"), *tickets, tickets[0]])

    ran = bench.run_example("pandas_column.py", "tickets.csv", "answered.csv")

    with open(bench.directory / "answered.csv", newline="") as file:
        topics = [row["topic"] for row in csv.DictReader(file)]
    assert "3 of 6 rows have a topic" == ran.lines[-1]
    assert [True, True, False, False, False, True] == [bool(topic) for topic in topics]
    assert topics[0] == topics[5] != topics[1]
    assert "answer" in json.loads(topics[0])
    assert 3 == bench.groq.stats().received  # of six rows: one missing, one closed, one twice


def test_the_polars_column_fits_its_frame(make_bench: Make) -> None:
    needs("polars")

    ran = make_bench().run_example("polars_column.py")

    rows = json.loads(ran.out)
    assert ["tea", "rust", None, "snow"] == [row["word"] for row in rows]
    assert [None] == [row["haiku"] for row in rows if row["word"] is None]
    assert all(f'about {row["word"]}."' in row["haiku"] for row in rows if row["word"])


@pytest.mark.gate
def test_the_cron_job_killed_in_the_middle_sends_only_what_is_left(make_bench: Make) -> None:
    """
    What was answered when it was killed is not sent again; a third run sends nothing at all.
    """
    pace = Pace(quick=14, then_s=600)
    bench = make_bench(latency=pace)
    articles = bench.directory / "articles"
    articles.mkdir()
    for number in range(40):
        (articles / f"{number:02}.txt").write_text(f"Article {number:02}")
    job = (sys.executable, EXAMPLES / "cron_resume.py", "articles", "run.db")
    process = bench.start(*job)
    assert bench.groq.wait_for_requests(14 + 8, timeout=PATIENCE_S)  # every worker waits for what will not come

    process.kill()
    bench.wait(process)
    pace.is_quick.set()
    kept = answers_in(bench.directory / "run.db")
    before = bench.groq.stats().received
    second = bench.wait(bench.start(*job))
    third = bench.wait(bench.start(*job))

    assert 0 < kept <= 14
    assert f"40 articles, {40 - kept} requests sent by this run\n" == second.out, second.err
    assert "40 articles, 0 requests sent by this run\n" == third.out, third.err
    assert before + 40 - kept == bench.groq.stats().received
    summaries = sorted(articles.glob("*.summary"))
    assert 40 == len(summaries)
    assert all(f'Article {path.stem}"' in path.read_text() for path in summaries)


def test_the_cron_job_leaves_a_run_that_is_still_at_work_alone(make_bench: Make) -> None:
    bench = make_bench()
    journal = bench.directory / "run.db"
    with GroqQueue(api_key="k", base_url=bench.groq.base_url, limits=Limits(rpm=9), journal=journal):
        ran = bench.run_example("cron_resume.py", ".", "run.db")

    assert "" == ran.out
    assert ran.err.startswith("not now: ")


def test_callbacks_ask_more_and_the_queue_waits_for_that_too(make_bench: Make) -> None:
    """
    One that raises, here for an answer that failed, is logged with its traceback and harms no other.
    """
    faults = [Fault(status=400, match=lambda call: call.prompt == "Write about rust.")]
    bench = make_bench(faults=faults)

    ran = bench.run_example("callbacks.py")

    tea, rust, snow = ran.lines
    assert re.fullmatch(r'tea: .*"Write about tea."\. => .*"Make it shorter: .*', tea)
    assert re.fullmatch(r'snow: .*"Write about snow."\. => .*"Make it shorter: .*', snow)
    assert "rust: None => None" == rust
    assert "a done-callback of" in ran.err
    assert "BadRequestError" in ran.err
    assert 5 == bench.groq.stats().received


def test_urgent_requests_go_first_and_clients_take_turns_by_weight(make_bench: Make) -> None:
    """
    Of any four turns of the level three are gold's while it has something to send; within a client it is FIFO.
    """
    bench = make_bench()

    ran = bench.run_example("priorities_and_clients.py")

    assert "the last in line: pending behind 17" == ran.lines[0]
    order = ran.lines[1].split()
    assert 17 == len(order)
    assert "watchdog" == order[0]
    assert [f"batch-{number}" for number in range(4)] == order[-4:]
    for client in ("gold", "free"):
        assert [f"{client}-{number}" for number in range(6)] == [name for name in order if name.startswith(client)]
    assert 2 == sum(name.startswith("free") for name in order[1:9])  # gold's six, and one of free's for three
    assert 17 == bench.groq.stats().received


@pytest.mark.gate
def test_the_shell_goes_on_where_it_was_killed(make_bench: Make) -> None:
    """
    Killed in the middle, run again, run once more: every line is answered, and none that was answered is sent again.
    """
    pace = Pace(quick=100, then_s=600)
    bench = make_bench(latency=pace)
    programs = bench.directory / "bin"
    programs.mkdir()
    for name, words in {"groq-queue": " -m groq_queue", "python3": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        (programs / name).chmod(0o755)
    bench.environment["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    lines = [
        {"custom_id": f"q{n}", "model": "llama-3.1-8b-instant", "prompt": f"Why {n}?", "max_completion_tokens": 16}
        for n in range(200)
    ]
    (bench.directory / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ("sh", EXAMPLES / "shell_jsonl.sh", "questions.jsonl", "answers.jsonl")
    process = bench.start(*command)
    assert bench.groq.wait_for_requests(100 + 64, timeout=PATIENCE_S)  # every worker waits for what will not come

    os.killpg(process.pid, signal.SIGKILL)
    bench.wait(process)
    pace.is_quick.set()
    kept = answers_in(bench.directory / "run.db")
    before = bench.groq.stats().received
    second = bench.wait(bench.start(*command))
    third = bench.wait(bench.start(*command))

    assert 0 < kept <= 100
    assert 0 == second.code, second.err
    assert 0 == third.code, third.err
    assert before + 200 - kept == bench.groq.stats().received
    assert {f"q{n}" for n in range(200)} == {line.split("\t")[0] for line in second.lines[1:]}
    assert "all answered" == second.lines[0] == third.lines[0]
    assert sorted(second.lines) == sorted(third.lines)
    assert 201 == len(third.lines)
    assert re.search(r"requests +200\n", second.err)  # the estimate
    assert re.search(r"completed +200 ", second.err)  # the status


@pytest.mark.gate
def test_several_processes_that_count_in_one_file_are_never_refused(make_bench: Make) -> None:
    """
    Together they send more than the limit holds at once, so the last ones have to wait.
    """
    bench = make_bench(rpm=120, tpm=60_000)

    ran = bench.run_example("several_processes.py")

    assert ["126 answers from 3 processes"] == ran.lines
    assert 126 == bench.groq.stats().received == bench.groq.stats().admitted


def test_every_example_is_run_here_and_says_who_needs_it() -> None:
    examples = [path for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")]
    told = "".join(path.read_text() for path in Path(__file__).parent.glob("test_examples*.py"))

    assert len(examples) == 16
    for example in examples:
        text = example.read_text()
        assert "\nFor " in text or "\n# For " in text, example.name
        assert 20 <= len(text.splitlines()) <= 70, example.name
        assert example.name in told or example.stem in told, example.name
