"""What a user passed to ``GroqQueue``, checked once and in the units of the house."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from groq_queue.clock import Clock, SystemClock
from groq_queue.core.limits import Limits
from groq_queue.core.price_table import PriceTable
from groq_queue.core.retry import RetryPolicy
from groq_queue.core.validation import (
    check_choice,
    check_count,
    check_dollars,
    check_flag,
    check_limits,
    check_nanoseconds,
    check_share,
    check_text,
    check_timeout,
)
from groq_queue.engine.observer import Observer
from groq_queue.errors import ConfigurationError, safe_repr
from groq_queue.limiters.store import check_address
from groq_queue.transport import MAX_RESPONSE_BYTES as MAX_RESPONSE_BYTES
from groq_queue.wiring.accounts import Accounts, accounts_of
from groq_queue.wiring.elsewhere import base_url_of, refuse_what_workers_decide

if TYPE_CHECKING:
    import requests


class Settings(NamedTuple):
    """The arguments of ``GroqQueue``, where they are documented."""

    engine: str | None
    broker: str | None
    state: str | None
    only_base_url: str | None
    payers: Accounts
    model: str | None
    limits: Limits | dict[str, Limits] | None
    max_workers: int
    max_pending: int | None
    max_pending_per_client: int | None
    when_full: str
    max_concurrency: int | None
    fair_by: str
    ageing_ns: int | None
    margin: float
    limiter: str | None
    on_outage: Literal["wait", "raise", "local_share"]
    on_daily_limit: str
    max_cost: float | None
    price_table: PriceTable
    journal: str | os.PathLike[str] | None
    durability: Literal["full", "normal"]
    on_unknown: Literal["resend", "hold"]
    timeout_s: tuple[float, float]
    policy: RetryPolicy
    observers: tuple[Observer, ...]
    clock: Clock
    session: requests.Session | None
    allow_http: bool
    max_payload_bytes: int
    max_response_bytes: int


def checked(given: Mapping[str, Any]) -> Settings:
    """Check the arguments of ``GroqQueue``, by name, and return them.

    Raises:
        ConfigurationError: One cannot be used; the message names it.
    """
    organization = check_text("organization", given["organization"], optional=True)
    engine = None if given["engine"] is None else check_choice("engine", given["engine"], ("celery",))
    refuse_what_workers_decide(given)
    return Settings(
        engine=engine,
        broker=check_text("broker", given["broker"], optional=True),
        state=check_text("state", given["state"], optional=True),
        only_base_url=base_url_of(given) if engine is not None else None,
        payers=Accounts(None, {})
        if engine is not None
        else accounts_of(
            given["api_key"], given["base_url"], organization, given["accounts"], allow_http=given["allow_http"] is True
        ),
        model=check_text("model", given["model"], optional=True),
        limits=check_limits(given["limits"]),
        max_workers=check_count("max_workers", given["max_workers"]),
        max_pending=check_count("max_pending", given["max_pending"], optional=True),
        max_pending_per_client=check_count("max_pending_per_client", given["max_pending_per_client"], optional=True),
        when_full=check_choice("when_full", given["when_full"], ("block", "raise", "shed")),
        max_concurrency=check_count("max_concurrency", given["max_concurrency"], optional=True),
        fair_by=check_choice("fair_by", given["fair_by"], ("requests", "tokens")),
        ageing_ns=check_nanoseconds("ageing", given["ageing"]),
        margin=check_share("margin", given["margin"]),
        limiter=None if given["limiter"] is None else check_address(given["limiter"]),
        on_outage=check_choice("on_outage", given["on_outage"], ("wait", "raise", "local_share")),
        on_daily_limit=check_choice("on_daily_limit", given["on_daily_limit"], ("raise", "wait")),
        max_cost=check_dollars("max_cost", given["max_cost"]),
        price_table=PriceTable(_prices(given["prices"])),
        journal=given["journal"],
        durability=check_choice("durability", given["durability"], ("full", "normal")),
        on_unknown=check_choice("on_unknown", given["on_unknown"], ("resend", "hold")),
        timeout_s=check_timeout(given["timeout"]),
        policy=RetryPolicy(check_count("max_retries", given["max_retries"], least=0)),
        observers=_observers(given["observer"]),
        clock=_clock(given["clock"]),
        session=given["session"],
        allow_http=check_flag("allow_http", given["allow_http"]),
        max_payload_bytes=check_count("max_payload_bytes", given["max_payload_bytes"]),
        max_response_bytes=check_count("max_response_bytes", given["max_response_bytes"]),
    )


def _prices(prices: Any) -> Any:
    if prices is not None and not isinstance(prices, Mapping):
        raise ConfigurationError(
            f"prices={safe_repr(prices)}: use {{model: (prompt, completion)}}, USD per million tokens"
        )
    return prices


def _observers(observer: Any) -> tuple[Observer, ...]:
    observers = () if observer is None else tuple(observer) if isinstance(observer, (list, tuple)) else (observer,)
    for each in observers:
        if not callable(each):
            raise ConfigurationError(
                f"observer={safe_repr(each)}: use a callable of one argument, the Event, or a list"
            )
    return observers


def _clock(clock: Any) -> Clock:
    if clock is None:
        return SystemClock()
    missing = [name for name in ("now_ns", "wall_s", "wait") if not callable(getattr(clock, name, None))]
    if missing:
        raise ConfigurationError(
            f"clock={safe_repr(clock)}: it has no {missing[0]}(); use groq_queue.testing.FakeClock(), or None"
        )
    if not isinstance(now := clock.now_ns(), int):
        raise ConfigurationError(
            f"clock={safe_repr(clock)}: its now_ns() returned {safe_repr(now)} instead of nanoseconds, an int"
        )
    known: Clock = clock
    return known
