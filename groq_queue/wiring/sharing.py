"""``engine="celery"``: what a submitting process may ask for, and what its queue consists of.

A setting that belongs to whoever sends is refused here by name, so that nobody believes it holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from groq_queue.clock import Clock, SystemClock
from groq_queue.core.response import Completion
from groq_queue.distributed.celery_engine import CeleryEngine
from groq_queue.distributed.job_store import JobStore, shown_address
from groq_queue.distributed.wakeups import Notifier, check_broker
from groq_queue.engine.background import Timers
from groq_queue.engine.future import RequestFuture
from groq_queue.errors import ConfigurationError
from groq_queue.limiters.in_process import ProcessLimiter
from groq_queue.wiring.admission import Admission
from groq_queue.wiring.parts import Parts, Submitting
from groq_queue.wiring.settings import Settings


class Addresses(NamedTuple):
    """Where the messages go, and where the requests stand."""

    broker: str
    state: str


def addresses_of(broker: str | None, state: str | None) -> Addresses:
    """Check and complete the two addresses.

    Raises:
        ConfigurationError: One is missing or of an unknown kind.
    """
    broker = broker or os.environ.get("GROQ_QUEUE_BROKER")
    if broker is None:
        raise ConfigurationError(
            'broker: none given and GROQ_QUEUE_BROKER is not set; engine="celery" needs one, '
            'such as broker="redis://127.0.0.1:6379/0"'
        )
    scheme = check_broker(broker)
    if state is None and not scheme.startswith("redis"):
        raise ConfigurationError(
            f"state: with broker={shown_address(broker)!r} requests stand in a Redis: name it, "
            'such as state="redis://127.0.0.1:6379/0"'
        )
    state = state or broker
    if state.partition("://")[0] not in ("redis", "rediss", "unix"):
        raise ConfigurationError(f"state={shown_address(state)!r:.100}: use redis://host:6379/0 or rediss://…")
    return Addresses(broker, state)


def assemble_shared(settings: Settings) -> Parts:
    """Build the parts of a queue whose requests workers send.

    Raises:
        ConfigurationError: An address cannot be used.
        MissingExtraError: Celery or redis is not installed.
    """
    clock = settings.clock
    engine_of, addresses = _opened(settings.broker, settings.state, clock)
    limiter = ProcessLimiter(settings.limits, shown_address(addresses.broker), "celery", clock.now_ns())
    try:
        admission = Admission(limiter, settings.price_table, is_capped=False, by_tokens=settings.fair_by == "tokens")
        engine = engine_of(
            price=lambda request: limiter.meter(request.lane, request.model).price(request.size).tokens,
            max_pending=settings.max_pending,
            max_pending_per_client=settings.max_pending_per_client,
            when_full=settings.when_full,
            price_table=settings.price_table,
            base_url=settings.only_base_url,
        )
    except BaseException:
        limiter.close(clock.now_ns())
        raise
    engine.at_close(lambda: limiter.close(clock.now_ns()))
    return Parts(engine, limiter, admission, None, Submitting())


def attach(request_id: str, broker: str | None, state: str | None) -> RequestFuture[Completion]:
    """Return a Future of a request that any process submitted.

    Raises:
        ConfigurationError: Nobody knows it, or an address cannot be used.
        EngineUnavailable: Redis cannot be reached.
    """
    engine_of, _ = _opened(broker, state, SystemClock())
    engine = engine_of(price=lambda request: 0)
    try:
        return engine.attach(request_id)
    finally:
        engine.shutdown(wait=False, cancel_futures=False)  # it ends with the Future


def _opened(broker: str | None, state: str | None, clock: Clock) -> tuple[Callable[..., CeleryEngine], Addresses]:
    addresses = addresses_of(broker, state)
    notifier = Notifier(addresses.broker)
    store = JobStore(addresses.state, clock)

    def engine_of(**options: Any) -> CeleryEngine:
        return CeleryEngine(store=store, notifier=notifier, clock=clock, timers=Timers(clock, "groq_queue"), **options)

    return engine_of, addresses
