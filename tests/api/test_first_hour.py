"""What a new user gets wrong in the first hour: each mistake is answered by its cure."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading

import pytest
from extras import needs
from hasty import HastyClock
from waiting import wait_until

from groq_queue import Completion, ConfigurationError, GroqQueue, Limits, QueueFull
from groq_queue.reporting.progress import ProgressState, described
from groq_queue.testing import FakeClock

SOON_S = 10.0
MODEL = "llama-3.1-8b-instant"
BODY = {"id": "x", "choices": [{"message": {"role": "assistant", "content": "hello"}}], "usage": {"total_tokens": 3}}


@pytest.fixture
def queue():
    with GroqQueue(api_key="k", base_url="http://127.0.0.1:9/openai/v1", model=MODEL, limits=Limits()) as queue:
        queue.pause()
        yield queue
        queue.cancel_all()


@pytest.fixture
def future(queue):
    future = queue.submit("hi")
    yield future
    future.cancel()


def test_the_repr_of_a_future_names_its_id_its_state_and_the_head_of_its_prompt():
    """
    The head of what was asked last, on one line, while the request is in memory.
    """
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": 'Say "hi"\n' + "x" * 100}]
    with GroqQueue.simulated(latency=0.0) as queue:
        queue.pause()
        named = queue.submit(messages=messages, custom_id="row-1")
        plain = queue.submit("Why is the sky blue?")
        dropped = queue.submit("Wie heißt du?", client="a")
        before = [repr(future) for future in (named, plain, dropped)]
        dropped.cancel()
        queue.resume()
        named.result(SOON_S)

        head = 'Say "hi"\\n' + "x" * 51 + "…"
        assert [
            f"<RequestFuture {named.request_id} custom_id='row-1' pending: '{head}'>",
            f"<RequestFuture {plain.request_id} pending: 'Why is the sky blue?'>",
            f"<RequestFuture {dropped.request_id} pending: 'Wie heißt du?'>",
        ] == before
        assert f"<RequestFuture {dropped.request_id} cancelled>" == repr(dropped)
        assert f"<RequestFuture {named.request_id} custom_id='row-1' completed>" == repr(named)


def test_the_repr_of_a_future_that_failed_names_the_error(queue):
    future = queue.submit("hi", max_wait=0.001)
    future.exception(SOON_S)

    assert f"<RequestFuture {future.request_id} failed with QueueTimeout>" == repr(future)


def test_no_error_shows_a_prompt_because_it_was_given_a_future(queue, future):
    message = told_by(lambda: queue.submit("again", custom_id=future))

    assert future.request_id in message
    assert "'hi'" not in message


class Odd:
    """A value that cannot be compared, as an array of numbers cannot."""

    def __ne__(self, other):
        raise ValueError("ambiguous")


def test_an_engine_that_cannot_be_compared_is_refused_by_name():
    assert told_by(lambda: GroqQueue(api_key="k", engine=Odd())).startswith("engine=")


def test_the_repr_of_a_call_s_future_has_no_prompt(queue):
    future = queue.submit_call(len, "abc", queue_options={"tokens": 1})

    assert f"<RequestFuture {future.request_id} pending>" == repr(future)


def told_by(act):
    """Return the message of the ConfigurationError that *act* ends with."""
    with pytest.raises(ConfigurationError) as raised:
        act()
    return str(raised.value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"max_worker": 3}, "did you mean 'max_workers'?"),
        ({"maxworkers": 3}, "did you mean 'max_workers'?"),
        ({"limit": Limits(rpm=30)}, "did you mean 'limits'?"),
        ({"apikey": "k"}, "did you mean 'api_key'?"),
        ({"retries": 3}, "did you mean 'max_retries'?"),
        ({"zzz": 3}, "known are "),
    ],
)
def test_an_argument_that_the_queue_does_not_have_is_answered_by_the_nearest_one(given, meant):
    told = told_by(lambda: GroqQueue(**given))

    assert f"GroqQueue({next(iter(given))}=...)" in told
    assert meant in told


def test_a_mistyped_argument_is_still_the_type_error_that_python_raises_and_shows_no_key():
    with pytest.raises(TypeError) as raised:
        GroqQueue(api_kye="gsk_secret")

    assert "'api_key'" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert str(raised.value) == str(pickle.loads(pickle.dumps(raised.value)))


def test_a_key_given_by_position_is_to_be_named_and_is_not_shown():
    told = told_by(lambda: GroqQueue("gsk_secret"))

    assert "GroqQueue(api_key=...)" in told
    assert "secret" not in told


def test_a_simulated_queue_names_the_nearest_argument_too():
    assert "'max_workers'" in told_by(lambda: GroqQueue.simulated(max_worker=3))


@pytest.mark.parametrize(
    ("given", "meant"),
    [({"rmp": 30}, "'rpm'"), ({"TPM": 30}, "known are"), ({"tmp": 30}, "'tpm'"), ({"minutes": 1}, "'minute_s'")],
)
def test_a_limit_that_there_is_not_is_answered_by_the_nearest_one(given, meant):
    told = told_by(lambda: Limits(**given))

    assert f"Limits({next(iter(given))}=...)" in told
    assert meant in told


def test_limits_given_by_position_are_to_be_named():
    assert "Limits(rpm=...)" in told_by(lambda: Limits(30))


@pytest.mark.parametrize(
    ("limits", "cure"),
    [
        ({"rpm": 30}, "limits=Limits(rpm=30)"),
        ({"rpm": 30, "tpm": 6000}, "limits=Limits(rpm=30, tpm=6000)"),
        ({"rmp": 30}, "limits=Limits(rpm=30)"),
        ({"RPM": 30}, "limits=Limits(rpm=30)"),
        ({MODEL: {"rpm": 30}}, f"{{'{MODEL}': Limits(rpm=30)}}"),
        ({MODEL: 30}, "use model names and Limits(...)"),
        (30, "use Limits(...)"),
    ],
)
def test_limits_in_a_plain_dict_are_answered_by_how_to_write_them(limits, cure):
    told = told_by(lambda: GroqQueue(api_key="k", limits=limits))

    assert told.startswith("limits")
    assert cure in told


@pytest.mark.parametrize("kind", [dict, lambda message: {"messages": message}])
def test_one_message_as_a_prompt_is_to_be_put_into_a_list(queue, kind):
    message = {"role": "user", "content": "hi"}

    told = told_by(lambda: queue.submit(kind(message)))

    assert "'role': 'user'" in told
    assert "a list of" in told
    assert "[{'role': 'user', 'content': '...'}]" in told


def test_awaiting_a_future_says_how_to_wait_for_it(future):
    async def program():
        await future

    with pytest.raises(TypeError, match=r"await asyncio\.wrap_future\(queue\.submit\(\.\.\.\)\)"):
        asyncio.run(program())


def test_the_cure_of_an_awaited_future_works():
    async def program():
        with GroqQueue.simulated(latency=0) as queue:
            return await asyncio.wrap_future(queue.submit("hi"))

    assert asyncio.run(program()).text


@pytest.mark.parametrize("name", ["text", "content", "choices", "usage", "id", "message", "attempts"])
def test_an_answers_attribute_is_looked_for_on_its_future_in_vain_and_told_where_it_is(future, name):
    with pytest.raises(AttributeError, match=rf"a Future has no '{name}'.*future\.result\(\)\.{name}"):
        getattr(future, name)

    assert not hasattr(future, name)
    assert name not in dir(future)


def test_a_future_keeps_its_own_methods_where_an_answer_has_a_word_for_them_too(future):
    assert callable(future.result)
    assert {"result", "custom_id", "request_id", "cancel"} <= {*dir(future)}


def test_a_misspelt_method_of_a_future_is_left_to_pythons_own_suggestion(future):
    with pytest.raises(AttributeError) as raised:
        future.resutl  # noqa: B018

    assert ("resutl", future) == (raised.value.name, raised.value.obj)


@pytest.mark.parametrize("name", ["content", "message", "output_text"])
def test_words_of_others_for_the_text_are_answered_by_text(name):
    with pytest.raises(AttributeError, match=rf"no '{name}'.*answer\.text"):
        getattr(Completion(BODY), name)


def test_an_answer_is_still_copied_pickled_and_asked_for_what_it_may_lack():
    answer = Completion(BODY)

    assert answer == copy.deepcopy(answer) == pickle.loads(pickle.dumps(answer))
    assert None is getattr(answer, "model", None)
    assert not hasattr(answer, "__array__")


def test_a_future_in_place_of_a_custom_id_is_answered_by_its_own_method(queue, future):
    assert "use future.cancel()" in told_by(lambda: queue.cancel(future))
    assert "use queue.info(future)" in told_by(lambda: queue.get(future))
    assert not future.done()


@pytest.mark.parametrize("ask", ["info", "explain"])
def test_a_custom_id_in_place_of_a_future_is_answered_by_what_takes_one(queue, ask):
    told = told_by(lambda: getattr(queue, ask)("row-1"))

    assert "future='row-1'" in told
    assert "for a custom_id there are cancel() and get()" in told


class SlowServer:
    """Calls that last until ``answer``."""

    def __init__(self):
        self._asked = threading.Semaphore(0)
        self._answer = threading.Event()

    def __call__(self):
        self._asked.release()
        assert self._answer.wait(SOON_S)
        return {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}

    def wait_for_call(self):
        assert self._asked.acquire(timeout=SOON_S)

    def answer(self):
        self._answer.set()


@pytest.fixture
def slow():
    slow = SlowServer()
    yield slow
    slow.answer()


def refused_by_full(queue):
    """Return the error of a request for which there is no room."""
    with pytest.raises(QueueFull) as raised:
        queue.submit("one too many")
    return raised.value


def full_queue(**options):
    options = {"max_workers": 1, "max_pending": 1, "when_full": "raise", "limits": Limits(), **options}
    return GroqQueue(api_key="k", base_url="http://127.0.0.1:9/openai/v1", model=MODEL, **options)


def test_a_full_queue_tells_a_web_view_when_to_try_again_while_its_first_attempt_is_under_way(slow):
    clock = FakeClock()
    with full_queue(clock=clock) as queue:
        queue.submit_call(slow)
        slow.wait_for_call()
        waiting = queue.submit("waits")

        at_once = refused_by_full(queue).retry_after
        clock.advance(30)
        later = refused_by_full(queue).retry_after
        waiting.cancel()
        slow.answer()

    assert (1, 30) == (at_once, later)


def test_a_full_queue_whose_workers_are_all_busy_expects_room_when_one_of_their_attempts_ends(slow):
    clock = FakeClock()
    with full_queue(clock=clock, max_workers=2) as queue:
        queue.submit_call(lambda: clock.advance(8)).result(SOON_S)
        for _ in range(2):
            queue.submit_call(slow)
            slow.wait_for_call()
        waiting = queue.submit("waits")

        retry_after = refused_by_full(queue).retry_after
        waiting.cancel()
        slow.answer()

    assert 4 == retry_after  # two attempts of 8 s each


def test_a_queue_filled_by_requests_that_wait_for_their_time_expects_room_then():
    with full_queue(clock=FakeClock()) as queue:
        waiting = queue.submit("later", not_before=120)

        retry_after = refused_by_full(queue).retry_after
        waiting.cancel()

    assert 120 == retry_after


def test_a_full_queue_behind_a_limit_expects_room_when_the_limit_has_some(slow):
    with full_queue(clock=FakeClock(), limits=Limits(rpm=1)) as queue:
        queue.submit_call(slow)
        slow.wait_for_call()
        waiting = queue.submit("waits")

        retry_after = refused_by_full(queue).retry_after
        waiting.cancel()
        slow.answer()

    assert 60 == retry_after


def test_a_queue_says_why_the_server_has_to_recover():
    options = {"base_url": "http://127.0.0.1:9/openai/v1", "model": MODEL, "limits": Limits(), "clock": HastyClock()}
    with GroqQueue(api_key="k", **options) as queue:
        for number in range(40):
            queue.submit(f"{number}")
        wait_until(lambda: any("recover" in (lane.waits_for or "") for lane in queue.stats().lanes))

        told = queue.stats().lanes[0].waits_for
        queue.shutdown(cancel_futures=True)  # those on their way are not tried again either

    assert told.startswith("the server to recover from failures: ")
    assert "127.0.0.1:9" in told


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_line_of_progress_keeps_the_reason_however_narrow_the_terminal(width):
    reason = "the server to recover from failures: could not connect to 127.0.0.1:9, which refused; and more of it"
    state = ProgressState(0, 0, 40, 5.0, 0.0, 0.0, None, None, None, reason)

    told = described(state, width)

    assert len(told) < width
    assert "could not connect to 127" in told


@pytest.mark.parametrize("limits", [Limits(rpm=30), {MODEL: Limits(tpm=6000)}])
def test_limits_of_a_queue_whose_workers_decide_are_refused_with_the_workers_arguments(limits):
    told = told_by(lambda: GroqQueue(engine="celery", broker="redis://127.0.0.1:1/0", limits=limits))

    assert told.startswith("limits: with engine='celery' the workers decide; use groq-queue worker --rpm")


def test_a_whole_data_frame_is_not_taken_for_its_column_names(queue):
    pandas = needs("pandas")
    frame = pandas.DataFrame({"review": ["good", "bad"], "stars": [5, 1]})

    told = told_by(lambda: queue.map(frame))

    assert "prompts: a whole DataFrame" in told
    assert "map(df['review'])" in told
    assert 0 == queue.stats().submitted


def test_a_whole_polars_frame_is_refused_too_and_rows_made_of_it_are_taken(queue):
    polars = needs("polars")
    frame = polars.DataFrame({"review": ["good", "bad"]})

    assert "map(df['review'])" in told_by(lambda: queue.map(frame))
    assert "a whole LazyFrame" in told_by(lambda: queue.map(frame.lazy()))
    queue.map(row["review"] for row in frame.to_dicts()).close()
    assert 2 == queue.stats().submitted
