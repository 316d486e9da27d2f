"""Traces and metrics of attempts by the GenAI conventions of OpenTelemetry.

    from groq_queue.integrations import otel

    queue = GroqQueue(observer=otel.observer())

One span of kind CLIENT for each attempt, named ``chat MODEL``. The convention would
put all retries into one span; here a request may wait for minutes between two, so
``groq_queue.attempt`` distinguishes the attempts. The parent is the span that was
current at ``submit``; a request that comes out of a journal has none. Two histograms:
``gen_ai.client.operation.duration`` (s) and ``gen_ai.client.token.usage`` ({token}).
Prompts and answers are recorded only with ``content=True``; error texts never, since
a server may repeat the prompt in them.

Needs the extra ``otel``.

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/, status Development, read 2026-11.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from groq_queue.clock import NS_PER_S
from groq_queue.core.validation import check_text
from groq_queue.engine.observer import Event, Observer
from groq_queue.errors import MissingExtraError

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

_OPERATIONS = {"chat/completions": "chat", "completions": "text_completion", "embeddings": "embeddings"}
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = tuple(4**power for power in range(14))  # 1 to 67,108,864


def observer(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    content: bool = False,
    provider: str = "groq",
) -> Observer:
    """Return what goes into ``GroqQueue(observer=…)``.

    Args:
        tracer_provider: None is the process's own.
        meter_provider: None is the process's own.
        content: Record prompts and answers in the spans.
        provider: ``gen_ai.provider.name``, for other APIs of the same dialect.

    Raises:
        MissingExtraError: opentelemetry-api is not installed.
    """
    try:
        from opentelemetry import context, metrics, trace
    except ImportError:
        raise MissingExtraError.needed("an OpenTelemetry observer", "otel") from None
    from groq_queue import __version__

    tracer = trace.get_tracer("groq_queue", __version__, tracer_provider)
    meter = metrics.get_meter("groq_queue", __version__, meter_provider)
    return _Telemetry(tracer, meter, trace, context, bool(content), check_text("provider", provider))


class _Telemetry:
    """Makes a span and two measurements of each event; safe to use from many threads."""

    def __init__(self, tracer: Any, meter: Any, trace: Any, context: Any, content: bool, provider: str) -> None:
        self.wants_content = content
        self._tracer = tracer
        self._trace = trace
        self._context = context
        self._provider = provider
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="Duration of an attempt",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._usage = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Tokens of an answered request",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )

    def at_submit(self) -> Any:
        """Return what the submitting thread is about, None for nothing."""
        return self._context.get_current() or None

    def __call__(self, event: Event) -> None:
        common = self._common(event)
        failure = {} if (error := _error_type(event)) is None else {"error.type": error}
        self._duration.record(event.seconds, {**common, **failure})
        if event.usage is not None:
            for kind, tokens in zip(("input", "output"), event.usage, strict=False):
                self._usage.record(tokens, {**common, "gen_ai.token.type": kind})
        self._span(event, {**common, **failure, **_details(event)})

    def _common(self, event: Event) -> dict[str, Any]:
        common = {
            "gen_ai.operation.name": _OPERATIONS.get(event.endpoint, event.endpoint),
            "gen_ai.provider.name": self._provider,
            "gen_ai.request.model": event.model,
        }
        if event.answer_model is not None:
            common["gen_ai.response.model"] = event.answer_model
        return common

    def _span(self, event: Event, attributes: Mapping[str, Any]) -> None:
        began_ns = round(event.started_at * NS_PER_S)
        span = self._tracer.start_span(
            f"{attributes['gen_ai.operation.name']} {event.model}",
            context=event.noted,
            kind=self._trace.SpanKind.CLIENT,
            attributes=attributes,
            start_time=began_ns,
        )
        if event.outcome != "done":
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, event.outcome))
        span.end(end_time=began_ns + round(event.seconds * NS_PER_S))


def _error_type(event: Event) -> str | None:
    """Return a class of failures: the status if that tells it, else the name of the error."""
    if event.error is None:
        return None
    return str(event.status) if event.status not in (None, 200) else type(event.error).__name__


def _details(event: Event) -> dict[str, Any]:
    """Return what a span tells and a metric must not, because it has no bound."""
    found: dict[str, Any] = {
        "groq_queue.request_id": event.request_id,
        "groq_queue.custom_id": event.custom_id,
        "groq_queue.client": event.client,
        "groq_queue.priority": event.priority,
        "groq_queue.attempt": event.attempt,
        "groq_queue.outcome": event.outcome,
        "groq_queue.waited_s": event.waited_s,
        "http.response.status_code": event.status,
        "gen_ai.response.id": event.answer_id,
        "gen_ai.response.finish_reasons": event.finish_reasons or None,
    }
    if event.usage is not None:
        prompt, completion, cached = event.usage
        found["gen_ai.usage.input_tokens"] = prompt
        found["gen_ai.usage.output_tokens"] = completion
        found["gen_ai.usage.cache_read.input_tokens"] = cached
    if event.payload is not None:
        found["gen_ai.input.messages"] = _as_json(_asked(event.payload))
    if event.answer is not None:
        found["gen_ai.output.messages"] = _as_json(_answered(event.answer))
    return {name: value for name, value in found.items() if value is not None}


def _asked(payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages = payload.get("messages")
    if isinstance(messages, list):
        return [_message(message) for message in messages if isinstance(message, Mapping)]
    given = payload.get("input", payload.get("prompt"))
    return [] if given is None else [{"role": "user", "parts": [_part(given)]}]


def _answered(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    choices = answer.get("choices")
    found = []
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, Mapping) and isinstance(choice.get("message"), Mapping):
            found.append({**_message(choice["message"]), "finish_reason": choice.get("finish_reason")})
    return found


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    parts = [_part(each) for each in (content if isinstance(content, list) else [content]) if each is not None]
    for call in message.get("tool_calls") or ():
        parts.append({"type": "tool_call", **call.get("function", {}), "id": call.get("id")})
    return {"role": message.get("role"), "parts": parts}


def _part(content: Any) -> dict[str, Any]:
    if isinstance(content, str):
        return {"type": "text", "content": content}
    if isinstance(content, Mapping) and isinstance(content.get("text"), str):
        return {"type": "text", "content": content["text"]}
    return {"type": "generic", "content": content}


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
