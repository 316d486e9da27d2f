"""Ctrl-C, pressed by a test for its own main thread, which is certain to hear it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_pressing = threading.Lock()  # one press at a time, until it is heard
_heard = threading.Semaphore(0)  # released when the main thread has noticed a Ctrl-C


def _hear(number: int, frame: FrameType | None) -> None:
    _heard.release()
    raise KeyboardInterrupt


@contextmanager
def listening() -> Iterator[None]:
    """Let ``press`` be heard inside; to be entered by the main thread."""
    while _heard.acquire(blocking=False):
        pass  # a Ctrl-C of an earlier test that was not pressed by ``press``
    before = signal.signal(signal.SIGINT, _hear), signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGUSR1, before[1])


def press() -> None:
    """Press Ctrl-C, once.

    A signal that comes just before the main thread sleeps is noticed by Python when the next one wakes it.
    """
    main = threading.main_thread().ident
    assert main is not None
    with _pressing:
        signal.pthread_kill(main, signal.SIGINT)
        for _ in range(500):
            if _heard.acquire(timeout=0.02):
                return
            signal.pthread_kill(main, signal.SIGUSR1)
