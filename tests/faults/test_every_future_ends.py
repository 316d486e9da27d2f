"""A law: whatever a program's own code raises, and whatever the system refuses, every Future ends and the queue closes.

Each play makes a queue, breaks some of what the library calls or needs (its loggers, observers, callbacks, callables,
clock, finalisers, the start of threads, memory, a Ctrl-C at any function entry), and counts at the end.
"""

from __future__ import annotations

import gc
import logging
import random
import sys
import threading
from collections import Counter
from concurrent.futures import CancelledError

import pytest

from groq_queue import GroqQueue, GroqQueueError, GroqSimulator, Limits
from groq_queue.clock import SystemClock

MODEL = "llama-3.1-8b-instant"
PATIENCE_S = 20.0
KINDS = (ValueError, KeyError, MemoryError, RecursionError, SystemExit, GeneratorExit, StopIteration)


class Raises:
    """Code of a user's that raises now and then; it counts how often."""

    def __init__(self, rng, share):
        self._rng, self._share, self.count = rng, share, 0

    def __call__(self, *_, **__):
        if self._rng.random() < self._share:
            self.count += 1
            raise self._rng.choice(KINDS)("the user's")


class Clock(SystemClock):
    """A clock of the user's that fails now and then on the library's threads."""

    def __init__(self, raises):
        self._raises = raises

    def now_ns(self):
        if threading.current_thread() is not threading.main_thread():
            self._raises()
        return super().now_ns()


class Filter(logging.Filter):
    def __init__(self, raises):
        super().__init__()
        self.filter = lambda record: self.raises() or True
        self.raises = raises


class Finaliser:
    """What cancels a request when it is collected, on whatever thread, and raises then."""

    def __init__(self, future, raises):
        self._future, self._raises, self._me = future, raises, self

    def __del__(self):
        self._future.cancel()
        self._raises()


def interrupting(rng, kind, most):
    """Return a profile function that raises *kind* once, at a random function entry of this thread."""
    left = rng.randrange(1, most)

    def count(frame, event, _):
        nonlocal left
        if event == "call" and "groq_queue" in frame.f_code.co_filename:
            left -= 1
            if not left:
                sys.setprofile(None)
                raise kind

    return count


def play(groq, rng, monkeypatch):
    """Play once and return what was broken, and how many Futures ended how."""
    broken = {
        what: Raises(rng, rng.choice((0.0, 0.05, 0.5)))
        for what in ("logger", "observer", "callback", "callable", "clock", "finaliser", "threads", "memory")
    }
    broken["clock"]._share *= 0.02  # it is read several times for each request
    start = threading.Thread.start

    def may_start(thread):
        if broken["threads"]._rng.random() < broken["threads"]._share and "groq_queue" in thread.name:
            broken["threads"].count += 1
            raise RuntimeError("can't start new thread")
        start(thread)

    logger = logging.getLogger("groq_queue")
    user_filter = Filter(broken["logger"])
    logger.addFilter(user_filter)
    monkeypatch.setattr(threading.Thread, "start", may_start)
    futures, ended = [], Counter()
    queue = GroqQueue(
        api_key="gsk_x",
        base_url=groq.base_url,
        model=MODEL,
        limits=Limits(rpm=10**6),
        max_workers=rng.choice((1, 3)),
        observer=broken["observer"],
        clock=Clock(broken["clock"]),
    )
    try:
        for number in range(12):
            try:
                if rng.random() < 0.3:
                    sys.setprofile(interrupting(rng, rng.choice((KeyboardInterrupt, MemoryError)), 60))
                if rng.random() < 0.2:
                    futures.append(queue.submit_call(broken["callable"]))
                else:
                    callback = broken["callback"] if rng.random() < 0.5 else None
                    futures.append(queue.submit(f"{number}", callback=callback, priority=rng.randrange(11)))
                if rng.random() < 0.2:
                    rng.choice(futures).cancel()
                if rng.random() < 0.1:
                    queue.cancel_all(priority="low")
            except GroqQueueError:
                ended["refused"] += 1  # no thread, or the queue has stopped: told to the caller
            except (KeyboardInterrupt, MemoryError, SystemExit, GeneratorExit):  # of callbacks too, on this thread
                broken["memory"].count += 1
            finally:
                sys.setprofile(None)
        if futures and rng.random() < 0.3:
            Finaliser(rng.choice(futures), broken["finaliser"])
            gc.collect()
    finally:
        broken["threads"]._share = 0.0
        closer = threading.Thread(target=queue.shutdown, kwargs={"cancel_futures": rng.random() < 0.5}, daemon=True)
        start(closer)
        closer.join(PATIENCE_S)
        logger.removeFilter(user_filter)
        monkeypatch.setattr(threading.Thread, "start", start)
    ended["hanging shutdown"] += closer.is_alive()
    for future in futures:
        try:
            error = future.exception(0)
            ended["answered" if error is None else "failed"] += 1
        except CancelledError:
            ended["cancelled"] += 1
        except TimeoutError:
            ended["open"] += 1
    stats = queue.stats()
    ended["miscounted"] += stats.submitted != stats.completed + stats.failed + stats.cancelled + stats.expired
    return Counter({what: raises.count for what, raises in broken.items()}), ended


def played(count, first, monkeypatch):
    logger, nobody = logging.getLogger("groq_queue"), logging.NullHandler()
    was_raising, logging.raiseExceptions = logging.raiseExceptions, False
    logger.addHandler(nobody)
    logger.propagate = False  # pytest would keep every record with its traceback, which each collection then visits
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None  # finalisers raise, by intention
    broken, ended = Counter(), Counter()
    try:
        with GroqSimulator(models=[MODEL]) as groq:
            for seed in range(first, first + count):
                of_this, ends = play(groq, random.Random(seed), monkeypatch)
                assert (0, 0, 0) == (ends["open"], ends["hanging shutdown"], ends["miscounted"]), (seed, of_this, ends)
                broken += of_this
                ended += ends
    finally:
        sys.unraisablehook = hook
        logging.raiseExceptions = was_raising
        logger.propagate = True
        logger.removeHandler(nobody)
    return broken, ended


def check(broken, ended, count):
    assert set(broken) >= {"logger", "observer", "callback", "callable", "threads", "memory"}, broken
    assert {"answered", "failed", "cancelled"} <= set(ended), ended
    assert ended.total() > 5 * count


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_every_future_ends_whatever_the_users_code_raises(monkeypatch, capsys):
    broken, ended = played(40, 0, monkeypatch)

    check(broken, ended, 40)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_every_future_ends_in_ten_thousand_plays(monkeypatch, capsys):
    broken, ended = played(10_000, 1_000, monkeypatch)

    with capsys.disabled():
        print(f"\n10,000 plays: raised {dict(broken)}; Futures {dict(ended)}")
    check(broken, ended, 10_000)
