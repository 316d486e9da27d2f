"""What users rely on, over both engines: the same program with one argument changed does the same."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import CancelledError, as_completed, wait

import pytest
from waiting import wait_until

from groq_queue import (
    BadRequestError,
    ConfigurationError,
    ContentTooLargeError,
    GroqQueueError,
    InternalServerError,
    QueueClosed,
    QueueFull,
    QueueTimeout,
    RequestTooLarge,
)
from groq_queue.simulator import Fault

S = 60  # every wait ends by then


def program(stage):
    """Twenty lines as a user writes them; returns everything they can see."""
    called, seen = [], {}
    with stage.queue() as queue:
        futures = [
            queue.submit(f"question {n}", custom_id=f"q{n}", client="ab"[n % 2], callback=called.append)
            for n in range(12)
        ]
        bad = queue.submit("bad", custom_id="bad", callback=called.append)
        flaky = queue.submit("flaky", custom_id="flaky", priority="high", callback=called.append)
        late = queue.submit("late", custom_id="late", not_before=300, callback=called.append)
        assert late.cancel()
        for future in as_completed([*futures, bad, flaky], timeout=S):
            error = future.exception()
            answer = None if error else future.result()
            seen[future.custom_id] = (
                type(error).__name__,
                getattr(error, "custom_id", None),
                getattr(error, "status_code", None),
                getattr(error, "attempts", None) if error else answer.attempts,
                None if error else (answer.object, answer.usage.prompt_tokens, answer.custom_id),
            )
    stats = queue.stats()
    counts = {name: getattr(stats, name) for name in ("submitted", "completed", "failed", "cancelled", "attempts")}
    return seen, counts, Counter(future.custom_id for future in called), len(stage.log)


def test_the_same_twenty_lines_do_the_same_over_both_engines(play, resident):
    """
    Results, errors, callback counts, statistics and the number of calls are equal.
    """
    outcomes = []
    for engine in ("threads", "celery"):
        stage = play(engine, faults=[Fault(match="bad", status=400), Fault(match="flaky", status=503, times=2)])
        outcomes.append(program(stage))

    threads, celery = outcomes
    assert threads == celery
    assert 14 == len(threads[0])
    assert {"submitted": 15, "completed": 13, "failed": 1, "cancelled": 1, "attempts": 16} == threads[1]
    assert {1} == set(threads[2].values())


def test_an_answer_and_its_errors_are_the_librarys_own(stage):
    """
    Types, names, texts and facts survive the way.
    """
    ours = stage(faults=[Fault(match="wrong", status=400, body={"error": {"message": "no such thing"}})])
    with ours.queue() as queue:
        answer = queue.submit("hello", custom_id="a", temperature=0).result(S)
        error = queue.submit("wrong", custom_id="b").exception(S)

    assert answer.text == answer["choices"][0]["message"]["content"] == answer.choices[0].message.content
    assert ("a", 1) == (answer.custom_id, answer.attempts)
    assert 0 <= answer.waited < S
    assert type(error) is BadRequestError
    assert (400, "b", 1, "HTTP 400: no such thing") == (
        error.status_code,
        error.custom_id,
        error.attempts,
        str(error),
    )
    assert {"error": {"message": "no such thing"}} == error.body


def test_a_more_urgent_request_is_sent_first_at_every_level(limited_stage):
    """
    While the budget lets one request through at a time.
    """
    ours = limited_stage(one_at_a_time=True)
    levels = ["background", "low", "normal", "high", "critical"]
    with ours.queue() as queue:
        queue.submit("opens").result(S)
        futures = [queue.submit(level, priority=level) for level in levels]
        wait(futures, S)

    assert ["opens", *reversed(levels)] == ours.prompts()


def test_clients_of_one_level_take_turns(limited_stage):
    """
    Two requests of a small client, submitted last, are not behind all of a large one.
    """
    ours = limited_stage(one_at_a_time=True, workers=1)
    with ours.queue() as queue:
        queue.submit("opens", client="other").result(S)
        large = [queue.submit(f"large {n}", client="large") for n in range(5)]
        small = [queue.submit(f"small {n}", client="small") for n in range(2)]
        wait([*large, *small], S)

    sent = ours.prompts()
    assert 8 == len(sent)
    assert sent.index("small 1") <= 5
    assert sorted(sent[1:], key=lambda prompt: prompt[:5]) == [f"large {n}" for n in range(5)] + [
        f"small {n}" for n in range(2)
    ]


def test_what_waits_can_be_cancelled_and_is_never_sent(limited_stage):
    """
    Also what a worker holds already, but has no budget for.
    """
    ours = limited_stage(rpm=1, minute_s=300)
    called = []
    with ours.queue() as queue:
        queue.submit("opens").result(S)
        futures = [queue.submit(f"waits {n}", custom_id=f"w{n}", callback=called.append) for n in range(20)]
        cancelled = [future.cancel() for future in futures[:10]]
        by_name = [queue.cancel(f"w{n}") for n in range(10, 15)]
        rest = queue.cancel_all()

        assert [True] * 10 == cancelled
        assert [True] * 5 == by_name
        assert 5 == rest
        assert not wait(futures, S).not_done
    assert all(future.cancelled() for future in futures)
    with pytest.raises(CancelledError):
        futures[0].result()
    assert 20 == len(called)
    assert ["opens"] == ours.prompts()
    assert 20 == queue.stats().cancelled


def test_what_is_on_its_way_cannot_be_cancelled(stage):
    """
    Nor what has ended.
    """
    ours = stage(is_slow=True)
    with ours.queue() as queue:
        future = queue.submit("goes")
        ours.wait_for_requests(1)

        assert not future.cancel()
        assert "goes" in future.result(S).text
        assert not future.cancel()
        assert not queue.cancel("nobody")


def test_callbacks_run_once_with_the_future_whatever_they_do(stage):
    """
    One that raises harms nothing; one may submit and wait for another request.
    """
    ours = stage()
    calls, inner = [], []
    with ours.queue() as queue:

        def ask_again(future):
            inner.append(queue.submit("inner").result(S).text)

        def explode(future):
            raise ValueError("a mistake of the user")

        first = queue.submit("first", callback=ask_again)
        second = queue.submit("second", callback=explode)
        third = queue.submit("third", callback=calls.append)
        third.result(S)
        third.add_done_callback(calls.append)
        wait([first, second], S)

    assert 1 == len(inner)
    assert '"inner"' in inner[0]
    assert [third, third] == calls
    assert 4 == len(ours.prompts())


def test_a_callback_may_submit_while_the_queue_drains(stage):
    ours, inner = stage(), []
    with ours.queue() as queue:

        def ask_again(future):
            wait_until(lambda: not queue.stats().running)
            inner.append(queue.submit("inner").result(S).text)

        queue.submit("first", callback=ask_again)

    assert 1 == len(inner)
    assert 2 == len(ours.prompts())


def test_leaving_the_block_waits_and_leaving_it_by_an_error_cancels(limited_stage):
    """
    What has not started is never sent; the error passes.
    """
    ours = limited_stage(rpm=2, minute_s=300)
    with ours.queue() as queue:
        done = [queue.submit(f"one {n}") for n in range(2)]
    assert all(future.done() for future in done)

    leavers = []

    def fail():
        for n in range(5):
            leavers.append(queue.submit(f"two {n}"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), ours.queue() as queue:
        fail()

    assert 5 == sum(future.cancelled() for future in leavers)
    assert 2 == len(ours.prompts())
    with pytest.raises(QueueClosed):
        queue.submit("late")


def test_a_request_that_waits_too_long_ends_unsent(limited_stage):
    """
    With the same error, and the others go on.
    """
    ours = limited_stage(rpm=1, minute_s=300)
    with ours.queue() as queue:
        queue.submit("opens").result(S)
        error = queue.submit("waits", custom_id="w", max_wait=0.2).exception(S)

    assert type(error) is QueueTimeout
    assert "w" == error.custom_id
    assert "max_wait=0.2" in str(error)
    assert ["opens"] == ours.prompts()
    assert 1 == queue.stats().expired


def test_no_attempt_starts_after_the_deadline(stage):
    """
    The last error is its cause.
    """
    ours = stage(faults=[Fault(match="fails", status=503, headers={"retry-after": "2"})])
    with ours.queue() as queue:
        error = queue.submit("fails", deadline=1.0).exception(S)

    assert type(error) is QueueTimeout
    assert type(error.__cause__) is InternalServerError
    assert 1 == len(ours.prompts())


def test_what_never_fits_is_never_sent_again(stage):
    """
    413 is final.
    """
    ours = stage(faults=[Fault(match="big", status=413)])
    with ours.queue() as queue:
        error = queue.submit("big").exception(S)

    assert type(error) is ContentTooLargeError
    assert 1 == len(ours.prompts())


def test_what_costs_more_than_a_limit_holds_is_told_by_whoever_knows(limited_stage):
    """
    By submit() where this process knows the limits, by the Future where the workers do.
    """
    ours = limited_stage(tpm=1_000)
    told = []

    def submit_and_wait(queue):
        future = queue.submit("big", tokens=5_000)
        told.append("accepted")
        future.result(S)

    with ours.queue() as queue, pytest.raises(RequestTooLarge) as caught:
        submit_and_wait(queue)

    assert {"threads": [], "celery": ["accepted"]}[ours.engine] == told
    assert 5_000 == caught.value.cost
    assert 1_000 == caught.value.capacity
    assert [] == ours.prompts()


def test_a_refusal_makes_everybody_wait_and_fails_nobody(stage):
    """
    One 429 with a wait of 0.4 s: nothing that comes afterwards is sent before it is over.
    """
    ours = stage(faults=[Fault(match="first", status=429, headers={"retry-after": "0.4"}, times=1)])
    with ours.queue() as queue:
        futures = [queue.submit("first")]
        wait_until(lambda: queue.stats().refused == 1)
        futures += [queue.submit(f"next {n}") for n in range(3)]
        for future in futures:
            future.result(S)

    assert ["first"] == ours.prompts()[:1]
    assert ["first", "next 0", "next 1", "next 2"] == sorted(ours.prompts()[1:])
    refused, *later = (record.arrived_ns for record in ours.log)
    assert min(later) - refused >= 400_000_000
    assert 1 == Counter(record.status for record in ours.log)[429]
    assert 1 == queue.stats().refused


def test_statistics_have_the_same_names_and_add_up(stage):
    """
    Every count is there, and says the same.
    """
    ours = stage(faults=[Fault(match="bad", status=400)])
    with ours.queue() as queue:
        futures = [queue.submit(f"n {n}", client="c", priority="low") for n in range(5)] + [queue.submit("bad")]
        wait(futures, S)
        assert queue.join(S)
        stats = queue.stats()
        info = queue.info(futures[0])
        report = queue.report()

    assert (6, 5, 1, 0, 0, 0, 6) == (
        stats.submitted, stats.completed, stats.failed, stats.cancelled, stats.pending, stats.in_flight, stats.attempts,
    )  # fmt: skip
    assert stats.running
    assert stats.prompt_tokens > 0
    assert stats.completion_tokens > 0
    assert stats.cost > 0
    assert {50, 90, 99} == set(stats.wait_percentiles)
    assert ["llama-3.1-8b-instant"] == [lane.name for lane in stats.lanes]
    assert ("completed", 1, 8) == (info.state, info.attempts, info.priority)
    assert "6" in str(report)


def test_closing_twice_is_closing_once(stage):
    """
    From any thread, and in a callback.
    """
    ours = stage()
    queue = ours.queue()
    future = queue.submit("hello", callback=lambda _: queue.shutdown())
    future.result(S)
    queue.shutdown()
    threads = [threading.Thread(target=queue.shutdown) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(S)

    assert not any(thread.is_alive() for thread in threads)
    with pytest.raises(QueueClosed):
        queue.submit("late")


def test_a_queue_that_was_never_used_closes_too(stage):
    """
    Nothing was started, nothing is left.
    """
    ours = stage()
    with ours.queue() as queue:
        pass

    with pytest.raises(QueueClosed):
        queue.submit("late")
    assert [] == ours.prompts()


def test_eight_threads_may_submit_at_once(stage):
    """
    Each request is sent once and answered to its own Future.
    """
    ours = stage()
    answers: dict[str, str] = {}
    start = threading.Barrier(8)

    def submit(name):
        start.wait(S)
        for n in range(10):
            prompt = f"t{name}n{n}"
            answers[prompt] = queue.submit(prompt).result(S).text

    with ours.queue() as queue:
        threads = [threading.Thread(target=submit, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(S)

    assert 80 == len(answers)
    assert all(f'"{prompt}"' in text for prompt, text in answers.items())
    assert {1} == set(Counter(ours.prompts()).values())


def test_the_everyday_calls_work_too(stage):
    """
    complete, map in order, a view with options of its own, estimate.
    """
    ours = stage(faults=[Fault(match="bad", status=400)])
    with ours.queue() as queue:
        assert '"one"' in queue.complete("one").text
        answers = list(queue.map([f"m {n}" for n in range(20)], timeout=S))
        mixed = list(queue.map(["good", "bad"], errors="return", timeout=S))
        view = queue.with_options(client="viewer", priority="high")
        future = view.submit("viewed")
        future.result(S)
        assert ("viewer", 1) == (queue.info(future).client, queue.info(future).priority)
        assert 3 == queue.estimate(["a", "b", "c"]).requests
        assert "unknown" == queue.get("nobody").status

    assert [f'"m {n}"' in answer.text for n, answer in enumerate(answers)] == [True] * 20
    assert ["Completion", "BadRequestError"] == [type(each).__name__ for each in mixed]


def test_a_bound_on_what_waits_is_kept(limited_stage):
    """
    The next one is refused until some have started.
    """
    ours = limited_stage(rpm=1, minute_s=300)
    with ours.queue(max_pending=3, when_full="raise") as queue:
        queue.submit("opens").result(S)
        for n in range(3):
            queue.submit(f"waits {n}")
        with pytest.raises(QueueFull) as caught:
            queue.submit("too many")
        queue.cancel_all()

    assert 3 == caught.value.limit
    assert ["opens"] == ours.prompts()


def test_a_name_belongs_to_one_open_request(stage):
    """
    And is free again afterwards.
    """
    ours = stage(is_slow=True)
    with ours.queue() as queue:
        first = queue.submit("one", custom_id="same")
        with pytest.raises(ConfigurationError, match="same"):
            queue.submit("two", custom_id="same")
        first.result(S)
        assert "same" == queue.submit("three", custom_id="same").result(S).custom_id


def test_equal_requests_may_share_one_call(stage):
    """
    dedupe=True does, over either engine.
    """
    ours = stage(is_slow=True)
    with ours.queue() as queue:
        answers = [queue.submit("same", dedupe=True) for _ in range(4)]
        assert 1 == len({future.result(S).id for future in answers})

    assert ["same"] == ours.prompts()


def test_a_waiting_request_can_be_made_more_urgent(limited_stage):
    """
    Then it passes the others.
    """
    ours = limited_stage(one_at_a_time=True, workers=1)
    with ours.queue() as queue:
        queue.submit("opens").result(S)
        futures = [queue.submit(f"n {n}", priority="low") for n in range(4)]

        assert queue.set_priority(futures[3], "critical")
        wait(futures, S)

    sent = ours.prompts()
    assert 5 == len(sent)
    assert sent.index("n 3") <= 2


def test_the_errors_of_bad_arguments_are_the_same(stage):
    """
    They come from submit(), before anything travels.
    """
    ours = stage()
    with ours.queue() as queue:
        for arguments in ({"prompt": None}, {"prompt": [1]}, {"prompt": {"messages": []}}):
            with pytest.raises(ConfigurationError):
                queue.submit(arguments["prompt"])
        with pytest.raises(TypeError):
            queue.submit(print)
        with pytest.raises(ConfigurationError):
            queue.submit("x", temperature=float("nan"))
        with pytest.raises(GroqQueueError):
            queue.submit("x", priority="urgent-ish")

    assert [] == ours.prompts()
