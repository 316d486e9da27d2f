"""What happens to open queues when the interpreter ends without ``shutdown``.

Workers are daemon threads: non-daemon ones would be joined before any exit
hook runs, and hang the interpreter for as long as a queue is full. So the hook
itself gives attempts under way a bounded time, and says what was not sent.
"""

from __future__ import annotations

import atexit
import sys
import weakref
from typing import Protocol

_GRACE_S = 5.0


class Leaver(Protocol):
    """An engine, as the exit hook sees it."""

    def leave(self, timeout_s: float) -> int: ...


_open: weakref.WeakSet[Leaver] = weakref.WeakSet()


def leave_at_exit(engine: Leaver) -> None:
    """Have *engine* drained, within bounds, if it is still open when the interpreter ends."""
    if not _open:
        atexit.unregister(_leave_all)
        atexit.register(_leave_all)
    _open.add(engine)


def forget(engine: Leaver) -> None:
    """Take back ``leave_at_exit``: the engine was shut down."""
    _open.discard(engine)


def _leave_all() -> None:
    unsent = sum(engine.leave(_GRACE_S) for engine in list(_open))
    if unsent and sys.stderr is not None:
        print(
            f"groq_queue: the program ended with {unsent} requests unsent; "
            "use `with GroqQueue(...)` or call shutdown() to wait for them",
            file=sys.stderr,
        )
