"""The table of open requests: each is in its lane, away until an instant, being attempted, or ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from groq_queue.clock import NS_PER_S
from groq_queue.core.priority import rank_of
from groq_queue.core.request import Request, State
from groq_queue.core.response import Completion
from groq_queue.core.token_estimate import Backlog
from groq_queue.engine.attempt import Outcome
from groq_queue.engine.future import RequestFuture
from groq_queue.engine.lane import Lane, Meter
from groq_queue.engine.metrics import Counters
from groq_queue.engine.paging import AlreadyFetched, BacklogPager, Group, Page
from groq_queue.errors import QueueFull, RateLimitError, excerpt

_RUNNING = State.RUNNING  # looked up once, not by each request
_LONGEST_REASON = 100  # characters of an error in a line of progress


class PendingRequests:
    """The lanes, and the requests that are in none of them for now.

    Not thread-safe: the engine's lock guards it. Between two calls

    * a pending request is in exactly one place: its lane, ``away`` or the backlog;
    * ``open`` holds the requests in memory whose Future has not been ended, ``rows`` the Futures of those with a row.

    Args:
        meter_of: Returns the budget of a lane, given its name and its model.
        on_freed: Called with a lane, on any thread, when its budget may have become free.
        max_pending: Most requests waiting, or None.
        max_pending_per_client: The same for each client.
        max_in_flight: Most attempts at once of one lane, or None.
        ageing_ns: Nanoseconds after which a waiting request rises one level, or None.
        pager: Knows the pending requests that are in a file only, or None.
        new_lane: Makes a lane.
    """

    def __init__(
        self,
        *,
        meter_of: Callable[[str, str], Meter],
        on_freed: Callable[[Lane], None],
        max_pending: int | None,
        max_pending_per_client: int | None,
        max_in_flight: int | None,
        ageing_ns: int | None,
        pager: BacklogPager | None = None,
        new_lane: Callable[[str, str, Meter, Callable[[Lane], None]], Lane] = Lane,
    ) -> None:
        self._meter_of = meter_of
        self._on_freed = on_freed
        self._new_lane = new_lane
        self._max_pending = max_pending
        self._max_pending_per_client = max_pending_per_client
        self._max_in_flight = max_in_flight
        self._ageing_ns = ageing_ns
        self.is_ageing = ageing_ns is not None  # else the rank of a request is its priority
        self.is_bounded = max_pending is not None or max_pending_per_client is not None  # else there is always room
        self._weights: dict[str, float] = {}
        self._by_custom_id: dict[str, Request] = {}
        self.lanes: dict[str, Lane] = {}
        self.open: set[Request] = set()
        self.away: set[Request] = set()  # pending, but for now in no lane: a timer brings them
        self.rows: dict[int, RequestFuture[Completion]] = {}  # by row of the journal
        self.pager = pager
        self.counters = Counters()
        self._is_paused = False
        self._paused_models: set[str] = set()

    def keep_settings_of(self, other: PendingRequests) -> None:
        """Take over what users set: weights and pauses."""
        self._weights = dict(other._weights)
        self._is_paused, self._paused_models = other._is_paused, set(other._paused_models)

    def open_futures(self) -> list[RequestFuture[Completion]]:
        """Return every Future that is open and that a program may hold."""
        futures = [request.future for request in list(self.open) if request.future is not None]
        return futures if self.pager is None else futures + self.pager.held()

    def lane(self, request: Request) -> Lane:
        """Return the lane of *request*, made when the first one needs it."""
        lane = self.lanes.get(request.lane)
        if lane is None:
            meter = self._meter_of(request.lane, request.model)
            lane = self.lanes[request.lane] = self._new_lane(request.lane, request.model, meter, self._on_freed)
            lane.is_paused = self._is_paused or request.model in self._paused_models
            lane.max_in_flight = self._max_in_flight
            for client, weight in self._weights.items():
                lane.set_weight(client, weight)
        return lane

    def pause(self, model: str | None) -> None:
        """Let the lanes of *model*, or all, send nothing, also those still to be made."""
        if model is None:
            self._is_paused = True
        else:
            self._paused_models.add(model)
        for lane in self.lanes.values():
            lane.is_paused = lane.is_paused or model in (None, lane.model)

    def resume(self, model: str | None) -> None:
        """Undo ``pause``; None undoes every one of them."""
        if model is None:
            self._is_paused = False
            self._paused_models.clear()
        else:
            self._paused_models.discard(model)
        for lane in self.lanes.values():
            if model in (None, lane.model):
                lane.is_paused = False

    def by_urgency(self) -> list[tuple[Lane, Request]]:
        """Return the lanes that may send, each with its head, the most urgent first; at equal rank the least busy."""
        ready = []
        for lane in self.lanes.values():
            if not lane.is_paused and (lane.max_in_flight is None or lane.in_flight < lane.max_in_flight):
                head = lane.head()
                if head is not None:
                    ready.append((lane, head))
        if len(ready) > 1:
            ready.sort(key=lambda found: (found[1].rank, found[0].in_flight))
        return ready

    def find(self, custom_id: str) -> Request | None:
        """Return the request of that custom_id that has not ended, or None."""
        return self._by_custom_id.get(custom_id)

    def set_weight(self, client: str, weight: float) -> None:
        """Give *client* that many times the turns of a client of weight 1."""
        self._weights[client] = weight
        for lane in self.lanes.values():
            lane.set_weight(client, weight)

    def rank(self, request: Request, now_ns: int) -> int:
        """Return the rank of *request* if it lined up now."""
        return request.priority if self._ageing_ns is None else rank_of(request.priority, now_ns, self._ageing_ns)

    # -- a request's way

    def accept(self, request: Request) -> None:
        """Take a new request in; it is in no place yet."""
        self._hold(request)
        self.counters.submitted += 1
        self.counters.count_pending(request, 1)

    def page_out(self, request: Request, future: object, *, is_kept: bool, is_new: bool) -> None:
        """Take a request in and leave it in the backlog, where one that is not new was counted before."""
        assert self.pager is not None
        self.pager.put(request, future, is_kept=is_kept, is_new=is_new)
        if is_new:
            self.counters.submitted += 1
            self.counters.count_pending(request, 1)

    def add_stored(self, group: Group, count: int) -> None:
        """Take in *count* requests that a journal kept for us."""
        assert self.pager is not None
        self.pager.add_stored(group, count)
        self.counters.submitted += count
        self.counters.count_pending(group, count)

    def page_in(self, page: Page, fetched: Iterable[Request], *, is_last: bool) -> list[Request]:
        """Take a page of requests out of the backlog and return those that are to be put into their lane."""
        assert self.pager is not None
        taken, uncounted = self.pager.stack_up(page, fetched, self.rows, is_last=is_last)
        for request in taken:
            self._hold(request)
        self.counters.submitted += uncounted
        self.counters.count_pending(page.group, uncounted)
        return taken

    def open_future(self, row_id: int) -> RequestFuture[Completion] | None:
        """Return the Future of the request of that row, if it is open and a program may hold it."""
        future = self.rows.get(row_id)
        if future is None and self.pager is not None:
            future = self.pager.future(row_id)
        return future

    def find_existing(
        self, request: Request, future: RequestFuture[Completion], *, is_kept: bool, is_new: bool
    ) -> RequestFuture[Completion] | None:
        """Return the Future of the request if its row is here already; in the backlog it may become *future*.

        Raises:
            AlreadyFetched: Its row was here, and the request has ended meanwhile.
        """
        pager = self.pager
        if pager is None or request.row_id is None:
            return None
        known = self.open_future(request.row_id)
        if known is None and (pager.has_passed(request.row_id, request) if is_new else pager.has_ended(request.row_id)):
            raise AlreadyFetched
        if known is None and not is_new and pager.holds(request):
            self.page_out(request, future, is_kept=is_kept, is_new=False)
            known = future
        return known

    def forget(self, request: Request) -> None:
        """Forget a request whose Future has ended."""
        self.open.discard(request)
        if request.row_id is not None:
            future = self.rows.get(request.row_id)
            if future is not None and future._request is request:
                del self.rows[request.row_id]
                if self.pager is not None:
                    self.pager.forgotten(request.row_id)

    def enqueue(self, request: Request) -> bool:
        """Put a request into its lane; return whether that changed who is next there."""
        lane = self.lanes.get(request.lane) or self.lane(request)
        return lane.put_back(request) if request.was_taken else lane.add(request)

    def take(self, lane: Lane, request: Request, now_ns: int) -> bool:
        """Take *request* for an attempt if it still is the head of *lane*; return whether it was."""
        if not lane.take(request):
            return False
        request.state = _RUNNING
        if request.started_ns is None:
            request.started_ns = now_ns
        lane.in_flight += 1
        self.counters.count_pending(request, -1)
        self.counters.started(request, now_ns)
        return True

    def land(self, request: Request, lane: Lane, outcome: Outcome, began_ns: int, now_ns: int) -> None:
        """Note the end of an attempt."""
        lane.in_flight -= 1
        if outcome.error is not None and not isinstance(outcome.error, RateLimitError):
            lane.last_failure = excerpt(str(outcome.error), _LONGEST_REASON)
        elif lane.last_failure:
            lane.last_failure = ""
        self.counters.landed(request, outcome, now_ns - began_ns, now_ns)

    def wait_again(self, request: Request) -> None:
        """Make a request that was attempted a pending one; it is in no place yet."""
        self.counters.waits_again(request)
        self.counters.count_pending(request, 1)
        request.state = State.PENDING

    def change_priority(self, request: Request, priority: int) -> bool:
        """Move a pending request to the end of another level; return whether that changed who is next."""
        is_in_line = request not in self.away
        lane = self.lane(request)
        before = lane.head()
        if request.is_paged_out:
            self._take_stored(request)
        elif is_in_line:
            lane.discard(request)
        self.counters.count_pending(request, -1)
        if request.row_id is not None and self.pager is not None:
            self.pager.left(request)
        request.priority = priority
        if request.row_id is not None and self.pager is not None:
            self.pager.joined(request)
        request.rank = self.rank(request, request.submitted_ns)
        request.was_taken, request.seq = False, None
        self.counters.count_pending(request, 1)
        if is_in_line:
            self.enqueue(request)
        return lane.head() is not before

    def withdraw(self, request: Request, state: State) -> None:
        """End a pending request, wherever it is."""
        if request.is_paged_out:
            self._take_stored(request)
        elif request in self.away:
            self.away.discard(request)
        else:
            self.lane(request).discard(request)
        self.counters.count_pending(request, -1)
        self.end(request, state)

    def withdraw_all(self, state: State) -> list[Request]:
        """End every pending request and return them; those without a Future are forgotten, their rows stay."""
        if self.pager is not None:
            for future in self.pager.held():
                self._take_stored(future._request)
            self.pager.clear(lambda group: True)
        pending = [request for request in self.open if request.state is State.PENDING]
        for lane in self.lanes.values():
            lane.clear()
        self.away.clear()
        self.counters.count_nobody_pending()
        for request in pending:
            request.arrival = 0
            self._ends(request, state)
        self.counters.ended[state] += len(pending)
        return pending

    def withdraw_meant(self, is_meant: Callable[[Request | Group], bool], state: State) -> list[Request]:
        """End every pending request that *is_meant* and whose Future a program may hold, and return them."""
        pending = [request for request in self.open if request.state is State.PENDING]
        if self.pager is not None:
            pending += [future._request for future in self.pager.held()]
        meant = [request for request in pending if is_meant(request)]
        for request in meant:
            self.withdraw(request, state)
        return meant

    def clear_stored(self, is_meant: Callable[[Request | Group], bool]) -> list[tuple[Group, int]]:
        """Forget what is in the file only and *is_meant*; return each group, and the row that it follows."""
        if self.pager is None:
            return []
        cleared = self.pager.clear(is_meant)
        for group, count, _ in cleared:
            self.counters.count_pending(group, -count)
            self.counters.ended[State.CANCELLED] += count
        return [(group, after) for group, _, after in cleared]

    def end(self, request: Request, state: State) -> None:
        """Note how a request ended; its Future is still to be ended."""
        self._ends(request, state)
        self.counters.ended[state] += 1

    def _ends(self, request: Request, state: State) -> None:
        request.state = state
        if request.custom_id is not None:
            self._by_custom_id.pop(request.custom_id, None)
        if request.row_id is not None and self.pager is not None:
            self.pager.left(request)

    def _take_stored(self, request: Request) -> None:
        """Bring a request of the backlog into memory; one that was not counted before is now."""
        assert self.pager is not None
        if not self.pager.take_off(request):
            self.counters.submitted += 1
            self.counters.count_pending(request, 1)
        self._hold(request)

    def _hold(self, request: Request) -> None:
        """Have a request in memory."""
        self.open.add(request)
        if request.custom_id is not None:
            self._by_custom_id[request.custom_id] = request
        if request.row_id is not None and self.pager is not None:
            self.rows[request.row_id] = request.future
            self.pager.joined(request)

    def rebuild(self, ended_as: State) -> list[Request]:
        """Make every place and every count anew from the requests themselves.

        An exception that cannot be foreseen, a Ctrl-C or no memory, may break a change off between two steps. What a
        request says of itself (its state, its future) is true at any moment; everything else follows from that.

        Args:
            ended_as: What becomes of requests whose end was not counted yet.

        Returns:
            The requests that are away until an instant, whose timers may be missing.
        """
        waiting = [request for request in self.open if request.state is State.PENDING]
        running = [request for request in self.open if request.state is State.RUNNING]
        waiting.sort(key=lambda request: (request.arrival or sys.maxsize, request.submitted_ns))
        self.away.intersection_update(waiting)
        self._by_custom_id = {
            request.custom_id: request for request in (*waiting, *running) if request.custom_id is not None
        }
        by_lane: dict[str, list[Request]] = {name: [] for name in self.lanes}
        for request in waiting:
            if request not in self.away:
                by_lane.setdefault(self.lane(request).name, []).append(request)  # perhaps the first of its lane
        for name, requests in by_lane.items():
            self.lanes[name].rebuild(requests)
            self.lanes[name].in_flight = sum(request.lane == name for request in running)
        counted: list[tuple[Request | Group, int]] = [(request, 1) for request in waiting]
        if self.pager is not None:
            resident = [request for request in (*waiting, *running) if request.row_id is not None]
            for request in resident:
                if request.future is not None and request.row_id is not None:
                    self.rows.setdefault(request.row_id, request.future)
            counted += self.pager.recount(resident)
        self.counters.recount(counted, len(running), ended_as)
        return list(self.away)

    # -- bounds

    def has_room(self, client: str) -> bool:
        """Return whether one more request of *client* may wait."""
        if self._max_pending is not None and self.counters.pending >= self._max_pending:
            return False
        most = self._max_pending_per_client
        return most is None or self.counters.pending_by_client[client] < most

    def least_urgent(self, client: str, rank: int) -> Request | None:
        """Return the pending request that is missed least if *client* needs room at *rank*, or None."""
        is_clients_own_bound = self._max_pending is None or self.counters.pending < self._max_pending
        found = (lane.least_urgent(client if is_clients_own_bound else None) for lane in self.lanes.values())
        candidates = [request for request in found if request is not None and request.rank > rank]
        return max(candidates, key=lambda request: request.rank, default=None)

    def full(self, request: Request, what: str, now_ns: int) -> QueueFull:
        """Return the error that there is no room for *request*."""
        limit, client = self._max_pending, None
        if limit is None or (self.counters.pending < limit and self._max_pending_per_client is not None):
            limit, client = self._max_pending_per_client, request.client
        whose = f"client {client!r} has max_pending_per_client" if client is not None else "there are max_pending"
        next_ns = self._room_ns(now_ns)
        return QueueFull(
            f"{whose}={limit:,} requests waiting: {what}",
            limit=limit or 0,
            client=client,
            retry_after=None if next_ns is None else next_ns / NS_PER_S,
            request_id=request.id,
            custom_id=request.custom_id,
        )

    def _room_ns(self, now_ns: int) -> int | None:
        """Return the nanoseconds until one of those that wait is likely to be sent, or None if that is not known."""
        heads = [
            (lane, head) for lane in self.lanes.values() if not lane.is_paused and (head := lane.head()) is not None
        ]
        waits_ns = [lane.meter.forecast(Backlog(), head.size, 0, now_ns) for lane, head in heads]
        waits_ns += [max(0, request.due_ns - now_ns) for request in self.away if request.due_ns is not None]
        # When a head's budget is free, or one is back from its own wait; if neither is in the way, as starts come.
        return min(waits_ns, default=0) or self.counters.next_start_ns(now_ns)
