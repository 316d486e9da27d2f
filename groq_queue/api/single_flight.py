"""Equal requests that are open at the same time share one call.

Not a cache: once the shared call has ended, an equal request is sent again. Each
caller has a Future of its own; the shared request is cancelled when the last of
them is, takes the most urgent of their priorities, and counts as the first
caller's for the rest: client, time bounds, ``tokens``. Only requests with equal time
bounds share; they run from the first one's ``submit``.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from groq_queue.core.request import Request, State, normal_form
from groq_queue.core.response import Completion
from groq_queue.engine.failures import submitted_elsewhere
from groq_queue.engine.future import RequestFuture
from groq_queue.engine.stats import Explanation, RequestInfo
from groq_queue.engine.worker_pool import Inside
from groq_queue.errors import ConfigurationError, GroqQueueError, QueueBusy
from groq_queue.lifecycle import register_for_fork

_Seen = TypeVar("_Seen", RequestInfo, Explanation)


class SharedEngine(Protocol):
    """What sends, as this file knows it."""

    def call_back(
        self, future: RequestFuture[Completion], callback: Callable[[Future[Completion]], object]
    ) -> None: ...
    def cancel(self, request: Request) -> bool: ...
    def set_priority(self, request: Request, priority: int) -> bool: ...
    def request_of(self, custom_id: str) -> Request | None: ...
    @property
    def inside(self) -> Inside: ...
    def blocking_section(self) -> AbstractContextManager[None]: ...
    def keep(self, future: RequestFuture[Any], row_id: int) -> None: ...


Submit = Callable[[Request, Callable[[Future[Completion]], object]], RequestFuture[Completion]]
"""Has a request sent, and something called when it has ended."""


class _SharedRequest:
    """One shared request and the Futures of those who share it; guarded by the lock of its ``SingleFlight``."""

    __slots__ = ("has_ended", "is_accepted", "is_moving", "key", "level", "members", "request", "wanted")

    def __init__(self, key: tuple[Any, ...], request: Request) -> None:
        self.key = key
        self.request = request
        self.members: list[SharedFuture] = []
        self.is_accepted = False  # the engine took it in; before, it must not be asked about it
        self.has_ended = False
        self.level = self.wanted = request.priority  # what the engine knows, and the most urgent of the members
        self.is_moving = False  # one thread tells the engine, the others only say what they want


class SharedFuture(RequestFuture[Completion]):
    """The Future of one caller of a shared request."""

    __slots__ = ("_call", "_custom_id", "_level", "_single_flight")

    def __init__(self, call: _SharedRequest, sharing: SingleFlight, custom_id: str | None) -> None:
        super().__init__(call.request, sharing)
        self._call = call
        self._single_flight = sharing
        self._custom_id = custom_id
        self._level = 0  # its caller's priority

    @property
    def custom_id(self) -> str | None:
        """The caller's own id of the request."""
        return self._custom_id

    def cancel(self) -> bool:
        """Leave the shared request unless an attempt is on its way or it has ended; the last one cancels it."""
        return self._single_flight.leave(self)

    def running(self) -> bool:
        """Return whether an attempt is on its way."""
        return not self.done() and super().running()

    def set_priority(self, level: int) -> bool:
        """Set the priority for this caller; False if the request does not wait any more."""
        return self._single_flight.set_level(self, level)


class SingleFlight:
    """Gives equal open requests one call.

    ``_lock`` guards everything here and in the calls. It is a leaf: neither the
    engine nor a Future with callbacks is touched under it. Re-entrant, so that a
    signal handler may cancel. True whenever it is free: a Future is in the
    ``members`` of at most one call, and the thread that takes it out ends it, once.
    """

    def __init__(self, engine: SharedEngine, submit: Submit) -> None:
        self._engine = engine
        self._submit = submit
        self._begin()
        register_for_fork(self)

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._calls: dict[tuple[Any, ...], _SharedRequest] = {}  # those that newcomers may join
        self._by_custom_id: dict[str, SharedFuture] = {}

    def reset_after_fork(self) -> None:
        """Share nothing with the parent of a forked child."""
        inherited = [future for call in self._calls.values() for future in call.members]
        self._begin()
        for future in inherited:
            future.leave_to_parent(submitted_elsewhere(future.custom_id))

    def submit(self, request: Request, callback: Callable[[Future[Completion]], object] | None) -> SharedFuture:
        """Join the open call that equals *request*, or have it sent.

        Raises:
            ConfigurationError: A request with this custom_id has not ended yet.
            GroqQueueError: What the engine raises to the first. Those who joined while that
                submit was still running get the error from their Futures.
        """
        key = _key_of(request)
        custom_id = request.custom_id
        known = custom_id is not None and self._engine.request_of(custom_id) is not None
        with self._lock:
            if custom_id is not None and (known or custom_id in self._by_custom_id):
                raise ConfigurationError(
                    f"custom_id={custom_id!r}: a request with this id has not ended yet; give each its own"
                )
            call = self._calls.get(key)
            is_first = call is None
            if call is None:
                call = self._calls[key] = _SharedRequest(key, request)
            call.wanted = min(call.wanted, request.priority)
            future = SharedFuture(call, self, custom_id)
            future._level = request.priority
            if callback is not None:
                future.add_done_callback(callback)  # no other thread knows it yet: it is only kept
            call.members.append(future)
            if custom_id is not None:
                self._by_custom_id[custom_id] = future
        if is_first:
            self._send(call)
        else:
            self._move(call)
        return future

    def member(self, custom_id: str) -> SharedFuture | None:
        """Return the open Future of that custom_id, or None."""
        with self._lock:
            return self._by_custom_id.get(custom_id)

    def leave(self, future: SharedFuture) -> bool:
        """Cancel one caller's Future; see ``SharedFuture.cancel``."""
        call = future._call
        with self._lock:
            if future not in call.members:
                return future.cancelled()
            if call.request.state is State.RUNNING:
                return False
            is_last = len(call.members) == 1
            if not is_last:
                self._remove(call, future)
            elif not call.is_accepted:
                return False
            else:
                self._shut(call)  # none may join what is being given up: it would be cancelled too
        if not is_last:
            future.end_cancelled()
            return True
        if self._engine.cancel(call.request):
            return True  # its end came through _ended, which ended this Future
        with self._lock:
            if not call.has_ended:
                self._calls.setdefault(call.key, call)  # an attempt is on its way: it may be joined again
        return False

    def set_level(self, future: SharedFuture, level: int) -> bool:
        """Give a shared request the most urgent priority of its callers, now that one of them changes."""
        call = future._call
        with self._lock:
            if future not in call.members or call.request.state is not State.PENDING:
                return False
            future._level = level
            call.wanted = min(member._level for member in call.members)
        self._move(call)
        return True

    def is_waiting_for_room(self, future: SharedFuture) -> bool:
        """Return whether the first caller still waits because the queue is full."""
        with self._lock:
            return not future._call.is_accepted

    # -- the Owner of the Futures

    def cancel(self, request: Request) -> bool:
        """Cancel a shared request for all."""
        return self._engine.cancel(request)

    @property
    def inside(self) -> Inside:
        """How deep the caller is inside the engine."""
        return self._engine.inside

    def blocking_section(self) -> AbstractContextManager[None]:
        """Let another worker take the place of a calling one while it waits for a Future."""
        return self._engine.blocking_section()

    def keep(self, future: RequestFuture[Any], row_id: int) -> None:
        """Nothing to do: the callers who share a call hold their Futures."""

    # -- a call's way

    def _send(self, call: _SharedRequest) -> None:
        """Submit the shared request to the engine."""
        try:
            accepted = self._submit(call.request, lambda leader: self._ended(call, leader))
        except BaseException as error:
            self._not_sent(call, error)
            raise
        with self._lock:
            call.is_accepted = True
            call.request = accepted._request  # of an earlier life, if a journal knew it
            for member in call.members:
                member._request = call.request
        if accepted.done():  # a journal had its answer
            self._ended(call, accepted, calls_late=True)
        self._move(call)  # to what those who joined meanwhile want

    def _move(self, call: _SharedRequest) -> None:
        """Have the shared request be as urgent as wanted.

        One thread at a time tells the engine: two that joined with 3 and 1 could tell it 1, then 3.
        """
        with self._lock:
            if not call.is_accepted or call.is_moving:
                return
            call.is_moving = True
        while True:
            with self._lock:
                if call.wanted == call.level or call.has_ended:
                    call.is_moving = False
                    return
                level = call.level = call.wanted
            self._engine.set_priority(call.request, level)

    def _not_sent(self, call: _SharedRequest, error: BaseException) -> None:
        """End the Futures of those who joined a call that the engine did not take; the first gets *error* raised."""
        joined = self._close(call)[1:]
        for future in joined:
            if isinstance(error, GroqQueueError):
                own: GroqQueueError = error.copy()
                own.custom_id = future.custom_id
            else:
                own = QueueBusy(
                    f"the caller with whom this request was shared gave up before it was sent ({error!r:.100}): "
                    "submit it again",
                    request_id=call.request.id,
                    custom_id=future.custom_id,
                )
            callbacks = future.take_callbacks()
            future.end(None, own)
            for callback in callbacks:
                try:
                    self._engine.call_back(future, callback)
                except GroqQueueError:  # it is closed, and has no worker left
                    future.call(callback)

    def _ended(self, call: _SharedRequest, leader: Future[Completion], *, calls_late: bool = False) -> None:
        """End everybody's Future as the shared one ended; what a callback lets through is raised when all are.

        Args:
            call: What they share.
            leader: The Future of its request.
            calls_late: Leave the callbacks to the engine's threads.
        """
        interrupt: BaseException | None = None
        for future, answer, error in _outcomes(leader, self._close(call)):
            callbacks = future.take_callbacks() if calls_late else []
            try:
                if leader.cancelled():
                    future.end_cancelled()
                else:
                    future.end(answer, error)
                for callback in callbacks:
                    self._engine.call_back(future, callback)
            except BaseException as raised:  # a Ctrl-C on the main thread; kept, the other Futures must end
                interrupt = interrupt or raised
        if interrupt is not None:
            raise interrupt

    def _close(self, call: _SharedRequest) -> list[SharedFuture]:
        """Take everybody out of a call that has ended; from now on an equal request is sent again."""
        with self._lock:
            call.has_ended = True
            self._shut(call)
            members = list(call.members)
            for future in members:
                self._remove(call, future)
        return members

    # -- under the lock

    def _shut(self, call: _SharedRequest) -> None:
        if self._calls.get(call.key) is call:
            del self._calls[call.key]

    def _remove(self, call: _SharedRequest, future: SharedFuture) -> None:
        call.members.remove(future)
        if future.custom_id is not None:
            self._by_custom_id.pop(future.custom_id, None)


def as_seen_by(future: Any, seen: _Seen) -> _Seen:
    """Return what is known of a shared request as one of its callers sees it."""
    if not isinstance(future, SharedFuture):
        return seen
    state = State.CANCELLED.value if future.cancelled() else seen.state
    facts: dict[str, Any] = {"custom_id": future.custom_id, "state": state}
    if isinstance(seen, RequestInfo) and future._single_flight.is_waiting_for_room(future):
        facts["waited"] = 0.0  # the engine does not count yet
    return dataclasses.replace(seen, **facts)


def explain_shared(future: Any) -> Explanation | None:
    """Return what a Future waits for that the engine cannot know, or None.

    The first caller may wait because the queue is full, or this one have left.
    """
    if not isinstance(future, SharedFuture) or (future.done() and not future.cancelled()):
        return None
    if future.cancelled():
        return Explanation(future.request_id, future.custom_id, State.CANCELLED.value, None, None, None)
    if future._single_flight.is_waiting_for_room(future):
        return Explanation(future.request_id, future.custom_id, "pending", None, "room in the queue", None)
    return None


def _outcomes(
    leader: Future[Completion], members: list[SharedFuture]
) -> list[tuple[SharedFuture, Completion | None, BaseException | None]]:
    """Return each caller's answer or error, its own to change: all made before anybody's callback sees one."""
    answer, error = None, None
    if not leader.cancelled():
        error = leader.exception()
        answer = leader.result() if error is None else None
    outcomes = []
    for place, future in enumerate(members):
        own_answer, own_error = answer, error
        if place > 0 or future.custom_id != future._call.request.custom_id:
            own_answer = copy.deepcopy(answer)
            own_error = error.copy() if isinstance(error, GroqQueueError) else error
            if own_answer is not None:
                own_answer.custom_id = future.custom_id
            if isinstance(own_error, GroqQueueError):
                own_error.custom_id = future.custom_id
        outcomes.append((future, own_answer, own_error))
    return outcomes


def _key_of(request: Request) -> tuple[Any, ...]:
    """Return what two requests must have in common to share a call."""
    bounds = (request.max_wait_ns, request.deadline_ns, request.not_before_ns)
    digest = hashlib.sha256(normal_form(request.body or b"{}")).digest()
    return request.lane, request.endpoint, request.shrinks, bounds, digest
