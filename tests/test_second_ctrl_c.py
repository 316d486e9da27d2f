"""The second Ctrl-C: while a ``with`` block is leaving by the first one, it waits for nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress

import pytest
from pressing import listening, press
from waiting import wait_until

from groq_queue import GroqQueue, Limits
from groq_queue.simulator import GroqSimulator

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")

SOON_S = 10.0
MODEL = "llama-3.1-8b-instant"


@pytest.fixture(autouse=True)
def ctrl_c():
    with listening():
        yield


class SlowServer:
    """Attempts that last until ``answer``; who waits for one all the same is let go after ``SOON_S``."""

    def __init__(self):
        self._asked = threading.Semaphore(0)
        self._answer = threading.Event()
        self._patience = threading.Timer(SOON_S, self._answer.set)
        self._patience.start()

    def __call__(self):
        self._asked.release()
        assert self._answer.wait(2 * SOON_S)
        return {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}

    @property
    def has_answered(self):
        return self._answer.is_set()

    def start(self, queue):
        """Return the Future of an attempt that is under way."""
        future = queue.submit_call(self, queue_options={"model": MODEL})
        assert self._asked.acquire(timeout=SOON_S)
        return future

    def answer(self):
        self._patience.cancel()
        self._answer.set()


@pytest.fixture
def server():
    server = SlowServer()
    yield server
    server.answer()


def make_queue(**options):
    return GroqQueue(api_key="k", base_url="http://127.0.0.1:9/openai/v1", model=MODEL, limits=Limits(), **options)


def press_when(is_due):
    """Press Ctrl-C on another thread as soon as *is_due*."""

    def wait_and_press():
        wait_until(is_due)
        press()

    thread = threading.Thread(target=wait_and_press)
    thread.start()
    return thread


def test_a_second_ctrl_c_leaves_the_block_while_an_attempt_is_under_way(server, capsys):
    with pytest.raises(KeyboardInterrupt), make_queue(max_workers=1) as queue:  # noqa: PT012
        running = server.start(queue)
        waiting = queue.submit("unsent")
        second = press_when(waiting.cancelled)
        raise KeyboardInterrupt

    assert not server.has_answered
    assert running.running()
    assert waiting.cancelled()
    second.join(SOON_S)
    assert (
        "groq_queue: interrupted: 0 answers done (in the Futures), 1 attempt still under way (an answer may be lost, "
        "and billed), 1 request not sent and cancelled; to continue, submit each again whose Future is cancelled()\n"
        == capsys.readouterr().err
    )


def test_an_attempt_that_was_left_ends_its_future_when_its_answer_comes(server):
    with pytest.raises(KeyboardInterrupt), make_queue() as queue:  # noqa: PT012
        future = server.start(queue)
        second = press_when(lambda: not queue.stats().running)
        raise KeyboardInterrupt
    second.join(SOON_S)

    server.answer()

    assert "usage" in future.result(SOON_S)
    assert queue.join(SOON_S)


def test_a_drain_is_left_by_the_first_ctrl_c_for_attempts_and_by_the_second_at_once(server):
    with pytest.raises(KeyboardInterrupt), make_queue(max_workers=1) as queue:  # noqa: PT012
        server.start(queue)
        waiting = queue.submit("unsent")
        first = press_when(lambda: not queue.stats().running)
        second = press_when(waiting.cancelled)

    assert not server.has_answered
    first.join(SOON_S)
    second.join(SOON_S)


def test_a_ctrl_c_leaves_at_once_what_is_left_by_another_error(server):
    with pytest.raises(KeyboardInterrupt), make_queue() as queue:  # noqa: PT012
        server.start(queue)
        pressed = press_when(lambda: not queue.stats().running)
        raise OSError("gone")

    assert not server.has_answered
    pressed.join(SOON_S)


def test_a_second_ctrl_c_leaves_outer_blocks_at_once_too(server):
    with pytest.raises(KeyboardInterrupt), ExitStack() as blocks:  # noqa: PT012
        outer = blocks.enter_context(make_queue())
        inner = blocks.enter_context(make_queue())
        running = [server.start(outer), server.start(inner)]
        second = press_when(lambda: not inner.stats().running)
        raise KeyboardInterrupt

    assert not server.has_answered
    assert [True, True] == [future.running() for future in running]
    second.join(SOON_S)


def test_a_second_ctrl_c_that_comes_while_the_block_handles_the_first_leaves_at_once(server):
    with pytest.raises(KeyboardInterrupt), make_queue() as queue:  # noqa: PT012
        server.start(queue)
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGINT)

    assert not server.has_answered


def test_a_second_ctrl_c_that_comes_while_callbacks_of_cancelled_requests_run_leaves_at_once(server):
    with pytest.raises(KeyboardInterrupt), make_queue(max_workers=1) as queue:  # noqa: PT012
        server.start(queue)
        waiting = [queue.submit("unsent", callback=lambda _: signal.raise_signal(signal.SIGINT))]
        waiting.append(queue.submit("unsent"))
        raise KeyboardInterrupt

    assert not server.has_answered
    assert [True, True] == [future.cancelled() for future in waiting]


def test_a_second_ctrl_c_at_the_very_beginning_of_leaving_still_closes_the_queue(server, monkeypatch):
    queue = make_queue(max_workers=1)
    stats = queue.stats

    def interrupted_once():
        monkeypatch.setattr(queue, "stats", stats)
        raise KeyboardInterrupt

    monkeypatch.setattr(queue, "stats", interrupted_once)
    with pytest.raises(KeyboardInterrupt), queue:  # noqa: PT012
        server.start(queue)
        waiting = queue.submit("unsent")
        raise KeyboardInterrupt

    assert not server.has_answered
    assert waiting.cancelled()
    assert not queue.stats().running


def test_a_single_ctrl_c_still_waits_for_the_attempt_under_way(server):
    with pytest.raises(KeyboardInterrupt), make_queue() as queue:  # noqa: PT012
        future = server.start(queue)
        threading.Thread(target=lambda: (wait_until(lambda: not queue.stats().running), server.answer())).start()
        raise KeyboardInterrupt

    assert future.done()


SCRIPT = """
import os, signal, sys
from groq_queue import GroqQueue, Limits
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
signal.signal(signal.SIGUSR1, lambda *_: None)
journal = sys.argv[1] if len(sys.argv) > 1 else None
with GroqQueue(api_key="k", base_url=os.environ["URL"], model="m", limits=Limits(), journal=journal) as queue:
    queue.submit("a")
    try:
        print("submitted", flush=True)
        while True:
            signal.pause()
    except KeyboardInterrupt:
        print("leaving", flush=True)
        raise
"""


def _wake_until_it_ends(process):
    """See ``press``."""
    for _ in range(200):
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            return
        process.send_signal(signal.SIGUSR1)


@pytest.mark.parametrize("is_kept", [False, True], ids=["in memory", "with a journal"])
def test_a_program_ends_by_the_second_ctrl_c_while_the_server_is_still_at_work(tmp_path, is_kept):
    with GroqSimulator(models=("m",), latency=30) as groq:
        arguments = [str(tmp_path / "run.db")] if is_kept else []
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "URL": groq.base_url},
        )
        try:
            assert "submitted\n" == process.stdout.readline()
            assert groq.wait_for_requests(1, SOON_S)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert "leaving\n" == process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _wake_until_it_ends(process)
            _, err = process.communicate(timeout=2 * SOON_S)
            took = time.monotonic() - began
        finally:
            process.kill()
            process.communicate()

    assert took < 4  # the exit hook would give the attempt 5 s more
    assert "1 attempt still under way" in err
    assert "KeyboardInterrupt" in err
