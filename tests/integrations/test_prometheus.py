"""What Prometheus scrapes is what ``stats()`` tells at that moment."""

from __future__ import annotations

import gc
import re
import sys

import pytest
from extras import needs

from groq_queue import ConfigurationError, GroqQueue, Limits, MissingExtraError
from groq_queue.integrations import prometheus

MODEL = "llama-3.1-8b-instant"


def test_the_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    with (
        GroqQueue(api_key="t") as queue,
        pytest.raises(MissingExtraError, match=r"'prometheus'.*pip install 'prometheus_client>="),
    ):
        prometheus.register(queue)


@pytest.fixture
def registry():
    client = needs("prometheus_client")
    return client.CollectorRegistry()


def text_of(registry) -> str:
    from prometheus_client import generate_latest

    return generate_latest(registry).decode()


def test_a_scrape_reads_the_figures_of_its_moment(registry):
    with GroqQueue.simulated(limits=Limits(rpm=100, tpm=50_000), latency=0.0) as queue:
        prometheus.register(queue, registry)
        before = registry.get_sample_value("groq_queue_ended_requests_total", {"outcome": "completed"})
        for number in range(3):
            queue.complete("Why?", max_completion_tokens=4, custom_id=f"secret-{number}", client="alice")
        queue.pause()
        waiting = [queue.submit("Why?", priority="low") for _ in range(2)]

        def value(name, **labels):
            return registry.get_sample_value(f"groq_queue_{name}", labels)

        stats = queue.stats()
        assert (0.0, 3.0) == (before, value("ended_requests_total", outcome="completed"))
        assert 5.0 == value("submitted_requests_total")
        assert 3.0 == value("attempts_total")
        assert 2.0 == value("pending_requests", model=MODEL)
        assert (2.0, 0.0) == (
            value("pending_requests_by_priority", priority="8"),
            value("pending_requests_by_priority", priority="5"),
        )
        assert 1.0 == value("paused", model=MODEL) == value("running")
        assert float(stats.prompt_tokens) == value("tokens_total", type="prompt") > 0
        assert stats.cost == pytest.approx(value("cost_dollars_total"))
        assert (100.0, 60.0) == (
            value("limit_capacity", model=MODEL, dimension="RPM"),
            value("limit_period_seconds", model=MODEL, dimension="RPM"),
        )
        assert value("wait_seconds", quantile="0.5") is not None
        shown = text_of(registry)
        for future in waiting:
            future.cancel()

    assert "secret" not in shown
    assert "alice" not in shown


def test_names_begin_with_ours_and_labels_are_bounded(registry):
    with GroqQueue.simulated() as queue:
        prometheus.register(queue, registry)
        queue.complete("Why?", max_completion_tokens=4)
        shown = text_of(registry)

    families = re.findall(r"^# TYPE (\S+) (\S+)$", shown, re.MULTILINE)
    labels = set(re.findall(r'(\w+)="', shown))
    assert len(families) == len(set(families)) == 16
    assert all(name.startswith("groq_queue_") for name, _ in families)
    assert all(name.endswith("_total") for name, kind in families if kind == "counter")
    assert {"model", "dimension", "priority", "outcome", "type", "quantile"} == labels


def test_several_queues_are_told_apart_by_name(registry):
    with GroqQueue.simulated(latency=0.0) as one, GroqQueue.simulated(latency=0.0) as two:
        prometheus.register({"bulk": one, "chat": two}, registry)
        one.complete("Why?", max_completion_tokens=4)

        values = [registry.get_sample_value("groq_queue_attempts_total", {"queue": name}) for name in ("bulk", "chat")]

    assert [1.0, 0.0] == values


def test_a_queue_that_is_dropped_is_scraped_no_more(registry):
    queue = GroqQueue(api_key="t")
    prometheus.register(queue, registry)
    queue.shutdown()
    before = registry.get_sample_value("groq_queue_running")
    del queue
    gc.collect()

    assert (0.0, None) == (before, registry.get_sample_value("groq_queue_running"))


@pytest.mark.parametrize("queue", [5, {"a": 5}, {"": None}, {3: None}])
def test_what_is_no_queue_is_refused(registry, queue):
    with pytest.raises(ConfigurationError, match="queue="):
        prometheus.register(queue, registry)
