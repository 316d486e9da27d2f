"""The embedded engine: lanes drained by a small pool of worker threads.

A request is taken in the same critical section in which its lease is granted.
Until then it stands in its lane, where a more urgent one can still pass it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Protocol

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.core.budget import Lease
from groq_queue.core.completion import Completion
from groq_queue.core.prices import Tariff
from groq_queue.core.pricing import Backlog
from groq_queue.core.request import Request, State
from groq_queue.engine import verdicts
from groq_queue.engine.choice import Chooser, Job
from groq_queue.engine.future import RequestFuture
from groq_queue.engine.history import RunFacts
from groq_queue.engine.lane import Lane, Meter
from groq_queue.engine.log import told, told_error
from groq_queue.engine.pool import WorkerPool
from groq_queue.engine.roster import Roster
from groq_queue.engine.runner import Next, Outcome
from groq_queue.engine.shelf import AlreadyFetched, Group, Page, Shelf
from groq_queue.engine.stats import Explanation, RequestInfo, Stats
from groq_queue.engine.timers import Timers
from groq_queue.engine.views import expected_start, explanation_of, info_of, reason_of, stats_of
from groq_queue.errors import (
    ConfigurationError,
    GroqQueueError,
    JournalError,
    QueueClosed,
    QueueTimeout,
)
from groq_queue.forking import renew_in_children

_log = logging.getLogger("groq_queue")

_FETCH_AGAIN_S = 1


class Attempts(Protocol):
    """Runs one attempt and ends its lease."""

    def attempt(self, request: Request, lease: Lease, meter: Meter) -> Outcome: ...


class Keeper(Protocol):
    """Keeps requests in a file; see ``keeping``. Called outside every lock, on any thread."""

    def fetch(self, page: Page) -> tuple[list[Request], bool]:
        """Return the requests of a page, and whether no row is behind them.

        Raises:
            JournalError: The file cannot be read.
        """
        ...

    def ended(self, request: Request, result: Completion | None, error: BaseException | None) -> None:
        """Store how a request ended, if it is final, before its Future is ended; raises nothing."""
        ...

    def moved(self, request: Request) -> None:
        """Store the new priority of a request; raises nothing."""
        ...

    def cancel_group(self, group: Group, after: int) -> int:
        """Cancel the rows of a group with ids above *after*, none of which is in memory; return how many.

        Raises:
            JournalError: The file cannot be written.
        """
        ...


class ThreadEngine:
    """Takes requests, sends each when its lease is granted, and ends its Future.

    ``_lock`` guards the roster with all its lanes and requests, the pool, and the
    flags. It is re-entrant, so that a signal handler may cancel or shut down while
    the interrupted thread holds it. Meters and timers are locked under it; nothing
    is sent, settled or called back under it. Whenever it is free, some worker is
    looking or was notified if some lane's head could pass.

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
        self._begin()
        self._closes: list[tuple[Callable[[], None], bool]] = []  # and whether a forked child calls it too
        self._is_closed = False
        self._is_sealed = False  # closed to callbacks too, which may submit while the queue drains
        self._is_cancelling = False  # shut down with cancel_futures: nothing waits any more
        self._stopped_by: GroqQueueError | None = None
        renew_in_children(self)

    def _begin(self) -> None:
        """Make locks, workers and places for requests."""
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)  # submitters wait here while the queue is full
        self._quiet = threading.Condition(self._lock)  # and here whoever waits for the queue to be empty
        self._pool: WorkerPool[Job] = WorkerPool(self, self._lock, self._clock, self._max_workers, self._name)
        self._roster = self._new_roster()
        self._chooser = self._new_chooser(self._roster)

    def renew(self) -> None:
        """Begin anew in a forked child; the requests, and what is to be closed with them, stay the parent's."""
        roster, spent = self._roster, self._chooser.purse
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
        if self._is_closed and (self._is_sealed or not self._pool.is_inside()):
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
        self._pool.ensure_one()
        future: RequestFuture[Completion] = RequestFuture(request, self)
        if callback is not None:
            future.add_done_callback(callback)
        with self._lock:
            known = self._known(request, future, callback, is_new=is_new)
            shed = None
            if known is None and not self._roster.has_room(request.client):
                shed = self._make_room(request)
                known = self._known(request, future, callback, is_new=is_new)  # it may have been fetched meanwhile
            self.check_open()
            if self._stopped_by is not None:
                return self._ended_at_once(request, future, self._stopped_by)
            if known is None:
                self._take_in(request, future, shed, is_kept=callback is not None)
        if shed is not None and known is None:
            with self._lock:
                full = self._roster.full(shed, "shed to make room for a more urgent one", self._clock.now_ns())
            self._deliver(shed, error=full)
        self._pool.grow()
        self._restock()
        if known is None:
            self._watch_bounds(request)
        elif known is not future and callback is not None:
            known.add_done_callback(callback)
        return known or future

    def future_of(self, row_id: int) -> RequestFuture[Completion] | None:
        """Return the Future of the request of that row, if it is open and somebody may hold it."""
        with self._lock:
            return self._open_future(row_id)

    def stock(self, counts: dict[Group, int]) -> None:
        """Take in the pending requests of a journal, fetching the first of each group."""
        self._pool.ensure_one()
        with self._lock:
            for group, count in counts.items():
                self._roster.stock(group, count)
        self._restock()

    def keep(self, future: RequestFuture[Completion], row_id: int) -> None:
        """Keep the Future of a request on the shelf alive, because it has a callback."""
        with self._lock:
            if self._roster.shelf is not None:
                self._roster.shelf.keep(future, row_id)

    def cancel(self, request: Request) -> bool:
        """Cancel a request that is not being attempted; see ``RequestFuture.cancel``."""
        with self._lock:
            if request.state is not State.PENDING:
                return request.state is State.CANCELLED
            self._withdraw(request, State.CANCELLED)
        self._deliver(request)
        self._pool.grow()
        return True

    def cancel_all(self, is_meant: Callable[[Request | Group], bool]) -> int:
        """Cancel every pending request that *is_meant*, a pure question about what a group has too; return how many.

        Raises:
            JournalError: Those that stand in the file only could not be cancelled.
        """
        with self._lock:
            meant = self._roster.withdraw_meant(is_meant, State.CANCELLED)
            cleared = self._roster.clear_shelf(is_meant)
            self._make_known_room()
            if any(lane.is_blocked for lane in self._roster.lanes.values()):
                self._pool.wake()
        interrupt = self._deliver_all(meant)
        count = len(meant)
        for group, after in cleared:
            assert self._keeper is not None
            count += self._keeper.cancel_group(group, after)
        with self._lock:
            self._note_if_quiet()
        self._pool.grow()
        if interrupt is not None:
            raise interrupt
        return count

    def set_priority(self, request: Request, priority: int) -> bool:
        """Move a pending request to the end of another level; False if it is no longer pending."""
        with self._lock:
            if request.state is not State.PENDING:
                return False
            if self._roster.change_priority(request, priority):
                self._pool.wake()
        self._pool.grow()
        self._restock()
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
        with self._lock:
            self._is_closed = True
            self._is_cancelling = self._is_cancelling or cancel_futures
            self._is_sealed = self._is_cancelling or self._is_sealed or self._pool.is_inside()
            self._room.notify_all()
            dropped = self._roster.withdraw_all(State.CANCELLED) if cancel_futures else []
        self._let_go()
        interrupt = self._deliver_all(dropped, is_final=False)
        self.resume(None)
        with self._lock:
            self._note_if_quiet()
            is_idle = self._pool.is_empty()
        if is_idle:
            self.all_left()
        if wait and not self._pool.is_inside():
            self.join()
            self._pool.join()
            self._timers.close(wait=True)
        if interrupt is not None:
            raise interrupt

    def leave(self, timeout_s: float) -> int:
        """Prepare for the end of the interpreter: give attempts under way at most *timeout_s*.

        Returns:
            How many requests were cancelled before their (next) attempt; a journal keeps them.
        """
        with self._lock:
            self._is_closed = self._is_cancelling = self._is_sealed = True
            count = self._roster.tally.pending
            unsent = self._roster.withdraw_all(State.CANCELLED)
            cancelled = self._roster.tally.ended[State.CANCELLED]
        self._let_go()
        self._deliver_all(unsent, is_final=False)
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
            is_running = not self._is_closed and self._stopped_by is None
            return stats_of(
                self._roster, self._clock.now_ns(), is_running=is_running, cost=self._chooser.purse.spent_usd
            )

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
        return self._pool.aside()

    def is_inside(self) -> bool:
        """Return whether the caller runs on a worker or inside a callback."""
        return self._pool.is_inside()

    # -- what the pool asks for

    def find_job(self) -> tuple[Job | None, int | None]:
        """Take the most urgent head whose lease is granted now."""
        job, next_ns = self._chooser.choose(self._clock.now_ns())
        if job is not None:
            self._make_known_room()
        return job, next_ns

    def has_more(self) -> bool:
        """Return whether anything is left to be sent."""
        return any(lane.head() is not None for lane in self._roster.lanes.values())

    def is_over(self) -> bool:
        """Return whether there will never be another job."""
        return self._is_closed and self._is_idle()

    def run(self, job: Job) -> None:
        """Run one attempt and do what its outcome says."""
        if job.lease is None:
            self._deliver(job.request, error=job.error)
        else:
            self._attempt(job, job.lease)

    def _attempt(self, job: Job, lease: Lease) -> None:
        request, lane = job.request, job.lane
        try:
            outcome = self._attempts.attempt(request, lease, lane.meter)
        except BaseException as error:
            # A bug or a MemoryError must end this request, not the worker.
            _log.exception("an attempt of %s broke", request, extra=told("attempt_broke", request))
            lane.meter.settle(lease, request.size, None, None, self._clock.now_ns())
            outcome = Outcome(Next.FAILED, error=verdicts.broken(error, request))
        request.last_error = outcome.error
        if outcome.next is Next.STOP and outcome.error is not None:
            self._stop(outcome.error)
        if outcome.next in (Next.AGAIN, Next.REFUSED):
            self._requeue(job, outcome)
            return
        with self._lock:
            self._land(job, outcome)
            self._roster.end(request, State.COMPLETED if outcome.next is Next.DONE else State.FAILED)
        self._pool.grow()
        self._deliver(request, outcome.result, outcome.error, is_final=outcome.next is not Next.STOP)

    def all_left(self) -> None:
        """Close what the engine was given."""
        for lane in list(self._roster.lanes.values()):
            lane.close(self._clock.now_ns())
        self._timers.close(wait=False)
        for close, _ in self._closes:
            close()

    # -- under the lock

    def _is_idle(self) -> bool:
        shelf = self._roster.shelf
        return not self._roster.open and (shelf is None or shelf.is_empty)

    def _open_future(self, row_id: int) -> RequestFuture[Completion] | None:
        future = self._roster.rows.get(row_id)
        if future is None and self._roster.shelf is not None:
            future = self._roster.shelf.future(row_id)
        return future

    def _known(
        self,
        request: Request,
        future: RequestFuture[Completion],
        callback: object,
        *,
        is_new: bool,
    ) -> RequestFuture[Completion] | None:
        """Return the Future of the request if its row is here already; on the shelf it may become *future*."""
        shelf = self._roster.shelf
        if shelf is None or request.row_id is None:
            return None
        known = self._open_future(request.row_id)
        if known is None and is_new and shelf.has_passed(request.row_id, request):
            raise AlreadyFetched
        if known is None and not is_new and shelf.holds(request):
            self._roster.shelve(request, future, is_kept=callback is not None, is_new=False)
            known = future
        return known

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
            self._check_in_time(request)
        if shed is not None:
            self._withdraw(shed, State.FAILED)
        shelf = self._roster.shelf
        if shelf is not None and request.row_id is not None and shelf.wants(request):
            self._roster.shelve(request, future, is_kept=is_kept, is_new=True)
            return
        request.future = future
        self._roster.accept(request)
        self._stand(request)

    def _stand(self, request: Request) -> None:
        """Put a request in memory into its lane, or let it stand away until it may be sent or its timer ends it."""
        request.rank = self._roster.rank(request, request.submitted_ns)
        if _is_past(request, self._clock.now_ns()):
            self._roster.away.add(request)
        elif request.not_before_ns:
            self._send_away(request, request.submitted_ns + request.not_before_ns)
        else:
            self._line_up(request)

    def _ended_at_once(
        self, request: Request, future: RequestFuture[Completion], error: GroqQueueError
    ) -> RequestFuture[Completion]:
        """Count a request that comes after the queue was stopped, and have its Future ended by a timer."""
        request.future = future
        request.submitted_ns = self._clock.now_ns()
        self._roster.accept(request)
        self._roster.tally.count_pending(request, -1)
        self._roster.end(request, State.FAILED)
        self._timers.after(0, lambda: self._deliver(request, error=error.copy(), is_final=False))
        return future

    def _make_room(self, request: Request) -> Request | None:
        """Wait until there is room, or raise; callbacks never wait, because they make the room.

        Returns:
            A less urgent request that is to be shed, or None.
        """
        bounds = _bounds_of(request)
        until_ns = self._clock.now_ns() + min(bounds) if bounds else None
        while not self._roster.has_room(request.client) and not self._is_closed and self._stopped_by is None:
            if self._when_full == "shed":
                rank = self._roster.rank(request, self._clock.now_ns())
                shed = self._roster.least_urgent(request.client, rank)
                if shed is None:
                    raise self._roster.full(request, "nothing less urgent could be shed", self._clock.now_ns())
                return shed
            if self._when_full == "raise":
                raise self._roster.full(request, "wait for some to end", self._clock.now_ns())
            if self._pool.is_inside():
                return None
            if until_ns is not None and self._clock.now_ns() >= until_ns:
                raise self._timed_out(request, "max_wait or deadline", min(bounds))
            self._clock.wait(self._room, until_ns)
        return None

    def _make_known_room(self) -> None:
        """Tell blocked submitters that one request waits less; they may be of clients with bounds of their own."""
        self._room.notify_all()

    def _check_in_time(self, request: Request) -> None:
        """Refuse a request that cannot be expected to start before its ``deadline``."""
        if request.deadline_ns is None:
            return
        count = self._roster.lane(request).ahead_of_newcomer(request)
        ahead = Backlog().plus(request.size, count)
        start_ns = expected_start(self._roster, request, ahead, request.submitted_ns, self._max_workers)
        start_ns = start_ns or 0  # nobody can tell: it is taken in
        late_ns = max(start_ns, request.not_before_ns or 0) - request.deadline_ns
        if late_ns > 0:
            raise verdicts.too_late(request, start_ns, late_ns, count)

    def _line_up(self, request: Request) -> None:
        """Put a request into its lane; behind an unchanged head nothing has changed for those who wait."""
        if self._roster.line_up(request):
            self._pool.wake()

    def _send_away(self, request: Request, due_ns: int) -> None:
        """Keep a pending request out of its lane until *due_ns*."""
        self._roster.away.add(request)
        request.due_ns = due_ns
        request.timers.append(self._timers.at(due_ns, lambda: self._come_back(request)))

    def _withdraw(self, request: Request, state: State) -> None:
        """End a pending request where it stands."""
        self._roster.withdraw(request, state)
        self._make_known_room()
        if self._roster.lane(request).is_blocked:
            self._pool.wake()  # somebody waits for a head that may have changed

    def _land(self, job: Job, outcome: Outcome) -> None:
        """Note the end of an attempt, and what it cost."""
        self._chooser.pay(job, outcome.charged)
        self._roster.tally.came_out(job.request, outcome, self._clock.now_ns())
        self._roster.land(job.lane, self._clock.now_ns() - job.began_ns)
        if job.lane.max_in_flight is not None or self._chooser.purse.is_capped:
            self._pool.wake()

    def _note_if_quiet(self) -> None:
        if self._is_idle():
            self._quiet.notify_all()
            if self._is_closed:
                self._pool.dismiss()

    def _timed_out(self, request: Request, bound: str, after_ns: int) -> QueueTimeout:
        return verdicts.timed_out(request, bound, after_ns, reason_of(self._roster.lane(request), self._clock.now_ns()))

    # -- outside the lock

    def _let_go(self) -> None:
        """Have calls that wait for the reader of a stream end: who shuts down may be that reader."""
        with self._lock:
            calls = [request.call for request in self._roster.open if request.call is not None]
        for call in calls:
            call.let_go()

    def _budget_freed(self, lane: Lane) -> None:
        if not lane.is_blocked:  # see ``Chooser._try``
            return
        with self._lock:
            if lane.is_blocked and lane.head() is not None:
                self._pool.wake()
        self._pool.grow()

    def _come_back(self, request: Request) -> None:
        """Put a request whose time has come into its lane."""
        with self._lock:
            if request not in self._roster.away:
                return
            self._roster.away.discard(request)
            if not request.was_taken:
                request.rank = self._roster.rank(request, self._clock.now_ns())
            self._line_up(request)
        self._pool.grow()

    def _requeue(self, job: Job, outcome: Outcome) -> None:
        """Let a request wait for its next attempt, in its old place or away; or end it."""
        request = job.request
        error: GroqQueueError | None = None
        has_ended, is_final = True, False
        with self._lock:
            self._land(job, outcome)
            wait_ns = outcome.wait_ns
            if outcome.next is Next.AGAIN:
                wait_ns = max(wait_ns, job.lane.meter.turn_ns(self._roster.tally.pending_by_lane[request.lane]))
            due_ns = self._clock.now_ns() + wait_ns
            if self._stopped_by is not None:
                self._roster.end(request, State.FAILED)
                error = self._stopped_by.copy()
            elif self._is_cancelling:
                self._roster.end(request, State.CANCELLED)
            elif request.deadline_ns is not None and due_ns >= request.submitted_ns + request.deadline_ns:
                self._roster.end(request, State.EXPIRED)
                error, is_final = self._timed_out(request, "deadline", request.deadline_ns), True
            else:
                has_ended = False
                self._roster.wait_again(request)
                if outcome.next is Next.REFUSED:
                    self._line_up(request)
                else:
                    self._send_away(request, due_ns)
        self._pool.grow()
        if has_ended:
            self._deliver(request, error=error, is_final=is_final)

    def _watch_bounds(self, request: Request) -> None:
        if not request.is_shelved:
            for bound, after_ns in (("max_wait", request.max_wait_ns), ("deadline", request.deadline_ns)):
                if after_ns is not None:
                    self._expire_after(request, bound, after_ns)

    def _restock(self) -> None:
        """Fetch what stands next on the shelf, wherever memory runs low."""
        shelf, keeper = self._roster.shelf, self._keeper
        while shelf is not None and keeper is not None and shelf.is_low:
            with self._lock:
                page = shelf.next_page()
            if page is None:
                return
            try:
                fetched, is_last = keeper.fetch(page)
            except JournalError as error:
                _log.error(
                    "the next requests cannot be fetched, tried again in %d s: %s",
                    _FETCH_AGAIN_S,
                    error,
                    extra=told("journal_trouble"),
                )
                with self._lock:
                    shelf.give_up(page)
                self._timers.after(_FETCH_AGAIN_S, self._restock)
                return
            self._unshelve(page, fetched, is_last)

    def _unshelve(self, page: Page, fetched: list[Request], is_last: bool) -> None:
        for request in fetched:
            request.future = RequestFuture(request, self)
        with self._lock:
            taken = self._roster.unshelve(page, fetched, is_last=is_last)
            for request in taken:
                self._stand(request)
            self._note_if_quiet()
        self._pool.grow()
        for request in taken:
            self._watch_bounds(request)

    def _expire_after(self, request: Request, bound: str, after_ns: int) -> None:
        call_off = self._timers.at(request.submitted_ns + after_ns, lambda: self._expire(request, bound, after_ns))
        with self._lock:
            if request.future is not None:
                request.timers.append(call_off)
                return
        call_off()  # it has ended meanwhile

    def _expire(self, request: Request, bound: str, after_ns: int) -> None:
        """End a request whose ``max_wait`` or ``deadline`` has come while it waits."""
        with self._lock:
            if request.state is not State.PENDING or (bound == "max_wait" and request.attempts):
                return
            self._withdraw(request, State.EXPIRED)
            error = self._timed_out(request, bound, after_ns)
        self._deliver(request, error=error)
        self._pool.grow()

    def _stop(self, error: GroqQueueError) -> None:
        """End everything that waits with *error*, and refuse what comes later with it."""
        with self._lock:
            if self._stopped_by is None:
                self._stopped_by = error.copy()
            self._room.notify_all()
            dropped = self._roster.withdraw_all(State.FAILED)
        if dropped:
            _log.error(
                "the queue stops, %d waiting requests fail: %s",
                len(dropped),
                error,
                extra=told("queue_stopped", **told_error(error)),
            )
        self._deliver_all(dropped, error, is_final=False)

    def _deliver_all(
        self, requests: list[Request], error: GroqQueueError | None = None, *, is_final: bool = True
    ) -> BaseException | None:
        """End many Futures.

        Returns:
            What the first callback raised that must reach the caller (a Ctrl-C on the
            main thread), once all are ended; or None.
        """
        interrupt: BaseException | None = None
        for request in requests:
            try:
                self._deliver(request, error=None if error is None else error.copy(), is_final=is_final)
            except BaseException as raised:  # kept, so that it cannot leave the other Futures open
                interrupt = interrupt or raised
        return interrupt

    def _deliver(
        self,
        request: Request,
        result: Completion | None = None,
        error: BaseException | None = None,
        *,
        is_final: bool = True,
    ) -> None:
        """End the Future of a request whose state says ended, and forget what it held.

        One whose end is not *final* stays pending in the journal: nothing is wrong with it, but the queue stops.
        """
        for call_off in request.timers:
            call_off()
        if is_final and request.row_id is not None and self._keeper is not None:
            self._keeper.ended(request, result, error)
        future, request.future = request.future, None
        request.timers, request.body = [], None
        if error is not None:
            error.__traceback__ = None  # its frames hold the prompt and the answer
        try:
            with self._pool.inside():
                if request.state is State.CANCELLED:
                    future.end_cancelled()
                else:
                    future.end(result, error)
        finally:
            with self._lock:
                self._roster.let_go(request)
                self._note_if_quiet()
            self._restock()


def _bounds_of(request: Request) -> list[int]:
    return [bound for bound in (request.deadline_ns, request.max_wait_ns) if bound is not None]


def _is_past(request: Request, now_ns: int) -> bool:
    """Return whether the time of a request has run out while no process had it."""
    age_ns = now_ns - request.submitted_ns
    if request.deadline_ns is not None and age_ns >= request.deadline_ns:
        return True
    return request.max_wait_ns is not None and age_ns >= request.max_wait_ns and not request.attempts
