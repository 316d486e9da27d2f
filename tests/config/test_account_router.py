"""Several accounts in one queue, each with its own models, limits and errors."""

from __future__ import annotations

import pytest

from groq_queue.core.request import Request
from groq_queue.core.token_estimate import PromptSize
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.errors import AuthenticationError, ConfigurationError
from groq_queue.wiring.accounts import AccountBackend, AccountRouter


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
