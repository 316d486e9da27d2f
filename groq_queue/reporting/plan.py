"""What an estimate says, and how it is shown.

Units: tokens, requests, seconds, USD.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from groq_queue.core.limits import DIMENSIONS
from groq_queue.display import Table, as_html, as_text, duration_text

_SHOWN = 10  # requests that are too large, in a table


@dataclass(frozen=True)
class Unsendable:
    """A request that can never be sent as it is.

    Attributes:
        index: Its place in the load, from 0.
        custom_id: Its own id, or None.
        cost: Units it may use.
        capacity: Units the limit holds.
        limit: Name of the limit, such as ``"TPM"``.
    """

    index: int
    custom_id: str | None
    cost: int
    capacity: int
    limit: str

    @property
    def lower_by(self) -> int:
        """By how much its prompt or ``max_completion_tokens`` has to become smaller."""
        return self.cost - self.capacity


@dataclass(frozen=True)
class DailyStop:
    """Where a limit per day stops one model.

    Attributes:
        model: The model.
        limit: Name of the limit, such as ``"RPD"``.
        fits: Requests of this model that go before.
        after_s: Seconds from the start at which the next one is held up.
        waits_s: Seconds it then waits, since the limit drains all day.
    """

    model: str
    limit: str
    fits: int
    after_s: float
    waits_s: float


@dataclass(frozen=True)
class ModelEstimate:
    """One model's part.

    Attributes:
        name: The model, and its service tier if it is not the usual one.
        requests: That can be sent.
        prompt_tokens, completion_tokens: To be paid for.
        cost: USD, or None if the model has no known price.
        seconds: Until its last answer, as far as known limits and workers tell.
        bottleneck: The limit that says so, such as ``"TPM"``, or ``"workers"``.
        bottleneck_limit: Its units per period, or None for workers.
    """

    name: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    seconds: float
    bottleneck: str
    bottleneck_limit: int | None


@dataclass(frozen=True)
class Estimate:
    """What a load will take.

    Attributes:
        requests: That can be sent.
        prompt_tokens, completion_tokens: To be paid for.
        cost: USD, or None if a model has no known price.
        seconds: Until the last answer; a limit per day is waited for.
        bottleneck: What says so: a limit such as ``"TPM"``, or ``"workers"``.
        models: One per model.
        daily: Where limits per day stop a model.
        too_large: The first 1,000 requests that can never be sent as they are.
        too_large_count: How many there are.
        unknown_limits: Models whose limits are not known; then *seconds* is the least.
        latency_s, max_workers: What was assumed.
    """

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    seconds: float
    bottleneck: str
    models: tuple[ModelEstimate, ...]
    daily: tuple[DailyStop, ...]
    too_large: tuple[Unsendable, ...]
    too_large_count: int
    unknown_limits: tuple[str, ...]
    latency_s: float
    max_workers: int

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-like objects."""
        told = asdict(self)
        for entry, each in zip(told["too_large"], self.too_large, strict=True):
            entry["lower_by"] = each.lower_by
        return told

    def tables(self) -> list[Table]:
        """Return all of it as tables."""
        return [
            Table("estimate", ("", ""), self._rows()),
            Table(
                "models",
                ("model", "requests", "tokens", "cost, USD", "takes", "bound by"),
                [_model_row(model) for model in self.models] if len(self.models) > 1 else [],
            ),
            Table(
                "limits per day that will be reached",
                ("model", "limit", "fit before", "after", "then wait"),
                [
                    (each.model, each.limit, each.fits, duration_text(each.after_s), duration_text(each.waits_s))
                    for each in self.daily
                ],
            ),
            Table(
                f"too large to be ever sent: {self.too_large_count:,}",
                ("request", "may use", "of", "limit", "lower by"),
                [
                    (each.custom_id or f"number {each.index}", each.cost, each.capacity, each.limit, each.lower_by)
                    for each in self.too_large[:_SHOWN]
                ],
            ),
        ]

    def __str__(self) -> str:
        return as_text(self.tables())

    def _repr_html_(self) -> str:
        """Render as tables in a notebook."""
        return as_html(self.tables())

    def _rows(self) -> list[tuple[str, str]]:
        unpriced = [model.name for model in self.models if model.cost is None]
        cost = f"no price of {', '.join(unpriced[:3])} is known" if self.cost is None else f"{self.cost:.6f} USD"
        slowest = max(self.models, key=lambda model: model.seconds, default=None)
        rows = [
            ("requests", f"{self.requests:,}"),
            ("tokens", f"{self.prompt_tokens:,} prompt, {self.completion_tokens:,} completion"),
            ("cost", cost),
            ("takes", ("at least " if self.unknown_limits else "") + duration_text(self.seconds)),
            ("bound by", _bound(self.bottleneck, slowest)),
            ("if an answer takes", f"{duration_text(self.latency_s)}, {self.max_workers:,} at a time"),
        ]
        if self.unknown_limits:
            rows.append(("limits not known", f"{', '.join(self.unknown_limits[:3])}: give them for the real time"))
        return rows


def _model_row(model: ModelEstimate) -> tuple[str | int, ...]:
    return (
        model.name,
        model.requests,
        model.prompt_tokens + model.completion_tokens,
        "?" if model.cost is None else f"{model.cost:.6f}",
        duration_text(model.seconds),
        _bound(model.bottleneck, model),
    )


def _bound(bottleneck: str, model: ModelEstimate | None) -> str:
    if model is None or bottleneck not in DIMENSIONS or model.bottleneck_limit is None:
        return bottleneck
    return f"{DIMENSIONS[bottleneck]}, {model.bottleneck_limit:,}"
