"""Brings requests that stand in a file only into memory, a page at a time, wherever memory runs low."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from groq_queue.core.completion import Completion
from groq_queue.core.request import Request
from groq_queue.engine.future import RequestFuture
from groq_queue.engine.log import told
from groq_queue.engine.protocol import Keeper
from groq_queue.engine.roster import Roster
from groq_queue.engine.shelf import AlreadyFetched, Page
from groq_queue.engine.timers import Timers
from groq_queue.errors import JournalError
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_FETCH_AGAIN_S = 1


class Stocking:
    """``lock`` is the engine's and guards the roster with its shelf; the file is read without it.

    Args:
        roster: Whose shelf it is, if it has one.
        lock: The engine's.
        timers: Try again after the file could not be read.
        keeper: Reads the file, or None.
        unshelve: Called without the lock with a page, its requests, and whether no row is behind them.
    """

    def __init__(
        self,
        roster: Roster,
        lock: threading.RLock,
        timers: Timers,
        keeper: Keeper | None,
        unshelve: Callable[[Page, list[Request], bool], None],
    ) -> None:
        self._roster = roster
        self._lock = lock
        self._timers = timers
        self._keeper = keeper
        self._unshelve = unshelve

    def restock(self) -> None:
        """Fetch what stands next on the shelf, wherever memory runs low. Called without the lock."""
        shelf, keeper = self._roster.shelf, self._keeper
        while shelf is not None and keeper is not None and shelf.is_low:
            with self._lock:
                page = shelf.next_page()
            if page is None:
                return
            try:
                fetched, is_last = keeper.fetch(page)
            except JournalError as error:
                _log.error(
                    "the next requests cannot be read from the journal, tried again in %d s: %s",
                    _FETCH_AGAIN_S,
                    error,
                    extra=told("journal_trouble"),
                )
                with self._lock:
                    shelf.give_up(page)
                self._timers.after(_FETCH_AGAIN_S, self.restock)
                return
            self._unshelve(page, fetched, is_last)

    def open_future(self, row_id: int) -> RequestFuture[Completion] | None:
        """Return the Future of the request of that row, if it is open and somebody may hold it. The lock is held."""
        future = self._roster.rows.get(row_id)
        if future is None and self._roster.shelf is not None:
            future = self._roster.shelf.future(row_id)
        return future

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read a pending row and submit its request inside: if it ends in between, ``known`` tells."""
        shelf = self._roster.shelf
        with self._lock:
            if shelf is not None:
                shelf.begin_reading()
        try:
            yield
        finally:
            with self._lock:
                if shelf is not None:
                    shelf.end_reading()

    def known(
        self, request: Request, future: RequestFuture[Completion], *, is_kept: bool, is_new: bool
    ) -> RequestFuture[Completion] | None:
        """Return the Future of the request if its row is here already; on the shelf it may become *future*.

        The lock is held.

        Raises:
            AlreadyFetched: Its row was here, and the request has ended meanwhile.
        """
        shelf = self._roster.shelf
        if shelf is None or request.row_id is None:
            return None
        known = self.open_future(request.row_id)
        if known is None and (shelf.has_passed(request.row_id, request) if is_new else shelf.has_ended(request.row_id)):
            raise AlreadyFetched
        if known is None and not is_new and shelf.holds(request):
            self._roster.shelve(request, future, is_kept=is_kept, is_new=False)
            known = future
        return known
