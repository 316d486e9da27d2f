"""What is said when somebody interrupts a notebook cell or a script: one line on stderr."""

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


def tell_what_is_left(interrupt: BaseException, before: Stats, after: Stats, *, is_kept: bool) -> None:
    """Say what leaving the ``with`` block by *interrupt* cancelled, and whether a journal keeps that."""
    cancelled = after.cancelled - before.cancelled
    if not cancelled:
        return
    done = f"{after.completed:,} answers are done and stay in their Futures"
    if is_kept:
        tell(interrupt, f"{done}, {cancelled:,} requests stay unsent in the journal, and the next run on it sends them")
    else:
        tell(
            interrupt,
            f"{done}, {cancelled:,} requests were cancelled unsent; to continue, submit those whose Future is "
            "cancelled() again",
        )
