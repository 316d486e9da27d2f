"""Ctrl-C, SIGTERM and a terminal that hangs up, handed to whoever waits in the main thread."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def catching(on_signal: Callable[[int], None]) -> Iterator[None]:
    """Call ``on_signal(number)`` for SIGINT, SIGTERM and SIGHUP while the block runs.

    One that is ignored stays so: whoever started us, ``nohup`` or a shell in the background, wished it.

    It is called in the main thread between any two steps, also while that thread
    holds a lock: it may set flags, raise, and put into a ``queue.SimpleQueue``,
    the one way to wake a waiter that is safe here. Off the main thread, where
    Python has no handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    try:
        for number in _ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, lambda caught, _frame: on_signal(caught))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
