"""Waiting for what nobody tells: looked at again and again, with the interpreter given to the others in between."""

from __future__ import annotations

import threading
from collections.abc import Callable

PATIENCE_S = 30.0


def wait_until(is_so: Callable[[], bool]) -> None:
    """Return when *is_so*; for what happens on threads of somebody else, in a file or in another process."""
    pause = threading.Event()
    for _ in range(round(PATIENCE_S / 0.001)):
        if is_so():
            return
        pause.wait(0.001)
    raise AssertionError("it did not come to that")
