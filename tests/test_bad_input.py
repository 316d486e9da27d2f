"""Bad input is refused by the call that received it, and the error names the field."""

from __future__ import annotations

import time

import pytest

from groq_queue import ConfigurationError, GroqQueue, Limits, QueueClosed, RequestTooLarge

CONSTRUCTOR = [
    ("api_key", ""),
    ("api_key", 5),
    ("api_key", "gsk_ é"),
    ("api_key", "gsk_a\nb"),
    ("base_url", "x"),
    ("base_url", "ftp://h"),
    ("base_url", "http://example.com/v1"),
    ("base_url", 7),
    ("model", ""),
    ("model", 3),
    ("limits", 5),
    ("limits", {"m": 30}),
    ("max_workers", 0),
    ("max_workers", -2),
    ("max_workers", "8"),
    ("max_workers", True),
    ("timeout", 0),
    ("timeout", -1),
    ("timeout", "5"),
    ("timeout", (1, 2, 3)),
    ("timeout", float("nan")),
    ("timeout", None),
    ("max_retries", -1),
    ("max_retries", 1.5),
    ("max_pending", 0),
    ("max_pending_per_client", 0),
    ("max_concurrency", 0),
    ("when_full", "explode"),
    ("fair_by", "mood"),
    ("ageing", 0),
    ("ageing", -5),
    ("session", "not a session"),
]

LIMITS = [
    ("rpm", 0),
    ("rpm", -1),
    ("rpm", "ten"),
    ("rpm", 1.5),
    ("tpm", 0),
    ("tpd", True),
    ("minute_s", 0),
    ("minute_s", -60),
    ("day_s", float("inf")),
]

PAYLOAD = [
    ("messages", None, {}),
    ("messages", {}, {}),
    ("messages", [], {}),
    ("messages", {"messages": "hi"}, {}),
    ("messages", {"messages": 5}, {}),
    ("messages", {"messages": ["hi"]}, {}),
    ("role", {"messages": [{"content": "hi"}]}, {}),
    ("messages", "hi", {"messages": [{"role": "user", "content": "there"}]}),
    ("prompt", 5, {}),
    ("prompt", b"bytes", {}),
    ("user", "hi", {"user": {1, 2}}),
    ("temperature", "hi", {"temperature": float("inf")}),
    ("metadata", "hi", {"metadata": {"x": object()}}),
    ("metadata", "hi", {"metadata": {5: "x"}}),
    ("payload", "half a \ud800 pair", {}),
    ("payload", "hi", {"seed": 10**5_000}),
    ("payload", "x" * 11_000_000, {}),
    ("stream", "hi", {"stream": True}),
    ("model", "hi", {"model": 5}),
    ("priority", "hi", {"priority": "loud"}),
    ("priority", "hi", {"priority": 11}),
    ("priority", "hi", {"priority": -1}),
    ("priority", "hi", {"priority": 1.5}),
    ("client", "hi", {"client": 5}),
    ("client", "hi", {"client": ""}),
    ("custom_id", "hi", {"custom_id": 5}),
    ("tokens", "hi", {"tokens": 0}),
    ("max_wait", "hi", {"max_wait": 0}),
    ("max_wait", "hi", {"max_wait": float("nan")}),
    ("deadline", "hi", {"deadline": -1}),
    ("deadline", "hi", {"deadline": "soon"}),
    ("not_before", "hi", {"not_before": -1}),
    ("callback", "hi", {"callback": "not callable"}),
    ("endpoint", "hi", {"endpoint": ""}),
    ("endpoint", "hi", {"endpoint": "chat/completions\r\nX-Evil: y"}),
    ("endpoint", "hi", {"endpoint": "chat completions"}),
    ("endpoint", "hi", {"endpoint": "../x"}),
    ("endpoint", "hi", {"endpoint": "http://evil/x"}),
    ("shrink", "hi", {"shrink": "yes"}),
    ("model", "hi", {"model": ""}),
]


def begins_with(field):
    """Return the pattern of a message that begins with the name of *field*, or with its place in the payload."""
    return rf"^(payload\['|messages\[0\]\['|){field}\b"


@pytest.mark.parametrize(("field", "value"), CONSTRUCTOR)
def test_the_constructor_names_the_field(field, value):
    with pytest.raises(ConfigurationError, match=begins_with(field)):
        GroqQueue(**{"api_key": "gsk_test", "model": "m", field: value})


@pytest.mark.parametrize(("field", "value"), LIMITS)
def test_limits_name_the_field(field, value):
    with pytest.raises(ConfigurationError, match=begins_with(field)):
        Limits(**{field: value})


@pytest.fixture(scope="module")
def queue():
    with GroqQueue.simulated() as queue:
        yield queue


@pytest.mark.parametrize(("field", "given", "options"), PAYLOAD)
def test_submit_names_the_field_and_sends_nothing(queue, field, given, options):
    before = queue.simulator.stats().received
    began = time.perf_counter()

    with pytest.raises(ConfigurationError, match=begins_with(field)):
        queue.submit(given, **options)

    assert time.perf_counter() - began < 1
    assert before == queue.simulator.stats().received
    assert 0 == queue.stats().pending


def test_a_list_that_holds_itself_is_refused(queue):
    loop = []
    loop.append(loop)

    with pytest.raises(ConfigurationError, match="payload"):
        queue.submit("hi", metadata={"loop": loop})


def test_a_payload_without_any_model_names_model():
    with (
        GroqQueue(api_key="k", base_url="http://127.0.0.1:1") as queue,
        pytest.raises(ConfigurationError, match="model"),
    ):
        queue.submit("hi")


def test_a_callable_is_sent_to_submit_call(queue):
    with pytest.raises(TypeError, match="submit_call"):
        queue.submit(print)


def test_an_unknown_keyword_of_the_constructor_is_a_type_error():
    with pytest.raises(TypeError, match="max_worker"):
        GroqQueue(api_key="k", max_worker=8)


def test_no_key_anywhere_names_the_variable_and_the_simulator(monkeypatch):
    monkeypatch.delenv("GROQ_API_KEY", raising=False)

    with pytest.raises(ConfigurationError, match=r"GROQ_API_KEY.*GroqQueue\.simulated\(\)"):
        GroqQueue(model="m")


def test_a_key_is_never_echoed():
    with pytest.raises(ConfigurationError) as caught:
        GroqQueue(api_key="gsk_secret with space", model="m")

    assert "secret" not in str(caught.value)


def test_submit_after_shutdown_raises_a_runtime_error_at_once():
    queue = GroqQueue(api_key="k", base_url="http://127.0.0.1:1", model="m")
    queue.shutdown()

    with pytest.raises(QueueClosed) as caught:
        queue.submit("hi")
    assert isinstance(caught.value, RuntimeError)


def test_too_large_is_a_value_error_too():
    assert issubclass(RequestTooLarge, ValueError)


@pytest.mark.parametrize("weight", [0, -1, "3", float("nan"), True])
def test_a_weight_is_a_positive_number(queue, weight):
    with pytest.raises(ConfigurationError, match="weight"):
        queue.set_weight("a", weight)


def test_a_foreign_future_is_refused(queue):
    from concurrent.futures import Future

    for ask in (queue.info, queue.explain, lambda future: queue.set_priority(future, 1)):
        with pytest.raises(ConfigurationError, match="future"):
            ask(Future())
