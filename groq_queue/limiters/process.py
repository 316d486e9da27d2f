"""One model's budget, shared by the threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

from groq_queue.core.budget import Blocked, Budget, Lease, Level, Limits, TooLarge
from groq_queue.core.headers import RateHeader, Refusal
from groq_queue.core.pricing import Backlog, Cost, Estimator, Size


class ProcessLimiter:
    """The budgets of one key at one address, a meter for each model.

    ``_lock`` guards ``_meters`` and is a leaf.
    """

    def __init__(self, limits: Limits | Mapping[str, Limits] | None) -> None:
        """
        Args:
            limits: Of every model, or by model; a model without limits learns them.
        """
        self._lock = threading.Lock()
        self._limits = limits
        self._meters: dict[str, ProcessMeter] = {}

    def meter(self, lane: str, model: str) -> ProcessMeter:
        """Return the one meter of *lane*, which has the limits of *model*."""
        with self._lock:
            meter = self._meters.get(lane)
            if meter is None:
                limits = self._limits.get(model) if isinstance(self._limits, Mapping) else self._limits
                meter = self._meters[lane] = ProcessMeter(limits)
            return meter


class ProcessMeter:
    """A thread-safe budget that knows how to price a request.

    ``_lock`` guards ``_budget``, ``_estimator`` and ``_listeners``. It is held for
    arithmetic only and is a leaf: nothing else is locked and nobody is called under it.
    """

    def __init__(self, limits: Limits | None) -> None:
        self._lock = threading.Lock()
        self._budget = Budget(limits)
        self._estimator = Estimator()
        self._listeners: tuple[Callable[[], None], ...] = ()

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Have *listener* called, on any thread, whenever a lease has ended."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        """Undo ``subscribe``."""
        with self._lock:
            self._listeners = tuple(known for known in self._listeners if known != listener)

    def price(self, size: Size) -> Cost:
        """Return what a request of *size* is expected to be charged now."""
        with self._lock:
            return self._price(size)

    def too_large(self, size: Size) -> TooLarge | None:
        """Return the limit that a request of *size* can never fit, or None."""
        with self._lock:
            return self._budget.too_large(self._price(size))

    def lease(self, size: Size, now_ns: int) -> Lease | Blocked | TooLarge:
        """Take the cost of a request of *size* from every limit, or say what is in the way."""
        with self._lock:
            cost = self._price(size)
            granted = self._budget.lease(cost, now_ns)
            if isinstance(granted, Blocked) and granted.wait_ns is None:
                return self._budget.too_large(cost) or granted
            return granted

    def blocks(self, size: Size, now_ns: int) -> Blocked | None:
        """Return what is in the way of a request of *size*, without taking anything."""
        with self._lock:
            return self._budget.blocks(self._price(size), now_ns)

    def settle(
        self,
        lease: Lease,
        size: Size,
        usage: tuple[int, int, int] | None,
        seen: Iterable[RateHeader] | None,
        now_ns: int,
    ) -> list[str]:
        """End a lease whose request was, or may have been, charged.

        Args:
            lease: Of the attempt.
            size: Of its request.
            usage: ``(prompt, completion, cached)`` tokens, or None if the answer told none.
            seen: Limits in the headers of a successful answer; None if there was no such answer.
            now_ns: The present instant.

        Returns:
            Notices for the user.
        """
        with self._lock:
            requested = used = lease.cost
            if usage is not None:
                prompt, completion, cached = usage
                requested = lease.cost._replace(prompt=prompt)
                used = lease.cost._replace(prompt=prompt - cached, completion=completion)
                self._estimator.learn(size, prompt, completion)
            self._budget.settle(lease, requested, used, now_ns)
            notices = [] if seen is None else self._budget.observe(lease, seen, now_ns)
            listeners = self._listeners
        _call(listeners)
        return notices

    def refund(self, lease: Lease) -> None:
        """End a lease whose request was certainly not charged."""
        with self._lock:
            self._budget.refund(lease)
            listeners = self._listeners
        _call(listeners)

    def refused(self, lease: Lease, refusal: Refusal | None, wait_ns: int, now_ns: int) -> list[str]:
        """End a lease by the server's refusal; nobody gets one for *wait_ns*."""
        with self._lock:
            notices = self._budget.refused(lease, refusal, wait_ns, now_ns)
            listeners = self._listeners
        _call(listeners)
        return notices

    def levels(self, now_ns: int) -> list[Level]:
        """Return every limit's present state."""
        with self._lock:
            return self._budget.levels(now_ns)

    def forecast(self, ahead: Iterable[Size], size: Size, now_ns: int) -> int:
        """Return the nanoseconds until a request of *size* will pass if those *ahead* of it go first."""
        backlog = Backlog.of(ahead)
        with self._lock:
            expected = self._estimator.expect(backlog, credits=self._budget.credits)
            return self._budget.forecast(backlog.requests, expected, self._price(size), now_ns)

    def ledger(self) -> dict[str, tuple[int, int, int, int]]:
        """Return ``{dimension: (leased, settled, refunded, open)}``, in units."""
        with self._lock:
            return self._budget.ledger()

    def _price(self, size: Size) -> Cost:
        """Price a request; the allowance of one without a cap never makes it too large by itself."""
        cost = self._estimator.price(size)
        if size.completion is None and not size.is_exact:
            excess = self._budget.too_large(cost)
            if excess is not None and excess.cost - excess.capacity < cost.completion:
                return cost._replace(completion=cost.completion - (excess.cost - excess.capacity))
        return cost


def _call(listeners: Iterable[Callable[[], None]]) -> None:
    for listener in listeners:
        listener()
