"""What a worker does with the job in its hand, and what becomes of its request."""

from __future__ import annotations

import threading
from typing import Any

from groq_queue.clock import Clock
from groq_queue.core.request import State
from groq_queue.engine import verdicts
from groq_queue.engine.bounds import timed_out
from groq_queue.engine.choice import Chooser, Job
from groq_queue.engine.delivery import Delivery
from groq_queue.engine.log import told, told_error, told_text
from groq_queue.engine.places import Places
from groq_queue.engine.pool import WorkerPool
from groq_queue.engine.protocol import Attempts
from groq_queue.engine.room import Room
from groq_queue.engine.roster import Roster
from groq_queue.engine.runner import Next, Outcome
from groq_queue.errors import AuthenticationError, GroqQueueError
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")


class Fate:
    """Whether an engine takes requests, and what becomes of those that wait. Its lock guards it."""

    def __init__(self) -> None:
        self.is_closed = False
        self.is_sealed = False  # closed to callbacks too, which may submit while the queue drains
        self.is_cancelling = False  # shut down with cancel_futures: nothing waits any more
        self.stopped_by: GroqQueueError | None = None  # what failed them all, such as a rejected key

    def takes_more(self) -> bool:
        """Return whether new requests are taken."""
        return not self.is_closed and self.stopped_by is None


class Attempting:
    """Sends and settles without the lock, and notes under it what came of that.

    ``lock`` is the engine's and guards all that is handed over here.

    Args:
        attempts: Runs single attempts.
        roster: Where the requests stand.
        chooser: Took the jobs, and is paid for them.
        places: Where requests go that are sent again.
        delivery: Ends the others.
        room: Told when nothing waits any more.
        pool: Who is to look.
        lock: The engine's.
        clock: Tells the time.
        fate: Of the engine.
        landing_frees: Another head may wait for the end of an attempt, whatever its lease gives back.
    """

    def __init__(
        self,
        attempts: Attempts,
        roster: Roster,
        chooser: Chooser,
        places: Places,
        delivery: Delivery,
        room: Room,
        pool: WorkerPool[Any],
        lock: threading.RLock,
        clock: Clock,
        fate: Fate,
        *,
        landing_frees: bool,
    ) -> None:
        self._attempts = attempts
        self._roster = roster
        self._chooser = chooser
        self._places = places
        self._delivery = delivery
        self._room = room
        self._pool = pool
        self._lock = lock
        self._clock = clock
        self._fate = fate
        self._landing_frees = landing_frees

    def run(self, job: Job) -> None:
        """Run one attempt and do what its outcome says."""
        request, lane, lease = job.request, job.lane, job.lease
        if lease is None:
            self._delivery.end_on_worker(request, None, job.error)
            return
        try:
            outcome = self._attempts.attempt(request, lease, lane.meter)
        except BaseException as error:
            # A bug or a MemoryError must end this request, not the worker.
            _log.exception(
                "an attempt of %s broke, and the request fails: no memory was left, or it is a bug, please report it",
                request,
                extra=told("attempt_broke", request),
            )
            lane.meter.settle(lease, request.size, None, None, self._clock.now_ns())
            outcome = Outcome(Next.FAILED, error=verdicts.broken(error, request))
        if outcome.error is not request.last_error:
            request.last_error = outcome.error
        way = outcome.next
        if way is Next.AGAIN or way is Next.REFUSED:
            self._requeue(job, outcome)
            return
        if way is Next.STOP and outcome.error is not None:
            self.stop(outcome.error)
        with self._lock:
            self._land(job, outcome, self._clock.now_ns())
            self._roster.end(request, State.COMPLETED if way is Next.DONE else State.FAILED)
        if self._pool.is_short:
            self._pool.grow()
        self._delivery.end_on_worker(request, outcome.result, outcome.error, is_final=way is not Next.STOP)

    def _land(self, job: Job, outcome: Outcome, now_ns: int) -> None:
        """Note the end of an attempt, and what it cost."""
        self._chooser.pay(job, outcome.charged)
        self._roster.land(job.request, job.lane, outcome, job.began_ns, now_ns)
        if self._landing_frees:
            self._pool.wake()

    def _requeue(self, job: Job, outcome: Outcome) -> None:
        """Let a request wait for its next attempt, in its old place or away; or end it."""
        request = job.request
        error: GroqQueueError | None = None
        has_ended, is_final = True, False
        with self._lock:
            now_ns = self._clock.now_ns()
            self._land(job, outcome, now_ns)
            wait_ns = outcome.wait_ns
            if outcome.next is Next.AGAIN:
                wait_ns = max(wait_ns, job.lane.meter.turn_ns(self._roster.tally.pending_by_lane[request.lane]))
            due_ns = now_ns + wait_ns
            if self._fate.stopped_by is not None:
                self._roster.end(request, State.FAILED)
                error = verdicts.of(request, self._fate.stopped_by)
            elif self._fate.is_cancelling:
                self._roster.end(request, State.CANCELLED)
            elif request.deadline_ns is not None and due_ns >= request.submitted_ns + request.deadline_ns:
                self._roster.end(request, State.EXPIRED)
                is_final = True
                error = timed_out(self._roster, request, "deadline", request.deadline_ns, now_ns)
            else:
                has_ended = False
                self._roster.wait_again(request)
                if outcome.next is Next.REFUSED:
                    self._places.line_up(request)
                else:
                    self._places.send_away(request, due_ns)
        self._pool.grow()
        if has_ended:
            self._delivery.end(request, error=error, is_final=is_final)

    def give_up(self, job: Job, error: BaseException) -> None:
        """End the request of a job that *error* interrupted, wherever it stood then; places and counts come later."""
        _log.error("a worker broke on %s", job.request, exc_info=error, extra=told("attempt_broke", job.request))
        request, lease = job.request, job.lease
        with self._lock:
            if request.state is State.RUNNING:
                request.state = State.FAILED
            is_waiting = request.state is State.PENDING  # for its next attempt; whoever mends finds its place
        if not is_waiting and request.future is not None and not request.future.done():
            self._delivery.end(request, error=verdicts.broken(error, request))
        if lease is not None and lease.is_open:
            job.lane.meter.settle(lease, request.size, None, None, job.began_ns)  # our clock may be what failed

    def stop(self, error: GroqQueueError) -> None:
        """End everything that waits with *error*, and refuse what comes later with it."""
        with self._lock:
            if self._fate.stopped_by is None:
                self._fate.stopped_by = error.copy()
            self._room.tell()
            dropped = self._roster.withdraw_all(State.FAILED)
        if dropped:
            _log.error(
                "the queue stops, since every request would fail alike, and %d waiting ones fail: %s; %s",
                len(dropped),
                told_text(error),
                "check the API key" if isinstance(error, AuthenticationError) else "the Futures' exception() says more",
                extra=told("queue_stopped", **told_error(error)),
            )
        self._delivery.end_all(dropped, error, is_final=False)
