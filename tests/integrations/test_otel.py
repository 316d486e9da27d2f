"""Spans and histograms follow the GenAI conventions, and hold content only for those who ask."""

from __future__ import annotations

import json
import sys

import pytest
from extras import needs

from groq_queue import GroqQueue, GroqSimulator, MissingExtraError
from groq_queue.integrations import otel
from groq_queue.simulator import Fault

MODEL = "llama-3.1-8b-instant"


def test_the_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    with pytest.raises(MissingExtraError, match=r"'otel'.*pip install 'opentelemetry-api>="):
        otel.observer()


class Telemetry:
    """The SDK with everything kept in memory."""

    def __init__(self):
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)

    def observer(self, **options):
        return otel.observer(tracer_provider=self.tracers, meter_provider=self.meters, **options)

    def close(self):
        self.tracers.shutdown()
        self.meters.shutdown()

    @property
    def spans(self):
        return self._exporter.get_finished_spans()

    def points(self):
        """``{name: (unit, points)}`` of what was measured."""
        data = self._reader.get_metrics_data()
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        return {metric.name: (metric.unit, list(metric.data.data_points)) for metric in metrics}


@pytest.fixture
def telemetry():
    needs("opentelemetry.sdk")
    made = Telemetry()
    yield made
    made.close()


def ask(telemetry, faults=(), **options):
    with (
        GroqSimulator(faults=list(faults), latency=0.02) as groq,
        GroqQueue(api_key="t", base_url=groq.base_url, model=MODEL, observer=telemetry.observer(**options)) as queue,
    ):
        return queue.complete("a secret", max_completion_tokens=4, custom_id="c-1")


def test_an_attempt_is_a_client_span_named_by_operation_and_model(telemetry):
    answer = ask(telemetry)

    (span,) = telemetry.spans
    attributes = dict(span.attributes)
    assert (f"chat {MODEL}", "CLIENT", "UNSET") == (span.name, span.kind.name, span.status.status_code.name)
    assert {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "groq",
        "gen_ai.request.model": MODEL,
        "gen_ai.response.model": MODEL,
        "gen_ai.response.id": answer.id,
        "gen_ai.usage.input_tokens": answer.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": answer.usage.completion_tokens,
        "groq_queue.custom_id": "c-1",
        "groq_queue.attempt": 1,
        "http.response.status_code": 200,
    }.items() <= attributes.items()
    assert span.end_time - span.start_time >= 20_000_000
    assert "error.type" not in attributes
    assert "secret" not in repr(attributes)


def test_a_failed_attempt_is_a_span_of_its_own_with_its_class_of_error(telemetry):
    ask(telemetry, faults=[Fault(status=503, times=1)])

    first, second = telemetry.spans
    assert ("ERROR", "503", 1) == (
        first.status.status_code.name,
        first.attributes["error.type"],
        first.attributes["groq_queue.attempt"],
    )
    assert ("UNSET", 2) == (second.status.status_code.name, second.attributes["groq_queue.attempt"])


def test_duration_and_tokens_are_measured_without_unbounded_attributes(telemetry):
    answer = ask(telemetry, faults=[Fault(status=503, times=1)])

    points = telemetry.points()
    assert {"gen_ai.client.operation.duration", "gen_ai.client.token.usage"} == set(points)
    unit, durations = points["gen_ai.client.operation.duration"]
    assert ("s", 2) == (unit, sum(point.count for point in durations))
    assert {None, "503"} == {point.attributes.get("error.type") for point in durations}
    unit, tokens = points["gen_ai.client.token.usage"]
    assert "{token}" == unit
    assert {"input": answer.usage.prompt_tokens, "output": answer.usage.completion_tokens} == {
        point.attributes["gen_ai.token.type"]: point.sum for point in tokens
    }
    assert (1, 4, 16) == tuple(tokens[0].explicit_bounds[:3])
    names = {name for point in [*durations, *tokens] for name in point.attributes}
    assert not [name for name in names if name.startswith("groq_queue.")]


def test_content_is_recorded_only_when_asked_for(telemetry):
    answer = ask(telemetry, content=True)

    attributes = telemetry.spans[0].attributes
    assert [{"role": "user", "parts": [{"type": "text", "content": "a secret"}]}] == json.loads(
        attributes["gen_ai.input.messages"]
    )
    (told,) = json.loads(attributes["gen_ai.output.messages"])
    assert {"type": "text", "content": answer.text} == told["parts"][0]
    assert answer.choices[0].finish_reason == told["finish_reason"]


def test_without_a_provider_of_its_own_the_api_does_nothing():
    needs("opentelemetry")
    with GroqQueue.simulated(observer=otel.observer(), latency=0.0) as queue:
        assert queue.complete("Why?", max_completion_tokens=4)


def test_parts_of_many_kinds_become_json():
    """
    Pictures, tool calls and plain prompts, as the conventions spell them.
    """
    picture = {"type": "image_url", "image_url": {"url": "u"}}
    call = {"id": "t1", "function": {"name": "f", "arguments": "{}"}}
    payload = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "see"}, picture]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ]
    }

    told = otel._asked(payload)

    assert {"type": "text", "content": "see"} == told[0]["parts"][0]
    assert "generic" == told[0]["parts"][1]["type"]
    assert {"type": "tool_call", "name": "f", "arguments": "{}", "id": "t1"} == told[1]["parts"][0]
    assert [{"role": "user", "parts": [{"type": "text", "content": "hi"}]}] == otel._asked({"prompt": "hi"})
