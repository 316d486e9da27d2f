"""Several accounts in one queue: each model's attempts and budget go to the account that serves it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from groq_queue.core.budget import Lease, Level
from groq_queue.core.request import Request
from groq_queue.engine import failures
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.lane import Meter
from groq_queue.engine.protocols import Attempts
from groq_queue.errors import ConfigurationError, GroqQueueError


class Limiter(Protocol):
    """Where the budgets of one account are counted; see ``limiters``."""

    def meter(self, lane: str, model: str) -> Meter: ...
    def levels(self, now_ns: int) -> dict[str, list[Level]]: ...
    def close(self, now_ns: int) -> None: ...


class AccountBackend:
    """One account: who sends for it and who counts for it.

    ``stopped_by`` is written by any worker and never unset; a late reader sends one more attempt, which fails alike.
    """

    def __init__(self, attempts: Attempts, limiter: Limiter) -> None:
        self.attempts = attempts
        self.limiter = limiter
        self.stopped_by: GroqQueueError | None = None


class AccountRouter:
    """Attempts and limiter at once, each by model.

    An error that stops a whole queue, such as a rejected key, stops here the models of its account only: their
    waiting requests fail with it unsent, the others go on.

    Args:
        by_model: The account of each model.
        default: Of models that are not named, or None: they are refused.
    """

    def __init__(self, by_model: Mapping[str, AccountBackend], default: AccountBackend | None) -> None:
        self._by_model = dict(by_model)
        self._default = default

    def attempt(self, request: Request, lease: Lease, meter: Meter) -> Outcome:
        """Run one attempt over the line of the request's model."""
        line = self._line(request.model)
        if line.stopped_by is not None:
            meter.refund(lease)
            return Outcome(Disposition.FAILED, error=failures.of(request, line.stopped_by))
        outcome = line.attempts.attempt(request, lease, meter)
        if outcome.next is not Disposition.STOP_ALL:
            return outcome
        line.stopped_by = outcome.error
        return outcome._replace(next=Disposition.FAILED)

    def meter(self, lane: str, model: str) -> Meter:
        """Return the one meter of *lane*.

        Raises:
            ConfigurationError: No account serves *model*.
        """
        return self._line(model).limiter.meter(lane, model)

    def close(self, now_ns: int) -> None:
        """Withdraw this queue's limits from every account."""
        for line in self._lines():
            line.limiter.close(now_ns)

    def levels(self, now_ns: int) -> dict[str, list[Level]]:
        """Return every limit's present state, by lane.

        An account may have lanes that other queues of the process use; a lane counts only with the account that
        serves its model here.
        """
        return {
            lane: levels
            for line in self._lines()
            for lane, levels in line.limiter.levels(now_ns).items()
            if self._by_model.get(lane.partition(" (")[0], self._default) is line
        }

    def _lines(self) -> set[AccountBackend]:
        return {line for line in (*self._by_model.values(), self._default) if line is not None}

    def _line(self, model: str) -> AccountBackend:
        line = self._by_model.get(model, self._default)
        if line is None:
            known = ", ".join(sorted(self._by_model))
            raise ConfigurationError(
                f"model={model!r:.100}: no account serves it (known: {known}); add it to accounts, "
                "or give api_key for all others"
            )
        return line
