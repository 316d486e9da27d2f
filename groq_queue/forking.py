"""What a forked child inherits and must not touch: locks that nobody will release, threads that do not run there.

After a fork only the forking thread goes on. Whatever the others held stays held in
the child, and what they were changing may be half changed. So nothing of it is
mended: whoever has locks, threads or open requests is told, in the child, to
begin anew. The parent is not touched, and nothing is done before the fork.

A child therefore counts its own budget: two processes of one account that are to
keep one limit between them need a limiter that counts outside of both.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """Something that can begin anew in a forked child."""

    def renew(self) -> None:
        """Called in the child before anything else runs there; takes no lock of the parent's."""
        ...


_known: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_in_children(thing: Renewable) -> None:
    """Have *thing* begin anew in every child that is forked while it lives."""
    _known.add(thing)


def _in_child() -> None:
    for thing in list(_known):
        thing.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
