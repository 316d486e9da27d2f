"""Views with other defaults, and the Executor."""

from __future__ import annotations

import asyncio
import re
import threading
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor

import pytest

from groq_queue import ConfigurationError, GroqQueue, QueueClosed
from groq_queue.api.bulk import BulkMethods
from groq_queue.wiring.options import OF_SUBMIT


@pytest.fixture
def queue():
    with GroqQueue.simulated(latency=0) as queue:
        yield queue


class Recorder(BulkMethods):
    """Notes what reaches it; calls run on a thread of its own when the test lets them."""

    def __init__(self) -> None:
        self.submitted: list[dict[str, object]] = []
        self.calls: list[tuple[object, ...]] = []
        self.pool = ThreadPoolExecutor(2)

    def submit(self, prompt=None, /, **options):
        self.submitted.append({"prompt": prompt, **options})
        return Future()

    def submit_call(self, fn, /, *args, queue_options=None, **kwargs):
        self.calls.append((fn, args, queue_options, kwargs))
        return self.pool.submit(fn, *args, **kwargs)

    def __repr__(self):
        return "<recorder>"


@pytest.fixture
def recorder():
    made = Recorder()
    yield made
    made.pool.shutdown()


def test_a_view_adds_its_options_and_a_call_has_the_last_word(recorder):
    view = recorder.with_options(priority="high", temperature=0)

    view.submit("a")
    view.submit("b", priority="low", seed=1)

    assert {"prompt": "a", "priority": "high", "temperature": 0} == recorder.submitted[0]
    assert {"prompt": "b", "priority": "low", "temperature": 0, "seed": 1} == recorder.submitted[1]


def test_views_of_views_merge_and_leave_each_other_alone(recorder):
    outer = recorder.with_options(priority="high", client="acme")
    inner = outer.with_options(priority="low", temperature=0)

    inner.submit("a")
    outer.submit("b")

    assert {"prompt": "a", "priority": "low", "client": "acme", "temperature": 0} == recorder.submitted[0]
    assert {"prompt": "b", "priority": "high", "client": "acme"} == recorder.submitted[1]
    assert "<view of <recorder> with priority='low', client='acme', temperature=0>" == repr(inner)


def test_what_a_payload_says_itself_goes_before_the_view(queue):
    sent = []
    view = queue.with_options(temperature=0, model="llama-3.3-70b-versatile")
    queue._engine.submit = lambda request, callback: sent.append(request.body) or Future()

    view.submit({"model": "llama-3.1-8b-instant", "temperature": 1, "messages": [{"role": "user", "content": "a"}]})

    assert b'"model":"llama-3.1-8b-instant","temperature":1,' in sent[0]


def test_a_view_has_the_everyday_calls(queue):
    view = queue.with_options(priority="high", client="acme", dedupe=True)

    assert view.complete("a").text
    assert 3 == len(list(view.map(["a", "b", "c"])))
    assert 2 == len(view.map_column(["a", "b"]))
    assert (1, "acme") == (queue.info(view.submit("a")).priority, queue.info(view.submit("a")).client)
    assert isinstance(queue.with_options(priority="high").executor(), Executor)
    assert view.stats().completed >= 6


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"priority": "urgent"}, "priority='urgent'"),
        ({"client": ""}, "client=''"),
        ({"model": 7}, "model=7"),
        ({"endpoint": "../keys"}, "endpoint="),
        ({"max_wait": -1}, "max_wait=-1"),
        ({"deadline": "soon"}, "deadline='soon'"),
        ({"tokens": 0}, "tokens=0"),
        ({"dedupe": 1}, "dedupe=1"),
        ({"shrink": "yes"}, "shrink='yes'"),
        ({"callback": "print"}, "callback='print'"),
        ({"custom_id": "a"}, "custom_id='a'"),
        ({"messages": []}, "messages="),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
def test_bad_options_are_refused_at_once(queue, options, told):
    with pytest.raises(ConfigurationError, match=told):
        queue.with_options(**options)
    with pytest.raises(ConfigurationError, match=told):
        queue.with_options(priority="high").with_options(**options)


def test_none_means_what_it_means_in_submit(queue):
    view = queue.with_options(priority="high").with_options(priority=None, max_wait=None)

    assert 5 == queue.info(view.submit("a")).priority


def test_a_view_cannot_end_the_queue_and_ends_with_it(queue):
    view = queue.with_options(priority="high")

    assert not hasattr(view, "shutdown")
    assert not hasattr(view, "__exit__")
    queue.shutdown()
    with pytest.raises(QueueClosed):
        view.submit("a")


def test_calls_of_a_view_get_its_options_but_no_parameter_of_the_api(recorder):
    view = recorder.with_options(priority="high", client="acme", temperature=0, dedupe=False)

    assert 7 == view.submit_call(max, 3, 7, queue_options={"client": "initech"}).result(10)

    assert (max, (3, 7), {"priority": "high", "client": "initech"}, {}) == recorder.calls[0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"shrink": True}, "shrink=True: a view with it makes no calls of your own: the arguments of a callable"),
        ({"dedupe": True}, "dedupe=True: a view with it makes no calls of your own: nobody knows which"),
        ({"endpoint": "embeddings"}, "endpoint='embeddings': a view with it makes no calls of your own: a callable"),
    ],
)
def test_an_option_that_a_call_cannot_have_is_refused_and_not_dropped(recorder, options, told):
    """
    By the executor of a view, too, before it takes its first call. None and the default ask for nothing.
    """
    view = recorder.with_options(priority="high").with_options(**options)
    name = next(iter(options))

    with pytest.raises(ConfigurationError, match=re.escape(told)):
        view.submit_call(max, 3, 7)
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        view.executor()
    assert [] == recorder.calls
    assert 7 == view.with_options(**{name: None}).submit_call(max, 3, 7).result(10)
    assert isinstance(view.with_options(**{name: OF_SUBMIT[name].default}).executor(), Executor)


def test_the_executor_runs_calls_through_submit_call(recorder):
    with recorder.executor() as executor:
        future = executor.submit(sorted, [3, 1, 2], reverse=True)

        assert isinstance(executor, Executor)
        assert [3, 2, 1] == future.result(10)
        assert ["a", "b"] == list(executor.map(str.lower, "AB"))
    assert (sorted, ([3, 1, 2],), None, {"reverse": True}) == recorder.calls[0]


def test_the_executor_of_a_view_has_its_options(recorder):
    with recorder.with_options(priority="low").executor() as executor:
        executor.submit(print).result(10)

    assert {"priority": "low"} == recorder.calls[0][2]


def test_an_argument_of_the_function_may_have_the_name_of_ours(recorder):
    with recorder.executor() as executor:
        future = executor.submit(lambda *, queue_options: queue_options, queue_options=3)

        assert 3 == future.result(10)


def test_shutdown_of_the_executor_ends_its_own_calls_only(recorder):
    hold = threading.Event()
    for _ in range(2):
        recorder.pool.submit(hold.wait, 10)
    executor, other = recorder.executor(), recorder.executor()
    mine, others = executor.submit(len, "a"), other.submit(len, "abc")

    executor.shutdown(wait=False, cancel_futures=True)
    hold.set()

    with pytest.raises(CancelledError):
        mine.result(10)
    assert 3 == others.result(10)
    assert 1 == recorder.submit_call(len, "a").result(10)
    with pytest.raises(RuntimeError, match="executor's shutdown"):
        executor.submit(len, "a")


def test_shutdown_waits_for_its_own_calls(recorder):
    executor = recorder.executor()
    started, hold = threading.Event(), threading.Event()

    def work():
        started.set()
        hold.wait(10)

    future = executor.submit(work)
    assert started.wait(10)
    threading.Timer(0.05, hold.set).start()

    executor.shutdown()

    assert future.done()
    executor.shutdown()
    assert "0 open, closed" in repr(executor)


def test_a_call_may_shut_down_its_own_executor(recorder):
    executor = recorder.executor()
    recorder._is_inside = lambda: True

    future = executor.submit(executor.shutdown)

    assert future.result(10) is None
    with pytest.raises(QueueClosed):
        executor.submit(len, "a")


def test_a_queue_and_its_view_know_when_they_are_asked_from_a_callback(queue):
    seen: Future[list[bool]] = Future()
    view = queue.with_options(priority="high")

    queue.submit("a", callback=lambda _: seen.set_result([queue._is_inside(), view._is_inside()]))

    assert [True, True] == seen.result(10)
    assert [False, False] == [queue._is_inside(), view._is_inside()]


def test_an_event_loop_accepts_it(recorder):
    async def main():
        return await asyncio.get_running_loop().run_in_executor(recorder.executor(), len, "abc")

    assert 3 == asyncio.run(main())


def test_a_view_with_the_usual_endpoint_however_it_is_written_makes_calls_too(queue):
    assert 3 == queue.with_options(endpoint="/chat/completions/").submit_call(lambda: 3).result(10)
