"""Who is sent next, and by whom."""

from __future__ import annotations

import threading
from concurrent.futures import wait

import pytest

from groq_queue.core.limits import Limits
from groq_queue.core.request import Request


def test_a_late_urgent_request_is_the_next_one_sent(stage):
    """
    200 LOW ones wait behind an exhausted budget, in nobody's hand.
    """
    play = stage(Limits(rpm=1))
    play.submit("first")
    play.wait_for_sends(1)
    futures = [play.submit(f"low-{n}", priority="low") for n in range(200)]

    futures.append(play.submit("high", priority="high"))
    play.clock.advance(60)

    assert ["first", "high"] == play.wait_for_sends(2)
    assert 200 == play.engine.stats().pending


def test_equal_requests_go_first_in_first_out(stage):
    play = stage(max_workers=1)
    play.hold()

    names = [f"{n}" for n in range(500)]
    for name in names:
        play.submit(name)
    play.release()

    assert names == play.wait_for_sends(500)


def test_ten_thousand_submits_from_32_threads_each_end_once(stage):
    play = stage()
    barrier = threading.Barrier(32)
    futures = []

    def submit_many() -> None:
        barrier.wait(10)
        for _ in range(313):
            futures.append(play.submit())

    threads = [threading.Thread(target=submit_many) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    done, not_done = wait(futures, timeout=30)

    assert 32 * 313 == len(done)
    assert not not_done
    assert 32 * 313 == len(play.sent) == len({request.id for request in play.sent})
    assert 32 * 313 == play.engine.stats().completed


def test_a_client_with_ten_requests_is_not_stuck_behind_one_with_a_thousand(stage):
    play = stage(max_workers=8)
    play.hold()
    for n in range(1_000):
        play.submit(f"big-{n}", client="big")
    for n in range(10):
        play.submit(f"small-{n}", client="small")

    play.release()
    play.wait_for_sends(1_010)

    assert max(n for n, name in enumerate(play.taken) if name.startswith("small")) <= 20 + 8


def test_payloads_that_cannot_be_ordered_are_never_compared(stage, monkeypatch):
    def refuse(self: Request, other: object) -> bool:
        raise AssertionError("two requests were compared")

    for name in ("__lt__", "__gt__", "__le__", "__ge__"):
        monkeypatch.setattr(Request, name, refuse, raising=False)
    play = stage(Limits(rpm=1_000_000))
    play.hold()

    for n in range(1_000):
        play.submit(client=f"client-{n % 100}", priority=n % 11)
    play.release()

    assert 1_000 == len(play.wait_for_sends(1_000))


def test_an_exhausted_model_holds_no_worker_and_delays_no_other(stage):
    play = stage({"slow": Limits(rpm=1), "fast": Limits()}, max_workers=2)
    play.submit("slow-first", model="slow")
    play.wait_for_sends(1)
    for n in range(500):
        play.submit(f"slow-{n}", model="slow", priority="critical")

    futures = [play.submit(f"fast-{n}", model="fast", priority="background") for n in range(100)]
    done, _ = wait(futures, timeout=10)
    play.settle_down()

    assert 100 == len(done)
    assert 500 == play.engine.stats().pending


def test_at_most_max_workers_attempts_run_at_once(stage):
    play = stage(max_workers=3)
    play.hold()
    futures = [play.submit() for _ in range(10)]

    play.wait_for_sends(3)
    play.settle_down()

    assert 3 == len(play.sent)
    assert 3 == play.engine.stats().in_flight
    play.release()
    wait(futures, timeout=10)
    assert 0 == play.engine.stats().in_flight


def test_a_lane_sends_no_more_at_once_than_its_cap(stage):
    play = stage(max_workers=8, max_in_flight=2)
    play.hold()
    futures = [play.submit(model=model) for model in ("a", "b") for _ in range(5)]

    play.wait_for_sends(4)
    play.settle_down()

    assert [2, 2] == [lane.in_flight for lane in play.engine.stats().lanes]
    play.release()
    assert not wait(futures, timeout=10).not_done


def test_a_paused_lane_sends_nothing_and_others_go_on(stage):
    play = stage()
    play.submit("held-0", model="held").result(10)
    play.engine.pause("held")
    held = play.submit("held-1", model="held")

    play.submit("free", model="free").result(10)
    play.settle_down()

    assert ["held-0", "free"] == play.names()
    assert "resume(), the lane is paused" == play.engine.explain(held._request).waits_for
    play.engine.resume("held")
    held.result(10)


def test_pausing_everything_holds_models_not_seen_yet(stage):
    play = stage()
    play.engine.pause(None)
    future = play.submit("new", model="new")
    play.settle_down()

    assert [] == play.names()
    play.engine.resume(None)
    future.result(10)


def test_a_weight_of_three_gets_three_turns_for_one(stage):
    play = stage(max_workers=1)
    play.engine.set_weight("heavy", 3)
    play.hold()
    play.submit("first")
    play.wait_for_sends(1)
    for n in range(40):
        play.submit(f"heavy-{n}", client="heavy")
        play.submit(f"light-{n}", client="light")

    play.release()
    sent = play.wait_for_sends(41)[1:]

    assert 29 <= sum(name.startswith("heavy") for name in sent) <= 31


def test_a_request_moved_to_a_higher_level_overtakes(stage):
    play = stage(Limits(rpm=1))
    play.submit("first")
    play.wait_for_sends(1)
    futures = [play.submit(f"low-{n}", priority="low") for n in range(10)]

    assert play.engine.set_priority(futures[7]._request, 0)
    play.clock.advance(60)

    assert ["first", "low-7"] == play.wait_for_sends(2)
    assert {0: 0, 8: 9} == {level: play.engine.stats().pending_by_priority.get(level, 0) for level in (0, 8)}


@pytest.mark.parametrize("fair_by_tokens", [False, True])
def test_turns_are_counted_by_cost_when_asked(stage, fair_by_tokens):
    play = stage(max_workers=1)
    play.hold()
    play.submit("first")
    play.wait_for_sends(1)
    for n in range(80):
        play.submit(f"small-{n}", client="small", turn_cost=100 if fair_by_tokens else 1)
        if n < 20:
            play.submit(f"large-{n}", client="large", turn_cost=800 if fair_by_tokens else 1)

    play.release()
    sent = play.wait_for_sends(41)[1:28]

    large = sum(name.startswith("large") for name in sent)
    assert (2 <= large <= 4) if fair_by_tokens else (12 <= large <= 15)
