"""One worker process: takes requests from the store, sends them through its embedded engine, stores the outcomes.

Retries, budgets, order among what is held and the meaning of answers are the embedded engine's. Here is only the way
in and out, and the fence: no byte leaves for a request that is not this worker's any more.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Protocol

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.core.budget import Lease
from groq_queue.core.request import Request, State
from groq_queue.core.response import Completion
from groq_queue.core.token_estimate import TokenCost
from groq_queue.distributed.codec import Ending, decode_request, encode_counts, encode_ending, take_over_counts
from groq_queue.distributed.job_store import Claimed, JobStore
from groq_queue.distributed.wakeups import LANES, BrokerQueue, Notifier
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.future import RequestFuture
from groq_queue.engine.lane import Meter
from groq_queue.engine.log import log_fields
from groq_queue.engine.protocols import Attempts
from groq_queue.errors import (
    APIConnectionError,
    ConfigurationError,
    EngineUnavailable,
    GroqQueueError,
    QueueClosed,
    QueueTimeout,
    record_of,
)
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_MOST_UNKNOWN = 3  # as often may a request be on its way when its worker dies, then it fails: it may be the cause
_MOST_BROKEN = 25  # times that an outcome is tried to be stored, a fifth of a second apart
_LONGEST_PERIOD_S = 2.0
_AGAIN_S = 1
_AFTER_FAILURE_S = 0.2  # of the machine's own clock, since ours may be what failed
_MOST_CALLS = 16  # at a time, for requests whose wake-up call was lost
_STUCK_NS = NS_PER_S // 2
# RabbitMQ takes a call away, and the channel with it, that is not acknowledged for half an hour.
_LONGEST_TURN_NS = 300 * NS_PER_S
_LONGEST_HOLD_NS = 600 * NS_PER_S

Accept = Callable[[Request, Callable[[Future[Completion]], object] | None], RequestFuture[Completion]]


class Embedded(Protocol):
    """The engine of this process."""

    def set_weight(self, client: str, weight: float) -> None: ...
    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None: ...


def start(thread: threading.Thread) -> None:
    """Start a thread without which a worker is none.

    Raises:
        GroqQueueError: The system refuses it.
    """
    try:
        thread.start()
    except RuntimeError as error:
        raise GroqQueueError(
            f"the thread {thread.name} could not be started ({error}): allow more threads (ulimit -u, or the pids "
            "limit of the container), or lower --lanes"
        ) from None


class _Job:
    """A request that is held. Changed by its own thread and the engine's worker that sends it, one after the other;
    ``is_gone`` only ever becomes true."""

    def __init__(self, claimed: Claimed, lane: BrokerQueue, held_ns: int) -> None:
        self.id = claimed.id
        self.lane = lane
        self.held_ns = held_ns
        self.model = ""
        self.is_sending = False
        self.unreported_rest: Callable[[], object] | None = None  # reports that it rests, which could not be sent yet
        self.is_gone = False  # cancelled, or another worker's
        self.charged = TokenCost(0)
        self.future: RequestFuture[Completion] | None = None


class LeasedJobs:
    """Takes requests, and sees to it that each is ended or given back.

    ``_changed`` guards ``_jobs``, ``_thread``, ``_is_stopping`` and ``_is_away``; nothing is asked of Redis under it.

    Args:
        store: Where requests stand.
        notifier: Wakes workers.
        clock: Tells the time.
        owner: Names this worker.
        lease_s: Seconds after the last sign of life in which what this worker holds is its own.
        threads: ``{lane: threads}``.
        base_url: Where this worker sends.
        on_stopped: Called once, when an error such as a rejected key makes further work pointless.
    """

    def __init__(
        self,
        store: JobStore,
        notifier: Notifier,
        clock: Clock,
        *,
        owner: str,
        lease_s: float,
        threads: dict[str, int],
        base_url: str,
        on_stopped: Callable[[], None],
    ) -> None:
        self._store = store
        self._notifier = notifier
        self._clock = clock
        self._owner = owner
        self._lease_ms = round(lease_s * 1_000)
        self._period_s = min(lease_s / 3, _LONGEST_PERIOD_S)
        self._threads = threads
        self._base_url = base_url
        self._on_stopped = on_stopped
        self._changed = threading.Condition()
        self._jobs: dict[str, _Job] = {}
        self._thread: threading.Thread | None = None
        self._is_stopping = False
        self._is_away = False  # Redis, as far as the log says
        self._accept: Accept
        self._engine: Embedded
        self.stopped_by: GroqQueueError | None = None

    # -- beginning and end

    def begin(self, accept: Accept, engine: Embedded) -> None:
        """Be ready: *accept* gives requests to the embedded *engine*, whose attempts went through ``fence``.

        Raises:
            EngineUnavailable: Redis cannot be reached.
            GroqQueueError: The system refuses the thread that shows signs of life.
        """
        self._accept = accept
        self._engine = engine
        self._heartbeat()
        thread = threading.Thread(target=self._keep_up, name="groq_queue-heartbeat", daemon=True)
        start(thread)
        self._thread = thread

    def stop(self) -> None:
        """Take no more, and let go of what is not on its way, now or when its attempt has failed."""
        with self._changed:
            self._is_stopping = True
        self._engine.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Show no more signs of life; to be called when nothing is held any more."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._store.leave(self._owner)

    def fence(self, attempts: Attempts) -> Attempts:
        """Return *attempts*, made only for requests that are still ours."""
        return _Fenced(attempts, self)

    # -- work

    def work(self, lane: BrokerQueue) -> int:
        """Take and end requests of *lane* until none waits, or for some minutes; return how many."""
        count = 0
        until_ns = self._clock.now_ns() + _LONGEST_TURN_NS
        while not self._is_stopping and self.stopped_by is None:
            if self._clock.now_ns() > until_ns:
                self._notifier.notify(lane)
                break
            claimed = self._store.claim(self._owner, self._lease_ms, lane.first, lane.last, self._stuck(lane))
            if claimed is None:
                break
            self._process(_Job(claimed, lane, self._clock.now_ns()), claimed)
            count += 1
        return count

    def _process(self, job: _Job, claimed: Claimed) -> None:
        with self._changed:
            self._jobs[job.id] = job
        try:
            try:
                ending = self._ending_of(job, claimed)
            except BaseException as error:
                ending = self._broken(job, claimed, error)
            if ending is not None:
                self._store_result(job, ending)
            elif not job.is_gone:
                self._give_back(job)
        finally:
            with self._changed:
                del self._jobs[job.id]

    def _ending_of(self, job: _Job, claimed: Claimed) -> Ending | None:
        """Send a request and return how it ended; None if it is not ours any more or is to be given back."""
        try:
            request, base_url = decode_request(claimed.record)
            if base_url not in (None, self._base_url):
                raise ConfigurationError(
                    f"base_url={base_url!r}: the submitting process wants it sent there, this worker sends to "
                    f"{self._base_url!r}; give both the same, or leave base_url out of GroqQueue(engine='celery')"
                )
            request.priority = claimed.priority
            request.attempts, request.unknown = claimed.attempts, claimed.unknown
            take_over_counts(request, claimed.counts)
            request.submitted_ns = self._clock.now_ns() - claimed.age_ms * 1_000_000
            if claimed.rest_ms:
                request.not_before_ns = (claimed.age_ms + claimed.rest_ms) * 1_000_000
            job.model = request.model
            if claimed.weight != 1.0:
                self._engine.set_weight(request.client, claimed.weight)
            future = self._accept(request, None)
        except QueueClosed:
            return None
        except ValueError as problem:  # ConfigurationError and RequestTooLarge are such too
            error = problem if isinstance(problem, GroqQueueError) else ConfigurationError(str(problem))
            return Ending(State.FAILED, error=error, attempts=claimed.attempts)
        with self._changed:
            job.future = future
        return self._awaited(job, request, future)

    def _awaited(self, job: _Job, request: Request, future: RequestFuture[Completion]) -> Ending | None:
        try:
            answer = future.result()
        except CancelledError:
            return None
        except Exception as error:  # of ours, but for a bug
            if job.is_gone or (self.stopped_by is not None and not job.is_sending):
                return None
            state = State.EXPIRED if isinstance(error, QueueTimeout) else State.FAILED
            ours = error if isinstance(error, GroqQueueError) else GroqQueueError(repr(error))
            return Ending(state, None, ours, request.attempts, charged=job.charged)
        return Ending(State.COMPLETED, answer, None, answer.attempts, answer.waited, job.charged)

    def _broken(self, job: _Job, claimed: Claimed, error: BaseException) -> Ending | None:
        """Return how a request ends on which *error* broke; None if there may be memory again elsewhere, or later."""
        _log.error(
            "a worker broke on request %s: a bug, or no memory was left",
            job.id[:8],
            exc_info=error,
            extra=log_fields("attempt_broke"),
        )
        if isinstance(error, MemoryError) or not isinstance(error, Exception):
            self._pause_after_failure()
            return None
        ours = GroqQueueError(f"request {job.id[:8]}: its worker broke on it: {error!r:.200}")
        return Ending(State.FAILED, error=ours, attempts=claimed.attempts)

    def _store_result(self, job: _Job, ending: Ending) -> None:
        """Store how a request ended: for as long as that takes, since it is paid for."""
        broken = 0
        while True:
            try:
                if self._store.finish(job.id, ending.state.value, encode_ending(ending)) != 1:
                    _log.warning(
                        "request %s had ended before, so this outcome of it is dropped: it was cancelled, or this "
                        "worker was taken for dead and another one sent it (see --lease)",
                        job.id[:8],
                        extra=log_fields("ended_before"),
                    )
                return
            except EngineUnavailable as error:
                if self._is_stopping:
                    _log.error(
                        "the outcome of request %s is lost, since this worker stops while it cannot be stored: %s",
                        job.id[:8],
                        error,
                        extra=log_fields("store_away"),
                    )
                    return
                self._tell_away(
                    "the outcome of request %s is not stored yet, tried again every %g s: %s",
                    job.id[:8],
                    _AGAIN_S,
                    error,
                )
                self._store.pause(_AGAIN_S)
            except BaseException as error:
                broken += 1
                if broken == 1:
                    _log.error(
                        "the outcome of request %s could not be stored, tried again: a bug, or no memory was left",
                        job.id[:8],
                        exc_info=error,
                        extra=log_fields("attempt_broke"),
                    )
                if broken == _MOST_BROKEN:  # sent again, it would be paid for again and come to the same
                    unstored = GroqQueueError(f"request {job.id[:8]}: its outcome cannot be stored: {error!r:.200}")
                    ending = Ending(State.FAILED, None, unstored, ending.attempts, charged=ending.charged)
                elif broken > _MOST_BROKEN:
                    raise
                self._pause_after_failure()

    def _give_back(self, job: _Job) -> None:
        try:
            if job.unreported_rest is not None:
                job.unreported_rest()
            if self._store.release(job.id, self._owner):
                self._notifier.notify(job.lane)
        except EngineUnavailable as error:  # its lease ends by itself, and the next sweep finds the request
            _log.warning(
                "request %s could not be given back, so it waits until its lease ends: %s",
                job.id[:8],
                error,
                extra=log_fields("store_away"),
            )

    def _stuck(self, lane: BrokerQueue) -> list[str]:
        """Return the models that may get no more threads of *lane*, because theirs wait for their budget."""
        return [model for model, jobs in self._waiting(lane).items() if len(jobs) >= self._most_waiting(lane)]

    def _waiting(self, lane: BrokerQueue) -> dict[str, list[_Job]]:
        """Return what has been held in *lane* for a while and is not on its way, by model, oldest first."""
        now_ns = self._clock.now_ns()
        waiting: dict[str, list[_Job]] = {}
        with self._changed:
            for job in self._jobs.values():
                if job.lane is lane and not job.is_sending and now_ns - job.held_ns > _STUCK_NS:
                    waiting.setdefault(job.model, []).append(job)
        return waiting

    def _most_waiting(self, lane: BrokerQueue) -> int:
        """Return how many threads of *lane* the requests of one model may hold that wait for their budget."""
        threads = self._threads[lane.name]
        return threads - max(1, threads // 4) if threads > 1 else 2

    def _spread(self) -> None:
        """Give back what keeps other models from their share of the threads, and what has waited very long."""
        old_ns = self._clock.now_ns() - _LONGEST_HOLD_NS
        for lane in LANES:
            if lane.name in self._threads:
                for jobs in self._waiting(lane).values():
                    excess = jobs[self._most_waiting(lane) :]
                    for job in (*excess, *(job for job in jobs if job.held_ns < old_ns)):
                        if job.future is not None:
                            job.future.cancel()

    # -- the fence

    @property
    def is_stopping(self) -> bool:
        """Whether nothing more is to be sent."""
        return self._is_stopping

    def begin_attempt(self, request: Request) -> int | None:
        """Return which attempt of *request* may be made now, or None: it is not ours any more.

        Raises:
            EngineUnavailable: Redis, which alone knows, cannot be reached.
        """
        job = self._job(request)
        if job is not None and job.unreported_rest is not None:
            job.unreported_rest()
            job.unreported_rest = None
        number = self._store.begin(request.id, self._owner, self._lease_ms)
        if job is None or not number:
            if job is not None:
                job.is_gone = True
            return None
        job.is_sending = True
        return number

    def end_attempt(self, request: Request, outcome: Outcome) -> None:
        """Note the end of an attempt."""
        job = self._job(request)
        if job is None:
            return
        job.charged = outcome.charged
        if outcome.next is Disposition.STOP_ALL:
            self.stopped_by = outcome.error
            self._on_stopped()
        elif outcome.next in (Disposition.RETRY, Disposition.RATE_LIMITED):
            job.is_sending = False
            job.held_ns = self._clock.now_ns()
            error = "" if outcome.error is None else json.dumps(record_of(outcome.error))
            rest_ms = outcome.wait_ns // 1_000_000
            counts = encode_counts(request)
            job.unreported_rest = partial(
                self._store.rest, request.id, self._owner, request.unknown, error, counts, rest_ms
            )  # said later, it rests longer
            try:
                job.unreported_rest()
                job.unreported_rest = None
            except EngineUnavailable as trouble:
                _log.warning(
                    "that %s waits for another attempt is not stored: %s",
                    request,
                    trouble,
                    extra=log_fields("store_away", request),
                )

    def _job(self, request: Request) -> _Job | None:
        with self._changed:
            return self._jobs.get(request.id)

    # -- signs of life

    def _keep_up(self) -> None:
        """Extend leases, and do for dead workers what they cannot, until closed."""
        safe_ns: int | None = None
        is_broken = False
        while True:
            try:
                if safe_ns is None:
                    # When Redis is back every lease has run out; each worker gets the time to say that it lives.
                    safe_ns = self._clock.now_ns() + self._lease_ms * 1_000_000
                if not self._wait_a_period():
                    return
                self._spread()
                self._heartbeat()
                self._tell_back()
                self._expire_dead(may_expire=self._clock.now_ns() >= safe_ns)
                is_broken = False
            except EngineUnavailable as error:
                safe_ns = None
                self._tell_away("this worker cannot tell the others that it is alive, tried again soon: %s", error)
            except BaseException:  # a bug, or no memory, must not make this worker look dead
                if not is_broken:
                    _log.exception(
                        "the heart-beat failed and is tried again: a bug, or no memory was left",
                        extra=log_fields("attempt_broke"),
                    )
                is_broken, safe_ns = True, None
                self._pause_after_failure()

    def _pause_after_failure(self) -> None:
        with self._changed:
            if not (self._is_stopping and not self._jobs):
                self._changed.wait(_AFTER_FAILURE_S)

    def _wait_a_period(self) -> bool:
        """Wait; return whether to go on."""
        until_ns = self._clock.now_ns() + round(self._period_s * NS_PER_S)
        with self._changed:
            while not (self._is_stopping and not self._jobs) and self._clock.now_ns() < until_ns:
                self._clock.wait(self._changed, until_ns)
            return not (self._is_stopping and not self._jobs)

    def _tell_away(self, message: str, *args: object) -> None:
        """Log what cannot be done now: as a warning once, until a heart-beat comes through."""
        with self._changed:
            was_away, self._is_away = self._is_away, True
        _log.log(logging.DEBUG if was_away else logging.WARNING, message, *args, extra=log_fields("store_away"))

    def _tell_back(self) -> None:
        with self._changed:
            was_away, self._is_away = self._is_away, False
        if was_away:
            _log.warning("%s can be used again", self._store.address, extra=log_fields("store_back"))

    def _heartbeat(self) -> None:
        with self._changed:
            held = list(self._jobs)
        for id in self._store.heartbeat(self._owner, self._lease_ms, held):
            with self._changed:
                job = self._jobs.get(id)
            if job is not None and not job.is_gone and not job.is_sending:
                job.is_gone = True
                if job.future is not None:
                    job.future.cancel()

    def _expire_dead(self, *, may_expire: bool) -> None:
        ending = Ending(
            State.FAILED,
            error=APIConnectionError(
                f"its worker died {_MOST_UNKNOWN} times while it was on its way: it may have been answered and billed, "
                "and is not sent again",
                is_final=True,
            ),
            attempts=_MOST_UNKNOWN,
        )
        counts = self._store.expire_dead(
            round(self._period_s * 900), _MOST_UNKNOWN, encode_ending(ending), may_expire=may_expire
        )
        for lane in LANES if counts is not None else ():
            waiting = sum(counts[lane.first : lane.last + 1]) if counts is not None else 0
            if waiting:
                missing = waiting - self._notifier.waiting(lane)
                if missing > 0:
                    self._notifier.notify(lane, min(missing, _MOST_CALLS))


class _Fenced:
    """Makes attempts for requests that are still this worker's."""

    def __init__(self, attempts: Attempts, leased: LeasedJobs) -> None:
        self._attempts = attempts
        self._leased = leased

    def attempt(self, request: Request, lease: Lease, meter: Meter) -> Outcome:
        """Ask whether the request may be sent, send it, and tell what became of it."""
        if self._leased.is_stopping:  # its lease was granted just before: the engine gives it back
            meter.refund(lease)
            return Outcome(Disposition.RATE_LIMITED)
        try:
            number = self._leased.begin_attempt(request)
        except EngineUnavailable as error:
            meter.refund(lease)
            return Outcome(Disposition.RETRY, error=error, wait_ns=_AGAIN_S * NS_PER_S)
        if number is None:
            meter.refund(lease)
            return Outcome(Disposition.FAILED, error=GroqQueueError("it is not this worker's any more"))
        request.attempts = number - 1  # the runner counts this one
        outcome = self._attempts.attempt(request, lease, meter)
        self._leased.end_attempt(request, outcome)
        return outcome
