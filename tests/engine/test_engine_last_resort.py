"""What a program that has set up no logging sees on stderr of the warnings: the first of a kind, then one a minute."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Callable

import pytest

from groq_queue.engine.last_resort import EVERY_S, LastResort, attach
from groq_queue.errors import APIResponseError, status_error

PATIENCE_S = 10.0
NOON = 1_800_000_000.0

Told = Callable[..., str]


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> LastResort:
    """One that stands alone on the logger ``groq_queue``, in a program without any other handler."""
    made = LastResort()
    logger = logging.getLogger("groq_queue")
    monkeypatch.setattr(logger, "parent", logging.RootLogger(logging.WARNING))  # the true one has pytest's handlers
    monkeypatch.setattr(logger, "handlers", [made])
    return made


def root() -> logging.Logger:
    """Return the root of that program."""
    parent = logging.getLogger("groq_queue").parent
    assert parent is not None
    return parent


@pytest.fixture
def told(handler: LastResort, capsys: pytest.CaptureFixture[str]) -> Told:
    """Handle one record that was made at the given second, and return what was printed."""

    def tell(
        message: str,
        *args: object,
        at_s: float = 0.0,
        line: int = 1,
        error: BaseException | None = None,
        level: int = logging.ERROR,
        name: str = "groq_queue",
        **extra: object,
    ) -> str:
        info = None if error is None else (type(error), error, error.__traceback__)
        record = logging.LogRecord(name, level, "/groq_queue/engine/future.py", line, message, args, info)
        record.created = NOON + at_s
        vars(record).update(extra)
        capsys.readouterr()
        logging.getLogger(name).handle(record)
        return capsys.readouterr().err

    return tell


def raised(act: Callable[[], object]) -> BaseException:
    try:
        act()
    except BaseException as error:
        return error
    raise AssertionError("it did not raise")


def test_the_first_of_a_kind_is_printed_and_then_one_a_minute_that_counts(told):
    """
    Time is that of the records, so a test can move it.
    """
    first = told("row %d is not stored", 1)
    soon = [told("row %d is not stored", number, at_s=1) for number in range(41)]
    just_before = told("row %d is not stored", 50, at_s=EVERY_S - 0.001)
    a_minute_later = told("row %d is not stored", 51, at_s=EVERY_S)
    soon_again = told("row %d is not stored", 52, at_s=EVERY_S + 1)
    after_a_pause = told("row %d is not stored", 53, at_s=500)

    assert "groq_queue: row 1 is not stored\n" == first
    assert [""] * 41 == soon
    assert "" == just_before
    assert "groq_queue: row 51 is not stored (42 more like this in the last 60 s)\n" == a_minute_later
    assert "" == soon_again
    assert "groq_queue: row 53 is not stored (1 more like this in the last 440 s)\n" == after_a_pause


@pytest.mark.parametrize(("step_s", "is_told"), [(-0.5, False), (-59.0, False), (-61.0, True)])
def test_a_clock_that_is_set_back_silences_nothing_for_hours(told, step_s, is_told):
    """
    A little back is another thread that got here later.
    """
    told("away")

    again = told("away", at_s=step_s)

    assert is_told == bool(again)


def test_kinds_are_events_places_limits_and_the_lines_that_raised(told):
    def save() -> None:
        raise OSError("disk full")

    def count() -> None:
        raise OSError("no such table")

    def event(name: str, **more: object) -> dict[str, object]:
        return {"groq_queue_event": name, **more}

    kinds = [
        told("a", **event("limits_noticed", limit="RPM", lane="m")),
        told("a", **event("limits_noticed", limit="TPM", lane="m")),
        told("a", **event("limits_noticed", limit="TPM", lane="n")),
        told("a", **event("daily_limit", limit="TPM", lane="n")),
        told("a", **event("store_away")),
        told("a", line=2, **event("store_away")),
        told("a", error=raised(save), **event("callback_raised")),
        told("a", error=raised(count), **event("callback_raised")),
    ]
    same = [
        told("b", **event("limits_noticed", limit="TPM", lane="n", request_id="1")),
        told("b", line=2, **event("store_away", lane="n")),
        told("b", error=raised(save), **event("callback_raised", lane="n")),
    ]

    assert all(kinds)
    assert ["", "", ""] == same


def test_what_is_left_at_the_end_is_counted_once(handler, told, monkeypatch):
    """
    ``logging`` flushes its handlers when the program ends.
    """
    told("a done-callback of %s raised", "request 'q0'")
    for number in range(1, 1_300):
        told("a done-callback of %s raised", f"request 'q{number}'", at_s=1)
    told("other", line=2)
    monkeypatch.setattr(sys, "stderr", at_the_end := io.StringIO())

    handler.flush()
    handler.flush()

    assert "groq_queue: 1,299 more like this: a done-callback of request 'q0' raised\n" == at_the_end.getvalue()


def test_a_traceback_is_that_of_the_users_error(told):
    """
    Line for line as the stdlib prints it, below the sentence that names the request.
    """

    def save() -> None:
        raise OSError("disk full")

    text = told("a done-callback of request 'q7' raised", error=raised(save))

    lines = text.splitlines()
    assert ["groq_queue: a done-callback of request 'q7' raised", "Traceback (most recent call last):"] == lines[:2]
    assert any("in save" in line for line in lines)
    assert '    raise OSError("disk full")' in lines
    assert "OSError: disk full" == lines[-1]


def test_what_the_server_said_is_not_repeated(told):
    """
    It may repeat the prompt; also as the cause or the context of the user's own error, or within a group.
    """
    refused = status_error(400, {"error": {"message": "bad: the-prompt"}}, {})
    cut = APIResponseError("answer: the-prompt")

    def save() -> None:
        try:
            raise cut
        except APIResponseError:
            raise KeyError("mine") from refused

    text = told("raised", error=raised(save))

    assert "the-prompt" not in text
    assert "BadRequestError: HTTP 400: what the server said is left out here" in text
    assert "KeyError: 'mine'" in text


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups came with Python 3.11")
def test_what_the_server_said_is_not_repeated_in_a_group(told):
    group = ExceptionGroup("two", [status_error(400, "the-prompt", {}), ValueError("mine")])  # noqa: F821

    text = told("raised", error=group)

    assert "the-prompt" not in text
    assert "ValueError: mine" in text


def test_an_error_that_cannot_be_shown_is_told_all_the_same(told, monkeypatch):
    monkeypatch.setattr("traceback.format_exception", lambda *args, **options: 1 / 0)

    text = told("a done-callback of request 'q7' raised", error=ValueError())

    assert "groq_queue: a done-callback of request 'q7' raised\nValueError, whose traceback cannot be shown\n" == text


@pytest.mark.parametrize("where", ["", "groq_queue", "groq_queue.transport"])
def test_any_handler_on_the_way_makes_it_silent(told, monkeypatch, where):
    """
    A NullHandler as well: it says that nothing is to be seen.
    """
    taker = logging.NullHandler()
    logger = logging.getLogger(where) if where else root()
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, taker])

    text = told("x", name="groq_queue.transport")

    assert "" == text


def test_a_handler_beside_the_way_does_not(told, monkeypatch):
    """
    Of another package, or behind ``propagate = False``.
    """
    monkeypatch.setattr(logging.getLogger("groq_queue.transport"), "handlers", [logging.NullHandler()])
    root().addHandler(logging.NullHandler())
    monkeypatch.setattr(logging.getLogger("groq_queue"), "propagate", False)

    text = told("x")

    assert "groq_queue: x\n" == text


def test_logging_set_up_later_ends_it(handler, told, monkeypatch):
    """
    What was left out before is then not counted on stderr either.
    """
    before = told("x")
    told("x")
    root().addHandler(logging.NullHandler())
    monkeypatch.setattr(sys, "stderr", later := io.StringIO())

    told("x", at_s=100)
    handler.flush()

    assert before
    assert "" == later.getvalue()


def test_what_quietens_logging_quietens_it(told, monkeypatch, capsys):
    info = told("x", level=logging.INFO)
    logging.disable(logging.ERROR)
    try:
        logging.getLogger("groq_queue").error("x")
        disabled = capsys.readouterr().err
    finally:
        logging.disable(logging.NOTSET)
    monkeypatch.setattr(logging, "lastResort", None)
    without_last_resort = told("x")

    assert ["", "", ""] == [info, disabled, without_last_resort]


class Closed:
    def write(self, text: str) -> int:
        raise ValueError("I/O operation on closed file")


class Strict(io.StringIO):
    encoding = "ascii"

    def write(self, text: str) -> int:
        text.encode("ascii")
        return super().write(text)


@pytest.mark.parametrize("stderr", [None, Closed(), object()])
def test_a_stderr_that_takes_nothing_harms_nobody(handler, told, monkeypatch, stderr):
    """
    The stdlib's own handler raises out of ``logging`` when stderr is closed.
    """
    monkeypatch.setattr(sys, "stderr", stderr)

    logging.getLogger("groq_queue").error("x")
    logging.getLogger("groq_queue").error("%d", "an argument that does not fit", extra={"groq_queue_event": "y"})
    handler.flush()


def test_a_stderr_of_few_letters_gets_them_escaped(told, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stderr := Strict())

    logging.getLogger("groq_queue").error("Grüße")

    assert "groq_queue: Gr\\xfc\\xdfe\n" == stderr.getvalue()


def test_no_lock_is_held_while_it_prints(told, monkeypatch):
    """
    Whoever reads stderr slowly stops the thread that prints, and no other.
    """
    others: list[bool] = []

    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            if not others:
                others.append(True)
                other = threading.Thread(target=logging.getLogger("groq_queue").error, args=("other",))
                other.start()
                other.join(PATIENCE_S)
                others.append(other.is_alive())
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", stderr := Slow())

    logging.getLogger("groq_queue").error("first")

    assert [True, False] == others
    assert "groq_queue: other\ngroq_queue: first\n" == stderr.getvalue()


def test_a_program_that_makes_up_kinds_fills_no_memory(handler, told):
    """
    Beyond some hundreds all others are of one kind.
    """
    printed = sum(bool(told("x", line=number)) for number in range(10_000))

    assert 257 == printed
    assert 257 == len(handler._kinds)


def test_the_logger_gets_one_only(monkeypatch):
    monkeypatch.setattr(logging.getLogger("groq_queue"), "handlers", [])

    attach()
    attach()

    assert [LastResort] == [type(each) for each in logging.getLogger("groq_queue").handlers]


def test_it_says_whether_it_has_handled_a_record(handler, monkeypatch):
    """
    As the stdlib's handlers do from Python 3.12 on.
    """
    record = logging.LogRecord("groq_queue", logging.ERROR, "future.py", 1, "x", (), None)
    assert handler.handle(record) is True

    root().addHandler(logging.NullHandler())
    assert handler.handle(record) is False

    monkeypatch.setattr(handler, "filter", lambda record: 1 / 0)
    assert handler.handle(record) is False
