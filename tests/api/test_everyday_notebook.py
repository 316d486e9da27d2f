"""Notebooks: the interrupt button, cells that are run again, queues by name."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures import CancelledError

import pytest
from extras import needs
from pressing import listening, press
from waiting import wait_until

from groq_queue import Completion, ConfigurationError, GroqQueue, Limits
from groq_queue.api import registry

SOON_S = 10.0


@pytest.fixture
def ctrl_c():
    with listening():
        yield


class Button:
    """The interrupt button, pressed when the queue has answered so many requests and has no budget for more."""

    def __init__(self, queue, after):
        self._queue = queue
        self._left = after
        self._lock = threading.Lock()

    def __call__(self, future):
        with self._lock:
            self._left -= 1
            is_due = not self._left and not future.cancelled()
        if is_due:
            press()


@pytest.fixture
def queue(ctrl_c):
    """Only 5 requests pass; the next waits for 12 s."""
    with GroqQueue.simulated(latency=0, limits=Limits(rpm=5)) as queue:
        yield queue
        queue.cancel_all()


def test_an_interrupted_map_keeps_what_it_gave_cancels_the_rest_and_says_how_to_go_on(queue, capsys):
    done = []

    with pytest.raises(KeyboardInterrupt):
        done.extend(queue.map((f"{n}" for n in range(40)), callback=Button(queue, 5)))

    stats = queue.stats()
    assert (0, 35, 5) == (stats.pending, stats.cancelled, stats.completed)
    assert 5 == len(done) + len(queue.last_partial)
    assert set(range(len(done), 5)) == set(queue.last_partial)
    line = capsys.readouterr().err
    assert 1 == line.count("\n")
    assert line.startswith(f"groq_queue: interrupted: map handed out {len(done)} answers; ")
    assert "35 cancelled unsent; to continue, map the prompts from number " in line


def test_an_interrupted_column_keeps_its_answers_and_goes_on_from_there(queue, capsys):
    pandas = needs("pandas")
    column = pandas.Series([f"value {n}" for n in range(8)], index=list("abcdefgh"))

    with pytest.raises(KeyboardInterrupt) as raised:
        queue.map_column(column, callback=Button(queue, 5))

    partial = queue.last_partial
    assert (5, 3) == (partial.notna().sum(), partial.isna().sum())
    assert column.index.equals(partial.index)
    assert raised.value.partial is partial
    assert (
        "groq_queue: interrupted: 5 of 8 answers are done, 3 are left; to continue: "
        "map_column(..., done=queue.last_partial)\n" == capsys.readouterr().err
    )
    with GroqQueue.simulated(latency=0) as fast:
        answers = fast.map_column(column, done=partial)

        assert 3 == fast.stats().completed
    assert 8 == answers.notna().sum()
    assert partial.dropna().equals(answers[partial.notna()])


def test_a_with_block_tells_what_it_cancelled_when_result_is_interrupted(ctrl_c, capsys):
    with pytest.raises(KeyboardInterrupt), GroqQueue.simulated(latency=0, limits=Limits(rpm=5)) as queue:  # noqa: PT012
        futures = [queue.submit(f"{n}") for n in range(12)]
        futures[4].add_done_callback(Button(queue, 1))
        for future in futures:
            future.result(SOON_S)

    assert 5 == sum(not future.cancelled() for future in futures)
    assert (
        "groq_queue: interrupted: 5 answers done (in the Futures), 7 requests not sent and cancelled; "
        "to continue, submit each again whose Future is cancelled()\n" == capsys.readouterr().err
    )


def test_an_interrupt_while_the_block_drains_cancels_what_has_not_started(ctrl_c, capsys):
    def press_once_it_drains():
        wait_until(lambda: not queue.stats().running and queue.stats().completed >= 5)
        press()

    with pytest.raises(KeyboardInterrupt), GroqQueue.simulated(latency=0, limits=Limits(rpm=5)) as queue:  # noqa: PT012
        futures = [queue.submit(f"{n}") for n in range(12)]
        pressed = threading.Thread(target=press_once_it_drains)
        pressed.start()
    pressed.join(SOON_S)

    assert (5, 7) == (sum(future.done() and not future.cancelled() for future in futures), queue.stats().cancelled)
    assert capsys.readouterr().err.startswith(
        "groq_queue: interrupted: 5 answers done (in the Futures), 7 requests not sent"
    )


def test_one_interrupt_is_told_once(ctrl_c, capsys):
    with pytest.raises(KeyboardInterrupt), GroqQueue.simulated(latency=0, limits=Limits(rpm=5)) as queue:  # noqa: PT012
        queue.submit("0", callback=lambda _: None)
        list(queue.map(["a"] * 10, callback=Button(queue, 4)))

    assert 1 == capsys.readouterr().err.count("groq_queue: interrupted")


def test_other_errors_and_a_clean_end_say_nothing(capsys):
    with pytest.raises(OSError, match="gone"), GroqQueue.simulated(latency=0, limits=Limits(rpm=1)) as queue:  # noqa: PT012
        future = [queue.submit("a") for _ in range(3)][-1]
        raise OSError("gone")
    with pytest.raises(CancelledError):
        future.result(0)

    assert "" == capsys.readouterr().err


def test_an_interrupted_complete_cancels_its_request(queue):
    for _ in range(5):
        queue.complete("a")

    def press_while_it_waits():
        wait_until(lambda: queue.stats().pending)
        Button(queue, 1)(queue.submit("b", priority="low"))

    pressed = threading.Thread(target=press_while_it_waits)
    pressed.start()
    with pytest.raises(KeyboardInterrupt):
        queue.complete("a")
    pressed.join(SOON_S)

    assert 1 == queue.stats().pending


# -- by name


def make(name="nb", **settings):
    settings = {"latency": 0, **settings}
    return GroqQueue.named(name, GroqQueue.simulated, **settings)


def test_the_same_name_and_settings_give_the_same_live_queue():
    with make() as queue:
        assert queue is make()
        assert queue is make(latency=0)


def test_a_queue_that_was_shut_down_is_made_anew():
    with make() as first:
        pass
    with make() as second:
        assert first is not second
        assert second.complete("Why?").text


def test_other_settings_let_the_old_one_send_what_it_has_and_end(caplog):
    old = make()
    old.pause()
    future = old.submit("Why?")

    with make(limits=Limits(rpm=10)) as new:
        assert new is not old
        assert future.result(SOON_S).text, "the old one drains in the background"
        assert not old.stats().running
        assert ["queue 'nb': its settings changed; the old one sends what it has and ends"] == [
            record.getMessage() for record in caplog.records
        ]
        assert new is make(limits=Limits(rpm=10))


def test_another_name_is_another_queue_and_nobody_is_kept_alive_by_its_name():
    with make("a") as first, make("b") as second:
        assert first is not second

    third = make("c")
    del third
    gc.collect()
    assert registry._named["c"][0]() is None


def test_another_key_is_another_queue_and_no_key_is_kept(monkeypatch):
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    with GroqQueue.named("nb", api_key="gsk_secret_1", model="m") as first:
        assert first is GroqQueue.named("nb", api_key="gsk_secret_1", model="m")
        with GroqQueue.named("nb", api_key="gsk_secret_2", model="m") as second:
            assert first is not second
            assert "gsk_secret" not in repr(registry._named)


def test_twenty_threads_that_ask_for_a_name_at_once_get_one_queue():
    got, barrier = [], threading.Barrier(20)

    def ask():
        barrier.wait(SOON_S)
        got.append(make())

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON_S)

    assert 20 == len(got)
    assert 1 == len(set(map(id, got)))
    got[0].shutdown()


@pytest.mark.parametrize("name", ["", None, 7])
def test_bad_names_are_refused(name):
    with pytest.raises(ConfigurationError, match="name="):
        GroqQueue.named(name)


# -- cells that are run again


@pytest.mark.parametrize(
    "cell",
    [
        "queue = GroqQueue.simulated(latency=0); fs = [queue.submit('a') for _ in range(20)]; [f.result() for f in fs]",
        "queue = GroqQueue.simulated(latency=0)",
        "queue = GroqQueue.simulated(latency=0); answers = list(queue.map(['a'] * 20))",
        "queue = GroqQueue.simulated(latency=0); answers = queue.map(['a'] * 20); next(answers)",
        "queue = GroqQueue.simulated(latency=0); view = queue.with_options(priority='high'); view.complete('a')",
        "queue = GroqQueue.simulated(latency=0); answers = queue.map_column(['a', None], dedupe=True)",
        "queue = GroqQueue.named('cell', GroqQueue.simulated, latency=0); answers = list(queue.map(['a'] * 20))",
    ],
)
def test_twenty_runs_of_a_cell_leave_the_threads_of_one(cell):
    """
    The old queue drains and ends as soon as its name is bound to the new one; so do its threads and its simulator.
    """
    cells = {"GroqQueue": GroqQueue}
    exec(cell, cells)
    before = set(threading.enumerate())

    for _ in range(20):
        exec(cell, cells)

    started = {thread for thread in threading.enumerate() if thread not in before}
    cells.pop("queue").shutdown()
    for thread in started:
        assert thread._started.wait(SOON_S)  # enumerate() knows it a moment before it can be joined
        thread.join(SOON_S)
    assert [] == [thread.name for thread in started if thread.is_alive()]


def succeeds(cell, cells):
    try:
        exec(cell, cells)
    except Exception:
        return False
    return True


@pytest.mark.parametrize(
    "cell",
    [
        "list(queue.map(['a'], buffersize=0))",
        "for _ in queue.map(['a'] * 20): raise OSError",
        "list(queue.map(['a', 7]))",
        "list(queue.map(['a', 'b'], model='nope'))",
        "list(queue.map((ask for ask in ['a', 'b'] if ask == 'a' or ask.nope), buffersize=1))",
        "queue.map_column(['a', 'b'], model='nope')",
        "queue.submit('a', model='nope').result()",
        "queue.complete('a', model='nope', dedupe=True)",
        "list(queue.map(['a', 'b'], not_before=60, timeout=0.01))",
    ],
)
def test_a_cell_that_fails_keeps_no_queue_alive(cell):
    """
    Without any help of the garbage collector, which in a large notebook comes late.
    """
    cells = {"queue": GroqQueue.simulated(latency=0)}
    queue = weakref.ref(cells["queue"])
    gc.disable()
    try:
        assert not succeeds(cell, cells)
        cells.clear()

        assert queue() is None
    finally:
        gc.enable()


SHELL = """
import threading, time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell("from groq_queue import GroqQueue")
def settled():
    for _ in range(500):
        if threading.active_count() <= 13:
            break
        threading.Event().wait(0.01)
    return threading.active_count()
for _ in range(20):
    shell.run_cell(CELL, store_history=True)
print("threads:", settled())
print("answers:", shell.user_ns["n"])
"""


@pytest.mark.parametrize(
    "make", ["GroqQueue.simulated(latency=0)", "GroqQueue.named('nb', GroqQueue.simulated, latency=0)"]
)
def test_twenty_runs_in_a_real_shell_with_its_caches(make):
    needs("IPython")
    cell = f"queue = {make}\nanswers = list(queue.map(['a'] * 20))\nn = len(answers)\nanswers[0]"

    done = subprocess.run(
        [sys.executable, "-c", f"CELL = {cell!r}\n{SHELL}"], capture_output=True, text=True, timeout=60
    )

    assert 0 == done.returncode, done.stderr
    threads = int(done.stdout.split("threads:")[1].split()[0])
    assert threads <= 13, "8 workers, a timer, the simulator, and the shell's own"
    assert "answers: 20" in done.stdout
    assert issubclass(Completion, dict)
