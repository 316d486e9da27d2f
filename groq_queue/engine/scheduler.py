"""Which request goes next: the most urgent head whose budget, in money and in every limit, is there now."""

from __future__ import annotations

from collections.abc import Callable

from groq_queue.core.budget import Lease, TooLarge
from groq_queue.core.price_table import PriceTable, SpendCap
from groq_queue.core.request import Request, State
from groq_queue.core.token_estimate import TokenCost
from groq_queue.engine import failures
from groq_queue.engine.lane import Lane
from groq_queue.engine.log import log_fields
from groq_queue.engine.pending import PendingRequests
from groq_queue.errors import GroqQueueError, excerpt
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")


class Job:
    """What a worker has in hand: a request with its lease, or one to be ended with *error* without an attempt."""

    __slots__ = ("began_ns", "error", "lane", "lease", "request", "reserved")

    def __init__(
        self,
        request: Request,
        lane: Lane,
        began_ns: int,
        lease: Lease | None,
        reserved: int | None = None,
        error: GroqQueueError | None = None,
    ) -> None:
        self.request = request
        self.lane = lane
        self.began_ns = began_ns
        self.lease = lease
        self.reserved = reserved  # picodollars; None if its model has no price
        self.error = error


class Scheduler:
    """Takes heads out of the lanes of a request table, each with its lease and its money.

    Not thread-safe: the engine's lock guards it, and is held throughout.

    Args:
        table: The request table.
        price_table: Prices.
        max_usd: Most to be spent, or None.
        raises_daily: End requests that a spent limit per day holds up, instead of waiting.
        tell_later: Has something called soon, outside the lock.
    """

    def __init__(
        self,
        table: PendingRequests,
        price_table: PriceTable,
        max_usd: float | None,
        *,
        raises_daily: bool,
        tell_later: Callable[[Callable[[], None]], object],
    ) -> None:
        self._table = table
        self._price_table = price_table
        self._raises_daily = raises_daily
        self._tell_later = tell_later
        self._is_capped = max_usd is not None
        self.spend_cap = SpendCap(max_usd)

    def next_job(self, now_ns: int) -> tuple[Job | None, int | None]:
        """Take the most urgent head that may pass.

        Returns:
            The job; or None and the instant at which a head may pass, None if only the end of an attempt can tell.
        """
        next_ns: int | None = None
        for lane, head in self._table.by_urgency():
            found = self._try_lease(lane, head, now_ns)
            if type(found) is Job:
                return found, None
            lane.is_blocked = True
            if found is not None:
                assert isinstance(found, int)
                next_ns = found if next_ns is None else min(next_ns, found)
        return None, next_ns

    def pay(self, job: Job, charged: TokenCost) -> None:
        """Turn the money set aside for an attempt, if spending is capped, into what it cost."""
        self.spend_cap.settle(job.reserved or 0, self._price_table.price(job.request.model, charged) or 0)

    def awaits_money(self, request: Request, lane: Lane) -> bool:
        """Return whether only what others have set aside would pay for *request*."""
        amount = self._price_table.price(request.model, lane.meter.price(request.size)) if self._is_capped else None
        if amount is None:
            return False
        if self.spend_cap.reserve(amount):
            self.spend_cap.settle(amount, 0)
            return False
        return self.spend_cap.can_ever_hold(amount) and self.spend_cap.reserved > 0

    def _try_lease(self, lane: Lane, head: Request, now_ns: int) -> Job | int | None:
        """Take *head* if money and every limit allow.

        Returns:
            The job; or the instant at which it may pass; or None if only another request's end can tell.
        """
        meter = lane.meter
        amount: int | None = None
        if self._is_capped:
            amount = self._price_table.price(head.model, meter.price(head.size))
            if amount is not None and not self.spend_cap.reserve(amount):
                if self.spend_cap.can_ever_hold(amount) and self.spend_cap.reserved:
                    return None
                return self._fail_job(lane, head, now_ns, failures.over_cost_limit(head, amount, self.spend_cap))
        lane.is_blocked = True  # before asking: who frees budget after the answer sees it, without the lock
        granted = meter.lease(head.size, now_ns, lane.turn_of(head) if meter.asks_whose_turn else None)
        if type(granted) is Lease:
            lane.is_blocked = False
            if not self._table.take(lane, head, now_ns):
                # A collection or a signal on this very thread has cancelled it meanwhile. No worker needs waking: we
                # look again.
                meter.refund(granted)
                if amount is not None:
                    self.spend_cap.settle(amount, 0)
                return now_ns
            lane.reported_daily = False
            return Job(head, lane, now_ns, granted, amount)
        assert not isinstance(granted, Lease)
        if amount is not None:
            self.spend_cap.settle(amount, 0)
        if isinstance(granted, TooLarge):
            return self._fail_job(lane, head, now_ns, failures.too_large(head, granted))
        if isinstance(granted, GroqQueueError):
            return self._fail_job(lane, head, now_ns, failures.of(head, granted))
        if granted.is_daily:
            error = failures.day_is_spent(head, granted)
            if self._raises_daily:
                return self._fail_job(lane, head, now_ns, error)
            if not lane.reported_daily:
                lane.reported_daily = True
                facts = log_fields("daily_limit", head, limit=error.limit)
                self._tell_later(lambda: _log.warning("%s waits: %s", excerpt(lane.name), error, extra=facts))
        return None if granted.wait_ns is None else now_ns + granted.wait_ns

    def _fail_job(self, lane: Lane, head: Request, now_ns: int, error: GroqQueueError) -> Job:
        """Withdraw a head that will never be sent."""
        self._table.withdraw(head, State.FAILED)
        return Job(head, lane, now_ns, None, error=error)
