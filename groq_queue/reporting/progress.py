"""Shows how far a run is: as a line on stderr, in a notebook, or to a callable.

``ProgressMeter`` turns counts into a ``ProgressState``, ``Progress`` writes it as one line:
rewritten on a terminal, one every ten seconds elsewhere. No colours and no escape
sequences, only a carriage return, so it reads the same everywhere and ``NO_COLOR`` has
nothing to switch off.

``watching`` shows a run of the library. It learns of each request that has ended and shows
at most every so often. While none ends, because a limit per day is used up, say, a timer
of its own shows that too: one daemon thread of ``engine.background`` that sleeps between
two looks and lives as long as the display.
"""

from __future__ import annotations

import contextlib
import html
import importlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TextIO

from groq_queue.clock import NS_PER_S, Clock, SystemClock
from groq_queue.core.limits import DIMENSIONS
from groq_queue.core.token_estimate import TokenCost
from groq_queue.display import clock_text
from groq_queue.engine.background import Timers
from groq_queue.engine.log import log_fields
from groq_queue.engine.stats import LaneStats, Stats
from groq_queue.errors import ConfigurationError, safe_repr
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_REWRITE_S = 0.25
_APPEND_S = 10.0
_RECENT_S = 30.0  # the time left is estimated from the pace of these last seconds: the first burst says nothing of it
_LEAST_BRIEF = 30  # columns in which the beginning of a reason says something
_LEAST_S = 10  # a full bucket lets a burst pass at once, which is no pace
_NOTEBOOK_S = 0.5
_QUIET_S = 10.0  # a callable is called at least this often, though nothing has ended


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
        seconds_left: As the binding limit, or the recent pace where that is slower, says; None if unknown.
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


ProgressOption = bool | Callable[[ProgressState], object] | None


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

    def state(self, counts: ProgressCounts, stats: Stats) -> ProgressState:
        """Return how far the run is."""
        seconds = max(self.seconds, 1e-3)
        minutes = max(seconds, _LEAST_S) / 60
        ended = counts.done + counts.failed
        return ProgressState(
            done=ended + counts.skipped,
            failed=counts.failed,
            total=self._total,
            seconds=seconds,
            requests_per_minute=counts.done / minutes,
            tokens_per_minute=counts.tokens / minutes,
            request_limit=_limit_of(stats, "RPM"),
            token_limit=_limit_of(stats, "TPM"),
            seconds_left=self._left_s(ended, counts, stats),
            waits_for=_waits_for(stats),
        )

    def _left_s(self, ended: int, counts: ProgressCounts, stats: Stats) -> float | None:
        now_s = self.now_s()
        self._recent.append((now_s, ended))
        while self._recent[1][0] <= now_s - _RECENT_S:
            self._recent.popleft()
        since_s, before = self._recent[0]
        left = (self._total or 0) - ended - counts.skipped
        if self._total is None or left <= 0:
            return None
        by_limits_s = _drain_s(left, counts, stats)
        if ended <= before:
            return by_limits_s or None
        return max(by_limits_s, left * (now_s - since_s) / (ended - before))


class Progress:
    """The one writer of stderr during a run. Not thread-safe: the run's lock guards it."""

    def __init__(self, stream: TextIO, total: int | None, *, is_shown: bool, clock: Clock | None = None) -> None:
        """
        Args:
            stream: Where it is shown.
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

    def show(self, counts: ProgressCounts, stats: Stats) -> None:
        """Tell how far the run is."""
        self.tell(self._pace.state(counts, stats))

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
        """End the line and leave it on the screen."""
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
            self.interval_s = None  # stderr has no reader any more: no reason to stop the run


def described(state: ProgressState, width: int) -> str:
    """Return *state* as a line of at most *width* - 1 characters; what is least useful is dropped first."""
    counts = f"{state.done:,} done" if state.total is None else f"{state.done:,}/{state.total:,} done"
    if state.failed:
        counts += f", {state.failed:,} failed"
    left = "" if state.seconds_left is None else f", {clock_text(state.seconds_left)} left"
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


def _drain_s(left: int, counts: ProgressCounts, stats: Stats) -> float:
    """Return how long the limits need to let *left* more requests pass, like those so far, shared as they wait now."""
    waiting = sum(lane.pending + lane.in_flight for lane in stats.lanes)
    prompt, completion = (tokens / max(1, counts.done) for tokens in (counts.prompt_tokens, counts.completion_tokens))
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


class Advancing(Protocol):
    """What ``watching`` yields."""

    def advance(self, failed: bool = False) -> None:
        """Note that one request has ended. Any thread."""
        ...


class Display(Protocol):
    """Where a state is shown; called by one thread at a time.

    Attributes:
        interval_s: Seconds between two showings while requests end.
        quiet_s: Seconds after which it is shown again though none has.
    """

    interval_s: float
    quiet_s: float

    def show(self, state: ProgressState) -> None: ...
    def close(self) -> None: ...


@contextlib.contextmanager
def watching(
    stats: Callable[[], Stats],
    total: int | None,
    progress: ProgressOption,
    *,
    clock: Clock | None = None,
    stream: TextIO | None = None,
) -> Iterator[Advancing]:
    """Show how far a run is while the block runs, and once more when it ends.

    Args:
        stats: Takes a snapshot of the queue.
        total: Requests to come, if known.
        progress: True shows it on stderr or in the notebook; a callable gets a
            ``ProgressState`` instead, from one thread at a time; False or None does nothing.
        clock: Tells the time; None is this machine's.
        stream: Instead of stderr.

    Yields:
        An object whose ``advance(failed=False)`` is to be called for each request that has ended.

    Raises:
        ConfigurationError: *progress* is neither.
    """
    shown_on: TextIO | None = stream or sys.stderr  # pythonw, and some daemons, have none
    if progress is None or progress is False or (progress is True and shown_on is None):
        yield _Nobody()
        return
    watch = _Watch(stats, total, _display(progress, shown_on, clock), clock or SystemClock())
    try:
        yield watch
    finally:
        watch.close()


class _Nobody:
    def advance(self, failed: bool = False) -> None:
        pass


class _Watch:
    """Counts, and shows when it is time to.

    ``_changed`` guards the counts, ``_is_showing``, ``_is_stale`` and ``_next_ns``. A thread that finds
    it time to show marks ``_is_showing`` and shows without the lock; others leave
    word in ``_is_stale`` meanwhile. The engine is asked for figures without it.
    """

    def __init__(self, stats: Callable[[], Stats], total: int | None, display: Display, clock: Clock) -> None:
        self._stats = stats
        self._display = display
        self._clock = clock
        self._pace = ProgressMeter(total, clock)  # used by the thread that shows
        self._changed = threading.Condition()
        self._done = self._failed = 0
        self._is_showing = self._is_stale = False
        self._is_closed = False
        self._next_ns = clock.now_ns() + round(display.interval_s * NS_PER_S)
        before = stats()
        self._before = TokenCost(before.prompt_tokens, before.completion_tokens)  # a queue may have worked before
        self._timers = Timers(clock, "groq_queue-progress")
        self._timers.after(display.quiet_s, self._tick)

    def advance(self, failed: bool = False) -> None:
        """Note that one request has ended."""
        with self._changed:
            self._failed += failed
            self._done += not failed
            self._is_stale = True
            if self._is_showing or self._is_closed or self._clock.now_ns() < self._next_ns:
                return
            self._is_showing = True
        self._show()

    def close(self) -> None:
        """Show the end."""
        self._timers.close(wait=True)
        with self._changed:
            self._is_closed = True
            while self._is_showing:
                self._changed.wait()
            self._is_showing = self._is_stale = True
        self._show()
        self._display.close()

    def _tick(self) -> None:
        """Show again, though nothing may have ended."""
        with self._changed:
            is_free = not self._is_showing and not self._is_closed
            self._is_showing = self._is_showing or is_free
        if is_free:
            self._show()
        self._timers.after(self._display.quiet_s, self._tick)

    def _show(self) -> None:
        """Show until nothing has changed that is due; ``_is_showing`` was set by the caller."""
        try:
            while True:
                with self._changed:
                    self._is_stale = False
                    counts = ProgressCounts(done=self._done, failed=self._failed)
                stats = self._stats()
                counts.prompt_tokens = stats.prompt_tokens - self._before.prompt
                counts.completion_tokens = stats.completion_tokens - self._before.completion
                self._display.show(self._pace.state(counts, stats))
                with self._changed:
                    self._next_ns = self._clock.now_ns() + round(self._display.interval_s * NS_PER_S)
                    if not self._is_stale or self._display.interval_s:
                        break
        finally:
            with self._changed:
                self._is_showing = False
                self._changed.notify_all()


class _OnStream:
    """One line on stderr."""

    def __init__(self, stream: TextIO, clock: Clock | None) -> None:
        self._line = Progress(stream, None, is_shown=True, clock=clock)
        self.interval_s = self._line.interval_s or 0.0
        self.quiet_s = max(_NOTEBOOK_S, self.interval_s)

    def show(self, state: ProgressState) -> None:
        self._line.tell(state)

    def close(self) -> None:
        self._line.leave()


class _ToCallable:
    """The user's own display; one that raises is logged once and harms nothing."""

    interval_s = 0.0
    quiet_s = _QUIET_S

    def __init__(self, call: Callable[[ProgressState], object]) -> None:
        self._call = call
        self._has_failed = False

    def show(self, state: ProgressState) -> None:
        try:
            self._call(state)
        except Exception:  # the user's code; a run must not end because its progress cannot be shown
            if not self._has_failed:
                self._has_failed = True
                _log.exception(
                    "progress=%r raised; logged once, the run continues",
                    self._call,
                    extra=log_fields("progress_failed"),
                )

    def close(self) -> None:
        pass


class _InNotebook:
    """One output of a cell, updated in place: HTML, no widgets, and the same as plain text where no HTML is shown."""

    interval_s = quiet_s = _NOTEBOOK_S

    def __init__(self) -> None:
        display = importlib.import_module("IPython.display")  # loaded already, or this would not be a notebook
        self._handle = display.display(_in_both_forms("", ""), raw=True, display_id=True)

    def show(self, state: ProgressState) -> None:
        text = described(state, 1_000)
        bar = "" if not state.total else f'<progress value="{state.done}" max="{state.total}"></progress> '
        try:
            self._handle.update(_in_both_forms(text, f"<div>{bar}{html.escape(text)}</div>"), raw=True)
        except Exception:  # the kernel's connection is not ours; a run must not end with it
            _log.debug(
                "the notebook's display could not be updated", exc_info=True, extra=log_fields("progress_failed")
            )

    def close(self) -> None:
        pass


def _in_both_forms(text: str, page: str) -> dict[str, str]:
    return {"text/plain": text, "text/html": page}


def _display(progress: Any, stream: TextIO | None, clock: Clock | None) -> Display:
    if callable(progress):
        return _ToCallable(progress)
    if progress is not True:
        raise ConfigurationError(f"progress={safe_repr(progress)}: use True, False or a callable of one argument")
    ipython = sys.modules.get("IPython")  # a notebook has it loaded
    shell = None if ipython is None else ipython.get_ipython()
    if type(shell).__name__ == "ZMQInteractiveShell":
        return _InNotebook()
    assert stream is not None
    return _OnStream(stream, clock)
