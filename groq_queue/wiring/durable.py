"""Joins an engine and a journal: what was accepted is stored, what is stored is sent, what was answered stays.

The engine decides what goes next and knows nothing of files; the journal remembers and
decides nothing. Between them are two classes and a mapping:

* ``JournalBridge`` stores each request before the engine gets it, fetches those that are in the
  file only, and stores how each ended before its Future ends;
* ``JournaledAttempts`` counts each attempt in the journal before its first byte leaves;
* the functions at the end turn a request into a row and a row into a request.

No lock is held while the file is read or written.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.core.budget import Lease, Level
from groq_queue.core.request import Request, State
from groq_queue.core.response import Completion, Record, decode_object, usage_of
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.background import Timers
from groq_queue.engine.future import RequestFuture
from groq_queue.engine.lane import Meter
from groq_queue.engine.log import log_fields
from groq_queue.engine.paging import AlreadyFetched, Group, Page
from groq_queue.engine.protocols import Attempts
from groq_queue.engine.thread_engine import ThreadEngine
from groq_queue.errors import (
    CostLimitReached,
    DailyLimitReached,
    GroqQueueError,
    JournalError,
    error_of,
    record_of,
)
from groq_queue.journal import Cursor, Entry, Journal, Row, SavedLevel, Stored, is_short
from groq_queue.logger import SafeLogger
from groq_queue.wiring.accounts import Limiter

_log = SafeLogger("groq_queue")

_SAVE_LEVELS_NS = NS_PER_S  # at most so much of what was used is forgotten by a crash
_FILE_AGAIN_S = 1
_TRY_AGAIN_S = (1, 2, 4, 8, 16)  # waits while the file cannot be written: half a minute in all
_MOST_FAILURES = 3
_BOUNDS = ("max_wait_ns", "deadline_ns", "not_before_ns")
_REST_STAYS = (DailyLimitReached, CostLimitReached, JournalError)  # nothing is wrong with the request


class _End:
    """How a request ended, until that is stored."""

    __slots__ = ("error", "failures", "result", "row_id", "status")

    def __init__(self, row_id: int, status: str, result: Completion | None, error: BaseException | None) -> None:
        self.row_id = row_id
        self.status = status
        self.result = result
        self.error = error
        self.failures = 0  # how often neither the file nor the memory was what was wrong


class JournalBridge:
    """Stores what one queue accepts, and how it ended.

    ``_lock`` guards ``_unfiled``, ``_saved_ns``, ``_is_closed`` and is a leaf; the journal has locks of its own.

    Args:
        journal: The file; closed by ``close``.
        limiter: Whose levels are stored with it.
        account: Names whose budgets these are.
        clock: Tells the time.
        timers: Calls back later.
        prepare: Prices a request that was stored; raises if it can never be sent.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        limiter: Limiter,
        account: str,
        clock: Clock,
        timers: Timers,
        prepare: Callable[[Request], None],
    ) -> None:
        self._journal = journal
        self._limiter = limiter
        self._account = account
        self._clock = clock
        self._timers = timers
        self._prepare = prepare
        self._lock = threading.Lock()
        self._unfiled: list[_End] = []
        # By row: what has ended, but not in the file, since storing the end failed. It is never to be sent again. Read
        # and written without the lock: a row's end is stored by one thread at a time.
        self._unstored: dict[int, _End] = {}
        self._saved_ns = clock.now_ns()
        self._is_closed = False
        self._engine: ThreadEngine

    # -- opening and closing

    def resume(self, engine: ThreadEngine) -> None:
        """Give *engine*, which is to send them, the requests that the file holds, and the budgets their levels."""
        self._engine = engine
        now_ns, wall_ns = self._clock.now_ns(), self._wall_ns()
        for saved in self._journal.load_levels():
            if saved.account == self._account:
                level = Level(saved.dimension, saved.used, saved.limit, saved.period_ns / NS_PER_S)
                meter = self._limiter.meter(saved.lane, _model_of(saved.lane))
                meter.begin(level, wall_ns - saved.at_wall_ns, now_ns)
        stacks = self._journal.stacks()
        if stacks:
            engine.add_stored(
                {Group(stack.lane, stack.model, stack.priority, stack.client): stack.waiting for stack in stacks}
            )

    def close(self) -> None:
        """Store what is left to store and let go of the file. The engine calls it at each shutdown: once counts."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
        if was_closed:
            return
        try:
            for end in self._take_unfiled():
                self._file(end, is_last=True)
            try:
                self._save_levels()
            except Exception as error:
                _log.error(
                    "how full the budgets are could not be stored, so the next start may send too fast at first: %s",
                    error,
                    extra=log_fields("journal_trouble"),
                )
            self._journal.close()
        except BaseException:  # a Ctrl-C: the next shutdown closes it
            self._is_closed = False
            raise

    # -- what the queue asks for

    def submit(
        self, request: Request, callback: Callable[[Future[Completion]], object] | None
    ) -> RequestFuture[Completion]:
        """Store a request, then let the engine have it; or return what is stored under its name.

        Args:
            request: As it was given: what is stored does not depend on the limits of the day.
            callback: Called when it has ended.

        Raises:
            JournalError: It could not be stored, or its ``custom_id`` belongs to another payload.
            GroqQueueError: It can never be sent, or the engine did not take it; it is not stored either.
        """
        self._engine.check_open()
        entry = entry_of(request, created_ns=self._wall_ns())
        self._prepare(request)
        accepted = self._journal.add(entry)
        if not accepted.is_new:
            return self._find(accepted.row_id, callback)
        request.row_id = accepted.row_id
        drop_body(request)
        try:
            return self._engine.submit(request, callback=callback)
        except AlreadyFetched:
            return self._find(accepted.row_id, callback)
        except BaseException:
            self._withdraw(accepted.row_id)
            raise

    def get(self, custom_id: str) -> Record:
        """Return the state of the request of that name."""
        stored = self._journal.get(custom_id)
        outcome = outcome_of(stored)
        return Record(
            custom_id,
            stored.status,
            None if outcome is None else outcome.result,
            None if outcome is None or not isinstance(outcome.error, GroqQueueError) else outcome.error,
            stored.attempts,
            None if stored.created_ns is None else stored.created_ns / NS_PER_S,
            None if stored.finished_ns is None else stored.finished_ns / NS_PER_S,
        )

    def cancel(self, custom_id: str) -> bool:
        """Cancel the request of that name if it is pending."""
        stored = self._journal.get(custom_id)
        if stored.status != "pending" or stored.row_id is None:
            return False
        return self._find(stored.row_id, None).cancel()

    def cancel_group(self, group: Group, after: int) -> int:
        """Cancel the stored requests of *group*, behind a row, and return how many."""
        place = Cursor(group.lane, group.priority, group.client, after)
        return self._journal.cancel_stack(place, self._journal.last_row_id)

    # -- what the engine asks for

    def fetch(self, page: Page) -> tuple[list[Request], bool]:
        """Return the requests of a page, and whether no row is behind them."""
        group = page.group
        ended = set(self._unstored)  # before reading: one that is stored meanwhile may have been read as pending
        rows = self._journal.stack(Cursor(group.lane, group.priority, group.client, page.after), limit=page.limit)
        return [self._restored(row) for row in rows if row.row_id not in ended], len(rows) < page.limit

    def moved(self, request: Request) -> None:
        """Store the new priority of a request; it holds in this life even where that fails."""
        try:
            if request.row_id is not None:
                self._journal.set_priority(request.row_id, request.priority)
        except JournalError as error:
            _log.warning(
                "the new priority of %s holds but is not stored, so a restart forgets it: %s",
                request,
                error,
                extra=log_fields("journal_trouble", request),
            )

    def ended(self, request: Request, result: Completion | None, error: BaseException | None) -> None:
        """Store how a request ended, unless it is to be sent when the journal is opened again."""
        if request.row_id is None or isinstance(error, _REST_STAYS):
            return
        self._file(_End(request.row_id, request.state.value, result, error))
        self._save_levels_in_time()

    # -- inside

    def _find(self, row_id: int, callback: Callable[[Future[Completion]], object] | None) -> RequestFuture[Completion]:
        """Return the Future of a request that was stored before."""
        tries = 3  # it may begin, or end, between two of these questions
        while True:
            future = self._engine.future_of(row_id)
            if future is not None:
                if callback is not None:
                    self._engine.call_back(future, callback)
                return future
            end = self._unstored.get(row_id)
            if end is not None and end.result is not None:
                return self._ended_future(self._journal.at(row_id), Outcome(Disposition.DONE, end.result), callback)
            if end is not None and isinstance(end.error, GroqQueueError):
                return self._ended_future(
                    self._journal.at(row_id), Outcome(Disposition.FAILED, error=end.error), callback
                )
            if end is not None and end.status == "cancelled":
                self._unstored.pop(row_id, None)  # need not be stored any more: the request is wanted again
            with self._engine.reading():
                row = self._journal.pending_row(row_id)
                if row is not None:
                    try:
                        return self._engine.submit(self._restored(row), callback=callback, is_new=False)
                    except AlreadyFetched:
                        continue  # it has begun, or ended, since it was read
            stored = self._journal.at(row_id)
            outcome = outcome_of(stored)
            if outcome is not None:
                return self._ended_future(stored, outcome, callback)
            tries -= 1
            if not tries:
                raise JournalError(
                    f"journal {self._journal.path}: {stored.custom_id!r} is {stored.status}, but no process is sending "
                    "it; close the queue and open the journal again"
                )

    def _ended_future(
        self, stored: Stored, outcome: Outcome, callback: Callable[[Future[Completion]], object] | None
    ) -> RequestFuture[Completion]:
        request = ended_request_of(stored, outcome)
        future: RequestFuture[Completion] = RequestFuture(request, self._engine)
        future.end(outcome.result, outcome.error)
        if callback is not None:
            self._engine.call_back(future, callback)
        return future

    def _restored(self, row: Row) -> Request:
        """Make a request again from its row."""
        age_ns = max(0, self._wall_ns() - row.created_ns)
        request = request_of(row, submitted_ns=self._clock.now_ns() - age_ns)
        if request.shrinks and request.body is None:
            request.body = self._journal.payload(row.row_id)
        try:
            self._prepare(request)
        except GroqQueueError as error:
            _log.debug("%s: %s; its lane will say so", request, error, extra=log_fields("journal_trouble", request))
        return request

    def _withdraw(self, row_id: int) -> None:
        try:
            self._journal.withdraw(row_id)
        except JournalError as error:
            _log.error(
                "a request that was refused stays in the journal as row %d and is sent at the next start: %s",
                row_id,
                error,
                extra=log_fields("journal_trouble"),
            )

    def _file(self, end: _End, *, is_last: bool = False) -> None:
        """Store an end; while that fails it is kept and tried again, because it is paid for.

        The file may be what is wrong, or the memory; only what it is in itself fails for ever, and is tried
        a few times.
        """
        try:
            result, error = end.result, end.error
            self._journal.finish(
                end.row_id,
                end.status,
                result=None if result is None else json.dumps(result, separators=(",", ":")).encode(),
                error=None if error is None else record_of(error),
                usage=None if result is None else usage_of(result),
            )
        except Exception as trouble:
            if isinstance(trouble, JournalError) and not is_trouble(trouble):
                _log.debug("row %d has its end already: %s", end.row_id, trouble, extra=log_fields("journal_trouble"))
                self._unstored.pop(end.row_id, None)
                return
            if not isinstance(trouble, (JournalError, MemoryError)):
                end.failures += 1
                is_last = is_last or end.failures >= _MOST_FAILURES
            _log.error(
                "the outcome of row %d (%s) is not stored in the journal%s: %s: %s",
                end.row_id,
                end.status,
                ", so the next start does not know of it" if is_last else ", tried again soon",
                type(trouble).__name__,
                trouble,
                extra=log_fields("journal_trouble"),
            )
            self._unstored[end.row_id] = end
            if not is_last:
                self._keep_unfiled(end)
        except BaseException:  # a Ctrl-C, which reaches the caller
            self._unstored[end.row_id] = end
            self._keep_unfiled(end)
            raise
        else:
            self._unstored.pop(end.row_id, None)

    def _keep_unfiled(self, end: _End) -> None:
        with self._lock:
            self._unfiled.append(end)
            is_first = len(self._unfiled) == 1
        if is_first:
            self._timers.after(_FILE_AGAIN_S, self._file_again)

    def _file_again(self) -> None:
        for end in self._take_unfiled():
            self._file(end)

    def _take_unfiled(self) -> list[_End]:
        """Return the ends that are to be stored, but for those that were overtaken by a new submit."""
        with self._lock:
            taken, self._unfiled = self._unfiled, []
        return [end for end in taken if self._unstored.get(end.row_id) is end]

    def _save_levels_in_time(self) -> None:
        now_ns = self._clock.now_ns()
        with self._lock:
            if now_ns - self._saved_ns < _SAVE_LEVELS_NS:
                return
            self._saved_ns = now_ns
        try:
            self._save_levels()
        except Exception as error:
            _log.warning(
                "how full the budgets are is not stored, tried again later: %s",
                error,
                extra=log_fields("journal_trouble"),
            )

    def _save_levels(self) -> None:
        wall_ns = self._wall_ns()
        self._journal.save_levels(
            SavedLevel(
                self._account, lane, level.dimension, level.limit, round(level.period_s * NS_PER_S), level.used, wall_ns
            )
            for lane, levels in self._limiter.levels(self._clock.now_ns()).items()
            for level in levels
        )

    def _wall_ns(self) -> int:
        return round(self._clock.wall_s() * NS_PER_S)


def _model_of(lane: str) -> str:
    """Return the model of a lane, whose tier follows in parentheses."""
    return lane.rsplit(" (", 1)[0] if lane.endswith(")") else lane


class JournaledAttempts:
    """Runs attempts, each counted in the journal before it is sent.

    Args:
        attempts: Sends.
        journal: Counts.
        may_repeat: A request that a power cut took off its way may be sent again, so the disk need not be waited for.
    """

    def __init__(self, attempts: Attempts, journal: Journal, *, may_repeat: bool) -> None:
        self._attempts = attempts
        self._journal = journal
        self._may_repeat = may_repeat
        self._troubles: dict[int, int] = {}  # row: how often in a row the file could not be written; one worker each

    def attempt(self, request: Request, lease: Lease, meter: Meter) -> Outcome:
        """Claim the row, send, and let the row wait again if that is what the outcome says."""
        row_id = request.row_id
        if row_id is None:
            return self._attempts.attempt(request, lease, meter)
        try:
            if request.body is None:
                request.body = self._journal.payload(row_id)
            claimed = self._journal.claim(row_id, is_durable=not self._may_repeat)
            request.attempts = claimed - 1  # the runner counts this one
        except JournalError as error:
            meter.refund(lease)
            return self._not_sent(request, row_id, error)
        self._troubles.pop(row_id, None)
        outcome = self._attempts.attempt(request, lease, meter)
        if outcome.next not in (Disposition.DONE, Disposition.FAILED):
            self._release(row_id)
            drop_body(request)
        return outcome

    def _release(self, row_id: int) -> None:
        try:
            self._journal.release(row_id)
        except JournalError as error:
            _log.warning(
                "row %d of the journal stays marked as on its way, although its attempt has ended: %s",
                row_id,
                error,
                extra=log_fields("journal_trouble"),
            )

    def _not_sent(self, request: Request, row_id: int, error: JournalError) -> Outcome:
        """Return what becomes of a request that could not be claimed."""
        if not is_trouble(error):
            try:
                ended = outcome_of(self._journal.at(row_id))
            except JournalError:
                ended = None
            return ended or Outcome(Disposition.FAILED, error=error)
        tries = self._troubles[row_id] = self._troubles.get(row_id, 0) + 1
        if tries > len(_TRY_AGAIN_S):
            del self._troubles[row_id]
            return Outcome(Disposition.FAILED, error=error)
        wait_s = _TRY_AGAIN_S[tries - 1]
        _log.error(
            "%s is not sent, tried again in %d s: %s",
            request,
            wait_s,
            error,
            extra=log_fields("journal_trouble", request),
        )
        return Outcome(Disposition.RETRY, error=error, wait_ns=wait_s * NS_PER_S)


# -- a request as a row of the journal, a row as a request, and what a row or an error of the file means


def entry_of(request: Request, *, created_ns: int) -> Entry:
    """Return what is to be stored of a new request."""
    options: dict[str, Any] = {name: bound for name in _BOUNDS if (bound := getattr(request, name)) is not None}
    if request.shrinks:
        options["shrinks"] = True
    return Entry(
        request_id=request.id,
        custom_id=request.custom_id,
        lane=request.lane,
        model=request.model,
        endpoint=request.endpoint,
        priority=request.priority,
        client=request.client,
        payload=request.body or b"",
        size=request.size,
        created_ns=created_ns,
        options=options,
    )


def request_of(row: Row, *, submitted_ns: int) -> Request:
    """Make a request again from its row; a long payload stays in the file."""
    request = Request(
        model=row.model,
        endpoint=row.endpoint,
        body=row.short_payload,
        size=row.size,
        priority=row.priority,
        client=row.client,
        custom_id=row.custom_id if row.is_named else None,
        shrinks=bool(row.options.get("shrinks")),
        request_id=row.request_id,
        **{name: bound for name in _BOUNDS if (bound := row.options.get(name)) is not None},
    )
    request.lane = row.lane
    request.row_id = row.row_id
    request.attempts = row.attempts
    request.submitted_ns = submitted_ns
    return request


def ended_request_of(stored: Stored, outcome: Outcome) -> Request:
    """Return what a Future is to know of a request that ended in an earlier life."""
    request = Request(
        model=stored.model or "",
        endpoint=stored.endpoint or "",
        body=None,
        size=stored.size,
        priority=stored.priority,
        client=stored.client,
        custom_id=stored.custom_id if stored.is_named else None,
        request_id=stored.request_id,
    )
    request.state = State.COMPLETED if outcome.next is Disposition.DONE else State.FAILED
    request.attempts = stored.attempts
    ended_ns = stored.claimed_ns or stored.finished_ns or 0
    request.started_ns = max(1, ended_ns - (stored.created_ns or 0))  # after submit, which is 0: all that is asked for
    return request


def outcome_of(stored: Stored) -> Outcome | None:
    """Return how a stored request ended, or None if it has not, or was called off."""
    if stored.status == "completed":
        waited_ns = max(0, (stored.claimed_ns or 0) - (stored.created_ns or 0))
        completion = Completion(
            decode_object(stored.result or b"{}"),
            custom_id=stored.custom_id if stored.is_named else None,
            attempts=stored.attempts,
            waited=waited_ns / NS_PER_S,
        )
        return Outcome(Disposition.DONE, result=completion)
    if stored.status in ("failed", "expired") and stored.error is not None:
        return Outcome(Disposition.FAILED, error=error_of(stored.error))
    return None


def drop_body(request: Request) -> None:
    """Leave a long payload to the file until it is sent; one that was shrunk differs from the stored one."""
    if request.body is not None and not is_short(request.body) and not request.shrinks:
        request.body = None


def is_trouble(error: JournalError) -> bool:
    """Return whether the file, and not the request, is what was wrong."""
    return error.__cause__ is not None
