"""Send thousands of LLM requests from ordinary, non-async Python and stay exactly at your rate limits.

>>> from groq_queue import GroqQueue
>>> with GroqQueue.simulated() as queue:
...     queue.submit("Say hello").result()["object"]
'chat.completion'
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from groq_queue.core.budget import Limits
from groq_queue.core.completion import Completion
from groq_queue.core.rank import Priority
from groq_queue.core.record import Record
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
    GroqQueueError,
    InternalServerError,
    JournalError,
    MissingExtraError,
    NotFoundError,
    PermissionDeniedError,
    QueueBusy,
    QueueClosed,
    QueueFull,
    QueueTimeout,
    RateLimitError,
    RequestTooLarge,
    UnprocessableEntityError,
)
from groq_queue.facade import GroqQueue

if TYPE_CHECKING:
    from groq_queue.reporting.estimate import estimate
    from groq_queue.reporting.plan import Estimate
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
    "Estimate",
    "Explanation",
    "GroqQueue",
    "GroqQueueError",
    "GroqSimulator",
    "InternalServerError",
    "JournalError",
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
    "RequestInfo",
    "RequestTooLarge",
    "Stats",
    "UnprocessableEntityError",
    "estimate",
]

logging.getLogger("groq_queue").addHandler(logging.NullHandler())


_LAZY = {
    "Estimate": "groq_queue.reporting.plan",
    "GroqSimulator": "groq_queue.simulator",  # brings asyncio along
    "Report": "groq_queue.reporting.report",
    "estimate": "groq_queue.reporting.estimate",
}


def __getattr__(name: str) -> Any:
    """Load what takes time to load only for those who ask for it."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
