"""Open queues when the interpreter ends: each gets its time, and what was not sent is said."""

from __future__ import annotations

import pytest

from groq_queue import lifecycle


class Engine:
    def __init__(self, unsent=0, is_kept=False):
        self.unsent, self.is_kept = unsent, is_kept
        self.left = []

    def leave(self, timeout_s):
        self.left.append(timeout_s)
        return self.unsent


@pytest.fixture
def exits(monkeypatch):
    """The hooks registered instead of at the interpreter's end, and no queues but ours."""
    registered = []
    monkeypatch.setattr(lifecycle.atexit, "register", registered.append)
    monkeypatch.setattr(lifecycle.atexit, "unregister", lambda hook: registered.clear())
    monkeypatch.setattr(lifecycle, "_open", type(lifecycle._open)())
    return registered


def test_open_queues_get_five_seconds_each_and_say_what_was_not_sent(exits, capsys):
    engines = [Engine(2), Engine(3), Engine(4, is_kept=True), Engine()]
    for engine in engines:
        lifecycle.leave_at_exit(engine)
    lifecycle.forget(closed := Engine(100))
    lifecycle.leave_at_exit(closed)
    lifecycle.forget(closed)
    assert 1 == len(exits)

    exits[0]()

    assert [[5.0]] * 4 == [engine.left for engine in engines]
    assert [] == closed.left
    unkept, kept = sorted(capsys.readouterr().err.splitlines(), key=len)
    assert "groq_queue: the program ended with 5 requests not sent; use `with GroqQueue(...)`" == unkept[:81]
    assert "4 requests not sent; they stay in the journal, and the next run on it sends them; use" in kept


def test_nothing_is_said_if_nothing_was_left_or_nobody_can_hear_it(exits, capsys, monkeypatch):
    lifecycle.leave_at_exit(idle := Engine())
    exits[0]()
    assert [5.0] == idle.left
    lifecycle.leave_at_exit(busy := Engine(3))
    monkeypatch.setattr(lifecycle.sys, "stderr", None)
    exits[0]()
    monkeypatch.undo()

    assert [5.0] == busy.left
    assert ("", "") == capsys.readouterr()


def test_the_hook_is_renewed_for_the_first_queue_after_all_were_closed(exits):
    """
    Hooks run last in, first out; a queue made later must leave before what was registered in between.
    """
    lifecycle.leave_at_exit(first := Engine())
    lifecycle.leave_at_exit(Engine())
    lifecycle.forget(first)
    exits.append("another's")
    lifecycle._open.clear()

    lifecycle.leave_at_exit(again := Engine())

    assert 1 == len(exits)
    lifecycle.forget(again)
