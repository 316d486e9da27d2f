"""What a user's own callable returned or raised, read as an answer of the API."""

from __future__ import annotations

import json
import socket
import ssl
from types import SimpleNamespace
from typing import Any

import pytest

from groq_queue.engine.callables import Call, CallOutcome, current_call, hidden_retries, priceable
from groq_queue.errors import APIConnectionError, APIError, APIStatusError, APITimeoutError, BadRequestError

USAGE = {"prompt_tokens": 7, "completion_tokens": 3}


def run(fn, owner="engine"):
    return Call(fn, owner).run(lambda headers: None)


def run_raising(error):
    def fail():
        raise error

    return run(fail)


def named(name, *bases, **attributes):
    """Return an exception as the library of that name raises it, which is known by its name only."""
    return type(name, bases or (Exception,), attributes)("told")


# -- values


@pytest.mark.parametrize(
    ("value", "usage"),
    [
        (None, None),
        ("text", None),
        ({"usage": USAGE}, (7, 3, 0)),
        (SimpleNamespace(usage=SimpleNamespace(**USAGE)), (7, 3, 0)),
        ({"usage": {"input_tokens": 7, "output_tokens": 3}}, (7, 3, 0)),
        ({"usage": {"prompt_tokens": 7}}, (7, 0, 0)),
        ({"usage": {**USAGE, "prompt_tokens_details": {"cached_tokens": 4}}}, (7, 3, 4)),
        ({"usage": {"input_tokens": 7, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 5}}}, (7, 3, 5)),
        ({"x_groq": {"usage": USAGE}}, (7, 3, 0)),
        ({"usage": {"prompt_tokens": "many"}}, None),
    ],
)
def test_usage_is_found_wherever_an_sdk_puts_it(value, usage):
    assert CallOutcome(200, {}, usage=usage) == run(lambda: value)


def test_the_usage_of_a_body_that_was_read_counts_too():
    """
    As ``requests.post`` returns it: the body is in ``_content``, and asking for ``content`` could read a socket.
    """
    body = json.dumps({"usage": USAGE}).encode()
    response = SimpleNamespace(status_code=200, headers={"X-RateLimit": "5"}, _content=body)

    assert CallOutcome(200, {"x-ratelimit": "5"}, usage=(7, 3, 0)) == run(lambda: response)


def test_a_raw_response_is_read_through_its_wrapper():
    body = json.dumps({"usage": USAGE}).encode()
    raw = SimpleNamespace(status_code=200, headers={"A": "b"}, http_response=SimpleNamespace(_content=body))
    parsed = SimpleNamespace(status_code=200, headers={"A": "b"}, parse=lambda: {"usage": USAGE})
    without_headers = SimpleNamespace(status_code=200, parse=lambda: {"usage": USAGE})

    assert CallOutcome(200, {"a": "b"}, usage=(7, 3, 0)) == run(lambda: raw)
    assert CallOutcome(200, {"a": "b"}, usage=(7, 3, 0)) == run(lambda: parsed)
    assert CallOutcome(200, {}) == run(lambda: without_headers), "not everything that has a parse() is an answer"


@pytest.mark.parametrize(("status", "told"), [(399, 200), (400, 400), (429, 429), (599, 599), (600, 200), (99, 200)])
def test_a_value_with_an_error_status_is_an_error(status, told):
    answer = run(lambda: SimpleNamespace(status_code=status, headers={"Retry-After": "2"}, _content=b"no"))

    assert told == answer.status
    assert {"retry-after": "2"} == answer.headers
    assert (b"no" if told >= 400 else b"") == answer.body


@pytest.mark.parametrize("status", [True, "500", None, 500.0])
def test_what_is_no_number_is_no_status(status):
    assert 200 == run(lambda: SimpleNamespace(status_code=status)).status


def test_an_error_status_without_a_body_has_an_empty_one():
    assert CallOutcome(503, {}, b"") == run(lambda: SimpleNamespace(status_code=503))


def test_a_property_that_raises_is_a_property_that_is_not_there():
    class Hostile:
        @property
        def status_code(self):
            raise RuntimeError("not yet")

        @property
        def headers(self):
            raise KeyError("none")

    assert CallOutcome(200, {}) == run(Hostile)


# -- errors


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (named("Refused", status_code=429, body={"error": {"message": "m"}}), (429, {"error": {"message": "m"}})),
        (named("Refused", status_code=429, body={"message": "m"}), (429, {"error": {"message": "m"}})),
        (named("Refused", response=SimpleNamespace(status_code=500), body="plain"), (500, "plain")),
        (named("Refused", status_code=400), (400, "told")),
    ],
)
def test_an_error_with_a_status_is_an_answer_with_its_body(error, expected):
    """
    openai keeps only what stood under "error"; the server's own form is restored.
    """
    answer = run_raising(error)

    assert expected[0] == answer.status
    assert (json.dumps(expected[1]) if isinstance(expected[1], dict) else expected[1]) == answer.body.decode()


def test_the_response_of_an_error_tells_more_than_the_error():
    response = SimpleNamespace(status_code=429, headers={"Retry-After": "9"}, _content=b"body")
    error = named("RateLimitError", response=response, headers={"Retry-After": "1"}, body="other")

    assert CallOutcome(429, {"retry-after": "9"}, b"body") == run_raising(error)


def test_an_error_may_carry_the_headers_itself():
    error = named("RateLimitError", status_code=429, headers={"Retry-After": "1"})

    assert {"retry-after": "1"} == run_raising(error).headers


@pytest.mark.parametrize("status", [200, 302, 399])
def test_an_error_with_the_status_of_a_success_is_the_callables_own_affair(status):
    answer = run_raising(named("Odd", status_code=status))

    assert (APIError, "the callable raised Odd: told") == (type(answer), str(answer))


@pytest.mark.parametrize(
    ("error", "kind", "sent"),
    [
        (ConnectionResetError("gone"), APIConnectionError, "unknown"),
        (ConnectionRefusedError("nobody"), APIConnectionError, "no"),
        (TimeoutError("slow"), APITimeoutError, "unknown"),
        (socket.gaierror("no such host"), APIConnectionError, "no"),
        (named("APIConnectionError"), APIConnectionError, "unknown"),
        (named("APITimeoutError"), APITimeoutError, "unknown"),
        (named("ConnectTimeout", type("Timeout", (Exception,), {})), APITimeoutError, "no"),
        (named("ChunkedEncodingError"), APIConnectionError, "unknown"),
        (named("ConnectError", type("TransportError", (Exception,), {})), APIConnectionError, "no"),
        (named("RemoteDisconnected", type("HTTPException", (Exception,), {})), APIConnectionError, "unknown"),
    ],
)
def test_a_lost_connection_is_known_by_its_name_whatever_library_says_so(error, kind, sent):
    answer = run_raising(error)

    assert (kind, sent, False) == (type(answer), answer.sent, answer.is_final)
    assert f"the callable lost its connection: {type(error).__name__}: " in str(answer)


def test_what_a_lost_connection_wraps_tells_whether_the_bytes_left():
    """
    A cause, a context, an argument or a ``reason``: requests and urllib3 have all of them.
    """
    refused = ConnectionRefusedError("nobody")
    by_cause, by_context = named("APIConnectionError"), named("APIConnectionError")
    by_cause.__cause__, by_context.__context__ = named("NewConnectionError"), refused
    by_reason = named("MaxRetryError", reason=named("NameResolutionError"))
    by_argument = type("ConnectionError", (Exception,), {})(refused)
    round_in_circles = named("APIConnectionError")
    round_in_circles.__cause__ = round_in_circles

    for error in (by_cause, by_context, by_reason, by_argument):
        assert "no" == run_raising(error).sent
    assert "unknown" == run_raising(round_in_circles).sent


def test_a_certificate_that_is_not_trusted_and_an_impossible_address_are_final():
    untrusted = named("ConnectionError")
    untrusted.__cause__ = ssl.SSLCertVerificationError("self-signed")
    impossible = named("InvalidSchema", type("ConnectionError", (Exception,), {}))

    for error in (untrusted, impossible):
        answer = run_raising(error)
        assert ("no", True) == (answer.sent, answer.is_final)


def test_errors_of_this_library_are_final():
    """
    Whoever raised them has retried already.
    """
    final = APIConnectionError("no", sent="no", is_final=True)
    status = BadRequestError("HTTP 400", status_code=400)

    assert final is run_raising(final)
    for error in (APIConnectionError("lost", sent="no"), status):
        answer = run_raising(error)
        assert APIError is type(answer)
        assert not isinstance(answer, APIStatusError)


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3), KeyboardInterrupt()])
def test_anything_else_is_the_callables_own_affair(error):
    assert APIError is type(run_raising(error))


# -- how the Future ends


def test_the_future_ends_with_what_was_returned():
    call = Call(lambda: "mine", "engine")
    call.run(lambda headers: None)

    assert ("mine", None) == call.ending(None, None)
    assert ("replaced", None) == call.ending("replaced", None)


def test_the_future_ends_with_what_was_raised_if_our_error_stands_for_that():
    error, ours, another = ValueError("mine"), APIError("ours"), APIError("another")

    def fail():
        raise error

    call = Call(fail, "engine")
    call.run(lambda headers: None)
    call.failed_with(ours)

    assert (None, error) == call.ending(None, ours)
    assert (None, another) == call.ending(None, another), "a deadline, say"
    assert error is ours.__cause__
    assert fail.__code__ is error.__traceback__.tb_frame.f_code, "our own frame would keep the arguments alive"


def test_a_returned_error_status_is_what_the_future_ends_with():
    response = SimpleNamespace(status_code=500)
    call, ours, told_before = Call(lambda: response, "engine"), APIError("ours"), KeyError("cause")
    call.run(lambda headers: None)
    ours.__cause__ = told_before
    call.failed_with(ours)

    assert (response, None) == call.ending(None, ours)
    assert told_before is ours.__cause__


def test_each_run_forgets_the_one_before():
    outcomes = iter([ValueError("first"), "second"])

    def attempt():
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    call, ours = Call(attempt, "engine"), APIError("ours")
    call.run(lambda headers: None)
    call.failed_with(ours)
    call.run(lambda headers: None)

    assert ("second", None) == call.ending(None, None)
    assert (None, ours) == call.ending(None, ours)


def test_no_error_stands_for_nothing():
    call = Call(lambda: "mine", "engine")
    call.run(lambda headers: None)
    call.failed_with(None)

    assert ("mine", None) == call.ending(None, None)


def test_an_answer_that_is_handed_on_early_tells_its_headers_while_it_runs_only():
    told: list[Any] = []
    call = Call(lambda: current_call("engine").begun({"a": "b"}), "engine")

    call.begun({"before": ""})
    call.run(told.append)
    call.begun({"after": ""})

    assert [{"a": "b"}] == told


def test_the_running_call_is_found_by_its_owner_the_innermost_first():
    found: list[Any] = []

    def inner():
        found.append((current_call("one"), current_call("two"), current_call("three")))

    innermost = Call(inner, "one")
    middle = Call(lambda: innermost.run(lambda headers: None), "two")
    outermost = Call(lambda: middle.run(lambda headers: None), "one")
    outermost.run(lambda headers: None)

    assert [(innermost, middle, None)] == found
    assert None is current_call("one")


def test_letting_go_asks_the_callable_if_it_can():
    asked: list[int] = []

    Call(lambda: None, "engine", lambda: asked.append(1)).let_go()
    Call(lambda: None, "engine").let_go()

    assert [1] == asked


# -- before it runs


def test_the_retries_of_an_sdk_client_are_found_behind_its_method():
    class Completions:
        def __init__(self, retries):
            self._client = SimpleNamespace(max_retries=retries)

        def create(self): ...

    assert 2 == hidden_retries(Completions(2).create)
    assert 0 == hidden_retries(Completions("two").create) == hidden_retries(print) == hidden_retries(lambda: None)


def test_arguments_are_priced_as_what_json_could_hold():
    message = SimpleNamespace(model_dump=lambda: {"role": "user", "content": ("a", 1, 1.5, True, None)})
    hostile = SimpleNamespace(model_dump=lambda: 1 / 0)
    unread = iter(["x"])

    priced = priceable({"messages": [message], 5: "five", "stream": unread, "other": hostile, "odd": object()})

    assert {
        "messages": [{"role": "user", "content": ["a", 1, 1.5, True, None]}],
        "5": "five",
        "stream": None,
        "other": None,
        "odd": None,
    } == priced
    assert ["x"] == list(unread)


def test_what_is_nested_too_deep_is_left_out_instead_of_followed_for_ever():
    for nest in (lambda inner: [inner], lambda inner: {"a": inner}):
        deep: Any = "bottom"
        for _ in range(20):
            deep = nest(deep)
        assert "bottom" in json.dumps(priceable(deep))
        assert "bottom" not in json.dumps(priceable(nest(deep)))

    circle: list[Any] = []
    circle.append(circle)
    assert json.dumps(priceable(circle)).count("[") == 20
    endless = SimpleNamespace()
    endless.model_dump = lambda: endless
    assert None is priceable(endless)
