"""What a load will take, before anything is sent: tokens, money, time, and which limit says so.

The same meters price it that would let it pass. The time follows from the law they
meter by: a bucket that begins empty passes its limit at once and then drains at
limit / period, so what exceeds the limit has to drain. All requests are taken to be
there from the start; then their order does not matter, only their sum.

Units: tokens, requests, seconds, USD.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from groq_queue.core.budget import Level
from groq_queue.core.limits import DAILY, DIMENSIONS, Limits
from groq_queue.core.price_table import PriceTable
from groq_queue.core.request import build_payload, encode_payload, lane_of, tier_of
from groq_queue.core.token_estimate import Backlog, PromptSize, TokenCost, size_of
from groq_queue.core.validation import check_count, check_limits, check_path, check_seconds, check_text
from groq_queue.display import Table, as_html, as_text, duration_text
from groq_queue.engine.lane import Meter
from groq_queue.errors import ConfigurationError, safe_repr
from groq_queue.limiters.in_process import ProcessMeter

if TYPE_CHECKING:
    pass

_SHOWN = 10  # requests that are too large, in a table
_KEPT = 1_000  # requests that are too large, of which the numbers are kept


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
        fields = asdict(self)
        for entry, each in zip(fields["too_large"], self.too_large, strict=True):
            entry["lower_by"] = each.lower_by
        return fields

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
                ("model", "limit", "sent before", "after", "then waits"),
                [
                    (each.model, each.limit, each.fits, duration_text(each.after_s), duration_text(each.waits_s))
                    for each in self.daily
                ],
            ),
            Table(
                f"too large ever to be sent: {self.too_large_count:,}",
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


class Sized(NamedTuple):
    """One request of a load: its place, its custom_id, and what is known of its cost."""

    place: int
    custom_id: str | None
    model: str
    tier: str | None
    size: PromptSize


def fresh_meters(limits: Limits | Mapping[str, Limits] | None) -> Callable[[str, str], Meter]:
    """Return a maker of meters that have seen nothing yet, by lane and model."""
    known = check_limits(limits)
    return lambda lane, model: ProcessMeter(known.get(model) if isinstance(known, dict) else known)


def sized_prompts(
    prompts: Iterable[Any],
    model: str | None,
    endpoint: str,
    params: Mapping[str, Any],
    tokens: int | None = None,
    audio_seconds: float | None = None,
) -> Iterator[Sized]:
    """Return the requests that *prompts* would make, one at a time.

    Args:
        prompts: What ``submit`` takes, as are *model* and *endpoint*.
        model: Used where a prompt names none.
        endpoint: Of all of them.
        params: Part of every payload.
        tokens: The price of each, in place of our estimate.
        audio_seconds: Length of the audio of each.

    Raises:
        ConfigurationError: At once, if an argument cannot be used; later, if a prompt cannot.
    """
    path = check_path("endpoint", endpoint)
    check_text("model", model, optional=True)
    check_count("tokens", tokens, optional=True)
    audio_s = check_seconds("audio_seconds", audio_seconds) or 0
    encode_payload(params)
    if isinstance(prompts, (str, bytes, Mapping)) or not isinstance(prompts, Iterable):
        raise ConfigurationError(
            f"prompts={safe_repr(prompts)}: pass many, such as a list; for a single one, a list of it"
        )

    def each() -> Iterator[Sized]:
        for index, prompt in enumerate(prompts):
            try:
                payload = build_payload(prompt, None, model, params, path)
            except ConfigurationError as error:
                raise ConfigurationError(f"prompts[{index}]: {error}") from None
            yield Sized(index, None, payload["model"], tier_of(payload), size_of(payload, tokens, audio_s))

    return each()


def estimate_load(
    load: Iterable[Sized],
    *,
    meter_of: Callable[[str, str], Meter],
    price_table: PriceTable,
    latency_s: float,
    max_workers: int,
    output_share: float | None = None,
    now_ns: int = 0,
) -> Estimate:
    """Add *load* up; it is read once, and memory does not grow with it.

    Args:
        load: The requests, in their order.
        meter_of: Returns the budget of a lane, given its name and its model.
        price_table: Prices.
        latency_s: Seconds an answer takes.
        max_workers: Most requests on their way at once.
        output_share: Share of the completion allowance that is used; None asks the meters.
        now_ns: The present instant of the meters.

    Raises:
        ConfigurationError: An argument cannot be used.
    """
    check_seconds("latency", latency_s, optional=False)
    check_count("max_workers", max_workers)
    if output_share is not None and (
        isinstance(output_share, bool) or not isinstance(output_share, (int, float)) or not 0 < output_share <= 1
    ):
        raise ConfigurationError(
            f"output_share={safe_repr(output_share, 50)}: use a number above 0 and at most 1, or None"
        )
    lanes: dict[str, _Lane] = {}
    too_large: list[Unsendable] = []
    too_large_count = requests = 0
    for each in load:
        name = lane_of(each.model, each.tier)
        lane = lanes.get(name)
        if lane is None:
            meter = meter_of(name, each.model)
            lane = lanes[name] = _Lane(name, each.model, meter, meter.levels(now_ns), latency_s, output_share)
        excess = lane.meter.too_large(each.size)
        if excess is None:
            requests += 1
            lane.add(each.size, requests * latency_s / max_workers)
            continue
        too_large_count += 1
        if len(too_large) < _KEPT:
            too_large.append(Unsendable(each.place, each.custom_id, excess.cost, excess.capacity, excess.dimension))
    models = [lane.estimate(price_table, max_workers) for lane in lanes.values() if lane.backlog.requests]
    slowest = max(models, key=lambda model: model.seconds, default=None)
    by_workers_s = requests * latency_s / max_workers
    is_bound = slowest is not None and slowest.seconds > by_workers_s
    costs = [model.cost for model in models]
    return Estimate(
        requests=requests,
        prompt_tokens=sum(model.prompt_tokens for model in models),
        completion_tokens=sum(model.completion_tokens for model in models),
        cost=None if None in costs else sum(cost for cost in costs if cost is not None),
        seconds=slowest.seconds if slowest is not None and is_bound else by_workers_s,
        bottleneck=slowest.bottleneck if slowest is not None and is_bound else "workers",
        models=tuple(sorted(models, key=lambda model: -model.seconds)),
        daily=tuple(lane.daily for lane in lanes.values() if lane.daily is not None),
        too_large=tuple(too_large),
        too_large_count=too_large_count,
        unknown_limits=tuple(lane.name for lane in lanes.values() if not lane.levels),
        latency_s=latency_s,
        max_workers=max_workers,
    )


class _Lane:
    """One model's load so far."""

    def __init__(
        self, name: str, model: str, meter: Meter, levels: list[Level], latency_s: float, output_share: float | None
    ) -> None:
        self.name, self.model, self.meter, self.levels = name, model, meter, levels
        self.backlog = Backlog()
        self.daily: DailyStop | None = None
        self._latency_s = latency_s
        self._output_share = output_share
        self._priced = TokenCost(0)  # the sum of what each holds while it is under way
        self._has_daily = any(level.dimension in DAILY for level in levels)

    def add(self, size: PromptSize, by_workers_s: float) -> None:
        """Count one more request, which workers alone would let start after *by_workers_s*."""
        self.backlog = self.backlog.plus(size)
        own = self.meter.price(size)
        self._priced = TokenCost(*(a + b for a, b in zip(self._priced, own, strict=True)))
        if self._has_daily and self.daily is None:
            self.daily = self._stop(by_workers_s)

    def estimate(self, price_table: PriceTable, max_workers: int) -> ModelEstimate:
        """Return this lane's part."""
        charged, paid = self._expected()
        price = price_table.price(self.model, paid)
        wait_s, level = self._drain(charged, self.levels, max_workers)
        workers_s = self.backlog.requests * self._latency_s / max_workers
        # What is on its way does not drain, so the first answers come before the first drop.
        limited_s = wait_s + 2 * self._latency_s if wait_s else self._latency_s
        is_bound = level is not None and limited_s >= workers_s
        return ModelEstimate(
            name=self.name,
            requests=self.backlog.requests,
            prompt_tokens=paid.prompt,
            completion_tokens=paid.completion,
            cost=None if price is None else price / 1e12,
            seconds=max(limited_s, workers_s),
            bottleneck=level.dimension if level is not None and is_bound else "workers",
            bottleneck_limit=level.limit if level is not None and is_bound else None,
        )

    def _expected(self) -> tuple[TokenCost, TokenCost]:
        """Return what will be charged by the limits, and what will have to be paid for."""
        charged, paid = self.meter.expect(self.backlog)
        if self._output_share is not None:
            completion = round(self._priced.completion * self._output_share)
            charged, paid = charged._replace(completion=completion), paid._replace(completion=completion)
        return charged, paid

    def _drain(self, charged: TokenCost, levels: Iterable[Level], max_workers: int = 0) -> tuple[float, Level | None]:
        """Return how long it takes until all that is *charged* has fitted, and the limit that takes longest."""
        longest_s, slowest = 0.0, None
        for level in levels:
            units = charged.units(level.dimension)
            surplus = 0.0
            if level.dimension in ("RPM", "RPD"):
                units = self.backlog.requests
            elif units:
                # Those under way hold their whole allowance, though they will not use it all.
                each = self._priced.units(level.dimension) / self.backlog.requests
                real = units / self.backlog.requests
                under_way = min(max_workers, level.limit / level.period_s * self._latency_s / real)
                surplus = max(0.0, each - real) * under_way
            wait_s = (level.used + units + surplus - level.limit) * level.period_s / level.limit
            if wait_s > longest_s:
                longest_s, slowest = wait_s, level
        return longest_s, slowest

    def _stop(self, by_workers_s: float) -> DailyStop | None:
        """Return which limit per day holds up the last request, if one does when its turn comes."""
        charged, _ = self._expected()
        minutes = [level for level in self.levels if level.dimension not in DAILY]
        after_s = max(by_workers_s, self._drain(charged, minutes)[0])
        days = [level for level in self.levels if level.dimension in DAILY]
        wait_s, level = self._drain(charged, days)
        if level is None or wait_s <= after_s:
            return None
        return DailyStop(self.name, level.dimension, self.backlog.requests - 1, after_s, wait_s - after_s)


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
