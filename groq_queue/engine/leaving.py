"""What happens to open queues that are dropped, or when the interpreter ends, without ``shutdown``.

Workers are daemon threads: non-daemon ones would be joined before any exit
hook runs, and hang the interpreter for as long as a queue is full. So the hook
itself gives attempts under way a bounded time, and says what was not sent.
"""

from __future__ import annotations

import atexit
import sys
import threading
import weakref
from contextlib import suppress
from typing import Protocol

_GRACE_S = 5.0


class Drainable(Protocol):
    """An engine, as the exit hook sees it."""

    @property
    def is_kept(self) -> bool: ...
    def leave(self, timeout_s: float) -> int: ...
    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None: ...


class Calls(Protocol):
    """Callbacks that wait to be called."""

    def count(self) -> int: ...


_open: weakref.WeakSet[Drainable] = weakref.WeakSet()
_calls: weakref.WeakSet[Calls] = weakref.WeakSet()


def leave_at_exit(engine: Drainable) -> None:
    """Have *engine* drained, within bounds, if it is still open when the interpreter ends."""
    if not _open:
        atexit.unregister(_leave_all)
        atexit.register(_leave_all)
    _open.add(engine)


def tell_at_exit(calls: Calls) -> None:
    """Have it told how many of *calls* the end of the interpreter prevents, be their engine open or shut down."""
    _calls.add(calls)


def forget(engine: Drainable) -> None:
    """Take back ``leave_at_exit``: the engine was shut down."""
    _open.discard(engine)


def drain_dropped(engine: Drainable) -> None:
    """Have *engine* drained by a thread that ``threading`` knows; to be called on one that it does not.

    On a bare thread whoever asks for the current one, as ``join`` does, leaves a dummy
    in ``threading.enumerate()`` for ever: one more with each queue that is dropped.
    """
    options = {"wait": False, "cancel_futures": False}
    with suppress(RuntimeError):  # the interpreter ends: _leave_all sees to it
        threading.Thread(target=engine.shutdown, kwargs=options, name="groq_queue-drain", daemon=True).start()


def _leave_all() -> None:
    unsent = {True: 0, False: 0}
    for engine in list(_open):
        unsent[engine.is_kept] += engine.leave(_GRACE_S)
    wait = "use `with GroqQueue(...)` or call shutdown() to wait for them"
    for is_kept, count in unsent.items():
        if count and sys.stderr is not None:
            kept = "; they stay in the journal, and the next run on it sends them" if is_kept else ""
            print(f"groq_queue: the program ended with {count} requests unsent{kept}; {wait}", file=sys.stderr)
    lost = sum(calls.count() for calls in list(_calls))
    if lost and sys.stderr is not None:
        print(f"groq_queue: the program ended before {lost} callbacks were called; {wait}", file=sys.stderr)
