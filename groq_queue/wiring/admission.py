"""The way into a queue: whether a request can ever be sent, what its turn costs, and who gets it then."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from groq_queue.core.budget import TooLarge
from groq_queue.core.price_table import PriceTable
from groq_queue.core.request import Request, lower_cap
from groq_queue.core.response import Completion
from groq_queue.engine import failures
from groq_queue.engine.future import RequestFuture
from groq_queue.engine.protocols import Engine
from groq_queue.errors import ConfigurationError
from groq_queue.wiring.accounts import Limiter

if TYPE_CHECKING:
    from groq_queue.wiring.durable import JournalBridge


class Admission:
    """Prices requests before they are queued, and refuses those that no limit ever lets through.

    Args:
        limiter: Knows the limits.
        price_table: Prices.
        is_capped: There is a ``max_cost``, so a model without a price is refused.
        by_tokens: Clients share tokens equally, not requests.

    Attributes:
        critical_section: Returns the engine's re-entrant lock, once there is an engine. Workers ask meters under it;
            without it here, a signal handler that shuts the queue down while a meter is asked would wait for a worker
            that waits for the meter.
    """

    def __init__(self, limiter: Limiter, price_table: PriceTable, *, is_capped: bool, by_tokens: bool) -> None:
        self._limiter = limiter
        self._price_table = price_table
        self._is_capped = is_capped
        self._by_tokens = by_tokens
        self.critical_section: Callable[[], AbstractContextManager[Any]] = nullcontext

    def prepare(self, request: Request) -> None:
        """Set what the turn of *request* costs; one that may be shrunk is made to fit.

        Raises:
            RequestTooLarge: It costs more than a limit ever holds.
            ConfigurationError: Its model has no price, which ``max_cost`` needs.
        """
        excess = self._excess(request)
        while excess is not None and request.shrinks and request.body is not None:
            fitting = lower_cap(request.body, excess.cost - excess.capacity)
            if fitting is None:
                break
            request.body, completion = fitting
            request.size = request.size._replace(completion=completion)
            excess = self._excess(request)
        if excess is not None:
            raise failures.too_large(request, excess)
        if not self._is_capped and not self._by_tokens:
            return
        with self.critical_section():
            cost = self._limiter.meter(request.lane, request.model).price(request.size)
        if self._is_capped and self._price_table.price(request.model, cost) is None:
            raise ConfigurationError(
                f"max_cost: no price of model {request.model!r} is known; pass prices={{{request.model!r}: (…, …)}}"
            )
        if self._by_tokens:
            request.turn_cost = max(1, cost.tokens)

    def _excess(self, request: Request) -> TooLarge | None:
        """Return which limit is too small for it, or None."""
        with self.critical_section():
            return self._limiter.meter(request.lane, request.model).too_large(request.size)


class _Submitting(threading.local):
    """How many submits the calling thread is in the middle of."""

    depth = 0


class Intake:
    """Takes requests in: prices each, stores it if there is a journal, and gives it to the engine."""

    def __init__(self, admission: Admission, bridge: JournalBridge | None, engine: Engine) -> None:
        self._admission = admission
        self._bridge = bridge
        self._engine = engine
        self._submitting = _Submitting()

    def accept(
        self, request: Request, callback: Callable[[Future[Completion]], object] | None
    ) -> RequestFuture[Completion]:
        """Return the Future of a request that is queued now; see ``GroqQueue.submit`` for what is raised."""
        self._submitting.depth += 1
        try:
            if self._bridge is not None:
                return self._bridge.submit(request, callback)
            self._admission.prepare(request)
            return self._engine.submit(request, callback=callback)
        finally:
            self._submitting.depth -= 1

    def is_interrupted(self) -> bool:
        """Return whether the caller is a signal handler that has interrupted a submit of the same thread."""
        return self._submitting.depth > 0
