"""The same with RabbitMQ as the broker: requests stand in Redis, RabbitMQ wakes the workers."""

from __future__ import annotations

import signal
from collections import Counter
from concurrent.futures import wait

import pytest
from extras import needs_program
from rabbit import Rabbit
from worker_fleet import PATIENCE_S

from groq_queue import EngineUnavailable, GroqQueue

S = 120


@pytest.fixture
def rabbit():
    needs_program("rabbitmq-server")
    needs_program("epmd", "rabbitmq-server")
    broker = Rabbit()
    yield broker
    broker.stop()


@pytest.mark.slow
def test_rabbitmq_may_be_the_broker(fleet, rabbit):
    """
    Urgent ones first, nothing lost or doubled when a worker is killed, cancelled ones unsent.
    """
    ours = fleet(latency=0.1)
    state = ours.broker
    ours.broker = rabbit.url
    with ours.queue(state=state) as queue:
        futures = [queue.submit(f"n {n}", priority="low") for n in range(100)]
        assert all(future.cancel() for future in futures[90:])
        first = ours.start_worker("--state", state, lanes="urgent:2,bulk:4")
        assert ours.groq.wait_for_requests(10, PATIENCE_S)
        high = queue.submit("high", priority="high").result(S)
        ours.stop_worker(first, signal.SIGKILL)
        ours.start_worker("--state", state, lanes="urgent:2,bulk:4")
        assert not wait(futures, S).not_done
        again = queue.submit("again", priority="high").result(S)

    sent = Counter(ours.prompts())
    print(f"high started after {high.waited * 1e3:.0f} ms and {again.waited * 1e3:.0f} ms; {sum(sent.values())} calls")
    assert 92 == len(sent)
    assert sum(sent.values()) <= 92 + 4
    assert [None] * 90 == [future.exception() for future in futures[:90]]


@pytest.mark.slow
def test_submit_says_that_rabbitmq_is_down(server):
    """
    And takes back what it has stored.
    """
    with GroqQueue(engine="celery", broker="amqp://127.0.0.1:1//", state=server.url, model="m") as queue:
        with pytest.raises(EngineUnavailable, match=r"amqp://127\.0\.0\.1:1"):
            queue.submit("hello")
        assert 0 == queue.stats().submitted
