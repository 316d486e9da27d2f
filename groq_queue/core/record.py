"""What is known of a request by its name, also after a restart."""

from __future__ import annotations

from typing import NamedTuple

from groq_queue.core.response import Completion
from groq_queue.errors import GroqQueueError


class Record(NamedTuple):
    """Where the request of one ``custom_id`` stands, and how it ended.

    Attributes:
        custom_id: Its name.
        status: ``"unknown"`` (never submitted, or forgotten), ``"pending"``, ``"processing"`` (an
            attempt is on its way), ``"completed"``, ``"failed"``, ``"cancelled"`` or ``"expired"``.
        result: The answer, or None.
        error: Why it failed, or None.
        attempts: How many times it was sent, earlier runs of the program included.
        created: Unix time of ``submit``, in seconds, or None if no journal tells.
        finished: Unix time at which it ended, or None.
    """

    custom_id: str
    status: str
    result: Completion | None = None
    error: GroqQueueError | None = None
    attempts: int = 0
    created: float | None = None
    finished: float | None = None
