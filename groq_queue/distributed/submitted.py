"""What one submitting process knows of its open requests, as far as it has heard from Redis."""

from __future__ import annotations

from groq_queue.clock import NS_PER_S
from groq_queue.core.price_table import PriceTable, SpendCap
from groq_queue.core.request import Request, State
from groq_queue.distributed.codec import Ending
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.metrics import Counters
from groq_queue.engine.stats import LaneStats, Stats
from groq_queue.errors import ConfigurationError, GroqQueueError, QueueFull

_FIRST = "a worker"  # all that a submitting process knows of what a request waits for


class SubmittedRequests:
    """Not thread-safe: the engine's lock guards it.

    Attributes:
        open: Requests whose Future has not ended, by their id.
        stored: Ids of those that Redis has accepted.
    """

    def __init__(self, price_table: PriceTable, max_pending: int | None, max_pending_per_client: int | None) -> None:
        self.open: dict[str, Request] = {}
        self.stored: set[str] = set()
        self.counters = Counters()
        self._ending: set[str] = set()  # counted as ended, Future still open
        self._by_custom_id: dict[str, Request] = {}
        self._lanes: dict[str, tuple[str, int]] = {}  # name -> model, attempts on their way
        self._began_ns: dict[str, int] = {}
        self._spend_cap = SpendCap(None)
        self._price_table = price_table
        self._max_pending = max_pending
        self._max_pending_per_client = max_pending_per_client

    # -- a request's way

    def accept(self, request: Request) -> None:
        """Take a new request in.

        Raises:
            ConfigurationError: One of its name is open.
        """
        if request.custom_id is not None and request.custom_id in self._by_custom_id:
            raise ConfigurationError(
                f"custom_id={request.custom_id!r}: a request with this id has not ended yet; give each its own"
            )
        self.open[request.id] = request
        if request.custom_id is not None:
            self._by_custom_id[request.custom_id] = request
        self._lanes.setdefault(request.lane, (request.model, 0))
        self.counters.submitted += 1
        self.counters.count_pending(request, 1)

    def undo(self, request: Request) -> None:
        """Forget a request that could not be stored."""
        if self.open.pop(request.id, None) is not None:
            self._unname(request)
            self.counters.submitted -= 1
            self.counters.count_pending(request, -1)

    def began(self, id: str, attempts: int, now_ns: int) -> None:
        """Note that an attempt of a request is on its way."""
        request = self._unended(id)
        if request is None or request.state is not State.PENDING:
            return
        request.state = State.RUNNING
        if request.started_ns is None:
            request.started_ns = now_ns
        self.counters.count_pending(request, -1)
        self.counters.started(request, now_ns)
        self._began_ns[id] = now_ns
        self._fly(request, 1)
        request.attempts = attempts

    def rests(self, id: str, error: GroqQueueError | None, now_ns: int) -> None:
        """Note that a request waits for a further attempt."""
        request = self._unended(id)
        if request is None or request.state is not State.RUNNING:
            return
        request.last_error = error
        self._land(request, Outcome(Disposition.RETRY, error=error), now_ns)
        self.counters.waits_again(request)
        self.counters.count_pending(request, 1)
        request.state = State.PENDING

    def end(self, id: str, ending: Ending, now_ns: int) -> Request | None:
        """Note how a request ended and return it, its Future still open.

        None if it had ended before, or was not submitted by this process.
        """
        if ending.attempts:
            self.began(id, ending.attempts, now_ns)  # in case no event of the start came
        request = self._unended(id)
        if request is None:
            return None
        if request.state is State.RUNNING:
            is_answer = ending.state is State.COMPLETED
            outcome = Outcome(
                Disposition.DONE if is_answer else Disposition.FAILED, error=ending.error, charged=ending.charged
            )
            self._land(request, outcome, now_ns)
            amount = self._price_table.price(request.model, ending.charged)
            self._spend_cap.settle(0, amount or 0)
        else:
            self.counters.count_pending(request, -1)
        request.attempts = ending.attempts or request.attempts
        request.state = ending.state
        self.counters.ended[ending.state] += 1
        self._unname(request)
        self._ending.add(id)
        return request

    def half_ended(self, id: str) -> Request | None:
        """Return the request of that id if it is noted as ended and its Future may be open."""
        return self.open.get(id) if id in self._ending else None

    def let_go(self, request: Request) -> None:
        """Forget a request whose Future has ended."""
        self.open.pop(request.id, None)
        self._ending.discard(request.id)
        self.stored.discard(request.id)

    def change_priority(self, request: Request, priority: int) -> None:
        """Note that a request waits at another level."""
        self.counters.count_pending(request, -1)
        request.priority = priority
        self.counters.count_pending(request, 1)

    # -- questions

    def find(self, custom_id: str) -> Request | None:
        """Return the request of that name that has not ended, or None."""
        return self._by_custom_id.get(custom_id)

    def pending(self) -> list[Request]:
        """Return the requests that are not on their way, as far as known."""
        return [request for request in self.open.values() if request.state is State.PENDING]

    def awaited(self) -> list[str]:
        """Return the ids of requests whose end Redis will tell."""
        return [id for id in self.open if id in self.stored and id not in self._ending]

    def has_room(self, client: str) -> bool:
        """Return whether one more request of *client* may wait."""
        if self._max_pending is not None and self.counters.pending >= self._max_pending:
            return False
        most = self._max_pending_per_client
        return most is None or self.counters.pending_by_client[client] < most

    def full(self, request: Request, now_ns: int) -> QueueFull:
        """Return the error that there is no room for *request*.

        When to try again is not known before a worker has begun with the first one: there may be no worker.
        """
        limit, client = self._max_pending, None
        if limit is None or (self.counters.pending < limit and self._max_pending_per_client is not None):
            limit, client = self._max_pending_per_client, request.client
        whose = f"client {client!r} has max_pending_per_client" if client is not None else "there are max_pending"
        next_ns = self.counters.next_start_ns(now_ns)
        return QueueFull(
            f"{whose}={limit:,} requests waiting: wait for some to end",
            limit=limit or 0,
            client=client,
            retry_after=None if next_ns is None else next_ns / NS_PER_S,
            request_id=request.id,
            custom_id=request.custom_id,
        )

    def stats(self, *, is_running: bool) -> Stats:
        """Return all counts of the requests of this process; budgets are the workers'."""
        counters = self.counters
        lanes = []
        for name, (model, in_flight) in self._lanes.items():
            pending = counters.pending_by_lane[name]
            lanes.append(LaneStats(name, model, pending, in_flight, False, _FIRST if pending else None, ()))
        return counters.stats(lanes, cost=self._spend_cap.spent_usd, is_running=is_running)

    # -- inside

    def _unended(self, id: str) -> Request | None:
        return None if id in self._ending else self.open.get(id)

    def _unname(self, request: Request) -> None:
        if request.custom_id is not None:
            self._by_custom_id.pop(request.custom_id, None)

    def _fly(self, request: Request, change: int) -> None:
        model, in_flight = self._lanes.get(request.lane, (request.model, 0))
        self._lanes[request.lane] = model, in_flight + change

    def _land(self, request: Request, outcome: Outcome, now_ns: int) -> None:
        self.counters.landed(request, outcome, now_ns - self._began_ns.pop(request.id, now_ns), now_ns)
        self._fly(request, -1)
