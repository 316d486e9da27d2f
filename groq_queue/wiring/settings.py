"""What a user passed to ``GroqQueue``, checked once and in the units of the house; see ``options``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from groq_queue.clock import Clock
from groq_queue.core.limits import Limits
from groq_queue.core.price_table import PriceTable
from groq_queue.core.retry import RetryPolicy
from groq_queue.core.validation import check_text
from groq_queue.engine.observer import Observer
from groq_queue.errors import ConfigurationError
from groq_queue.transport import resolve_base_url
from groq_queue.wiring.accounts import Accounts, accounts_of
from groq_queue.wiring.options import CONSTRUCTOR

if TYPE_CHECKING:
    import requests


class Settings(NamedTuple):
    """The arguments of ``GroqQueue``, where they are documented."""

    engine: str | None
    broker: str | None
    state: str | None
    only_base_url: str | None
    resolved_accounts: Accounts
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
    _refuse_unsupported(given)
    values = {option.name: option.check(option.name, given[option.name]) for option in CONSTRUCTOR}
    has_engine = values["engine"] is not None
    known: dict[str, Any] = {name: value for name, value in values.items() if name in Settings._fields}
    if has_engine:
        resolved_accounts = Accounts(None, {})
    else:
        key, base_url, accounts = (given[name] for name in ("api_key", "base_url", "accounts"))
        resolved_accounts = accounts_of(
            key, base_url, values["organization"], accounts, allow_http=values["allow_http"]
        )
    return Settings(
        resolved_accounts=resolved_accounts,
        only_base_url=_base_url_of(given) if has_engine else None,
        ageing_ns=values["ageing"],
        price_table=PriceTable(values["prices"]),
        timeout_s=values["timeout"],
        policy=RetryPolicy(values["max_retries"]),
        observers=values["observer"],
        **known,
    )


def _refuse_unsupported(given: Mapping[str, Any]) -> None:
    """Check that the arguments go together with the engine.

    Raises:
        ConfigurationError: One does not; the message names it and the cure.
    """
    engine = given["engine"]
    if engine is None:
        for field in ("broker", "state"):
            if given[field] is not None:
                raise ConfigurationError(f'{field}: only an engine has one; add engine="celery" or leave it out')
        return
    if not isinstance(engine, str) or engine != "celery":
        return  # there is no such engine, as its own check says
    for option in CONSTRUCTOR:
        if option.celery and given[option.name] != option.default:
            raise ConfigurationError(f"{option.name}: with engine={given['engine']!r} {option.celery}")
    if given["when_full"] == "shed":
        raise ConfigurationError(
            f"when_full='shed': with engine={given['engine']!r} no process sees the requests of all submitters; "
            "use 'block' or 'raise'"
        )


def _base_url_of(given: Mapping[str, Any]) -> str | None:
    """Return the address that requests may be sent to only, or None if none was given."""
    base_url = check_text("base_url", given["base_url"], optional=True)
    return None if base_url is None else resolve_base_url(base_url, allow_http=given["allow_http"])
