"""``sdk_http_client``: the official SDKs, unpatched, waiting for their turn."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from extras import needs
from pressing import listening, press
from waiting import wait_until

from groq_queue import ConfigurationError, GroqQueue, GroqSimulator, Limits, QueueTimeout
from groq_queue.integrations import sdk_http_client
from groq_queue.simulator import Fault

from .conftest import KEY, MODEL, PATIENCE_S, HurriedClock, InThread

QUESTION = [{"role": "user", "content": "Why?"}]


@pytest.fixture(params=["groq", "openai"])
def sdk(request):
    return needs(request.param)


def client_of(sdk, simulator, **options):
    """Make a client of the SDK; groq adds ``/openai/v1`` by itself."""
    is_groq = sdk.__name__ == "groq"
    base_url = simulator.base_url.removesuffix("/openai/v1") if is_groq else simulator.base_url
    return (sdk.Groq if is_groq else sdk.OpenAI)(api_key=KEY, base_url=base_url, **options)


@pytest.fixture
def connect(sdk, simulator):
    """Make clients whose requests wait in a queue; each is closed at the end."""
    clients = []

    def make(queue, max_retries=0, **options):
        http_client = sdk_http_client(queue, sdk, **options)
        clients.append(client_of(sdk, simulator, http_client=http_client, max_retries=max_retries))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def ctrl_c():
    with listening():
        yield


def ask(client, **options):
    return client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=20, **options)


def test_the_http_client_is_of_the_class_the_sdk_uses_itself(make_queue, sdk, simulator):
    with client_of(sdk, simulator) as bare, sdk_http_client(make_queue(), sdk, timeout=7) as client:
        assert isinstance(bare._client, sdk.DefaultHttpxClient)
        assert isinstance(client, sdk.DefaultHttpxClient)
        assert 7 == client.timeout.read


def test_a_client_of_the_sdk_names_it_as_well(make_queue, sdk, simulator):
    with client_of(sdk, simulator) as bare, sdk_http_client(make_queue(), bare) as by_client:
        assert isinstance(by_client, sdk.DefaultHttpxClient)
        with sdk_http_client(make_queue(), type(bare)) as by_class:
            assert isinstance(by_class, sdk.DefaultHttpxClient)


def test_the_sdk_gets_what_it_always_got_and_the_queue_counted_it(make_queue, connect, simulator):
    queue = make_queue()

    completion = ask(connect(queue))
    queue.join()

    assert "Simulated answer" in completion.choices[0].message.content
    assert 10 == queue.stats().completion_tokens == completion.usage.completion_tokens
    assert 1 == queue.stats().completed == simulator.stats().received


def test_what_spends_no_tokens_goes_straight_through(make_queue, connect):
    queue = make_queue()
    queue.pause()

    assert [MODEL] == [model.id for model in connect(queue).models.list().data]
    assert 0 == queue.stats().submitted


def test_a_file_that_is_uploaded_goes_straight_through_and_whole(make_queue, connect, simulator):
    queue = make_queue()

    transcript = connect(queue).audio.transcriptions.create(model=MODEL, file=("a.wav", b"RIFF"))

    assert transcript.text.startswith("Simulated answer")
    assert 0 == queue.stats().submitted


def test_embeddings_are_queued_too(make_queue, connect):
    queue = make_queue()

    connect(queue).embeddings.create(model=MODEL, input="words")
    queue.join()

    assert 1 == queue.stats().completed


def test_faults_are_retried_by_the_queue_unseen(make_queue, connect, simulator):
    simulator.set_faults([Fault(status=503, times=1), Fault(reset="after", times=1), Fault(truncate=True, times=1)])
    queue = make_queue(clock=HurriedClock())

    ask(connect(queue))

    assert 4 == queue.stats().attempts == simulator.stats().received


@pytest.mark.parametrize("max_retries", [0, 2])
def test_after_the_last_retry_the_sdk_raises_its_own_error_and_sends_nothing_more(
    make_queue, connect, simulator, sdk, max_retries
):
    simulator.set_faults([Fault(status=500)])
    client = connect(make_queue(max_retries=1, clock=HurriedClock()), max_retries=max_retries)

    with pytest.raises(sdk.InternalServerError) as caught:
        ask(client)

    assert 500 == caught.value.status_code
    assert 2 == simulator.stats().received


def test_what_the_sdk_sends_again_all_the_same_is_told_once(make_queue, connect, simulator, sdk, caplog):
    simulator.set_faults([Fault(reset="before")])
    client = connect(make_queue(max_retries=0), max_retries=1)

    with caplog.at_level(logging.DEBUG, "groq_queue"):
        for _ in range(2):
            with pytest.raises(sdk.APIConnectionError):
                ask(client)

    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert 1 == sum("max_retries=0" in text for text in told), told
    assert 4 == simulator.stats().received
    assert KEY not in caplog.text


def test_the_calls_own_timeout_holds(make_queue, connect, simulator, sdk):
    simulator.set_faults([Fault(silent=True)])

    with pytest.raises(sdk.APITimeoutError):
        ask(connect(make_queue(max_retries=0)), timeout=0.1)


def test_an_error_of_the_queue_reaches_the_caller(make_queue, connect, simulator, sdk):
    """
    As itself, or as the cause of the SDK's own connection error.
    """
    queue = make_queue()
    queue.pause()

    client = connect(queue, max_wait=0.05)

    with pytest.raises((QueueTimeout, sdk.APIConnectionError)) as caught:
        ask(client)

    assert isinstance(caught.value, QueueTimeout) or isinstance(caught.value.__cause__, QueueTimeout)
    assert 0 == simulator.stats().received


def test_a_ctrl_c_while_waiting_cancels_the_request(ctrl_c, make_queue, connect, simulator):
    queue = make_queue()
    queue.pause()
    client = connect(queue)

    def interrupt() -> None:
        wait_until(lambda: queue.stats().pending == 1)
        press()

    helper = InThread(interrupt)
    with pytest.raises(KeyboardInterrupt):
        ask(client)
    helper.result()

    assert 1 == queue.stats().cancelled
    assert 0 == simulator.stats().received


def test_a_ctrl_c_while_it_is_submitted_sends_nothing(make_queue, connect, simulator, monkeypatch):
    queue = make_queue()
    queue.pause()
    submit = queue._submit_call

    def torn(*arguments):
        submit(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(queue, "_submit_call", torn)
    with pytest.raises(KeyboardInterrupt):
        ask(connect(queue))
    queue.resume()
    queue.join()

    assert (1, 0) == (queue.stats().failed, simulator.stats().received)


@pytest.mark.gate
def test_a_ctrl_c_while_it_is_sent_closes_what_still_comes(ctrl_c, make_queue, connect, simulator):
    simulator.set_faults([Fault(status=500, delay_s=3, times=1)])  # later than a Ctrl-C takes on a busy machine
    queue = make_queue()
    client = connect(queue)

    def interrupt() -> None:
        assert simulator.wait_for_requests(1, PATIENCE_S)
        press()

    helper = InThread(interrupt)
    with pytest.raises(KeyboardInterrupt):
        ask(client, stream=True)
    helper.result()
    queue.join()

    assert 1 == simulator.stats().received


# -- streams


def test_a_stream_keeps_its_slot_until_its_end_and_is_settled_by_its_usage(make_queue, connect, simulator):
    queue = make_queue(max_workers=1)
    client = connect(queue)

    stream = ask(client, stream=True)
    other = InThread(lambda: ask(client))
    wait_until(lambda: queue.stats().pending == 1)
    held = queue.stats()
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    other.result()
    queue.join()

    assert (1, 1) == (held.in_flight, held.attempts)
    assert text.startswith("Simulated answer")
    stats = queue.stats()
    assert simulator.stats().tokens_used == stats.prompt_tokens + stats.completion_tokens


def test_a_stream_that_is_closed_early_gives_its_slot_back(make_queue, connect):
    queue = make_queue(max_workers=1)
    client = connect(queue)

    with ask(client, stream=True) as stream:
        next(iter(stream))

    ask(client)
    queue.join()
    assert 2 == queue.stats().completed


def test_a_stream_that_everybody_forgot_gives_its_slot_back(make_queue, connect):
    queue = make_queue(max_workers=1)
    client = connect(queue)

    stream = ask(client, stream=True)
    next(iter(stream))
    assert 1 == queue.stats().in_flight
    del stream
    gc.collect()

    InThread(lambda: ask(client)).result()


def test_shutdown_does_not_wait_for_readers(make_queue, connect):
    queue = make_queue()
    stream = ask(connect(queue), stream=True)

    leaving = InThread(queue.shutdown)
    try:
        leaving.result()
        assert 2 < len(list(stream))
    finally:
        stream.close()


def test_the_reader_of_the_very_first_answer_may_ask_again_before_it_has_read_on(make_queue, connect):
    """
    While limits are unknown everybody else waits for the first answer: here for the one that waits.
    """
    client = connect(make_queue(limits=None))

    stream = ask(client, stream=True)
    second = InThread(lambda: ask(client))

    assert second.result().usage.completion_tokens == 10
    assert 2 < len(list(stream))


def test_an_answer_that_is_streamed_whole_is_settled_too(make_queue, connect):
    queue = make_queue()

    with connect(queue).chat.completions.with_streaming_response.create(
        model=MODEL, messages=QUESTION, max_tokens=20
    ) as response:
        response.parse()
    wait_until(lambda: queue.stats().completed == 1)

    assert 10 == queue.stats().completion_tokens


# -- inside the queue


def test_what_a_call_of_the_queue_sends_has_had_its_turn(make_queue, connect, simulator):
    queue = make_queue(max_workers=1, max_concurrency=1, limits=None)

    future = queue.submit_call(ask, connect(queue), queue_options={"model": MODEL})

    assert 10 == future.result(PATIENCE_S).usage.completion_tokens
    assert 1 == queue.stats().attempts == simulator.stats().received


def test_a_callback_may_ask_with_the_only_worker(make_queue, connect):
    queue = make_queue(max_workers=1)
    client = connect(queue)
    answers = []
    done = threading.Event()

    def again(future) -> None:
        answers.append(ask(client))
        done.set()

    queue.submit("Why?", model=MODEL, callback=again)

    assert done.wait(PATIENCE_S)
    assert 1 == len(answers)


def test_the_sdks_own_method_is_a_callable_like_any_other(make_queue, sdk, simulator):
    queue = make_queue()
    with client_of(sdk, simulator, max_retries=0) as bare:
        plain = queue.submit_call(bare.chat.completions.create, model=MODEL, messages=QUESTION, max_tokens=20).result(
            PATIENCE_S
        )
        raw = queue.submit_call(
            bare.chat.completions.with_raw_response.create, model=MODEL, messages=QUESTION, max_tokens=20
        ).result(PATIENCE_S)
        simulator.set_faults([Fault(status=503, times=2)])
        queue.submit_call(ask, bare, queue_options={"model": MODEL}).result(PATIENCE_S)
        simulator.set_faults([Fault(status=404)])
        with pytest.raises(sdk.NotFoundError):
            queue.submit_call(ask, bare, queue_options={"model": MODEL}).result(PATIENCE_S)
        queue.join()

    assert "chat.completion" == plain.object == raw.parse().object
    assert 30 == queue.stats().completion_tokens
    assert 6 == queue.stats().attempts


# -- what cannot be


def test_an_asynchronous_client_is_refused(make_queue, sdk):
    cls = sdk.AsyncGroq if sdk.__name__ == "groq" else sdk.AsyncOpenAI
    queue = make_queue()

    for given in (cls, cls(api_key=KEY), sdk.DefaultAsyncHttpxClient):
        with pytest.raises(ConfigurationError, match="synchronous"):
            sdk_http_client(queue, given)


@pytest.mark.parametrize("given", ["groq", None, os, 3])
def test_what_is_no_sdk_is_refused(make_queue, given):
    with pytest.raises(ConfigurationError, match="module groq or openai"):
        sdk_http_client(make_queue(), given)


def test_a_wrong_option_is_told_when_the_client_is_made(make_queue, sdk):
    with pytest.raises(ConfigurationError, match="max_wait"):
        sdk_http_client(make_queue(), sdk, max_wait=0)


# -- the proof


def flood(client, sdk, calls: int) -> Counter[str]:
    """Send calls from 16 threads and count how they ended."""

    def one(_: int) -> str:
        try:
            ask(client)
        except sdk.APIError as error:
            return type(error).__name__
        return "answered"

    with ThreadPoolExecutor(16) as pool:
        return Counter(pool.map(one, range(calls)))


@pytest.mark.parametrize(
    ("calls", "rpm", "minute_s"),
    [
        pytest.param(40, 10, 1, marks=pytest.mark.gate),  # refused unless the bare SDK takes 3 s for the 40
        pytest.param(200, 150, 60, marks=pytest.mark.slow),
    ],
    ids=["quick", "real minutes"],
)
def test_a_bare_sdk_is_refused_and_one_that_waits_is_not(sdk, calls, rpm, minute_s):
    """
    Calls from 16 threads at a limit that they exceed: the SDK's own retries against none.
    """
    refused = {}
    ended = {}
    for name in ("bare", "queued"):
        with GroqSimulator(rpm=rpm, minute_s=minute_s, latency=(0.01, 0.05)) as groq:
            limits = Limits(rpm=rpm, minute_s=minute_s)
            with GroqQueue(api_key="queue", base_url=groq.base_url, limits=limits, max_workers=16) as queue:
                door = {"http_client": sdk_http_client(queue, sdk), "max_retries": 0} if name == "queued" else {}
                with client_of(sdk, groq, **door) as client:
                    ended[name] = flood(client, sdk, calls)
            refused[name] = groq.stats().refused
    print(f"\n{sdk.__name__} at {rpm} requests in {minute_s} s: 429s {refused}, calls {ended}")

    assert 0 == refused["queued"] < refused["bare"]
    assert {"answered": calls} == ended["queued"]
