"""What is told on stderr while a run goes on: one line rewritten, or one every ten seconds.

No colours and no escape sequences, only a carriage return, so it reads the same
everywhere and ``NO_COLOR`` has nothing to switch off.
"""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass
from typing import TextIO

from groq_queue.core.budget import DIMENSIONS
from groq_queue.engine.stats import LaneStats, Stats

_REWRITE_S = 0.25
_APPEND_S = 10.0
_RECENT_S = 30.0  # the time left is told by the pace of these last seconds: the first burst says nothing of it


@dataclass
class Tally:
    """What became of the lines so far."""

    done: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    skipped: int = 0  # they stood in the output before
    skipped_failed: int = 0  # as errors

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Progress:
    """The one writer of stderr during a run. Not thread-safe: the run's lock guards it."""

    def __init__(self, stream: TextIO, total: int | None, *, is_shown: bool) -> None:
        """
        Args:
            stream: Where it is told.
            total: Lines to come, if known.
            is_shown: False leaves only messages.
        """
        self._stream = stream
        self._total = total
        self._rewrites = stream.isatty() and os.environ.get("TERM") != "dumb"
        self.interval_s = None if not is_shown else _REWRITE_S if self._rewrites else _APPEND_S
        self._start_s = self._shown_s = time.monotonic()
        self._shown = ""
        self._recent: deque[tuple[float, int]] = deque([(self._start_s, 0)])

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self._start_s

    def is_due(self) -> bool:
        """Whether it is time to show how far the run is."""
        return self.interval_s is not None and time.monotonic() - self._shown_s >= self.interval_s

    def show(self, tally: Tally, stats: Stats) -> None:
        """Tell how far the run is."""
        self._shown_s = time.monotonic()
        width = _width(self._stream) if self._rewrites else 1_000
        text = self.describe(tally, stats, width)
        if self._rewrites:
            self._write("\r" + text.ljust(len(self._shown)))
            self._shown = text
        else:
            self._write(text + "\n")

    def clear(self) -> None:
        """Take the line off the screen, to make room for something else."""
        if self._shown:
            self._write("\r" + " " * len(self._shown) + "\r")
            self._shown = ""

    def say(self, message: str) -> None:
        """Print a message that stays."""
        self.clear()
        self._write(message + "\n")

    def describe(self, tally: Tally, stats: Stats, width: int) -> str:
        """Return the line in at most *width* - 1 characters."""
        ended = tally.done + tally.failed
        there = ended + tally.skipped
        counts = f"{there:,} done" if self._total is None else f"{there:,}/{self._total:,} done"
        if tally.failed:
            counts += f", {tally.failed:,} failed"
        left = self._left(ended, tally.skipped)
        left = "" if left is None else f", {left} left"
        minutes = max(self.seconds, 1e-3) / 60
        requests, tokens = f"{tally.done / minutes:,.0f}", f"{tally.tokens / minutes:,.0f}"
        reason = _waits_for(stats)
        waits = f"; waits for {reason}" if reason else ""
        brief = f"; waits: {_shorter(reason)}" if reason else ""
        shown = [
            f"{counts}, {requests} requests/min, {tokens} tokens/min{left}{waits}",
            f"{counts}, {requests}/min, {tokens} tokens/min{left}{brief}",
            f"{counts}, {requests}/min{left}{brief}",
            f"{counts}{left}{brief}",
            f"{counts}{left}",
        ]
        return next((text for text in shown if len(text) < width), counts)[: width - 1]

    def _left(self, ended: int, skipped: int) -> str | None:
        now_s = time.monotonic()
        self._recent.append((now_s, ended))
        while self._recent[1][0] <= now_s - _RECENT_S:
            self._recent.popleft()
        since_s, before = self._recent[0]
        left = (self._total or 0) - ended - skipped
        if self._total is None or ended <= before or left <= 0:
            return None
        return duration(left * (now_s - since_s) / (ended - before))

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self.interval_s = None  # nobody reads stderr any more: no reason to stop the run


def duration(seconds: float) -> str:
    """Return *seconds* as a clock shows them.

    >>> duration(4.2), duration(250), duration(9000)
    ('0:04', '4:10', '2:30:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plural(count: int, noun: str) -> str:
    """Return *count* and its *noun*.

    >>> plural(1, "line"), plural(1_319, "line")
    ('1 line', '1,319 lines')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _waits_for(stats: Stats) -> str | None:
    """Return why the longest lane waits, with its model if there are others."""
    waiting = [lane for lane in stats.lanes if lane.waits_for]
    if not waiting:
        return None
    lane: LaneStats = max(waiting, key=lambda one: one.pending)
    return f"{lane.waits_for}" if len(stats.lanes) == 1 else f"{lane.waits_for} ({lane.name})"


def _shorter(reason: str) -> str:
    """Return *reason* with limits by their names: "TPM 5,870 of 6,000"."""
    for name, text in DIMENSIONS.items():
        reason = reason.replace(f"{text},", name)
    return reason.replace(" used", "")


def _width(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80  # a terminal without a size says 0
    except (OSError, ValueError):
        return 80
