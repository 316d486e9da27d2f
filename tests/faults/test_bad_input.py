"""49 bad inputs beside the 24 of row D50: each a typed error of the call that received it, naming the field."""

from __future__ import annotations

import datetime
import decimal
import time

import pytest
import requests

from groq_queue import ConfigurationError, GroqQueue, GroqQueueError, Limits, client, priority

MODEL = "llama-3.1-8b-instant"
BOUND_S = 0.05
NAN, INF = float("nan"), float("inf")


class Circular(dict):
    """Holds itself."""

    def __init__(self):
        super().__init__(inner=[self])


CONSTRUCTOR = [
    ("allow_http", "no"),
    ("api_key", b"gsk_bytes"),
    ("api_key", "gsk_\x7f"),
    ("base_url", ""),
    ("base_url", "https://user:password@host/v1"),
    ("base_url", "https://host:99999/v1"),
    ("base_url", "https://host/v1?key=1"),
    ("session", requests),
    ("prices", {5: (1, 2)}),
    ("prices", {"m": (NAN, 1)}),
    ("journal", "a\0b"),
    ("organization", "\ud800"),
    ("margin", 1.0),
    ("max_cost", NAN),
    ("accounts", {"m": "key"}),
    ("max_payload_bytes", "1MB"),
    ("max_pending", INF),
    ("ageing", True),
    ("limits", {"": Limits(rpm=1)}),
    ("timeout", (1, None)),
    ("when_full", ["block"]),
]

SUBMIT = [
    ("tools", "hi", {"tools": [{"function": {1, 2}}]}),
    ("user", "hi", {"user": b"bytes"}),
    ("temperature", "hi", {"temperature": decimal.Decimal("0.5")}),
    ("metadata", "hi", {"metadata": {"when": datetime.datetime(2026, 1, 1)}}),
    ("metadata", "hi", {"metadata": {(1, 2): "x"}}),
    ("metadata", "hi", {"metadata": Circular()}),
    ("messages", range(3), {}),
    ("messages", None, {"messages": iter([])}),
    ("client", "hi", {"client": "half a \ud800 pair"}),
    ("custom_id", "hi", {"custom_id": "x" * 513}),
    ("tokens", "hi", {"tokens": True}),
    ("audio_seconds", "hi", {"audio_seconds": INF}),
    ("max_wait", "hi", {"max_wait": 10**400}),
    ("endpoint", "hi", {"endpoint": "a?x=1"}),
    ("dedupe", "hi", {"dedupe": "yes"}),
    ("priority", "hi", {"priority": True}),
]

CALLS = [
    ("tpm", lambda queue: Limits(tpm=10**400)),
    ("weight", lambda queue: queue.set_weight("a", 1e9)),
    ("custom_id", lambda queue: queue.cancel(None)),
    ("timeout", lambda queue: queue.join(NAN)),
    ("prompts", lambda queue: queue.map("one prompt")),
    ("done", lambda queue: queue.map_column(["a"], done=["1", "2"])),
    ("temperature", lambda queue: queue.with_options(temperature=object())),
    ("output_share", lambda queue: queue.estimate(["a"], output_share=2)),
    ("queue_options", lambda queue: queue.submit_call(print, queue_options={"priorty": 1})),
    ("make", lambda queue: GroqQueue.named("name", 5)),
    ("latency", lambda queue: GroqQueue.simulated(latency=-1)),
    ("priority", lambda queue: priority("loud").__enter__()),
    ("client", lambda queue: client("").__enter__()),
]

assert 49 <= len(CONSTRUCTOR) + len(SUBMIT) + len(CALLS)


@pytest.fixture(scope="module")
def queue():
    with GroqQueue.simulated(model=MODEL) as queue:
        queue.complete("warm")
        yield queue


def refused(act, field, queue):
    """Check that *act* is refused, by name and at once, and that the queue goes on; the best of three times counts."""
    before = queue.simulator.stats().received
    times = []
    for _ in range(3):
        began = time.perf_counter()
        with pytest.raises(ConfigurationError, match=field) as caught:
            act()
        times.append(time.perf_counter() - began)
    assert isinstance(caught.value, GroqQueueError)
    assert len(str(caught.value)) < 500
    assert min(times) < BOUND_S
    assert before == queue.simulator.stats().received
    assert queue.submit("still usable").result(30).text
    assert queue.join(30)


@pytest.mark.parametrize(("field", "value"), CONSTRUCTOR, ids=lambda value: repr(value)[:40])
def test_the_constructor_refuses(queue, field, value):
    def make():
        GroqQueue(**{"api_key": "gsk_test", "model": MODEL, field: value}).shutdown()

    refused(make, field, queue)


@pytest.mark.parametrize(("field", "prompt", "options"), SUBMIT, ids=lambda value: repr(value)[:40])
def test_submit_refuses(queue, field, prompt, options):
    refused(lambda: queue.submit(prompt, **options), field, queue)


@pytest.mark.parametrize(("field", "call"), CALLS, ids=lambda value: value if isinstance(value, str) else "")
def test_other_calls_refuse(queue, field, call):
    refused(lambda: call(queue), field, queue)


def test_a_payload_is_bounded_where_the_user_set_it(queue):
    """
    To the byte.
    """
    with GroqQueue(api_key="gsk_test", base_url=queue.simulator.base_url, model=MODEL, max_payload_bytes=200) as small:
        frame = len('{"messages":[{"role":"user","content":""}],"model":"' + MODEL + '"}')

        assert small.submit("x" * (200 - frame)).result(30).text
        with pytest.raises(ConfigurationError, match="max_payload_bytes=200"):
            small.submit("x" * (201 - frame))


def test_an_empty_base_url_is_not_groqs(monkeypatch):
    """
    ``base_url=os.environ.get("MY_PROXY", "")`` must not send prompts to somebody else.
    """
    with pytest.raises(ConfigurationError, match="base_url"):
        GroqQueue(api_key="gsk_test", base_url="", model=MODEL)
    monkeypatch.setenv("GROQ_BASE_URL", "")  # an empty variable is an unset one
    GroqQueue(api_key="gsk_test", model=MODEL).shutdown()
