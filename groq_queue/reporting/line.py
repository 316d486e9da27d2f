"""How far a run is, in one line: rewritten on a terminal, one every ten seconds elsewhere.

No colours and no escape sequences, only a carriage return, so it reads the same
everywhere and ``NO_COLOR`` has nothing to switch off.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple, TextIO

from groq_queue.clock import NS_PER_S, Clock, SystemClock
from groq_queue.core.limits import DIMENSIONS
from groq_queue.engine.stats import LaneStats, Stats
from groq_queue.reporting.words import duration

_REWRITE_S = 0.25
_APPEND_S = 10.0
_RECENT_S = 30.0  # the time left is told by the pace of these last seconds: the first burst says nothing of it
_LEAST_BRIEF = 30  # columns in which the beginning of a reason says something
_LEAST_S = 10  # a full bucket lets a burst pass at once, which is no pace


@dataclass
class ProgressCounts:
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


class ProgressState(NamedTuple):
    """How far a run is.

    Attributes:
        done: Requests that have ended, failed ones too, and those an earlier run has answered.
        failed: Of these, those that failed.
        total: How many there will be, or None.
        seconds: Since the run began.
        requests_per_minute, tokens_per_minute: On average so far, over 10 s at least; answered requests only.
        request_limit, token_limit: What the limits allow a minute, all models together, or None if unknown.
        seconds_left: As the binding limit, or the recent pace where that is slower, says; None if nobody can tell.
        waits_for: What the next request waits for, in words, or None.
    """

    done: int
    failed: int
    total: int | None
    seconds: float
    requests_per_minute: float
    tokens_per_minute: float
    request_limit: float | None
    token_limit: float | None
    seconds_left: float | None
    waits_for: str | None


class ProgressMeter:
    """Turns counts into a ``ProgressState``. Not thread-safe."""

    def __init__(self, total: int | None, clock: Clock) -> None:
        """
        Args:
            total: Requests to come, if known.
            clock: Tells the time.
        """
        self._total = total
        self._clock = clock
        self._start_s = self.now_s()
        self._recent: deque[tuple[float, int]] = deque([(self._start_s, 0)])

    def now_s(self) -> float:
        """Return the present instant."""
        return self._clock.now_ns() / NS_PER_S

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return self.now_s() - self._start_s

    def state(self, tally: ProgressCounts, stats: Stats) -> ProgressState:
        """Return how far the run is."""
        seconds = max(self.seconds, 1e-3)
        minutes = max(seconds, _LEAST_S) / 60
        ended = tally.done + tally.failed
        return ProgressState(
            done=ended + tally.skipped,
            failed=tally.failed,
            total=self._total,
            seconds=seconds,
            requests_per_minute=tally.done / minutes,
            tokens_per_minute=tally.tokens / minutes,
            request_limit=_limit_of(stats, "RPM"),
            token_limit=_limit_of(stats, "TPM"),
            seconds_left=self._left_s(ended, tally, stats),
            waits_for=_waits_for(stats),
        )

    def _left_s(self, ended: int, tally: ProgressCounts, stats: Stats) -> float | None:
        now_s = self.now_s()
        self._recent.append((now_s, ended))
        while self._recent[1][0] <= now_s - _RECENT_S:
            self._recent.popleft()
        since_s, before = self._recent[0]
        left = (self._total or 0) - ended - tally.skipped
        if self._total is None or left <= 0:
            return None
        by_limits_s = _drain_s(left, tally, stats)
        if ended <= before:
            return by_limits_s or None
        return max(by_limits_s, left * (now_s - since_s) / (ended - before))


class Progress:
    """The one writer of stderr during a run. Not thread-safe: the run's lock guards it."""

    def __init__(self, stream: TextIO, total: int | None, *, is_shown: bool, clock: Clock | None = None) -> None:
        """
        Args:
            stream: Where it is told.
            total: Lines to come, if known.
            is_shown: False leaves only messages.
            clock: Tells the time; None is this machine's.
        """
        self._stream = stream
        self._pace = ProgressMeter(total, clock or SystemClock())
        self._rewrites = stream.isatty() and os.environ.get("TERM") != "dumb"
        self.interval_s = None if not is_shown else _REWRITE_S if self._rewrites else _APPEND_S
        self._shown_s = self._pace.now_s()
        self._shown = ""

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return self._pace.seconds

    def is_due(self) -> bool:
        """Whether it is time to show how far the run is."""
        return self.interval_s is not None and self._pace.now_s() - self._shown_s >= self.interval_s

    def show(self, tally: ProgressCounts, stats: Stats) -> None:
        """Tell how far the run is."""
        self.tell(self._pace.state(tally, stats))

    def tell(self, state: ProgressState) -> None:
        """Tell *state*."""
        self._shown_s = self._pace.now_s()
        width = _width(self._stream) if self._rewrites else 1_000
        text = described(state, width)
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

    def leave(self) -> None:
        """Let the line stand as it is."""
        if self._shown:
            self._write("\n")
            self._shown = ""

    def say(self, message: str) -> None:
        """Print a message that stays."""
        self.clear()
        self._write(message + "\n")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self.interval_s = None  # nobody reads stderr any more: no reason to stop the run


def described(state: ProgressState, width: int) -> str:
    """Return *state* as a line of at most *width* - 1 characters; what is least useful is dropped first."""
    counts = f"{state.done:,} done" if state.total is None else f"{state.done:,}/{state.total:,} done"
    if state.failed:
        counts += f", {state.failed:,} failed"
    left = "" if state.seconds_left is None else f", {duration(state.seconds_left)} left"
    requests, tokens = f"{state.requests_per_minute:,.0f}", f"{state.tokens_per_minute:,.0f}"
    most = "" if state.request_limit is None else f" of {state.request_limit:,.0f}"
    most_tokens = "" if state.token_limit is None else f" of {state.token_limit:,.0f}"
    waits = f"; waits for {state.waits_for}" if state.waits_for else ""
    brief = f"; waits: {_shorter(state.waits_for)}" if state.waits_for else ""
    shown = [
        f"{counts}, {requests}{most} requests/min, {tokens}{most_tokens} tokens/min{left}{waits}",
        f"{counts}, {requests}{most}/min, {tokens}{most_tokens} tokens/min{left}{brief}",
        f"{counts}, {requests}/min, {tokens} tokens/min{left}{brief}",
        f"{counts}, {requests}/min{left}{brief}",
        f"{counts}{left}{brief}",
        *([f"{counts}{left}{brief}"[: width - 2] + "…"] if width - len(counts) - len(left) > _LEAST_BRIEF else []),
        f"{counts}{left}",
    ]
    return next((text for text in shown if len(text) < width), counts)[: width - 1]


def _limit_of(stats: Stats, dimension: str) -> float | None:
    """Return what the limits of *dimension* allow a minute, all lanes together, or None if one is not known."""
    limits = []
    for lane in stats.lanes:
        known = [level for level in lane.limits if level.dimension == dimension]
        if not known:
            return None
        limits.append(known[0].limit * 60 / known[0].period_s)
    return sum(limits) if limits else None


def _drain_s(left: int, tally: ProgressCounts, stats: Stats) -> float:
    """Return how long the limits need to let *left* more requests pass, like those so far, shared as they wait now."""
    waiting = sum(lane.pending + lane.in_flight for lane in stats.lanes)
    prompt, completion = (tokens / max(1, tally.done) for tokens in (tally.prompt_tokens, tally.completion_tokens))
    each = {"RPM": 1.0, "RPD": 1.0, "TPM": prompt + completion, "TPD": prompt + completion}
    each |= {"ITPM": prompt, "OTPM": completion}
    longest_s = 0.0
    for lane in stats.lanes:
        here = lane.pending + lane.in_flight
        share = here / waiting if waiting else 1 / len(stats.lanes)
        to_start = max(0.0, left * share - lane.in_flight)  # those on their way are part of what is used
        for level in lane.limits:
            units = to_start * each.get(level.dimension, 0.0)
            wait_s = (level.used + units - level.limit) * level.period_s / level.limit
            longest_s = max(longest_s, wait_s if units else 0.0)
    return longest_s


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
    return reason.replace(" used", "").replace("the server to recover from failures: ", "the server: ")


def _width(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80  # a terminal without a size says 0
    except (OSError, ValueError):
        return 80
