"""What tokens cost, and a spending cap that is never exceeded.

Amounts are whole picodollars (10^-12 USD): a price of 0.05 USD per million
tokens is 50,000 of them per token, so sums are exact.

Source: https://groq.com/pricing, as quoted in 2026-06; prices change, so pass
your own where it matters. An unknown model has no price, never a price of zero.
"""

from __future__ import annotations

from collections.abc import Mapping

from groq_queue.core.token_estimate import TokenCost
from groq_queue.errors import ConfigurationError, safe_repr

PRICES_AS_OF = "2026-06"

PRICES: dict[str, tuple[float, float]] = {
    "llama-3.1-8b-instant": (0.05, 0.08),
    "llama-3.3-70b-versatile": (0.59, 0.79),
    "openai/gpt-oss-120b": (0.15, 0.60),
    "openai/gpt-oss-20b": (0.075, 0.30),
    "openai/gpt-oss-safeguard-20b": (0.075, 0.30),
    "meta-llama/llama-4-scout-17b-16e-instruct": (0.11, 0.34),
    "meta-llama/llama-4-maverick-17b-128e-instruct": (0.20, 0.60),
    "moonshotai/kimi-k2-instruct-0905": (1.00, 3.00),
    "qwen/qwen3-32b": (0.29, 0.59),
}
"""USD per million prompt tokens and per million completion tokens, by model."""

_PICO = 10**12


class PriceTable:
    """Prices by model.

    Args:
        prices: ``{model: (prompt, completion)}`` in USD per million tokens; they
            override and extend the built-in table.

    Raises:
        ConfigurationError: A price is not a pair of numbers >= 0.
    """

    def __init__(self, prices: Mapping[str, tuple[float, float]] | None = None) -> None:
        if prices is not None and not isinstance(prices, Mapping):
            raise ConfigurationError(
                f"prices={safe_repr(prices)}: use {{model: (prompt, completion)}}, USD per million tokens"
            )
        self._per_token: dict[str, tuple[int, int]] = {}
        for model, pair in {**PRICES, **(prices or {})}.items():
            try:
                if not isinstance(pair, (tuple, list)) or any(isinstance(price, (bool, str)) for price in pair):
                    raise TypeError  # "12" and {1, 2} have two parts as well
                prompt, completion = (round(float(price) * 1_000_000) for price in pair)
            except (TypeError, ValueError, OverflowError):
                prompt = completion = -1
            if prompt < 0 or completion < 0:
                raise ConfigurationError(
                    f"prices[{safe_repr(model, 50)}]={safe_repr(pair)}: use a pair of numbers >= 0, "
                    "USD per million prompt and completion tokens"
                )
            if not isinstance(model, str):
                raise ConfigurationError(f"prices[{safe_repr(model, 50)}]: use the name of a model, a str")
            self._per_token[model] = (prompt, completion)

    def price(self, model: str, cost: TokenCost) -> int | None:
        """Return what *cost* is worth in picodollars, or None if *model* has no price."""
        per_token = self._per_token.get(model)
        if per_token is None:
            return None
        return cost.prompt * per_token[0] + cost.completion * per_token[1]


class SpendCap:
    """A cap on spending: reserved before sending, corrected afterwards.

    Not thread-safe: the engine's lock guards it. ``spent + reserved`` never
    exceeds the cap by a reservation; a real cost above its reservation may.

    Args:
        max_usd: The cap, or None for none.
    """

    def __init__(self, max_usd: float | None) -> None:
        self._cap = None if max_usd is None else round(max_usd * _PICO)
        self.spent = 0
        self.reserved = 0

    def reserve(self, amount: int) -> bool:
        """Set *amount* aside, if the cap leaves room for it."""
        if self._cap is not None and self.spent + self.reserved + amount > self._cap:
            return False
        self.reserved += amount
        return True

    def settle(self, amount: int, actual: int) -> None:
        """Turn a reservation into what was really charged."""
        self.reserved -= amount
        self.spent += actual

    def inherit(self, other: SpendCap) -> None:
        """Count as spent what *other* has spent or set aside: its requests may still be charged."""
        self.spent = other.spent + other.reserved

    def can_ever_hold(self, amount: int) -> bool:
        """Return whether *amount* would fit if everything reserved came back unused."""
        return self._cap is None or self.spent + amount <= self._cap

    @property
    def is_capped(self) -> bool:
        """Whether there is a cap at all."""
        return self._cap is not None

    @property
    def spent_usd(self) -> float:
        """What was spent so far, in USD."""
        return self.spent / _PICO
