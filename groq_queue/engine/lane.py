"""The pending requests of one model, with its budget."""

from __future__ import annotations

import heapq
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from groq_queue.core.budget import Blocked, Lease, Level, TooLarge
from groq_queue.core.fair_queue import Entry, FairQueue, is_stale
from groq_queue.core.headers import RateHeader, Refusal
from groq_queue.core.priority import LeaseApplicant
from groq_queue.core.request import Request
from groq_queue.core.token_estimate import Backlog, PromptSize, TokenCost
from groq_queue.errors import GroqQueueError


class Meter(Protocol):
    """One lane's budget as the engine uses it; ``limiters`` builds it.

    ``lease`` and ``withdraw`` are called under the engine's lock. ``lease`` may return an
    error, which ends the request; it gets a turn if the budget ``asks_whose_turn`` it is.
    ``withdraw`` says that no request waits for a lease any more.
    """

    @property
    def asks_whose_turn(self) -> bool: ...

    def subscribe(self, listener: Callable[[], None]) -> None: ...
    def unsubscribe(self, listener: Callable[[], None]) -> None: ...
    def price(self, size: PromptSize) -> TokenCost: ...
    def expect(self, backlog: Backlog) -> tuple[TokenCost, TokenCost]: ...
    def too_large(self, size: PromptSize) -> TooLarge | None: ...
    def lease(
        self, size: PromptSize, now_ns: int, turn: LeaseApplicant | None = None
    ) -> Lease | Blocked | TooLarge | GroqQueueError: ...
    def withdraw(self) -> None: ...
    def blocks(self, size: PromptSize, now_ns: int) -> Blocked | None: ...
    def settle(
        self,
        lease: Lease,
        size: PromptSize,
        usage: tuple[int, int, int] | None,
        seen: Iterable[RateHeader] | None,
        now_ns: int,
    ) -> list[str]: ...
    def refund(self, lease: Lease) -> None: ...
    def refused(
        self, lease: Lease, size: PromptSize, refusal: Refusal | None, wait_ns: int, now_ns: int
    ) -> list[str]: ...
    def pause(self, wait_ns: int, now_ns: int) -> None: ...
    def trouble(self, now_ns: int) -> None: ...
    def retry_spacing_ns(self, waiting: int) -> int: ...
    def levels(self, now_ns: int) -> list[Level]: ...
    def begin(self, level: Level, age_ns: int, now_ns: int) -> None: ...
    def forecast(self, ahead: Backlog, size: PromptSize, flight_ns: int, now_ns: int) -> int: ...


class Lane(queue.PriorityQueue[Entry]):
    """Pending requests of one model (and service tier) in the order they are to be sent.

    A ``queue.PriorityQueue`` of ``(rank, seq, request)`` whose ``mutex`` is the engine's lock. A lease and the removal
    of its request are one step under that lock, so the lane calls the hooks ``_put``, ``_get`` and ``_qsize``, which
    the stdlib calls with its mutex held. ``put`` and ``get`` would take the lock once more and notify conditions at
    which no thread waits: three quarters of the cost.
    """

    def __init__(
        self,
        name: str,
        model: str,
        meter: Meter,
        on_freed: Callable[[Lane], None],
        *,
        lock: threading.RLock | None = None,
    ) -> None:
        """
        Args:
            name: The model, and the tier if it is not the usual one.
            model: The model.
            meter: Its budget.
            on_freed: Called with this lane, on any thread, when budget may have become free.
            lock: The engine's, held by the caller of each method; None is one of its own.
        """
        super().__init__()
        if lock is not None:
            self.mutex = lock  # type: ignore[assignment]
            self.not_empty = self.not_full = self.all_tasks_done = threading.Condition(lock)
        self.name = name
        self.model = model
        self.meter = meter
        self.in_flight = 0
        self.max_in_flight: int | None = None
        self.is_paused = False
        self.reported_daily = False  # a warning said that a limit per day is spent
        self.last_failure = ""  # what the last attempt ran into, in words, "" if it was answered or refused
        self.is_blocked = False  # the head was not granted when last looked at
        self._stale = 0  # entries to be skipped, whose request has left
        self._order = FairQueue()
        self._places: dict[Request, tuple[int, Backlog]] | None = None  # see place_of; None when the line has changed
        self._last_levels: list[Level] | None = None  # as of the end; the meter forgets the limits of a closed queue
        self._on_freed = on_freed
        meter.subscribe(self._freed)

    def close(self, now_ns: int) -> None:
        """Stop listening to the meter, which other queues may go on using."""
        self.meter.unsubscribe(self._freed)
        if self._last_levels is None:
            self._last_levels = self.meter.levels(now_ns)

    def levels(self, now_ns: int) -> list[Level]:
        """Return every limit's present state, or that at the end once the lane is closed."""
        return self.meter.levels(now_ns) if self._last_levels is None else self._last_levels

    def add(self, request: Request) -> bool:
        """Line up a request that was never taken; return whether that changed who is next."""
        request.seq = None
        self._places = None
        entries = self._order.add(request)
        return self._put_entries(entries) if entries else False

    def put_back(self, request: Request) -> bool:
        """Return a request to the place it was taken from; return whether that changed who is next."""
        assert request.seq is not None
        self._places = None
        return self._put_entries(self._order.put_back(request, request.seq))

    def head(self) -> Request | None:
        """Return the request that is to be sent next, and leave it there."""
        entries = self.queue
        while entries:
            _, seq, request = entries[0]
            if request.arrival == seq[1]:
                found: Request = request
                return found
            self._get()
            self._stale -= 1
        return None

    def take(self, request: Request) -> bool:
        """Take *request* if it is the head; return whether it was."""
        if self.head() is not request:
            return False
        self._get()
        request.arrival = 0
        self._places = None
        again, request.was_taken = request.was_taken, True
        self._put_all(self._order.taken(request, again=again))
        return True

    def discard(self, request: Request) -> None:
        """Take a request out of the lane, wherever it is."""
        self._places = None
        self._put_all(self._order.discard(request, again=request.was_taken))
        if request.seq is not None:
            self._stale += 1
            if self._stale > 64 and self._stale * 2 > self._qsize():
                self._drop_stale()
        if self.head() is None:
            self.meter.withdraw()

    def turn_of(self, request: Request) -> LeaseApplicant:
        """Return what a shared budget has to know of a request to rank it."""
        weight = self._order.weight(request.client)
        return LeaseApplicant(request.id, request.priority, request.client, weight, request.turn_cost)

    def clear(self) -> None:
        """Forget every pending request; the caller ends them."""
        self.meter.withdraw()
        self._order.clear()
        self._places = None
        self._drop_all()

    def rebuild(self, pending: list[Request]) -> None:
        """Make the line anew, of *pending* in the order of their arrival: a change was broken off in the middle.

        Clients and levels keep their order; whose turn it was is forgotten.
        """
        self._order = self._order.successor()
        self._places = None
        self._drop_all()
        self.is_blocked = False
        for request in pending:
            if request.was_taken and request.seq is not None:
                self._put_all(self._order.put_back(request, request.seq))
            else:
                self._put_all(self._order.add(request))

    def place_of(self, request: Request) -> tuple[int, Backlog]:
        """Return a pending request's place in line, 1 is next, and the sum of those before it.

        The first question after a change looks at the whole line, others are answered from that.
        """
        if self._places is None:
            self._places = {}
            before = Backlog()
            for place, each in enumerate(self._order.in_order(self.queue), start=1):
                self._places[each] = (place, before)
                before = before.plus(each.size)
        return self._places[request]

    def ahead_of_newcomer(self, request: Request) -> int:
        """Return about how many requests would be taken before *request*, were it added now."""
        return self._order.ahead_of_newcomer(request.rank, request.client)

    def least_urgent(self, client: str | None = None) -> Request | None:
        """Return the pending request that would be missed least, or None."""
        request: Request | None = self._order.least_urgent(client)
        return request

    def set_weight(self, client: str, weight: float) -> None:
        """Give *client* that many times the turns of a client of weight 1."""
        self._order.set_weight(client, weight)
        self._places = None

    def _put_entries(self, entries: Iterable[Entry]) -> bool:
        before = self.head()
        self._put_all(entries)
        return self.head() is not before

    def _put_all(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            entry[2].seq = entry[1]
            self._put(entry)

    def _drop_stale(self) -> None:
        """Drop stale entries, so that a flood of cancelled requests does not pile up."""
        living = [entry for entry in self.queue if not is_stale(entry)]
        heapq.heapify(living)
        self.queue, self._stale = living, 0

    def _drop_all(self) -> None:
        self._init(self.maxsize)
        self._stale = 0

    def _freed(self) -> None:
        if self.is_blocked:  # see ``Scheduler._try_lease``
            self._on_freed(self)
