"""What a forked child inherits and must not touch: locks that nobody will release, threads that do not run there.

After a fork only the forking thread goes on. Whatever the others held stays held in
the child, and what they were changing may be half changed. So nothing of it is
mended: whoever has locks, threads or open requests is told, in the child, to
begin anew. The parent is not touched.

One thing is done before the fork: it waits for steps that cannot be cut in two. A
library in C such as SQLite keeps books of its own about locks on files; copied in
mid-step they say for ever, in the child, that the file is taken.

A child therefore counts its own budget: two processes of one account that are to
keep one limit between them need a limiter that counts outside of both.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Renewable(Protocol):
    """Something that can begin anew in a forked child."""

    def reset_after_fork(self) -> None:
        """Called in the child before anything else runs there; takes no lock of the parent's."""
        ...


_known: weakref.WeakSet[Renewable] = weakref.WeakSet()


def register_for_fork(thing: Renewable) -> None:
    """Have *thing* begin anew in every child that is forked while it lives."""
    _known.add(thing)


class Steps(Protocol):
    """A re-entrant lock that is held during each step."""

    def acquire(self) -> bool: ...
    def release(self) -> None: ...


def fork_between(critical_section: Steps) -> None:
    """Have every fork of another thread wait until nobody holds *steps*."""
    _steps.add(critical_section)


_steps: weakref.WeakSet[Steps] = weakref.WeakSet()
_local = threading.local()  # .held: the locks that the forking thread took


def _before() -> None:
    _local.held = list(_steps)
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
