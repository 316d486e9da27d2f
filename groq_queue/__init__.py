"""Send thousands of LLM requests from ordinary, non-async Python and stay exactly at your rate limits.

>>> from groq_queue import GroqQueue
>>> with GroqQueue.simulated() as queue:
...     queue.submit("Say hello").result()["object"]
'chat.completion'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groq_queue.api.context import client, priority
    from groq_queue.api.estimate import estimate
    from groq_queue.api.queue import GroqQueue
    from groq_queue.core.limits import Limits
    from groq_queue.core.priority import Priority
    from groq_queue.core.response import Completion, Record
    from groq_queue.engine.future import RequestFuture
    from groq_queue.engine.observer import Event
    from groq_queue.engine.stats import Explanation, RequestInfo, Stats
    from groq_queue.errors import (
        APIConnectionError,
        APIError,
        APIResponseError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BadRequestError,
        CapacityExceededError,
        ConfigurationError,
        ContentTooLargeError,
        CostLimitReached,
        DailyLimitReached,
        DeadlockError,
        EngineUnavailable,
        GroqQueueError,
        InternalServerError,
        JournalError,
        LimiterUnavailable,
        MissingExtraError,
        NotFoundError,
        PermissionDeniedError,
        QueueBusy,
        QueueClosed,
        QueueFull,
        QueueTimeout,
        RateLimitError,
        RequestTooLarge,
        UnknownArgument,
        UnprocessableEntityError,
    )
    from groq_queue.reporting.estimate import Estimate
    from groq_queue.reporting.report import Report
    from groq_queue.simulator import GroqSimulator

__version__ = "0.1.0"

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "CapacityExceededError",
    "Completion",
    "ConfigurationError",
    "ContentTooLargeError",
    "CostLimitReached",
    "DailyLimitReached",
    "DeadlockError",
    "EngineUnavailable",
    "Estimate",
    "Event",
    "Explanation",
    "GroqQueue",
    "GroqQueueError",
    "GroqSimulator",
    "InternalServerError",
    "JournalError",
    "LimiterUnavailable",
    "Limits",
    "MissingExtraError",
    "NotFoundError",
    "PermissionDeniedError",
    "Priority",
    "QueueBusy",
    "QueueClosed",
    "QueueFull",
    "QueueTimeout",
    "RateLimitError",
    "Record",
    "Report",
    "RequestFuture",
    "RequestInfo",
    "RequestTooLarge",
    "Stats",
    "UnknownArgument",
    "UnprocessableEntityError",
    "client",
    "estimate",
    "priority",
]

_HOMES = {
    "Completion": "core.response",
    "Estimate": "reporting.estimate",
    "Event": "engine.observer",
    "Explanation": "engine.stats",
    "GroqQueue": "api.queue",
    "GroqSimulator": "simulator",
    "Limits": "core.limits",
    "Priority": "core.priority",
    "Record": "core.response",
    "Report": "reporting.report",
    "RequestFuture": "engine.future",
    "RequestInfo": "engine.stats",
    "Stats": "engine.stats",
    "client": "api.context",
    "estimate": "api.estimate",
    "priority": "api.context",
}
"""Where a name of ``__all__`` lives; the others are errors."""

# No NullHandler here, as libraries usually have: it would keep a callback that raises from being heard in a program
# that has set up no logging. See engine.last_resort.


def __getattr__(name: str) -> Any:
    """Load what is asked for, when it is asked for.

    So pytest, which imports ``groq_queue.testing.plugin`` wherever this library is
    installed, pays for nothing, and the simulator brings asyncio only to its users.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"groq_queue.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
