"""Which request of a lane goes next: levels first, then fair turns between clients, then arrival.

The order is static: what the heap compares never depends on the present
instant, so entries need not be moved while they wait. Between levels it is strict;
see ``core.priority``.

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
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

_SCALE = 1 << 32  # virtual time per unit of cost at weight 1; keeps tags integer and exact enough
_WEIGHT_SCALE = 1 << 16  # weights are stored as integers in this unit
_UNIT = _SCALE * _WEIGHT_SCALE  # divided by a weight it is virtual time per unit of cost


class Ranked(Protocol):
    """What the order needs to know of a request."""

    rank: int
    client: str
    turn_cost: int
    arrival: int  # number of its place in line, set by ``add``; 0 once it has left the line


class _ClientQueue:
    """One client's requests of one level: the first is in line, the others behind it.

    A request that leaves from the middle stays in ``behind`` until its place comes, and is
    counted in ``gone``; should it come back, it is appended once more, at the end.
    """

    __slots__ = ("behind", "finish", "gone", "in_line", "live", "start", "weight")

    def __init__(self, start: int, weight: int) -> None:
        self.behind: deque[Any] = deque()
        self.gone: dict[Any, int] = _NOBODY  # how many places in ``behind`` a request has left
        self.start = start
        self.finish = start
        self.weight = weight
        self.live = 1
        self.in_line: Any = None  # the request whose entry is in the heap, if any

    def copy(self) -> _ClientQueue:
        twin = _ClientQueue(self.start, self.weight)
        twin.behind = self.living()
        twin.finish, twin.live, twin.in_line = self.finish, self.live, self.in_line
        return twin

    def leave(self, request: Any) -> None:
        """Note that *request*, which is in ``behind``, is not to be taken from there; ``gone`` is its own."""
        self.gone[request] = self.gone.get(request, 0) + 1
        if len(self.behind) > 32 and len(self.behind) > 2 * self.live:
            self.behind, self.gone = self.living(), _NOBODY

    def first(self) -> Any:
        """Return the first request behind the one in line, and leave it there; there is one."""
        behind = self.behind
        while self.gone and behind[0] in self.gone:
            _uncount(self.gone, behind.popleft())
        while not behind[0].arrival:  # left while ``living`` was at work
            behind.popleft()
        return behind[0]

    def newest(self, rank: int) -> Any:
        """Return the request that came last in this turn of level *rank*."""
        for request in reversed(self.behind):
            if request not in self.gone or (request.arrival and request.rank == rank):
                return request  # its last place here is the one it has not left
        return self.in_line

    def living(self) -> deque[Any]:
        """Return ``behind`` without the places that were left."""
        gone, living = dict(self.gone), deque[Any]()
        for request in self.behind:
            if request in gone:
                _uncount(gone, request)
            else:
                living.append(request)
        return living


_NOBODY: dict[Any, int] = {}  # never changed


def _uncount(gone: dict[Any, int], request: Any) -> None:
    if gone[request] == 1:
        del gone[request]
    else:
        gone[request] -= 1


class _PriorityLevel:
    """Virtual time and clients of one rank."""

    __slots__ = ("early", "now", "open", "turns", "weights")

    def __init__(self, now: int) -> None:
        self.now = now
        self.turns: dict[str, _ClientQueue] = {}
        self.weights = 0
        self.early: list[tuple[int, int, _ClientQueue]] = []  # turns whose start is still to come, by start
        self.open = 0  # live entries of this level that the heap holds

    def copy(self) -> _PriorityLevel:
        twin = _PriorityLevel(self.now)
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


class FairQueue:
    """Decides which requests of a lane stand in its heap, and with which ``seq``.

    Only the first request of each client and level is in it; so the heap is
    as long as there are clients, a cancelled request leaves no gap in its
    client's share, and state exists only for clients with something pending.

    Methods that return entries want them put into the heap. Not thread-safe; but where memory
    is allocated a garbage collection may come, whose finalisers cancel, so whatever needs some
    is made before the first change or after the last.
    """

    def __init__(self) -> None:
        self._levels: dict[int, _PriorityLevel] = {}
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

    def add(self, request: Ranked) -> Sequence[Entry]:
        """Line up a new request behind the others of its client and level."""
        client = request.client
        level = self._levels.get(request.rank)
        turn = None if level is None else level.turns.get(client)
        made = None
        if turn is None:
            made = _ClientQueue(0, self._weights.get(client, _WEIGHT_SCALE))
            level = self._level(request.rank)
            turn = level.turns.get(client)
        assert level is not None
        self._arrivals = request.arrival = self._arrivals + 1
        if turn is not None:
            turn.behind.append(request)
            turn.live += 1
            return ()
        assert made is not None
        turn = level.turns[client] = made
        turn.start = turn.finish = level.now
        level.weights += turn.weight
        return (_enter_line(level, turn, request),)

    def put_back(self, request: Ranked, seq: tuple[int, int]) -> Sequence[Entry]:
        """Return a request that was taken before to its old place; its turn was paid for."""
        self._level(request.rank).open += 1
        request.arrival = seq[1]
        return ((request.rank, seq, request),)

    def taken(self, request: Ranked, *, again: bool) -> Sequence[Entry]:
        """Note that the heap's first entry was taken.

        Args:
            request: The one taken.
            again: It had been put back; its turn was counted the first time.
        """
        level = self._levels[request.rank]
        level.open -= 1
        if again:
            return self._promote(request.rank, level)
        turn = level.turns[request.client]
        level.now += request.turn_cost * _UNIT // level.weights
        turn.in_line = None
        turn.start = turn.finish
        turn.live -= 1
        entries: Sequence[Entry] = ()
        if turn.live:
            entries = _line_up(level, turn)
        else:
            self._forget(level, request.client)
        if level.open and (not level.early or level.early[0][0] > level.now):
            return entries
        promoted = self._promote(request.rank, level)
        return (*entries, *promoted) if entries else promoted

    def discard(self, request: Ranked, *, again: bool) -> Sequence[Entry]:
        """Take a request out of the line; its entry in the heap, if any, has become stale.

        Args:
            request: The one that leaves.
            again: It had been put back.
        """
        level = self._levels[request.rank]
        if again:
            request.arrival = 0
            level.open -= 1
            return self._promote(request.rank, level)
        turn = level.turns[request.client]
        if turn.gone is _NOBODY:
            turn.gone = {}
        request.arrival = 0
        turn.live -= 1
        was_in_line = turn.in_line is request
        entries: Sequence[Entry] = ()
        if was_in_line:
            turn.in_line = None
            level.open -= 1
        if not turn.live:
            self._forget(level, request.client)
        elif was_in_line:
            entries = _line_up(level, turn)
        else:
            turn.leave(request)
        if level.open and (not level.early or level.early[0][0] > level.now):
            return entries
        return (*entries, *self._promote(request.rank, level))

    def clear(self) -> None:
        """Forget every pending request and every turn."""
        for level in self._levels.values():
            for turn in level.turns.values():
                self._latest = max(self._latest, turn.finish)
            self._latest = max(self._latest, level.now)
        self._levels.clear()

    def successor(self) -> FairQueue:
        """Return an empty order that continues this one: later arrivals, later finish tags, the same weights."""
        after = FairQueue()
        after._weights, after._arrivals = dict(self._weights), self._arrivals
        ends = [turn.finish for level in self._levels.values() for turn in level.turns.values()]
        after._latest = max([self._latest, *(level.now for level in self._levels.values()), *ends])
        return after

    def in_order(self, entries: Iterable[Entry]) -> Iterator[Any]:
        """Yield all pending requests in the order in which they would be taken if nothing else came.

        Args:
            entries: Of the heap; they are not changed.
        """
        twin = FairQueue()
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
                return max(candidates, key=lambda turn: turn.live).newest(rank)
        return None

    def _level(self, rank: int) -> _PriorityLevel:
        level = self._levels.get(rank)
        if level is None:
            level = self._levels[rank] = _PriorityLevel(self._latest)
        return level

    def _promote(self, rank: int, level: _PriorityLevel) -> list[Entry]:
        """Line up every turn whose start has come; if no turn is in line, time jumps to the next start."""
        entries: list[Entry] = []
        early = level.early
        while early and (early[0][0] <= level.now or not level.open):
            start, _, turn = heapq.heappop(early)
            if turn.live and turn.in_line is None:
                if start > level.now:
                    level.now = start
                entries.append(_step(level, turn))
        if not level.turns and not level.open:
            self._latest = max(self._latest, level.now)
            del self._levels[rank]
        return entries

    def _forget(self, level: _PriorityLevel, client: str) -> None:
        turn = level.turns.pop(client)
        level.weights -= turn.weight
        if turn.finish > self._latest:
            self._latest = turn.finish


def _line_up(level: _PriorityLevel, turn: _ClientQueue) -> Sequence[Entry]:
    """Bring the turn's first request behind into line, at once or when its start comes."""
    if turn.start > level.now:
        heapq.heappush(level.early, (turn.start, turn.first().arrival, turn))
        return ()
    return (_step(level, turn),)


def _step(level: _PriorityLevel, turn: _ClientQueue) -> Entry:
    """Let the turn's first request behind step into line."""
    turn.first()
    return _enter_line(level, turn, turn.behind.popleft())


def _enter_line(level: _PriorityLevel, turn: _ClientQueue, request: Ranked) -> Entry:
    """Let *request* be the one of its turn that is in line, and return its entry."""
    turn.finish = finish = turn.start + request.turn_cost * _UNIT // turn.weight
    turn.in_line = request
    level.open += 1
    return (request.rank, (finish, request.arrival), request)
