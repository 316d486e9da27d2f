"""The progress line: what it tells, and in how much room."""

from __future__ import annotations

import io
from typing import Any

import pytest

from groq_queue.clock import FakeClock
from groq_queue.core.budget import Level
from groq_queue.engine.stats import LaneStats, Stats
from groq_queue.reporting.progress import Progress, ProgressCounts, ProgressMeter, described

_COUNTS = {
    "pending": 9, "in_flight": 1, "submitted": 0, "completed": 0, "failed": 0, "cancelled": 0, "expired": 0,
    "attempts": 0, "refused": 0, "retried": 0,
}  # fmt: skip


def _lane(name: str, pending: int, waits_for: str, *limits: Level, in_flight: int = 0) -> LaneStats:
    return LaneStats(name, name, pending, in_flight, False, waits_for, limits)


_WAITING = _lane("m", 9, "tokens per minute, 5,870 of 6,000 used")


def _line(
    counts: ProgressCounts, *lanes: LaneStats, total: int | None = 1_319, after_s: float = 30, width: int = 200
) -> str:
    clock = FakeClock()
    pace = ProgressMeter(total, clock)
    clock.advance(after_s)
    return described(pace.state(counts, Stats(**_COUNTS, lanes=lanes)), width)


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
    counts = ProgressCounts(done=298, failed=2, prompt_tokens=10_000, completion_tokens=20_000)

    assert line == _line(counts, _WAITING, width=width)


def test_the_pace_is_told_against_the_limit() -> None:
    """
    Of all models together, per real minute also where the limit's minute is a short one.
    """
    lanes = (
        _lane("m", 1, "x", Level("RPM", 0, 30, 60), Level("TPM", 0, 6_000, 60)),
        _lane("n", 1, "x", Level("RPM", 0, 30, 6), Level("TPM", 0, 6_000, 60)),
    )

    line = _line(ProgressCounts(done=100, prompt_tokens=1_000), *lanes)

    assert "200 of 330 requests/min, 2,000 of 12,000 tokens/min" in line


def test_a_limit_that_one_model_lacks_is_no_limit() -> None:
    """
    Its requests would not be counted against it.
    """
    line = _line(ProgressCounts(done=100), _lane("m", 1, "x", Level("RPM", 0, 30, 60)), _lane("n", 1, "x"))

    assert "200 requests/min" in line


def test_the_longest_lane_is_told_with_its_model() -> None:
    """
    Where several models wait, the one with most requests says how long the run takes.
    """
    other = _lane("n", 50, "requests per minute, 30 of 30 used")

    assert _line(ProgressCounts(), _WAITING, other, total=None).endswith(
        "; waits for requests per minute, 30 of 30 used (n)"
    )


def test_the_time_left_is_told_by_the_recent_pace() -> None:
    """
    A burst of 100 at once, then one a second: 100 more take 100 s, not 30.
    """
    clock = FakeClock()
    pace = ProgressMeter(300, clock)
    for second in range(101):
        shown = described(pace.state(ProgressCounts(done=100 + second), Stats(**_COUNTS)), 200)
        clock.advance(1)

    assert "200/300 done" in shown
    assert "1:40 left" in shown


def test_the_time_left_is_told_by_the_binding_limit_before_the_pace_can() -> None:
    """
    30 of 90 went in the first second; the other 60 take two minutes, and not two seconds.
    """
    lane = _lane("m", 60, "x", Level("RPM", 30, 30, 60), Level("RPD", 30, 14_400, 86_400))

    assert "2:00 left" in _line(ProgressCounts(done=30), lane, total=90, after_s=1)


def test_the_time_left_counts_the_tokens_of_those_to_come() -> None:
    """
    Like those so far; what is on its way is part of the level already.
    """
    lane = _lane("m", 50, "x", Level("TPM", 6_000, 6_000, 60), in_flight=10)

    line = _line(ProgressCounts(done=40, prompt_tokens=3_000, completion_tokens=1_000), lane, total=100, after_s=1)

    assert "0:50 left" in line  # 50 more of 100 tokens, at 100 a second


def test_a_spent_day_is_told_with_the_time_it_takes() -> None:
    """
    Nothing ends meanwhile, so no pace could tell.
    """
    reason = "requests per day, 1,000 of 1,000 used"
    lane = _lane("m", 10, reason, Level("RPD", 1_000, 1_000, 86_400))

    line = _line(ProgressCounts(), lane, total=10, after_s=600)

    assert "14:24 left" in line
    assert line.endswith(f"waits for {reason}")


def test_what_an_earlier_run_has_done_counts_as_done_and_not_as_pace() -> None:
    """
    100 of 300 stood in the output before; 100 took 30 s, so the last 100 take 30 s more.
    """
    line = _line(ProgressCounts(done=100, skipped=100), total=300)

    assert line.startswith("200/300 done, 200 requests/min")
    assert "0:30 left" in line


def test_a_file_gets_one_line_every_ten_seconds() -> None:
    """
    Logs stay short, and hold no carriage return.
    """
    log, clock = io.StringIO(), FakeClock()
    progress = Progress(log, None, is_shown=True, clock=clock)
    for _ in range(25):
        clock.advance(1)
        if progress.is_due():
            progress.show(ProgressCounts(done=5), Stats(**_COUNTS))

    assert 2 == log.getvalue().count("\n")
    assert "\r" not in log.getvalue()
    assert log.getvalue().startswith("5 done, 30 requests/min")


def test_a_closed_stderr_ends_the_showing_and_nothing_else() -> None:
    """
    Nobody reads it any more; the run goes on.
    """
    closed: Any = io.StringIO()
    progress = Progress(closed, None, is_shown=True)
    closed.close()

    progress.say("anything")

    assert progress.interval_s is None
    assert not progress.is_due()
