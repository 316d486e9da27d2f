"""What a Ctrl-C in a notebook cell or a script does: one line on stderr, and the second one waits for nothing."""

from __future__ import annotations

import sys

from groq_queue.engine.stats import Stats


def tell(interrupt: BaseException, line: str) -> None:
    """Print *line*, unless something was said about this *interrupt* already."""
    if getattr(interrupt, "_groq_queue_told", False):
        return
    interrupt._groq_queue_told = True  # type: ignore[attr-defined]
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
    parts = [f"{after.completed:,} answers are done and stay in their Futures"]
    if after.in_flight:
        fate = "the next run on the journal looks after them" if is_kept else "their answers may be lost, and billed"
        parts.append(f"{after.in_flight:,} attempts are still under way: {fate}")
    if cancelled and is_kept:
        parts.append(f"{cancelled:,} requests stay unsent in the journal, and the next run on it sends them")
    elif cancelled:
        parts.append(
            f"{cancelled:,} requests were cancelled unsent; to continue, submit those whose Future is cancelled() again"
        )
    if len(parts) > 1:
        tell(interrupt, ", ".join(parts))
