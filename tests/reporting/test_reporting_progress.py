"""How far a run is, shown where people look: on a terminal, in a log, in a notebook, by their own callable."""

from __future__ import annotations

import io
import logging
import sys
import threading
import time
import types

import pytest

from groq_queue import ConfigurationError, GroqQueue, Limits
from groq_queue.clock import FakeClock
from groq_queue.engine.stats import LaneStats, Stats
from groq_queue.reporting.progress import watching

PATIENCE_S = 10


class Terminal(io.StringIO):
    def isatty(self):
        return True


def nothing_done(waits_for=None):
    lane = LaneStats("m", "m", 9, 0, False, waits_for, ())
    return Stats(9, 0, 9, 0, 0, 0, 0, 0, 0, 0, lanes=(lane,))


def wait_for_timer(clock, seconds):
    """Wait until the display's timer sleeps, so that the clock may be moved."""
    until_s = time.perf_counter() + PATIENCE_S
    while not clock.is_awaited(seconds):
        assert time.perf_counter() < until_s


def test_a_terminal_gets_one_line_that_ends_with_all_done():
    """
    Rewritten in place; a new line only at the end.
    """
    clock, screen = FakeClock(), Terminal()

    with watching(nothing_done, 20, True, clock=clock, stream=screen) as watch:
        for number in range(20):
            clock.advance(0.3)
            watch.advance(failed=number == 3)

    assert 1 == screen.getvalue().count("\n")
    assert screen.getvalue().count("\r") >= 20
    assert screen.getvalue().rpartition("\r")[2].startswith("20/20 done, 1 failed")


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end():
    """
    However many requests end in between.
    """
    clock, log = FakeClock(), io.StringIO()

    with watching(nothing_done, None, True, clock=clock, stream=log) as watch:
        wait_for_timer(clock, 10)
        for _ in range(9):
            clock.advance(1)
            watch.advance()
        before = log.getvalue()

    assert "" == before
    assert ["9 done"] == [line.partition(",")[0] for line in log.getvalue().splitlines()]


def test_the_reason_is_told_while_nothing_ends():
    """
    A spent day must not look like a dead program.
    """
    clock, log = FakeClock(), io.StringIO()
    shown = threading.Event()

    class Log(io.StringIO):
        def write(self, text):
            log.write(text)
            shown.set()
            return len(text)

    stats = nothing_done("requests per day, 1,000 of 1,000 used")
    with watching(lambda: stats, 5, True, clock=clock, stream=Log()):
        wait_for_timer(clock, 10)
        clock.advance(10)
        assert shown.wait(PATIENCE_S)

    assert "0/5 done" in log.getvalue()
    assert "waits for requests per day, 1,000 of 1,000 used" in log.getvalue()


def test_a_callable_gets_each_state_and_the_last_one():
    """
    Its numbers are those of the run, not of the queue's life before.
    """
    states = []

    with GroqQueue.simulated(limits=Limits(rpm=600, tpm=60_000), latency=0.0) as queue:
        queue.submit("before").result(PATIENCE_S)
        with watching(queue.stats, 3, states.append) as watch:
            answers = []
            for word in ("a", "b", "c"):
                answers.append(queue.submit(word, max_completion_tokens=8).result(PATIENCE_S))
                watch.advance()

    assert [1, 2, 3, 3] == [state.done for state in states]
    assert {3} == {state.total for state in states}
    assert (600, 60_000) == (states[-1].request_limit, states[-1].token_limit)
    spent = states[-1].tokens_per_minute * 10 / 60  # the first ten seconds count as ten
    assert sum(answer.usage.total_tokens for answer in answers) == pytest.approx(spent)


def test_a_callable_is_never_called_twice_at_once():
    """
    Requests end on many threads; whoever comes while it is busy leaves word.
    """
    inside, overlaps, seen = threading.Semaphore(1), [], []
    entered = threading.Event()
    go_on = threading.Event()

    def show(state):
        overlaps.append(not inside.acquire(blocking=False))
        entered.set()
        go_on.wait(PATIENCE_S)
        seen.append(state.done)
        inside.release()

    with watching(nothing_done, 9, show) as watch:
        threads = [threading.Thread(target=watch.advance) for _ in range(9)]
        threads[0].start()
        assert entered.wait(PATIENCE_S)
        for thread in threads[1:]:
            thread.start()
        for thread in threads[1:]:
            thread.join(PATIENCE_S)
        go_on.set()
        threads[0].join(PATIENCE_S)

    assert not any(overlaps)
    assert [1, 9, 9] == seen


def test_a_callable_that_raises_is_told_once_and_harms_nothing(caplog):
    """
    A broken progress bar must not cost the answers.
    """

    def broken(state):
        raise ZeroDivisionError("mine")

    with caplog.at_level(logging.ERROR, "groq_queue"), watching(nothing_done, 5, broken) as watch:
        for _ in range(5):
            watch.advance()

    assert 1 == len(caplog.records)
    assert "logged once" in caplog.text


@pytest.mark.parametrize("progress", [False, None])
def test_no_progress_shows_nothing_and_starts_no_thread(progress):
    """
    Not even a question to the queue.
    """
    before = threading.active_count()

    with watching(lambda: pytest.fail("asked"), 5, progress) as watch:
        watch.advance()
        assert before == threading.active_count()


def test_a_wrong_progress_is_refused():
    """
    With the cure.
    """
    with pytest.raises(ConfigurationError, match="progress='yes'"), watching(nothing_done, 5, "yes"):
        pass


def test_an_error_in_the_block_passes_and_the_display_ends():
    """
    The interrupt button, say.
    """
    screen = Terminal()

    def run():
        with watching(nothing_done, 5, True, stream=screen) as watch:
            watch.advance()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()

    assert screen.getvalue().endswith("\n")


class Handle:
    def __init__(self):
        self.shown = []

    def update(self, forms, raw):
        assert raw
        self.shown.append(forms["text/html"])
        self.plain = forms["text/plain"]


@pytest.fixture
def notebook(monkeypatch):
    """A kernel, as far as it is looked at: IPython's shell class and its display functions."""
    handle = Handle()

    class ZMQInteractiveShell:
        pass

    ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = ZMQInteractiveShell
    display.display = lambda forms, raw, display_id: handle
    ipython.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return handle


def test_a_notebook_gets_one_display_that_is_updated(notebook, capsys):
    """
    HTML, escaped, no widgets, nothing on stderr.
    """
    with watching(lambda: nothing_done("<script>"), 4, True) as watch:
        for _ in range(4):
            watch.advance()

    assert 'value="4" max="4"' in notebook.shown[-1]
    assert "4/4 done" in notebook.shown[-1]
    assert "<script>" not in notebook.shown[-1]
    assert notebook.plain.startswith("4/4 done"), "for a frontend that shows no HTML"
    assert ("", "") == tuple(capsys.readouterr())


def test_ipython_in_a_terminal_gets_the_line(notebook, monkeypatch):
    """
    Only a kernel can show HTML.
    """
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: None)
    screen = Terminal()

    with watching(nothing_done, 1, True, stream=screen) as watch:
        watch.advance()

    assert "1/1 done" in screen.getvalue()
    assert [] == notebook.shown
