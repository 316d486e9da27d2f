"""Observers see every attempt, once, and can harm nothing."""

from __future__ import annotations

import logging
import threading

import pytest
from hasty import HastyClock

from groq_queue import BadRequestError, Completion, ConfigurationError, GroqQueue, GroqSimulator
from groq_queue.clock import NS_PER_S, FakeClock
from groq_queue.core.request import Request
from groq_queue.core.token_estimate import PromptSize
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.observer import Observed, _name_of
from groq_queue.errors import APIConnectionError, APIResponseError, AuthenticationError, RateLimitError
from groq_queue.simulator import Fault

PATIENCE_S = 10
MODEL = "llama-3.1-8b-instant"


def run(simulator, observer, prompts=("Why?",), **options):
    clock = HastyClock(10)
    with GroqQueue(api_key="test", base_url=simulator.base_url, model=MODEL, observer=observer, clock=clock) as queue:
        futures = [queue.submit(prompt, max_completion_tokens=4, **options) for prompt in prompts]
        for future in futures:
            future.exception(PATIENCE_S)
        return futures


def test_every_attempt_is_told_once_with_its_facts():
    events = []
    with GroqSimulator(faults=[Fault(status=500, times=1)], latency=0.02) as groq:
        future = run(groq, events.append, custom_id="c-1", priority="high", client="alice")[0]

    assert ["again", "done"] == [event.outcome for event in events]
    first, second = events
    assert (500, "InternalServerError") == (first.status, type(first.error).__name__)
    assert first.retry_s > 0
    assert (200, None) == (second.status, second.error)
    assert (1, 2) == (first.attempt, second.attempt)
    assert {("c-1", 1, "alice", MODEL, MODEL, "chat/completions")} == {
        (e.custom_id, e.priority, e.client, e.model, e.lane, e.endpoint) for e in events
    }
    assert future.result().usage.prompt_tokens == second.usage[0]
    assert (future.result().id, MODEL) == (second.answer_id, second.answer_model)
    assert (future.result().choices[0].finish_reason,) == second.finish_reasons
    assert second.seconds >= 0.02
    assert second.started_at >= first.started_at > 1_000_000_000
    assert future.request_id == first.request_id == second.request_id


def test_a_refusal_and_a_final_failure_have_names_of_their_own():
    events = []
    with GroqSimulator(faults=[Fault(status=429, times=1), Fault(status=400, times=1)]) as groq:
        future = run(groq, events.append)[0]

    assert isinstance(future.exception(), BadRequestError)
    assert [("refused", 429), ("failed", 400)] == [(event.outcome, event.status) for event in events]


def test_content_is_for_those_who_ask():
    class Curious:
        wants_content = True

        def __init__(self):
            self.events = []

        def __call__(self, event):
            self.events.append(event)

    plain, curious = [], Curious()
    with GroqSimulator() as groq:
        future = run(groq, [plain.append, curious], prompts=["a secret"])[0]

    assert (None, None) == (plain[0].payload, plain[0].answer)
    assert "secret" not in repr(plain)
    assert "a secret" == curious.events[0].payload["messages"][0]["content"]
    assert future.result() is curious.events[0].answer


def test_an_observer_that_raises_is_logged_and_harms_nothing(caplog):
    seen = []

    def bad(event):
        raise SystemExit("mine")

    with GroqSimulator() as groq, caplog.at_level(logging.ERROR, "groq_queue"):
        futures = run(groq, [bad, seen.append], prompts=["a", "b"])

    assert 2 == len(seen)
    assert all(future.exception() is None for future in futures)
    records = [record for record in caplog.records if getattr(record, "groq_queue_event", "") == "observer_raised"]
    assert 2 == len(records)
    assert {future.request_id for future in futures} == {record.request_id for record in records}


def test_observers_hold_no_lock_and_come_before_the_result():
    """
    An observer may ask and change the queue, and the Future is not done yet.
    """
    told = []
    box = []
    ready = threading.Event()

    def observe(event):
        assert ready.wait(PATIENCE_S)
        queue, future = box
        told.append((queue.stats().in_flight, future.done(), queue.cancel_all(), queue.explain(future).state))

    with (
        GroqSimulator() as groq,
        GroqQueue(api_key="t", base_url=groq.base_url, model=MODEL, observer=observe) as queue,
    ):
        future = queue.submit("Why?")
        box += [queue, future]
        ready.set()
        future.result(PATIENCE_S)

    assert [(1, False, 0, "running")] == told


def test_a_queue_without_observers_runs_its_attempts_bare():
    with GroqQueue(api_key="t") as queue:
        assert "Runner" == type(queue._engine._attempts).__name__


@pytest.mark.parametrize("observer", [5, "x", [5], [None]])
def test_what_cannot_be_called_is_refused(observer):
    with pytest.raises(ConfigurationError, match="observer="):
        GroqQueue(api_key="t", observer=observer)


@pytest.mark.parametrize("clock", [5, object()])
def test_what_is_no_clock_is_refused(clock):
    with pytest.raises(ConfigurationError, match="clock="):
        GroqQueue(api_key="t", clock=clock)


class Taking:
    """Attempts that take their time on a clock that stands still otherwise, and end as told."""

    def __init__(self, clock, seconds, ends):
        self._clock, self._seconds, self._ends = clock, seconds, ends

    def attempt(self, request, lease, meter):
        self._clock.advance(self._seconds)
        if isinstance(self._ends, BaseException):
            raise self._ends
        return self._ends


def watched(ends, *, waited_s=4, seconds=3):
    """Return the one event of an attempt that ended like that, with what its clock said when it began."""
    clock, events = FakeClock(), []
    request = Request("m", "e", b"{}", PromptSize(1, 1), 5, custom_id="mine")
    request.submitted_ns, request.attempts = clock.now_ns() - waited_s * NS_PER_S, 1
    request.started_ns = clock.now_ns()
    began_s = clock.wall_s()
    attempts = Observed(Taking(clock, seconds, ends), [events.append], clock)
    if isinstance(ends, BaseException):
        with pytest.raises(type(ends)):
            attempts.attempt(request, None, None)
    else:
        assert ends is attempts.attempt(request, None, None)
    (event,) = events
    assert began_s == event.started_at
    return event


def test_an_event_tells_how_long_each_part_took():
    event = watched(Outcome(Disposition.RETRY, error=APIConnectionError("reset"), wait_ns=7 * NS_PER_S))

    assert (4.0, 3.0, 7.0) == (event.waited_s, event.seconds, event.retry_s)
    assert ("again", None, 1) == (event.outcome, event.status, event.attempt)


def test_an_attempt_that_breaks_is_told_and_breaks_on():
    event = watched(MemoryError("no room"))

    assert ("broke", None, 3.0, 0.0) == (event.outcome, event.status, event.seconds, event.retry_s)
    assert isinstance(event.error, MemoryError)


@pytest.mark.parametrize(
    ("outcome", "name", "status"),
    [
        (Outcome(Disposition.DONE, result="what a callable returned"), "done", 200),
        (Outcome(Disposition.RETRY, error=APIResponseError("html")), "again", 200),
        (Outcome(Disposition.FAILED, error=APIConnectionError("reset")), "failed", None),
        (Outcome(Disposition.STOP_ALL, error=AuthenticationError("401", status_code=401)), "stopped", 401),
        (Outcome(Disposition.RATE_LIMITED, error=RateLimitError("429", status_code=429)), "refused", 429),
    ],
)
def test_every_end_has_a_name_and_the_status_there_was(outcome, name, status):
    event = watched(outcome)

    assert (name, status, outcome.error) == (event.outcome, event.status, event.error)
    assert (None, None, None, ()) == (event.usage, event.answer_id, event.answer_model, event.finish_reasons)


def test_odd_answers_make_no_odd_events():
    answer = Completion({"id": 7, "model": None, "choices": [{"finish_reason": "stop"}, "odd", {"finish_reason": 5}]})

    event = watched(Outcome(Disposition.DONE, result=answer))

    assert (None, None, ("stop",)) == (event.answer_id, event.answer_model, event.finish_reasons)
    assert () == watched(Outcome(Disposition.DONE, result=Completion({"choices": None}))).finish_reasons


def test_a_body_that_is_no_json_is_no_payload():
    events = []

    def curious(event):
        events.append(event)

    curious.wants_content = True
    clock = FakeClock()
    for body in (b"RIFF", b'{"a": 1}'):
        request = Request("m", "e", body, PromptSize(1, 1), 5)
        Observed(Taking(clock, 0, Outcome(Disposition.DONE)), [curious], clock).attempt(request, None, None)

    assert [None, {"a": 1}] == [event.payload for event in events]
    assert [0.0, 0.0] == [event.waited_s for event in events]


class Odd:
    """An observer that answers for its attributes itself."""

    def __call__(self, event):
        pass

    def __getattr__(self, name):
        raise OSError(name)


@pytest.mark.parametrize(
    ("observer", "name"), [(print, "print"), (Odd, "Odd"), (Odd(), "Odd")], ids=["function", "class", "odd"]
)
def test_an_observer_is_named_by_itself_or_by_its_class(observer, name):
    assert name == _name_of(observer)
