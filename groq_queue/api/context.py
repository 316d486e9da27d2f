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
from typing import Any, TypeVar

from groq_queue.core.priority import Priority, PriorityLike, parse_priority
from groq_queue.core.validation import check_text

_T = TypeVar("_T")

_priority: ContextVar[int] = ContextVar("groq_queue.priority", default=int(Priority.NORMAL))
_client: ContextVar[str] = ContextVar("groq_queue.client", default="default")


def priority(level: PriorityLike) -> AbstractContextManager[None]:
    """Give *level* to every request of the block that names no priority of its own.

    >>> with priority("high"):
    ...     priority_or_context(None), priority_or_context("low")
    (1, 8)

    Args:
        level: A name, a ``Priority`` or 0 (first) to 10 (last).

    Raises:
        ConfigurationError: *level* is none of these.
    """
    return _holding(_priority, parse_priority(level))


def client(name: str) -> AbstractContextManager[None]:
    """Count every request of the block that names no client of its own as *name*'s.

    >>> with client("acme"):
    ...     client_or_context(None), client_or_context("initech")
    ('acme', 'initech')

    Args:
        name: 1 to 512 characters.

    Raises:
        ConfigurationError: *name* is not.
    """
    return _holding(_client, check_text("client", name))


@contextmanager
def _holding(variable: ContextVar[_T], value: _T) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def priority_or_context(given: Any) -> int:
    """Return the level of *given*, or the context's if it is None."""
    return _priority.get() if given is None else parse_priority(given)


def client_or_context(given: Any) -> str:
    """Return *given*, checked, or the context's client if it is None."""
    return _client.get() if given is None else str(check_text("client", given))
