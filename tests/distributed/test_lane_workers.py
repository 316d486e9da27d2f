"""What serves a lane is replaced when it breaks, and given up only when it breaks again and again."""

from __future__ import annotations

import threading

import pytest
from worker_fleet import need_celery

from groq_queue.distributed import celery_worker
from groq_queue.distributed.celery_worker import LaneWorkers

PATIENCE_S = 10.0


@pytest.fixture
def serving(monkeypatch):
    """Return a function that serves one lane with what breaks by each of the given errors in turn, then runs."""
    need_celery()
    from celery.worker import state

    monkeypatch.setattr(celery_worker, "_REST_S", (0.0,))
    ends, made = threading.Event(), []

    def serve(*errors):
        left, runs, dead = list(errors), threading.Event(), threading.Event()

        class Controller:
            exitcode = None

            def start(self):
                if left and isinstance(left[0], str):
                    self.exitcode = left.pop(0)  # as Celery notes it, which lets nothing through
                    return
                if left:
                    raise left.pop(0)
                runs.set()
                ends.wait(PATIENCE_S)

        monkeypatch.setattr(celery_worker, "_controller", lambda *_: Controller())
        made.append(LaneWorkers("redis://nowhere", {"bulk": 1}, "name", lambda lane: 0, dead.set))
        made[-1].start()
        return runs, dead

    yield serve
    for workers in made:
        workers.stop()
        ends.set()
        workers.join()
    state.should_stop = None


@pytest.mark.parametrize("error", [MemoryError(), SystemExit(3), KeyboardInterrupt(), ValueError("a bug")], ids=repr)
def test_a_lane_whose_consumer_breaks_is_served_by_another_one(serving, caplog, error):
    runs, dead = serving(error)

    assert runs.wait(PATIENCE_S)
    assert not dead.is_set()
    assert ["the consumer of lane bulk failed and is started again: a bug, or no memory was left"] == caplog.messages


def test_a_lane_whose_consumer_breaks_again_and_again_is_told_dead(serving, caplog):
    runs, dead = serving(*[ValueError("a bug")] * 5)

    assert dead.wait(PATIENCE_S)
    assert not runs.is_set()
    assert 4 == len(caplog.messages)


def test_a_lane_that_celerys_own_command_ends_is_not_begun_anew(serving, caplog):
    """
    Whoever starts the program again, or not, hears of it by the exit code.
    """
    runs, dead = serving("Got shutdown from remote")

    assert dead.wait(PATIENCE_S)
    assert not runs.is_set()
    assert [] == caplog.messages
