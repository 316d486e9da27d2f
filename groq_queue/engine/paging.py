"""Pending requests that are in a file only, so that a million of them fit into little memory.

Requests of one lane, level and client follow each other; they are a
*stack*. Those at its head are *resident*: in memory, in their lane. Of those farther back
only the number is known, and a page of them is fetched when the resident ones run low.
The order stays what it would be: a new request goes to the backlog if any of its
stack are there, and every stack with something pending has requests in its lane.

A program may hold the Future of a request in the backlog. It is known here by a
weak reference, so one that no program holds costs nothing; one with a callback is kept.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Container, Iterable
from typing import Any, NamedTuple

from groq_queue.core.request import Request

_RESIDENT_IN_ALL = 20_000  # requests of all stacks that may be in memory, about 1 kB each
_RESIDENT_AT_MOST = 10_000  # of one stack: a queue of the usual max_pending needs no paging
_RESIDENT_AT_LEAST = 4
_LOW = 500  # resident requests below which a page is fetched
_PAGE = 256


class AlreadyFetched(Exception):
    """The row of a new request came with a page before its submitter did; the file tells what became of it."""


class Group(NamedTuple):
    """What the requests of one stack have in common."""

    lane: str
    model: str
    priority: int
    client: str


class Page(NamedTuple):
    """Which rows are to be fetched: of *group*, with ids above *after*, in order, at most *limit*."""

    group: Group
    after: int
    limit: int


class _Stack:
    __slots__ = ("after", "has_grown", "has_more", "is_fetching", "resident", "stored")

    def __init__(self) -> None:
        self.resident = 0  # in memory, not ended
        self.stored = 0  # in the backlog, as far as known
        self.has_more = False  # there may be rows with ids above ``after`` that are in the file only
        self.after = 0
        self.is_fetching = False
        self.has_grown = False  # since the page that is being fetched was asked for


class BacklogPager:
    """Not thread-safe: the engine's lock guards it.

    What is in the file is known by ``has_more`` alone; the counts are for people. A row that is
    fetched before its submitter has put it here is one that was not counted: ``stack_up`` tells.
    """

    def __init__(self) -> None:
        self._stacks: dict[Group, _Stack] = {}
        self._low: dict[Group, None] = {}  # groups that may need a page, in order
        self._futures: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._kept: dict[int, Any] = {}
        self._fetching = 0  # pages, and single rows, that are being read
        # Rows whose request has ended, moved or been forgotten since the first of these was asked for.
        self._gone: set[int] = set()
        self._passed = 0  # the last row fetched of any stack that is gone
        self.count = 0

    @property
    def is_empty(self) -> bool:
        """Every pending request is in memory."""
        return not any(stack.has_more for stack in self._stacks.values())

    @property
    def is_low(self) -> bool:
        """Some stack may need a page. May be read without the lock."""
        return bool(self._low)

    def add_stored(self, group: Group, count: int) -> None:
        """Note that *count* requests of *group* are in the file."""
        stack = self._stack(group)
        stack.stored += count
        stack.has_more = True
        self.count += count
        self._low[group] = None

    # -- one request

    def joined(self, request: Request) -> None:
        """Note that a request is in memory."""
        self._stack(group_of(request)).resident += 1

    def left(self, request: Request) -> None:
        """Note that a request which was in memory has ended, or has changed its group."""
        group = group_of(request)
        stack = self._stacks[group]
        stack.resident -= 1
        if self._fetching and request.row_id is not None:
            self._gone.add(request.row_id)
        if stack.has_more:
            self._low[group] = None
        elif not stack.resident and not stack.is_fetching:
            self._remove(group, stack)

    def forgotten(self, row_id: int) -> None:
        """Note that the end of a request has been stored, so that it is in memory no more.

        A page that is on its way may have read its row before that.
        """
        if self._fetching:
            self._gone.add(row_id)

    def begin_reading(self) -> None:
        """Remember from now on which requests end: a row is being read. ``end_reading`` must follow."""
        self._fetching += 1

    def end_reading(self) -> None:
        """Note that what was read has been put to use."""
        self._fetching -= 1
        if not self._fetching:
            self._gone.clear()

    def has_ended(self, row_id: int) -> bool:
        """Return whether the request of a row that was read meanwhile has ended, or moved, since the reading began."""
        return row_id in self._gone

    def has_passed(self, row_id: int, request: Request) -> bool:
        """Return whether a row of the group of *request* may have been fetched before."""
        stack = self._stacks.get(group_of(request))
        return row_id <= max(self._passed, 0 if stack is None else stack.after)

    def wants(self, request: Request) -> bool:
        """Return whether a new request is to be put here."""
        if _has_instants(request):
            return False  # its time may come while it is in the backlog
        stack = self._stacks.get(group_of(request))
        return stack is not None and (stack.has_more or stack.resident >= self._resident_at_most())

    def holds(self, request: Request) -> bool:
        """Return whether the row of *request*, of which no Future exists, is known here."""
        stack = self._stacks.get(group_of(request))
        return stack is not None and stack.has_more and (request.row_id or 0) > stack.after

    def put(self, request: Request, future: Any, *, is_kept: bool, is_new: bool) -> None:
        """Put a request here; one that is not new was counted before."""
        row_id = request.row_id
        assert row_id is not None
        group = group_of(request)
        stack = self._stack(group)
        stack.has_more = stack.has_grown = True
        stack.stored += is_new
        self.count += is_new
        self._futures[row_id] = future
        if is_kept:
            self._kept[row_id] = future
        request.is_paged_out = True
        request.body = None
        self._low[group] = None

    def keep(self, future: Any, row_id: int) -> None:
        """Keep a Future that has a callback alive."""
        if self._futures.get(row_id) is future:
            self._kept[row_id] = future

    def future(self, row_id: int) -> Any:
        """Return the Future of that row that a program holds, or None."""
        return self._futures.get(row_id)

    def take_off(self, request: Request) -> bool:
        """Take off one request, with its Future, wherever it is; return whether it, or another for it, was counted.

        It was not if a thread asked for its row before the thread that adds it had put it here.
        """
        assert request.row_id is not None
        request.future = self._forget(request.row_id)
        request.is_paged_out = False
        stack = self._stacks.get(group_of(request))
        if stack is None:
            return False
        if self._fetching:
            self._gone.add(request.row_id)
        self._low[group_of(request)] = None
        return self._count_off(stack)

    def held(self) -> list[Any]:
        """Return the Futures that a program holds."""
        return list(self._futures.values())

    def clear(self, is_meant: Callable[[Group], bool]) -> list[tuple[Group, int, int]]:
        """Forget the rows without a Future, in every group that *is_meant*; the rows stay in the file.

        Returns:
            Each group, how many were counted of it, and the row that they follow.
        """
        cleared: list[tuple[Group, int, int]] = []
        for group, stack in self._stacks.items():
            if stack.has_more and is_meant(group):
                cleared.append((group, stack.stored, stack.after))
                self.count -= stack.stored
                stack.stored, stack.has_more = 0, False
                self._low.pop(group, None)
        return cleared

    def recount(self, resident: Iterable[Request]) -> list[tuple[Group, int]]:
        """Count anew what is in memory: a change was broken off in the middle; return each group with what is not."""
        for stack in self._stacks.values():
            stack.resident = 0
        for request in resident:
            self._stack(group_of(request)).resident += 1
        self.count = sum(stack.stored for stack in self._stacks.values())
        self._low.update(dict.fromkeys(group for group, stack in self._stacks.items() if stack.has_more))
        return [(group, stack.stored) for group, stack in self._stacks.items()]

    # -- pages

    def next_page(self) -> Page | None:
        """Return a page to be fetched, or None; ``stack_up`` or ``give_up`` must follow."""
        low = min(_LOW, self._resident_at_most() // 2)
        while self._low:
            group = next(iter(self._low))
            del self._low[group]
            stack = self._stacks.get(group)
            if stack is not None and stack.has_more and stack.resident < max(1, low) and not stack.is_fetching:
                stack.is_fetching, stack.has_grown = True, False
                self.begin_reading()
                return Page(group, stack.after, min(_PAGE, self._resident_at_most()))
        return None

    def give_up(self, page: Page) -> None:
        """A page could not be fetched; it will be asked for again."""
        stack = self._stacks[page.group]
        self._has_come(stack)
        self._low[page.group] = None

    def stack_up(
        self, page: Page, fetched: Iterable[Request], resident: Container[int], *, is_last: bool
    ) -> tuple[list[Request], int]:
        """Take the requests of a page out of the backlog.

        Args:
            page: What was asked for.
            fetched: One request for each row found, in order.
            resident: Ids of rows whose request is in memory already.
            is_last: There was no row behind them.

        Returns:
            Those to be put into their lane, with the Future that a program holds, if any;
            and how many more there are now than were counted (less, if negative).
        """
        stack = self._stacks[page.group]
        taken: list[Request] = []
        uncounted = 0
        for request in fetched:
            assert request.row_id is not None
            if not stack.has_more:
                break  # the backlog was cleared meanwhile
            stack.after = request.row_id
            if request.row_id in self._gone or request.row_id in resident:
                continue
            future = self._forget(request.row_id)
            if future is not None:
                request = future._request
                request.future = future
                request.is_paged_out = False
            uncounted += not self._count_off(stack)
            taken.append(request)
        self._has_come(stack)
        if is_last and not stack.has_grown:
            stack.has_more = False
            uncounted -= stack.stored
            self.count -= stack.stored
            stack.stored = 0
        if stack.has_more:
            self._low[page.group] = None
        elif not stack.resident and not taken:
            self._remove(page.group, stack)
        return taken, uncounted

    def _stack(self, group: Group) -> _Stack:
        stack = self._stacks.get(group)
        if stack is None:
            stack = self._stacks[group] = _Stack()
        return stack

    def _has_come(self, stack: _Stack) -> None:
        stack.is_fetching = False
        self.end_reading()

    def _remove(self, group: Group, stack: _Stack) -> None:
        self._passed = max(self._passed, stack.after)
        del self._stacks[group]

    def _resident_at_most(self) -> int:
        return max(_RESIDENT_AT_LEAST, min(_RESIDENT_AT_MOST, _RESIDENT_IN_ALL // max(1, len(self._stacks))))

    def _count_off(self, stack: _Stack) -> bool:
        """Count one less; return whether it had been counted."""
        if not stack.stored:
            return False
        stack.stored -= 1
        self.count -= 1
        return True

    def _forget(self, row_id: int) -> Any:
        kept = self._kept.pop(row_id, None)  # may be the last reference
        return self._futures.pop(row_id, kept)


def group_of(request: Request) -> Group:
    """Return the group of *request*."""
    return Group(request.lane, request.model, request.priority, request.client)


def _has_instants(request: Request) -> bool:
    """Return whether a timer is to be set for it: its time can run out, or has still to come."""
    return request.has_bounds or request.not_before_ns is not None
