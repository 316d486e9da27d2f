"""The requests of one ``map``, sent ahead of the reader and answered in order; and what a Ctrl-C says.

The prompts are read on the reader's thread, never further ahead than the window.

A Ctrl-C in a notebook cell or a script prints one line on stderr; a second one waits for nothing.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from groq_queue.clock import NS_PER_S, SystemClock
from groq_queue.core.response import Completion
from groq_queue.display import plural
from groq_queue.engine.future import StillOpen
from groq_queue.engine.stats import Stats
from groq_queue.errors import GroqQueueError, QueueClosed, QueueFull

_NOTHING = object()


class MapWindow:
    """At most *size* requests between what was read and what was handed out. Used by one thread at a time.

    Args:
        submit: Called as ``submit(prompt, position)``.
        prompts: Read lazily.
        size: Most requests ahead, >= 1.
        timeout_s: Seconds from now for all of it, or None.
    """

    def __init__(
        self,
        submit: Callable[[Any, int], Future[Completion]],
        prompts: Iterable[Any],
        size: int,
        timeout_s: float | None,
    ) -> None:
        self._submit = submit
        self._prompts = iter(prompts)
        self._size = size
        self._clock = SystemClock()
        self._timeout_s = timeout_s
        self._until_ns = None if timeout_s is None else self._clock.now_ns() + round(timeout_s * NS_PER_S)
        self._window: deque[Future[Completion] | Exception] = deque()
        self._held: Any = _NOTHING  # a prompt that was read while the queue had no room
        # An error to be raised later is kept in a list, not in a frame that the error itself would hold.
        self._closed: list[QueueClosed] = []  # raised when what was sent before is handed out
        self._broken: list[Exception] = []  # raised by the prompts while an answer was about to be handed out
        self._is_exhausted = False
        self.given = 0  # answers handed out

    def fill(self) -> None:
        """Read and send prompts until the window is full; what a prompt cannot be is kept in its place.

        Raises:
            Exception: Whatever reading the prompts raises.
        """
        while len(self._window) < self._size and not self._is_exhausted:
            prompt, self._held = self._held, _NOTHING
            if prompt is _NOTHING:
                prompt = next(self._prompts, _NOTHING)
            if prompt is _NOTHING:
                self._is_exhausted = True
                return
            try:
                self._window.append(self._submit(prompt, self.given + len(self._window)))
            except QueueFull as error:
                if self._window:
                    self._held = prompt  # our own requests fill it: there is room when they are done
                    return
                self._window.append(error)
            except QueueClosed as error:
                self._closed.append(error)
                self._is_exhausted = True
            except (GroqQueueError, TypeError) as error:
                self._window.append(error)

    def is_over(self) -> bool:
        """Return whether everything was handed out.

        Raises:
            QueueClosed: There were more prompts, but the queue was shut down.
            Exception: Reading the prompts raised it.
        """
        if self._broken:
            raise self._broken.pop()
        if self._window:
            return False
        if self._closed:
            raise self._closed.pop()
        return True

    def take(self) -> Completion | Exception:
        """Wait for the next answer or error in order, and send the next prompts.

        Raises:
            TimeoutError: *timeout_s* is over.
        """
        head = self._window[0]  # it stays there until it has ended, so that ``cancel`` finds it
        outcome = self._outcome_of(head) if isinstance(head, Future) else head
        self._window.popleft()
        self.given += 1
        try:
            self.fill()
        except Exception as error:
            self._broken.append(error)  # after this answer, which is paid for
        except BaseException:  # a Ctrl-C: the answer is not handed out after all
            self._window.appendleft(head)
            self.given -= 1
            raise
        return outcome

    def cancel(self) -> tuple[int, int, dict[int, Completion]]:
        """Cancel what has not started.

        Returns:
            How many were cancelled, how many are still on their way, and the answers
            that were not taken yet, by position.
        """
        cancelled, running, answers = 0, 0, {}
        entries, self._window = self._window, deque()
        self._is_exhausted = True
        for position, entry in enumerate(entries, start=self.given):
            if not isinstance(entry, Future):
                continue
            if entry.cancel():
                cancelled += 1
            elif not entry.done():
                running += 1
            elif entry.exception() is None:
                answers[position] = entry.result()
        return cancelled, running, answers

    def _outcome_of(self, future: Future[Completion]) -> Completion | Exception:
        try:
            error = future.exception(self._left_s())
        except CancelledError as cancelled:
            return cancelled.with_traceback(None)
        except (TimeoutError, FutureTimeoutError):  # two of a name, on Python 3.10
            raise StillOpen(
                f"{self.given:,} answers came within timeout={self._timeout_s:g} s; what had not started was cancelled"
            ) from None
        if error is None:
            return future.result()
        if isinstance(error, Exception):
            return error
        raise error

    def _left_s(self) -> float | None:
        return None if self._until_ns is None else max(0.0, (self._until_ns - self._clock.now_ns()) / NS_PER_S)


# -- interrupts


def tell(interrupt: BaseException, line: str) -> None:
    """Print *line*, unless something was said about this *interrupt* already."""
    if getattr(interrupt, "_groq_queue_reported", False):
        return
    interrupt._groq_queue_reported = True  # type: ignore[attr-defined]
    if sys.stderr is not None:
        print(f"groq_queue: interrupted: {line}", file=sys.stderr)


def leave_at_once(interrupt: BaseException) -> None:
    """Note that *interrupt* came while a block was being left already: no outer block is to wait either."""
    interrupt._groq_queue_at_once = True  # type: ignore[attr-defined]


def is_to_leave_at_once(error: BaseException | None) -> bool:
    """Return whether *error* is a second interrupt: see ``leave_at_once``, or it came while one was being handled."""
    if isinstance(error, KeyboardInterrupt) and isinstance(error.__context__, KeyboardInterrupt):
        return True
    return getattr(error, "_groq_queue_at_once", False)


def tell_what_is_left(interrupt: BaseException, before: Stats, after: Stats, *, is_kept: bool) -> None:
    """Say what leaving the block by *interrupt* cancelled or left under way, and whether a journal keeps it."""
    cancelled = after.cancelled - before.cancelled
    parts = [f"{plural(after.completed, 'answer')} done (in the Futures)"]
    if after.in_flight:
        outcome = "the next run on the journal decides" if is_kept else "an answer may be lost, and billed"
        parts.append(f"{plural(after.in_flight, 'attempt')} still under way ({outcome})")
    if cancelled and is_kept:
        parts.append(f"{plural(cancelled, 'request')} not sent (the next run on the journal sends what it keeps)")
    elif cancelled:
        parts.append(
            f"{plural(cancelled, 'request')} not sent and cancelled; to continue, submit each again whose Future is "
            "cancelled()"
        )
    if len(parts) > 1:
        tell(interrupt, ", ".join(parts))
