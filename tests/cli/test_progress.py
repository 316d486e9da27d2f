"""The progress line: what it tells, and in how much room."""

from __future__ import annotations

import io

import pytest
from freezegun import freeze_time

from groq_queue.cli.progress import Progress, Tally
from groq_queue.engine.stats import LaneStats, Stats

_COUNTS = {
    "pending": 9, "in_flight": 1, "submitted": 0, "completed": 0, "failed": 0, "cancelled": 0, "expired": 0,
    "attempts": 0, "refused": 0, "retried": 0,
}  # fmt: skip


def _lane(name: str, pending: int, waits_for: str) -> LaneStats:
    return LaneStats(name=name, model=name, pending=pending, in_flight=0, paused=False, waits_for=waits_for, limits=())


_WAITING = _lane("m", 9, "tokens per minute, 5,870 of 6,000 used")


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (200, "300/1,319 done, 2 failed, 596 requests/min, 60,000 tokens/min, 1:42 left; "
              "waits for tokens per minute, 5,870 of 6,000 used"),
        (100, "300/1,319 done, 2 failed, 596/min, 60,000 tokens/min, 1:42 left; waits: TPM 5,870 of 6,000"),
        (80, "300/1,319 done, 2 failed, 596/min, 1:42 left; waits: TPM 5,870 of 6,000"),
        (65, "300/1,319 done, 2 failed, 1:42 left; waits: TPM 5,870 of 6,000"),
        (40, "300/1,319 done, 2 failed, 1:42 left"),
        (10, "300/1,319"),
    ],
)  # fmt: skip
def test_the_line_drops_the_least_useful_first(width: int, line: str) -> None:
    """
    It never wraps: a wrapped line could not be rewritten.
    """
    with freeze_time("2026-01-01") as clock:
        progress = Progress(io.StringIO(), 1_319, is_shown=True)
        clock.tick(30)

        shown = progress.describe(Tally(298, 2, 10_000, 20_000), Stats(**_COUNTS, lanes=(_WAITING,)), width)

    assert line == shown


def test_the_longest_lane_is_told_with_its_model() -> None:
    """
    Where several models wait, the one with most requests says how long the run takes.
    """
    other = _lane("n", 50, "requests per minute, 30 of 30 used")
    progress = Progress(io.StringIO(), None, is_shown=True)

    shown = progress.describe(Tally(), Stats(**_COUNTS, lanes=(_WAITING, other)), 200)

    assert shown.endswith("; waits for requests per minute, 30 of 30 used (n)")


def test_the_time_left_is_told_by_the_recent_pace() -> None:
    """
    A burst of 100 at once, then one a second: 100 more take 100 s, not 30.
    """
    with freeze_time("2026-01-01") as clock:
        progress = Progress(io.StringIO(), 300, is_shown=True)
        for second in range(101):
            shown = progress.describe(Tally(100 + second), Stats(**_COUNTS), 200)
            clock.tick(1)

    assert "200/300 done" in shown
    assert "1:40 left" in shown


def test_a_file_gets_one_line_every_ten_seconds() -> None:
    """
    Logs stay short, and hold no carriage return.
    """
    log = io.StringIO()
    with freeze_time("2026-01-01") as clock:
        progress = Progress(log, None, is_shown=True)
        for _ in range(25):
            clock.tick(1)
            if progress.is_due():
                progress.show(Tally(5), Stats(**_COUNTS))

    assert 2 == log.getvalue().count("\n")
    assert "\r" not in log.getvalue()
    assert log.getvalue().startswith("5 done, 30 requests/min")


def test_a_closed_stderr_ends_the_showing_and_nothing_else() -> None:
    """
    Nobody reads it any more; the run goes on.
    """
    closed = io.StringIO()
    progress = Progress(closed, None, is_shown=True)
    closed.close()

    progress.say("anything")

    assert progress.interval_s is None
    assert not progress.is_due()
