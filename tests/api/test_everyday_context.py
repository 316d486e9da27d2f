"""Priority and client for code that has no parameter: context variables."""

from __future__ import annotations

import contextvars
import threading

import pytest

import groq_queue
from groq_queue import ConfigurationError, GroqQueue


@pytest.fixture
def queue():
    with GroqQueue.simulated(latency=0) as queue:
        yield queue


def ask(queue, **options):
    """Code that knows nothing of priorities."""
    info = queue.info(queue.submit("Why?", **options))
    return info.priority, info.client


def test_requests_of_the_block_take_its_priority_and_client(queue):
    with groq_queue.priority("high"), groq_queue.client("acme"):
        inside = ask(queue)

    assert (1, "acme") == inside
    assert (5, "default") == ask(queue)


def test_what_a_call_says_goes_before_the_context(queue):
    with groq_queue.priority("high"), groq_queue.client("acme"):
        said = ask(queue, priority="low", client="initech")
        viewed = queue.info(queue.with_options(priority=10).submit("Why?"))

    assert (8, "initech") == said
    assert (10, "acme") == (viewed.priority, viewed.client)


def test_calls_and_what_an_executor_runs_take_them_too(queue):
    """
    Libraries that accept an executor have no parameter for either.
    """
    with groq_queue.priority("high"), groq_queue.client("acme"):
        futures = [
            queue.submit_call(int),
            queue.executor().submit(int),
            queue.with_options(priority="low").executor().submit(int),
            queue.submit_call(int, queue_options={"priority": None, "client": "initech"}),
        ]

    seen = [queue.info(future) for future in futures]
    assert [(1, "acme"), (1, "acme"), (8, "acme"), (1, "initech")] == [(info.priority, info.client) for info in seen]


def test_blocks_nest_and_an_error_ends_them_too(queue):
    with groq_queue.priority("high"):
        with groq_queue.priority("background"):
            assert (10, "default") == ask(queue)
        with pytest.raises(OSError, match="gone"), groq_queue.priority("background"):
            raise OSError("gone")
        assert (1, "default") == ask(queue)


def test_a_function_can_be_decorated(queue):
    @groq_queue.priority("critical")
    def urgent():
        return ask(queue)

    assert (0, "default") == urgent()
    assert (5, "default") == ask(queue)


def test_bad_values_are_refused_at_the_block(queue):
    with pytest.raises(ConfigurationError, match="priority='urgent'"), groq_queue.priority("urgent"):
        pass
    with pytest.raises(ConfigurationError, match="client=''"), groq_queue.client(""):
        pass


def test_threads_and_callbacks_do_not_inherit_unless_a_copy_runs(queue):
    seen = {}
    with groq_queue.priority("high"):
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: seen.update(copied=context.run(ask, queue)))
        thread.start()
        thread.join(10)
        done = threading.Event()

        def called_back(future):
            seen["callback"] = ask(queue)
            done.set()

        queue.submit("Why?", callback=called_back)
        assert done.wait(10)

    assert {"copied": (1, "default"), "callback": (5, "default")} == seen
