"""``requests_adapter``: a requests.Session whose calls wait for their turn."""

from __future__ import annotations

import gc
import pickle

import pytest
import requests
from waiting import wait_until

from groq_queue import ConfigurationError, GroqSimulator, Limits, QueueTimeout, RequestTooLarge
from groq_queue.clock import FakeClock
from groq_queue.core.priority import parse_priority
from groq_queue.integrations import requests_adapter
from groq_queue.simulator import Fault

from .conftest import KEY, MODEL, HurriedClock, InThread


@pytest.fixture
def open_session(simulator):
    """Open sessions with the adapter mounted; each is closed at the end."""
    sessions = []

    def make(queue, **options) -> requests.Session:
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {KEY}"
        session.mount("http://", requests_adapter(queue, **options))
        sessions.append(session)
        return session

    yield make
    for session in sessions:
        session.close()


def ask(session, simulator, text="Why?", **how):
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_completion_tokens": 20}
    body.update(how.pop("body", {}))
    return session.post(f"{simulator.base_url}/chat/completions", json=body, **how)


def test_a_session_gets_what_it_always_got_and_the_queue_counted_it(make_queue, open_session, simulator):
    queue = make_queue()

    response = ask(open_session(queue), simulator)
    queue.join()

    assert 200 == response.status_code
    usage = response.json()["usage"]
    stats = queue.stats()
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (stats.prompt_tokens, stats.completion_tokens)
    assert 1 == stats.completed
    assert f"Bearer {KEY}" == response.request.headers["Authorization"]


def test_what_spends_no_tokens_goes_straight_through(make_queue, open_session, simulator):
    queue = make_queue()
    queue.pause()
    session = open_session(queue)

    listed = session.get(f"{simulator.base_url}/models")
    formless = session.post(f"{simulator.base_url}/chat/completions", data=b"no JSON")
    nameless = session.post(f"{simulator.base_url}/chat/completions", json={"messages": []})

    assert [200, 400, 400] == [listed.status_code, formless.status_code, nameless.status_code]
    assert 0 == queue.stats().submitted


def test_faults_are_retried_by_the_queue_unseen(make_queue, open_session, simulator):
    simulator.set_faults([Fault(status=503, times=1), Fault(reset="after", times=1), Fault(truncate=True, times=1)])
    queue = make_queue(clock=HurriedClock())

    response = ask(open_session(queue), simulator)

    assert 200 == response.status_code
    assert 4 == queue.stats().attempts
    assert 4 == simulator.stats().received


def test_after_the_last_retry_the_last_response_is_returned(make_queue, open_session, simulator):
    simulator.set_faults([Fault(status=503, headers={"x-which": "first"}, times=1), Fault(status=500, body="broken")])

    response = ask(open_session(make_queue(max_retries=1, clock=HurriedClock())), simulator)

    assert 500 == response.status_code
    assert "broken" == response.text
    with pytest.raises(requests.HTTPError):
        response.raise_for_status()
    assert 2 == simulator.stats().received


def test_a_final_status_is_returned_at_once(make_queue, open_session, simulator):
    response = ask(open_session(make_queue()), simulator, body={"messages": []})

    assert 400 == response.status_code
    assert 1 == simulator.stats().received


def test_a_lost_connection_is_raised_as_requests_raises_it(make_queue, open_session, simulator):
    simulator.set_faults([Fault(reset="before")])

    with pytest.raises(requests.ConnectionError):
        ask(open_session(make_queue(max_retries=1, clock=HurriedClock())), simulator)
    assert 2 == simulator.stats().received


def test_the_calls_own_timeout_holds(make_queue, open_session, simulator):
    simulator.set_faults([Fault(silent=True)])

    with pytest.raises(requests.ReadTimeout):
        ask(open_session(make_queue(max_retries=0)), simulator, timeout=(5, 0.1))


def test_the_calls_own_proxies_hold(make_queue, open_session, simulator):
    with pytest.raises(requests.exceptions.ProxyError):
        ask(open_session(make_queue(max_retries=0)), simulator, proxies={"http": "http://127.0.0.1:9"})
    assert 0 == simulator.stats().received


def test_calls_wait_for_the_budget(make_queue, open_session):
    with GroqSimulator(rpm=30, minute_s=1) as strict:
        queue = make_queue(base_url=strict.base_url, limits=Limits(rpm=30, minute_s=1))
        session = open_session(queue)

        threads = [InThread(lambda: ask(session, strict).status_code) for _ in range(40)]
        statuses = [thread.result() for thread in threads]

        assert [200] * 40 == statuses
        assert (40, 0) == (strict.stats().received, strict.stats().refused)


def test_the_options_of_the_adapter_are_those_of_its_requests(make_queue, open_session, simulator):
    clock = FakeClock()
    queue = make_queue(clock=clock)
    queue.pause()
    session = open_session(queue, priority="high", client="legacy", max_wait=60)

    waiting = InThread(lambda: ask(session, simulator))
    wait_until(lambda: queue.stats().pending == 1)
    stats = queue.stats()
    assert not waiting.has_ended
    clock.advance(60)

    with pytest.raises(QueueTimeout):
        waiting.result()
    assert {"legacy": 1} == stats.pending_by_client
    assert {parse_priority("high"): 1} == {level: n for level, n in stats.pending_by_priority.items() if n}
    assert 0 == simulator.stats().received


def test_what_can_never_fit_is_said_at_once(make_queue, open_session, simulator):
    queue = make_queue(limits=Limits(tpm=100))

    with pytest.raises(RequestTooLarge, match="max_completion_tokens"):
        ask(open_session(queue), simulator, body={"max_completion_tokens": 200})


# -- streams


def stream_of(session, simulator):
    return ask(session, simulator, body={"stream": True}, stream=True)


def test_a_stream_keeps_its_slot_until_it_is_read_to_its_end(make_queue, open_session, simulator):
    queue = make_queue(max_workers=1)
    session = open_session(queue)

    response = stream_of(session, simulator)
    other = InThread(lambda: ask(session, simulator))
    wait_until(lambda: queue.stats().pending == 1)
    held = queue.stats()
    lines = list(response.iter_lines())

    assert 200 == other.result().status_code
    assert (1, 1) == (held.in_flight, held.attempts)
    assert b"data: [DONE]" in lines


@pytest.mark.parametrize("read", [lambda r: r.content, lambda r: list(r.iter_content(7)), lambda r: r.raw.read()])
def test_a_stream_is_settled_by_the_usage_in_its_last_chunk(make_queue, open_session, simulator, read):
    queue = make_queue()

    read(stream_of(open_session(queue), simulator))
    wait_until(lambda: queue.stats().completed == 1)

    stats = queue.stats()
    assert simulator.stats().tokens_used == stats.prompt_tokens + stats.completion_tokens
    assert 10 == stats.completion_tokens


def test_a_stream_that_is_closed_early_is_counted_in_full(make_queue, open_session, simulator):
    queue = make_queue()

    stream_of(open_session(queue), simulator).close()
    wait_until(lambda: queue.stats().completed == 1)

    assert 20 == queue.stats().completion_tokens


def test_a_stream_that_everybody_forgot_gives_its_slot_back(make_queue, open_session, simulator):
    queue = make_queue(max_workers=1)
    session = open_session(queue)

    response = stream_of(session, simulator)
    assert 1 == queue.stats().in_flight
    del response
    gc.collect()

    assert 200 == InThread(lambda: ask(session, simulator)).result().status_code


def test_shutdown_does_not_wait_for_readers(make_queue, open_session, simulator):
    queue = make_queue()
    response = stream_of(open_session(queue), simulator)

    leaving = InThread(queue.shutdown)
    try:
        leaving.result()
        assert b"[DONE]" in response.content
    finally:
        response.close()


def test_a_body_with_events_that_is_not_streamed_is_settled_too(make_queue, open_session, simulator):
    queue = make_queue()

    ask(open_session(queue), simulator, body={"stream": True})
    queue.join()

    assert 10 == queue.stats().completion_tokens


def test_a_refused_stream_is_retried_like_any_other(make_queue, open_session, simulator):
    simulator.set_faults([Fault(status=500, times=1)])
    queue = make_queue(clock=HurriedClock())

    assert 200 == stream_of(open_session(queue), simulator).status_code
    assert 2 == queue.stats().attempts


# -- what cannot be


def test_an_adapter_that_would_retry_by_itself_is_refused(make_queue):
    with pytest.raises(ConfigurationError, match="max_retries=3"):
        requests_adapter(make_queue(), max_retries=3)


@pytest.mark.parametrize(("option", "value"), [("priority", "urgent!"), ("max_wait", -1), ("client", 3)])
def test_a_wrong_option_is_told_when_the_adapter_is_made(make_queue, option, value):
    with pytest.raises(ConfigurationError, match=option if option != "priority" else "urgent"):
        requests_adapter(make_queue(), **{option: value})


def test_an_adapter_needs_a_queue():
    with pytest.raises(ConfigurationError, match="GroqQueue"):
        requests_adapter("https://api.groq.com")


def test_an_adapter_is_not_pickled(make_queue):
    adapter = requests_adapter(make_queue())

    with pytest.raises(TypeError, match="mount"):
        pickle.dumps(adapter)
