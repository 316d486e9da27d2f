"""One thread that runs an errand whenever it is due or stirred: where waiting for a store stands nobody in the way."""

from __future__ import annotations

import threading
from typing import Protocol

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.engine.log import log_fields
from groq_queue.errors import GroqQueueError
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_AFTER_FAILURE_S = 1.0  # of the machine's own clock, since ours may be what failed
_TELL_EVERY = 60  # failures in a row: about a minute


class Task(Protocol):
    """What is to be done; called by one thread at a time."""

    def run(self) -> int | None:
        """Do what there is to do.

        Returns:
            The instant at which there will be more, or None: when stirred.
        """
        ...

    def finish(self) -> None:
        """Do what is left to do, once and for all; raises nothing."""
        ...


class BackgroundTask:
    """A daemon thread, started when first stirred, that runs one errand again and again until ``close``.

    ``_lock`` guards the flags and ``_thread``, and is a leaf: ``wake`` may be called under any lock.
    The errand runs without it. Nothing that the errand or the clock raises ends the thread before ``close``.
    """

    def __init__(self, task: Task, clock: Clock, name: str) -> None:
        self._task = task
        self._clock = clock
        self._name = name
        self._lock = threading.RLock()  # taken as such: a Condition's own __exit__ is a place where a Ctrl-C can come
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._is_starting = False
        self._is_stirred = False
        self._is_closed = False
        self._failures = 0  # in a row; the thread's own

    def wake(self) -> None:
        """Have the errand run soon; does not block."""
        with self._lock:
            self._is_stirred = True
            self._changed.notify()

    def start(self) -> None:
        """Have the thread, if it is not there. Not to be called under a lock, since starting one blocks.

        Raises:
            GroqQueueError: The system refuses it. The next call tries again.
        """
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is not None or self._is_starting or self._is_closed:
                return
            self._is_starting = True
        try:
            thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            thread.start()
            with self._lock:
                self._thread = self._thread or thread
        except RuntimeError as error:
            raise GroqQueueError(f"the thread that asks the shared limiter could not be started: {error}") from None
        finally:
            self._is_starting = False

    def close(self, timeout_s: float) -> None:
        """Finish the errand and wait for it, at most *timeout_s*. A second call only waits."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            self._changed.notify()
            thread = self._thread
        if thread is None:
            if not was_closed:
                self._finish()
        elif thread is not threading.current_thread() and thread.ident is not None:
            thread.join(timeout_s)

    def _loop(self) -> None:
        me = threading.current_thread()
        with self._lock:
            self._thread = self._thread or me
            if self._thread is not me:
                return  # a Ctrl-C came while it was started, and another has been started since
        due_ns: int | None = None
        while not self._is_closed:
            try:
                if self._rest(due_ns):
                    due_ns = self._task.run()
                    self._failures = 0
            except BaseException:  # a bug, or no memory, must not end the thread that everybody's budget comes from
                due_ns = self._failed()
        self._finish()

    def _failed(self) -> int | None:
        """Say so, once a minute, and return when to try again."""
        try:
            if self._failures % _TELL_EVERY == 0:
                _log.exception(
                    "an errand of %s failed and is tried again: a bug, or no memory was left",
                    self._name,
                    extra=log_fields("errand_failed"),
                )
            self._failures += 1
            return self._clock.now_ns() + NS_PER_S
        except BaseException:  # the clock, or no memory even for this
            with self._lock:
                if not self._is_closed:
                    self._changed.wait(_AFTER_FAILURE_S)
                self._is_stirred = True
            return None

    def _finish(self) -> None:
        try:
            self._task.finish()
        except BaseException:
            _log.exception("the last errand of %s failed: a bug", self._name, extra=log_fields("errand_failed"))

    def _rest(self, due_ns: int | None) -> bool:
        """Wait until stirred or *due_ns*; False if closed."""
        with self._lock:
            while not self._is_stirred and not self._is_closed:
                if due_ns is not None and self._clock.now_ns() >= due_ns:
                    break
                self._clock.wait(self._changed, due_ns)
            self._is_stirred = False
            return not self._is_closed
