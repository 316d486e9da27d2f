"""The Future of a request, as the stdlib's own functions use it."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import tracemalloc
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, InvalidStateError, as_completed, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from groq_queue.core.request import Request, State
from groq_queue.core.token_estimate import PromptSize
from groq_queue.engine import future as room
from groq_queue.engine.future import RequestFuture, _Hooks
from groq_queue.engine.worker_pool import Inside

GUARD_S = 30


class Desk:
    """The engine, as a Future knows it."""

    def __init__(self) -> None:
        self.kept: list[tuple[RequestFuture[Any], int]] = []
        self.inside = Inside()
        self.stepped_aside = 0

    def cancel(self, request: Request) -> bool:
        return request.custom_id == "may be cancelled"

    def blocking_section(self) -> AbstractContextManager[None]:
        self.stepped_aside += 1
        return nullcontext()

    def keep(self, future: RequestFuture[Any], row_id: int) -> None:
        self.kept.append((future, row_id))


NOBODY = Desk()


def pending() -> RequestFuture[Any]:
    return RequestFuture(Request(model="m", endpoint="e", body=b"{}", size=PromptSize(1, 1), priority=5), NOBODY)


def ended(how: str) -> RequestFuture[Any]:
    future = pending()
    end(future, how)
    return future


def end(future: RequestFuture[Any], how: str) -> None:
    if how == "cancelled":
        future.end_cancelled()
    else:
        future.end("answer" if how == "answered" else None, KeyError("error") if how == "failed" else None)


def outcome_of(future: Future[Any], timeout: float | None = GUARD_S) -> str:
    try:
        return str(future.result(timeout))
    except (CancelledError, KeyError) as error:
        return type(error).__name__


OUTCOMES = {"answered": "answer", "failed": "KeyError", "cancelled": "CancelledError"}


@pytest.mark.parametrize("how", OUTCOMES)
def test_a_future_that_ended_unwatched_tells_how(how):
    """
    Nobody waited and nobody asked before.
    """
    future = ended(how)

    assert future.done()
    assert (how == "cancelled") == future.cancelled()
    assert OUTCOMES[how] == outcome_of(future, timeout=0)
    assert ({future}, set()) == wait([future], timeout=0)
    assert [future] == list(as_completed([future], timeout=0))


@pytest.mark.parametrize("how", OUTCOMES)
def test_everyone_who_waits_is_woken(how):
    """
    By result, by exception, by wait, by as_completed, by a callback, and in asyncio: all of the same Future.
    """
    future, told = pending(), []
    ways = {
        "result": lambda: outcome_of(future),
        "wait": lambda: len(wait([future], timeout=GUARD_S).done),
        "as_completed": lambda: len(list(as_completed([future, ended("answered")], timeout=GUARD_S))),
        "asyncio": lambda: asyncio.run(awaited(future)),
    }
    threads = [threading.Thread(target=lambda way=way, ask=ask: told.append((way, ask()))) for way, ask in ways.items()]
    future.add_done_callback(lambda done: told.append(("callback", done is future)))
    for thread in threads:
        thread.start()
    wait_until_watched(future, count=3)

    end(future, how)
    for thread in threads:
        thread.join(GUARD_S)

    expected = [("as_completed", 2), ("asyncio", OUTCOMES[how]), ("callback", True), ("result", OUTCOMES[how])]
    assert [*expected, ("wait", 1)] == sorted(told)
    assert [] == future._waiters


async def awaited(future: Future[Any]) -> str:
    try:
        return str(await asyncio.wait_for(asyncio.wrap_future(future), GUARD_S))
    except (asyncio.CancelledError, KeyError) as error:
        return type(error).__name__


def wait_until_watched(future: RequestFuture[Any], count: int) -> None:
    """Return when *count* callers of result, wait and as_completed have hung in their waiters."""
    looks = threading.Event()
    for _ in range(3_000):
        if len(future._waiters) == count:
            return
        looks.wait(0.01)
    raise AssertionError(f"{len(future._waiters)} of {count} wait")


def test_ours_and_the_stdlibs_may_be_waited_for_together():
    theirs: Future[Any] = Future()
    ours = pending()
    ours.end("answer", None)

    done, open_ = wait([ours, theirs], timeout=GUARD_S, return_when=FIRST_COMPLETED)

    assert ({ours}, {theirs}) == (done, open_)


@pytest.mark.parametrize("timeout", [0, -1, 0.001])
def test_a_wait_that_is_over_first_leaves_nothing_behind(timeout):
    future = pending()

    for ask in (future.result, future.exception):
        with pytest.raises(TimeoutError):
            ask(timeout=timeout)

    assert [] == future._waiters
    assert not future.done()


@pytest.mark.parametrize("how", OUTCOMES)
def test_who_comes_while_it_ends_is_not_missed(how, monkeypatch):
    """
    1. A caller sees it pending and prepares to wait. 2. It ends; nobody waits yet. 3. The caller goes on.
    """
    future = pending()

    class Late(room._Watch):
        def __init__(self) -> None:
            super().__init__()
            monkeypatch.undo()
            end(future, how)

    monkeypatch.setattr(room, "_Watch", Late)

    assert OUTCOMES[how] == outcome_of(future)


def test_who_waits_just_before_it_ends_is_woken(monkeypatch):
    """
    1. The worker is about to end a Future that nobody watches. 2. Somebody hangs in a waiter. 3. The worker goes on.
    """
    future, woken = pending(), []

    class Slow:
        def __enter__(self) -> None:
            monkeypatch.undo()
            future.add_done_callback(woken.append)

        def __exit__(self, *what: object) -> None: ...

    monkeypatch.setattr(room, "_unwatched", Slow())
    future.end("answer", None)

    assert [future] == woken


def test_two_who_come_first_share_one_watch(monkeypatch):
    """
    1. One makes what waiting needs. 2. Another has made it meanwhile. 3. Both use that of the second.
    """
    future, other = pending(), []

    class Late(room._Watch):
        def __init__(self) -> None:
            super().__init__()
            monkeypatch.undo()
            other.append(future._condition)

    monkeypatch.setattr(room, "_Watch", Late)

    assert [future._condition] == other == [future._condition]


def test_a_future_ends_once_and_who_ends_it_again_is_told(caplog):
    future = ended("answered")

    with pytest.raises(InvalidStateError):
        future.set_result("another")
    with pytest.raises(InvalidStateError):
        future.set_exception(KeyError("another"))
    future.end("another", None)
    future.end_cancelled()

    assert "answer" == future.result(0)
    assert ["future_taken"] * 2 == [record.groq_queue_event for record in caplog.records]


def test_callbacks_run_in_order_and_once_each_also_after_the_end():
    future, told = pending(), []
    for n in range(3):
        future.add_done_callback(lambda done, n=n: told.append(n))

    future.end("answer", None)
    future.add_done_callback(lambda done: told.append(3))

    assert [0, 1, 2, 3] == told


def test_a_future_refuses_to_be_pickled_and_says_what_to_do():
    for future in (pending(), ended("answered")):
        with pytest.raises(TypeError, match=r"is not pickled: pass on its result\(\)"):
            pickle.dumps(future)


def test_a_request_and_its_future_are_light_until_somebody_waits():
    """
    The stdlib's Future alone takes 1,600 bytes. Ours must leave room for a million.
    """
    made: list[Any] = [None] * 1_000
    gc.collect()
    tracemalloc.start()
    try:
        for n in range(1_000):
            made[n] = pending()
        weight = tracemalloc.get_traced_memory()[0] / 1_000
    finally:
        tracemalloc.stop()

    assert 600 > weight


def test_what_is_asked_of_a_future_is_asked_of_its_request_and_its_engine():
    desk = Desk()
    request = Request("m", "e", b"{}", PromptSize(1, 1), 5, custom_id="may be cancelled")
    future: RequestFuture[Any] = RequestFuture(request, desk)

    assert (request.id, "may be cancelled") == (future.request_id, future.custom_id)
    assert (True, False) == (future.cancel(), pending().cancel())
    assert not future.running()
    request.state = State.RUNNING
    assert future.running()


def test_who_waits_inside_a_callback_steps_aside_and_who_need_not_wait_does_not():
    desk = Desk()
    future: RequestFuture[Any] = RequestFuture(Request("m", "e", b"{}", PromptSize(1, 1), 5), desk)
    with pytest.raises(TimeoutError):
        future.result(0)
    assert 0 == desk.stepped_aside

    desk.inside.depth = 1
    for ask in (future.result, future.exception):
        with pytest.raises(TimeoutError):
            ask(0)
    assert 2 == desk.stepped_aside
    future.end("answer", None)
    assert "answer" == future.result()
    assert 2 == desk.stepped_aside


def test_only_a_future_in_the_backlog_is_kept_for_its_callback():
    desk = Desk()
    request = Request("m", "e", b"{}", PromptSize(1, 1), 5)
    future: RequestFuture[Any] = RequestFuture(request, desk)
    future.add_done_callback(print)
    request.row_id = 7
    request.is_paged_out = True
    future.add_done_callback(print)
    assert [(future, 7)] == desk.kept

    future._watched().callbacks.clear()
    future.end("answer", None)
    future.add_done_callback(lambda done: None)
    assert 1 == len(desk.kept)


def test_a_callable_is_let_go_with_the_end_and_decides_about_it():
    class Call:
        def ending(self, result: object, error: object) -> tuple[object, object]:
            return f"{result}, read by the callable", None

    future = pending()
    future._request.call = Call()
    future.end("answer", None)
    assert "answer, read by the callable" == future.result(0)
    assert None is future._request.call

    cancelled = pending()
    cancelled._request.call = Call()
    cancelled.end_cancelled()
    assert cancelled.cancelled()
    assert None is cancelled._request.call


def test_in_a_child_a_future_ends_though_its_lock_was_held_at_the_fork():
    """
    The callbacks are the parent's to run, and whoever holds the lock does not exist here.
    """
    future, called = pending(), []
    future.add_done_callback(called.append)
    watch = future._watched()
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with watch.lock:
            held.set()
            leave.wait(GUARD_S)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(GUARD_S)

    future.leave_to_parent(KeyError("answered in the parent"))

    leave.set()
    thread.join(GUARD_S)
    assert "KeyError" == outcome_of(future, timeout=0)
    assert [] == called


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_callback_that_ends_the_program_does_so_on_the_main_thread_only(kind, caplog):
    def interrupt(done: Future[Any]) -> None:
        raise kind

    future, raised = pending(), []
    future.add_done_callback(interrupt)
    with pytest.raises(kind):
        future.end("answer", None)

    def end_elsewhere() -> None:
        other = pending()
        other.add_done_callback(interrupt)
        try:
            other.end("answer", None)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=end_elsewhere)
    thread.start()
    thread.join(GUARD_S)

    assert [] == raised
    assert ["callback_raised"] * 2 == [record.groq_queue_event for record in caplog.records]
    assert "answer" == future.result(0)


def test_every_error_of_a_callback_is_logged_and_the_next_one_runs(caplog):
    future, called = pending(), []

    def explode(done: Future[Any]) -> None:
        raise ValueError("mine")

    future.add_done_callback(explode)
    future.add_done_callback(called.append)
    future.end("answer", None)

    assert [future] == called
    assert 1 == len(caplog.records)
    assert caplog.records[0].exc_info is not None


def test_a_thread_that_waits_for_two_steps_aside_until_the_last_is_taken_out():
    inside = []

    @contextmanager
    def aside():
        inside.append(True)
        yield
        inside.pop()

    waiters, waiter = [], SimpleNamespace()
    hooks = _Hooks(waiters, SimpleNamespace(_waiting=lambda *, is_bounded: aside()))
    hooks.append(waiter)
    hooks.append(waiter)
    assert [True] == inside

    hooks.remove(waiter)
    assert [True] == inside
    hooks.remove(waiter)
    assert [] == inside == waiters
