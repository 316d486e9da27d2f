"""What goes wrong between hosts: workers, brokers and submitters that die, connections that break."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import wait

import pytest
from worker_fleet import LEASE_S, MODEL, PATIENCE_S

from groq_queue import GroqQueue
from groq_queue.distributed.wakeups import LANES, Notifier
from groq_queue.simulator import Fault

S = 120


def counted(queue):
    """Have *queue* tell how often each Future's callback ran."""
    ended: Counter[str] = Counter()
    lock = threading.Lock()

    def note(future):
        with lock:
            ended[future.request_id] += 1

    return ended, note


@pytest.mark.slow
def test_a_worker_killed_in_mid_call_twenty_times_loses_nothing(fleet):
    """
    Every Future ends once; only what was on its way when a worker died is sent again.
    """
    ours = fleet(latency=(0.05, 0.4))
    rng = random.Random(7)
    interrupted = 0
    with ours.queue() as queue:
        ended, note = counted(queue)
        futures = [queue.submit(f"n {n}", callback=note) for n in range(400)]
        for _ in range(20):
            worker = ours.start_worker(lanes="normal:4")
            before = len(ours.groq.log)
            assert ours.groq.wait_for_requests(before + rng.randint(3, 8), PATIENCE_S)
            ours.stop_worker(worker, signal.SIGKILL)
            interrupted += 4  # at most: one for each thread
        ours.start_worker(lanes="normal:16")
        assert not wait(futures, S).not_done
    answers = [future.result() for future in futures if future.exception() is None]
    poisoned = [future for future in futures if future.exception() is not None]
    calls = Counter(ours.prompts())

    print(f"{len(futures)} requests, 20 kills, {sum(calls.values())} calls, {len(poisoned)} given up")
    assert 400 == len(answers) + len(poisoned)
    assert {1} == set(ended.values())
    assert 400 == len(ended)
    assert sum(calls.values()) <= 400 + interrupted
    assert all(count <= 3 for count in calls.values())
    assert len(poisoned) <= 2
    assert 0 == queue.stats().pending


@pytest.mark.slow
def test_what_a_killed_worker_held_unsent_is_answered_once_by_another(fleet):
    """
    It waited there for its budget.
    """
    ours = fleet(rpm=1, minute_s=3)
    with ours.queue() as queue:
        first = ours.start_worker(lanes="normal:4")
        queue.submit("opens").result(S)
        futures = [queue.submit(f"n {n}") for n in range(3)]
        assert ours.groq.wait_for_requests(2, PATIENCE_S)
        ours.stop_worker(first, signal.SIGKILL)
        ours.start_worker(lanes="normal:4")
        for future in futures:
            future.result(S)

    answered = Counter(record.prompt for record in ours.groq.log if record.status == 200)
    assert {"opens": 1, "n 1": 1, "n 2": 1} == {name: count for name, count in answered.items() if name != "n 0"}


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["running", "restarted", "none"])
def test_two_hundred_cancelled_requests_are_never_sent(fleet, workers):
    """
    Whether the workers live, are started afterwards, or are restarted in between: plain Celery sent all of them.
    """
    ours = fleet(rpm=1, minute_s=600)
    with ours.queue() as queue:
        worker = None
        if workers != "none":
            worker = ours.start_worker()
            queue.submit("opens").result(S)
        futures = [queue.submit(f"n {n}", priority=("high", "normal", "low")[n % 3]) for n in range(200)]
        if workers == "restarted":
            ours.stop_worker(worker)
        assert 200 == sum(future.cancel() for future in futures)
        if workers == "running":
            ours.stop_worker(worker)  # it would take the last ones, too, and has no budget for them
        ours.groq.set_faults([Fault(status=400)])  # which the simulator meters not, whatever comes
        ours.start_worker("--rpm", "100000")  # one that has budget for all of them
        last = [queue.submit(f"last {level}", priority=level) for level in ("high", "normal", "low")]
        assert not wait(last, S).not_done

    assert all(future.cancelled() for future in futures)
    opened = [] if workers == "none" else ["opens"]
    assert sorted([*opened, "last high", "last normal", "last low"]) == sorted(ours.prompts())
    assert 200 == queue.stats().cancelled


@pytest.mark.slow
def test_three_broken_connections_lose_nothing_and_double_nothing(fleet):
    """
    CLIENT KILL on everybody while 300 requests are under way; plain Celery sent 31 of them twice.
    """
    ours = fleet(latency=0.1)
    ours.start_worker(lanes="normal:8")
    ours.start_worker(lanes="normal:8")
    import redis

    admin = redis.Redis.from_url(ours.broker)
    with ours.queue() as queue:
        ended, note = counted(queue)
        futures = [queue.submit(f"n {n}", callback=note) for n in range(300)]
        for count in (50, 120, 200):
            assert ours.groq.wait_for_requests(count, PATIENCE_S)
            for kind in ("normal", "pubsub"):
                admin.client_kill_filter(_type=kind, skipme=True)
        assert not wait(futures, S).not_done
    admin.close()

    assert [None] * 300 == [future.exception() for future in futures]
    assert {1} == set(ended.values())
    assert {1} == set(Counter(ours.prompts()).values())
    assert 300 == len(ours.prompts())


@pytest.mark.slow
def test_redis_may_be_killed_and_started_again(fleet):
    """
    Nobody helps: workers consume again, answers that were paid for in between arrive, none is paid for twice.
    """
    ours = fleet(latency=0.2)
    ours.start_worker(lanes="normal:8")
    with ours.queue() as queue:
        ended, note = counted(queue)
        futures = [queue.submit(f"n {n}", callback=note) for n in range(200)]
        assert ours.groq.wait_for_requests(60, PATIENCE_S)
        ours.server.kill()
        assert not wait(futures, 3).done >= set(futures)  # three seconds without it
        ours.server.start()
        assert not wait(futures, S).not_done
        later = queue.submit("later")
        later.result(S)
        assert 0 == ours.stop_worker(ours.workers[0])

    assert [None] * 200 == [future.exception() for future in futures]
    assert 201 == len(ours.prompts())
    assert {1} == set(Counter(ours.prompts()).values())
    assert {1} == set(ended.values())


SUBMITTER = """
import sys
from groq_queue import GroqQueue
queue = GroqQueue(engine="celery", broker=sys.argv[1], model=sys.argv[2])
for n in range(3):
    print(queue.submit(f"n {n}", custom_id=f"c{n}").request_id, flush=True)
sys.stdin.read()
"""


def submitter(broker):
    process = subprocess.Popen(
        [sys.executable, "-c", SUBMITTER, broker, MODEL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    return process, [process.stdout.readline().strip() for _ in range(3)]


def test_what_a_killed_process_submitted_can_be_read_by_another(fleet):
    """
    Before it is sent, and after it has ended.
    """
    ours = fleet()
    process, ids = submitter(ours.broker)
    process.kill()
    process.communicate()
    early = GroqQueue.attach(ids[0], broker=ours.broker)
    assert not early.done()

    ours.start_worker()

    assert '"n 0"' in early.result(S).text
    assert "c0" == early.custom_id == early.result().custom_id
    late = GroqQueue.attach(ids[2], broker=ours.broker)
    assert '"n 2"' in late.result(S).text
    assert {"n 0", "n 1", "n 2"} >= set(ours.prompts())


@pytest.mark.gate
def test_the_end_of_a_program_leaves_its_requests_to_the_workers(fleet):
    """
    And says how to read how they end.
    """
    ours = fleet()
    process, ids = submitter(ours.broker)
    _, _ = process.communicate("", timeout=PATIENCE_S)
    assert 0 == process.returncode

    ours.start_worker()

    assert '"n 1"' in GroqQueue.attach(ids[1], broker=ours.broker).result(S).text


@pytest.mark.slow
def test_a_call_that_takes_longer_than_the_lease_is_made_once(fleet):
    """
    Its worker shows that it lives, and calls that come again find nothing: plain Celery made 88 calls of 32.
    """
    ours = fleet(latency=3 * LEASE_S)
    ours.start_worker(lanes="normal:4")
    ours.start_worker(lanes="normal:4")
    notifier = Notifier(ours.broker)
    with ours.queue() as queue:
        futures = [queue.submit(f"n {n}") for n in range(16)]
        assert ours.groq.wait_for_requests(8, PATIENCE_S)
        notifier.notify(LANES[1], 40)
        answers = [future.result(S) for future in futures]
    notifier.close()

    assert [1] * 16 == [answer.attempts for answer in answers]
    assert {1} == set(Counter(ours.prompts()).values())


@pytest.mark.slow
def test_a_worker_that_slept_through_its_lease_sends_nothing_of_it(fleet):
    """
    As a machine that was suspended: another worker has what it held, and it learns so before bytes leave.
    """
    ours = fleet()
    sleeper = ours.start_worker("--rpm", "1", "--minute", "8", lanes="normal:4")
    with ours.queue() as queue:
        queue.submit("opens").result(S)
        futures = [queue.submit(f"n {n}") for n in range(3)]
        assert not wait(futures, 1).done  # it holds them, and has no budget for eight seconds
        sleeper.signal(signal.SIGSTOP)
        ours.start_worker(lanes="normal:4")
        for future in futures:
            future.result(S)
        sleeper.signal(signal.SIGCONT)
        last = [queue.submit(f"last {n}") for n in range(3)]
        assert not wait(last, S).not_done
        queue.submit("not before its budget is back", not_before=9).result(S)

    assert {1} == set(Counter(ours.prompts()).values())


@pytest.mark.gate
def test_a_worker_can_be_stopped_while_redis_is_away(fleet):
    """
    It does not wait for it to come back.
    """
    ours = fleet()
    worker = ours.start_worker()
    ours.server.kill()
    try:
        assert worker in ours.workers
        assert ours.stop_worker(worker) in (0, 1)
    finally:
        ours.server.start()
