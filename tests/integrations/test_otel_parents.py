"""The span of an attempt belongs to the span in which its request was submitted, whatever thread sends it."""

from __future__ import annotations

import json
import threading

import pytest
import requests
from extras import needs
from hasty import HastyClock

from groq_queue import GroqQueue, GroqSimulator, Limits
from groq_queue.integrations import otel, requests_adapter
from groq_queue.simulator import Fault

MODEL = "llama-3.1-8b-instant"
QUESTION = [{"role": "user", "content": "Why?"}]


@pytest.fixture
def tracing():
    needs("opentelemetry.sdk")
    return Tracing()


class Tracing:
    """The SDK with every span kept in memory."""

    def __init__(self, **options):
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")

    def queue(self, **options):
        return GroqQueue.simulated(
            observer=otel.observer(tracer_provider=self.provider), model=MODEL, latency=0.0, limits=Limits(), **options
        )

    def parents(self):
        """Return the names of the spans that hold those of attempts, in the order of their ends; None for none."""
        spans = self._exporter.get_finished_spans()
        names = {span.context.span_id: span.name for span in spans}
        attempts = [span for span in spans if span.kind.name == "CLIENT"]
        return [None if span.parent is None else names[span.parent.span_id] for span in attempts]

    def traces(self):
        return {span.context.trace_id for span in self._exporter.get_finished_spans()}


def by_submit(queue):
    queue.submit("Why?").result()


def by_map(queue):
    list(queue.map(["Why?"]))


def by_view(queue):
    queue.with_options(temperature=0).complete("Why?")


def by_call(queue):
    queue.submit_call(str, queue_options={"model": MODEL, "tokens": 5}).result()


def shared(queue):
    queue.submit("Why?", dedupe=True).result()


def by_session(queue):
    with requests.Session() as session:
        session.mount(queue.base_url, requests_adapter(queue))
        session.headers["Authorization"] = "Bearer simulated"
        session.post(queue.base_url + "/chat/completions", json={"model": MODEL, "messages": QUESTION})


@pytest.mark.parametrize("ask", [by_submit, by_map, by_view, by_call, shared, by_session])
def test_the_span_in_which_a_request_is_submitted_holds_that_of_its_attempt(tracing, ask):
    with tracing.queue() as queue, tracing.tracer.start_as_current_span("page"):
        ask(queue)

    assert ["page"] == tracing.parents()
    assert 1 == len(tracing.traces())


def test_requests_that_wait_together_keep_their_own(tracing):
    with tracing.queue() as queue:
        queue.pause()
        for name in ("one", "two"):
            with tracing.tracer.start_as_current_span(name):
                queue.submit("Why?", custom_id=name)
        queue.submit("Why?")

    assert {"one", "two", None} == set(tracing.parents())
    assert 3 == len(tracing.traces())


def test_each_attempt_of_a_request_has_the_same(tracing):
    with (
        GroqSimulator(faults=[Fault(status=503, times=2)]) as groq,
        GroqQueue(
            api_key="t",
            base_url=groq.base_url,
            model=MODEL,
            limits=Limits(),
            observer=otel.observer(tracer_provider=tracing.provider),
            clock=HastyClock(),
        ) as queue,
        tracing.tracer.start_as_current_span("page"),
    ):
        queue.complete("Why?")

    assert ["page"] * 3 == tracing.parents()


def test_a_request_that_a_journal_keeps_has_its_own_too(tracing, tmp_path):
    with tracing.queue(journal=tmp_path / "run.db") as queue, tracing.tracer.start_as_current_span("page"):
        queue.complete("Why?")

    assert ["page"] == tracing.parents()


def test_a_span_that_is_not_recorded_records_no_attempt(tracing):
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

    unsampled = Tracing(sampler=ParentBased(ALWAYS_OFF))
    with unsampled.queue() as queue, unsampled.tracer.start_as_current_span("page"):
        queue.complete("Why?")

    assert [] == unsampled.parents()


# -- what any observer may note


class Noting:
    """An observer that notes the name of the thread that submits."""

    def __init__(self):
        self.events = []

    def at_submit(self):
        return threading.current_thread().name

    def __call__(self, event):
        self.events.append(event)


def test_an_observer_gets_back_what_it_noted_and_another_gets_nothing():
    first, second, events = Noting(), Noting(), []
    second.at_submit = lambda: {"a": 1}
    with GroqQueue.simulated(observer=[first, events.append, second], latency=0.0) as queue:
        queue.complete("Why?")

    assert [threading.current_thread().name] == [event.noted for event in first.events]
    assert [None] == [event.noted for event in events]
    assert [{"a": 1}] == [event.noted for event in second.events]


def test_an_observer_that_cannot_note_is_logged_and_harms_nothing(caplog):
    observer = Noting()
    observer.at_submit = lambda: 1 / 0
    with GroqQueue.simulated(observer=observer, latency=0.0) as queue:
        assert queue.complete("Why?")

    assert [None] == [event.noted for event in observer.events]
    assert ["observer_raised"] == [record.groq_queue_event for record in caplog.records]


@pytest.mark.parametrize("observer", [None, [lambda event: None]])
def test_where_nobody_notes_a_request_is_as_small_as_ever(observer):
    with GroqQueue.simulated(observer=observer, latency=0.0) as queue:
        future = queue.submit("Why?")
        future.result()

    assert {} == vars(future._request)


def test_what_was_noted_is_forgotten_with_the_last_attempt():
    with GroqQueue.simulated(observer=Noting(), latency=0.0) as queue:
        future = queue.submit("Why?")
        future.result()

    assert () == future._request.noted
    json.dumps(future.result())
