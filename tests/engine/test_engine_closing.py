"""What an engine was given is closed at its end, though a part of it, or the user's clock, fails just then."""

from __future__ import annotations

import pytest

from groq_queue.clock import FakeClock


class Parts:
    """What is closed, and what raises then."""

    def __init__(self, engine):
        self.closed = []
        for name in ("journal", "limiter", "transport"):
            engine.at_close(lambda name=name: self.close(name))
        self.errors = {}

    def close(self, name):
        self.closed.append(name)
        if name in self.errors:
            raise self.errors.pop(name)


@pytest.mark.parametrize("error", [ValueError("mine"), MemoryError(), SystemExit(1), KeyboardInterrupt()])
def test_a_part_that_cannot_be_closed_keeps_no_other_open(stage, caplog, error):
    play = stage()
    parts = Parts(play.engine)
    parts.errors = {"limiter": error}

    if isinstance(error, Exception):
        play.engine.shutdown(wait=True, cancel_futures=False)
        assert ["close_failed"] == [record.groq_queue_event for record in caplog.records]
    else:
        with pytest.raises(type(error)):
            play.engine.shutdown(wait=True, cancel_futures=False)

    assert ["journal", "limiter", "transport"] == parts.closed


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_clock_that_fails_at_the_end_keeps_nothing_open(stage, monkeypatch, kind):
    play = stage()
    parts = Parts(play.engine)
    play.submit("a").result(10)
    closing = play.engine._close_lanes

    def close_lanes():
        monkeypatch.setattr(play.engine, "_close_lanes", closing)  # once

        def fail(self):
            raise kind("the user's clock")

        with monkeypatch.context() as patched:
            patched.setattr(FakeClock, "now_ns", fail)
            closing()

    monkeypatch.setattr(play.engine, "_close_lanes", close_lanes)
    play.engine.shutdown(wait=True, cancel_futures=False)

    assert ["journal", "limiter", "transport"] == parts.closed
