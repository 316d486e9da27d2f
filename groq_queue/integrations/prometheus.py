"""A queue's figures for Prometheus, read at scrape time: nothing is counted twice and nothing runs in between.

    from groq_queue.integrations import prometheus

    prometheus.register(queue)                       # into the default registry
    prometheus.register({"bulk": one, "chat": two})  # several, told apart by the label ``queue``

Several processes that are scraped as one (``PROMETHEUS_MULTIPROC_DIR``) write their values
into files, which figures that are read at scrape time never reach: each process serves its own.

Names begin with ``groq_queue_``, units are base units. Labels hold models, priorities,
dimensions and the names given here; never clients or custom_ids, which have no bound.

Needs the extra ``prometheus``.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from groq_queue.api.queue import GroqQueue
from groq_queue.core.validation import check_text
from groq_queue.engine.log import log_fields
from groq_queue.engine.stats import Stats
from groq_queue.errors import ConfigurationError, MissingExtraError, safe_repr
from groq_queue.logger import SafeLogger

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

_log = SafeLogger("groq_queue")

_Labels: TypeAlias = tuple[str, ...]
_Sample: TypeAlias = tuple[_Labels, float]


_Queues: TypeAlias = dict[str, "weakref.ref[GroqQueue]"]  # by name, "" without one

_lock = threading.RLock()  # guards _registered; registries are asked under it
_registered: weakref.WeakKeyDictionary[CollectorRegistry, tuple[Collector, _Queues]] = weakref.WeakKeyDictionary()
_warned_multiprocess = False


def register(queue: GroqQueue | Mapping[str, GroqQueue], registry: CollectorRegistry | None = None) -> Collector:
    """Let *registry* scrape a queue, or several by name, until its ``unregister`` is called with what this returns.

    May be called again. A queue takes the place of itself, whatever its name was, and of one of the same name (or,
    like itself, of none) that is gone or shut down. What one registry scrapes is one collector: every call returns it.

    Args:
        queue: One queue, or ``{name: queue}``. Held weakly: one that is dropped is scraped no more.
        registry: None is prometheus_client's default.

    Raises:
        ConfigurationError: *queue* is neither, or another queue that works has its name.
        MissingExtraError: prometheus_client is not installed.
        ValueError: The registry has a collector of these names that was not registered here.
    """
    fresh = {name: weakref.ref(each) for name, each in _checked(queue).items()}
    made, queues = _collector(fresh)
    where = _registry(registry)
    _warn_of_processes(where)
    with _lock:
        known = _registered.get(where)
        if known is not None and _took_out(where, known[0]):
            made, queues = known
            try:
                _refuse_rivals(queues, fresh)
                _join(queues, fresh)
            finally:
                where.register(made)
        else:
            where.register(made)
            _registered[where] = (made, queues)
    return made


def _registry(registry: CollectorRegistry | None) -> CollectorRegistry:
    from prometheus_client import REGISTRY

    return REGISTRY if registry is None else registry


def _took_out(registry: CollectorRegistry, made: Collector) -> bool:
    """Take a collector out of a registry, and return whether it was there."""
    try:
        registry.unregister(made)
    except KeyError:
        return False
    return True


def _refuse_rivals(queues: _Queues, fresh: _Queues) -> None:
    for name, ref in fresh.items():
        before = queues[name]() if name in queues else None
        if before is not None and before is not ref() and before.stats().running:
            which = f"as {name!r}" if name else "without a name"
            raise ConfigurationError(
                f"queue={safe_repr(ref())}: another queue, which is not shut down, is scraped {which}: give each a "
                "name of its own, as in register({'bulk': queue}), or shut that one down first"
            )


def _join(queues: _Queues, fresh: _Queues) -> None:
    """Take in *fresh* ones; what is gone leaves, and a queue that has another name now is not counted twice."""
    again = {id(ref()) for ref in fresh.values()}
    for name in [name for name, ref in queues.items() if ref() is None or id(ref()) in again]:
        del queues[name]
    queues.update(fresh)


def _warn_of_processes(registry: CollectorRegistry) -> None:
    """Warn once that a scrape of several processes as one does not see their queues."""
    global _warned_multiprocess
    if _warned_multiprocess or not (os.environ.keys() & {"PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"}):
        return
    from prometheus_client import REGISTRY

    collectors = list(getattr(registry, "_collector_to_names", ()))
    if registry is REGISTRY or any(type(each).__name__ == "MultiProcessCollector" for each in collectors):
        _warned_multiprocess = True
        _log.warning(
            "PROMETHEUS_MULTIPROC_DIR is set, but a queue's figures are read when its own process is scraped and are "
            "written into no file: let each process serve a registry of its own, as in register(queue, registry) and "
            "start_http_server(port, registry=registry)",
            extra=log_fields("scraped_alone"),
        )


def collector(queue: GroqQueue | Mapping[str, GroqQueue]) -> Collector:
    """Return a collector of a queue's figures, not registered anywhere; see ``register``."""
    return _collector({name: weakref.ref(each) for name, each in _checked(queue).items()})[0]


def _collector(queues: _Queues) -> tuple[Collector, _Queues]:
    """Return a collector of *queues*, which may change."""
    try:
        from prometheus_client import metrics_core, registry
    except ImportError:
        raise MissingExtraError.needed("a Prometheus collector", "prometheus") from None
    kinds: dict[str, Any] = {"gauge": metrics_core.GaugeMetricFamily, "counter": metrics_core.CounterMetricFamily}

    def families(stats: Mapping[str, Stats]) -> Iterator[Metric]:
        own = ("queue",) if any(stats) else ()  # an empty label is the same as none
        for kind, name, text, labels, samples_of in _FAMILIES:
            family = kinds[kind](f"groq_queue_{name}", text, labels=(*own, *labels))
            for queue, each in stats.items():
                for values, value in samples_of(each):
                    family.add_metric((queue, *values) if own else values, value)
            yield family

    class QueueCollector(registry.Collector):
        """Turns ``stats()`` into metric families."""

        def describe(self) -> Iterable[Metric]:
            """Return the families without samples, so that a second collector of them is noticed."""
            return families({})

        def collect(self) -> Iterable[Metric]:
            alive = [(name, queue) for name, ref in list(queues.items()) if (queue := ref()) is not None]
            return families({name: queue.stats() for name, queue in alive})

    return QueueCollector(), queues


def _checked(queue: Any) -> dict[str, GroqQueue]:
    """Return each queue by its name, which is "" without one."""
    queues: dict[str, GroqQueue] = {"": queue}
    if isinstance(queue, Mapping):
        queues = {check_text("queue", name): each for name, each in queue.items()}
    for each in queues.values():
        if not isinstance(each, GroqQueue):
            raise ConfigurationError(f"queue={safe_repr(each)}: use a GroqQueue, or {{name: GroqQueue}}")
    return queues


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
