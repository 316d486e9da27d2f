"""The report of a run: what was sent, what came of it, who waited how long, how well the limits were used.

It can be taken at any time and written as JSON, so that the figure of a run can be
drawn long after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from groq_queue.clock import NS_PER_S
from groq_queue.core.budget import Level
from groq_queue.core.limits import DIMENSIONS
from groq_queue.core.price_table import PriceTable
from groq_queue.core.priority import level_name
from groq_queue.core.quantiles import QuantileSketch
from groq_queue.core.token_estimate import TokenCost
from groq_queue.display import Table, as_html, as_text, duration_text
from groq_queue.engine.metrics import LaneFacts, RunFacts
from groq_queue.engine.stats import Stats
from groq_queue.errors import ConfigurationError

_VERSION = 1
_SHOWN_CLIENTS = 20


@dataclass(frozen=True)
class LimitUsage:
    """How well one limit was used.

    Attributes:
        dimension: Such as ``"TPM"``.
        limit: Its units per period.
        period_s: Seconds of its period.
        used: Units that counted against it, as far as known.
        share: Of what the limit allowed from the lane's first start to its last, a full bucket included.
    """

    dimension: str
    limit: int
    period_s: float
    used: int
    share: float


@dataclass(frozen=True)
class ModelReport:
    """What one model did.

    Attributes:
        name: The model, and its service tier if it is not the usual one.
        attempts, answered, refused: Attempts, and what became of them.
        prompt_tokens, completion_tokens: To be paid for, cached ones counted half.
        cost: USD, or None if the model has no known price.
        uses: Every limit that can be told, the best used first.
        begin_s: Seconds from the beginning of the timeline to its first start.
        bins: ``(attempts, answered, refused, tokens)`` of each bin of the timeline.
    """

    name: str
    attempts: int
    answered: int
    refused: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    uses: tuple[LimitUsage, ...]
    begin_s: float
    bins: tuple[tuple[int, int, int, int], ...]

    @property
    def binding(self) -> LimitUsage | None:
        """The limit that was used best, or None if none is known."""
        return self.uses[0] if self.uses else None


@dataclass(frozen=True)
class Waits:
    """How long one group of requests waited from submit to its first start, within one per cent.

    Attributes:
        group: ``"all"``, ``"level"`` or ``"client"``.
        name: Of the level or client; ``"(others)"`` for the clients after the first hundred.
        requests: How many were started.
        p50, p90, p99, longest: Seconds.
    """

    group: str
    name: str
    requests: int
    p50: float
    p90: float
    p99: float
    longest: float


@dataclass(frozen=True)
class Report:
    """A run from its first request to now.

    Attributes:
        seconds: From the first submit to the last start or end of an attempt.
        submitted, completed, failed, cancelled, expired, pending, in_flight: Requests.
        attempts, refused, retried: Attempts, those refused by the server's limiter, and retries.
        retries: ``{cause: retries}``, the most frequent first.
        prompt_tokens, completion_tokens: To be paid for, cached ones counted half.
        cost: USD spent on models with a known price.
        waits: Of all, by level, by client.
        models: One per model used, the busiest first.
        bin_s: Seconds of one bin of the timeline.
    """

    seconds: float
    submitted: int
    completed: int
    failed: int
    cancelled: int
    expired: int
    pending: int
    in_flight: int
    attempts: int
    refused: int
    retried: int
    retries: dict[str, int]
    prompt_tokens: int
    completion_tokens: int
    cost: float
    waits: tuple[Waits, ...]
    models: tuple[ModelReport, ...]
    bin_s: float

    @property
    def utilisation(self) -> float | None:
        """Used share of the limit that bound the run, or None if no limit is known."""
        shares = [model.binding.share for model in self.models if model.binding is not None]
        return max(shares, default=None)

    def tables(self) -> list[Table]:
        """Return all of it as tables."""
        names = ("submitted", "completed", "failed", "cancelled", "expired", "pending", "in_flight")
        rows: list[tuple[str, str]] = [
            (name.replace("_", " "), f"{count:,}")
            for name in names
            if (count := getattr(self, name)) or name in ("submitted", "completed", "failed")
        ]
        rows += [
            ("attempts", f"{self.attempts:,}"),
            ("refused (429)", f"{self.refused:,}"),
            ("tokens", f"{self.prompt_tokens:,} prompt, {self.completion_tokens:,} completion"),
            ("cost", f"{self.cost:.6f} USD" + self._unpriced()),
            ("took", duration_text(self.seconds)),
        ]
        return [
            Table("run", ("", ""), rows),
            Table("retries by cause", ("cause", "retries"), list(self.retries.items())),
            Table(
                "models",
                ("model", "sent", "answered", "429s", "tokens", "cost, USD", "binding limit", "used"),
                [_model_row(model) for model in self.models],
            ),
            Table(
                "waits from submit to start",
                ("of", "requests", "p50", "p90", "p99", "longest"),
                [_waits_row(waits) for waits in _few(self.waits)],
            ),
        ]

    def __str__(self) -> str:
        return as_text(self.tables())

    def _repr_html_(self) -> str:
        """Render as tables in a notebook."""
        return as_html(self.tables())

    def to_json(self) -> str:
        """Return it as one JSON object on one line."""
        return json.dumps({"groq_queue_report": _VERSION, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Report:
        """Read what ``to_json`` has written.

        Raises:
            ConfigurationError: It is something else.
        """
        try:
            stored = json.loads(text)
            if stored["groq_queue_report"] != _VERSION:
                raise ConfigurationError(f"report: its version {stored['groq_queue_report']!r:.20} is not {_VERSION}")
            return _report_from(stored)
        except ConfigurationError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ConfigurationError("report: this is not what run --report or Report.to_json wrote") from error

    def to_svg(self) -> str:
        """Draw answers and 429s over time, and how well the limits were used; needs no extra."""
        from groq_queue.reporting.plot import report_svg

        return report_svg(self)

    def plot(self) -> Any:
        """Draw the same with matplotlib.

        Returns:
            A ``matplotlib.figure.Figure``, which a notebook shows by itself.

        Raises:
            MissingExtraError: The ``plots`` extra is not installed.
        """
        from groq_queue.reporting.plot import plot

        return plot(self)

    def _unpriced(self) -> str:
        names = [model.name for model in self.models if model.cost is None]
        return f" plus {', '.join(names[:3])}, whose price is not known" if names else ""


def report_of(stats: Stats, facts: RunFacts, price_table: PriceTable) -> Report:
    """Make a report of a snapshot."""
    levels = {lane.name: lane.limits for lane in stats.lanes}
    models = [_model_of(lane, levels.get(lane.name, ()), facts, price_table) for lane in facts.lanes]
    return Report(
        seconds=max(0, facts.ended_ns - facts.began_ns) / NS_PER_S,
        submitted=stats.submitted,
        completed=stats.completed,
        failed=stats.failed,
        cancelled=stats.cancelled,
        expired=stats.expired,
        pending=stats.pending,
        in_flight=stats.in_flight,
        attempts=stats.attempts,
        refused=stats.refused,
        retried=stats.retried,
        retries=facts.retries,
        prompt_tokens=stats.prompt_tokens,
        completion_tokens=stats.completion_tokens,
        cost=stats.cost,
        waits=tuple(_waits_of(facts)),
        models=tuple(sorted(models, key=lambda model: -model.attempts)),
        bin_s=facts.width_ns / NS_PER_S,
    )


def _model_of(lane: LaneFacts, levels: tuple[Level, ...], facts: RunFacts, price_table: PriceTable) -> ModelReport:
    price = price_table.price(lane.model, TokenCost(lane.prompt_tokens, lane.completion_tokens))
    uses = [use for level in levels if (use := _use_of(lane, level)) is not None]
    return ModelReport(
        name=lane.name,
        attempts=lane.attempts,
        answered=lane.answered,
        refused=lane.refused,
        prompt_tokens=lane.prompt_tokens,
        completion_tokens=lane.completion_tokens,
        cost=None if price is None else price / 1e12,
        uses=tuple(sorted(uses, key=lambda use: -use.share)),
        begin_s=max(0, lane.first_ns - facts.origin_ns) / NS_PER_S,
        bins=tuple((each[0], each[1], each[2], each[3]) for each in lane.bins),
    )


def _use_of(lane: LaneFacts, level: Level) -> LimitUsage | None:
    if level.dimension in ("ASPH", "ASPD"):
        return None  # an answer does not tell how long its audio was
    if level.dimension in ("RPM", "RPD"):
        used = lane.attempts - lane.refused
    else:
        used = TokenCost(lane.prompt_tokens, lane.completion_tokens).units(level.dimension)
    allowed = level.limit * (1 + (lane.last_ns - lane.first_ns) / NS_PER_S / level.period_s)
    return LimitUsage(level.dimension, level.limit, level.period_s, used, used / allowed)


def _waits_of(facts: RunFacts) -> list[Waits]:
    every = QuantileSketch()
    for sketch in facts.waits_by_level.values():
        every.merge(sketch)
    waits = [_waits("all", "all", every)] if every.count else []
    waits += [_waits("level", level_name(level), found) for level, found in sorted(facts.waits_by_level.items())]
    named = sorted(facts.waits_by_client.items(), key=lambda entry: (entry[0] is None, -entry[1].count))
    waits += [_waits("client", "(others)" if name is None else name, found) for name, found in named]
    return waits


def _waits(group: str, name: str, sketch: QuantileSketch) -> Waits:
    p50, p90, p99 = (sketch.quantile(fraction) / NS_PER_S for fraction in (0.5, 0.9, 0.99))
    return Waits(group, name, sketch.count, p50, p90, p99, sketch.largest / NS_PER_S)


def _few(waits: tuple[Waits, ...]) -> list[Waits]:
    """Leave out the clients that a table has no room for, and a lone client, whose row would repeat the first."""
    clients = [each for each in waits if each.group == "client"]
    shown = clients[:_SHOWN_CLIENTS] if len(clients) > 1 else []
    return [each for each in waits if each.group != "client"] + shown


def _waits_row(waits: Waits) -> tuple[str, int, str, str, str, str]:
    whose = waits.name if waits.group == "all" else f"{waits.group} {waits.name}"
    seconds = (waits.p50, waits.p90, waits.p99, waits.longest)
    p50, p90, p99, longest = (duration_text(each) for each in seconds)
    return whose, waits.requests, p50, p90, p99, longest


def _model_row(model: ModelReport) -> tuple[str | int, ...]:
    use = model.binding
    return (
        model.name,
        model.attempts,
        model.answered,
        model.refused,
        model.prompt_tokens + model.completion_tokens,
        "?" if model.cost is None else f"{model.cost:.6f}",
        "" if use is None else f"{use.limit:,} {use.dimension}",
        "" if use is None else f"{use.share:.1%}",
    )


# What was written, read again: every field is made what it has to be, so that a bent file fails here.


def _report_from(stored: Mapping[str, Any]) -> Report:
    counts = (
        *("submitted", "completed", "failed", "cancelled", "expired", "pending", "in_flight"),
        *("attempts", "refused", "retried", "prompt_tokens", "completion_tokens"),
    )
    return Report(
        **{name: int(stored[name]) for name in counts},
        seconds=float(stored["seconds"]),
        cost=float(stored["cost"]),
        bin_s=float(stored["bin_s"]),
        retries={str(cause): int(count) for cause, count in stored["retries"].items()},
        waits=tuple(_waits_from(each) for each in stored["waits"]),
        models=tuple(_model_from(each) for each in stored["models"]),
    )


def _waits_from(stored: Mapping[str, Any]) -> Waits:
    seconds = (float(stored[name]) for name in ("p50", "p90", "p99", "longest"))
    return Waits(str(stored["group"]), str(stored["name"]), int(stored["requests"]), *seconds)


def _model_from(stored: Mapping[str, Any]) -> ModelReport:
    counts = ("attempts", "answered", "refused", "prompt_tokens", "completion_tokens")
    return ModelReport(
        name=str(stored["name"]),
        **{name: int(stored[name]) for name in counts},
        cost=None if stored["cost"] is None else float(stored["cost"]),
        uses=tuple(_use_from(each) for each in stored["uses"]),
        begin_s=float(stored["begin_s"]),
        bins=tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in stored["bins"]),
    )


def _use_from(stored: Mapping[str, Any]) -> LimitUsage:
    dimension = str(stored["dimension"])
    if dimension not in DIMENSIONS:
        raise ConfigurationError(f"report: dimension={dimension!r:.50} is none that is metered")
    limit, used = int(stored["limit"]), int(stored["used"])
    return LimitUsage(dimension, limit, float(stored["period_s"]), used, float(stored["share"]))
