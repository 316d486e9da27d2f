"""A queue with a journal: accepted means stored, answered means never sent again."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from contextlib import closing

import pytest

from groq_queue import (
    APIConnectionError,
    AuthenticationError,
    BadRequestError,
    Completion,
    ConfigurationError,
    CostLimitReached,
    DailyLimitReached,
    GroqQueue,
    GroqSimulator,
    JournalError,
    Limits,
    QueueClosed,
    QueueFull,
    QueueTimeout,
)
from groq_queue.core.limits import Limits as CoreLimits
from groq_queue.journal import Journal, Reader

WIDE = Limits(rpm=100_000, tpm=100_000_000)
MODEL = "llama-3.1-8b-instant"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.db"


@pytest.fixture
def simulator():
    with GroqSimulator(limits=WIDE, latency=0.0) as simulator:
        yield simulator


@pytest.fixture
def open_queue(simulator, path):
    def open_queue(**options):
        settings = {"api_key": "k", "base_url": simulator.base_url, "model": MODEL, "limits": WIDE, "journal": path}
        return GroqQueue(**(settings | options))

    return open_queue


def rows(path, columns="custom_id, status"):
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(f"SELECT {columns} FROM requests ORDER BY id").fetchall()


def received(simulator):
    return simulator.stats().received


def test_a_second_run_returns_the_stored_answers_and_sends_nothing(open_queue, simulator):
    """
    With custom_ids and without; equal prompts are counted, so each gets its own answer again.
    """
    answers = []
    for _ in range(2):
        with open_queue() as queue:
            futures = [queue.submit(f"question {number}", custom_id=f"q{number}") for number in range(20)]
            futures += [queue.submit("the same") for _ in range(3)]
            answers.append([future.result(10) for future in futures])
        assert 23 == received(simulator)

    assert answers[0] == answers[1]
    assert all(isinstance(answer, Completion) for answer in answers[1])
    assert ["q0", None] == [answers[1][0].custom_id, answers[1][-1].custom_id]
    assert 1 == answers[1][0].attempts
    assert answers[1][0].text


def test_another_payload_under_a_known_name_is_an_error_naming_both(open_queue, simulator):
    with open_queue() as queue:
        queue.submit("first", custom_id="a").result(10)

        with pytest.raises(JournalError, match="'a' was accepted with another payload") as caught:
            queue.submit("second", custom_id="a")

        assert "a" == caught.value.custom_id
        assert "completed" == queue.get("a").status
    assert 1 == received(simulator)


def test_what_was_not_sent_is_sent_by_the_next_process_by_itself(open_queue, simulator, path):
    queue = open_queue()
    queue.pause()
    futures = [queue.submit(f"q{number}", custom_id=f"q{number}", client="ab"[number % 2]) for number in range(30)]
    queue.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in futures)
    assert {"pending"} == {status for _, status in rows(path)}

    with open_queue() as queue:
        assert 30 == queue.stats().submitted

    assert {"completed"} == {status for _, status in rows(path)}
    assert 30 == received(simulator)


def test_the_same_name_while_it_waits_gives_the_same_future(open_queue, simulator):
    with open_queue() as queue:
        queue.pause()
        first = queue.submit("a", custom_id="a")
        called = threading.Event()

        again = queue.submit("a", custom_id="a", callback=lambda future: called.set())

        assert first is again
        assert 1 == queue.stats().pending
        queue.resume()
        assert called.wait(10)
    assert 1 == received(simulator)


def test_the_same_name_and_payload_in_another_order_gives_the_stored_answer(open_queue, simulator):
    with open_queue() as queue:
        first = queue.submit("hi", custom_id="1", temperature=0, seed=1).result(10)
        again = queue.submit("hi", custom_id="1", seed=1, temperature=0).result(10)
        whole = queue.submit(
            {"messages": [{"content": "hi", "role": "user"}], "seed": 1, "temperature": 0}, custom_id="1"
        )

        assert first == again == whole.result(10)
    assert 1 == received(simulator)


def test_what_is_known_of_a_stored_answer_is_what_was_known_of_its_request(open_queue):
    with open_queue() as queue:
        first = queue.submit("a", custom_id="a", priority="low", client="c")
        first.result(10)
        then = queue.info(first)
    with open_queue() as queue:
        now = queue.info(queue.submit("a", custom_id="a"))

    assert (8, "c", "completed", then.tokens) == (now.priority, now.client, now.state, now.tokens)
    assert now.waited < 60


def test_a_request_of_the_last_process_is_joined_by_its_name(open_queue, simulator):
    queue = open_queue()
    queue.pause()
    queue.submit("a", custom_id="a")
    unnamed = queue.submit("b")
    queue.shutdown(cancel_futures=True)
    assert unnamed.cancelled()

    with open_queue() as queue:
        assert ["a", None] == [
            queue.submit("a", custom_id="a").result(10).custom_id,
            queue.submit("b").result(10).custom_id,
        ]
    assert 2 == received(simulator)


def test_a_cell_with_other_settings_goes_on_with_what_its_journal_holds(simulator, path):
    """
    Only one queue may have a journal open: the old one ends first, and the new one sends what is left.
    """
    settings = {"api_key": "k", "base_url": simulator.base_url, "model": MODEL, "limits": WIDE, "journal": path}
    old = GroqQueue.named("journal", **settings)
    old.pause()
    waiting = old.submit("a", custom_id="a")

    with GroqQueue.named("journal", max_workers=3, **settings) as new:
        assert waiting.cancelled()
        assert new.submit("a", custom_id="a").result(10).text
    assert 1 == received(simulator)


def test_get_tells_every_state_apart(open_queue, simulator):
    with open_queue(max_retries=0) as queue:
        assert "unknown" == queue.get("never").status
        done = queue.submit("fine", custom_id="done")
        bad = queue.submit({"messages": [{"role": "user", "content": "x"}], "n": 2}, custom_id="bad")
        done.result(10)
        error = bad.exception(10)
        assert isinstance(error, BadRequestError)
        queue.pause()
        queue.submit("waits", custom_id="waits")
        queue.submit("dropped", custom_id="dropped").cancel()
        late = queue.submit("late", custom_id="late", max_wait=0.01)
        assert isinstance(late.exception(10), QueueTimeout)

        states = {name: queue.get(name).status for name in ("done", "bad", "waits", "dropped", "late")}

        assert {
            "done": "completed",
            "bad": "failed",
            "waits": "pending",
            "dropped": "cancelled",
            "late": "expired",
        } == states
        assert done.result(0) == queue.get("done").result
        stored = queue.get("bad").error
        assert (type(error), str(error), error.status_code) == (type(stored), str(stored), stored.status_code)
        assert queue.get("done").finished >= queue.get("done").created > 1.7e9
        queue.resume()


def test_get_without_a_journal_knows_what_is_open(open_queue):
    with open_queue(journal=None) as queue:
        queue.pause()
        queue.submit("a", custom_id="a")

        assert ["pending", "unknown"] == [queue.get("a").status, queue.get("b").status]
        queue.resume()


def test_processing_is_a_state_of_its_own(path):
    with (
        GroqSimulator(limits=WIDE, latency=0.2) as slow,
        GroqQueue(api_key="k", base_url=slow.base_url, model=MODEL, journal=path) as queue,
    ):
        future = queue.submit("a", custom_id="a")
        assert slow.wait_for_requests(1, timeout=10)  # it is counted before its first byte leaves
        seen = queue.get("a").status if not future.done() else None
        assert future.result(10).text
        assert "completed" == queue.get("a").status

    assert "processing" == seen


def test_a_failure_is_stored_and_not_tried_again_until_somebody_asks(open_queue, simulator, path):
    bad = {"messages": [{"role": "user", "content": "x"}], "n": 2}
    with open_queue() as queue:
        first = queue.submit(bad, custom_id="bad").exception(10)
    with open_queue() as queue:
        second = queue.submit(bad, custom_id="bad").exception(10)

    assert (type(first), str(first)) == (type(second), str(second))
    assert 1 == received(simulator)
    with Journal.open(path) as journal:
        assert 1 == journal.retry_failed()
    with open_queue():
        pass
    assert 2 == received(simulator)


@pytest.mark.parametrize("end", ["cancelled", "expired"])
def test_what_was_called_off_is_sent_when_it_is_submitted_again(open_queue, simulator, end):
    with open_queue() as queue:
        queue.pause()
        if end == "cancelled":
            assert queue.submit("a", custom_id="a").cancel()
        else:
            queue.submit("a", custom_id="a", max_wait=0.01).exception(10)
        assert end == queue.get("a").status
        queue.resume()

        assert queue.submit("a", custom_id="a").result(10).text
    assert 1 == received(simulator)


def test_cancel_reaches_a_request_of_the_last_process(open_queue, simulator):
    queue = open_queue()
    queue.pause()
    for name in "abc":
        queue.submit(name, custom_id=name, client=name)
    queue.shutdown(cancel_futures=True)

    queue = open_queue(max_workers=1, limits=Limits(rpm=1, minute_s=3600))
    queue.pause()
    assert queue.cancel("c")
    assert not queue.cancel("c")
    assert 1 == queue.cancel_all(client="b")
    assert ["cancelled", "cancelled"] == [queue.get(name).status for name in "bc"]  # the first may be on its way
    queue.shutdown(cancel_futures=True)


def test_a_request_that_was_refused_room_is_neither_stored_nor_sent(open_queue, path):
    queue = open_queue(max_pending=1, when_full="raise")
    queue.pause()
    queue.submit("a", custom_id="a")

    with pytest.raises(QueueFull):
        queue.submit("b", custom_id="b")

    assert [("a", "pending")] == rows(path)
    queue.shutdown(cancel_futures=True)
    with pytest.raises(QueueClosed):
        queue.submit("c", custom_id="c")
    assert [("a", "pending")] == rows(path)


def test_a_daily_limit_leaves_the_rest_stored(simulator, path):
    daily = Limits(rpd=2)
    queue = GroqQueue(api_key="k", base_url=simulator.base_url, model=MODEL, limits=daily, journal=path)
    futures = [queue.submit(f"q{number}", custom_id=f"q{number}") for number in range(5)]
    ends = [future.exception(10) for future in futures]
    queue.shutdown()

    assert [None, None] == ends[:2]
    assert all(isinstance(error, DailyLimitReached) for error in ends[2:])
    assert ["completed"] * 2 + ["pending"] * 3 == [status for _, status in rows(path)]


def test_a_cost_limit_leaves_the_rest_stored(open_queue, path):
    with open_queue(max_cost=1e-9) as queue:
        assert isinstance(queue.submit("a").exception(10), CostLimitReached)
    assert ["pending"] == [status for _, status in rows(path)]


def test_a_rejected_key_leaves_the_rest_stored(path):
    with GroqSimulator(limits=WIDE, latency=0.0, api_keys=["right"]) as simulator:
        queue = GroqQueue(api_key="wrong", base_url=simulator.base_url, model=MODEL, journal=path)
        futures = [queue.submit(f"q{number}") for number in range(5)]
        errors = [future.exception(10) for future in futures]
        queue.shutdown()
        assert all(isinstance(error, AuthenticationError) for error in errors)
        assert {"pending"} == {status for _, status in rows(path)}

        with GroqQueue(api_key="right", base_url=simulator.base_url, model=MODEL, journal=path):
            pass

    assert {"completed"} == {status for _, status in rows(path)}


def test_a_restart_does_not_grant_a_new_day(simulator, path):
    """
    Two of three requests of the day are used before the restart: one is left after it.
    """
    daily = Limits(rpd=3)
    settings = {"base_url": simulator.base_url, "model": MODEL, "limits": daily, "journal": path}
    script = (
        "import sys; from groq_queue import *; import json\n"
        "settings = json.loads(sys.argv[1])\n"
        "with GroqQueue(api_key='k', limits=Limits(rpd=3), **settings) as queue:\n"
        "    ends = [queue.submit(f'q{n}').exception() for n in range(2)]\n"
        "print([type(end).__name__ for end in ends])"
    )
    import json

    told = json.dumps({name: str(settings[name]) for name in ("base_url", "model", "journal")})
    before = subprocess.run([sys.executable, "-c", script, told], capture_output=True, text=True, check=True).stdout
    with GroqQueue(api_key="k", **settings) as queue:
        after = [queue.submit(f"q{number}").exception(10) for number in (2, 3)]

    assert "['NoneType', 'NoneType']\n" == before
    assert [type(None), DailyLimitReached] == [type(end) for end in after]
    assert 3 == received(simulator)


def test_a_second_owner_is_refused_with_the_pid(open_queue):
    with open_queue(), pytest.raises(JournalError, match=rf"\(pid {os.getpid()} since .* has it open"):
        open_queue()


def test_the_journal_is_let_go_at_shutdown(open_queue, path):
    with open_queue() as queue:
        queue.submit("a").result(10)
    with Journal.open(path) as journal:
        assert 1 == journal.counts()["completed"]


@pytest.mark.parametrize(
    ("field", "value"), [("journal", 3), ("journal", ""), ("durability", "maybe"), ("on_unknown", "ask")]
)
def test_a_bad_argument_is_named(open_queue, field, value):
    with pytest.raises(ConfigurationError, match=field):
        open_queue(**{field: value})


def test_a_journal_that_cannot_be_used_leaves_no_thread_behind(open_queue, tmp_path):
    for bad in (tmp_path, tmp_path / "missing" / "run.db"):
        with pytest.raises(JournalError, match=str(bad)):
            open_queue(journal=bad)


KILLED = """
import json, os, sys
from groq_queue import *
settings, action = json.loads(sys.argv[1]), sys.argv[2]
queue = GroqQueue(api_key="k", **settings)
future = queue.submit("poison", custom_id="p")
while queue.get("p").status != "processing":
    pass
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("policy", "deaths"), [pytest.param("resend", 3, marks=pytest.mark.gate), ("hold", 1)])
def test_a_request_that_kills_the_process_is_parked(path, policy, deaths):
    """
    Sent three times at most; with "hold" never again. Its error says what happened, and it can be brought back.
    """
    import json

    with GroqSimulator(limits=WIDE, latency=60.0) as slow:
        settings = {"base_url": slow.base_url, "model": MODEL, "journal": str(path), "on_unknown": policy}
        for _ in range(deaths):
            died = subprocess.run([sys.executable, "-c", KILLED, json.dumps(settings), "die"], timeout=30)
            assert -9 == died.returncode

        with GroqQueue(api_key="k", **settings) as queue:
            error = queue.submit("poison", custom_id="p").exception(5)
            record = queue.get("p")

    assert isinstance(error, APIConnectionError)
    assert "unknown" == error.sent
    assert ("failed", deaths) == (record.status, record.attempts)


def test_the_result_says_how_often_it_was_sent_in_all_lives(path):
    import json

    with GroqSimulator(limits=WIDE, latency=60.0) as slow:
        settings = {"base_url": slow.base_url, "model": MODEL, "journal": str(path)}
        subprocess.run([sys.executable, "-c", KILLED, json.dumps(settings), "die"], timeout=30)
    with GroqSimulator(limits=WIDE, latency=0.0) as quick:
        settings["base_url"] = quick.base_url
        with GroqQueue(api_key="k", **settings) as queue:
            assert 2 == queue.submit("poison", custom_id="p").result(10).attempts
        assert 1 == quick.stats().received


def test_a_full_disk_refuses_the_request_and_the_queue_goes_on_when_there_is_room(open_queue, simulator, monkeypatch):
    with open_queue() as queue:
        add = queue._bridge._journal.add
        is_full = True

        def add_if_room(entry):
            if is_full:
                raise JournalError("the disk is full") from sqlite3.OperationalError("database or disk is full")
            return add(entry)

        monkeypatch.setattr(queue._bridge._journal, "add", add_if_room)
        with pytest.raises(JournalError, match="full"):
            queue.submit("a", custom_id="a")
        is_full = False

        assert queue.submit("b", custom_id="b").result(10).text
        assert "unknown" == queue.get("a").status
    assert 1 == received(simulator)


def test_an_attempt_that_cannot_be_counted_is_not_sent_but_tried_later(open_queue, simulator, monkeypatch):
    import groq_queue.wiring.durable as durable

    monkeypatch.setattr(durable, "_TRY_AGAIN_S", (0.01, 0.01))
    with open_queue() as queue:
        journal = queue._bridge._journal
        claim, failures = journal.claim, [2]

        def claim_sometimes(row_id, **options):
            if failures[0]:
                failures[0] -= 1
                raise JournalError("locked") from sqlite3.OperationalError("locked")
            return claim(row_id, **options)

        monkeypatch.setattr(journal, "claim", claim_sometimes)
        assert 1 == queue.submit("a", custom_id="a").result(10).attempts
        failures[0] = 3
        error = queue.submit("b", custom_id="b").exception(10)

        assert isinstance(error, JournalError)
        assert "pending" == queue.get("b").status
    assert 1 == received(simulator)


def test_an_answer_that_cannot_be_stored_is_delivered_and_stored_later(open_queue, simulator, monkeypatch, path):
    with open_queue() as queue:
        journal = queue._bridge._journal
        finish, failures = journal.finish, [1]

        def finish_sometimes(*args, **kwargs):
            if failures[0]:
                failures[0] -= 1
                raise JournalError("locked") from sqlite3.OperationalError("locked")
            finish(*args, **kwargs)

        monkeypatch.setattr(journal, "finish", finish_sometimes)
        assert queue.submit("a", custom_id="a").result(10).text
    assert [("a", "completed")] == rows(path)


def test_the_payload_is_not_kept_in_memory(open_queue):
    with open_queue() as queue:
        queue.pause()
        future = queue.submit("x" * 10_000, custom_id="a")

        assert future._request.body is None
        queue.resume()
        assert future.result(10).text


def test_a_shrunk_request_keeps_its_name_and_is_shrunk_again(simulator, path):
    """
    The allowance that fits depends on the limits of the day; the name belongs to what was submitted.
    """
    for tpm in (2_000, 1_000):
        limits = CoreLimits(tpm=tpm)
        queue = GroqQueue(api_key="k", base_url=simulator.base_url, model=MODEL, limits=limits, journal=path)
        queue.pause()
        queue.submit("a", custom_id="a", max_completion_tokens=5_000, shrink=True)
        queue.shutdown(cancel_futures=True)

    with GroqQueue(api_key="k", base_url=simulator.base_url, model=MODEL, limits=CoreLimits(tpm=1_000), journal=path):
        pass

    assert [("a", "completed")] == rows(path)
    with Reader.open(path) as reader:
        assert b"5000" in reader.payload(1)


def test_a_time_limit_goes_on_across_a_restart(open_queue, simulator, path):
    queue = open_queue()
    queue.pause()
    futures = [queue.submit(name, custom_id=name, deadline=3_600) for name in ("late", "in time")]
    queue.shutdown(cancel_futures=True)
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(0)
    with closing(sqlite3.connect(path)) as connection, connection:  # an hour, or nearly, goes by
        connection.execute(
            "UPDATE requests SET created_ns = created_ns - "
            "(CASE custom_id WHEN 'late' THEN 3600 ELSE 3000 END) * 1000000000"
        )

    with open_queue() as queue:
        assert queue.join(10)
        assert ["expired", "completed"] == [queue.get(name).status for name in ("late", "in time")]
    assert 1 == received(simulator)


def test_no_key_stands_in_the_journal(open_queue, path):
    key = "gsk_thisIsAVerySecretKey0123456789"
    with open_queue(api_key=key) as queue:
        queue.submit("a").result(10)
        queue.submit({"messages": [{"role": "user", "content": "x"}], "n": 2}).exception(10)
        stored = b"".join(file.read_bytes() for file in path.parent.iterdir())
    stored += b"".join(file.read_bytes() for file in path.parent.iterdir())

    assert b"thisIsAVerySecret" not in stored
