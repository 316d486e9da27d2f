"""Callbacks of requests whose answers a journal has: workers call them, as where the answers come from the server."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading

import pytest

from groq_queue import GroqQueue, GroqSimulator, Limits, QueueClosed
from groq_queue.testing import Fault

WIDE = Limits(rpm=100_000, tpm=100_000_000)
MODEL = "llama-3.1-8b-instant"
PATIENCE_S = 10.0
WORKER = "groq_queue-worker"


@pytest.fixture
def simulator():
    with GroqSimulator(limits=WIDE, latency=0.0) as simulator:
        yield simulator


@pytest.fixture
def open_queue(simulator, tmp_path):
    def open_queue(**options):
        settings = {
            "api_key": "k",
            "base_url": simulator.base_url,
            "model": MODEL,
            "limits": WIDE,
            "journal": tmp_path / "run.db",
        }
        return GroqQueue(**(settings | options))

    return open_queue


@pytest.fixture
def store(open_queue):
    def store(*names):
        """Have the journal know the answers of these requests."""
        with open_queue() as queue:
            for name in names:
                queue.submit(name, custom_id=name)

    return store


class Noted:
    """A callback that notes whom it was called with, and where."""

    def __init__(self):
        self.names, self.threads = [], set()

    def __call__(self, future):
        self.names.append(future.custom_id)
        self.threads.add(threading.current_thread().name)


def test_callbacks_of_a_second_run_are_called_in_order_on_the_threads_of_the_first(open_queue):
    names = [f"{number:03}" for number in range(200)]
    runs = [Noted(), Noted()]

    for noted in runs:
        with open_queue() as queue:
            for name in names:
                queue.submit(name, custom_id=name, callback=noted)

    first, second = runs
    assert names == sorted(first.names) == second.names
    assert {WORKER} == first.threads == second.threads


def test_a_long_chain_of_callbacks_runs_through_on_each_run(open_queue, caplog):
    """
    Each callback submits the next request. Called inside ``submit``, some hundred of them would fill the stack.
    """
    length, done = 400, []

    with open_queue(durability="normal") as queue:
        for number in range(length):
            queue.submit(f"{number}", custom_id=f"{number}")
    with open_queue() as queue:

        def go_on(future):
            done.append(future.custom_id)
            if len(done) < length:
                queue.submit(f"{len(done)}", custom_id=f"{len(done)}", callback=go_on)

        queue.submit("0", custom_id="0", callback=go_on)

    assert [f"{number}" for number in range(length)] == done
    assert "" == caplog.text


@pytest.mark.parametrize("options", [{}, {"dedupe": True}], ids=["alone", "shared"])
def test_who_submits_under_a_lock_that_the_callback_takes_goes_on(open_queue, options):
    lock, called = threading.Lock(), []

    def callback(future):
        with lock:
            called.append(threading.current_thread().name)

    with open_queue() as queue:
        queue.submit("a")
    queue = open_queue()
    with lock:
        future = queue.submit("a", callback=callback, **options)
        assert future.result(0)
        assert [] == called
    queue.shutdown()

    assert [WORKER] == called


def test_the_future_of_a_stored_answer_has_ended_and_nobody_waits_for_its_callback(open_queue, store):
    store("a")
    leave = threading.Event()
    with open_queue() as queue:
        future = queue.submit("a", custom_id="a", callback=lambda _: leave.wait(PATIENCE_S))

        assert future.done()
        assert future.result(0).text
        assert not queue.join(0)
        leave.set()
        assert queue.join(PATIENCE_S)


def test_a_callback_that_is_added_later_is_called_at_once_by_who_adds_it(open_queue, store):
    store("a")
    noted, leave = Noted(), threading.Event()
    with open_queue() as queue:
        future = queue.submit("a", custom_id="a", callback=lambda _: leave.wait(PATIENCE_S))
        future.add_done_callback(noted)

        assert ["a"] == noted.names
        assert {threading.current_thread().name} == noted.threads
        leave.set()


def test_a_stored_failure_has_its_callback_called_too(open_queue, simulator, tmp_path):
    noted = Noted()
    with (
        GroqSimulator(limits=WIDE, latency=0.0, faults=[Fault(status=400)]) as failing,
        open_queue(base_url=failing.base_url) as queue,
    ):
        assert queue.submit("a", custom_id="a").exception(PATIENCE_S)
    with open_queue() as queue:
        assert queue.submit("a", custom_id="a", callback=noted).exception(0)

    assert ["a"] == noted.names
    assert {WORKER} == noted.threads


def test_a_callback_that_does_not_return_keeps_no_request_waiting(open_queue, store):
    store("a", "b")
    noted, leave = Noted(), threading.Event()
    with open_queue(max_workers=1) as queue:
        queue.submit("a", custom_id="a", callback=lambda _: leave.wait(PATIENCE_S))
        queue.submit("b", custom_id="b", callback=noted)
        answers = [queue.complete(f"{number}") for number in range(5)]

        assert 5 == len(answers)
        assert [] == noted.names
        leave.set()
    assert ["b"] == noted.names


def test_a_callback_may_ask_the_queue_and_wait_for_the_answer(open_queue, store):
    store("a", "b")
    answers = []

    def ask(future):
        answers.append(queue.complete(f"about {future.custom_id}"))
        answers.append(queue.complete("about both", dedupe=True))

    with open_queue(max_workers=1) as queue:
        for name in "ab":
            queue.submit(name, custom_id=name, callback=ask)

    assert 4 == len(answers)


def test_there_are_never_more_attempts_at_once_than_workers(open_queue, store, simulator):
    """
    Whoever calls callbacks is beyond the number, and must not send.
    """
    names = [f"{number}" for number in range(20)]
    store(*names)
    under_way = []

    def note(event):
        under_way.append(queue.stats().in_flight)

    def ask(future):
        queue.complete(f"about {future.custom_id}")

    with open_queue(max_workers=2, observer=note) as queue:
        for name in names:
            queue.submit(name, custom_id=name, callback=ask)
            queue.submit(f"beside {name}")

    assert len(under_way) == 40
    assert max(under_way) <= 2


def test_while_the_queue_drains_callbacks_may_submit_what_is_stored(open_queue, store):
    store("a", "b", "c")
    noted, leave = Noted(), threading.Event()
    queue = open_queue()

    def go_on(future):
        assert leave.wait(PATIENCE_S)
        for name in "bc":
            queue.submit(name, custom_id=name, callback=noted)

    queue.submit("a", custom_id="a", callback=go_on)
    queue.shutdown(wait=False)
    with pytest.raises(QueueClosed):
        queue.submit("b", custom_id="b", callback=noted)
    leave.set()
    queue.shutdown()

    assert ["b", "c"] == noted.names


@pytest.mark.parametrize(
    "options", [{"wait": False}, {"cancel_futures": True}, {"wait": False, "cancel_futures": True}]
)
def test_what_was_accepted_is_called_however_the_queue_is_shut_down(open_queue, store, options):
    store(*"abc")
    noted, leave = Noted(), threading.Event()
    queue = open_queue()
    queue.submit("a", custom_id="a", callback=lambda _: leave.wait(PATIENCE_S))
    for name in "bc":
        queue.submit(name, custom_id=name, callback=noted)

    threading.Timer(0.05, leave.set).start()
    queue.shutdown(**options)
    queue.shutdown()

    assert ["b", "c"] == noted.names


def test_a_callback_that_raises_is_logged_and_the_next_one_is_called(open_queue, store, caplog):
    store("a", "b")
    noted = Noted()

    def wrong(future):
        raise SystemExit("mine")

    with open_queue() as queue:
        queue.submit("a", custom_id="a", callback=wrong)
        queue.submit("b", custom_id="b", callback=noted)

    assert ["b"] == noted.names
    assert 1 == caplog.text.count("a done-callback of request 'a' raised") + caplog.text.count(
        "a done-callback of a raised"
    )


def test_a_ctrl_c_anywhere_in_a_submit_of_something_stored_loses_no_callback_that_was_accepted(open_queue, store):
    names = [f"{number:03}" for number in range(60)]
    store(*names, "last")
    noted, accepted, entries = Noted(), [], iter(range(1, 10**6, 9))

    def interrupting(entry):
        def count(frame, event, _):
            nonlocal entry
            if event == "call" and "groq_queue" in frame.f_code.co_filename:
                entry -= 1
                if not entry:
                    sys.setprofile(None)
                    raise KeyboardInterrupt

        return count

    gc.disable()
    try:
        with open_queue(max_workers=1) as queue:
            for name in names:
                sys.setprofile(interrupting(next(entries)))
                try:
                    queue.submit(name, custom_id=name, callback=noted)
                    accepted.append(name)
                except KeyboardInterrupt:
                    pass
                finally:
                    sys.setprofile(None)
            queue.submit("last", custom_id="last", callback=noted)
    finally:
        gc.enable()

    assert 5 < len(accepted) < len(names)
    assert set(accepted) <= set(noted.names)
    assert len(noted.names) == len(set(noted.names))
    assert "last" == noted.names[-1]


PROGRAM = """
import os, sys, threading, warnings
from groq_queue import GroqQueue
warnings.simplefilter("ignore", DeprecationWarning)
queue = GroqQueue(api_key="k", base_url="http://127.0.0.1:9/v1", model="llama-3.1-8b-instant", journal=sys.argv[1])
inside, leave = threading.Event(), threading.Event()
def first(future):
    inside.set()
    leave.wait(10)
def note(future):
    print("called", future.custom_id, os.getpid() == me, flush=True)
me = os.getpid()
queue.submit("a", custom_id="a", callback=first)
queue.submit("b", custom_id="b", callback=note)
queue.submit("c", custom_id="c", callback=note)
inside.wait(10)
"""


def run(program, path):
    done = subprocess.run([sys.executable, "-c", PROGRAM + program, path], capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout, done.stderr


def test_a_program_that_ends_before_its_callbacks_were_called_says_how_many(store, tmp_path):
    store(*"abc")

    code, out, err = run("queue.shutdown(wait=False)", tmp_path / "run.db")

    assert (0, "") == (code, out)
    assert "the program ended before calling 2 callbacks" in err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_in_a_forked_child_callbacks_stay_the_parents(store, tmp_path):
    store(*"abc")

    code, out, err = run(
        """
child = os.fork()
if not child:
    queue.shutdown()
    sys.exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
leave.set()
queue.shutdown()
print("child", code)
""",
        tmp_path / "run.db",
    )

    assert (0, "") == (code, err)
    assert ["called b True", "called c True", "child 0"] == out.splitlines()
