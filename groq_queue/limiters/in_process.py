"""One model's budget, shared by the threads of this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from groq_queue.clock import NS_PER_S
from groq_queue.core.budget import Blocked, Budget, Lease, Level, TooLarge
from groq_queue.core.headers import RateHeader, Refusal
from groq_queue.core.limits import Limits, tightest
from groq_queue.core.priority import LeaseApplicant
from groq_queue.core.token_estimate import Backlog, Estimator, PromptSize, TokenCost, cost_of
from groq_queue.errors import ConfigurationError, GroqQueueError
from groq_queue.lifecycle import register_for_fork

UserLimits = Limits | Mapping[str, Limits] | None
"""Limits of every model, by model, or None: to be learnt."""


class Share(NamedTuple):
    """What one queue's user set."""

    limits: UserLimits
    margin: float


class _Account:
    """What all queues of one organisation at one address have in common: a meter for each lane.

    ``_lock`` guards both attributes and is a leaf: engines ask for meters under
    their own lock, so no other object may be called under this one. It and those of limiters
    and meters are re-entrant: a signal handler may close the queue in the middle of
    a ``submit`` that holds them.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._meters: dict[str, tuple[str, ProcessMeter]] = {}  # by lane: its model, its meter
        self._shares: list[Share] = []  # what each open queue set

    def meter(self, lane: str, model: str) -> ProcessMeter:
        with self._lock:
            known = self._meters.get(lane)
            if known is None:
                known = self._meters[lane] = (model, ProcessMeter(*self._settings_of(model)))
            return known[1]

    def meters(self) -> dict[str, ProcessMeter]:
        with self._lock:
            return {lane: meter for lane, (_, meter) in self._meters.items()}

    def join(self, share: Share, now_ns: int) -> None:
        with self._lock:
            self._shares.append(share)
            try:
                self._check()
            except ConfigurationError:
                self._shares.remove(share)
                raise
            fitted = self._fitted()
        for meter, limits, margin in fitted:
            meter.set_limits(limits, now_ns, margin)

    def leave(self, share: Share, now_ns: int) -> None:
        with self._lock:
            self._shares.remove(share)
            fitted = self._fitted()
        for meter, limits, margin in fitted:
            meter.set_limits(limits, now_ns, margin)

    def _check(self) -> None:
        """Refuse shares that count one model in different periods, whether or not it has a meter yet."""
        named = {model for limits, _ in self._shares if isinstance(limits, Mapping) for model in limits}
        for model in named | {""}:
            self._settings_of(model)

    def _fitted(self) -> list[tuple[ProcessMeter, Limits | None, float]]:
        return [(meter, *self._settings_of(model)) for model, meter in self._meters.values()]

    def _settings_of(self, model: str) -> tuple[Limits | None, float]:
        """Return the tightest limits and the widest margin that any open queue set for *model*."""
        chosen = [
            share.limits.get(model) if isinstance(share.limits, Mapping) else share.limits for share in self._shares
        ]
        margin = max((share.margin for share in self._shares), default=0.0)
        return tightest(limits for limits in chosen if limits is not None), margin


_accounts: dict[tuple[int, str, str], _Account] = {}  # by process: a forked child counts anew


def _account(address: str, name: str) -> _Account:
    """Return the one account of that name at that address; it outlives its queues, as the server's buckets do."""
    return _accounts.setdefault((os.getpid(), address, name), _Account())  # atomic, so without a lock


class ProcessLimiter:
    """The budgets that one queue counts against, shared with every other queue of the account in this process.

    Args:
        limits: What this queue's user set. While several queues are open, the
            tightest of their limits holds for all.
        address: Base URL of the API.
        account: Names who pays: an organisation, or the fingerprint of a key. Two
            limiters with the same address and account share their meters; without
            one, a limiter has meters of its own.
        now_ns: The present instant.
        margin: Share of every limit that is left to others.

    Raises:
        ConfigurationError: An open queue of the account counts in other periods.
    """

    def __init__(
        self,
        limits: UserLimits,
        address: str = "",
        account: str | None = None,
        now_ns: int = 0,
        margin: float = 0.0,
    ) -> None:
        self._share = Share(limits, margin)
        self._address, self._name = address, account
        self._is_open = True
        self._begin(now_ns)
        register_for_fork(self)

    def reset_after_fork(self) -> None:
        """Count anew in a forked child: the parent's levels may be half changed, and its leases end there."""
        self._begin(0)

    def _begin(self, now_ns: int) -> None:
        self._lock = threading.RLock()  # guards _is_open
        self._account = _Account() if self._name is None else _account(self._address, self._name)
        if self._is_open:
            self._account.join(self._share, now_ns)

    def meter(self, lane: str, model: str) -> ProcessMeter:
        """Return the one meter of *lane*, which has the limits of *model*."""
        return self._account.meter(lane, model)

    def levels(self, now_ns: int) -> dict[str, list[Level]]:
        """Return every limit's present state, by lane."""
        return {lane: meter.levels(now_ns) for lane, meter in self._account.meters().items()}

    def close(self, now_ns: int) -> None:
        """Withdraw this queue's limits; what it used stays used. A second call does nothing."""
        with self._lock:
            was_open, self._is_open = self._is_open, False
        if was_open:
            self._account.leave(self._share, now_ns)


class ProcessMeter:
    """A thread-safe budget that knows how to price a request.

    ``_lock`` guards ``_budget``, ``_estimator`` and ``_listeners``. It is held for
    arithmetic only and is a leaf: nothing else is locked or called under it.
    """

    asks_whose_turn = False

    def __init__(self, limits: Limits | None, margin: float = 0.0) -> None:
        self._lock = threading.RLock()
        self._budget = Budget(limits)
        self._budget.set_limits(limits, 0, margin)
        self._estimator = Estimator()
        self._listeners: tuple[Callable[[], None], ...] = ()

    def set_limits(self, limits: Limits | None, now_ns: int, margin: float = 0.0) -> None:
        """Replace what users set."""
        with self._lock:
            self._budget.set_limits(limits, now_ns, margin)
            listeners = self._listeners
        _call(listeners)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call *listener*, on any thread, whenever a lease has ended."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        """Undo ``subscribe``."""
        with self._lock:
            self._listeners = tuple(known for known in self._listeners if known != listener)

    @property
    def open_leases(self) -> int:
        """How many attempts are on their way, those of other queues of the account too."""
        with self._lock:
            return self._budget.open_leases

    def price(self, size: PromptSize) -> TokenCost:
        """Return what a request of *size* is expected to be charged now."""
        with self._lock:
            return self._price(size)

    def too_large(self, size: PromptSize) -> TooLarge | None:
        """Return the limit that a request of *size* can never fit, or None."""
        with self._lock:
            cost = self._estimator.price(size)
            excess = self._budget.too_large(cost)
            if excess is None or size.completion is not None:
                return excess
            return self._budget.too_large(self._fitting(cost, size))

    def lease(
        self, size: PromptSize, now_ns: int, turn: LeaseApplicant | None = None
    ) -> Lease | Blocked | TooLarge | GroqQueueError:
        """Take the cost of a request of *size* from every limit, or say what is in the way; *turn* does not matter."""
        with self._lock:
            cost = self._estimator.price(size)
            granted = self._budget.lease(cost, now_ns)
            if type(granted) is Lease:
                return granted
            fitting = self._fitting(cost, size) if size.completion is None else cost
            if fitting != cost:
                granted = self._budget.lease(fitting, now_ns)
            if type(granted) is Blocked and granted.wait_ns is None:
                return self._budget.too_large(fitting) or granted
            return granted

    def withdraw(self) -> None:
        """Note that no request waits for a lease any more, which does not matter here."""

    def blocks(self, size: PromptSize, now_ns: int) -> Blocked | None:
        """Return what is in the way of a request of *size*, without taking anything."""
        with self._lock:
            return self._budget.blocks(self._price(size), now_ns)

    def settle(
        self,
        lease: Lease,
        size: PromptSize,
        usage: tuple[int, int, int] | None,
        seen: Iterable[RateHeader] | None,
        now_ns: int,
    ) -> list[str]:
        """End a lease whose request was, or may have been, charged.

        Args:
            lease: Of the attempt.
            size: Of its request.
            usage: ``(prompt, completion, cached)`` tokens, or None if the answer had none.
            seen: Limits in the headers of a successful answer; None if there was no such answer.
            now_ns: The present instant.

        Returns:
            Notices for the user.
        """
        with self._lock:
            requested, used = charged(lease.cost, usage)
            is_proven = usage is not None and bool(seen)  # only headers are held against it
            self._budget.settle(lease, requested, used, now_ns, is_proven=is_proven)
            if usage is not None and not size.is_exact:
                self._estimator.learn(size, usage[0], usage[1])
            notices = [] if seen is None else self._budget.observe(lease, seen, now_ns)
            listeners = self._listeners
        for listener in listeners:
            listener()
        return notices

    def refund(self, lease: Lease) -> None:
        """End a lease whose request was certainly not charged."""
        with self._lock:
            self._budget.refund(lease)
            listeners = self._listeners
        _call(listeners)

    def refused(self, lease: Lease, size: PromptSize, refusal: Refusal | None, wait_ns: int, now_ns: int) -> list[str]:
        """End a lease by the server's refusal; no lease is granted for *wait_ns*."""
        with self._lock:
            if refusal is not None and refusal.requested and refusal.dimension in ("TPM", "TPD"):
                self._estimator.learn_requested(size, refusal.requested)
            notices = self._budget.refused(lease, refusal, wait_ns, now_ns)
            listeners = self._listeners
        _call(listeners)
        return notices

    def pause(self, wait_ns: int, now_ns: int) -> None:
        """Grant no lease for *wait_ns*, as a server that fails has asked; a longer wait set before stays."""
        with self._lock:
            self._budget.pause(wait_ns, now_ns)

    def trouble(self, now_ns: int) -> None:
        """Note that an attempt failed by no fault of its request: a 5xx, a lost connection."""
        with self._lock:
            self._budget.pace.failed(now_ns)

    def retry_spacing_ns(self, waiting: int) -> int:
        """Return how long a failed request stays away, while the lane is slowed down, for *waiting* others."""
        with self._lock:
            return self._budget.pace.retry_spacing_ns(waiting)

    def levels(self, now_ns: int) -> list[Level]:
        """Return every limit's present state."""
        with self._lock:
            return self._budget.levels(now_ns)

    def begin(self, level: Level, age_ns: int, now_ns: int) -> None:
        """Take over how full a bucket was *age_ns* ago, in an earlier life of this program."""
        with self._lock:
            period_ns = round(level.period_s * NS_PER_S)
            self._budget.begin(level.dimension, level.limit, period_ns, level.used, age_ns, now_ns)

    def forecast(self, ahead: Backlog, size: PromptSize, flight_ns: int, now_ns: int) -> int:
        """Return the nanoseconds until a request of *size* will pass if those *ahead* of it go first.

        Args:
            ahead: The sum of what goes first.
            size: Of the request.
            flight_ns: How long an attempt takes of late.
            now_ns: The present instant.
        """
        with self._lock:
            refunds_unused, own, held = self._budget.expects_refunds, self._price(size), self._budget.held()
            expected = self._estimator.expect(ahead, refunds_unused=refunds_unused)
            # Open leases and the requests on their way then hold their whole allowance, but will not use it all.
            under_way = self._estimator.expect(
                Backlog(capped=held.completion), refunds_unused=refunds_unused
            ).completion
            ahead_cost = expected._replace(completion=expected.completion - held.completion + under_way)
            real = self._estimator.expect(Backlog().plus(size), refunds_unused=refunds_unused).tokens
            surplus = max(0.0, own.tokens / max(1, real) - 1)
            return self._budget.forecast(ahead.requests, ahead_cost, own, surplus, flight_ns, now_ns)

    def expect(self, backlog: Backlog) -> tuple[TokenCost, TokenCost]:
        """Return what *backlog* will probably be charged by the limits, and what will have to be paid for."""
        with self._lock:
            charged = self._estimator.expect(backlog, refunds_unused=self._budget.expects_refunds)
            return charged, self._estimator.expect(backlog, refunds_unused=True)

    def accounting(self) -> dict[str, tuple[int, int, int, int]]:
        """Return ``{dimension: (leased, settled, refunded, open)}``, in units."""
        with self._lock:
            return self._budget.accounting()

    def _price(self, size: PromptSize) -> TokenCost:
        cost = self._estimator.price(size)
        return self._fitting(cost, size) if size.completion is None else cost

    def _fitting(self, cost: TokenCost, size: PromptSize) -> TokenCost:
        """Lower the guessed allowance of a request without a cap: it never makes the request too large by itself."""
        if size.is_exact:
            return cost
        while (excess := self._budget.too_large(cost)) is not None:
            completion = cost.completion - (excess.cost - excess.capacity)
            if excess.cost == cost.units("ITPM") or completion < 1:
                break
            cost = cost._replace(completion=completion)
        return cost


def charged(cost: TokenCost, usage: tuple[int, int, int] | None) -> tuple[TokenCost, TokenCost]:
    """Return what the server charged at admission, as far as known, and what was really used.

    Args:
        cost: Leased.
        usage: ``(prompt, completion, cached)`` tokens, or None if the answer had none.
    """
    if usage is None:
        return cost, cost
    prompt, completion, cached = usage
    _, asked, audio_s = cost
    return cost_of((prompt, asked, audio_s)), cost_of((prompt - cached, completion, audio_s))


def _call(listeners: Iterable[Callable[[], None]]) -> None:
    for listener in listeners:
        listener()
