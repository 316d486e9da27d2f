"""Registering again: a queue in place of one that is gone, the same one twice, several one after the other."""

from __future__ import annotations

import gc
import logging

import pytest
from extras import needs

from groq_queue import ConfigurationError, GroqQueue
from groq_queue.integrations import prometheus


@pytest.fixture
def client():
    return needs("prometheus_client")


@pytest.fixture
def registry(client):
    return client.CollectorRegistry()


@pytest.fixture
def make_queue():
    queues = []

    def make() -> GroqQueue:
        queues.append(GroqQueue(api_key="t"))
        return queues[-1]

    yield make
    for queue in queues:
        queue.shutdown()


def running(registry, name=None):
    return registry.get_sample_value("groq_queue_running", {} if name is None else {"queue": name})


def families_of(registry):
    return [family.name for family in registry.collect()]


@pytest.mark.parametrize("name", [None, "bulk"])
def test_a_queue_takes_the_place_of_one_that_is_gone(registry, make_queue, name):
    gone = GroqQueue(api_key="t")
    prometheus.register(gone if name is None else {name: gone}, registry)
    gone.shutdown()
    del gone
    gc.collect()

    queue = make_queue()
    prometheus.register(queue if name is None else {name: queue}, registry)

    assert 1.0 == running(registry, name)


@pytest.mark.parametrize("name", [None, "bulk"])
def test_a_queue_takes_the_place_of_one_that_was_shut_down(registry, make_queue, name):
    """
    As in a notebook, where a cell that is run again still holds what it made before.
    """
    first, second = make_queue(), make_queue()
    prometheus.register(first if name is None else {name: first}, registry)
    first.shutdown()

    prometheus.register(second if name is None else {name: second}, registry)

    assert 1.0 == running(registry, name)
    assert 16 == len(families_of(registry)) == len(set(families_of(registry)))


@pytest.mark.parametrize("name", [None, "bulk"])
def test_the_same_queue_may_be_registered_as_often_as_one_likes(registry, make_queue, name):
    queue = make_queue()

    made = [prometheus.register(queue if name is None else {name: queue}, registry) for _ in range(3)]
    assert 1.0 == running(registry, name)
    registry.unregister(made[-1])

    assert running(registry, name) is None


@pytest.mark.parametrize(("before", "after"), [(None, "bulk"), ("bulk", None), ("bulk", "chat")])
def test_a_queue_that_gets_another_name_is_not_counted_twice(registry, make_queue, before, after):
    queue = make_queue()

    for name in (before, after):
        prometheus.register(queue if name is None else {name: queue}, registry)

    assert (None, 1.0) == (running(registry, before), running(registry, after))


def test_a_named_queue_is_registered_by_whoever_asks_for_it(registry):
    def of_a_request():
        queue = GroqQueue.named("web", api_key="t")
        prometheus.register({"web": queue}, registry)
        return queue

    queue = of_a_request()
    try:
        assert queue is of_a_request()
        assert 1.0 == running(registry, "web")
    finally:
        queue.shutdown()


def test_queues_registered_one_after_the_other_are_scraped_together(registry, make_queue):
    one, two, three = make_queue(), make_queue(), make_queue()
    prometheus.register({"bulk": one}, registry)
    prometheus.register({"chat": two, "bulk": one}, registry)
    prometheus.register(three, registry)
    one.shutdown()

    assert (0.0, 1.0) == (running(registry, "bulk"), running(registry, "chat"))
    assert 1.0 == running(registry, ""), "an empty label is the same as none"
    assert 16 == len(families_of(registry)) == len(set(families_of(registry)))


@pytest.mark.parametrize("name", [None, "bulk"])
def test_two_queues_that_work_cannot_have_one_name(registry, make_queue, name):
    first, second, other = make_queue(), make_queue(), make_queue()
    prometheus.register(first if name is None else {name: first}, registry)

    with pytest.raises(ConfigurationError, match=r"another queue.*\{.*: queue\}"):
        prometheus.register(second if name is None else {"other": other, name: second}, registry)

    first.shutdown()
    assert 0.0 == running(registry, name), "the first is still the one"
    assert running(registry, "other") is None, "all or none"


def test_a_collector_that_was_unregistered_leaves_nothing_behind(registry, make_queue):
    first, second = make_queue(), make_queue()
    registry.unregister(prometheus.register({"bulk": first}, registry))

    prometheus.register({"bulk": second, "chat": first}, registry)
    second.shutdown()

    assert (0.0, 1.0) == (running(registry, "bulk"), running(registry, "chat"))


def test_registries_know_nothing_of_each_other(client, make_queue):
    one, two = client.CollectorRegistry(), client.CollectorRegistry()
    first, second = make_queue(), make_queue()
    prometheus.register(first, one)
    prometheus.register(second, two)
    first.shutdown()

    assert (0.0, 1.0) == (running(one), running(two))


def test_somebody_elses_collector_of_these_names_is_not_touched(registry, make_queue):
    queue = make_queue()
    registry.register(prometheus.collector(queue))

    with pytest.raises(ValueError, match="Duplicated"):
        prometheus.register(queue, registry)

    assert 1.0 == running(registry)


# -- several processes


@pytest.fixture
def by_several_processes(client, monkeypatch, tmp_path):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(prometheus, "_warned_multiprocess", False)
    return tmp_path


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.groq_queue_event == "scraped_alone"]


def test_that_each_process_tells_its_own_queue_only_is_told_once(by_several_processes, client, make_queue, caplog):
    made = [prometheus.register(make_queue())]
    try:
        client.REGISTRY.unregister(made.pop())
        made.append(prometheus.register(make_queue()))
    finally:
        client.REGISTRY.unregister(made.pop())

    (told,) = warnings_in(caplog)
    assert "PROMETHEUS_MULTIPROC_DIR" in told
    assert "registry" in told
    assert logging.WARNING == caplog.records[0].levelno


def test_it_is_told_of_the_registry_that_collects_what_processes_wrote(
    by_several_processes, registry, make_queue, caplog
):
    from prometheus_client import multiprocess

    multiprocess.MultiProcessCollector(registry)
    prometheus.register(make_queue(), registry)

    assert 1 == len(warnings_in(caplog))


def test_a_registry_of_its_own_is_what_each_process_should_have(by_several_processes, registry, make_queue, caplog):
    prometheus.register(make_queue(), registry)

    assert 1.0 == running(registry)
    assert [] == warnings_in(caplog)
