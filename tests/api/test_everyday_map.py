"""``map``: lazy, ordered, bounded, and nothing goes on when it is left early."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout

import pytest

from groq_queue import Completion, ConfigurationError, GroqQueue, Limits, QueueClosed, RequestTooLarge
from groq_queue.api.bulk import BulkMethods


class Desk(BulkMethods):
    """A stub with ``submit``: the test answers when it likes."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, dict[str, object]]] = []
        self.futures: list[Future[Completion]] = []
        self.refuse: dict[object, Exception] = {}
        self.changed = threading.Condition()

    def submit(self, prompt=None, /, **options):
        if prompt in self.refuse:
            raise self.refuse[prompt]
        with self.changed:
            self.asked.append((prompt, options))
            self.futures.append(Future())
            self.changed.notify_all()
            return self.futures[-1]

    def stats(self):
        raise AssertionError("nobody asked for progress")

    def answer(self, *numbers):
        for number in numbers:
            self.futures[number].set_result(Completion({"choices": [{"text": f"answer {self.asked[number][0]}"}]}))

    def prompts(self):
        return [prompt for prompt, _ in self.asked]


@pytest.fixture
def queue():
    with GroqQueue.simulated(latency=0) as queue:
        yield queue


def texts(answers):
    return [answer.text for answer in answers]


def test_answers_come_in_the_order_of_the_prompts_whatever_ends_first():
    desk = Desk()
    answers = desk.map(["a", "b", "c"])

    desk.answer(2, 0, 1)

    assert ["answer a", "answer b", "answer c"] == texts(answers)


def test_prompts_of_every_kind_are_taken_and_options_reach_each(queue):
    chat = [{"role": "user", "content": "two"}]

    answers = list(queue.map(["one", chat, {"messages": chat, "model": "llama-3.1-8b-instant"}], client="acme"))

    assert 3 == len(answers)
    assert all(isinstance(answer, Completion) and answer.text for answer in answers)


def test_a_generator_is_never_read_further_than_the_window():
    desk = Desk()
    read = []
    numbers = (read.append(n) or n for n in itertools.count())

    answers = desk.map(numbers, buffersize=3)
    assert [0, 1, 2] == read == desk.prompts()
    for taken in range(5):
        desk.answer(taken)
        assert f"answer {taken}" == next(answers).text
        assert taken + 1 + 3 == len(read)

    answers.close()


def test_the_window_is_a_multiple_of_the_workers_but_never_more_than_may_wait():
    for options, window in (({"max_workers": 2}, 64), ({"max_workers": 2, "max_pending": 5}, 5)):
        read = []
        with GroqQueue.simulated(latency=0, **options) as queue:
            queue.pause()
            queue.map(read.append(n) or "Why?" for n in itertools.count()).close()

        assert window == len(read)


def test_a_map_fits_itself_into_a_queue_that_raises_when_it_is_full():
    with GroqQueue.simulated(latency=0, max_pending=3, when_full="raise") as queue:
        answers = queue.map((f"{n}" for n in range(40)), buffersize=20)

        assert 40 == len(list(answers))


def test_errors_return_stand_in_their_place_also_those_of_submit(queue):
    with GroqQueue.simulated(limits=Limits(rpm=1_000, tpm=2_000), latency=0) as small:
        prompts = ["ok", 7, "too large " * 5_000, print, "ok"]

        outcomes = list(small.map(prompts, errors="return", max_completion_tokens=10))

    kinds = [Completion, ConfigurationError, RequestTooLarge, TypeError, Completion]
    assert kinds == [type(outcome) for outcome in outcomes]


def test_the_first_error_in_order_is_raised_and_the_rest_is_cancelled():
    desk = Desk()
    desk.refuse["c"] = ConfigurationError("c is refused")
    answers = desk.map(["a", "b", "c", "d"])
    desk.answer(0, 1)

    assert ["answer a", "answer b"] == texts(itertools.islice(answers, 2))
    with pytest.raises(ConfigurationError, match="c is refused"):
        next(answers)

    assert ["a", "b", "d"] == desk.prompts()
    assert desk.futures[2].cancelled()


@pytest.mark.parametrize("is_started", [False, True])
def test_closing_it_cancels_what_has_not_started_even_if_no_answer_was_taken(is_started):
    desk = Desk()
    answers = desk.map(["a", "b", "c"])
    if is_started:
        desk.answer(0)
        next(answers)

    answers.close()

    assert [not is_started, True, True] == [future.cancelled() for future in desk.futures]


def test_leaving_the_loop_cancels_the_rest_on_a_real_queue():
    with GroqQueue.simulated(latency=0, limits=Limits(rpm=30)) as queue:
        for _ in queue.map(f"{n}" for n in range(100)):
            break
        gc.collect()

        assert 0 == queue.stats().pending
        assert queue.stats().cancelled >= 70


def test_an_error_of_the_prompts_passes_through_after_what_was_paid_for():
    desk = Desk()

    def prompts():
        yield from "abc"
        raise OSError("the disk is gone")

    answers = desk.map(prompts(), buffersize=3)
    desk.answer(0)

    assert "answer a" == next(answers).text  # reading on broke while this one was about to be handed out
    with pytest.raises(OSError, match="the disk is gone"):
        next(answers)
    assert [False, True, True] == [future.cancelled() for future in desk.futures]


def test_an_error_of_the_first_prompts_is_raised_by_the_call_itself():
    desk = Desk()

    def prompts():
        yield "a"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        desk.map(prompts())

    assert desk.futures[0].cancelled()


def test_timeout_counts_from_the_call_and_cancels_the_rest():
    desk = Desk()
    answers = desk.map(["a", "b", "c"], timeout=0.05)
    desk.answer(0)

    assert "answer a" == next(answers).text
    with pytest.raises(FutureTimeout, match=r"1 answers came within timeout=0\.05 s"):
        next(answers)

    assert [True, True] == [future.cancelled() for future in desk.futures[1:]]
    with pytest.raises(StopIteration):
        next(answers)


def test_what_others_cancel_is_an_error_in_its_place():
    desk = Desk()
    answers = desk.map(["a", "b"], errors="return")
    desk.futures[0].cancel()
    desk.futures[0].set_running_or_notify_cancel()
    desk.answer(1)

    assert [CancelledError, Completion] == [type(outcome) for outcome in answers]


def test_after_shutdown_the_call_itself_raises(queue):
    queue.shutdown()

    for errors in ("raise", "return"):
        with pytest.raises(QueueClosed):
            queue.map(itertools.repeat("Why?"), errors=errors)


def test_a_queue_closed_meanwhile_gives_what_was_sent_and_then_raises():
    desk = Desk()
    desk.refuse["c"] = QueueClosed("closed")
    answers = desk.map(["a", "b", "c", "d"], errors="return")
    desk.answer(0, 1)

    assert ["answer a", "answer b"] == texts(itertools.islice(answers, 2))
    with pytest.raises(QueueClosed):
        next(answers)
    assert ["a", "b"] == desk.prompts()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"errors": "ignore"}, "errors='ignore'"),
        ({"buffersize": 0}, "buffersize=0"),
        ({"buffersize": True}, "buffersize=True"),
        ({"timeout": -1}, "timeout=-1"),
        ({"priority": "urgent"}, "priority='urgent'"),
        ({"messages": []}, "messages="),
        ({"custom_id": "one"}, "custom_id='one'"),
        ({"temperature": object()}, "temperature"),
        ({"progress": 3}, "progress=3"),
    ],
)
def test_bad_arguments_are_refused_by_the_call_before_a_prompt_is_read(queue, options, told):
    prompts = iter(["Why?"])

    with pytest.raises(ConfigurationError, match=told):
        queue.map(prompts, **options)

    assert ["Why?"] == list(prompts)


@pytest.mark.parametrize("prompts", ["Why?", {"messages": []}, 7, None])
def test_one_prompt_instead_of_many_is_refused(queue, prompts):
    with pytest.raises(ConfigurationError, match="pass a list"):
        queue.map(prompts)


def test_custom_ids_count_the_prompts(queue):
    assert ["q-0", "q-1"] == [answer.custom_id for answer in queue.map(["a", "b"], custom_id="q-{}")]


def test_a_callback_may_iterate_a_map_though_there_is_one_worker():
    with GroqQueue.simulated(latency=0, max_workers=1, max_pending=2) as queue:
        done = queue.submit("outer")
        inner: Future[int] = Future()
        done.add_done_callback(lambda _: inner.set_result(len(list(queue.map(["a"] * 10)))))

        assert 10 == inner.result(10)


def test_an_answer_that_was_taken_is_not_kept_while_the_next_is_awaited():
    desk = Desk()
    answers = desk.map(["a", "b"])
    desk.answer(0, 1)
    first = weakref.ref(next(answers))
    desk.futures[0] = None

    next(answers)

    assert first() is None


def test_complete_gives_up_its_request_when_it_is_interrupted():
    desk = Desk()

    class Interrupted(Future):
        def result(self, timeout=None):
            raise KeyboardInterrupt

    interrupted = Interrupted()
    desk.submit = lambda prompt, **options: interrupted

    with pytest.raises(KeyboardInterrupt):
        desk.complete("Why?")

    assert interrupted.cancelled()
