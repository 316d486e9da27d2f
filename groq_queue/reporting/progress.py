"""Shows how far a run is: on stderr, in a notebook, or to a callable.

It is told when a request has ended and shows at most every so often. While nothing
ends, because a limit per day is spent, say, a timer of its own shows that too: one
daemon thread of ``engine.background`` that sleeps between two looks and lives as long
as the display.
"""

from __future__ import annotations

import contextlib
import html
import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TextIO

from groq_queue.clock import Clock, SystemClock
from groq_queue.core.token_estimate import TokenCost
from groq_queue.engine.background import Timers
from groq_queue.engine.log import log_fields
from groq_queue.engine.stats import Stats
from groq_queue.errors import ConfigurationError, safe_repr
from groq_queue.logger import SafeLogger
from groq_queue.reporting.line import Progress, ProgressCounts, ProgressMeter, ProgressState, described

_log = SafeLogger("groq_queue")

_NOTEBOOK_S = 0.5
_QUIET_S = 10.0  # a callable is told at least this often, though nothing has ended

ProgressOption = bool | Callable[[ProgressState], object] | None


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

    ``_changed`` guards the counts, ``_is_showing``, ``_is_stale`` and ``_next_ns``. Whoever finds
    it time to show marks ``_is_showing`` and shows without the lock; others leave
    word in ``_is_stale`` meanwhile. The engine is asked for figures without it.
    """

    def __init__(self, stats: Callable[[], Stats], total: int | None, display: Display, clock: Clock) -> None:
        self._stats = stats
        self._display = display
        self._clock = clock
        self._pace = ProgressMeter(total, clock)  # used by whoever shows
        self._changed = threading.Condition()
        self._done = self._failed = 0
        self._is_showing = self._is_stale = False
        self._is_closed = False
        self._next_ns = clock.now_ns() + round(display.interval_s * 1e9)
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
                    tally = ProgressCounts(done=self._done, failed=self._failed)
                stats = self._stats()
                tally.prompt_tokens = stats.prompt_tokens - self._before.prompt
                tally.completion_tokens = stats.completion_tokens - self._before.completion
                self._display.show(self._pace.state(tally, stats))
                with self._changed:
                    self._next_ns = self._clock.now_ns() + round(self._display.interval_s * 1e9)
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
    """The user's own display; one that raises is told once and harms nothing."""

    interval_s = 0.0
    quiet_s = _QUIET_S

    def __init__(self, call: Callable[[ProgressState], object]) -> None:
        self._call = call
        self._has_failed = False

    def show(self, state: ProgressState) -> None:
        try:
            self._call(state)
        except Exception:  # the user's code; a run must not end because nobody could be told how far it is
            if not self._has_failed:
                self._has_failed = True
                _log.exception(
                    "progress=%r raised; told once, the run goes on", self._call, extra=log_fields("progress_failed")
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
    ipython = sys.modules.get("IPython")  # whoever runs in a notebook has it loaded
    shell = None if ipython is None else ipython.get_ipython()
    if type(shell).__name__ == "ZMQInteractiveShell":
        return _InNotebook()
    assert stream is not None
    return _OnStream(stream, clock)
