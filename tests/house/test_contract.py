"""Names and kinship that users rely on."""

from __future__ import annotations

import inspect
import queue

import pytest

import groq_queue
from groq_queue import errors

TREE = {
    "ConfigurationError": ("GroqQueueError", ValueError),
    "MissingExtraError": ("GroqQueueError", ImportError),
    "QueueClosed": ("GroqQueueError", RuntimeError),
    "DeadlockError": ("GroqQueueError", RuntimeError),
    "QueueBusy": ("GroqQueueError", Exception),
    "QueueFull": ("QueueBusy", queue.Full),
    "QueueTimeout": ("QueueBusy", Exception),
    "RequestTooLarge": ("GroqQueueError", ValueError),
    "DailyLimitReached": ("GroqQueueError", Exception),
    "CostLimitReached": ("GroqQueueError", Exception),
    "APIError": ("GroqQueueError", Exception),
    "APIConnectionError": ("APIError", Exception),
    "APITimeoutError": ("APIConnectionError", Exception),
    "APIStatusError": ("APIError", Exception),
    "BadRequestError": ("APIStatusError", Exception),
    "AuthenticationError": ("APIStatusError", Exception),
    "PermissionDeniedError": ("APIStatusError", Exception),
    "NotFoundError": ("APIStatusError", Exception),
    "ContentTooLargeError": ("APIStatusError", Exception),
    "UnprocessableEntityError": ("APIStatusError", Exception),
    "RateLimitError": ("APIStatusError", Exception),
    "CapacityExceededError": ("APIStatusError", Exception),
    "InternalServerError": ("APIStatusError", Exception),
    "JournalError": ("GroqQueueError", Exception),
}


@pytest.mark.parametrize("name", TREE)
def test_every_error_of_the_tree_stands_at_the_front_door(name):
    parent, builtin = TREE[name]

    error = getattr(groq_queue, name)

    assert issubclass(error, getattr(groq_queue, parent))
    assert issubclass(error, builtin)


def test_no_error_is_kept_from_the_front_door():
    found = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}

    assert found <= set(groq_queue.__all__)


def test_a_full_queue_is_a_value_error_too():
    assert issubclass(groq_queue.QueueFull, ValueError)
