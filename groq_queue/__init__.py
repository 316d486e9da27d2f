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
from groq_queue.everyday.context import client, priority
from groq_queue.facade import GroqQueue

if TYPE_CHECKING:
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
    "RequestInfo",
    "RequestTooLarge",
    "Stats",
    "UnprocessableEntityError",
    "client",
    "priority",
]

logging.getLogger("groq_queue").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Load the simulator only for those who ask for it: it brings asyncio along."""
    if name == "GroqSimulator":
        from groq_queue.simulator import GroqSimulator

        return GroqSimulator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
