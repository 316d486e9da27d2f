"""The embedded engine: lanes drained by a small pool of worker threads.

A request is taken in the same critical section in which its lease is granted.
Until then it is in its lane, where a more urgent one can still pass it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.core.price_table import PriceTable
from groq_queue.core.request import Request, State
from groq_queue.core.response import Completion
from groq_queue.engine import failures
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.background import Timers
from groq_queue.engine.callables import Call
from groq_queue.engine.explain import (
    check_in_time,
    explanation_of,
    info_of,
    stats_of,
    timed_out,
)
from groq_queue.engine.future import RequestFuture
from groq_queue.engine.lane import Lane, Meter
from groq_queue.engine.late import LateCalls
from groq_queue.engine.log import error_fields, error_text, log_fields
from groq_queue.engine.metrics import RunFacts
from groq_queue.engine.nested import Nested
from groq_queue.engine.paging import AlreadyFetched, BacklogPager, Group, Page
from groq_queue.engine.pending import PendingRequests
from groq_queue.engine.protocols import Attempts, Keeper
from groq_queue.engine.scheduler import Job, Scheduler
from groq_queue.engine.stats import Explanation, RequestInfo, Stats
from groq_queue.engine.worker_pool import WorkerPool
from groq_queue.errors import (
    AuthenticationError,
    ConfigurationError,
    GroqQueueError,
    JournalError,
    QueueClosed,
)
from groq_queue.lifecycle import register_for_fork, tell_at_exit
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_FETCH_AGAIN_S = 1  # after the journal could not be read
_DONE, _COMPLETED, _CANCELLED = Disposition.DONE, State.COMPLETED, State.CANCELLED  # looked up once, not by each job
_FAILURES = 10  # looks for a job in a row that end in an exception, 0.2 s apart, before the queue stops: 2 s


class ThreadEngine:
    """Takes requests, sends each when its lease is granted, and ends its Future.

    ``_lock`` guards the request table with all its lanes and requests, the money, the waits
    of calls, the callbacks that wait for a worker, the pool, and the flags. Only this
    class and the pool, whose conditions are made of it, ever take it. It is re-entrant,
    so that a signal handler may cancel or shut down while the interrupted thread holds
    it. Meters and timers are locked under it; nothing is sent, settled, called back or
    written to a file under it. ``_delivered`` alone is changed without it, by workers
    that take it next. Whenever it is free, some worker is looking or was notified if
    some lane's head could pass.

    A Ctrl-C or a want of memory may break a change off between two steps. ``_is_torn``
    is true from the first step of a change to its last; who finds it true with the
    lock free makes every place and count anew (``_mend``).

    Args:
        attempts: Runs single attempts.
        meter_of: Returns the budget of a lane, given its name and its model.
        clock: Tells the time.
        timers: Calls back at instants; closed with the engine.
        max_workers: Most attempts at once.
        max_pending: Most requests waiting, or None.
        max_pending_per_client: The same for each client.
        when_full: ``"block"``, ``"raise"`` or ``"shed"``.
        max_in_flight: Most attempts at once of one lane, or None.
        ageing_ns: Nanoseconds after which a waiting request rises one level, or None.
        raises_daily: End requests that a spent limit per day holds up, instead of waiting.
        price_table: Prices; None are the built-in ones.
        max_usd: Most to be spent, or None.
        keeper: Keeps requests in a file, or None.
        name: Of the threads.
    """

    def __init__(
        self,
        *,
        attempts: Attempts,
        meter_of: Callable[[str, str], Meter],
        clock: Clock,
        timers: Timers,
        max_workers: int,
        max_pending: int | None = None,
        max_pending_per_client: int | None = None,
        when_full: str = "block",
        max_in_flight: int | None = None,
        ageing_ns: int | None = None,
        raises_daily: bool = True,
        price_table: PriceTable | None = None,
        max_usd: float | None = None,
        keeper: Keeper | None = None,
        name: str = "groq_queue",
    ) -> None:
        self._attempts = attempts
        self._clock = clock
        self._timers = timers
        self._max_workers = max_workers
        self._when_full = when_full
        self._keeper = keeper
        self._landing_frees = max_in_flight is not None or max_usd is not None  # what another head may wait for
        self._name = name
        self._new_table: Callable[[], PendingRequests] = lambda: PendingRequests(
            meter_of=meter_of,
            on_freed=self._budget_freed,
            max_pending=max_pending,
            max_pending_per_client=max_pending_per_client,
            max_in_flight=max_in_flight,
            ageing_ns=ageing_ns,
            pager=None if keeper is None else BacklogPager(),
            new_lane=lambda *facts: Lane(*facts, lock=self._lock),
        )
        self._new_scheduler: Callable[[PendingRequests], Scheduler] = lambda table: Scheduler(
            table,
            price_table or PriceTable(),
            max_usd,
            raises_daily=raises_daily,
            tell_later=lambda tell: timers.after(0, tell),
        )
        self._is_torn = False
        self._is_mending = False  # from the beginning of ``_mend`` to its end, which another Ctrl-C may prevent
        self._failures = 0  # looks for a job in a row that ended in an exception
        timers.on_refused = self._wake_for_timers
        self._closes: list[tuple[Callable[[], None], bool]] = []  # and whether a forked child calls it too
        self._closed = False
        self._sealed = False  # closed to callbacks too, which may submit while the queue drains
        self._cancelling = False  # shut down with cancel_futures: nothing waits any more
        self._stop_error: GroqQueueError | None = None  # what failed them all, such as a rejected key
        self._begin()
        register_for_fork(self)

    def _begin(self) -> None:
        """Make locks, workers and places for requests."""
        self._lock = threading.RLock()
        self._quiet = threading.Condition(self._lock)  # threads that wait for the queue to be empty wait here
        self._joiners = 0  # that wait there
        self._not_full = threading.Condition(self._lock)  # and here each submitter that waits for room
        self._blocked_submitters = 0  # that wait there; they may be of clients with bounds of their own
        self._delivered: list[Request] = []  # their Futures have ended, their workers are about to look for more
        self._pool: WorkerPool[Job | LateCalls] = WorkerPool(
            self, self._lock, self._clock, self._max_workers, self._name
        )
        self.inside = (
            self._pool.inside
        )  # how deep the calling thread is in callbacks; every Future that is waited for asks
        self._late = LateCalls(self._pool)
        tell_at_exit(self._late)
        self._table = self._new_table()
        self._scheduler = self._new_scheduler(self._table)
        self._nested = Nested(self._table, self._scheduler, self._clock)

    def reset_after_fork(self) -> None:
        """Begin anew in a forked child; the requests, and what is to be closed with them, stay the parent's."""
        table, spent = self._table, self._scheduler.spend_cap
        self._late.leave_to_parent()
        self._begin()
        self._table.keep_settings_of(table)
        self._scheduler.spend_cap.inherit(spent)
        self._closes = [entry for entry in self._closes if entry[1]]
        for future in table.open_futures():
            future._request.state = State.FAILED
            future.leave_to_parent(failures.submitted_elsewhere(future.custom_id, future.request_id))

    # -- what callers ask for

    def check_open(self) -> None:
        """Refuse if the queue was shut down; a callback may still submit while it drains, since it is waited for.

        Raises:
            QueueClosed: It was.
        """
        if self._closed and (self._sealed or not self._pool.is_inside()):
            raise QueueClosed("submit() after shutdown: make a new GroqQueue")

    def at_close(self, close: Callable[[], None], *, in_children: bool = True) -> None:
        """Call *close*, possibly more than once, when the last request has ended after ``shutdown``.

        Args:
            close: Called in the order of these calls.
            in_children: False if what it closes stays the parent's when the process forks.
        """
        self._closes.append((close, in_children))

    def submit(
        self,
        request: Request,
        *,
        callback: Callable[[Future[Completion]], object] | None = None,
        is_new: bool = True,
    ) -> RequestFuture[Completion]:
        """Take a request in; blocks while the queue is full, if so configured.

        Args:
            request: What is to be sent.
            callback: Called with the Future when it has ended.
            is_new: False if its row was in the journal before. Then it may be here already,
                and the Future returned is the one that is.

        Raises:
            QueueClosed: The queue was shut down.
            QueueFull: There is no room, and the queue does not block.
            QueueTimeout: It is expected to start too late for its ``deadline``, or its time
                passed while the queue was full.
            ConfigurationError: A request with this custom_id has not ended yet.
            AlreadyFetched: Its row was here already, and the request has ended meanwhile.

        After an error that stopped the whole queue, such as a rejected key, the Future
        that is returned has ended with it.
        """
        try:
            return self._submit(request, callback, is_new)
        except (GroqQueueError, AlreadyFetched):
            raise
        except BaseException:
            self._mend()
            raise

    def call_back(self, future: RequestFuture[Completion], callback: Callable[[Future[Completion]], object]) -> None:
        """Call *callback* when *future* has ended; if it has, a worker calls it soon.

        Raises:
            QueueClosed: It has ended, and the queue was shut down.
            GroqQueueError: It has ended, and the platform has no thread for a worker.
        """
        if future.call_at_end(callback):
            return
        self._pool.ensure_one()
        try:
            with self._lock:
                if self._closed:
                    self.check_open()
                self._late.add(future, [callback])
            if self._pool.missing:
                self._pool.grow()
        except GroqQueueError:
            raise
        except BaseException:
            self._mend()
            raise

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read a pending row and submit its request inside, with ``is_new=False``.

        If it begins and ends in between, ``submit`` raises ``AlreadyFetched`` instead of sending it again.
        """
        pager = self._table.pager
        with self._lock:
            if pager is not None:
                pager.begin_reading()
        try:
            yield
        finally:
            with self._lock:
                if pager is not None:
                    pager.end_reading()

    def future_of(self, row_id: int) -> RequestFuture[Completion] | None:
        """Return the Future of the request of that row, if it is open and a program may hold it."""
        with self._lock:
            return self._table.open_future(row_id)

    def add_stored(self, counts: dict[Group, int]) -> None:
        """Take in the pending requests of a journal, fetching the first of each group."""
        self._pool.ensure_one()
        with self._lock:
            for group, count in counts.items():
                self._table.add_stored(group, count)
        self._prefetch()

    def keep(self, future: RequestFuture[Completion], row_id: int) -> None:
        """Keep the Future of a request in the backlog alive, because it has a callback."""
        with self._lock:
            if self._table.pager is not None:
                self._table.pager.keep(future, row_id)

    def cancel(self, request: Request) -> bool:
        """Cancel a request that is not being attempted; see ``RequestFuture.cancel``."""
        try:
            with self._lock:
                if request.state is not State.PENDING:
                    return request.state is State.CANCELLED
                was_torn, self._is_torn = self._is_torn, True
                self._withdraw(request, State.CANCELLED)
                self._is_torn = was_torn
            self._complete(request)
            if self._pool.missing:
                self._pool.grow()
        except BaseException:
            self._mend()
            raise
        return True

    def cancel_all(self, is_meant: Callable[[Request | Group], bool]) -> int:
        """Cancel every pending request that *is_meant*, a pure question about what a group has too; return how many.

        Raises:
            JournalError: Those that are in the file only could not be cancelled.
        """
        try:
            with self._lock:
                was_torn, self._is_torn = self._is_torn, True
                meant = self._table.withdraw_meant(is_meant, State.CANCELLED)
                cleared = self._table.clear_stored(is_meant)
                self._is_torn = was_torn
                self._not_full.notify_all()
                if any(lane.is_blocked for lane in self._table.lanes.values()):
                    self._pool.wake()
            interrupt = self._complete_all(meant)
            count = len(meant)
            for group, after in cleared:
                assert self._keeper is not None
                count += self._keeper.cancel_group(group, after)
            with self._lock:
                self._note_if_quiet()
            self._pool.grow()
        except JournalError:
            raise
        except BaseException:
            self._mend()
            raise
        if interrupt is not None:
            raise interrupt
        return count

    def set_priority(self, request: Request, priority: int) -> bool:
        """Move a pending request to the end of another level; False if it is no longer pending."""
        try:
            with self._lock:
                if request.state is not State.PENDING:
                    return False
                was_torn, self._is_torn = self._is_torn, True
                if self._table.change_priority(request, priority):
                    self._pool.wake()
                self._is_torn = was_torn
            self._pool.grow()
        except BaseException:
            self._mend()
            raise
        self._prefetch()
        if self._keeper is not None and request.row_id is not None:
            self._keeper.moved(request)
        return True

    def request_of(self, custom_id: str) -> Request | None:
        """Return the request of that custom_id that has not ended, or None."""
        with self._lock:
            return self._table.find(custom_id)

    def set_weight(self, client: str, weight: float) -> None:
        """Give *client* that many times the turns of a client of weight 1."""
        with self._lock:
            self._table.set_weight(client, weight)

    def pause(self, model: str | None) -> None:
        """Start no attempt of *model*, or of any, until ``resume``."""
        with self._lock:
            self._table.pause(model)

    def resume(self, model: str | None) -> None:
        """Undo ``pause``."""
        with self._lock:
            self._table.resume(model)
            self._pool.wake()
        self._pool.grow()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until every request has ended; False if *timeout_s* passed first.

        Inside a callback it does not wait, since it would wait for itself.
        """
        until_ns = None if timeout_s is None else self._clock.now_ns() + round(timeout_s * NS_PER_S)
        table = self._table
        with self._lock:
            self._joiners += 1
            try:
                while not self._is_idle() and not self._pool.is_inside():
                    if until_ns is not None and self._clock.now_ns() >= until_ns:
                        return False
                    self._clock.wait(self._quiet, until_ns)
                return self._is_idle()
            finally:
                if table is self._table:  # else a signal handler has forked, and this is the child: it counts anew
                    self._joiners -= 1

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        """Refuse new requests; drain the others, paused ones too, or cancel those not being attempted."""
        try:
            interrupt = self._close(cancel_futures)
        except BaseException:
            self._mend(is_final=False)
            raise
        if isinstance(interrupt, KeyboardInterrupt):
            raise interrupt  # a Ctrl-C that came while callbacks ran: who is in a hurry does not wait for attempts
        if wait and not self._pool.is_inside():
            self.join()
            self._pool.join()
            self._timers.close(wait=True)
        if interrupt is not None:
            raise interrupt

    def _close(self, cancel_futures: bool) -> BaseException | None:
        """Take nothing more, and drop what waits if it is to be dropped; return what a callback raised."""
        with self._lock:
            self._closed = True
            self._cancelling = self._cancelling or cancel_futures
            self._sealed = self._cancelling or self._sealed or self._pool.is_inside()
            self._not_full.notify_all()
            was_torn, self._is_torn = self._is_torn, True
            dropped = self._table.withdraw_all(State.CANCELLED) if cancel_futures else []
            self._is_torn = was_torn
        self._release_readers()
        interrupt = self._complete_all(dropped, is_final=False)
        self.resume(None)
        with self._lock:
            self._note_if_quiet()
            is_idle = self._pool.is_empty()
        if is_idle:
            self.all_left()
        return interrupt

    def leave(self, timeout_s: float) -> int:
        """Prepare for the end of the interpreter: give attempts under way at most *timeout_s*.

        Returns:
            How many requests were cancelled before their (next) attempt; a journal keeps them.
        """
        with self._lock:
            self._closed = self._cancelling = self._sealed = True
            count = self._table.counters.pending
            unsent = self._table.withdraw_all(State.CANCELLED)
            cancelled = self._table.counters.ended[State.CANCELLED]
        self._release_readers()
        self._complete_all(unsent, is_final=False)
        self.join(timeout_s)
        with self._lock:  # and those under way that failed meanwhile: their retry is not to come
            return count + self._table.counters.ended[State.CANCELLED] - cancelled

    @property
    def is_kept(self) -> bool:
        """Whether requests that are left unsent stay in a journal."""
        return self._keeper is not None

    def stats(self) -> Stats:
        """Return one consistent snapshot."""
        with self._lock:
            is_running = not self._closed and self._stop_error is None
            spent_usd = self._scheduler.spend_cap.spent_usd
            return stats_of(self._table, self._clock.now_ns(), is_running=is_running, cost=spent_usd)

    def facts(self) -> tuple[Stats, RunFacts]:
        """Return what a report is made of, as of one instant."""
        with self._lock:
            counters = self._table.counters
            return self.stats(), counters.history.facts(self._clock.now_ns(), counters.mean_flight_ns())

    def critical_section(self) -> threading.RLock:
        """Return the lock of every step: in a forked child it is another."""
        return self._lock

    def info(self, request: Request) -> RequestInfo:
        """Return one request's state."""
        with self._lock:
            return info_of(self._table, request, self._clock.now_ns())

    def explain(self, request: Request) -> Explanation:
        """Return why a request waits and when it is expected to start."""
        with self._lock:
            return explanation_of(self._table, request, self._clock.now_ns(), self._max_workers)

    def blocking_section(self) -> AbstractContextManager[None]:
        """Let another worker take the place of a calling one while it waits for a Future."""
        if self._late.is_mine():
            return self._late_call_blocking()
        return self._pool.blocking_section() if self._pool.is_worker() else nullcontext()

    def begin_wait(self, call: Call, request: Request, *, is_bounded: bool) -> None:
        """Let *call* wait for *request* until ``end_wait``; see ``Nested.begin``.

        Raises:
            DeadlockError: It would never end.
        """
        with self._lock:
            warn = self._nested.begin(call, request, is_bounded=is_bounded)
        if warn is not None:
            self._timers.after(0, warn)  # outside every lock: the waiting thread may hold the Futures'

    def end_wait(self, call: Call) -> None:
        """Note that *call* goes on after a wait that nothing bounded."""
        with self._lock:
            self._nested.end(call)

    @property
    def timers(self) -> Timers:
        """What calls back at instants, until the queue is closed."""
        return self._timers

    # -- what the pool asks for

    def find_job(self) -> tuple[Job | LateCalls | None, int | None]:
        """Take the most urgent head whose lease is granted now; callbacks that wait for a worker come first."""
        if self._is_torn:
            self._rebuild(State.CANCELLED)
        if self._delivered:
            self._forget_locked(self._delivered)
        if self._late.waiting and self._late.take():
            return self._late, None
        if self._failures >= _FAILURES:
            return None, None  # the queue has stopped
        job, next_ns = self._scheduler.next_job(self._clock.now_ns())
        if self._failures:
            self._failures = 0
        if job is None and self._nested.waits:
            job = self._nested.give_up()
        if job is not None:
            if self._blocked_submitters:
                self._not_full.notify_all()
            return job, None
        due_ns = self._timers.due_without_thread_ns() if self._timers.is_unattended else None
        return None, next_ns if due_ns is None else due_ns if next_ns is None else min(due_ns, next_ns)

    def has_more(self) -> bool:
        """Return whether anything is left to be sent."""
        return self._late.waits or any(lane.head() is not None for lane in self._table.lanes.values())

    def is_over(self) -> bool:
        """Return whether there will never be another job."""
        return self._closed and self._is_idle()

    def prepare(self) -> None:
        """Do what is due if the system refuses the thread that would, and finish a mending that was interrupted."""
        if self._is_mending or self._is_torn:
            self._mend()
        if self._timers.is_unattended:
            self._timers.run_due()

    def is_prepared(self) -> bool:
        """Return whether ``prepare`` has certainly nothing to do."""
        return not self._is_mending and not self._is_torn and not self._timers.is_unattended

    def run(self, job: Job | LateCalls) -> None:
        """Run one attempt and do what its outcome says, or call callbacks."""
        if isinstance(job, LateCalls):
            self._run_late_calls()
            return
        request, lane, lease = job.request, job.lane, job.lease
        if lease is None:
            self._complete_on_worker(request, None, job.error)
            return
        lock = self._lock
        try:
            outcome = self._attempts.attempt(request, lease, lane.meter)
        except BaseException as error:
            # A bug or a MemoryError must end this request, not the worker.
            _log.exception(
                "an attempt of %s broke, and the request fails: no memory was left, or it is a bug, please report it",
                request,
                extra=log_fields("attempt_broke", request),
            )
            lane.meter.settle(lease, request.size, None, None, self._clock.now_ns())
            outcome = Outcome(Disposition.FAILED, error=failures.internal_error(error, request))
        if lock is not self._lock:
            return  # a callable has forked, and this is the child: the request and its money are the parent's
        if outcome.error is not request.last_error:
            request.last_error = outcome.error
        is_done, is_final = outcome.next is _DONE, True
        if not is_done:
            if outcome.next is Disposition.RETRY or outcome.next is Disposition.RATE_LIMITED:
                self._requeue(job, outcome)
                return
            is_final = outcome.next is not Disposition.STOP_ALL
            if not is_final and outcome.error is not None:
                self._stop(outcome.error)
        with self._lock:
            self._finish_attempt(job, outcome, self._clock.now_ns())
            self._table.end(request, _COMPLETED if is_done else State.FAILED)
        if self._pool.missing:
            self._pool.grow()
        self._complete_on_worker(request, outcome.result, outcome.error, is_final=is_final)

    def broke(self, job: Job | LateCalls | None, error: BaseException) -> bool:
        """End the request of a worker that *error* interrupted; stop the queue if it cannot even look for a job."""
        if isinstance(job, LateCalls):
            self._leave_late_calls()
            return True
        if job is not None:
            self._abandon_job(job, error)
            self._mend(State.FAILED)
            return True
        self._failures += 1
        self._mend()
        if self._failures >= _FAILURES:
            self._stop(failures.stopped(error))
        return self._failures == 1

    def all_left(self) -> None:
        """Close what the engine was given: all of it, though one part, or the user's clock, may fail."""
        close_all([self._close_lanes, partial(self._timers.close, wait=False), *(close for close, _ in self._closes)])

    # -- submit

    def _submit(
        self, request: Request, callback: Callable[[Future[Completion]], object] | None, is_new: bool
    ) -> RequestFuture[Completion]:
        self._pool.ensure_one()
        future: RequestFuture[Completion] = RequestFuture(request, self)
        if callback is not None:
            future.add_done_callback(callback)
        with self._lock:
            shed = known = None
            if request.row_id is not None:
                known = self._table.find_existing(request, future, is_kept=callback is not None, is_new=is_new)
            if known is None and self._table.is_bounded and not self._table.has_room(request.client):
                shed = self._wait_for_capacity(request)  # it may be fetched meanwhile
                known = self._table.find_existing(request, future, is_kept=callback is not None, is_new=is_new)
            if self._closed:
                self.check_open()
            if self._stop_error is not None:
                return self._submit_to_stopped(request, future, self._stop_error)
            if known is None:
                self._accept(request, future, shed, is_kept=callback is not None)
        if shed is not None and known is None:
            with self._lock:
                full = self._table.full(shed, "shed to make room for a more urgent one", self._clock.now_ns())
            self._complete_and_call_late(shed, full)
        if self._pool.missing:
            self._pool.grow()
        if request.row_id is not None:
            self._prefetch()
        if known is None:
            if request.deadline_ns or request.max_wait_ns:
                self._set_expiry_timers(request)
        elif known is not future and callback is not None:
            self.call_back(known, callback)
        return known or future

    def _accept(
        self, request: Request, future: RequestFuture[Completion], shed: Request | None, *, is_kept: bool
    ) -> None:
        """Put a new request where it belongs, in place of one to be shed. The lock is held."""
        if request.custom_id is not None and self._table.find(request.custom_id) is not None:
            raise ConfigurationError(
                f"custom_id={request.custom_id!r}: a request with this id has not ended yet; give each its own"
            )
        if not request.submitted_ns:
            request.submitted_ns = self._clock.now_ns()
            if request.deadline_ns is not None:
                check_in_time(self._table, request, self._max_workers)
        if shed is not None:
            self._withdraw(shed, State.FAILED)
        pager = self._table.pager
        if pager is not None and request.row_id is not None and pager.wants(request):
            self._table.page_out(request, future, is_kept=is_kept, is_new=True)
            return
        request.future = future
        was_torn, self._is_torn = self._is_torn, True
        self._table.accept(request)
        self._enqueue(request)
        self._is_torn = was_torn

    def _submit_to_stopped(
        self, request: Request, future: RequestFuture[Completion], error: GroqQueueError
    ) -> RequestFuture[Completion]:
        """Count a request that comes after the queue was stopped, and have a timer end its Future. The lock is held."""
        request.future = future
        request.submitted_ns = self._clock.now_ns()
        self._table.accept(request)
        self._table.counters.count_pending(request, -1)
        self._table.end(request, State.FAILED)
        self._timers.after(
            0, lambda: self._complete_and_call_late(request, failures.of(request, error), is_final=False)
        )
        return future

    def _wait_for_capacity(self, request: Request) -> Request | None:
        """Wait until one more request may be pending, or raise. The lock is held, but while it waits.

        Callbacks never wait: they are what makes room.

        Returns:
            A less urgent request that is to be shed, or None.
        """
        bounds = request.bounds_ns
        until_ns = self._clock.now_ns() + min(bounds) if bounds else None
        while not self._table.has_room(request.client) and not self._closed and self._stop_error is None:
            if self._when_full == "shed":
                rank = self._table.rank(request, self._clock.now_ns())
                shed = self._table.least_urgent(request.client, rank)
                if shed is None:
                    raise self._table.full(request, "nothing less urgent could be shed", self._clock.now_ns())
                return shed
            if self._when_full == "raise":
                raise self._table.full(request, "wait for some to end", self._clock.now_ns())
            if self._pool.is_inside():
                return None
            now_ns = self._clock.now_ns()
            if until_ns is not None and now_ns >= until_ns:
                raise timed_out(self._table, request, "max_wait or deadline", min(bounds), now_ns)
            self._blocked_submitters += 1
            try:
                self._clock.wait(self._not_full, until_ns)
            finally:
                self._blocked_submitters -= 1
        return None

    # -- where a pending request waits

    def _enqueue(self, request: Request) -> None:
        """Put a request in memory into its lane, or defer it until it may be sent or its timer ends it.

        The lock is held.
        """
        request.rank = self._table.rank(request, request.submitted_ns) if self._table.is_ageing else request.priority
        if (request.deadline_ns or request.max_wait_ns) and request.is_past(self._clock.now_ns()):
            self._table.away.add(request)
        elif request.not_before_ns:
            self._defer(request, request.submitted_ns + request.not_before_ns)
        elif self._table.enqueue(request):
            self._pool.wake()  # the head is another; behind an unchanged one nothing has changed for those who wait

    def _defer(self, request: Request, due_ns: int) -> None:
        """Keep a pending request out of its lane until *due_ns*. The lock is held."""
        self._table.away.add(request)
        request.due_ns = due_ns
        request.timers += (self._timers.at(due_ns, lambda: self._enqueue_deferred(request)),)

    def _enqueue_deferred(self, request: Request) -> None:
        """Put a deferred request into its lane: its instant has come."""
        with self._lock:
            if request not in self._table.away:
                return
            self._table.away.discard(request)
            if not request.was_taken:
                request.rank = self._table.rank(request, self._clock.now_ns())
            if self._table.enqueue(request):
                self._pool.wake()
        self._pool.grow()

    def _withdraw(self, request: Request, state: State) -> None:
        """End a pending request wherever it waits. The lock is held."""
        self._table.withdraw(request, state)
        self._not_full.notify_all()
        if self._table.lane(request).is_blocked:
            self._pool.wake()  # a worker waits for a head that may have changed

    def _set_expiry_timers(self, request: Request) -> None:
        """Set timers that end a request in memory when the time its caller set has run out. Called without the lock."""
        if request.has_bounds and not request.is_paged_out:
            for bound, after_ns in (("max_wait", request.max_wait_ns), ("deadline", request.deadline_ns)):
                if after_ns is not None:
                    self._expire_after(request, bound, after_ns)

    def _expire_after(self, request: Request, bound: str, after_ns: int) -> None:
        call_off = self._timers.at(request.submitted_ns + after_ns, lambda: self._expire(request, bound, after_ns))
        with self._lock:
            if request.state is State.PENDING or request.state is State.RUNNING:
                request.timers += (call_off,)
                return
        call_off()  # it has ended meanwhile

    def _expire(self, request: Request, bound: str, after_ns: int) -> None:
        """End a request whose ``max_wait`` or ``deadline`` has come while it waits."""
        with self._lock:
            if request.state is not State.PENDING or (bound == "max_wait" and request.attempts):
                return
            self._withdraw(request, State.EXPIRED)
            error = timed_out(self._table, request, bound, after_ns, self._clock.now_ns())
        self._complete_and_call_late(request, error)
        self._pool.grow()

    def _prefetch(self) -> None:
        """Bring stored requests into memory, a page at a time, wherever memory runs low. Called without the lock.

        The file is read without it, too.
        """
        pager, keeper = self._table.pager, self._keeper
        while pager is not None and keeper is not None and pager.is_low:
            with self._lock:
                page = pager.next_page()
            if page is None:
                return
            try:
                fetched, is_last = keeper.fetch(page)
            except JournalError as error:
                _log.error(
                    "the next requests cannot be read from the journal, tried again in %d s: %s",
                    _FETCH_AGAIN_S,
                    error,
                    extra=log_fields("journal_trouble"),
                )
                with self._lock:
                    pager.give_up(page)
                self._timers.after(_FETCH_AGAIN_S, self._prefetch)
                return
            self._page_in(page, fetched, is_last)

    def _page_in(self, page: Page, fetched: list[Request], is_last: bool) -> None:
        for request in fetched:
            request.future = RequestFuture(request, self)
        with self._lock:
            taken = self._table.page_in(page, fetched, is_last=is_last)
            for request in taken:
                self._enqueue(request)
            self._note_if_quiet()
        self._pool.grow()
        for request in taken:
            self._set_expiry_timers(request)

    def _budget_freed(self, lane: Lane) -> None:
        with self._lock:
            head = lane.head() if lane.is_blocked else None
            if head is not None:
                self._wake_in_time(lane, head)
        if self._pool.missing:
            self._pool.grow()

    def _wake_for_timers(self) -> None:
        """Wake a worker to run due timers, since no timer thread could be started.

        A worker that waits already does not know of the latest timer.
        """
        with self._lock:
            self._pool.wake()

    def _wake_in_time(self, lane: Lane, head: Request) -> None:
        """Wake a worker when *head* may pass. Most leases end without changing when, and wake no worker.

        The lock is held.
        """
        meter, now_ns = lane.meter, self._clock.now_ns()
        blocked = None if meter.asks_whose_turn else meter.blocks(head.size, now_ns)  # that one has to be asked
        if blocked is None or blocked.is_daily:
            self._pool.wake()
        elif blocked.wait_ns is not None:
            self._pool.wake_by(now_ns + blocked.wait_ns)

    # -- what became of an attempt

    def _finish_attempt(self, job: Job, outcome: Outcome, now_ns: int) -> None:
        """Note the end of an attempt, and what it cost. The lock is held."""
        self._scheduler.pay(job, outcome.charged)
        self._table.land(job.request, job.lane, outcome, job.began_ns, now_ns)
        if self._landing_frees:
            self._pool.wake()

    def _requeue(self, job: Job, outcome: Outcome) -> None:
        """Let a request wait for its next attempt, in its old place or deferred; or end it."""
        request = job.request
        error: GroqQueueError | None = None
        has_ended, is_final = True, False
        with self._lock:
            now_ns = self._clock.now_ns()
            self._finish_attempt(job, outcome, now_ns)
            wait_ns = outcome.wait_ns
            if outcome.next is Disposition.RETRY:
                wait_ns = max(
                    wait_ns, job.lane.meter.retry_spacing_ns(self._table.counters.pending_by_lane[request.lane])
                )
            due_ns = now_ns + wait_ns
            if self._stop_error is not None:
                self._table.end(request, State.FAILED)
                error = failures.of(request, self._stop_error)
            elif self._cancelling:
                self._table.end(request, State.CANCELLED)
            elif request.deadline_ns is not None and due_ns >= request.submitted_ns + request.deadline_ns:
                self._table.end(request, State.EXPIRED)
                is_final = True
                error = timed_out(self._table, request, "deadline", request.deadline_ns, now_ns)
            else:
                has_ended = False
                self._table.wait_again(request)
                if outcome.next is not Disposition.RATE_LIMITED:
                    self._defer(request, due_ns)
                elif self._table.enqueue(request):
                    self._pool.wake()
        self._pool.grow()
        if has_ended:
            self._complete(request, error, is_final=is_final)

    def _abandon_job(self, job: Job, error: BaseException) -> None:
        """End the request of a job that *error* interrupted, wherever it stood then; ``_mend`` counts it later."""
        _log.error("a worker broke on %s", job.request, exc_info=error, extra=log_fields("attempt_broke", job.request))
        request, lease = job.request, job.lease
        with self._lock:
            if request.state is State.RUNNING:
                request.state = State.FAILED
            is_waiting = request.state is State.PENDING  # for its next attempt; the repair finds its place
        if not is_waiting and request.future is not None and not request.future.done():
            self._complete(request, failures.internal_error(error, request))
        if lease is not None and lease.is_open:
            job.lane.meter.settle(lease, request.size, None, None, job.began_ns)  # our clock may be what failed

    def _stop(self, error: GroqQueueError) -> None:
        """End everything that waits with *error*, and refuse what comes later with it."""
        with self._lock:
            if self._stop_error is None:
                self._stop_error = error.copy()
            self._not_full.notify_all()
            dropped = self._table.withdraw_all(State.FAILED)
        if dropped:
            _log.error(
                "every request would fail with this error, so the queue stopped; %d waiting requests failed with it: "
                "%s; %s",
                len(dropped),
                error_text(error),
                "check the API key" if isinstance(error, AuthenticationError) else "the Futures' exception() says more",
                extra=log_fields("queue_stopped", **error_fields(error)),
            )
        self._complete_all(dropped, error, is_final=False)

    # -- the end of a request: callbacks run and the file is written, so no lock is held

    def _complete(self, request: Request, error: BaseException | None = None, *, is_final: bool = True) -> None:
        """End the Future of a request whose state says ended, on any thread, and forget the request.

        Unless *is_final*, it stays pending in the journal: nothing is wrong with it, but the queue stops.
        """
        inside = self._pool.inside
        depth = inside.depth
        inside.depth = depth + 1
        try:
            self._end_future(request, None, error, is_final)
        finally:
            inside.depth = depth  # set, not called: a Ctrl-C can come at any call
            self._forget([request])

    def _complete_and_call_late(self, request: Request, error: GroqQueueError, *, is_final: bool = True) -> None:
        """As ``_complete``, but leave the callbacks to workers.

        On the timers' thread they may wait for retries, which need it; inside another's ``submit`` for what he holds.
        """
        try:
            self._end_future(request, None, error, is_final, calls_late=True)
        finally:
            self._pool.grow()
            self._forget([request])

    def _complete_on_worker(
        self, request: Request, result: Completion | None, error: BaseException | None, *, is_final: bool = True
    ) -> None:
        """As ``_complete``; a worker, which is inside anyway, forgets the request under the lock it takes next."""
        try:
            self._end_future(request, result, error, is_final)
        except BaseException:
            self._forget([request])
            raise
        if self._table.pager is None:
            self._delivered.append(request)
        else:
            self._forget([request])

    def _complete_all(
        self, requests: list[Request], error: GroqQueueError | None = None, *, is_final: bool = True
    ) -> BaseException | None:
        """End many Futures.

        Returns:
            What the first callback raised that must reach the caller (a Ctrl-C on the
            main thread), once all are ended; or None.
        """
        interrupt: BaseException | None = None
        delivered = []
        inside = self._pool.inside
        depth = inside.depth
        inside.depth = depth + 1
        try:
            for request in requests:
                delivered.append(request)
                own = None if error is None else failures.of(request, error)
                try:
                    self._end_future(request, None, own, is_final)
                except BaseException as raised:  # kept, so that it cannot leave this Future or the others open
                    interrupt = interrupt or raised
                    with suppress(BaseException):
                        self._end_future(request, None, own, is_final)
        finally:
            inside.depth = depth
            self._forget(delivered)
        return interrupt

    def _end_future(
        self,
        request: Request,
        result: Completion | None,
        error: BaseException | None,
        is_final: bool,
        *,
        calls_late: bool = False,
    ) -> None:
        future = request.future
        if future is None:
            return  # delivered before
        if request.timers:
            for call_off in request.timers:
                call_off()
            request.timers = ()
        try:
            if is_final and request.row_id is not None and self._keeper is not None:
                self._keeper.ended(request, result, error)
        finally:  # whatever keeping it has raised, such as no memory: the threads that wait for the Future must go on
            if error is not None:
                error.__traceback__ = None  # its frames hold the prompt and the answer
            callbacks = future.take_callbacks() if calls_late else []
            try:
                if request.state is _CANCELLED:
                    future.end_cancelled()
                else:
                    future.end(result, error)
            finally:
                if callbacks:
                    with self._lock:
                        self._late.add(future, callbacks)
            request.future = request.body = None  # prompts are large

    def _forget(self, delivered: list[Request]) -> None:
        with self._lock:
            self._forget_locked(delivered)
        self._prefetch()

    def _forget_locked(self, delivered: list[Request]) -> None:
        """Forget requests whose Futures have ended; another is left to the repair. The lock is held."""
        while delivered:
            request = delivered.pop()
            if request.future is None:
                self._table.forget(request)
        if not self._table.open and (self._joiners or self._closed):
            self._note_if_quiet()

    def _run_late_calls(self) -> None:
        """Call the callbacks that wait for a worker, until none does or another worker has taken over."""
        try:
            while True:
                with self._lock:
                    waiting = self._late.next_call()
                if waiting is None:
                    return
                future, callback = waiting
                future.call(callback)
                del waiting, future, callback  # an answer is not kept alive for the next
        finally:
            self._leave_late_calls()

    def _leave_late_calls(self) -> None:
        """End the part of the calling worker in them, wherever it was interrupted."""
        with self._lock:
            self._late.leave()
            self._note_if_quiet()

    @contextmanager
    def _late_call_blocking(self) -> Iterator[None]:
        """Let another worker call the next callback while this one's waits for a Future."""
        with self._lock:
            self._late.hand_over()
        self._pool.grow()
        yield

    # -- idle, and put right

    def _is_idle(self) -> bool:
        pager = self._table.pager
        is_called = not self._late.waiting and not self._late.callers
        return is_called and not self._table.open and (pager is None or pager.is_empty)

    def _note_if_quiet(self) -> None:
        """Wake the threads that wait for an empty queue if it is empty; if it is closed too, let the workers end.

        The lock is held.
        """
        if self._is_idle():
            self._quiet.notify_all()
            if self._closed:
                self._pool.dismiss()

    def _close_lanes(self) -> None:
        for lane in list(self._table.lanes.values()):
            lane.close(self._clock.now_ns())

    def _release_readers(self) -> None:
        """End the calls that wait for the reader of a stream: the thread that shuts down may be that reader."""
        with self._lock:
            calls = [request.call for request in self._table.open if request.call is not None]
        for call in calls:
            call.let_go()

    def _rebuild(self, ended_as: State) -> None:
        """Make every place and every count anew. The lock is held."""
        self._is_torn = True
        for request in self._table.rebuild(ended_as):
            if request.due_ns is not None:  # else its time has run out, and its missing timer is set to end it
                back = partial(self._enqueue_deferred, request)
                request.timers += (self._timers.at(request.due_ns, back),)  # once more: it may never have been set
        self._is_torn = False

    def _mend(self, ended_as: State = State.CANCELLED, *, is_final: bool = True) -> None:
        """Put right what was broken off, and end what was to be ended.

        Args:
            ended_as: How a request ended whose end was not counted.
            is_final: Whether those that were being cancelled are cancelled in the journal too.
        """
        self._is_mending = True
        with self._lock:
            self._rebuild(ended_as)
            cancelled = [request for request in self._table.open if request.state is State.CANCELLED]
            waiting = [request for request in self._table.open if request.state is State.PENDING]
            ended = [request.future for request in self._table.open if request.future and request.future.done()]
            self._not_full.notify_all()
            self._late.look()
            self._pool.wake()
        for future in ended:
            future.run_callbacks()
        self._complete_all(cancelled, is_final=is_final)
        for request in waiting:
            self._set_expiry_timers(request)
        with self._lock:
            self._note_if_quiet()
        self._is_mending = False
        self._pool.grow()


def close_all(parts: Iterable[Callable[[], object]]) -> None:
    """Close every part of a queue, though one of them fails; a Ctrl-C reaches the caller when all are closed."""
    interrupt: BaseException | None = None
    for close in parts:
        try:
            close()
        except BaseException as error:
            if isinstance(error, Exception) or threading.current_thread() is not threading.main_thread():
                _log.exception("a part of the queue could not be closed", extra=log_fields("close_failed"))
            else:
                interrupt = interrupt or error
    if interrupt is not None:
        raise interrupt
