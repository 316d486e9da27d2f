"""A queue's figures for Prometheus, read at scrape time: nothing is counted twice and nothing runs in between.

    from groq_queue.integrations import prometheus

    prometheus.register(queue)                       # into the default registry
    prometheus.register({"bulk": one, "chat": two})  # several, told apart by the label ``queue``

Names begin with ``groq_queue_``, units are base units. Labels hold models, priorities,
dimensions and the names given here; never clients or custom_ids, which have no bound.

Needs the extra ``prometheus``.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from groq_queue.core.checks import check_text
from groq_queue.engine.stats import Stats
from groq_queue.errors import ConfigurationError, MissingExtraError, shown
from groq_queue.facade import GroqQueue

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

_Labels: TypeAlias = tuple[str, ...]
_Sample: TypeAlias = tuple[_Labels, float]


def register(queue: GroqQueue | Mapping[str, GroqQueue], registry: CollectorRegistry | None = None) -> Collector:
    """Let *registry* scrape a queue, or several by name, until it is told to ``unregister`` what this returns.

    Args:
        queue: One queue, or ``{name: queue}``. Held weakly: one that is dropped is scraped no more.
        registry: None is prometheus_client's default.

    Raises:
        ConfigurationError: *queue* is neither.
        MissingExtraError: prometheus_client is not installed.
        ValueError: The registry scrapes queues already; pass all of them in one mapping.
    """
    made = collector(queue)
    _registry(registry).register(made)
    return made


def _registry(registry: CollectorRegistry | None) -> CollectorRegistry:
    from prometheus_client import REGISTRY

    return REGISTRY if registry is None else registry


def collector(queue: GroqQueue | Mapping[str, GroqQueue]) -> Collector:
    """Return a collector of a queue's figures, not registered anywhere; see ``register``."""
    try:
        from prometheus_client import metrics_core, registry
    except ImportError:
        raise MissingExtraError.needed("a Prometheus collector", "prometheus") from None
    queues = [(names, weakref.ref(each)) for names, each in _checked(queue)]
    own = ("queue",) if isinstance(queue, Mapping) else ()
    kinds: dict[str, Any] = {"gauge": metrics_core.GaugeMetricFamily, "counter": metrics_core.CounterMetricFamily}

    def families(stats: Iterable[tuple[_Labels, Stats]]) -> Iterator[Metric]:
        for kind, name, text, labels, samples_of in _FAMILIES:
            family = kinds[kind](f"groq_queue_{name}", text, labels=(*own, *labels))
            for names, each in stats:
                for values, value in samples_of(each):
                    family.add_metric((*names, *values), value)
            yield family

    class QueueCollector(registry.Collector):
        """Turns ``stats()`` into metric families."""

        def describe(self) -> Iterable[Metric]:
            """Return the families without samples, so that a second registration is noticed."""
            return families([])

        def collect(self) -> Iterable[Metric]:
            return families([(names, alive.stats()) for names, ref in queues if (alive := ref()) is not None])

    return QueueCollector()


def _checked(queue: Any) -> list[tuple[_Labels, GroqQueue]]:
    """Return each queue with the values of its own labels."""
    pairs: list[tuple[_Labels, GroqQueue]] = [((), queue)]
    if isinstance(queue, Mapping):
        pairs = [((check_text("queue", name),), each) for name, each in queue.items()]
    for _, each in pairs:
        if not isinstance(each, GroqQueue):
            raise ConfigurationError(f"queue={shown(each)}: use a GroqQueue, or {{name: GroqQueue}}")
    return pairs


def _by_lane(stats: Stats, field: str) -> Iterator[_Sample]:
    for lane in stats.lanes:
        yield (lane.name,), float(getattr(lane, field))


def _by_limit(stats: Stats, field: str) -> Iterator[_Sample]:
    for lane in stats.lanes:
        for level in lane.limits:
            yield (lane.name, level.dimension), float(getattr(level, field))


def _one(field: str) -> Any:
    return lambda stats: [((), float(getattr(stats, field)))]


def _ended(stats: Stats) -> Iterator[_Sample]:
    for outcome in ("completed", "failed", "cancelled", "expired"):
        yield (outcome,), float(getattr(stats, outcome))


def _tokens(stats: Stats) -> Iterator[_Sample]:
    yield ("prompt",), float(stats.prompt_tokens)
    yield ("completion",), float(stats.completion_tokens)


def _waits(stats: Stats) -> Iterator[_Sample]:
    for percent, seconds in stats.wait_percentiles.items():
        yield (f"{percent / 100:g}",), seconds


def _priorities(stats: Stats) -> Iterator[_Sample]:
    """Zeros too: a level that is empty now is not one that is gone."""
    for priority in range(11):
        yield (str(priority),), float(stats.pending_by_priority.get(priority, 0))


_FAMILIES = (
    ("gauge", "running", "1 while the queue takes requests", (), _one("running")),
    ("gauge", "pending_requests", "Requests that wait", ("model",), lambda stats: _by_lane(stats, "pending")),
    ("gauge", "pending_requests_by_priority", "Requests that wait, 0 is most urgent", ("priority",), _priorities),
    ("gauge", "in_flight_requests", "Attempts on their way", ("model",), lambda stats: _by_lane(stats, "in_flight")),
    ("gauge", "paused", "1 while pause() holds the model", ("model",), lambda stats: _by_lane(stats, "paused")),
    ("gauge", "limit_used", "Units of a limit in use", ("model", "dimension"), lambda stats: _by_limit(stats, "used")),
    ("gauge", "limit_capacity", "Units of a limit", ("model", "dimension"), lambda stats: _by_limit(stats, "limit")),
    ("gauge", "limit_period_seconds", "Time in which a full limit drains", ("model", "dimension"),
     lambda stats: _by_limit(stats, "period_s")),
    ("gauge", "wait_seconds", "From submit to start, of the last 1,000 starts", ("quantile",), _waits),
    ("counter", "submitted_requests", "Requests taken in", (), _one("submitted")),
    ("counter", "ended_requests", "Requests that ended", ("outcome",), _ended),
    ("counter", "attempts", "Attempts started", (), _one("attempts")),
    ("counter", "refused_attempts", "Attempts refused by the server's limiter (429)", (), _one("refused")),
    ("counter", "retries", "Retries, refusals included", (), _one("retried")),
    ("counter", "tokens", "Tokens to be paid for, cached ones counted half", ("type",), _tokens),
    ("counter", "cost_dollars", "Spent on models with a known price, in USD", (), _one("cost")),
)  # fmt: skip
