"""The options once more, with their types, for type checkers alone.

This library does not import this file while a program runs. A program may, to give a dict of its own a type:
``options: CallOptions = {"priority": "high"}``.

A method that takes options as ``**options`` names one of these classes. The types are those that ``GroqQueue`` and
``submit`` write out; a test holds them together. Only where every name is known: what also takes parameters of the
API, such as ``temperature``, writes its options out beside ``**params``, since a TypedDict would refuse those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    import requests

    from groq_queue.clock import Clock
    from groq_queue.core.limits import Limits
    from groq_queue.core.priority import PriorityLike
    from groq_queue.engine.observer import Observer


class SimulatedOptions(TypedDict, total=False):
    """What ``GroqQueue.simulated`` passes on: what the simulator does not decide."""

    model: str | None
    organization: str | None
    max_workers: int
    max_pending: int | None
    max_pending_per_client: int | None
    when_full: Literal["block", "raise", "shed"]
    max_concurrency: int | None
    fair_by: Literal["requests", "tokens"]
    ageing: float | None
    margin: float
    limiter: str | None
    on_outage: Literal["wait", "raise", "local_share"]
    on_daily_limit: Literal["raise", "wait"]
    max_cost: float | None
    prices: Mapping[str, tuple[float, float]] | None
    journal: str | os.PathLike[str] | None
    durability: Literal["full", "normal"]
    on_unknown: Literal["resend", "hold"]
    timeout: float | tuple[float, float]
    max_retries: int
    observer: Observer | Sequence[Observer] | None
    clock: Clock | None
    session: requests.Session | None
    allow_http: bool
    max_payload_bytes: int
    max_response_bytes: int


class ConstructorOptions(SimulatedOptions, total=False):
    """What ``GroqQueue`` takes."""

    api_key: str | None
    base_url: str | None
    limits: Limits | Mapping[str, Limits] | None
    engine: Literal["celery"] | None
    broker: str | None
    state: str | None
    accounts: Mapping[str, tuple[str | None, str | None]] | None


class CallOptions(TypedDict, total=False):
    """The ``queue_options`` of ``submit_call``."""

    model: str | None
    priority: PriorityLike | None
    client: str | None
    custom_id: str | None
    tokens: int | None
    audio_seconds: float | None
    max_wait: float | None
    deadline: float | None
    not_before: float | None
    callback: Callable[[Future[Any]], object] | None


class SeriesLike(Protocol):
    """A Series of pandas or polars, neither of which this library needs."""

    @property
    def name(self) -> Any: ...
    def to_list(self) -> list[Any]: ...
