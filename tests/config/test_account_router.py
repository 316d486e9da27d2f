"""Several accounts in one queue, and open queues at the interpreter's end: each told apart."""

from __future__ import annotations

import threading

import pytest

from groq_queue.core.request import Request
from groq_queue.core.token_estimate import PromptSize
from groq_queue.engine import leaving
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.errors import AuthenticationError, ConfigurationError
from groq_queue.wiring.accounts import AccountBackend, AccountRouter

PATIENCE_S = 10.0


class Account:
    """One account's attempts and limiter at once, which note what they were asked."""

    def __init__(self, name, lanes=()):
        self.name, self.lanes = name, lanes
        self.sent, self.closed = [], []
        self.outcome = Outcome(Disposition.DONE, result=name)

    def attempt(self, request, lease, meter):
        self.sent.append(request)
        return self.outcome

    def meter(self, lane, model):
        return self.name, lane, model

    def levels(self, now_ns):
        return {lane: [self.name, now_ns] for lane in self.lanes}

    def close(self, now_ns):
        self.closed.append(now_ns)


class Meter:
    def __init__(self):
        self.refunded = []

    def refund(self, lease):
        self.refunded.append(lease)


def request(model, name=None):
    return Request(model, "e", b"{}", PromptSize(1, 0), 5, custom_id=name)


@pytest.fixture
def accounts():
    return Account("one", ["a", "b (flex)", "shared"]), Account("two", ["b (flex)", "c", "d"])


@pytest.fixture
def lines(accounts):
    return tuple(AccountBackend(account, account) for account in accounts)


@pytest.fixture
def switch(lines):
    one, two = lines
    return AccountRouter({"a": one, "b": two, "c": two}, one)


def test_each_model_goes_over_the_line_of_its_account(switch, accounts):
    one, two = accounts
    requests = [request(model) for model in ("a", "b", "unnamed")]

    outcomes = [switch.attempt(each, "lease", Meter()) for each in requests]

    assert ["one", "two", "one"] == [outcome.result for outcome in outcomes]
    assert ([requests[0], requests[2]], [requests[1]]) == (one.sent, two.sent)
    assert [("one", "a (flex)", "a"), ("two", "c", "c")] == [switch.meter("a (flex)", "a"), switch.meter("c", "c")]


def test_a_model_that_no_account_serves_is_refused_with_those_that_are_served(lines):
    with pytest.raises(ConfigurationError, match=r"model='x': no account serves it \(known: a, b\)"):
        AccountRouter({"b": lines[0], "a": lines[1]}, None).meter("x", "x")


def test_an_account_that_stops_fails_its_own_models_unsent_and_leaves_the_others_alone(switch, accounts):
    one, two = accounts
    denied = AuthenticationError("HTTP 401", status_code=401)
    two.outcome = Outcome(Disposition.STOP_ALL, error=denied)

    first = switch.attempt(request("b"), "lease", Meter())
    two.outcome = Outcome(Disposition.DONE)
    meter, waiting = Meter(), request("c", "mine")
    second = switch.attempt(waiting, "its lease", meter)

    assert (Disposition.FAILED, denied) == (first.next, first.error)
    assert (Disposition.FAILED, AuthenticationError) == (second.next, type(second.error))
    assert denied is not second.error
    assert (waiting.id, "mine") == (second.error.request_id, second.error.custom_id)
    assert ["its lease"] == meter.refunded
    assert 1 == len(two.sent)
    assert Disposition.DONE is switch.attempt(request("a"), "lease", Meter()).next
    assert 1 == len(one.sent)


def test_a_lane_counts_with_the_account_that_serves_its_model(switch):
    """
    Other queues of the process may have lanes of the same names with the other account.
    """
    assert {
        "a": ["one", 7],
        "b (flex)": ["two", 7],
        "c": ["two", 7],
        "shared": ["one", 7],
    } == switch.levels(7)


def test_closing_closes_each_account_once(switch, accounts, lines):
    switch.close(7)
    AccountRouter({"a": lines[0]}, None).close(8)

    assert ([7, 8], [7]) == (accounts[0].closed, accounts[1].closed)


# -- the end of the interpreter


class Engine:
    def __init__(self, unsent=0, is_kept=False):
        self.unsent, self.is_kept = unsent, is_kept
        self.left, self.shut_down = [], []
        self.done = threading.Event()

    def leave(self, timeout_s):
        self.left.append(timeout_s)
        return self.unsent

    def shutdown(self, **options):
        self.shut_down.append(options)
        self.done.set()


@pytest.fixture
def exits(monkeypatch):
    """The hooks registered instead of at the interpreter's end, and no queues but ours."""
    registered = []
    monkeypatch.setattr(leaving.atexit, "register", registered.append)
    monkeypatch.setattr(leaving.atexit, "unregister", lambda hook: registered.clear())
    monkeypatch.setattr(leaving, "_open", type(leaving._open)())
    return registered


def test_open_queues_get_five_seconds_each_and_say_what_was_not_sent(exits, capsys):
    engines = [Engine(2), Engine(3), Engine(4, is_kept=True), Engine()]
    for engine in engines:
        leaving.leave_at_exit(engine)
    leaving.forget(closed := Engine(100))
    leaving.leave_at_exit(closed)
    leaving.forget(closed)
    assert 1 == len(exits)

    exits[0]()

    assert [[5.0]] * 4 == [engine.left for engine in engines]
    assert [] == closed.left
    unkept, kept = sorted(capsys.readouterr().err.splitlines(), key=len)
    assert "groq_queue: the program ended with 5 requests unsent; use `with GroqQueue(...)`" == unkept[:79]
    assert "4 requests unsent; they stay in the journal, and the next run on it sends them; use" in kept


def test_nothing_is_said_if_nothing_was_left_or_nobody_can_hear_it(exits, capsys, monkeypatch):
    leaving.leave_at_exit(idle := Engine())
    exits[0]()
    assert [5.0] == idle.left
    leaving.leave_at_exit(busy := Engine(3))
    monkeypatch.setattr(leaving.sys, "stderr", None)
    exits[0]()
    monkeypatch.undo()

    assert [5.0] == busy.left
    assert ("", "") == capsys.readouterr()


def test_the_hook_is_renewed_for_the_first_queue_after_all_were_closed(exits):
    """
    Hooks run last in, first out; a queue made later must leave before what was registered in between.
    """
    leaving.leave_at_exit(first := Engine())
    leaving.leave_at_exit(Engine())
    leaving.forget(first)
    exits.append("another's")
    leaving._open.clear()

    leaving.leave_at_exit(again := Engine())

    assert 1 == len(exits)
    leaving.forget(again)


def test_a_dropped_engine_is_drained_on_a_thread_that_is_known():
    engine = Engine()

    leaving.drain_dropped(engine)

    assert engine.done.wait(PATIENCE_S)
    assert [{"wait": False, "cancel_futures": False}] == engine.shut_down


def test_a_dropped_engine_at_the_interpreters_end_is_left_to_the_hook(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    engine = Engine()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    leaving.drain_dropped(engine)

    assert [] == engine.shut_down
