"""The embedded engine: lanes drained by a small pool of worker threads.

A request is taken in the same critical section in which its lease is granted.
Until then it stands in its lane, where a more urgent one can still pass it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.core.completion import Completion
from groq_queue.core.prices import Tariff
from groq_queue.core.request import Request, State
from groq_queue.engine import verdicts
from groq_queue.engine.attempting import Attempting, Fate
from groq_queue.engine.bounds import check_in_time
from groq_queue.engine.choice import Chooser, Job
from groq_queue.engine.delivery import Delivery
from groq_queue.engine.future import RequestFuture
from groq_queue.engine.history import RunFacts
from groq_queue.engine.lane import Lane, Meter
from groq_queue.engine.late import LateCalls
from groq_queue.engine.leaving import tell_at_exit
from groq_queue.engine.log import told
from groq_queue.engine.nested import Nested
from groq_queue.engine.places import Places
from groq_queue.engine.pool import WorkerPool
from groq_queue.engine.protocol import Attempts, Keeper
from groq_queue.engine.room import Room
from groq_queue.engine.roster import Roster
from groq_queue.engine.shelf import AlreadyFetched, Group, Page, Shelf
from groq_queue.engine.stats import Explanation, RequestInfo, Stats
from groq_queue.engine.stocking import Stocking
from groq_queue.engine.timers import Timers
from groq_queue.engine.views import explanation_of, info_of, stats_of
from groq_queue.errors import (
    ConfigurationError,
    GroqQueueError,
    JournalError,
    QueueClosed,
    QueueTimeout,
)
from groq_queue.forking import renew_in_children
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_FAILURES = 10  # looks for a job in a row that end in an exception, 0.2 s apart, before the queue stops: 2 s


class ThreadEngine:
    """Takes requests, sends each when its lease is granted, and ends its Future.

    ``_lock`` guards the roster with all its lanes and requests, the pool, and the
    flags. It is re-entrant, so that a signal handler may cancel or shut down while
    the interrupted thread holds it. Meters and timers are locked under it; nothing
    is sent, settled or called back under it. Whenever it is free, some worker is
    looking or was notified if some lane's head could pass.

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
        tariff: Prices; None are the built-in ones.
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
        tariff: Tariff | None = None,
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
        self._new_roster: Callable[[], Roster] = lambda: Roster(
            meter_of=meter_of,
            on_freed=self._budget_freed,
            max_pending=max_pending,
            max_pending_per_client=max_pending_per_client,
            max_in_flight=max_in_flight,
            ageing_ns=ageing_ns,
            shelf=None if keeper is None else Shelf(),
        )
        self._new_chooser: Callable[[Roster], Chooser] = lambda roster: Chooser(
            roster,
            tariff or Tariff(),
            max_usd,
            raises_daily=raises_daily,
            tell_later=lambda tell: timers.after(0, tell),
        )
        self._is_torn = False
        self._is_mending = False  # from the beginning of ``_mend`` to its end, which another Ctrl-C may prevent
        self._failures = 0  # looks for a job in a row that ended in an exception
        timers.on_refused = self._look_at_timers
        self._closes: list[tuple[Callable[[], None], bool]] = []  # and whether a forked child calls it too
        self._fate = Fate()
        self._begin()
        renew_in_children(self)

    def _begin(self) -> None:
        """Make locks, workers and places for requests."""
        self._lock = threading.RLock()
        self._quiet = threading.Condition(self._lock)  # whoever waits for the queue to be empty waits here
        self._pool: WorkerPool[Job | LateCalls] = WorkerPool(
            self, self._lock, self._clock, self._max_workers, self._name
        )
        self._late = LateCalls(self._lock, self._pool, self._note_if_quiet)
        tell_at_exit(self._late)
        self._roster = self._new_roster()
        self._chooser = self._new_chooser(self._roster)
        self._room = Room(
            self._roster, self._lock, self._clock, self._when_full, self._fate.takes_more, self._pool.is_inside
        )
        self._places = Places(
            self._roster, self._lock, self._clock, self._timers, self._pool, self._room, self._end_expired
        )
        self.nested = Nested(
            self._roster, self._chooser, self._lock, self._clock, lambda tell: self._timers.after(0, tell)
        )
        self._stocking = Stocking(self._roster, self._lock, self._timers, self._keeper, self._unshelve)
        self._delivery = Delivery(
            self._roster, self._lock, self._pool, self._keeper, self._note_if_quiet, self._stocking.restock, self._late
        )
        self._attempting = Attempting(
            self._attempts,
            self._roster,
            self._chooser,
            self._places,
            self._delivery,
            self._room,
            self._pool,
            self._lock,
            self._clock,
            self._fate,
            landing_frees=self._landing_frees,
        )

    def renew(self) -> None:
        """Begin anew in a forked child; the requests, and what is to be closed with them, stay the parent's."""
        roster, spent = self._roster, self._chooser.purse
        self._late.leave_to_parent()
        self._begin()
        self._roster.keep_settings_of(roster)
        self._chooser.purse.inherit(spent)
        self._closes = [entry for entry in self._closes if entry[1]]
        for future in roster.open_futures():
            future._request.state = State.FAILED
            future.leave_to_parent(verdicts.submitted_elsewhere(future.custom_id, future.request_id))

    # -- what callers ask for

    def check_open(self) -> None:
        """Refuse if the queue was shut down; a callback may still submit while it drains, since it is waited for.

        Raises:
            QueueClosed: It was.
        """
        if self._fate.is_closed and (self._fate.is_sealed or not self._pool.is_inside()):
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
        """Have *callback* called when *future* has ended; if it has, a worker calls it soon.

        Raises:
            QueueClosed: It has ended, and the queue was shut down.
            GroqQueueError: It has ended, and the platform has no thread for a worker.
        """
        if future.call_at_end(callback):
            return
        self._pool.ensure_one()
        try:
            with self._lock:
                if self._fate.is_closed:
                    self.check_open()
                self._late.add(future, [callback])
            if self._pool.is_short:
                self._pool.grow()
        except GroqQueueError:
            raise
        except BaseException:
            self._mend()
            raise

    def reading(self) -> AbstractContextManager[None]:
        """Return a block inside which a stored request is read and submitted, with ``is_new=False``.

        If it begins and ends in between, ``submit`` raises ``AlreadyFetched`` instead of sending it again.
        """
        return self._stocking.reading()

    def future_of(self, row_id: int) -> RequestFuture[Completion] | None:
        """Return the Future of the request of that row, if it is open and somebody may hold it."""
        with self._lock:
            return self._stocking.open_future(row_id)

    def stock(self, counts: dict[Group, int]) -> None:
        """Take in the pending requests of a journal, fetching the first of each group."""
        self._pool.ensure_one()
        with self._lock:
            for group, count in counts.items():
                self._roster.stock(group, count)
        self._stocking.restock()

    def keep(self, future: RequestFuture[Completion], row_id: int) -> None:
        """Keep the Future of a request on the shelf alive, because it has a callback."""
        with self._lock:
            if self._roster.shelf is not None:
                self._roster.shelf.keep(future, row_id)

    def cancel(self, request: Request) -> bool:
        """Cancel a request that is not being attempted; see ``RequestFuture.cancel``."""
        try:
            with self._lock:
                if request.state is not State.PENDING:
                    return request.state is State.CANCELLED
                was_torn, self._is_torn = self._is_torn, True
                self._places.withdraw(request, State.CANCELLED)
                self._is_torn = was_torn
            self._delivery.end(request)
            if self._pool.is_short:
                self._pool.grow()
        except BaseException:
            self._mend()
            raise
        return True

    def cancel_all(self, is_meant: Callable[[Request | Group], bool]) -> int:
        """Cancel every pending request that *is_meant*, a pure question about what a group has too; return how many.

        Raises:
            JournalError: Those that stand in the file only could not be cancelled.
        """
        try:
            with self._lock:
                was_torn, self._is_torn = self._is_torn, True
                meant = self._roster.withdraw_meant(is_meant, State.CANCELLED)
                cleared = self._roster.clear_shelf(is_meant)
                self._is_torn = was_torn
                self._room.tell()
                if any(lane.is_blocked for lane in self._roster.lanes.values()):
                    self._pool.wake()
            interrupt = self._delivery.end_all(meant)
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
                if self._roster.change_priority(request, priority):
                    self._pool.wake()
                self._is_torn = was_torn
            self._pool.grow()
        except BaseException:
            self._mend()
            raise
        self._stocking.restock()
        if self._keeper is not None and request.row_id is not None:
            self._keeper.moved(request)
        return True

    def request_of(self, custom_id: str) -> Request | None:
        """Return the request of that custom_id that has not ended, or None."""
        with self._lock:
            return self._roster.find(custom_id)

    def set_weight(self, client: str, weight: float) -> None:
        """Give *client* that many times the turns of a client of weight 1."""
        with self._lock:
            self._roster.set_weight(client, weight)

    def pause(self, model: str | None) -> None:
        """Start no attempt of *model*, or of any, until ``resume``."""
        with self._lock:
            self._roster.pause(model)

    def resume(self, model: str | None) -> None:
        """Undo ``pause``."""
        with self._lock:
            self._roster.resume(model)
            self._pool.wake()
        self._pool.grow()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until every request has ended; False if *timeout_s* passed first.

        Inside a callback it does not wait, since it would wait for itself.
        """
        until_ns = None if timeout_s is None else self._clock.now_ns() + round(timeout_s * NS_PER_S)
        with self._lock:
            while not self._is_idle() and not self._pool.is_inside():
                if until_ns is not None and self._clock.now_ns() >= until_ns:
                    return False
                self._clock.wait(self._quiet, until_ns)
            return self._is_idle()

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
            self._fate.is_closed = True
            self._fate.is_cancelling = self._fate.is_cancelling or cancel_futures
            self._fate.is_sealed = self._fate.is_cancelling or self._fate.is_sealed or self._pool.is_inside()
            self._room.tell()
            was_torn, self._is_torn = self._is_torn, True
            dropped = self._roster.withdraw_all(State.CANCELLED) if cancel_futures else []
            self._is_torn = was_torn
        self._let_go()
        interrupt = self._delivery.end_all(dropped, is_final=False)
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
            self._fate.is_closed = self._fate.is_cancelling = self._fate.is_sealed = True
            count = self._roster.tally.pending
            unsent = self._roster.withdraw_all(State.CANCELLED)
            cancelled = self._roster.tally.ended[State.CANCELLED]
        self._let_go()
        self._delivery.end_all(unsent, is_final=False)
        self.join(timeout_s)
        with self._lock:  # and those under way that failed meanwhile: their retry is not to come
            return count + self._roster.tally.ended[State.CANCELLED] - cancelled

    @property
    def is_kept(self) -> bool:
        """Whether requests that are left unsent stay in a journal."""
        return self._keeper is not None

    def stats(self) -> Stats:
        """Return one consistent snapshot."""
        with self._lock:
            spent_usd = self._chooser.purse.spent_usd
            return stats_of(self._roster, self._clock.now_ns(), is_running=self._fate.takes_more(), cost=spent_usd)

    def facts(self) -> tuple[Stats, RunFacts]:
        """Return what a report is made of, as of one instant."""
        with self._lock:
            tally = self._roster.tally
            return self.stats(), tally.history.facts(self._clock.now_ns(), tally.mean_flight_ns())

    def steps(self) -> threading.RLock:
        """Return the lock of every step: in a forked child it is another."""
        return self._lock

    def info(self, request: Request) -> RequestInfo:
        """Return one request's state."""
        with self._lock:
            return info_of(self._roster, request, self._clock.now_ns())

    def explain(self, request: Request) -> Explanation:
        """Return why a request waits and when it is expected to start."""
        with self._lock:
            return explanation_of(self._roster, request, self._clock.now_ns(), self._max_workers)

    def aside(self) -> AbstractContextManager[None]:
        """Let another worker take the place of a calling one while it waits for a Future."""
        if self._late.is_mine():
            return self._late.aside()
        return self._pool.aside() if self._pool.is_worker() else nullcontext()

    @property
    def timers(self) -> Timers:
        """What calls back at instants, until the queue is closed."""
        return self._timers

    def is_inside(self) -> bool:
        """Return whether the caller runs on a worker or inside a callback."""
        return self._pool.is_inside()

    # -- what the pool asks for

    def find_job(self) -> tuple[Job | LateCalls | None, int | None]:
        """Take the most urgent head whose lease is granted now; callbacks that wait for a worker come first."""
        if self._is_torn:
            self._rebuild(State.CANCELLED)
        self._delivery.forget_delivered()
        if self._late.take():
            return self._late, None
        if self._failures >= _FAILURES:
            return None, None  # the queue has stopped
        job, next_ns = self._chooser.choose(self._clock.now_ns())
        self._failures = 0
        if job is None and self.nested.waits:
            job = self.nested.give_up()
        if job is not None:
            if self._room.seekers:
                self._room.tell()
            return job, None
        due_ns = self._timers.due_without_thread_ns()
        return None, next_ns if due_ns is None else due_ns if next_ns is None else min(due_ns, next_ns)

    def has_more(self) -> bool:
        """Return whether anything is left to be sent."""
        return self._late.waits or any(lane.head() is not None for lane in self._roster.lanes.values())

    def is_over(self) -> bool:
        """Return whether there will never be another job."""
        return self._fate.is_closed and self._is_idle()

    def prepare(self) -> None:
        """Do what is due if the system refuses the thread that would, and finish a mending that was interrupted."""
        if self._is_mending or self._is_torn:
            self._mend()
        self._timers.run_due()

    def run(self, job: Job | LateCalls) -> None:
        """Run one attempt and do what its outcome says, or call callbacks."""
        if isinstance(job, LateCalls):
            job.run()
        else:
            self._attempting.run(job)

    def broke(self, job: Job | LateCalls | None, error: BaseException) -> bool:
        """End the request of a worker that *error* interrupted; stop the queue if it cannot even look for a job."""
        if isinstance(job, LateCalls):
            job.give_up()
            return True
        if job is not None:
            self._attempting.give_up(job, error)
            self._mend(State.FAILED)
            return True
        self._failures += 1
        self._mend()
        if self._failures >= _FAILURES:
            self._attempting.stop(verdicts.stopped(error))
        return self._failures == 1

    def all_left(self) -> None:
        """Close what the engine was given: all of it, though one part, or the user's clock, may fail."""
        interrupt: BaseException | None = None
        parts: list[Callable[[], object]] = [self._close_lanes, partial(self._timers.close, wait=False)]
        for close in parts + [close for close, _ in self._closes]:
            try:
                close()
            except BaseException as error:
                if isinstance(error, Exception) or threading.current_thread() is not threading.main_thread():
                    _log.exception("a part of the queue could not be closed", extra=told("close_failed"))
                else:
                    interrupt = interrupt or error  # a Ctrl-C, which reaches the caller when all is closed
        if interrupt is not None:
            raise interrupt

    # -- callers' verbs

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
                known = self._stocking.known(request, future, is_kept=callback is not None, is_new=is_new)
            if known is None and not self._roster.has_room(request.client):
                shed = self._room.make_for(request)  # it may be fetched meanwhile
                known = self._stocking.known(request, future, is_kept=callback is not None, is_new=is_new)
            if self._fate.is_closed:
                self.check_open()
            if self._fate.stopped_by is not None:
                return self._ended_at_once(request, future, self._fate.stopped_by)
            if known is None:
                self._take_in(request, future, shed, is_kept=callback is not None)
        if shed is not None and known is None:
            with self._lock:
                full = self._roster.full(shed, "shed to make room for a more urgent one", self._clock.now_ns())
            self._delivery.end_and_call_late(shed, full)
        if self._pool.is_short:
            self._pool.grow()
        if request.row_id is not None:
            self._stocking.restock()
        if known is None:
            self._places.watch_bounds(request)
        elif known is not future and callback is not None:
            self.call_back(known, callback)
        return known or future

    # -- under the lock

    def _is_idle(self) -> bool:
        shelf = self._roster.shelf
        return not self._roster.open and (shelf is None or shelf.is_empty) and self._late.is_empty

    def _take_in(
        self, request: Request, future: RequestFuture[Completion], shed: Request | None, *, is_kept: bool
    ) -> None:
        """Let a request stand where it belongs, in place of one to be shed."""
        if request.custom_id is not None and self._roster.find(request.custom_id) is not None:
            raise ConfigurationError(
                f"custom_id={request.custom_id!r}: a request with this id has not ended yet; give each its own"
            )
        if not request.submitted_ns:
            request.submitted_ns = self._clock.now_ns()
            check_in_time(self._roster, request, self._max_workers)
        if shed is not None:
            self._places.withdraw(shed, State.FAILED)
        shelf = self._roster.shelf
        if shelf is not None and request.row_id is not None and shelf.wants(request):
            self._roster.shelve(request, future, is_kept=is_kept, is_new=True)
            return
        request.future = future
        was_torn, self._is_torn = self._is_torn, True
        self._roster.accept(request)
        self._places.stand(request)
        self._is_torn = was_torn

    def _ended_at_once(
        self, request: Request, future: RequestFuture[Completion], error: GroqQueueError
    ) -> RequestFuture[Completion]:
        """Count a request that comes after the queue was stopped, and have its Future ended by a timer."""
        request.future = future
        request.submitted_ns = self._clock.now_ns()
        self._roster.accept(request)
        self._roster.tally.count_pending(request, -1)
        self._roster.end(request, State.FAILED)
        self._timers.after(
            0, lambda: self._delivery.end_and_call_late(request, verdicts.of(request, error), is_final=False)
        )
        return future

    def _look_in_time(self, lane: Lane, head: Request) -> None:
        """Have a worker look when *head* may pass. Most leases end without changing when, and wake nobody."""
        meter, now_ns = lane.meter, self._clock.now_ns()
        blocked = None if meter.asks_whose_turn else meter.blocks(head.size, now_ns)  # that one has to be asked
        if blocked is None or blocked.is_daily:
            self._pool.wake()
        elif blocked.wait_ns is not None:
            self._pool.wake_by(now_ns + blocked.wait_ns)

    def _note_if_quiet(self) -> None:
        if self._is_idle():
            self._quiet.notify_all()
            if self._fate.is_closed:
                self._pool.dismiss()

    def _close_lanes(self) -> None:
        for lane in list(self._roster.lanes.values()):
            lane.close(self._clock.now_ns())

    def _rebuild(self, ended_as: State) -> None:
        """Make every place and every count anew."""
        self._is_torn = True
        for request in self._roster.rebuild(ended_as):
            self._places.expect_back(request)
        self._is_torn = False

    # -- outside the lock

    def _mend(self, ended_as: State = State.CANCELLED, *, is_final: bool = True) -> None:
        """Put right what was broken off, and end what was to be ended.

        Args:
            ended_as: How a request ended whose end was not counted.
            is_final: Whether those that were being cancelled are cancelled in the journal too.
        """
        self._is_mending = True
        with self._lock:
            self._rebuild(ended_as)
            cancelled = [request for request in self._roster.open if request.state is State.CANCELLED]
            waiting = [request for request in self._roster.open if request.state is State.PENDING]
            ended = [request.future for request in self._roster.open if request.future and request.future.done()]
            self._room.tell()
            self._late.look()
            self._pool.wake()
        for future in ended:
            future.run_callbacks()
        self._delivery.end_all(cancelled, is_final=is_final)
        for request in waiting:
            self._places.watch_bounds(request)
        with self._lock:
            self._note_if_quiet()
        self._is_mending = False
        self._pool.grow()

    def _let_go(self) -> None:
        """Have calls that wait for the reader of a stream end: who shuts down may be that reader."""
        with self._lock:
            calls = [request.call for request in self._roster.open if request.call is not None]
        for call in calls:
            call.let_go()

    def _budget_freed(self, lane: Lane) -> None:
        with self._lock:
            head = lane.head() if lane.is_blocked else None
            if head is not None:
                self._look_in_time(lane, head)
        if self._pool.is_short:
            self._pool.grow()

    def _look_at_timers(self) -> None:
        """Have a worker look, whose wait does not know of the latest timer and who stands in for the timer thread."""
        with self._lock:
            self._pool.wake()

    def _unshelve(self, page: Page, fetched: list[Request], is_last: bool) -> None:
        for request in fetched:
            request.future = RequestFuture(request, self)
        with self._lock:
            taken = self._roster.unshelve(page, fetched, is_last=is_last)
            for request in taken:
                self._places.stand(request)
            self._note_if_quiet()
        self._pool.grow()
        for request in taken:
            self._places.watch_bounds(request)

    def _end_expired(self, request: Request, error: QueueTimeout) -> None:
        self._delivery.end_and_call_late(request, error)
