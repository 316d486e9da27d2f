"""Waits that a server names and cannot mean: of nothing, by another clock, of days and of centuries."""

from __future__ import annotations

import json
import logging
from email.utils import formatdate

import pytest

from groq_queue.core.retry import RetryPolicy
from groq_queue.errors import DailyLimitReached, InternalServerError
from tests.conftest import PATIENCE_S
from tests.engine.test_engine_refused_without_a_wait import Answer, Play, play  # noqa: F401

MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400
NAMES = "abcdef"


def until(seconds, answer):
    """Return a server that gives one answer for so long, and then a good one."""
    return lambda name, now_s: answer if now_s < seconds else Answer()


def said(message):
    answer = Answer(429)
    answer.body = json.dumps({"error": {"message": message}}).encode()
    return answer


@pytest.mark.parametrize(
    "refusal",
    [
        Answer(429, retry_after="0"),
        Answer(429, retry_after="0.01"),
        Answer(429, retry_after="Thu, 01 Jan 1970 00:00:00 GMT"),
        Answer(429, retry_after="0ms"),
        said("Rate limit reached for requests per minute. Please try again in 0s."),
        said("Rate limit reached for tokens per minute (TPM): Limit 6000, Used 5999, Requested 10. try again in 0ms"),
    ],
    ids=["0", "0.01", "a past date", "0ms", "in 0s", "with figures"],
)
def test_a_wait_of_nothing_loses_no_request_while_the_limit_lasts(play, refusal):  # noqa: F811
    """
    Thirty seconds of it, six requests. Those who believe it have spent all retries in 50 ms.
    """
    stage = play(until(30, refusal), max_workers=4)
    futures = stage.ask(*NAMES)

    stage.run(2 * MINUTE_S)

    assert [None] * 6 == [future.exception(PATIENCE_S) for future in futures]
    assert sum(stage.times.values()) <= 6 + 40


@pytest.mark.parametrize("off_s", [-600, 600])
def test_a_date_is_waited_for_by_the_servers_clock(play, off_s):  # noqa: F811
    """
    Ours is ten minutes behind, or ahead; the answer tells the server's.
    """
    server_s = play(until(0, Answer())).clock.wall_s() - off_s
    refusal = Answer(429, retry_after=formatdate(server_s + 3, usegmt=True), date=formatdate(server_s, usegmt=True))
    stage = play(until(0.1, refusal))
    (future,) = stage.ask("a")

    stage.run(MINUTE_S)

    assert future.exception(PATIENCE_S) is None
    assert 3 <= stage.answered_s["a"] <= 4


@pytest.mark.parametrize("told", ["7201", "86400", "1000000000", "99999999999999", "9" * 400, "999999999h"])
def test_a_wait_of_hours_is_a_limit_per_day_whose_requests_end(play, told):  # noqa: F811
    """
    Nobody is sent for a wait that is too large to read, and nobody waits for it in silence.
    """
    stage = play(until(DAY_S * 9, Answer(429, retry_after=told)), max_workers=1)

    errors = [future.exception(PATIENCE_S) for future in stage.ask(*NAMES)]

    assert {DailyLimitReached} == {type(error) for error in errors}
    assert 2 * HOUR_S <= errors[0].resets_in <= DAY_S + 1
    assert "a limit per day, which the server did not name" in str(errors[0])
    assert 1 == sum(stage.times.values())


def test_whoever_waits_for_limits_per_day_asks_again_after_one(play, caplog):  # noqa: F811
    """
    The server told a wait of centuries; it is said once, and asked again every day.
    """
    stage = play(until(DAY_S / 2, Answer(429, retry_after="9" * 20)), max_workers=1, raises_daily=False)
    futures = stage.ask(*NAMES)

    stage.run(DAY_S - MINUTE_S, step_s=MINUTE_S)
    before = sum(stage.times.values())
    stage.run(2 * MINUTE_S, step_s=1)

    assert 1 == before
    assert [None] * 6 == [future.exception(PATIENCE_S) for future in futures]
    assert 1 == len([record for record in caplog.records if record.levelno == logging.WARNING])


def test_an_hour_is_waited_for_in_the_lane(play):  # noqa: F811
    stage = play(until(1, Answer(429, retry_after="3600")), max_workers=1)
    futures = stage.ask(*NAMES)

    stage.run(HOUR_S - 10, step_s=10)
    before = sum(stage.times.values())
    stage.run(MINUTE_S, step_s=1)

    assert 1 == before
    assert [None] * 6 == [future.exception(PATIENCE_S) for future in futures]


@pytest.mark.parametrize("status", [503, 529])
def test_a_failing_server_that_asks_for_a_day_is_asked_again_every_minute(play, caplog, status):  # noqa: F811
    """
    It is told at once, and after its retries the request ends with what the server said.
    """
    stage = play(
        until(DAY_S * 9, Answer(status, retry_after="86400")), max_workers=1, policy=RetryPolicy(max_retries=3)
    )
    (future,) = stage.ask("a")
    stage.run(2 * MINUTE_S, step_s=1)

    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert 3 == stage.times["a"]
    assert "asks to wait for 24 h" in told[0].getMessage()
    assert "long_wait" == told[0].groq_queue_event

    stage.run(2 * MINUTE_S, step_s=1)
    assert isinstance(future.exception(PATIENCE_S), InternalServerError)


def test_a_failing_server_that_recovers_within_its_day_answers(play):  # noqa: F811
    stage = play(until(MINUTE_S / 2, Answer(503, retry_after="86400")), max_workers=1)
    futures = stage.ask(*NAMES)

    stage.run(3 * MINUTE_S, step_s=1)

    assert [None] * 6 == [future.exception(PATIENCE_S) for future in futures]
