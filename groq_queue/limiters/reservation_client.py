"""Goes between the meters of one queue and the store that they share with other processes.

The engine asks for leases under its lock, so nothing there may wait for a store.
Meters note what their heads need; the reservation client, on a thread of its own, asks the
store for it, brings back what was granted, and tells it how leases ended. It
asks again when the store's hint says so, when an attempt of its own has ended,
or when the store has changed, at which it looks at most 20 times a second, and
only while a request waits. While nothing is open it does nothing at all.

No outcome is ever lost: what the store cannot take now is sent to it later, in order.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.core.budget import Blocked, TooLarge
from groq_queue.errors import LimiterUnavailable
from groq_queue.limiters.store import LEASE_S, BudgetStore, KnownLimits, LaneStatus, ReservationRequest, Reserved
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_TROUBLE = {"groq_queue_event": "limiter_trouble"}  # see engine.log

_HEARTBEAT_NS = round(LEASE_S / 4 * NS_PER_S)
_LOOK_NS = NS_PER_S // 20
_LONGEST_LOOK_NS = NS_PER_S
_ASK_AGAIN_NS = NS_PER_S  # without any hint: the process before us in line may have died
_RETRY_NS = (NS_PER_S // 4, NS_PER_S // 2, NS_PER_S)  # the last one again and again
_OUTAGE_AFTER = 2  # failures in a row

End = Callable[[BudgetStore], None]
"""One outcome to be reported to the store, as a call."""


class LeaseWaiter(Protocol):
    """A meter, as the reservation client sees it. All are thread-safe; those that return nothing may call listeners."""

    @property
    def lane(self) -> str: ...
    def pending_claim(self) -> tuple[ReservationRequest, KnownLimits] | None: ...
    def deliver(self, claim: ReservationRequest, reply: Reserved | Blocked | TooLarge, now_ns: int) -> None: ...
    def give_back_late(self, now_ns: int) -> int | None: ...
    def is_open(self) -> bool: ...
    def on_status(self, status: LaneStatus, now_ns: int) -> None: ...
    def on_outage(self, error: LimiterUnavailable, now_ns: int) -> None: ...
    def on_recovered(self, now_ns: int) -> None: ...
    def withdraw(self) -> None: ...


class ReservationClient:
    """A background task: ``run`` whenever woken or due, ``finish`` at the end.

    ``_lock`` guards ``_ends`` and ``_waiters`` and is a leaf. Everything else is used by the task's thread alone,
    and so is the store.
    """

    def __init__(self, store: BudgetStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._ends: deque[End] = deque()
        self._waiters: list[LeaseWaiter] = []
        self._due: dict[str, tuple[str, int, int]] = {}  # by lane: claim asked for, when to ask again, look interval
        self._looked_ns = 0
        self._heartbeat_ns = 0
        self._failures = 0
        self._retry_ns = 0

    def add(self, waiter: LeaseWaiter) -> None:
        """Serve one more meter."""
        with self._lock:
            self._waiters.append(waiter)

    def send(self, ends: list[End]) -> None:
        """Line up *ends* to be reported to the store, in order; wake the thread afterwards."""
        with self._lock:
            self._ends.extend(ends)

    def run(self) -> int | None:
        """Do what there is to do; return the instant at which there will be more, or None."""
        now_ns = self._clock.now_ns()
        if now_ns < self._retry_ns:
            return self._retry_ns
        with self._lock:
            waiters = list(self._waiters)
        try:
            next_ns = self._serve(waiters, now_ns)
        except LimiterUnavailable as error:
            return self._failed(error, waiters)
        if self._failures:
            if self._failures >= _OUTAGE_AFTER:
                _log.warning("the shared budget at %s can be reached again", self._store.address, extra=_TROUBLE)
            self._failures = 0
            for waiter in waiters:
                waiter.on_recovered(now_ns)
        return next_ns

    def finish(self) -> None:
        """Give back the reservations that will not be used, report the last outcomes and close the store."""
        with self._lock:
            waiters = list(self._waiters)
        for waiter in waiters:
            waiter.withdraw()
        try:
            self._flush()
        except LimiterUnavailable as error:
            count = len(self._ends)
            _log.warning(
                "the outcome of the last %d requests could not be reported to the shared budget, so it may count them "
                "in full for a while: %s",
                count,
                error,
                extra=_TROUBLE,
            )
        self._store.close()

    def _serve(self, waiters: list[LeaseWaiter], now_ns: int) -> int | None:
        if self._failures:
            self._store.heartbeat()  # nothing may be due now, which would prove nothing
        for waiter in waiters:
            waiter.give_back_late(now_ns)
        may_have_freed = self._flush() or self._has_changed(now_ns)
        for waiter in waiters:
            self._ask(waiter, may_have_freed, now_ns)
        if not any(waiter.is_open() for waiter in waiters):
            return None
        if now_ns - self._heartbeat_ns >= _HEARTBEAT_NS:
            self._store.heartbeat()
            self._heartbeat_ns = now_ns
            for waiter in waiters:
                if waiter.is_open():
                    waiter.on_status(self._store.status(waiter.lane), now_ns)
        late = [when for waiter in waiters if (when := waiter.give_back_late(now_ns)) is not None]
        looks = [max(self._looked_ns + every_ns, now_ns + 1) for _, _, every_ns in self._due.values()]
        dues = [due_ns for _, due_ns, _ in self._due.values()]
        return min([*late, *looks, *dues, self._heartbeat_ns + _HEARTBEAT_NS])

    def _ask(self, waiter: LeaseWaiter, may_have_freed: bool, now_ns: int) -> None:
        """Ask the store for what a meter wants, if there is reason to."""
        pending_claim = waiter.pending_claim()
        if pending_claim is None:
            self._due.pop(waiter.lane, None)
            return
        claim, limits = pending_claim
        asked, due_ns, _ = self._due.get(waiter.lane, ("", 0, 0))
        if asked == claim.id and now_ns < due_ns and not may_have_freed:
            return
        reply = self._store.reserve(claim, limits)
        if isinstance(reply, Blocked):
            wait_ns = _ASK_AGAIN_NS if reply.wait_ns is None else reply.wait_ns
            every_ns = _LOOK_NS if reply.wait_ns is None else reply.wait_ns // 20
            self._due[waiter.lane] = (
                claim.id,
                self._clock.now_ns() + max(1, wait_ns),
                min(max(every_ns, _LOOK_NS), _LONGEST_LOOK_NS),
            )
        else:
            self._due.pop(waiter.lane, None)
        waiter.deliver(claim, reply, self._clock.now_ns())

    def _has_changed(self, now_ns: int) -> bool:
        if not self._due or now_ns - self._looked_ns < min(every_ns for _, _, every_ns in self._due.values()):
            return False
        self._looked_ns = now_ns
        return self._store.has_changed()

    def _flush(self) -> bool:
        """Report to the store how leases ended; return whether there was anything to report."""
        was_any = False
        while True:
            with self._lock:
                if not self._ends:
                    return was_any
                end = self._ends[0]
            try:
                end(self._store)
            except (LimiterUnavailable, MemoryError):  # reported again, later
                raise
            except Exception:  # a bug; kept, it would hold up every other end for ever
                _log.exception(
                    "the outcome of a request could not be reported to the shared budget: a bug, please report it",
                    extra=_TROUBLE,
                )
            was_any = True
            with self._lock:
                self._ends.popleft()

    def _failed(self, error: LimiterUnavailable, waiters: list[LeaseWaiter]) -> int:
        now_ns = self._clock.now_ns()
        wait_ns = _RETRY_NS[min(self._failures, len(_RETRY_NS) - 1)]
        self._failures += 1
        self._retry_ns = now_ns + wait_ns
        if self._failures == _OUTAGE_AFTER:
            _log.error(
                "the shared budget cannot be reached, tried again every second (on_outage= says what happens "
                "meanwhile): %s",
                error,
                extra=_TROUBLE,
            )
            for waiter in waiters:
                waiter.on_outage(error, now_ns)
        return self._retry_ns
