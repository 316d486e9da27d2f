"""What may come in at any moment: a garbage collection, an error that is no Exception, a clock that jumps, a fork."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import wait
from contextlib import suppress

import pytest

from groq_queue import GroqQueue, GroqSimulator, JournalError, Limits, QueueClosed
from groq_queue.clock import NS_PER_S, SystemClock
from groq_queue.core.budget import Budget
from groq_queue.limiters import in_process

from .harness import child, ended

MODEL = "llama-3.1-8b-instant"
PATIENCE_S = 30

no_fork = pytest.mark.skipif(not hasattr(sys, "abiflags"), reason="there is no fork here")


@pytest.fixture
def groq():
    with GroqSimulator(models=[MODEL]) as simulator:
        yield simulator


def finished(script: str, *arguments: str) -> str:
    code, out, err = ended(child(script, *arguments), 60)
    assert 0 == code, err
    return out.strip()


ABANDONED_MAP = (  # of which one worker has some left to send
    "it = q.map([f'{k}-{i}-{j}' for j in range(3)], buffersize=3); next(it); c = [it]; c.append(c); del it, c"
)
CANCELLED_BY_ITS_END = "Bad(q.submit(f'{k}-{i}', dedupe=bool(i % 2)))"


@pytest.mark.parametrize("rounds", [25, pytest.param(100, marks=pytest.mark.gate)])
@pytest.mark.parametrize(
    ("act", "is_paused"), [(ABANDONED_MAP, False), (CANCELLED_BY_ITS_END, True)], ids=["map", "del"]
)
def test_a_garbage_collection_may_cancel_in_the_middle_of_a_submit(groq, act, is_paused, rounds):
    """
    With a collection at every few allocations, on whatever thread and under whatever lock it comes.
    """
    script = f"""
import faulthandler, gc
faulthandler.dump_traceback_later(50, exit=True)
class Bad:
    def __init__(self, future):
        self.future, self.me = future, self
    def __del__(self):
        self.future.cancel()
def work(k):
    for i in range({rounds}):
        {act}
with queue(sys.argv[1], model={MODEL!r}, max_workers=1, max_pending=None, limits=Limits(rpm=10**6)) as q:
    if {is_paused}:
        q.pause()
    gc.set_threshold(3, 2, 2)
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    gc.set_threshold(700)
    q.resume()
    stats = q.stats() if q.join(30) else None
    print(stats.pending, stats.in_flight, stats.failed, stats.cancelled > 0)
"""

    assert "0 0 0 True" == finished(script, groq.base_url)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError])
@pytest.mark.parametrize("where", ["callback", "observer", "callable"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_no_error_ends_the_only_worker(groq, kind, where):
    """
    One that ``except Exception`` does not catch is no exception.
    """

    called = threading.Event()

    def fail(*_):
        called.set()
        raise kind("mine")

    options = {"observer": fail} if where == "observer" else {}
    with GroqQueue(api_key="gsk_x", base_url=groq.base_url, model=MODEL, max_workers=1, **options) as queue:
        if where == "callable":
            first = queue.submit_call(fail)
            assert isinstance(first.exception(PATIENCE_S), kind)
        else:
            first = queue.submit("first", callback=fail if where == "callback" else None)
            assert first.result(PATIENCE_S).text
        assert queue.submit("second").result(PATIENCE_S).text
        assert queue.join(PATIENCE_S)
    assert called.is_set()


class Jumping(SystemClock):
    """The machine's clock, whose date somebody sets and whose machine was asleep."""

    def __init__(self):
        self.date_s = 0.0
        self.asleep_ns = 0

    def wall_s(self):
        return super().wall_s() + self.date_s

    def now_ns(self):
        return super().now_ns() + self.asleep_ns


@pytest.mark.parametrize("hours", [-48, -1, 1, 48])
def test_a_date_that_is_set_changes_no_order_no_wait_and_no_limit(groq, hours):
    clock = Jumping()
    with GroqQueue(api_key="gsk_x", base_url=groq.base_url, model=MODEL, clock=clock, max_workers=1) as queue:
        queue.complete("before")
        queue.pause()
        futures = [queue.submit(f"{number}", max_wait=20) for number in range(10)]
        clock.date_s = hours * 3_600.0
        queue.resume()

        assert 10 == sum(future.result(PATIENCE_S) is not None for future in futures)
        assert ["before", *map(str, range(10))] == [record.prompt for record in groq.log]


def test_a_machine_that_slept_wakes_to_one_full_bucket_and_no_more():
    """
    Its own clock went on meanwhile, as the server's did: after an hour one full bucket goes at once, not sixty.
    """
    clock = Jumping()
    with GroqSimulator(models=[MODEL], rpm=5, clock_ns=clock.now_ns) as groq:
        options = {"base_url": groq.base_url, "model": MODEL, "limits": Limits(rpm=5), "clock": clock}
        with GroqQueue(api_key="gsk_x", **options) as queue:
            for future in [queue.submit(f"evening {number}") for number in range(5)]:
                future.result(PATIENCE_S)

            clock.asleep_ns += 3_600 * NS_PER_S
            futures = [queue.submit(f"morning {number}") for number in range(20)]
            gone, _ = wait(futures[:5], timeout=10)  # less than one more takes if the hour was not seen
            waits_s = queue.explain(futures[5]).expected_start
            unsent = queue.cancel_all()

        assert 5 == len(gone)
        assert 15 == unsent
        assert 11 < waits_s <= 12  # a fifth of a minute, less what the five took
        assert [f"evening {number}" for number in range(5)] == sorted(record.prompt for record in groq.log[:5])
        assert [f"morning {number}" for number in range(5)] == sorted(record.prompt for record in groq.log[5:10])
        assert (10, 0) == (groq.stats().received, groq.stats().refused)


FORK = f"""
import warnings
from concurrent.futures import wait
from groq_queue import QueueClosed
warnings.simplefilter("ignore", DeprecationWarning)
def in_child(act):
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            said = act()
        except BaseException as error:
            said = f"{{type(error).__name__}}: {{error}}"
        os.write(write, str(said).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said
def opened(**options):
    return queue(sys.argv[1], model={MODEL!r}, **options)
"""


@no_fork
def test_a_child_has_workers_of_its_own_and_the_parents_futures_say_whose_they_are():
    script = """
q = opened(max_workers=2)
mine = [q.submit(f"mine {n}") for n in range(10)] + [q.submit("shared", dedupe=True) for _ in range(3)]
called = []
mine[0].add_done_callback(lambda _: called.append(os.getpid()))
def act():
    done, open_ = wait(mine, 10)
    errors = {type(f.exception()).__name__ for f in done if f.exception() is not None}
    text = str(mine[-1].exception() or "")
    answer = q.submit("child").result(20).text
    shared = q.submit("shared", dedupe=True).result(20).text
    q.shutdown()
    return json.dumps([len(open_), sorted(errors), str(os.getppid()) in text, bool(answer and shared), called])
print(in_child(act))
print(len([f.result(20) for f in mine]), called == [os.getpid()])
q.shutdown()
"""
    with GroqSimulator(models=[MODEL], latency=0.1) as groq:
        child_said, parent_said = finished(FORK + script, groq.base_url).splitlines()

    assert '[0, ["QueueClosed"], true, true, []]' == child_said
    assert "13 True" == parent_said


@no_fork
def test_a_lock_that_another_thread_holds_at_the_fork_is_free_in_the_child(groq):
    script = f"""
q = opened(max_workers=1)
q.complete("warm")
meter = q._limiter.meter({MODEL!r}, {MODEL!r})
for held in (q._engine._lock, q._engine._timers._changed, meter._lock, q._single_flight._lock):
    has, may_go = threading.Event(), threading.Event()
    def hold():
        with held:
            has.set()
            may_go.wait(30)
    thread = threading.Thread(target=hold)
    thread.start()
    assert has.wait(30)
    print(in_child(lambda: len(q.submit("child", dedupe=True).result(20).text) > 0), end=" ")
    may_go.set()
    thread.join()
q.shutdown()
"""

    assert "True True True True" == finished(FORK + script, groq.base_url)


@no_fork
def test_a_child_goes_on_counting_in_the_file_that_the_parent_counts_in(groq, tmp_path):
    """
    One request of three is the parent's, two are the child's, then nobody has one.
    """
    script = """
q = opened(limiter="sqlite:///" + sys.argv[2], limits=Limits(rpm=3))
q.complete("warm")
def act():
    said = [q.complete(f"child {n}").usage.total_tokens > 0 for n in range(2)]
    q.shutdown()
    return said
print(in_child(act))
print(type(q.submit("one too many", max_wait=0.2).exception()).__name__)
q.shutdown()
"""
    child_said, parent_said = finished(FORK + script, groq.base_url, str(tmp_path / "budgets.db")).splitlines()

    assert "[True, True]" == child_said
    assert "QueueTimeout" == parent_said


@no_fork
def test_a_child_with_the_parents_journal_gets_an_error_that_names_the_cure(groq, tmp_path):
    script = """
q = opened(journal=sys.argv[2])
q.complete("warm", custom_id="warm")
def act():
    try:
        q.submit("child")
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    q.shutdown()
    return said
print(in_child(act))
print(q.complete("after", custom_id="after").usage.total_tokens > 0)
q.shutdown()
"""
    said, goes_on = finished(FORK + script, groq.base_url, str(tmp_path / "j.db")).splitlines()

    assert said.startswith(JournalError.__name__)
    assert "open it after the fork" in said
    assert "True" == goes_on


@no_fork
def test_children_do_not_come_back_at_the_same_instants(groq):
    script = """
q = opened()
print(len({in_child(lambda: q._engine._attempts._rng.random()) for _ in range(4)}))
q.shutdown()
"""

    assert "4" == finished(FORK + script, groq.base_url)


@no_fork
def test_a_child_counts_what_the_parent_spent_as_spent(groq):
    script = """
q = opened(max_cost=1.0)
q.complete("x", max_completion_tokens=1000)
spent = q.stats().cost
print(in_child(lambda: q.stats().cost >= spent > 0))
q.shutdown()
"""

    assert "True" == finished(FORK + script, groq.base_url)


def test_a_signal_handler_that_interrupts_a_submit_does_not_wait_for_workers_that_need_what_it_holds(groq, monkeypatch):
    """
    Twenty requests are to be drained, each needs the meter, and the submit that was interrupted holds that.
    """
    queue = GroqQueue(api_key="k", base_url=groq.base_url, model=MODEL, limits=Limits(rpm=1_000), max_workers=1)
    queue.pause()
    futures = [queue.submit("x") for _ in range(20)]
    queue.resume()
    real, said = Budget.too_large, []

    def interrupted(*arguments):
        if not said and threading.current_thread() is submitter:
            said.append(True)
            queue.shutdown()
            said.append(queue.join())
        return real(*arguments)

    def submit():
        with suppress(QueueClosed):
            queue.submit("y")

    submitter = threading.Thread(target=submit, daemon=True)
    monkeypatch.setattr(Budget, "too_large", interrupted)
    submitter.start()
    submitter.join(30)

    assert not submitter.is_alive()
    assert [True, False] == said
    assert queue.join(30)
    assert all(future.result().text for future in futures)


@pytest.mark.parametrize("inside", ["a meter", "the making of a meter"])
def test_a_signal_handler_may_shut_down_while_a_request_is_priced(groq, monkeypatch, inside):
    """
    Every lock that is held then is re-entrant, and none is taken before the engine's, which workers hold when they ask.
    """
    queue = GroqQueue(api_key="k", base_url=groq.base_url, model=MODEL, limits=Limits(rpm=1_000))
    home, name = (Budget, "too_large") if inside == "a meter" else (in_process, "ProcessMeter")
    real, said = getattr(home, name), []

    def interrupted(*arguments):
        if not said and threading.current_thread() is submitter:
            said.append(queue._engine._lock._is_owned())
            queue.shutdown(wait=False, cancel_futures=True)
        return real(*arguments)

    def submit():
        with suppress(QueueClosed):
            queue.submit("x")

    submitter = threading.Thread(target=submit, daemon=True)
    monkeypatch.setattr(home, name, interrupted)
    submitter.start()
    submitter.join(30)

    assert not submitter.is_alive()
    assert [True] == said
    assert queue.join(30)
