"""Forks, and the end of the interpreter: what open queues must not touch then, and what they still do.

**A fork.** A forked child inherits locks that no thread of it will release and threads that do not run there:
only the forking thread goes on. Whatever the others held stays held in the child, and what they were
changing may be half changed. So nothing of it is mended: whatever has locks, threads or open requests
is called in the child, to begin anew. The parent is not touched.

One thing is done before the fork: it waits for steps that cannot be cut in two. A library in C such as
SQLite keeps books of its own about locks on files; copied in mid-step they say for ever, in the child,
that the file is taken.

A child therefore counts its own budget: two processes of one account that are to keep one limit
between them need a limiter that counts outside of both.

**The interpreter's end.** Workers are daemon threads: non-daemon ones would be joined before any exit
hook runs, and hang the interpreter for as long as a queue is full. So the hook itself gives attempts
under way in open queues a bounded time, and says what was not sent.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from typing import Protocol

from groq_queue.display import plural

_GRACE_S = 5.0  # for each open queue when the interpreter ends

# -- forks


class Renewable(Protocol):
    """Something that can begin anew in a forked child."""

    def reset_after_fork(self) -> None:
        """Called in the child before anything else runs there; takes no lock of the parent's."""
        ...


_known: weakref.WeakSet[Renewable] = weakref.WeakSet()


def register_for_fork(thing: Renewable) -> None:
    """Reset *thing* in every child that is forked while it lives."""
    _known.add(thing)


class CriticalSection(Protocol):
    """A re-entrant lock that is held during each step."""

    def acquire(self) -> bool: ...
    def release(self) -> None: ...


def fork_between(critical_section: CriticalSection) -> None:
    """Make every fork of another thread wait until *critical_section* is free."""
    _sections.add(critical_section)


_sections: weakref.WeakSet[CriticalSection] = weakref.WeakSet()
_local = threading.local()  # .held: the locks that the forking thread took


def _before() -> None:
    _local.held = list(_sections)
    for critical_section in _local.held:
        critical_section.acquire()


def _after() -> None:
    held, _local.held = _local.held, []
    for critical_section in held:
        critical_section.release()


def _in_child() -> None:
    _after()
    for thing in list(_known):
        thing.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_in_child)


# -- the end of the interpreter


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
    """Drain *engine*, within bounds, if it is still open when the interpreter ends."""
    if not _open:
        atexit.unregister(_leave_all)
        atexit.register(_leave_all)
    _open.add(engine)


def tell_at_exit(calls: Calls) -> None:
    """Report at exit how many of *calls* the end of the interpreter prevents, be their engine open or shut down."""
    _calls.add(calls)


def forget(engine: Drainable) -> None:
    """Take back ``leave_at_exit``: the engine was shut down."""
    _open.discard(engine)


def _leave_all() -> None:
    left = {True: 0, False: 0}
    for engine in list(_open):
        left[engine.is_kept] += engine.leave(_GRACE_S)
    wait = "use `with GroqQueue(...)` or call shutdown() to wait for them"
    for is_kept, count in left.items():
        if count and sys.stderr is not None:
            kept = "; they stay in the journal, and the next run on it sends them" if is_kept else ""
            unsent = plural(count, "request")
            print(f"groq_queue: the program ended with {unsent} not sent{kept}; {wait}", file=sys.stderr)
    lost = sum(calls.count() for calls in list(_calls))
    if lost and sys.stderr is not None:
        print(f"groq_queue: the program ended before calling {plural(lost, 'callback')}; {wait}", file=sys.stderr)
