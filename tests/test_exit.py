"""How programs end: without shutdown, by Ctrl-C, by an exception. Each in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from groq_queue import GroqSimulator
from groq_queue.journal import Journal
from groq_queue.testing import Fault

PREAMBLE = """
import os, signal, sys, threading, time
from groq_queue import GroqQueue, Limits
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
def queue(**options):
    options.setdefault("limits", Limits())
    return GroqQueue(api_key="k", base_url=os.environ["URL"], model="llama-3.1-8b-instant", **options)
"""


def start(script, simulator):
    environment = {**os.environ, "URL": simulator.base_url, "PYTHONFAULTHANDLER": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PREAMBLE + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process, timeout=20):
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
        process.communicate()
    return process.returncode, out, err


def test_a_program_that_forgets_shutdown_ends_promptly_and_tells_what_was_not_sent():
    with GroqSimulator(latency=0.3) as groq:
        process = start(
            """
q = queue(limits=Limits(rpm=3))
futures = [q.submit(f"{n}") for n in range(50)]
""",
            groq,
        )
        code, out, err = finish(process)

    assert (0, "") == (code, out)
    assert "requests not sent" in err
    assert "Traceback" not in err
    assert "Fatal" not in err


def test_an_attempt_that_fails_while_the_program_ends_is_told_as_its_retry_will_not_come():
    with GroqSimulator(faults=[Fault(status=503, delay_s=0.4)]) as groq:
        process = start(
            """
q = queue()
q.submit("x")
while not q.stats().in_flight:
    threading.Event().wait(0.01)
""",
            groq,
        )
        code, out, err = finish(process)

    assert (0, "") == (code, out)
    assert "1 request not sent" in err


def test_a_program_that_forgets_shutdown_tells_that_the_journal_keeps_what_was_not_sent(tmp_path):
    """
    Those too that stand in the file only, because nobody holds their Futures.
    """
    with GroqSimulator(latency=0.3) as groq:
        program = f"""
q = queue(limits=Limits(rpm=3), journal={str(tmp_path / "run.db")!r})
for n in range(50): q.submit(f"{{n}}")
q.pause()
"""
        code, out, err = finish(start(program, groq))
    with Journal.open(tmp_path / "run.db") as journal:
        kept = journal.counts()["pending"]

    assert (0, "") == (code, out)
    assert kept >= 46
    assert f"{kept} requests not sent; they stay in the journal, and the next run on it sends them" in err


def test_a_program_that_ends_with_everything_answered_says_nothing():
    with GroqSimulator() as groq:
        process = start('q = queue()\nprint(q.submit("x").result(10)["object"])', groq)

        assert (0, "chat.completion\n", "") == finish(process)


def test_answers_under_way_at_the_end_still_reach_their_callbacks():
    with GroqSimulator(latency=0.3) as groq:
        process = start(
            """
q = queue()
q.submit("x", callback=lambda future: print("answered", flush=True))
while not q.stats().in_flight: pass
""",
            groq,
        )
        code, out, _ = finish(process)

    assert (0, "answered\n") == (code, out)


def test_a_retry_pending_at_the_end_starts_no_thread():
    # A port that is taken and does not listen refuses. One that is free again may be given to the next server.
    with socket.socket() as taken, GroqSimulator() as groq:
        taken.bind(("127.0.0.1", 0))
        process = start(
            f"""
os.environ["URL"] = "http://127.0.0.1:{taken.getsockname()[1]}/openai/v1"
q = queue()
q.submit("x")
while not q.stats().retried: pass
""",
            groq,
        )
        code, _, err = finish(process)

    assert 0 == code
    assert "can't" not in err
    assert "1 request not sent" in err


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_inside_result_reaches_the_program_at_once_and_cancels_what_waits():
    with GroqSimulator(rpm=2, latency=0.2) as groq:
        process = start(
            """
with queue(limits=Limits(rpm=2)) as q:
    futures = [q.submit(f"{n}") for n in range(500)]
    try:
        print("waiting", flush=True)
        futures[-1].result()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise
""",
            groq,
        )
        assert "waiting\n" == process.stdout.readline()
        assert groq.wait_for_requests(2, 20)

        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, out, err = finish(process)
        took = time.monotonic() - began

        assert "interrupted\n" == out
        assert "KeyboardInterrupt" in err
        assert took < 3
        assert 2 == groq.stats().received


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_a_signal_handler_may_shut_down_while_submit_is_at_work():
    with GroqSimulator() as groq:
        process = start(
            """
q = queue(max_pending=None, limits=Limits(rpm=1))
def stop(signum, frame):
    q.shutdown(wait=False, cancel_futures=True)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
try:
    while True:
        q.submit("x")
except RuntimeError as error:
    print(type(error).__name__, flush=True)
""",
            groq,
        )
        assert "ready\n" == process.stdout.readline()

        process.send_signal(signal.SIGTERM)
        code, out, _ = finish(process)

    assert (0, "QueueClosed\n") == (code, out)


@pytest.mark.gate
@pytest.mark.skipif(os.name == "nt", reason="asks getrusage")
def test_sixteen_idle_workers_cost_nothing():
    """
    Nobody polls: three idle seconds of a warm pool stay under 0.1 s of CPU and 120 context switches.
    """
    with GroqSimulator(latency=0.2) as groq:
        process = start(
            """
import resource
q = queue(max_workers=16)
[future.result(20) for future in [q.submit(f"{n}") for n in range(64)]]
before = resource.getrusage(resource.RUSAGE_SELF)
threading.Event().wait(3)
after = resource.getrusage(resource.RUSAGE_SELF)
cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
switches = after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw
print(threading.active_count(), cpu, switches)
""",
            groq,
        )
        code, out, err = finish(process, timeout=40)

    assert 0 == code, err
    threads, cpu, switches = out.split()
    assert 17 <= int(threads)
    assert float(cpu) <= 0.1
    assert int(switches) <= 120
