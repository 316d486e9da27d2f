"""Who is next: levels first, then fair turns between clients, then arrival.

The order is static: what the heap compares never depends on the present
instant, so entries need not be moved while they wait.

Between levels the order is strict. With *ageing* a request rises one level per
interval: its level is counted from the interval it arrived in, so whatever
arrives one interval later has to be one level more urgent to stand beside it.
It then waits at most for those that arrived within ``n + 1`` intervals of it,
where n named levels lie between it and theirs (two from LOW up to HIGH); if they
come at r times the pace of the limit, that is ``r * (n + 1) * ageing`` seconds.

Inside a level the order is worst-case-fair weighted fair queuing (WF2Q+): each
client's next request starts when its previous one would have finished on a
private line of its share; of those that have started, the one that would
finish first goes first. A client is never more than one request ahead of or
behind its share, and an idle client earns no credit.

Source: J. Bennett and H. Zhang, "Hierarchical packet fair queueing algorithms",
IEEE/ACM Transactions on Networking 5(5), 1997.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

from groq_queue.errors import ConfigurationError, shown

_SCALE = 1 << 32  # virtual time per unit of cost at weight 1; keeps tags integer and exact enough
_WEIGHT_SCALE = 1 << 16  # weights are stored as integers in this unit


class Priority(IntEnum):
    """Named levels; smaller goes first, and any whole number from 0 to 10 lies between them."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 5
    LOW = 8
    BACKGROUND = 10


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
        f"priority={shown(value)}: use one of {names}, or a whole number from 0 (first) to 10 (last)"
    )


def rung_of(priority: int) -> float:
    """Return how many named levels lie above *priority*; numbers between two names lie between their rungs."""
    for rung, (above, below) in enumerate(itertools.pairwise(_LADDER)):
        if priority <= below:
            return rung + (priority - above) / (below - above)
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
    return (now_ns + int(rung_of(priority) * ageing_ns)) // ageing_ns


class Ranked(Protocol):
    """What the order needs to know of a request."""

    rank: int
    client: str
    turn_cost: int
    arrival: int  # number of its place in line, set by ``add``; 0 once it has left the line


class Turn(NamedTuple):
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


class _Turn:
    """One client's requests of one level: the first is in line, the others behind it."""

    __slots__ = ("behind", "finish", "in_line", "live", "start", "weight")

    def __init__(self, start: int, weight: int) -> None:
        self.behind: deque[tuple[int, Any]] = deque()  # (arrival, request)
        self.start = start
        self.finish = start
        self.weight = weight
        self.live = 0
        self.in_line: Any = None  # the request whose entry stands in the heap, if any

    def copy(self) -> _Turn:
        twin = _Turn(self.start, self.weight)
        twin.behind = deque(waiting for waiting in self.behind if _is_live(waiting))
        twin.finish, twin.live, twin.in_line = self.finish, self.live, self.in_line
        return twin

    def newest(self) -> Any:
        """Return the request that came last."""
        for waiting in reversed(self.behind):
            if _is_live(waiting):
                return waiting[1]
        return self.in_line


class _Level:
    """Virtual time and clients of one rank."""

    __slots__ = ("early", "now", "open", "turns", "weights")

    def __init__(self, now: int) -> None:
        self.now = now
        self.turns: dict[str, _Turn] = {}
        self.weights = 0
        self.early: list[tuple[int, int, _Turn]] = []  # turns whose start is still to come, by start
        self.open = 0  # live entries of this level that the heap holds

    def copy(self) -> _Level:
        twin = _Level(self.now)
        copies = {id(turn): turn.copy() for turn in self.turns.values()}
        twin.turns = {client: copies[id(turn)] for client, turn in self.turns.items()}
        twin.weights, twin.open = self.weights, self.open
        twin.early = [(start, tie, copies[id(turn)]) for start, tie, turn in self.early if id(turn) in copies]
        heapq.heapify(twin.early)
        return twin


Entry = tuple[int, tuple[int, int], Any]
"""``(priority, seq, request)``, as the lane's PriorityQueue holds it; seq is ``(finish tag, arrival)``, unique."""


def is_stale(entry: Entry) -> bool:
    """Return whether the request of *entry* has left that place in line."""
    return bool(entry[2].arrival != entry[1][1])


def _is_live(waiting: tuple[int, Any]) -> bool:
    return bool(waiting[1].arrival == waiting[0])


class FairOrder:
    """Decides which requests of a lane stand in its heap, and with which ``seq``.

    Only the first request of each client and level stands there; so the heap is
    as long as there are clients, a cancelled request leaves no gap in its
    client's share, and state exists only for clients with something pending.

    Methods that return entries want them put into the heap. Not thread-safe.
    """

    def __init__(self) -> None:
        self._levels: dict[int, _Level] = {}
        self._weights: dict[str, int] = {}
        self._arrivals = 0
        self._latest = 0  # no tag of a forgotten level is larger

    def set_weight(self, client: str, weight: float) -> None:
        """Give *client* that many times the turns of a client of weight 1, from its next request on."""
        self._weights[client] = max(1, round(weight * _WEIGHT_SCALE))
        for level in self._levels.values():
            turn = level.turns.get(client)
            if turn is not None:
                level.weights += self._weights[client] - turn.weight
                turn.weight = self._weights[client]

    def weight(self, client: str) -> float:
        """Return how many times the turns of a client of weight 1 *client* has."""
        return self._weights.get(client, _WEIGHT_SCALE) / _WEIGHT_SCALE

    def add(self, request: Ranked) -> list[Entry]:
        """Line up a new request behind the others of its client and level."""
        level = self._level(request.rank)
        turn = level.turns.get(request.client)
        if turn is None:
            turn = _Turn(level.now, self._weights.get(request.client, _WEIGHT_SCALE))
            level.turns[request.client] = turn
            level.weights += turn.weight
        turn.live += 1
        self._arrivals += 1
        request.arrival = self._arrivals
        turn.behind.append((self._arrivals, request))
        return self._line_up(level, turn) if turn.live == 1 else []

    def put_back(self, request: Ranked, seq: tuple[int, int]) -> list[Entry]:
        """Return a request that was taken before to its old place; its turn was paid for."""
        self._level(request.rank).open += 1
        request.arrival = seq[1]
        return [(request.rank, seq, request)]

    def taken(self, request: Ranked, *, again: bool) -> list[Entry]:
        """Note that the heap's first entry was taken.

        Args:
            request: The one taken.
            again: It had been put back; its turn was counted the first time.
        """
        level = self._levels[request.rank]
        level.open -= 1
        entries: list[Entry] = []
        if not again:
            turn = level.turns[request.client]
            level.now += request.turn_cost * _SCALE * _WEIGHT_SCALE // level.weights
            turn.in_line = None
            turn.start = turn.finish
            turn.live -= 1
            if turn.live:
                entries = self._line_up(level, turn)
            else:
                self._forget(level, request.client)
        return entries + self._promote(request.rank, level)

    def discard(self, request: Ranked, *, again: bool) -> list[Entry]:
        """Take a request out of the line; its entry in the heap, if any, has become stale.

        Args:
            request: The one that leaves.
            again: It had been put back.
        """
        request.arrival = 0
        level = self._levels[request.rank]
        if again:
            level.open -= 1
            return self._promote(request.rank, level)
        turn = level.turns[request.client]
        turn.live -= 1
        was_in_line = turn.in_line is request
        entries: list[Entry] = []
        if was_in_line:
            turn.in_line = None
            level.open -= 1
        if not turn.live:
            self._forget(level, request.client)
        elif was_in_line:
            entries = self._line_up(level, turn)
        elif len(turn.behind) > 32 and len(turn.behind) > 2 * turn.live:
            turn.behind = deque(waiting for waiting in turn.behind if _is_live(waiting))
        return entries + self._promote(request.rank, level)

    def clear(self) -> None:
        """Forget everybody."""
        for level in self._levels.values():
            for turn in level.turns.values():
                self._latest = max(self._latest, turn.finish)
            self._latest = max(self._latest, level.now)
        self._levels.clear()

    def in_order(self, entries: Iterable[Entry]) -> Iterator[Any]:
        """Yield all pending requests in the order in which they would be taken if nothing else came.

        Args:
            entries: Of the heap; they are not changed.
        """
        twin = FairOrder()
        twin._levels = {rank: level.copy() for rank, level in self._levels.items()}
        heap = [entry for entry in entries if not is_stale(entry)]
        heapq.heapify(heap)
        while heap:
            request = heapq.heappop(heap)[2]
            yield request
            turn = twin._levels[request.rank].turns.get(request.client)
            again = turn is None or turn.in_line is not request
            for entry in twin.taken(request, again=again):
                heapq.heappush(heap, entry)

    def ahead_of_newcomer(self, rank: int, client: str) -> int:
        """Return about how many requests would be taken before a new one of *client* at *rank*."""
        count = 0
        for other_rank, level in self._levels.items():
            if other_rank < rank:
                count += sum(turn.live for turn in level.turns.values())
            elif other_rank == rank:
                mine = level.turns.get(client)
                rounds = mine.live if mine is not None else 0
                weight = mine.weight if mine is not None else self._weights.get(client, _WEIGHT_SCALE)
                for turn in level.turns.values():
                    count += rounds if turn is mine else min(turn.live, (rounds + 1) * turn.weight // weight)
        return count

    def least_urgent(self, client: str | None = None) -> Any:
        """Return the newest request of the client with most pending in the last level; None if there is none.

        Args:
            client: Look at this client's requests only.
        """
        for rank in sorted(self._levels, reverse=True):
            turns = self._levels[rank].turns
            candidates = [turns[client]] if client in turns else ([] if client is not None else list(turns.values()))
            if candidates:
                return max(candidates, key=lambda turn: turn.live).newest()
        return None

    def _level(self, rank: int) -> _Level:
        level = self._levels.get(rank)
        if level is None:
            level = self._levels[rank] = _Level(self._latest)
        return level

    def _line_up(self, level: _Level, turn: _Turn) -> list[Entry]:
        """Bring the turn's first live request into line, at once or when its start comes."""
        behind = turn.behind
        while not _is_live(behind[0]):
            behind.popleft()
        if turn.start > level.now:
            heapq.heappush(level.early, (turn.start, behind[0][0], turn))
            return []
        arrival, request = behind.popleft()
        turn.finish = turn.start + request.turn_cost * _SCALE * _WEIGHT_SCALE // turn.weight
        turn.in_line = request
        level.open += 1
        return [(request.rank, (turn.finish, arrival), request)]

    def _promote(self, rank: int, level: _Level) -> list[Entry]:
        """Line up every turn whose start has come; if nobody stands in line, time jumps to the next start."""
        entries: list[Entry] = []
        while level.early and (level.early[0][0] <= level.now or not level.open):
            start, _, turn = heapq.heappop(level.early)
            if turn.live and turn.in_line is None:
                level.now = max(level.now, start)
                entries += self._line_up(level, turn)
        if not level.turns and not level.open:
            self._latest = max(self._latest, level.now)
            del self._levels[rank]
        return entries

    def _forget(self, level: _Level, client: str) -> None:
        turn = level.turns.pop(client)
        level.weights -= turn.weight
        self._latest = max(self._latest, turn.finish)
