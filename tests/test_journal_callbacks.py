"""What a queue with a journal does at the end of a request: the callback's thread, and an end that cannot be stored."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from groq_queue import GroqQueue, GroqSimulator, Limits
from groq_queue.journal import Journal

WIDE = Limits(rpm=100_000, tpm=100_000_000)
MODEL = "llama-3.1-8b-instant"
PATIENCE_S = 10


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.db"


@pytest.fixture
def open_queue(path):
    with GroqSimulator(limits=WIDE, latency=0.0) as simulator:

        def open_queue(**options):
            settings = {"api_key": "k", "base_url": simulator.base_url, "model": MODEL, "limits": WIDE, "journal": path}
            return GroqQueue(**(settings | options))

        yield open_queue


def statuses(path):
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return [status for (status,) in connection.execute("SELECT status FROM requests ORDER BY id")]


@pytest.mark.parametrize("error", [MemoryError("no memory"), ValueError("cannot be written")])
def test_an_end_that_cannot_be_stored_for_a_moment_is_told_and_stored_soon(
    open_queue, path, monkeypatch, caplog, error
):
    finish, raised = Journal.finish, []

    def finish_later(self, *arguments, **named):
        if not raised:
            raised.append(error)
            raise error
        return finish(self, *arguments, **named)

    monkeypatch.setattr(Journal, "finish", finish_later)
    with open_queue() as queue:
        assert queue.submit("a", custom_id="a").result(PATIENCE_S)

    assert raised
    assert ["completed"] == statuses(path)
    assert f"is not stored in the journal, tried again soon: {type(error).__name__}: {error}" in caplog.text


def test_an_end_that_can_never_be_stored_is_told_and_the_queue_closes(open_queue, path, monkeypatch, caplog):
    def refuse(self, *arguments, **named):
        raise ValueError("never")

    monkeypatch.setattr(Journal, "finish", refuse)
    with open_queue() as queue:
        assert queue.submit("a", custom_id="a").result(PATIENCE_S)

    assert "so the next start does not know of it: ValueError: never" in caplog.text
    monkeypatch.undo()
    with open_queue() as queue:
        assert queue.submit("a", custom_id="a").result(PATIENCE_S)
    assert ["completed"] == statuses(path)


@pytest.mark.parametrize("model", [MODEL, "no-such-model"])
def test_a_request_whose_end_cannot_be_stored_is_answered_from_memory_and_not_sent_again(
    open_queue, monkeypatch, caplog, model
):
    """
    It is asked for again while storing fails: the same answer, or the same error, for what was sent once.
    """

    def refuse(self, *arguments, **named):
        raise MemoryError("no memory")

    with open_queue() as queue:
        monkeypatch.setattr(Journal, "finish", refuse)
        first = queue.submit("a", custom_id="a", model=model)
        first.exception(PATIENCE_S)
        again = queue.submit("a", custom_id="a", model=model)
        again.exception(PATIENCE_S)
        monkeypatch.undo()

        assert str(first.exception()) == str(again.exception())
        assert model != MODEL or first.result().id == again.result().id
        assert 1 == queue.stats().attempts


def test_a_cancelled_request_that_is_wanted_again_is_answered_though_its_cancelling_could_not_be_stored(
    open_queue, path, monkeypatch, caplog
):
    """
    The cancelling that is still to be stored is overtaken: it does not end the new request, nor its row.
    """

    def refuse(self, *arguments, **named):
        raise MemoryError("no memory")

    with open_queue() as queue:
        queue.pause()
        first = queue.submit("a", custom_id="a")
        with monkeypatch.context() as without_memory:
            without_memory.setattr(Journal, "finish", refuse)
            assert first.cancel()
        again = queue.submit("a", custom_id="a")
        queue._bridge._file_again()  # what its timer does after a second
        queue.resume()
        assert again.result(PATIENCE_S)

    assert "is not stored in the journal" in caplog.text
    assert ["completed"] == statuses(path)


def test_levels_that_cannot_be_stored_keep_nobody_from_closing(open_queue, path, monkeypatch, caplog):
    def refuse(self, levels):
        raise MemoryError("no memory")

    monkeypatch.setattr(Journal, "save_levels", refuse)
    with open_queue() as queue:
        assert queue.submit("a", custom_id="a").result(PATIENCE_S)

    assert "how full the budgets are could not be stored" in caplog.text
    monkeypatch.undo()
    open_queue().shutdown()  # it has no owner any more
    assert ["completed"] == statuses(path)
