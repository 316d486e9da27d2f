"""The embedded engine: lanes drained by a small pool of worker threads.

A request is taken in the same critical section in which its lease is granted.
Until then it stands in its lane, where a more urgent one can still pass it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Protocol

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.core.budget import DIMENSIONS, Lease, TooLarge
from groq_queue.core.completion import Completion
from groq_queue.core.pricing import Size
from groq_queue.core.rank import rank_of
from groq_queue.core.request import Request, State
from groq_queue.engine.future import RequestFuture
from groq_queue.engine.lane import Lane, Meter
from groq_queue.engine.pool import WorkerPool
from groq_queue.engine.runner import Next, Outcome
from groq_queue.engine.stats import Explanation, LaneStats, RequestInfo, Stats
from groq_queue.engine.tally import Tally
from groq_queue.engine.timers import Timers
from groq_queue.errors import (
    APIError,
    ConfigurationError,
    GroqQueueError,
    QueueClosed,
    QueueFull,
    QueueTimeout,
    RequestTooLarge,
)

_log = logging.getLogger("groq_queue")


class Attempts(Protocol):
    """Runs one attempt and ends its lease."""

    def attempt(self, request: Request, lease: Lease, meter: Meter) -> Outcome: ...


class _Job:
    """What a worker has in hand: a request with its lease, or (*excess*) one that turned out never to fit."""

    __slots__ = ("began_ns", "excess", "lane", "lease", "request")

    def __init__(
        self, request: Request, lane: Lane, began_ns: int, *, lease: Lease | None = None, excess: TooLarge | None = None
    ) -> None:
        self.request = request
        self.lane = lane
        self.began_ns = began_ns
        self.lease = lease
        self.excess = excess


class ThreadEngine:
    """Takes requests, sends each when its lease is granted, and ends its Future.

    ``_lock`` guards every attribute below, the pool, all lanes and all requests. It
    is re-entrant, so that a signal handler may cancel or shut down while the
    interrupted thread holds it. Meters and timers are locked under it; nothing is
    sent, settled or called back under it. True whenever it is free:

    * a pending request stands in exactly one place, its lane or ``_away``;
    * if some lane's head could pass, a worker is looking or was notified;
    * ``_open`` holds the requests whose Future has not been ended.

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
        name: str = "groq_queue",
    ) -> None:
        self._attempts = attempts
        self._meter_of = meter_of
        self._clock = clock
        self._timers = timers
        self._max_workers = max_workers
        self._max_pending = max_pending
        self._max_pending_per_client = max_pending_per_client
        self._when_full = when_full
        self._max_in_flight = max_in_flight
        self._ageing_ns = ageing_ns
        self._closes: list[Callable[[], None]] = []

        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)  # submitters wait here while the queue is full
        self._quiet = threading.Condition(self._lock)  # and here whoever waits for the queue to be empty
        self._pool: WorkerPool[_Job] = WorkerPool(self, self._lock, clock, max_workers, name)
        self._lanes: dict[str, Lane] = {}
        self._weights: dict[str, float] = {}
        self._open: set[Request] = set()
        self._away: set[Request] = set()  # pending, but for now in no lane: a timer brings them
        self._by_custom_id: dict[str, Request] = {}
        self._tally = Tally()
        self._is_paused = False
        self._is_closed = False
        self._is_cancelling = False  # shut down with cancel_futures: nothing waits any more
        self._stopped_by: GroqQueueError | None = None

    # -- what callers ask for

    def at_close(self, close: Callable[[], None]) -> None:
        """Call *close*, possibly more than once, when the last request has ended after ``shutdown``."""
        self._closes.append(close)

    def submit(
        self, request: Request, *, callback: Callable[[Future[Completion]], object] | None = None
    ) -> RequestFuture[Completion]:
        """Take a request in; blocks while the queue is full, if so configured.

        Raises:
            QueueClosed: The queue was shut down.
            QueueFull: There is no room, and the queue does not block.
            QueueTimeout: It is expected to start too late for its ``deadline`` or ``max_wait``.
            ConfigurationError: A request with this custom_id has not ended yet.
            GroqQueueError: The error that stopped the whole queue, such as a rejected key.
        """
        self._pool.ensure_one()
        future: RequestFuture[Completion] = RequestFuture(request, self)
        if callback is not None:
            future.add_done_callback(callback)
        with self._lock:
            shed = self._make_room(request)
            self._check_open()
            if request.custom_id in self._by_custom_id:
                raise ConfigurationError(
                    f"custom_id={request.custom_id!r}: a request with this id has not ended yet; give each its own"
                )
            request.submitted_ns = self._clock.now_ns()
            self._check_in_time(request)
            request.future = future
            self._accept(request)
        if shed is not None:
            self._deliver(shed, error=self._full(shed, "shed to make room for a more urgent request"))
        self._pool.grow()
        for bound, after_ns in (("max_wait", request.max_wait_ns), ("deadline", request.deadline_ns)):
            if after_ns is not None:
                self._expire_after(request, bound, after_ns)
        return future

    def cancel(self, request: Request) -> bool:
        """Cancel a request that is not being attempted; see ``RequestFuture.cancel``."""
        with self._lock:
            if request.state is not State.PENDING:
                return request.state is State.CANCELLED
            self._withdraw(request, State.CANCELLED)
        self._deliver(request)
        self._pool.grow()
        return True

    def cancel_all(self, is_meant: Callable[[Request], bool]) -> int:
        """Cancel every pending request that *is_meant*, a pure question about it; return how many."""
        with self._lock:
            meant = [request for request in self._open if request.state is State.PENDING and is_meant(request)]
            for request in meant:
                self._withdraw(request, State.CANCELLED)
        for request in meant:
            self._deliver(request)
        self._pool.grow()
        return len(meant)

    def set_priority(self, request: Request, priority: int) -> bool:
        """Move a pending request to the end of another level; False if it is no longer pending."""
        with self._lock:
            if request.state is not State.PENDING:
                return False
            stands_in_line = request.arrival != 0
            self._tally.count_pending(request, -1)
            if stands_in_line:
                self._lanes[request.lane].discard(request)
            request.priority = priority
            request.rank = rank_of(priority, request.submitted_ns, self._ageing_ns)
            request.was_taken, request.seq = False, None
            self._tally.count_pending(request, 1)
            if stands_in_line:
                self._line_up(request)
        self._pool.grow()
        return True

    def request_of(self, custom_id: str) -> Request | None:
        """Return the request of that custom_id that has not ended, or None."""
        with self._lock:
            return self._by_custom_id.get(custom_id)

    def set_weight(self, client: str, weight: float) -> None:
        """Give *client* that many times the turns of a client of weight 1."""
        with self._lock:
            self._weights[client] = weight
            for lane in self._lanes.values():
                lane.set_weight(client, weight)

    def pause(self, model: str | None) -> None:
        """Start no attempt of *model*, or of any, until ``resume``."""
        with self._lock:
            if model is None:
                self._is_paused = True
            for lane in self._lanes_of(model):
                lane.is_paused = True

    def resume(self, model: str | None) -> None:
        """Undo ``pause``."""
        with self._lock:
            if model is None:
                self._is_paused = False
            for lane in self._lanes_of(model):
                lane.is_paused = False
            self._pool.wake()
        self._pool.grow()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until every request has ended; False if *timeout_s* passed first.

        Inside a callback it does not wait, since it would wait for itself.
        """
        until_ns = None if timeout_s is None else self._clock.now_ns() + round(timeout_s * NS_PER_S)
        with self._lock:
            while self._open and not self._pool.is_inside():
                if until_ns is not None and self._clock.now_ns() >= until_ns:
                    return False
                self._clock.wait(self._quiet, until_ns)
            return not self._open

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        """Refuse new requests; drain the others, paused ones too, or cancel those not being attempted."""
        with self._lock:
            self._is_closed = True
            self._is_cancelling = self._is_cancelling or cancel_futures
            self._room.notify_all()
            dropped = self._withdraw_all(State.CANCELLED) if cancel_futures else []
        self.resume(None)
        for request in dropped:
            self._deliver(request)
        with self._lock:
            self._note_if_quiet()
            is_idle = self._pool.is_empty()
        if is_idle:
            self.all_left()
        if wait and not self._pool.is_inside():
            self.join()
            self._pool.join()
            self._timers.close(wait=True)

    def leave(self, timeout_s: float) -> int:
        """Prepare for the end of the interpreter: give attempts under way at most *timeout_s*.

        Returns:
            How many requests were cancelled unsent.
        """
        with self._lock:
            self._is_closed = self._is_cancelling = True
            unsent = self._withdraw_all(State.CANCELLED)
            until_ns = self._clock.now_ns() + round(timeout_s * NS_PER_S)
            while self._tally.in_flight and self._clock.now_ns() < until_ns:
                self._clock.wait(self._quiet, until_ns)
        for request in unsent:
            self._deliver(request)
        return len(unsent)

    def stats(self) -> Stats:
        """Return one consistent snapshot."""
        with self._lock:
            tally, now_ns = self._tally, self._clock.now_ns()
            lanes = (
                LaneStats(
                    name=lane.name,
                    model=lane.model,
                    pending=tally.pending_by_lane[lane.name],
                    in_flight=lane.in_flight,
                    paused=lane.is_paused,
                    waits_for=self._reason(lane) if lane.head() is not None else None,
                    limits=tuple(lane.meter.levels(now_ns)),
                )
                for lane in self._lanes.values()
            )
            return Stats(
                pending=tally.pending,
                in_flight=tally.in_flight,
                submitted=tally.submitted,
                completed=tally.ended[State.COMPLETED],
                failed=tally.ended[State.FAILED],
                cancelled=tally.ended[State.CANCELLED],
                expired=tally.ended[State.EXPIRED],
                attempts=tally.attempts,
                refused=tally.refused,
                retried=tally.retried,
                pending_by_priority=dict(sorted(tally.pending_by_priority.items())),
                pending_by_client=dict(tally.pending_by_client),
                wait_percentiles=tally.wait_percentiles(),
                lanes=tuple(lanes),
                running=not self._is_closed and self._stopped_by is None,
            )

    def info(self, request: Request) -> RequestInfo:
        """Return one request's state."""
        with self._lock:
            until_ns = request.started_ns or self._clock.now_ns()
            return RequestInfo(
                request_id=request.id,
                custom_id=request.custom_id,
                client=request.client,
                model=request.model,
                priority=request.priority,
                state=request.state.value,
                attempts=request.attempts,
                waited=(until_ns - request.submitted_ns) / NS_PER_S,
                tokens=self._lane(request).meter.price(request.size).tokens,
                last_error=request.last_error,
            )

    def explain(self, request: Request) -> Explanation:
        """Return why a request waits and when it is expected to start."""
        with self._lock:
            now_ns = self._clock.now_ns()
            lane = self._lane(request)
            if request.state is not State.PENDING:
                return Explanation(request.id, request.custom_id, request.state.value, None, None, None)
            if request in self._away:
                due_ns = max(0, (request.due_ns or now_ns) - now_ns)
                reason = "its retry" if request.attempts else "its not_before"
                return Explanation(request.id, request.custom_id, "pending", None, reason, due_ns / NS_PER_S)
            ahead = []
            for other in lane.in_order():
                if other is request:
                    break
                ahead.append(other.size)
            start_ns = self._expected_start(lane, request, ahead, len(ahead), now_ns)
            reason = self._reason(lane)
        start_s = None if lane.is_paused else start_ns / NS_PER_S
        return Explanation(request.id, request.custom_id, "pending", len(ahead) + 1, reason, start_s)

    def aside(self) -> AbstractContextManager[None]:
        """Let another worker take the place of a calling one while it waits for a Future."""
        return self._pool.aside()

    def is_inside(self) -> bool:
        """Return whether the caller runs on a worker or inside a callback."""
        return self._pool.is_inside()

    # -- what the pool asks for

    def find_job(self) -> tuple[_Job | None, int | None]:
        """Take the most urgent head whose lease is granted now."""
        now_ns = self._clock.now_ns()
        next_ns: int | None = None
        for lane in self._by_urgency():
            head = lane.head()
            assert head is not None
            granted = lane.meter.lease(head.size, now_ns)
            if isinstance(granted, Lease):
                lane.blocked = None
                return self._begin(lane, granted, now_ns), None
            if isinstance(granted, TooLarge):
                self._withdraw(head, State.FAILED)
                return _Job(head, lane, now_ns, excess=granted), None
            lane.blocked = granted
            if granted.wait_ns is not None:
                when_ns = now_ns + granted.wait_ns
                next_ns = when_ns if next_ns is None else min(next_ns, when_ns)
        return None, next_ns

    def has_more(self) -> bool:
        """Return whether anything is left to be sent."""
        return any(lane.head() is not None for lane in self._lanes.values())

    def is_over(self) -> bool:
        """Return whether there will never be another job."""
        return self._is_closed and not self._open

    def run(self, job: _Job) -> None:
        """Run one attempt and do what its outcome says."""
        request, lane = job.request, job.lane
        if job.excess is not None:
            self._deliver(request, error=too_large_error(request, job.excess))
            return
        assert job.lease is not None
        try:
            outcome = self._attempts.attempt(request, job.lease, lane.meter)
        except BaseException as error:
            # A bug or a MemoryError must end this request, not the worker.
            _log.exception("an attempt of %s broke", request)
            lane.meter.settle(job.lease, request.size, None, None, self._clock.now_ns())
            outcome = Outcome(Next.FAILED, error=_as_api_error(error, request))
        request.last_error = outcome.error
        if outcome.next is Next.STOP and outcome.error is not None:
            self._stop(outcome.error)
        if outcome.next in (Next.AGAIN, Next.REFUSED):
            self._requeue(job, outcome)
            return
        with self._lock:
            self._land(job)
            self._mark_ended(request, State.COMPLETED if outcome.next is Next.DONE else State.FAILED)
        self._deliver(request, outcome.result, outcome.error)

    def all_left(self) -> None:
        """Close what the engine was given."""
        for lane in list(self._lanes.values()):
            lane.close()
        self._timers.close(wait=False)
        for close in self._closes:
            close()

    # -- under the lock

    def _check_open(self) -> None:
        if self._is_closed:
            raise QueueClosed("submit() after shutdown: make a new GroqQueue")
        if self._stopped_by is not None:
            raise self._stopped_by.copy()

    def _make_room(self, request: Request) -> Request | None:
        """Wait until there is room, or raise, or shed; callbacks never wait, because they make the room.

        Returns:
            The request that was shed; its Future is still to be ended.
        """
        while not self._has_room(request) and not self._is_closed and self._stopped_by is None:
            if self._when_full == "shed":
                return self._shed_for(request)
            if self._when_full == "raise":
                raise self._full(request, "wait for some to end")
            if self._pool.is_inside():
                return None
            self._clock.wait(self._room, None)
        return None

    def _has_room(self, request: Request) -> bool:
        tally = self._tally
        if self._max_pending is not None and tally.pending >= self._max_pending:
            return False
        most = self._max_pending_per_client
        return most is None or tally.pending_by_client[request.client] < most

    def _shed_for(self, request: Request) -> Request:
        """Withdraw the pending request that is missed least, if *request* is more urgent.

        Raises:
            QueueFull: It is not.
        """
        rank = rank_of(request.priority, self._clock.now_ns(), self._ageing_ns)
        is_clients_own = self._max_pending is None or self._tally.pending < self._max_pending
        client = request.client if is_clients_own else None
        found = [lane.least_urgent(client) for lane in self._lanes.values()]
        victim = max((each for each in found if each is not None), key=lambda each: each.rank, default=None)
        if victim is None or victim.rank <= rank:
            raise self._full(request, "and nothing less urgent could be shed")
        self._withdraw(victim, State.FAILED)
        return victim

    def _full(self, request: Request, what: str) -> QueueFull:
        limit, client = self._max_pending, None
        if limit is None or (self._tally.pending < limit and self._max_pending_per_client is not None):
            limit, client = self._max_pending_per_client, request.client
        whose = f"client {client!r} has max_pending_per_client" if client is not None else "there are max_pending"
        interval_ns = self._tally.start_interval_ns()
        return QueueFull(
            f"{whose}={limit:,} requests waiting: {what}",
            limit=limit or 0,
            client=client,
            retry_after=None if interval_ns is None else interval_ns / NS_PER_S,
            request_id=request.id,
            custom_id=request.custom_id,
        )

    def _check_in_time(self, request: Request) -> None:
        """Refuse a request that cannot be expected to start before its ``deadline`` or ``max_wait``."""
        bounds = [bound for bound in (request.deadline_ns, request.max_wait_ns) if bound is not None]
        if not bounds:
            return
        now_ns = request.submitted_ns
        lane = self._lane(request)
        request.rank = rank_of(request.priority, now_ns, self._ageing_ns)
        count = lane.ahead_of_newcomer(request)
        start_ns = self._expected_start(lane, request, [request.size] * count, count, now_ns)
        start_ns = max(start_ns, request.not_before_ns or 0)
        if start_ns > min(bounds):
            raise QueueTimeout(
                f"{request} would start in about {start_ns / NS_PER_S:.3g} s, too late for its bound of "
                f"{min(bounds) / NS_PER_S:g} s ({count:,} requests ahead): raise its priority or its bound",
                retry_after=(start_ns - min(bounds)) / NS_PER_S,
                request_id=request.id,
                custom_id=request.custom_id,
            )

    def _accept(self, request: Request) -> None:
        self._open.add(request)
        if request.custom_id is not None:
            self._by_custom_id[request.custom_id] = request
        self._tally.submitted += 1
        self._tally.count_pending(request, 1)
        if request.not_before_ns:
            self._send_away(request, request.submitted_ns + request.not_before_ns)
        else:
            request.rank = rank_of(request.priority, request.submitted_ns, self._ageing_ns)
            self._line_up(request)

    def _line_up(self, request: Request) -> None:
        """Put a request into its lane; behind an unchanged head nothing has changed for those who wait."""
        lane = self._lane(request)
        before = lane.head()
        if request.was_taken:
            lane.put_back(request)
        else:
            lane.add(request)
        if lane.head() is not before:
            self._pool.wake()

    def _send_away(self, request: Request, due_ns: int) -> None:
        """Keep a pending request out of its lane until *due_ns*."""
        self._away.add(request)
        request.due_ns = due_ns
        request.timers.append(self._timers.at(due_ns, lambda: self._come_back(request)))

    def _come_back(self, request: Request) -> None:
        with self._lock:
            if request not in self._away:
                return
            self._away.discard(request)
            if not request.was_taken:
                request.rank = rank_of(request.priority, self._clock.now_ns(), self._ageing_ns)
            self._line_up(request)
        self._pool.grow()

    def _lane(self, request: Request) -> Lane:
        lane = self._lanes.get(request.lane)
        if lane is None:
            meter = self._meter_of(request.lane, request.model)
            lane = self._lanes[request.lane] = Lane(request.lane, request.model, meter, self._budget_freed)
            lane.is_paused = self._is_paused
            lane.max_in_flight = self._max_in_flight
            for client, weight in self._weights.items():
                lane.set_weight(client, weight)
        return lane

    def _lanes_of(self, model: str | None) -> list[Lane]:
        return [lane for lane in self._lanes.values() if model is None or lane.model == model]

    def _by_urgency(self) -> list[Lane]:
        """Return the lanes that may send, most urgent head first; at equal rank the least busy lane."""
        ready = [
            (head.rank, lane.in_flight, lane)
            for lane in self._lanes.values()
            if not lane.is_paused
            and (lane.max_in_flight is None or lane.in_flight < lane.max_in_flight)
            and (head := lane.head()) is not None
        ]
        if len(ready) > 1:
            ready.sort(key=lambda entry: entry[:2])
        return [lane for _, _, lane in ready]

    def _begin(self, lane: Lane, lease: Lease, now_ns: int) -> _Job:
        request = lane.take()
        request.state = State.RUNNING
        if request.started_ns is None:
            request.started_ns = now_ns
        self._count_pending(request, -1)
        lane.in_flight += 1
        self._tally.started(request, now_ns)
        return _Job(request, lane, now_ns, lease=lease)

    def _land(self, job: _Job) -> None:
        """Note the end of an attempt."""
        lane = job.lane
        if lane.max_in_flight is not None:
            self._pool.wake()
        lane.in_flight -= 1
        self._tally.landed(self._clock.now_ns() - job.began_ns)
        if self._is_cancelling and not self._tally.in_flight:
            self._quiet.notify_all()

    def _count_pending(self, request: Request, change: int) -> None:
        self._tally.count_pending(request, change)
        if change < 0:
            # One more may come in; with bounds per client only some of those who wait may be meant.
            self._room.notify(1 if self._max_pending_per_client is None else 1_000_000)

    def _withdraw(self, request: Request, state: State) -> None:
        """End a pending request where it stands."""
        self._count_pending(request, -1)
        if request in self._away:
            self._away.discard(request)
        else:
            lane = self._lanes[request.lane]
            lane.discard(request)
            if lane.blocked is not None:
                self._pool.wake()  # somebody waits for a head that may have changed
        self._mark_ended(request, state)

    def _withdraw_all(self, state: State) -> list[Request]:
        pending = [request for request in self._open if request.state is State.PENDING]
        for lane in self._lanes.values():
            lane.clear()
        self._away.clear()
        for request in pending:
            request.arrival = 0
            self._count_pending(request, -1)
            self._mark_ended(request, state)
        return pending

    def _mark_ended(self, request: Request, state: State) -> None:
        request.state = state
        self._tally.ended[state] += 1
        if request.custom_id is not None:
            self._by_custom_id.pop(request.custom_id, None)

    def _note_if_quiet(self) -> None:
        if not self._open:
            self._quiet.notify_all()
            if self._is_closed:
                self._pool.dismiss()

    def _expected_start(self, lane: Lane, request: Request, ahead: Iterable[Size], count: int, now_ns: int) -> int:
        """Return the nanoseconds until *request* is expected to start behind *count* requests *ahead*."""
        wait_ns = lane.meter.forecast(ahead, request.size, now_ns)
        flight_ns = self._tally.mean_flight_ns()
        free = max(0, self._max_workers - self._tally.in_flight)
        return max(wait_ns, (count - free + 1) * flight_ns // self._max_workers)

    def _reason(self, lane: Lane) -> str:
        """Return in words what the head of *lane* waits for."""
        if lane.is_paused:
            return "the lane is paused"
        if lane.max_in_flight is not None and lane.in_flight >= lane.max_in_flight:
            return f"one of {lane.max_in_flight} attempts of its model to end"
        head = lane.head()
        blocked = None if head is None else lane.meter.blocks(head.size, self._clock.now_ns())
        return "a free worker" if blocked is None else str(blocked)

    # -- outside the lock

    def _budget_freed(self, lane: Lane) -> None:
        with self._lock:
            if lane.blocked is not None and lane.head() is not None:
                self._pool.wake()
        self._pool.grow()

    def _requeue(self, job: _Job, outcome: Outcome) -> None:
        """Let a request wait for its next attempt, in its old place or away; or end it."""
        request = job.request
        error: GroqQueueError | None = None
        with self._lock:
            self._land(job)
            self._tally.refused += outcome.next is Next.REFUSED
            due_ns = self._clock.now_ns() + outcome.wait_ns
            if self._stopped_by is not None:
                self._mark_ended(request, State.FAILED)
                error = self._stopped_by.copy()
            elif self._is_cancelling:
                self._mark_ended(request, State.CANCELLED)
            elif request.deadline_ns is not None and due_ns >= request.submitted_ns + request.deadline_ns:
                self._mark_ended(request, State.EXPIRED)
                error = self._timed_out(request, "deadline", request.deadline_ns)
            else:
                self._tally.retried += 1
                request.state = State.PENDING
                self._count_pending(request, 1)
                if outcome.next is Next.REFUSED:
                    self._line_up(request)
                else:
                    self._send_away(request, due_ns)
                return
        self._deliver(request, error=error)

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

    def _timed_out(self, request: Request, bound: str, after_ns: int) -> QueueTimeout:
        tried = f"{request.attempts} attempts failed" if request.attempts else "it was not sent"
        error = QueueTimeout(
            f"{request} ended by {bound}={after_ns / NS_PER_S:g}: {tried}; "
            f"the lane of {request.lane} waits for {self._reason(self._lane(request))}",
            request_id=request.id,
            custom_id=request.custom_id,
        )
        error.__cause__ = request.last_error
        return error

    def _stop(self, error: GroqQueueError) -> None:
        """End everything that waits with *error*, and refuse what comes later with it."""
        with self._lock:
            if self._stopped_by is None:
                self._stopped_by = error.copy()
            self._room.notify_all()
            dropped = self._withdraw_all(State.FAILED)
        if dropped:
            _log.error("the queue stops, %d waiting requests fail: %s", len(dropped), error)
        for request in dropped:
            self._deliver(request, error=error.copy())

    def _deliver(self, request: Request, result: Completion | None = None, error: BaseException | None = None) -> None:
        """End the Future of a request whose state says ended, and forget what it held."""
        for call_off in request.timers:
            call_off()
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
                self._open.discard(request)
                self._note_if_quiet()


def too_large_error(request: Request, excess: TooLarge) -> RequestTooLarge:
    """Return the error of a request that can never fit."""
    name = f"{DIMENSIONS[excess.dimension]} ({excess.dimension})"
    return RequestTooLarge(excess.cost, excess.capacity, name, request_id=request.id, custom_id=request.custom_id)


def _as_api_error(error: BaseException, request: Request) -> GroqQueueError:
    if isinstance(error, GroqQueueError):
        return error
    broken = APIError(f"{request}: the attempt broke: {error!r}", request_id=request.id, custom_id=request.custom_id)
    broken.__cause__ = error.with_traceback(None)
    return broken
