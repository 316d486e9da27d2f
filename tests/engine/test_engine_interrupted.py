"""A change that is broken off in the middle is undone, or finished by whoever comes next.

A Ctrl-C raises between any two steps of the main thread; so the tests raise at each function entry in turn.
"""

from __future__ import annotations

import gc
import sys
import threading
from concurrent.futures import CancelledError
from contextlib import suppress

import pytest

from groq_queue.errors import QueueFull

PATIENCE_S = 10.0


def interrupted_at(entry, act, kind=KeyboardInterrupt):
    """Run *act* and raise at its *entry*-th function entry; return whether there was one so late."""
    entries = 0

    def count(frame, event, _):
        nonlocal entries
        if event == "call":
            entries += 1
            if entries == entry:
                sys.setprofile(None)
                raise kind

    gc.disable()  # what others have called at a collection is not ours to interrupt
    sys.setprofile(count)
    try:
        act()
    except kind:
        return True
    finally:
        sys.setprofile(None)
        gc.enable()
    return entries >= entry


def every_entry(act_of):
    """Call *act_of* for a fresh act, and interrupt each at one function entry more, until there is no further one."""
    entry = 1
    while interrupted_at(entry, act_of(entry)):
        entry += 1
        assert entry < 500
    assert entry > 5
    return entry - 1


def check(play, futures):
    """Every Future ends, the queue works, and its counts agree."""
    last = play.submit("last")
    play.release()
    assert last.result(PATIENCE_S)
    for future in futures:
        with suppress(CancelledError):
            future.result(PATIENCE_S)
    assert play.engine.join(PATIENCE_S)
    play.settle_down()
    stats = play.engine.stats()
    assert (0, 0) == (stats.pending, stats.in_flight)
    assert stats.submitted == stats.completed + stats.failed + stats.cancelled + stats.expired
    assert {} == stats.pending_by_client == stats.pending_by_priority
    assert not play.engine._table.open
    return stats


def test_a_submit_that_is_interrupted_anywhere_leaves_a_queue_that_works(stage):
    play = stage(max_workers=2)
    play.hold()
    futures = [play.submit("a"), play.submit("b"), play.submit("c")]
    play.wait_for_sends(2)

    tries = every_entry(lambda entry: lambda: futures.append(play.submit(f"new {entry}", priority=entry % 11)))

    stats = check(play, futures)
    assert len(futures) + 1 <= stats.submitted <= len(futures) + 1 + tries
    assert stats.submitted == stats.completed


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_the_first_submit_of_a_model_that_is_interrupted_leaves_a_queue_that_works(stage, kind):
    play = stage(max_workers=2)
    play.hold()
    futures = [play.submit("a"), play.submit("b")]
    play.wait_for_sends(2)

    entry = 1
    while interrupted_at(entry, lambda: futures.append(play.submit(f"new {entry}", model=f"model {entry}")), kind):  # noqa: B023
        entry += 1

    assert entry > 5
    stats = check(play, futures)
    assert stats.submitted == stats.completed


def test_a_submit_with_bounds_that_is_interrupted_still_ends_in_time(stage):
    play = stage(max_workers=1)
    play.hold()
    futures = [play.submit("first")]
    play.wait_for_sends(1)
    bounds = {"max_wait_ns": 5_000_000_000, "not_before_ns": 1_000_000_000}

    every_entry(lambda entry: lambda: futures.append(play.submit(f"new {entry}", **bounds)))
    play.clock.advance(10)
    pending = play.engine.stats().pending
    for future in futures[1:]:
        future.exception(PATIENCE_S)

    assert 0 == pending or not play.engine.stats().pending
    play.release()
    assert futures[0].result(PATIENCE_S)


def test_a_cancel_that_is_interrupted_anywhere_cancels_or_does_not(stage):
    play = stage(max_workers=1)
    play.hold()
    futures = [play.submit("first")]
    play.wait_for_sends(1)
    called = []

    def one_more(entry):
        future = play.submit(f"new {entry}", client=f"client {entry % 3}", callback=called.append)
        futures.append(future)
        return future.cancel

    every_entry(one_more)

    stats = check(play, futures)
    assert stats.cancelled == sum(future.cancelled() for future in futures)
    assert len(futures) - 1 == len(called) == len(set(called))


def test_a_cancel_all_that_is_interrupted_anywhere_ends_every_future_it_ended(stage):
    play = stage(max_workers=1)
    play.hold()
    futures = [play.submit("first")]
    play.wait_for_sends(1)
    called = []

    def some_more(entry):
        play.engine.cancel_all(lambda request: True)  # what the interrupted one left
        futures.extend(play.submit(f"{entry} {n}", client=f"{n % 2}", callback=called.append) for n in range(4))
        return lambda: play.engine.cancel_all(lambda request: True)

    every_entry(some_more)

    stats = check(play, futures)
    assert stats.cancelled == sum(future.cancelled() for future in futures)
    assert len(futures) - 1 == len(called) == len(set(called))


def test_a_change_of_priority_that_is_interrupted_anywhere_loses_nothing(stage):
    play = stage(max_workers=1)
    play.hold()
    futures = [play.submit("first"), *(play.submit(f"{n}", client=f"{n % 2}") for n in range(6))]
    play.wait_for_sends(1)

    every_entry(lambda entry: lambda: play.engine.set_priority(futures[1 + entry % 6]._request, entry % 11))

    stats = check(play, futures)
    assert 8 == stats.completed == stats.submitted


@pytest.mark.parametrize("cancel", [True, False])
def test_a_shutdown_that_is_interrupted_anywhere_can_be_called_again(stage, cancel):
    def stage_with_some(entry):
        play = stage(max_workers=1)
        play.hold()
        futures = [play.submit("first"), *(play.submit(f"{n}") for n in range(3))]
        play.wait_for_sends(1)
        plays.append((play, futures))
        return lambda: play.engine.shutdown(wait=False, cancel_futures=cancel)

    plays = []
    every_entry(stage_with_some)

    for play, futures in plays:
        play.release()
        play.engine.shutdown(wait=True, cancel_futures=cancel)
        assert all(future.done() for future in futures)
        assert futures[0].result(0)


def test_a_second_interrupt_is_put_right_by_whoever_comes_next(stage):
    """
    The first comes in the middle of a change, the second while that is put right.
    """
    play = stage(max_workers=1)
    play.hold()
    futures = [play.submit("first")]
    play.wait_for_sends(1)
    rebuild = play.engine._table.rebuild
    interrupted = []

    def interrupt(ended_as):
        if threading.current_thread() is not threading.main_thread():
            return rebuild(ended_as)
        interrupted.append(ended_as)
        raise KeyboardInterrupt

    play.engine._table.rebuild = interrupt
    for entry in range(1, 60):
        future = play.submit(f"new {entry}")
        futures.append(future)
        interrupted_at(entry, future.cancel)
    play.engine._table.rebuild = rebuild

    assert interrupted
    play.engine.resume(None)
    check(play, futures)


def test_no_memory_at_any_step_of_a_submit_or_cancel_costs_no_future(stage):
    play = stage(max_workers=1)
    play.hold()
    futures = [play.submit("first")]
    play.wait_for_sends(1)
    for entry in range(1, 80):
        kept = []
        interrupted_at(entry, lambda kept=kept, entry=entry: kept.append(play.submit(f"{entry}")), MemoryError)
        futures += kept
        interrupted_at(entry, futures[-1].cancel, MemoryError)

    check(play, futures)


def test_a_callback_that_cancels_the_next_request_may_do_so_a_thousand_times(stage):
    """
    Each cancel runs the callback of the next, nested; the recursion limit is not met.
    """
    play = stage(max_workers=1)
    play.hold()
    first = play.submit("first")
    play.wait_for_sends(1)
    futures = [play.submit(f"{n}") for n in range(1_000)]
    order = []
    for number, future in enumerate(futures[:-1]):
        future.add_done_callback(lambda _, number=number: (order.append(number), futures[number + 1].cancel()))

    assert futures[0].cancel()

    assert all(future.cancelled() for future in futures)
    assert list(range(999)) == order
    play.release()
    assert first.result(PATIENCE_S)
    assert 1_000 == play.engine.stats().cancelled


def test_a_cancel_at_the_end_of_the_stack_loses_nothing(stage):
    """
    The user's own recursion leaves no room for the steps of a cancel.
    """
    play = stage(max_workers=1)
    play.hold()
    futures = [play.submit("first"), *(play.submit(f"{n}") for n in range(60))]
    play.wait_for_sends(1)

    def dive(frames, act):
        if frames:
            dive(frames - 1, act)
        else:
            act()

    room = sys.getrecursionlimit()
    depth = 0
    frame = sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    raised = 0
    for number, future in enumerate(futures[1:]):
        try:
            dive(room - depth - 2 - number, future.cancel)
        except RecursionError:
            raised += 1

    assert raised > 5
    check(play, futures)


def test_a_full_queue_that_refuses_is_not_put_right_each_time(stage):
    """
    What the engine itself raises left nothing half done, and putting right looks at every request.
    """
    play = stage(max_workers=1, max_pending=2, when_full="raise")
    play.hold()
    futures = [play.submit("first")]
    play.wait_for_sends(1)
    futures += [play.submit("a"), play.submit("b")]
    rebuilt = []
    rebuild = play.engine._table.rebuild
    play.engine._table.rebuild = lambda ended_as: (rebuilt.append(ended_as), rebuild(ended_as))[1]

    with pytest.raises(QueueFull):
        play.submit("c")

    assert [] == rebuilt
    play.release()
    assert all(future.result(PATIENCE_S) for future in futures)


def test_a_clock_that_fails_for_good_stops_the_queue_with_one_error(stage):
    play = stage(max_workers=1)
    play.hold()
    futures = [play.submit("first"), play.submit("second")]
    play.wait_for_sends(1)
    now_ns = play.clock.now_ns
    on_main = threading.get_ident()

    def broken():
        if threading.get_ident() == on_main:
            return now_ns()
        raise ValueError("no time")

    play.clock.now_ns = broken
    play.release()
    errors = [future.exception(PATIENCE_S) for future in futures]
    play.clock.now_ns = now_ns

    assert "no time" in str(errors[0])
    assert "no time" in str(errors[1])


def test_no_memory_for_a_change_of_priority_reaches_the_caller(stage, monkeypatch):
    play = stage(max_workers=1)
    play.engine.pause(None)
    future = play.submit("a")

    def out_of_memory(*arguments):
        raise MemoryError

    monkeypatch.setattr(play.engine._table, "change_priority", out_of_memory)
    with pytest.raises(MemoryError):
        play.engine.set_priority(future._request, 1)
    monkeypatch.undo()

    assert play.engine.set_priority(future._request, 1)


def test_a_worker_that_finds_no_job_looks_again_at_once_the_first_time_only(stage):
    engine = stage(max_workers=1).engine

    with engine.critical_section():  # so that no worker finds all well in between
        told = [engine.broke(None, MemoryError()) for _ in range(3)]

    assert [True, False, False] == told


def test_an_engine_without_a_file_has_nothing_to_read_and_says_so_by_doing_nothing(stage):
    with stage(max_workers=1).engine.reading() as read:
        assert read is None
