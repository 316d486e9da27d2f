"""The states of a request in a real Redis: each change is one step, and only the right one has it."""

from __future__ import annotations

import json

import pytest
from waiting import wait_until

from groq_queue.clock import SystemClock
from groq_queue.distributed.job_store import JobStore, shown_address
from groq_queue.errors import ConfigurationError, EngineUnavailable

ENDING = json.dumps({"attempts": 1})
LONG_MS = 60_000


@pytest.fixture
def store(server):
    made = JobStore(server.url, SystemClock())
    yield made
    made.close()


def put(store, id, *, priority=5, model="m", client="c", weight=1.0, cost=1):
    return store.enqueue(
        id, f"record of {id}", priority=priority, model=model, client=client, weight=weight, cost=cost, reply="me",
        custom_id=None,
    )  # fmt: skip


def claim(store, owner="w", first=0, last=10, lease_ms=LONG_MS, without=()):
    found = store.claim(owner, lease_ms, first, last, without)
    return None if found is None else found.id


def heard(store):
    news = []
    while len(news) < 100:
        store.wake("me")
        news += store.listen("me")
        if ["wake"] in news:
            return [event for event in news if event != ["wake"]]
    return news


def test_a_request_goes_its_way_once(store):
    """
    Each step may be repeated, as after a lost reply, and changes nothing then.
    """
    assert 1 == put(store, "a")
    assert 0 == put(store, "a")
    assert "a" == claim(store)
    assert claim(store) is None
    assert (1, 1) == (store.begin("a", "w", LONG_MS), store.begin("a", "w", LONG_MS))
    assert store.rest("a", "w", 0, "")
    assert store.rest("a", "w", 0, "")
    assert 2 == store.begin("a", "w", LONG_MS)
    assert (1, 0) == (store.finish("a", "completed", ENDING), store.finish("a", "failed", ENDING))

    assert ("completed", ENDING, None) == tuple(value or None for value in store.statuses(["a", "b"])[0])
    assert (None, None, None) == tuple(store.statuses(["a", "b"])[1])
    assert [["began", "a", 1], ["rests", "a", ""], ["began", "a", 2], ["ended", "a"]] == heard(store)


def test_only_the_holder_may_send(store):
    """
    Neither before it holds the request, nor after another has taken it, nor after it was cancelled.
    """
    put(store, "a")
    assert 0 == store.begin("a", "w", LONG_MS)
    claim(store, "w")
    assert 0 == store.begin("a", "other", LONG_MS)
    assert not store.release("a", "other")
    assert store.release("a", "w")
    assert 0 == store.begin("a", "w", LONG_MS)
    assert "a" == claim(store, "other")
    assert 0 == store.begin("a", "w", LONG_MS)
    assert [1] == store.withdraw(["a"], "cancelled", ENDING)
    assert 0 == store.begin("a", "other", LONG_MS)
    assert ["a"] == store.heartbeat("other", LONG_MS, ["a"])


def test_what_is_on_its_way_or_over_cannot_be_cancelled(store):
    """
    What was cancelled is cancelled however often one asks.
    """
    for id in "abc":
        put(store, id)
    assert ["a", "b"] == [claim(store), claim(store)]
    store.begin("a", "w", LONG_MS)

    assert [0, 1, 1, -1] == store.withdraw(["a", "b", "c", "unknown"], "cancelled", ENDING)
    assert [0, 1, 1, -1] == store.withdraw(["a", "b", "c", "unknown"], "cancelled", ENDING)
    assert claim(store) is None
    store.finish("a", "completed", ENDING)
    assert [0] == store.withdraw(["a"], "cancelled", ENDING)
    assert -1 == store.finish("unknown", "completed", ENDING)


def test_an_answer_that_was_paid_for_is_taken_from_whoever_brings_it(store):
    """
    Also from a worker that everybody thought dead; then the next one sends nothing.
    """
    put(store, "a")
    claim(store, "slow", lease_ms=1)
    store.begin("a", "slow", 1)

    def is_taken_over():
        store.expire_dead(1, 3, ENDING, may_expire=True)
        return claim(store, "quick") == "a"

    wait_until(is_taken_over)

    assert 1 == store.finish("a", "completed", ENDING)
    assert 0 == store.begin("a", "quick", LONG_MS)


def swept(store, *ids):
    """Have a worker sweep, and return the states of those requests."""
    store.expire_dead(1, 3, ENDING, may_expire=True)
    return [found.status for found in store.statuses(list(ids))]


def test_what_a_dead_worker_held_waits_again_in_its_place(store):
    """
    Only what was on its way counts as unknown, and the third time it is given up.
    """
    for id in ("held", "sent", "next"):
        put(store, id)
    for becomes in ("queued", "queued", "failed"):
        assert {"held", "sent"} == {claim(store, lease_ms=1), claim(store, lease_ms=1)}
        store.begin("sent", "w", 1)
        expected = [becomes, "queued", "queued"]
        wait_until(lambda expected=expected: expected == swept(store, "sent", "held", "next"))

    assert ["held", "next"] == [claim(store), claim(store)]


def test_nothing_is_taken_back_while_workers_may_not_have_had_time_to_beat(store):
    """
    After a restart of Redis every lease has run out, and most holders live.
    """
    put(store, "a")
    claim(store, lease_ms=1)
    for _ in range(3):
        wait_until(lambda: store.expire_dead(1, 3, ENDING, may_expire=False) is not None)
    assert claim(store) is None
    assert [] == store.heartbeat("w", LONG_MS, ["a"])
    wait_until(lambda: store.expire_dead(1, 3, ENDING, may_expire=True) is not None)
    assert claim(store) is None


def test_the_most_urgent_goes_first_and_within_a_lane_only(store):
    """
    Levels are strict.
    """
    for priority in (10, 5, 1, 8, 0):
        put(store, f"p{priority}", priority=priority)

    assert "p5" == claim(store, first=5, last=5)
    assert "p8" == claim(store, first=6, last=10)
    assert ["p0", "p1", "p10", None] == [claim(store) for _ in range(4)]


def test_clients_take_turns_by_weight_and_cost(store):
    """
    Start-time fair queuing: who comes late stands beside the others, not behind, and saves nothing up.
    """
    for n in range(6):
        put(store, f"a{n}", client="a")
    assert ["a0", "a1"] == [claim(store), claim(store)]
    for n in range(4):
        put(store, f"b{n}", client="b", weight=2.0)
    order = [claim(store) for _ in range(8)]

    assert ["a2", "a3", "a4", "a5"] == [id for id in order if id.startswith("a")]
    assert ["b0", "b1", "b2", "b3"] == [id for id in order if id.startswith("b")]
    assert order.index("b3") <= 5


def test_models_can_be_left_out(store):
    """
    The others of the level are found.
    """
    for n in range(3):
        put(store, f"a{n}", model="a")
    put(store, "b", model="b", client="other")

    assert ["b", None] == [claim(store, without=["a"]), claim(store, without=["a"])]
    assert "a0" == claim(store)


def test_a_request_moves_between_levels_while_it_stands_in_line(store):
    """
    Not once somebody holds it.
    """
    put(store, "a", priority=8)
    put(store, "b", priority=8)
    assert store.move("b", 0)
    assert ["b", "a"] == [claim(store), claim(store)]
    assert not store.move("a", 0)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_away_is_told_apart_from_one_that_refuses(server):
    """
    Both within bounds; the password is never shown.
    """
    away = JobStore("redis://:secret@127.0.0.1:1/0", SystemClock())
    with pytest.raises(EngineUnavailable) as caught:
        away.check()
    away.close()
    assert "secret" not in str(caught.value)

    store = JobStore(server.url, SystemClock())
    server.ask("CONFIG SET maxmemory 1")
    try:
        with pytest.raises(EngineUnavailable, match=r"OOM|OutOfMemory"):
            put(store, "a")
    finally:
        server.ask("CONFIG SET maxmemory 0")
    assert 1 == put(store, "a")
    store.close()

    with pytest.raises(ConfigurationError):
        JobStore("http://127.0.0.1", SystemClock())
    assert "redis://cache:6379/1" == shown_address("redis://user:secret@cache:6379/1?ssl=x")
