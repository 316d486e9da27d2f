"""A small pool of worker threads in which only one idle worker watches the time.

Of the idle workers one, the *leader*, waits until the earliest moment at which
there may be something to do; the others are parked until needed. The worker that finds
a job first hands the lead to another idle worker, or has one started. So a
change wakes one thread, never all, and an idle pool wakes none.

Source: leader/followers, D. Schmidt et al., Pattern-Oriented Software
Architecture 2, 2000.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from groq_queue.clock import Clock
from groq_queue.engine.log import log_fields
from groq_queue.errors import GroqQueueError
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")
_Job = TypeVar("_Job")

_RECOVERIES = 25
_AFTER_FAILURE_S = 0.2  # of the machine's own clock, since ours may be what failed


class Work(Protocol[_Job]):
    """Where the workers' jobs come from.

    The lock is held for ``is_prepared``, ``find_job``, ``has_more`` and ``is_over`` only.
    """

    def prepare(self) -> None:
        """Called without the lock, before a worker's first look, and before a later one unless ``is_prepared``."""
        ...

    def is_prepared(self) -> bool:
        """Return whether a worker that has waited may look again at once; else ``prepare`` may have something to do."""
        ...

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

    def broke(self, job: _Job | None, error: BaseException) -> bool:
        """Put right what *error* left half done: out of ``run`` with its job, or out of ``find_job`` with None.

        Called without the lock.

        Returns:
            Whether looking for jobs makes sense at once; else the worker rests for a moment.
        """
        ...

    def all_left(self) -> None:
        """Called when the last worker has gone, because it is over."""
        ...


class Inside(threading.local):
    """How deep the calling thread is inside: > 0 on workers, and on other threads while they run callbacks."""

    depth = 0  # on the class: every Future that is waited for asks, and to miss an attribute takes three times as long


class WorkerPool(Generic[_Job]):
    """At most *size* daemon threads that do what *work* finds.

    ``lock`` is the owner's re-entrant lock and guards every attribute. True whenever it is free:

    * if no worker leads, every idle worker is parked and ``find_job`` had nothing to wait for,
      or a worker was notified and has not looked yet;
    * ``_crew`` holds the workers that run or are being started, and whether each runs; ``missing`` counts those
      that are to be started.

    Nothing that ``work`` raises ends a worker.
    """

    def __init__(self, work: Work[_Job], lock: threading.RLock, clock: Clock, size: int, name: str) -> None:
        self._work = work
        self._lock = lock
        self._clock = clock
        self._size = size
        self._name = name
        self._due = threading.Condition(lock)  # the leader waits here
        self._parked = threading.Condition(lock)  # the other idle workers
        self._gone = threading.Condition(lock)  # and here the threads that wait for all of them to end
        self._crew: dict[threading.Thread, bool] = {}
        self._threads: set[threading.Thread] = set()  # of the crew now or before; ``close`` joins them
        self.missing = 0  # workers that ``grow`` is to start; may be read without the lock
        self._blocked = 0  # workers blocked in a callback that waits for another request
        self.spare = 0  # workers beyond the size that the owner needs for something else than its ordinary jobs
        self._parked_count = 0
        self._has_leader = False
        self._leads_until: int | None = None  # when the leader looks again by itself, if there is one
        self._local = threading.local()  # .is_starting, while this thread starts a worker
        self.inside = Inside()

    def ensure_one(self) -> None:
        """Have at least one worker, so that what is accepted next will be done.

        Raises:
            GroqQueueError: The platform has no thread left.
        """
        if self._crew:  # they leave only when it is over, or when there are too many: no lock is needed to see one
            return
        with self._lock:
            if self._crew or self._work.is_over():
                return
            self.missing = max(self.missing, 1)
        self._start(is_vital=True)
        self.grow()  # what a signal handler left to us meanwhile

    def wake(self) -> None:
        """Wake one idle worker. The lock is held; call ``grow`` after releasing it."""
        if self._has_leader:
            self._due.notify()
        elif self._parked_count:
            self._parked.notify()
        elif self._excess < 0:
            self.missing += 1

    def wake_by(self, when_ns: int) -> None:
        """Wake one idle worker, as ``wake`` does, unless the leader wakes by *when_ns* anyway."""
        if not self._has_leader or self._leads_until is None or self._leads_until > when_ns:
            self.wake()

    def grow(self) -> None:
        """Start the workers that ``wake`` found missing. The lock is not held, since starting a thread blocks.

        A signal handler may come here while the thread it interrupted is starting
        one, and holds a lock of ``threading`` that it would wait for for ever; so it
        leaves the rest to whom it interrupted.
        """
        while self.missing and not getattr(self._local, "is_starting", False):
            self._start(is_vital=False)

    def dismiss(self) -> None:
        """Wake every idle worker, so that it ends, since it is over. The lock is held."""
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
        return self.inside.depth > 0

    def is_worker(self) -> bool:
        """Return whether the caller runs on a worker."""
        return threading.current_thread() in self._crew

    @contextmanager
    def blocking_section(self) -> Iterator[None]:
        """Let another worker take the place of the calling one while it waits."""
        with self._lock:
            self._blocked += 1
            self.wake()
        self.grow()
        try:
            yield
        finally:
            with self._lock:
                self._blocked -= 1

    @property
    def _workers(self) -> int:
        """Return how many threads run or are about to be started. The lock is held."""
        return len(self._crew) + self.missing

    @property
    def _excess(self) -> int:
        """Return how many workers there are, or are about to be, beyond those that may have jobs. The lock is held."""
        return len(self._crew) + self.missing - self._blocked - self.spare - self._size

    def _start(self, *, is_vital: bool) -> None:
        """Start one of the workers that are missing."""
        thread = threading.Thread(target=self._loop, name=f"{self._name}-worker", daemon=True)
        self._local.is_starting = True
        try:
            with self._lock:
                if not self.missing:
                    return
                self.missing -= 1
                if self._work.is_over():
                    self._gone.notify_all()
                    return
                self._crew[thread] = False
                self._threads = {known for known in self._threads if known.is_alive() or known in self._crew}
                self._threads.add(thread)
            thread.start()
        except BaseException as error:
            with self._lock:
                if self._crew.get(thread) is False:  # one that a Ctrl-C leaves half started finds itself gone
                    del self._crew[thread]
                    self._threads.discard(thread)
                self._gone.notify_all()
            if not isinstance(error, RuntimeError):
                raise
            if is_vital:
                raise GroqQueueError(f"no worker thread could be started: {error}") from None
            _log.warning(
                "no further worker thread could be started: %s; the queue goes on with fewer: lower max_workers",
                error,
                extra=log_fields("no_thread"),
            )
        finally:
            self._local.is_starting = False

    def _loop(self) -> None:
        me = threading.current_thread()
        with self._lock:
            if me not in self._crew:
                return
            self._crew[me] = True
        self.inside.depth = 1
        job: _Job | None = None
        try:
            while True:
                try:
                    self._work.prepare()
                    job, goes_home = self._next()
                    if self.missing:
                        self.grow()
                    if goes_home:
                        break
                    if job is not None:
                        self._work.run(job)
                except BaseException as error:
                    self._recover(job, error)
                    with self._lock:
                        if self._work.is_over():
                            break
                job = None  # an idle worker must not keep a prompt alive
        finally:
            with self._lock:
                self._crew.pop(me, None)
                self._gone.notify_all()
                is_last = not self._workers and self._work.is_over()
            if is_last:
                self._work.all_left()

    def _recover(self, job: _Job | None, error: BaseException) -> None:
        """Repair what *error* left behind; memory may have run out for a moment, so this is tried again."""
        is_well: bool | None
        for _ in range(_RECOVERIES):
            try:
                is_well = self._work.broke(job, error)
            except BaseException as another:
                error, is_well = another, None
            if is_well:
                return
            with self._lock:
                self._gone.wait(_AFTER_FAILURE_S)
            if is_well is False:
                return

    def _next(self) -> tuple[_Job | None, bool]:
        """Look for a job, or wait until looking again may help; return it, and whether the worker is to end.

        Without a job, and not to end: prepare, and call again.
        """
        with self._lock:
            for _ in range(2):  # then the lock is free for a moment: a clock may wait without letting go of it
                # Before it looks: else there would be more jobs at once than allowed. No more workers than ``_size``
                # have never too many jobs, so ``_excess`` is asked beyond that only.
                if len(self._crew) > self._size and self._excess > 0:
                    self._crew.pop(threading.current_thread(), None)  # at once, or another would go for that reason
                    self.wake()  # another worker must look, and watch the time
                    return None, True
                job, next_ns = self._work.find_job()
                if job is not None:
                    if not self._has_leader and self._has_more_hands() and self._work.has_more():
                        self.wake()
                    return job, False
                if self._work.is_over():
                    return None, True
                self._idle(next_ns)
                if not self._work.is_prepared():
                    break
            return None, False

    def _has_more_hands(self) -> bool:
        """Return whether no worker leads and one can be woken or started."""
        return self._parked_count > 0 or len(self._crew) + self.missing < self._size + self._blocked + self.spare

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
