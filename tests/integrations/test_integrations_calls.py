"""``submit_call``: the user's own callable under the queue's budget, order and retries."""

from __future__ import annotations

import gc
import http.client
import logging
import random
import socket
import ssl
import threading
import weakref
from concurrent.futures import TimeoutError as FutureTimeout
from types import SimpleNamespace

import pytest
from waiting import wait_until

from groq_queue import (
    APIConnectionError,
    ConfigurationError,
    GroqQueue,
    Limits,
    QueueClosed,
    QueueTimeout,
    RateLimitError,
)
from groq_queue.clock import FakeClock
from groq_queue.core.request import Request
from groq_queue.core.retry import RetryPolicy
from groq_queue.core.token_estimate import PromptSize
from groq_queue.engine.attempt import Runner
from groq_queue.engine.background import Timers
from groq_queue.engine.callables import Call, CallOutcome, priceable
from groq_queue.engine.thread_engine import ThreadEngine
from groq_queue.limiters.in_process import ProcessLimiter

PATIENCE_S = 10.0
REFUSED = (
    "Rate limit reached for model `m` in organization `o` on tokens per minute (TPM): "
    "Limit 6000, Used 5900, Requested 350. Please try again in 2.5s."
)


class StatusError(Exception):
    """Shaped like the error of an SDK."""

    def __init__(self, status_code: int, body: object = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"Error code: {status_code}")
        self.status_code = status_code
        self.body = body
        self.response = SimpleNamespace(status_code=status_code, headers=headers or {})


class APITimeoutError(Exception):
    """Named as the SDKs name theirs."""


class ConnectError(Exception):
    """Named as httpx names its own."""


class SdkConnectionError(Exception):
    """Made to be subclassed under the SDKs' name."""


SdkConnectionError.__name__ = "APIConnectionError"


class Play:
    """The real engine and the real runner on a clock that the test moves."""

    def __init__(self, limits: Limits | None = Limits(), max_retries: int = 5, **options) -> None:  # noqa: B008
        self.clock = FakeClock()
        self.limiter = ProcessLimiter(limits)
        policy = RetryPolicy(max_retries, base_s=0)  # a retry is due at once
        self.engine = ThreadEngine(
            attempts=Runner(None, policy, (5, 60), self.clock, random.Random(0)),
            meter_of=self.limiter.meter,
            clock=self.clock,
            timers=Timers(self.clock, "play"),
            max_workers=2,
            name="play",
            **options,
        )

    def submit(self, fn, name=None, size=PromptSize(100, 50, is_exact=True), **options):  # noqa: B008
        request = Request(
            model="m",
            endpoint="call",
            body=b"",
            size=size,
            priority=5,
            custom_id=name,
            call=Call(fn, self.engine),
            **options,
        )
        return self.engine.submit(request)

    def ending(self, fn):
        """Submit, move the clock on until it has ended, and return what it ended with."""
        future = self.submit(fn)
        for _ in range(2_000):
            try:
                return future.exception(0.005) or future.result()
            except FutureTimeout:
                self.clock.advance(1)  # a lane is slowed down after failures
        raise AssertionError("it never ended")

    def accounting(self, dimension="TPM"):
        return self.limiter.meter("m", "m").accounting()[dimension]


@pytest.fixture
def play():
    plays = []

    def make(*args, **options):
        plays.append(Play(*args, **options))
        return plays[-1]

    yield make
    for made in plays:
        made.engine.shutdown(wait=True, cancel_futures=True)


class Scripted:
    """A callable that raises or returns what it is told to, one after the other; the last goes on for ever."""

    def __init__(self, *turns) -> None:
        self.turns = list(turns)
        self.times = 0

    def __call__(self):
        self.times += 1
        turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        if isinstance(turn, BaseException):
            raise turn
        return turn


# -- what comes back


def test_the_result_is_what_the_callable_returned_and_nothing_else(play):
    thing = object()

    assert thing is play().submit(lambda: thing).result(PATIENCE_S)


def test_none_is_a_result_too(play):
    assert play().submit(lambda: None).result(PATIENCE_S) is None


@pytest.mark.parametrize("status", [408, 409, 425, 498, 500, 502, 503, 504, 520])
def test_a_passing_error_status_is_tried_again(play, status):
    fn = Scripted(StatusError(status), StatusError(status), "done")

    assert "done" == play().ending(fn)
    assert 3 == fn.times


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 424])
def test_a_final_error_status_is_raised_at_once_as_it_was(play, status):
    error = StatusError(status)
    fn = Scripted(error)

    assert error is play().ending(fn)
    assert 1 == fn.times


def test_after_the_last_retry_the_last_error_is_raised_as_it_was(play):
    first, last = StatusError(500), StatusError(503)
    fn = Scripted(first, last)

    assert last is play(max_retries=3).ending(fn)
    assert 4 == fn.times


def test_an_error_that_only_its_response_gives_a_status_counts_as_well(play):
    error = Exception("what raise_for_status of requests raises")
    error.response = SimpleNamespace(status_code=503, headers={})

    assert "done" == play().ending(Scripted(error, "done"))


def test_a_returned_response_with_an_error_status_is_tried_again_and_the_last_one_returned(play):
    busy = SimpleNamespace(status_code=503, headers={})
    wrong = SimpleNamespace(status_code=400, headers={})
    fn = Scripted(busy, wrong)
    made = play()

    assert wrong is made.ending(fn)
    assert 2 == fn.times
    assert 1 == made.engine.stats().failed


@pytest.mark.parametrize("error", [ValueError("mine"), FileNotFoundError("mine"), SystemExit(3), KeyError("k")])
def test_whatever_else_it_raises_is_final_and_raised_as_it_was(play, error):
    made = play()

    assert error is made.submit(Scripted(error)).exception(PATIENCE_S)
    assert 1 == made.engine.stats().attempts
    assert "done" == made.submit(lambda: "done").result(PATIENCE_S)


def test_an_error_that_only_stems_from_a_lost_connection_is_the_callables_own(play):
    error = ValueError("my conclusion")
    error.__cause__ = ConnectionResetError()
    fn = Scripted(error)

    assert error is play().ending(fn)
    assert 1 == fn.times


def test_errors_of_another_queue_have_been_retried_there(play):
    error = RateLimitError("refused", status_code=429)
    fn = Scripted(error)

    assert error is play().ending(fn)
    assert 1 == fn.times


def lost_in(cause):
    error = SdkConnectionError("Connection error.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (ConnectionRefusedError("refused"), 6),
        (socket.gaierror("no such host"), 6),
        (lost_in(ConnectError("refused")), 6),
        (ConnectionResetError("reset"), 3),  # may have been charged: repeated twice at most
        (TimeoutError("silent"), 3),
        (APITimeoutError("Request timed out."), 3),
        (http.client.RemoteDisconnected("gone"), 3),
        (lost_in(ConnectionResetError("reset")), 3),
        (lost_in(ssl.SSLCertVerificationError("self-signed")), 1),
    ],
    ids=lambda value: f"{value!r:.40}",
)
def test_a_lost_connection_is_repeated_as_often_as_one_of_our_own(play, error, times):
    fn = Scripted(error)

    assert error is play(max_retries=5).ending(fn)
    assert times == fn.times


# -- what the budget learns


def test_the_budget_is_settled_to_the_usage_of_the_result(play):
    usage = SimpleNamespace(
        prompt_tokens=80, completion_tokens=5, prompt_tokens_details=SimpleNamespace(cached_tokens=30)
    )
    made = play(Limits(tpm=6_000))

    made.submit(lambda: SimpleNamespace(usage=usage)).result(PATIENCE_S)
    made.engine.join(PATIENCE_S)

    assert (150, 150, 0, 0) == made.accounting()
    # The unused allowance is given back only once the server was seen to do so.
    assert 80 + 50 == made.limiter.meter("m", "m").levels(made.clock.now_ns())[0].used
    assert (65, 5) == (made.engine.stats().prompt_tokens, made.engine.stats().completion_tokens)


@pytest.mark.parametrize(
    ("value", "usage"),
    [
        ({"usage": {"prompt_tokens": 8, "completion_tokens": 2}}, (8, 2, 0)),
        ({"x_groq": {"usage": {"prompt_tokens": 8, "completion_tokens": 2}}}, (8, 2, 0)),
        (SimpleNamespace(usage={"prompt_tokens": 8}), (8, 0, 0)),
        (SimpleNamespace(usage=SimpleNamespace(input_tokens=8, output_tokens=2)), (8, 2, 0)),
        (SimpleNamespace(status_code=200, _content=b'{"usage":{"prompt_tokens":8,"completion_tokens":2}}'), (8, 2, 0)),
        (SimpleNamespace(headers={"a": "b"}, parse=lambda: {"usage": {"prompt_tokens": 8}}), (8, 0, 0)),
        (SimpleNamespace(usage="lots"), None),
        (SimpleNamespace(usage={"prompt_tokens": -1}), None),
        ("text", None),
    ],
)
def test_usage_is_read_wherever_a_result_keeps_it(value, usage):
    told = Call(lambda: value, None).run(lambda headers: None)

    assert isinstance(told, CallOutcome)
    assert usage == told.usage


def test_a_value_whose_attributes_raise_tells_nothing():
    class Hostile:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError(name)

        def __bool__(self) -> bool:
            raise RuntimeError("ambiguous")

    assert CallOutcome(200, {}) == Call(Hostile, None).run(lambda headers: None)


def test_headers_of_the_result_teach_the_limits(play):
    headers = {"X-RateLimit-Limit-Tokens": "6000", "X-RateLimit-Remaining-Tokens": "5900"}
    made = play(None)

    made.submit(lambda: SimpleNamespace(status_code=200, headers=headers)).result(PATIENCE_S)

    assert ["TPM"] == [level.dimension for level in made.limiter.meter("m", "m").levels(made.clock.now_ns())]


def test_a_refusal_gives_the_budget_back_and_makes_the_lane_wait_as_long_as_it_says(play):
    fn = Scripted(StatusError(429, {"error": {"message": REFUSED}}), "done")
    made = play(Limits(tpm=6_000))

    future = made.submit(fn)
    wait_until(lambda: future._request.attempts == 1 and future._request.state.value == "pending")
    made.clock.advance(2.4)
    still = made.limiter.meter("m", "m").blocks(PromptSize(1, 0, is_exact=True), made.clock.now_ns())
    made.clock.advance(0.2)

    assert "hold" == still.reason
    assert "done" == future.result(PATIENCE_S)
    made.engine.join(PATIENCE_S)
    assert (150 + 350, 350, 150, 0) == made.accounting()  # the refusal told that it costs 350
    assert (2, 1) == (fn.times, made.engine.stats().refused)


@pytest.mark.parametrize(
    "error",
    [
        StatusError(429, {"message": REFUSED, "type": "tokens"}),  # as openai keeps the body
        StatusError(429, REFUSED),
        StatusError(429, None, {"Retry-After": "2.5"}),
    ],
    ids=["inner", "text", "header"],
)
def test_the_wait_is_read_wherever_an_sdk_keeps_it(play, error):
    made = play(Limits(tpm=6_000))

    future = made.submit(Scripted(error, "done"))
    wait_until(lambda: future._request.attempts == 1 and future._request.state.value == "pending")
    blocked = made.limiter.meter("m", "m").blocks(PromptSize(1, 0, is_exact=True), made.clock.now_ns())
    made.clock.advance(2.6)

    assert "hold" == blocked.reason
    assert 2_500_000_000 < blocked.wait_ns < 2_520_000_000
    assert "done" == future.result(PATIENCE_S)


def test_too_large_for_the_server_is_final(play):
    message = "Request too large for model `m` on tokens per minute (TPM): Limit 6000, Requested 7000"
    error = StatusError(429, {"error": {"message": message}})
    fn = Scripted(error)

    assert error is play().ending(fn)
    assert 1 == fn.times


def test_what_never_left_costs_nothing_and_what_may_have_arrived_costs_all(play):
    made = play(Limits(tpm=6_000), max_retries=0)

    made.submit(Scripted(ConnectionRefusedError())).exception(PATIENCE_S)
    refunded = made.accounting()
    made.submit(Scripted(ConnectionResetError())).exception(PATIENCE_S)
    made.submit(Scripted(ValueError())).exception(PATIENCE_S)

    assert (150, 0, 150, 0) == refunded
    assert (450, 300, 150, 0) == made.accounting()


def test_a_rejected_key_of_the_callables_own_client_stops_nobody_else(play):
    made = play()

    made.submit(Scripted(StatusError(401, {"error": {"code": "invalid_api_key"}}))).exception(PATIENCE_S)

    assert "done" == made.submit(lambda: "done").result(PATIENCE_S)


# -- its life


def test_a_deadline_between_two_attempts_ends_it_with_our_error_and_its_own_as_the_cause(play):
    error = StatusError(429, {"error": {"message": REFUSED}})
    made = play(Limits(tpm=6_000))

    future = made.submit(Scripted(error), deadline_ns=1_000_000_000)
    wait_until(lambda: future._request.attempts == 1 and future._request.state.value == "pending")
    made.clock.advance(1)

    raised = future.exception(PATIENCE_S)
    assert isinstance(raised, QueueTimeout)
    assert isinstance(raised.__cause__, RateLimitError)
    assert raised.__cause__.__cause__ is error


def test_after_the_end_nothing_keeps_the_callable_or_its_arguments(play):
    class Prompt:
        pass

    prompt = Prompt()
    made = play()
    future = made.submit(lambda prompt=prompt: 1)
    gone = weakref.ref(prompt)

    future.result(PATIENCE_S)
    made.engine.join(PATIENCE_S)
    del prompt
    gc.collect()

    assert gone() is None


def test_a_cancelled_call_never_runs(play):
    fn = Scripted("done")
    made = play()
    made.engine.pause(None)

    future = made.submit(fn)
    is_cancelled = future.cancel()
    made.engine.resume(None)
    made.submit(lambda: "the next one").result(PATIENCE_S)

    assert is_cancelled
    assert 0 == fn.times


def test_a_final_connection_error_of_ours_is_refunded(play):
    made = play(Limits(tpm=6_000))
    error = APIConnectionError("nobody waits", sent="no", is_final=True)

    assert error is made.submit(Scripted(error)).exception(PATIENCE_S)
    assert (150, 0, 150, 0) == made.accounting()


# -- the door


@pytest.fixture
def queue():
    with GroqQueue(api_key="k", base_url="http://127.0.0.1:9/v1", model="m", limits=Limits()) as made:
        yield made


def test_every_argument_but_queue_options_is_the_callables(queue):
    def fn(*args, **kwargs):
        return args, kwargs

    future = queue.submit_call(
        fn, 1, "two", model="other", priority="mine", client=7, callback="x", queue_options={"custom_id": "c"}
    )

    assert ((1, "two"), {"model": "other", "priority": "mine", "client": 7, "callback": "x"}) == future.result(
        PATIENCE_S
    )
    assert "c" == future.custom_id
    assert "other" == queue.info(future).model


def test_its_messages_and_allowance_tell_the_price(queue):
    class Message:
        def model_dump(self):
            return {"role": "user", "content": "x" * 3_000}

    queue.pause()
    small = queue.submit_call(lambda **given: None, messages=[{"role": "user", "content": "x"}], max_tokens=10)
    large = queue.submit_call(lambda **given: None, messages=[Message()], max_completion_tokens=500)
    told = queue.submit_call(lambda **given: None, max_tokens=10, queue_options={"tokens": 77})

    assert queue.info(small).tokens < 40
    assert 1_500 < queue.info(large).tokens < 1_600
    assert 77 == queue.info(told).tokens


def test_an_iterator_is_not_read_for_its_price():
    letters = iter("abc")

    priceable({"messages": letters})

    assert ["a", "b", "c"] == list(letters)


def test_options_steer_the_queue():
    order = []
    queue = GroqQueue(api_key="k", base_url="http://127.0.0.1:9/v1", model="m", limits=Limits(), max_workers=1)
    queue.pause()
    done = threading.Event()
    queue.submit_call(order.append, "low", queue_options={"priority": "low"})
    queue.submit_call(
        order.append, "high", queue_options={"priority": "high", "client": "a", "callback": lambda _: done.set()}
    )
    assert {"default": 1, "a": 1} == queue.stats().pending_by_client
    queue.resume()

    queue.shutdown()

    assert done.wait(PATIENCE_S)
    assert ["high", "low"] == order


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prioritty": 1}, "did you mean 'priority'"),
        ({"zzz": 1}, "use one of model"),
        ({"priority": "urgent!"}, "urgent!"),
        ({"max_wait": -1}, "max_wait"),
        ({"callback": 3}, "callback=3"),
        ({"model": 3}, "model"),
        ("high", "queue_options='high'"),
    ],
)
def test_a_wrong_option_is_named_by_the_call_that_got_it(queue, options, said):
    with pytest.raises(ConfigurationError, match=said):
        queue.submit_call(print, queue_options=options)


def test_a_call_needs_a_model_from_somewhere():
    with GroqQueue(api_key="k", base_url="http://127.0.0.1:9/v1") as queue:
        with pytest.raises(ConfigurationError, match="queue_options"):
            queue.submit_call(print)
        queue.submit_call(lambda: None, queue_options={"model": "m"}).result(PATIENCE_S)


def test_what_cannot_be_called_here_is_refused(queue):
    async def later() -> None: ...

    with pytest.raises(TypeError, match="callable"):
        queue.submit_call("prompt")
    with pytest.raises(TypeError, match="synchronous"):
        queue.submit_call(later)


def test_after_shutdown_no_call_is_taken(queue):
    queue.shutdown()

    with pytest.raises(QueueClosed):
        queue.submit_call(print)


def test_hidden_retries_of_an_sdk_client_are_told_once(queue, caplog):
    class Completions:
        _client = SimpleNamespace(max_retries=2)

        def create(self) -> None: ...

    with caplog.at_level(logging.WARNING, "groq_queue"):
        for _ in range(3):
            queue.submit_call(Completions().create)

    assert 1 == len(caplog.records)
    assert "max_retries=0" in caplog.text
