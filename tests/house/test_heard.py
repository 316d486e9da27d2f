"""What a program's stderr shows of what went wrong, with and without logging set up. Each in a process of its own."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import groq_queue
from groq_queue import GroqSimulator
from groq_queue.testing import Fault
from tests.extras import needs

ROOT = Path(groq_queue.__file__).parent.parent
PATIENCE_S = 60.0
HEARD_S = 10.0  # until a program that waits has said why; it takes one
KEY = "gsk_a_key_that_nobody_may_see_1234"
PROMPT = "the-prompt-that-nobody-may-see"
CONFIGURED = "import logging; logging.basicConfig()"
SILENCED = "import logging; logging.getLogger('groq_queue').addHandler(logging.NullHandler())"
PREAMBLE = f"""
import logging, os, sys
from groq_queue import GroqQueue, Limits
PROMPT = {PROMPT!r}
def connect(**options):
    return GroqQueue(api_key={KEY!r}, base_url=os.environ["URL"], model="m", **options)
"""

FAILING_CALLBACK = """
def save(future):
    raise OSError("disk full")

with connect(max_workers=1) as queue:
    for number in range(int(os.environ.get("COUNT", "1"))):
        print(queue.submit(PROMPT, custom_id=f"q{number}", max_completion_tokens=4, callback=save).result()["object"])
"""
FAILING_OBSERVER = """
def count(event):
    raise ZeroDivisionError("nothing to divide by")

with connect(observer=count) as queue:
    print(queue.submit(PROMPT, custom_id="q7", max_completion_tokens=4).result()["object"])
"""
WRONG_LIMITS = """
with connect(limits=Limits(rpm=1_000, tpm=250_000, rpd=50_000)) as queue:
    for number in range(5):
        print(queue.submit(PROMPT, max_completion_tokens=4).result()["object"])
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def simulator() -> Iterator[GroqSimulator]:
    with GroqSimulator(models=["m"], rpm=30_000, tpm=6_000_000, rpd=1_000_000) as groq:
        yield groq


def environment_of(simulator: GroqSimulator, **more: str) -> dict[str, str]:
    return {**os.environ, "URL": simulator.base_url, "PYTHONPATH": str(ROOT), **more}


@pytest.fixture
def run(simulator: GroqSimulator) -> Run:
    """Run a program to its end; it succeeds, and shows neither prompt nor key."""

    def run(script: str, before: str = "", groq: GroqSimulator = simulator, **more: str) -> Run:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", before + PREAMBLE + script],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env=environment_of(groq, **more),
        )
        assert 0 == done.returncode, done.stderr
        assert PROMPT not in done.stderr
        assert KEY not in done.stderr
        return done

    return run


def test_a_callback_that_always_raises_is_heard_once_with_its_traceback_and_then_counted(run):
    """
    In the minute that the program runs; see tests/engine for a clock that moves.
    """
    done = run(FAILING_CALLBACK, COUNT="40")

    lines = done.stderr.splitlines()
    assert 40 == done.stdout.count("chat.completion")
    assert "groq_queue: a done-callback of request 'q0' raised; the request's own outcome is not affected" == lines[0]
    assert "Traceback (most recent call last):" == lines[1]
    assert any("in save" in line for line in lines)
    assert "OSError: disk full" == lines[-2]
    assert f"groq_queue: 39 more like this: {lines[0].removeprefix('groq_queue: ')}" == lines[-1]
    assert 1 == done.stderr.count("Traceback")


def test_with_logging_set_up_each_callback_is_logged_as_ever_and_nothing_twice(run):
    done = run(FAILING_CALLBACK, CONFIGURED, COUNT="40")

    lines = done.stderr.splitlines()
    heads = [line for line in lines if line.startswith("ERROR:groq_queue:a done-callback of request 'q")]
    assert 40 == len(heads) == done.stderr.count("Traceback") == lines.count("OSError: disk full")
    assert [] == [line for line in lines if line.startswith("groq_queue:")]


def test_a_null_handler_silences_everything(run):
    done = run(FAILING_CALLBACK + FAILING_OBSERVER + WRONG_LIMITS, SILENCED)

    assert 7 == done.stdout.count("chat.completion")
    assert "" == done.stderr


def test_an_observer_that_raises_is_heard_with_its_traceback_and_its_request(run):
    plain, configured = run(FAILING_OBSERVER), run(FAILING_OBSERVER, CONFIGURED)

    lines = plain.stderr.splitlines()
    assert "groq_queue: observer 'count' raised on request 'q7'; the request is not affected" == lines[0]
    assert any("in count" in line for line in lines)
    assert "ZeroDivisionError: nothing to divide by" == lines[-1]
    assert ["ERROR:groq_queue:" + lines[0].removeprefix("groq_queue: "), *lines[1:]] == configured.stderr.splitlines()


def test_limits_that_the_server_contradicts_are_heard_once_each_with_both_numbers_and_the_cure(run):
    with GroqSimulator(models=["m"], rpm=30, tpm=6_000, rpd=1_000) as groq:
        plain = run(WRONG_LIMITS, groq=groq)
        configured = run(WRONG_LIMITS, CONFIGURED, groq=groq)

    cure = "if that is not what you meant, correct limits=, or leave it out to use the server's"
    told = [
        f"m: requests per day: the server's limit is 1,000, yours is 50,000; keeping 1,000; {cure}",
        f"m: tokens per minute: the server's limit is 6,000, yours is 250,000; keeping 6,000; {cure}",
    ]
    assert [f"groq_queue: {line}" for line in told] == sorted(plain.stderr.splitlines())
    assert [f"WARNING:groq_queue:{line}" for line in told] == sorted(configured.stderr.splitlines())


@pytest.mark.parametrize(("before", "head"), [("", "groq_queue: "), (CONFIGURED, "ERROR:groq_queue:")])
def test_a_mistyped_redis_limiter_is_heard_while_the_program_waits(simulator, before, head):
    needs("redis")
    script = 'queue = connect(limiter="redis://127.0.0.1:1/0")\nqueue.submit(PROMPT).result()\n'
    with subprocess.Popen(
        [sys.executable, "-c", before + PREAMBLE + script],
        stderr=subprocess.PIPE,
        text=True,
        env=environment_of(simulator),
    ) as program:
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        assert program.stderr is not None
        reader = threading.Thread(target=lambda stream: lines.put(stream.readline()), args=(program.stderr,))
        reader.start()
        try:
            line = lines.get(timeout=HEARD_S)
        finally:
            program.kill()
            reader.join(PATIENCE_S)

    assert line.startswith(f"{head}the shared budget cannot be reached, tried again every second")
    assert "redis://127.0.0.1:1/0" in line
    assert line.endswith("is it running, can this host reach it, and is the address in limiter= the right one?\n")


def test_what_the_server_says_of_a_prompt_is_not_repeated(run):
    """
    A callback that lets the request's own error through is the usual one.
    """
    script = """
with connect() as queue:
    queue.submit(PROMPT, callback=lambda future: future.result()["choices"]).exception()
"""
    echo = {"error": {"message": f"cannot use {PROMPT!r}"}}
    with GroqSimulator(models=["m"], faults=[Fault(status=400, body=echo)]) as groq:
        done = run(script, groq=groq)

    assert "BadRequestError: HTTP 400: what the server said is left out here" in done.stderr.splitlines()[-1]


def test_a_program_without_stderr_loses_no_worker(run):
    """
    One that closed it, and one that never had any, as a program without a console.
    """
    script = f"""
import threading
threading.excepthook = lambda lost: print("lost", lost.thread.name, lost.exc_type)
sys.stderr.close()
{FAILING_CALLBACK}
sys.stderr = None
{FAILING_CALLBACK}
"""
    done = run(script, COUNT="5")

    assert ["chat.completion"] * 10 == done.stdout.splitlines()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_tells_its_own_and_not_what_its_parent_left_out(run):
    script = """
def fail():
    logging.getLogger("groq_queue").error("the pipe is broken")

with connect(): pass
fail(), fail(), fail()
child = os.fork()
if child:
    os.waitpid(child, 0)
else:
    fail()
"""
    done = run(script)

    told = "groq_queue: the pipe is broken"
    assert [told, told, "groq_queue: 2 more like this: the pipe is broken"] == done.stderr.splitlines()


def test_a_good_day_is_silent(run, tmp_path):
    """
    Journal and shared budget, closed twice, forgotten Futures and a cancelled request included.
    """
    script = """
for day in range(2):
    with connect(journal=sys.argv[1], limiter=f"sqlite:///{sys.argv[1]}.budget", observer=lambda event: None) as queue:
        futures = [queue.submit(f"{day} {number}", max_completion_tokens=4) for number in range(20)]
        queue.submit(f"{day} later", not_before=60, max_completion_tokens=4).cancel()
        futures[0].result()
        queue.shutdown()
    print(queue.stats().completed)
"""
    done = run(script.replace("sys.argv[1]", repr(str(tmp_path / "work.db"))))

    assert ("20\n20\n", "") == (done.stdout, done.stderr)


def test_the_command_line_tells_a_warning_once_and_ends_with_its_json(tmp_path):
    """
    It sets up the logger while it sends, so that its progress line stays whole.
    """
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\nthree\n")
    with GroqSimulator(models=["m"], rpm=30, tpm=6_000) as groq:
        words = ["run", str(prompts), "--base-url", groq.base_url, "--model", "m", "--tpm", "250000", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "groq_queue", *words, "--journal", str(tmp_path / "work.db")],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env=environment_of(groq, GROQ_API_KEY=KEY),
        )

    assert 0 == done.returncode, done.stderr
    assert 1 == done.stderr.count("the server's limit is 6,000, yours is 250,000")
    assert 3 == json.loads(done.stderr.splitlines()[-1])["done"]
