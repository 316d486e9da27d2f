"""A signal ends a command's wait, whichever thread the system gives it to and however close it is to the wait."""

from __future__ import annotations

import os
import queue
import signal
import threading
from functools import partial

import pytest
from waiting import PATIENCE_S, wait_until

from groq_queue.cli import catching

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends signals to threads")


def send_to(thread: threading.Thread) -> None:
    """Send a signal that the main thread's wait does not notice, as one that comes just before it."""
    assert thread.ident is not None
    signal.pthread_kill(thread.ident, signal.SIGTERM)


def test_a_wait_without_end_is_woken_by_a_signal_that_it_did_not_notice():
    events: queue.SimpleQueue[int] = queue.SimpleQueue()
    main_waits = threading.Event()

    def send() -> None:
        main_waits.wait(PATIENCE_S)
        send_to(threading.current_thread())

    sender = threading.Thread(target=send)
    with catching(events.put, wake=partial(events.put, 0)):
        sender.start()
        main_waits.set()
        caught = [events.get(timeout=PATIENCE_S), events.get(timeout=PATIENCE_S)]
    sender.join()

    assert {0, signal.SIGTERM} == set(caught)


def test_what_was_before_is_so_again_behind_the_block():
    handler, threads = signal.getsignal(signal.SIGTERM), threading.active_count()

    with catching(lambda number: None, wake=lambda: None):
        assert handler is not signal.getsignal(signal.SIGTERM)

    assert handler is signal.getsignal(signal.SIGTERM)
    assert -1 == signal.set_wakeup_fd(-1)
    wait_until(lambda: threads == threading.active_count())


def test_a_block_that_raises_leaves_no_thread_behind():
    threads = set(threading.enumerate())

    with pytest.raises(OSError, match="mine"), catching(lambda number: None, wake=lambda: None):  # noqa: PT012
        watching = set(threading.enumerate()) - threads
        raise OSError("mine")

    assert [False] == [thread.is_alive() for thread in watching]
    assert -1 == signal.set_wakeup_fd(-1)


def test_a_signal_is_caught_though_no_thread_is_left_to_wake_anybody(monkeypatch):
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    caught: list[int] = []
    monkeypatch.setattr(threading.Thread, "start", refused)
    with catching(caught.append, wake=lambda: None):
        signal.raise_signal(signal.SIGTERM)

    assert [signal.SIGTERM] == caught
