"""A program's logging may raise at every record; no Future, no worker and no shutdown depends on it."""

from __future__ import annotations

import logging
import threading

import pytest

from groq_queue.clock import NS_PER_S
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.errors import APIConnectionError, AuthenticationError
from groq_queue.logger import SafeLogger

PATIENCE_S = 10.0


class Broken(Exception):
    """What the program's logging raises."""


def raising(*_, **__):
    raise Broken


class Filter(logging.Filter):
    filter = raising


class Handler(logging.Handler):
    emit = raising


def break_factory(monkeypatch, logger):
    logging.setLogRecordFactory(raising)


def break_filter(monkeypatch, logger):
    logger.addFilter(Filter())


def break_handler(monkeypatch, logger):
    logger.addHandler(Handler())


def break_level(monkeypatch, logger):
    monkeypatch.setattr(logger, "isEnabledFor", raising)


@pytest.fixture(params=[break_factory, break_filter, break_handler, break_level])
def broken_logging(request, monkeypatch):
    logger, factory = logging.getLogger("groq_queue"), logging.getLogRecordFactory()
    filters, handlers, level = list(logger.filters), list(logger.handlers), logger.level
    logger.setLevel(logging.DEBUG)
    request.param(monkeypatch, logger)
    yield
    logging.setLogRecordFactory(factory)
    logger.filters[:], logger.handlers[:] = filters, handlers
    logger.setLevel(level)


def lost(request):
    return (
        Outcome(Disposition.RETRY, error=APIConnectionError("lost"), wait_ns=NS_PER_S)
        if request.attempts == 1
        else None
    )


def bug(request):
    raise ZeroDivisionError


def denied(request):
    return Outcome(Disposition.STOP_ALL, error=AuthenticationError("no", status_code=401, body=None, headers={}))


@pytest.mark.parametrize("script", [lost, bug, denied])
def test_every_future_ends_although_logging_raises(stage, broken_logging, script, capsys):
    play = stage(max_workers=1)
    play.script = script
    futures = [play.submit(f"{n}", callback=raising) for n in range(3)]
    for _ in range(5):
        play.settle_down()
        play.clock.advance(1)

    ended = [future.exception(PATIENCE_S) is None for future in futures]
    play.engine.shutdown(wait=True, cancel_futures=False)

    assert [script is lost] * 3 == ended
    assert (0, 0) == (play.engine.stats().pending, play.engine.stats().in_flight)


def test_the_first_lost_record_is_told_on_stderr(broken_logging, capsys):
    log = SafeLogger("groq_queue")

    log.warning("first")
    log.error("second")

    told = capsys.readouterr().err
    assert 1 == told.count("a log record was lost")
    assert "Broken" in told
    assert log.isEnabledFor(logging.DEBUG)


def test_a_ctrl_c_in_the_middle_of_a_record_reaches_the_main_thread_only(monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    log, raised = SafeLogger("groq_queue.interrupted"), []
    monkeypatch.setattr(logging.getLogger("groq_queue.interrupted"), "log", interrupt)

    def elsewhere():
        try:
            log.warning("on a worker")
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(PATIENCE_S)

    assert [] == raised
    with pytest.raises(KeyboardInterrupt):
        log.warning("on the main thread")
