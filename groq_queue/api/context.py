"""Priority and client for code that has no parameter for them.

Context variables: what is set holds inside the ``with`` block, for the thread (or
asyncio task) that entered it. Threads started inside do not inherit it, nor do
callbacks, which run on worker threads; to take it along, run them through
``contextvars.copy_context().run``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TypeVar

from groq_queue.core.priority import Priority, PriorityLike, parse_priority
from groq_queue.core.validation import check_text

_T = TypeVar("_T")

current_priority: ContextVar[int] = ContextVar("groq_queue.priority", default=int(Priority.NORMAL))
"""The level of a request that names none."""
current_client: ContextVar[str] = ContextVar("groq_queue.client", default="default")
"""The client of a request that names none."""


def priority(level: PriorityLike) -> AbstractContextManager[None]:
    """Give *level* to every request of the block that names no priority of its own.

    >>> with priority("high"):
    ...     current_priority.get()
    1

    Args:
        level: A name, a ``Priority`` or 0 (first) to 10 (last).

    Raises:
        ConfigurationError: *level* is none of these.
    """
    return _holding(current_priority, parse_priority(level))


def client(name: str) -> AbstractContextManager[None]:
    """Count every request of the block that names no client of its own as *name*'s.

    >>> with client("acme"):
    ...     current_client.get()
    'acme'

    Args:
        name: 1 to 512 characters.

    Raises:
        ConfigurationError: *name* is not.
    """
    return _holding(current_client, check_text("client", name))


@contextmanager
def _holding(variable: ContextVar[_T], value: _T) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
