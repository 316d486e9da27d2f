"""A small pool of worker threads in which only one idle worker watches the time.

Of the idle workers one, the *leader*, waits until the earliest moment at which
there may be something to do; the others are parked until needed. Whoever finds
a job first hands the lead to another idle worker, or has one started. So a
change wakes one thread, never all, and an idle pool wakes nobody.

Source: leader/followers, D. Schmidt et al., Pattern-Oriented Software
Architecture 2, 2000.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, Protocol, TypeVar

from groq_queue.clock import Clock
from groq_queue.engine.log import told
from groq_queue.errors import GroqQueueError

_log = logging.getLogger("groq_queue")
_Job = TypeVar("_Job")


class Work(Protocol[_Job]):
    """Where the workers' jobs come from; all but ``run`` and ``all_left`` are called under the shared lock."""

    def find_job(self) -> tuple[_Job | None, int | None]:
        """Return a job, or None and the instant at which looking again may help, if time alone can tell."""
        ...

    def has_more(self) -> bool:
        """Return whether another worker should look, now that this one leaves with a job."""
        ...

    def is_over(self) -> bool:
        """Return whether there will never be another job."""
        ...

    def run(self, job: _Job) -> None:
        """Do the job."""
        ...

    def all_left(self) -> None:
        """Called when the last worker has gone, because it is over."""
        ...


class _Inside:
    """Counts how deep a thread is inside callbacks; a context that every thread may be in, each by itself."""

    def __init__(self, mine: threading.local) -> None:
        self._mine = mine

    def __enter__(self) -> None:
        self._mine.depth = getattr(self._mine, "depth", 0) + 1

    def __exit__(self, *_: object) -> None:
        self._mine.depth -= 1


class WorkerPool(Generic[_Job]):
    """At most *size* daemon threads that do what *work* finds.

    ``lock`` is the owner's re-entrant lock and guards every attribute. True whenever it is free:

    * if nobody leads, every idle worker is parked and ``find_job`` had nothing to wait for,
      or somebody was notified and has not looked yet;
    * ``_workers`` counts threads that run or are about to be started.
    """

    def __init__(self, work: Work[_Job], lock: threading.RLock, clock: Clock, size: int, name: str) -> None:
        self._work = work
        self._lock = lock
        self._clock = clock
        self._size = size
        self._name = name
        self._due = threading.Condition(lock)  # the leader waits here
        self._parked = threading.Condition(lock)  # the other idle workers
        self._gone = threading.Condition(lock)  # and here whoever waits for all of them to end
        self._threads: set[threading.Thread] = set()
        self._workers = 0
        self._wanted = 0  # of these, still to be started
        self._aside = 0  # of these, blocked in a callback that waits for another request
        self._parked_count = 0
        self._has_leader = False
        self._leads_until: int | None = None  # when the leader looks again by itself, if there is one
        self._mine = threading.local()  # .depth > 0 on workers and inside callbacks
        self._inside = _Inside(self._mine)

    def ensure_one(self) -> None:
        """Have at least one worker, so that what is accepted next will be done.

        Raises:
            GroqQueueError: The platform has no thread left.
        """
        if self._workers:  # they leave only when it is over, or when there are too many: no lock is needed to see one
            return
        with self._lock:
            if self._workers or self._work.is_over():
                return
            self._workers += 1
        self._start(is_vital=True)
        self.grow()  # what a signal handler left to us meanwhile

    @property
    def is_short(self) -> bool:
        """Whether ``wake`` found workers missing; may be asked without the lock."""
        return self._wanted > 0

    def wake(self) -> None:
        """See to it that one idle worker looks again. The lock is held; call ``grow`` after releasing it."""
        if self._has_leader:
            self._due.notify()
        elif self._parked_count:
            self._parked.notify()
        elif self._workers - self._aside < self._size:
            self._workers += 1
            self._wanted += 1

    def wake_by(self, when_ns: int) -> None:
        """See to it that some worker looks at *when_ns*, which a leader may do anyway. Else as ``wake``."""
        if not self._has_leader or self._leads_until is None or self._leads_until > when_ns:
            self.wake()

    def grow(self) -> None:
        """Start the workers that ``wake`` found missing. The lock is not held, since starting a thread blocks.

        A signal handler may come here while the thread it interrupted is starting
        one, and holds a lock of ``threading`` that it would wait for for ever; so it
        leaves the rest to whom it interrupted.
        """
        while self._wanted and not getattr(self._mine, "is_starting", False):
            with self._lock:
                if not self._wanted:
                    return
                self._wanted -= 1
                if self._work.is_over():
                    self._workers -= 1
                    self._gone.notify_all()
                    continue
            self._start(is_vital=False)

    def dismiss(self) -> None:
        """Have every idle worker look again and leave, since it is over. The lock is held."""
        self._due.notify_all()
        self._parked.notify_all()

    def is_empty(self) -> bool:
        """Return whether no worker runs. The lock is held."""
        return not self._workers

    def join(self) -> None:
        """Wait until every thread has ended; to be called when it is over."""
        with self._lock:
            while self._workers:
                self._clock.wait(self._gone, None)
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def is_inside(self) -> bool:
        """Return whether the caller runs on a worker or inside a callback, and so must not wait for the pool."""
        return self._depth() > 0

    def inside(self) -> AbstractContextManager[None]:
        """Mark the calling thread as inside a callback."""
        return self._inside

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let another worker take the place of the calling one while it waits."""
        with self._lock:
            self._aside += 1
            self.wake()
        self.grow()
        try:
            yield
        finally:
            with self._lock:
                self._aside -= 1

    def _start(self, *, is_vital: bool) -> None:
        """Start a worker that was counted already."""
        thread = threading.Thread(target=self._loop, name=f"{self._name}-worker", daemon=True)
        self._mine.is_starting = True
        with self._lock:
            self._threads = {known for known in self._threads if known.is_alive() or known.ident is None}
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:
            with self._lock:
                self._threads.discard(thread)
                self._workers -= 1
                self._gone.notify_all()
            if is_vital:
                raise GroqQueueError(f"no worker thread could be started: {error}") from None
            _log.warning(
                "no further worker thread could be started: %s; the queue goes on with fewer: lower max_workers",
                error,
                extra=told("no_thread"),
            )
        finally:
            self._mine.is_starting = False

    def _loop(self) -> None:
        self._mine.depth = 1
        try:
            while True:
                job = self._next()
                if self._wanted:
                    self.grow()
                if job is None:
                    break
                self._work.run(job)
                del job  # an idle worker must not keep a prompt alive
        finally:
            with self._lock:
                self._workers -= 1
                self._gone.notify_all()
                is_last = not self._workers and self._work.is_over()
            if is_last:
                self._work.all_left()

    def _next(self) -> _Job | None:
        """Wait for a job; None sends the worker home."""
        with self._lock:
            while True:
                job, next_ns = self._work.find_job()
                if job is not None:
                    if not self._has_leader and self._has_more_hands() and self._work.has_more():
                        self.wake()
                    return job
                if self._work.is_over():
                    return None
                if self._workers - self._aside > self._size:
                    self.wake()  # somebody else must watch the time
                    return None
                self._idle(next_ns)

    def _has_more_hands(self) -> bool:
        """Return whether, nobody leading, there is somebody to be woken or started."""
        return self._parked_count > 0 or self._workers - self._aside < self._size

    def _idle(self, next_ns: int | None) -> None:
        """Wait as the leader until *next_ns*, or parked until needed."""
        if self._has_leader:
            self._parked_count += 1
            try:
                self._parked.wait()
            finally:
                self._parked_count -= 1
        else:
            self._has_leader, self._leads_until = True, next_ns
            try:
                self._clock.wait(self._due, next_ns)
            finally:
                self._has_leader = False

    def _depth(self) -> int:
        return getattr(self._mine, "depth", 0)
