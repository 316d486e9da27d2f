"""How urgent a request is: named levels, the rank that a lane's heap compares, and who applies for a lease.

Between levels the order is strict; inside one, ``core.fair_queue`` shares turns between
clients. With *ageing* a request rises one level per
interval: its level is counted from the interval it arrived in, so whatever
arrives one interval later has to be one level more urgent to stand beside it.
It then waits at most for those that arrived within ``n + 1`` intervals of it,
where n named levels lie between it and theirs (two from LOW up to HIGH); if they
come at r times the pace of the limit, that is ``r * (n + 1) * ageing`` seconds.
"""

from __future__ import annotations

import itertools
from enum import IntEnum
from typing import Any, Literal, NamedTuple, TypeAlias

from groq_queue.errors import ConfigurationError, safe_repr


class Priority(IntEnum):
    """Named levels; smaller goes first, and any whole number from 0 to 10 lies between them."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 5
    LOW = 8
    BACKGROUND = 10


PriorityLike: TypeAlias = Priority | int | Literal["critical", "high", "normal", "low", "background"]
"""What may be given as a priority: a name, a ``Priority``, or a whole number from 0 (first) to 10 (last)."""

_LADDER = tuple(Priority)
_NAMED = frozenset(map(int, Priority))


def level_name(level: int) -> str:
    """Return the name of a level, or its number where it has none.

    >>> level_name(1), level_name(7)
    ('high', '7')
    """
    return Priority(level).name.lower() if level in _NAMED else str(level)


def parse_priority(value: Any) -> int:
    """Return the level of a name in any case, a ``Priority``, or a whole number 0..10.

    Raises:
        ConfigurationError: It is none of these.

    >>> parse_priority("high"), parse_priority(Priority.LOW), parse_priority(7)
    (1, 8, 7)
    """
    if isinstance(value, str):
        member = Priority.__members__.get(value.strip().upper())
        if member is not None:
            return int(member)
    elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10:
        return int(value)
    names = ", ".join(member.name.lower() for member in _LADDER)
    raise ConfigurationError(
        f"priority={safe_repr(value)}: use one of {names}, or a whole number from 0 (first) to 10 (last)"
    )


def level_index(priority: int) -> float:
    """Return how many named levels lie above *priority*; numbers between two names lie between their rungs."""
    for level, (above, below) in enumerate(itertools.pairwise(_LADDER)):
        if priority <= below:
            return level + (priority - above) / (below - above)
    return float(len(_LADDER) - 1)


def rank_of(priority: int, now_ns: int, ageing_ns: int | None) -> int:
    """Return the level the heap compares, smaller first.

    Args:
        priority: 0..10.
        now_ns: Instant of submission.
        ageing_ns: Nanoseconds after which a request rises one named level; None is strict.
    """
    if ageing_ns is None:
        return priority
    return (now_ns + int(level_index(priority) * ageing_ns)) // ageing_ns


class LeaseApplicant(NamedTuple):
    """Whose turn a lease is asked for; only budgets that several processes share have to know.

    Attributes:
        request_id: Of the request that is next in its lane.
        priority: 0..10.
        client: Its client.
        weight: Of that client.
        cost: What the turn counts for the client's share.
    """

    request_id: str
    priority: int = 5
    client: str = "default"
    weight: float = 1.0
    cost: int = 1
