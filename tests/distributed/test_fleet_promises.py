"""What the shared queue promises beside the conformance suite: keys stay, workers are replaceable."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import wait

import pytest
from extras import needs
from waiting import wait_until
from worker_fleet import MODEL, PATIENCE_S, need_celery

from groq_queue import (
    AuthenticationError,
    ConfigurationError,
    EngineUnavailable,
    GroqQueue,
    MissingExtraError,
    Priority,
)
from groq_queue.clock import NS_PER_S
from groq_queue.distributed import job_store, replies
from groq_queue.distributed.wakeups import LANES, Notifier
from groq_queue.simulator import Fault

S = 60
NORMAL = LANES[1]


def everything_in(server):
    """Return all that a Redis holds, as one text."""
    import redis

    client = redis.Redis.from_url(server.url)
    read = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
    }
    text = "\n".join(f"{key!r}: {read[client.type(key)](key)!r}" for key in client.scan_iter())
    client.close()
    return text


def test_no_key_travels_and_all_that_travels_is_json(fleet, monkeypatch):
    """
    Not even that of the submitting process.
    """
    redis = needs("redis")
    monkeypatch.setenv("GROQ_API_KEY", "gsk_submitter")
    ours = fleet()
    with ours.queue(api_key="gsk_argument") as queue:
        future = queue.submit("hello", custom_id="a", client="c", priority="high", max_wait=50)
        before = everything_in(ours.server)
        client = redis.Redis.from_url(ours.broker, decode_responses=True)
        record = json.loads(client.hget(f"gqc:job:{future.request_id}", "record"))
        client.close()
        ours.start_worker(key="gsk_worker")
        future.result(S)
        after = everything_in(ours.server)

    assert "gsk_" not in before + after
    assert "pickle" not in before + after
    assert {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]} == json.loads(record.pop("payload"))
    assert {"request_id": future.request_id, "lane": MODEL, "model": MODEL, "endpoint": "chat/completions"} == {
        name: record[name] for name in ("request_id", "lane", "model", "endpoint")
    }
    assert (1, "c", {"max_wait_ns": 50_000_000_000}) == (record["priority"], record["client"], record["options"])


@pytest.mark.gate
def test_submit_says_within_ten_seconds_that_the_broker_is_down():
    need_celery()
    with GroqQueue(engine="celery", broker="redis://127.0.0.1:1/0", model=MODEL) as queue:
        began = time.monotonic()
        with pytest.raises(EngineUnavailable):
            queue.submit("hello")

    assert time.monotonic() - began < 10


@pytest.mark.usefixtures("impatient")
def test_submit_says_that_the_broker_is_down():
    """
    With its address, without its password; nothing is left open.
    """
    need_celery()
    queue = GroqQueue(engine="celery", broker="redis://:secret@127.0.0.1:1/0", model=MODEL)
    with pytest.raises(EngineUnavailable) as caught:
        queue.submit("hello")
    queue.shutdown()

    assert "redis://127.0.0.1:1/0" == caught.value.address
    assert "secret" not in str(caught.value)
    assert "submit again" in str(caught.value)
    assert (0, 0) == (queue.stats().submitted, queue.stats().pending)


@pytest.mark.usefixtures("impatient")
def test_a_broker_that_does_not_answer_is_down_too(fleet):
    """
    Its connections stay open, it is only silent.
    """
    ours = fleet()
    with ours.queue() as queue:
        queue.submit("stays").cancel()
        ours.server._process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(EngineUnavailable):
                queue.submit("hello")
        finally:
            ours.server._process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("field", "value", "cure"),
    [
        ("journal", "run.db", "Redis"),
        ("session", object(), "leave it out"),
        ("observer", print, "callbacks"),
        ("accounts", {"m": (None, None)}, "GROQ_API_KEY"),
        ("organization", "acme", "--organization"),
        ("timeout", 9, "--timeout"),
        ("max_retries", 0, "--max-retries"),
        ("margin", 0.1, "--margin"),
        ("on_daily_limit", "wait", "--on-daily-limit"),
        ("max_concurrency", 2, "--lanes"),
        ("max_cost", 1.0, "leave it out"),
        ("ageing", 5.0, "leave it out"),
        ("when_full", "shed", "block"),
    ],
)
def test_what_the_workers_decide_is_refused_with_the_cure(field, value, cure):
    """
    By name, before anything is connected.
    """
    with pytest.raises(ConfigurationError, match=f"^{field}") as caught:
        GroqQueue(engine="celery", broker="redis://127.0.0.1:1/0", **{field: value})
    assert cure in str(caught.value)


def test_the_engine_and_its_addresses_are_checked(monkeypatch):
    """
    Each message names the argument and what to write.
    """
    monkeypatch.delenv("GROQ_QUEUE_BROKER", raising=False)
    for field, options in (
        ("engine", {"engine": "dramatiq"}),
        ("broker", {"broker": "redis://127.0.0.1"}),
        ("broker", {"engine": "celery"}),
        ("broker", {"engine": "celery", "broker": "http://127.0.0.1"}),
        ("state", {"engine": "celery", "broker": "amqp://127.0.0.1//"}),
        ("state", {"engine": "celery", "broker": "redis://127.0.0.1", "state": "amqp://127.0.0.1//"}),
    ):
        with pytest.raises(ConfigurationError, match=f"^{field}"):
            GroqQueue(api_key="gsk_test", **options)
    with pytest.raises(ConfigurationError, match="groq-queue simulate"):
        GroqQueue.simulated(engine="celery", broker="redis://127.0.0.1")


@pytest.mark.parametrize("package", ["celery", "redis"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package):
    """
    Only who uses the engine needs it.
    """
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"'celery'.*pip install 'celery\[redis\]>="):
        GroqQueue(engine="celery", broker="redis://127.0.0.1:1/0")


def test_callables_and_pauses_are_refused(fleet):
    """
    They cannot travel, or would stop others.
    """
    with fleet().queue() as queue:
        with pytest.raises(ConfigurationError, match="callable"):
            queue.submit_call(print, "hello", queue_options={"model": MODEL})
        for refused in (queue.pause, queue.resume):
            with pytest.raises(ConfigurationError, match="workers"):
                refused()


def test_a_request_for_another_address_is_not_sent_here(fleet):
    """
    Prompts meant for one provider never reach another.
    """
    ours = fleet()
    ours.start_worker()
    with ours.queue(base_url="https://elsewhere.example/v1") as queue:
        error = queue.submit("private").exception(S)
    assert type(error) is ConfigurationError
    assert "elsewhere.example" in str(error)
    assert [] == ours.prompts()

    with ours.queue(base_url=ours.groq.base_url) as queue:
        assert '"public"' in queue.submit("public").result(S).text


@pytest.mark.gate
def test_explain_says_when_no_worker_runs(fleet):
    """
    And no longer once one does.
    """
    ours = fleet(rpm=1, minute_s=300)
    with ours.queue() as queue:
        first = queue.submit("first")
        assert "groq-queue worker" in queue.explain(first).waits_for
        ours.start_worker()
        first.result(S)
        second = queue.submit("second")
        assert "its turn" in queue.explain(second).waits_for
        second.cancel()


@pytest.mark.usefixtures("impatient")
def test_an_unknown_request_cannot_be_attached_to(server):
    """
    The message says how long results are kept.
    """
    with pytest.raises(ConfigurationError, match="an hour"):
        GroqQueue.attach("0" * 32, broker=server.url)
    with pytest.raises(EngineUnavailable):
        GroqQueue.attach("0" * 32, broker="redis://127.0.0.1:1/0")


def test_errors_and_cancellations_can_be_attached_to(fleet):
    """
    Each as it was, in another queue's hands.
    """
    ours = fleet(faults=[Fault(match="bad", status=400)])
    with ours.queue() as queue:
        gone = queue.submit("gone")
        watched = GroqQueue.attach(gone.request_id, broker=ours.broker)
        assert gone.cancel()
        assert not wait([watched], S).not_done
        assert watched.cancelled()
        ours.start_worker()
        bad = queue.submit("bad", custom_id="b")
        assert 400 == bad.exception(S).status_code
        again = GroqQueue.attach(bad.request_id, broker=ours.broker).exception(S)
    assert (type(bad.exception()), "b", str(bad.exception())) == (type(again), again.custom_id, str(again))


@pytest.mark.gate
def test_a_worker_whose_key_is_rejected_stops_and_spoils_one_request(fleet):
    """
    The others wait for a worker with a better key.
    """
    ours = fleet(api_keys=["gsk_good"])
    with ours.queue() as queue:
        futures = [queue.submit(f"n {n}") for n in range(6)]
        bad = ours.start_worker(lanes="normal:1", key="gsk_bad")
        assert 3 == bad.wait()
        assert "401" in bad.told
        ours.workers.remove(bad)
        ours.start_worker(lanes="normal:4", key="gsk_good")
        errors = [future.exception(S) for future in futures]
    assert [AuthenticationError] == [type(error) for error in errors if error is not None]


@pytest.mark.gate
def test_a_worker_that_is_told_to_stop_gives_back_what_waits(fleet):
    """
    And finishes what is on its way; another worker goes on, nothing is sent twice.
    """
    ours = fleet(latency=1.0, faults=[])
    with ours.queue() as queue:
        first = ours.start_worker("--rpm", "2", "--minute", "300", lanes="normal:4")
        futures = [queue.submit(f"n {n}") for n in range(4)]
        assert ours.groq.wait_for_requests(2, S)
        assert 0 == ours.stop_worker(first)
        wait_until(lambda: 2 <= sum(future.done() for future in futures))
        assert 2 == sum(future.done() for future in futures)
        assert 2 == len(ours.prompts())
        ours.start_worker(lanes="normal:4")
        for future in futures:
            assert 1 == future.result(S).attempts
    assert {f"n {n}": 1 for n in range(4)} == Counter(ours.prompts())


@pytest.mark.gate
def test_wake_up_calls_that_come_twice_or_never_change_nothing(fleet):
    """
    A hundred too many send nothing twice; where all are lost somebody sweeps.
    """
    redis = needs("redis")
    ours = fleet()
    notifier = Notifier(ours.broker)
    with ours.queue() as queue:
        futures = [queue.submit(f"n {n}") for n in range(50)]
        notifier.notify(NORMAL, 100)
        worker = ours.start_worker()
        wait(futures, S)
        ours.stop_worker(worker)

        lost = [queue.submit(f"lost {n}") for n in range(50)]
        client = redis.Redis.from_url(ours.broker)
        for key in client.scan_iter("gq.normal*"):
            client.delete(key)
        client.close()
        assert 0 == notifier.waiting(NORMAL)
        ours.start_worker()
        for future in [*futures, *lost]:
            assert 1 == future.result(S).attempts
    notifier.close()
    assert {1} == set(Counter(ours.prompts()).values())


@pytest.mark.gate
def test_the_tools_of_celery_see_the_workers(fleet):
    """
    ``celery inspect`` and what is built on it, such as Flower; each lane is a Celery worker of its own.
    """
    ours = fleet()
    worker = ours.start_worker(lanes="urgent:1,bulk:1")
    asked = [sys.executable, "-m", "celery", "-b", ours.broker, "inspect", "-t", "3", "--json", "ping"]

    pong = json.loads(subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE_S).stdout)

    assert {"urgent", "bulk"} == {node.partition("@")[0] for node in pong}
    assert 0 == ours.stop_worker(worker)


def test_scripts_that_redis_has_forgotten_are_given_to_it_again(fleet):
    """
    As after a failover.
    """
    ours = fleet()
    ours.start_worker()
    with ours.queue() as queue:
        queue.submit("one").result(S)
        ours.server.ask("SCRIPT FLUSH")
        queue.submit("two").result(S)


def test_an_emptied_redis_ends_every_future_with_the_reason(fleet, monkeypatch):
    """
    Nobody waits for ever for what nobody knows any more.
    """
    monkeypatch.setattr(replies, "_ASK_NS", NS_PER_S // 4)
    monkeypatch.setattr(job_store, "LISTEN_S", 0.25)
    ours = fleet()
    with ours.queue() as queue:
        futures = [queue.submit(f"n {n}") for n in range(3)]
        ours.server.ask("FLUSHALL")
        errors = [future.exception(S) for future in futures]
    assert [EngineUnavailable] * 3 == [type(error) for error in errors]
    assert "submit it again" in str(errors[0])


@pytest.mark.gate
def test_workers_started_with_nonsense_say_so():
    """
    Exit codes as everywhere: 3 for settings, 2 for a broker that is away.
    """
    need_celery()
    for arguments, code, said in (
        (["--broker", "redis://127.0.0.1:1/0", "--lanes", "fast:3"], 3, "urgent:4,normal:8,bulk:8"),
        (["--broker", "http://x"], 3, "broker"),
        (["--broker", "redis://127.0.0.1:1/0"], 2, "cannot be used"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "groq_queue", "worker", "--base-url", "http://127.0.0.1:9", *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert code == done.returncode, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_priorities_travel_in_their_lanes():
    """
    More urgent than normal, normal, less urgent.
    """
    from groq_queue.distributed.wakeups import lane_for

    assert ["urgent", "urgent", "normal", "bulk", "bulk"] == [lane_for(level).name for level in Priority]
