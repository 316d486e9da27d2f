"""Whether a request can ever be sent, and what its turn costs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from groq_queue.core.budget import TooLarge
from groq_queue.core.price_table import PriceTable
from groq_queue.core.request import Request, lower_cap
from groq_queue.engine import failures
from groq_queue.errors import ConfigurationError
from groq_queue.wiring.accounts import Limiter


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
