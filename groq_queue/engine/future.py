"""The Future of a request: the stdlib's, cancellable until bytes leave, and light while no thread waits for it.

A stdlib Future makes a Condition and two lists, 1.3 kB, before a thread waits. Here they
are made when one does, and are a lock and the lists: a waiting thread adds a waiter
of its own to the list, as the stdlib's ``wait`` and ``as_completed`` do.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from groq_queue.core.request import Request, State, head_of_prompt
from groq_queue.core.response import ANSWER_NAMES
from groq_queue.engine.callables import waiting
from groq_queue.engine.log import log_fields
from groq_queue.engine.worker_pool import Inside
from groq_queue.lifecycle import fork_between
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")
_T = TypeVar("_T")

_OF_THE_ANSWER = ANSWER_NAMES.difference(dir(Future))  # a Future has none of these
_OVER = frozenset({CANCELLED_AND_NOTIFIED, FINISHED})
_DEEPEST = 16  # callbacks inside callbacks of one thread; deeper ones are called when the outermost has returned
_nested = threading.local()  # .depth, and .later: Futures whose callbacks were too deep
_unwatched = threading.RLock()  # guards each Future that has no _Watch yet; a leaf, held for a few assignments
fork_between(_unwatched)


if sys.version_info >= (3, 11):
    StillOpen = TimeoutError
else:  # Python 3.10 has two of that name, and callers may catch either

    class StillOpen(FutureTimeoutError, TimeoutError):
        """It has not ended within the time."""


class Owner(Protocol):
    """The engine, as its Futures know it."""

    def cancel(self, request: Request) -> bool: ...
    @property
    def inside(self) -> Inside: ...
    def blocking_section(self) -> AbstractContextManager[None]: ...
    def keep(self, future: RequestFuture[Any], row_id: int) -> None: ...


class _Watch:
    """What a Future needs once a thread waits for it, or a callback is added."""

    __slots__ = ("callbacks", "lock", "waiters")

    def __init__(self) -> None:
        self.lock = threading.RLock()  # guards the lists and the Future's state
        self.waiters: list[Any] = []
        self.callbacks: list[Callable[[Any], object]] = []


class RequestFuture(Future[_T]):
    """A ``concurrent.futures.Future`` whose request may wait, be retried and be cancelled.

    The base class stays in its pending state until the request ends, because a
    request may run, fail and wait again; ``running`` and ``cancel`` ask the engine.

    The lock of ``_watch`` guards the state and the result, ``_unwatched`` while there is none.
    """

    __slots__ = ("_engine", "_exception", "_request", "_result", "_state", "_watch")

    def __init__(self, request: Request, engine: Owner) -> None:
        # Not the base's: it would make what is made in _watched.
        self._state = PENDING
        self._result: _T | None = None
        self._exception: BaseException | None = None
        self._watch: _Watch | None = None
        self._request = request
        self._engine = engine

    def __reduce__(self) -> Any:
        raise TypeError("a Future belongs to its process and is not pickled: pass on its result() or its request_id")

    def __await__(self) -> NoReturn:
        raise TypeError(
            "a Future of threads is not awaited: write `await asyncio.wrap_future(queue.submit(...))`, "
            "or wait for it with future.result()"
        )

    def __dir__(self) -> Iterable[str]:
        return [name for name in super().__dir__() if name not in _OF_THE_ANSWER or name in vars(self)]

    def __repr__(self) -> str:
        body = None if self.done() else self._request.body
        prompt = "" if body is None else head_of_prompt(body)
        return f"{self._repr_for_errors()[:-1]}{f': {prompt!r}' if prompt else ''}>"

    def _repr_for_errors(self) -> str:
        """Return the repr without the prompt."""
        named = f" custom_id={self.custom_id!r}" if self.custom_id is not None else ""
        if not self.done():
            state = self._request.state.value
        elif self.cancelled():
            state = "cancelled"
        else:
            error = self._exception
            state = "completed" if error is None else f"failed with {type(error).__name__}"
        return f"<RequestFuture {self.request_id}{named} {state}>"

    @property
    def request_id(self) -> str:
        """Our id of the request."""
        return self._request.id

    @property
    def custom_id(self) -> str | None:
        """The caller's own id of the request."""
        return self._request.custom_id

    def cancel(self) -> bool:
        """Cancel the request unless an attempt is on its way or it has ended.

        Returns:
            True if it is cancelled: it will never be sent (again), its budget is
            given back and everyone waiting for this Future is woken.
        """
        return self._engine.cancel(self._request)

    def result(self, timeout: float | None = None) -> _T:
        """Return the result; inside a callback another worker takes over meanwhile."""
        try:
            self._await(timeout)
            if self._exception is not None:
                raise self._exception
            return self._result  # type: ignore[return-value]
        finally:
            del self  # its error holds this frame, and both would live until a garbage collection

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the error, or None; inside a callback another worker takes over meanwhile."""
        self._await(timeout)
        return self._exception

    def done(self) -> bool:
        """Return whether it has ended."""
        return self._state in _OVER

    def cancelled(self) -> bool:
        """Return whether it was cancelled."""
        return self._state == CANCELLED_AND_NOTIFIED

    def running(self) -> bool:
        """Return whether an attempt is on its way."""
        return self._request.state is State.RUNNING

    def add_done_callback(self, fn: Callable[[Future[_T]], object]) -> None:
        """Call ``fn(future)`` when the request has ended: on a worker, or on the thread that cancels it.

        If it has ended already, it is called at once, on this thread, as the stdlib does.
        One that raises is logged with the custom_id and harms nothing, not even
        with SystemExit on a worker thread.
        """
        if not self.call_at_end(fn):
            self._watched().callbacks.append(fn)
            self.run_callbacks()

    def call_at_end(self, fn: Callable[[Future[_T]], object]) -> bool:
        """As ``add_done_callback``; but once it has ended, call nothing and return False."""
        watch = self._watched()
        with watch.lock:
            if self._state in _OVER:
                return False
            watch.callbacks.append(fn)
        if self._request.is_paged_out and self._request.row_id is not None:
            self._engine.keep(self, self._request.row_id)
        return True

    def call(self, fn: Callable[[Future[_T]], object]) -> None:
        """Call ``fn(future)`` now, as a done-callback is called."""
        self._call_all([fn])

    def take_callbacks(self) -> list[Callable[[Future[_T]], object]]:
        """Take out the done-callbacks that were not called yet: the caller has to have them called."""
        watch = self._watch
        if watch is None:
            return []
        with watch.lock:
            taken = list(watch.callbacks)
            watch.callbacks.clear()
        return taken

    def set_result(self, result: _T) -> None:
        """End with *result*."""
        self._finish(FINISHED, result, None)

    def set_exception(self, exception: BaseException | None) -> None:
        """End with *exception*."""
        self._finish(FINISHED, None, exception)

    def leave_to_parent(self, error: BaseException) -> None:
        """End with *error* in a forked child, whose parent delivers the outcome and runs the callbacks.

        The lock inside may have been held by another thread at the fork, so all of it is made anew.
        """
        RequestFuture.__init__(self, self._request, self._engine)
        self.set_exception(error)

    def end_cancelled(self) -> None:
        """Become cancelled and wake everyone who waits; called once, by the engine."""
        if self._request.call is not None:
            self._request.call = None
        self._deliver(CANCELLED_AND_NOTIFIED, None, None)

    def end(self, result: _T | None, error: BaseException | None) -> None:
        """Deliver; called once, by the engine."""
        call = self._request.call
        if call is not None:
            self._request.call = None
            try:
                result, error = call.ending(result, error)
            except BaseException as broken:  # the waiting threads must go on
                result, error = None, error or broken
            del call
        self._deliver(FINISHED, result, error)

    def _deliver(self, state: str, result: _T | None, error: BaseException | None) -> None:
        try:
            self._finish(state, result, error)
        except InvalidStateError:
            self.run_callbacks()  # an interrupt may have come between its end and these
            if state == self._state == CANCELLED_AND_NOTIFIED:
                return  # delivered twice, by a caller who was interrupted and by the thread that repaired it
            _log.error(
                "%s: its Future was ended by code of yours (set_result or set_exception), so its outcome is dropped: "
                "leave that to the queue",
                self._request,
                extra=log_fields("future_taken", self._request),
            )

    def _finish(self, state: str, result: _T | None, error: BaseException | None) -> None:
        """Enter the final *state*, wake everyone who waits, run the callbacks."""
        with _unwatched:
            if self._watch is None and self._state not in _OVER:
                # Nothing is called from here on: a signal handler could bring a watch into being.
                self._result, self._exception, self._state = result, error, state
                return
        watch = self._watch or self._watched()
        with watch.lock:
            if self._state in _OVER:
                raise InvalidStateError(f"{self._state}: {self!r}")
            self._result, self._exception, self._state = result, error, state
            interrupt: BaseException | None = None
            for waiter in watch.waiters:
                try:
                    if state == CANCELLED_AND_NOTIFIED:
                        waiter.add_cancelled(self)
                    elif error is None:
                        waiter.add_result(self)
                    else:
                        waiter.add_exception(self)
                except BaseException as raised:  # kept, so that it cannot leave the others waiting
                    interrupt = interrupt or raised
        if watch.callbacks:
            self.run_callbacks()
        if interrupt is not None:
            raise interrupt

    def run_callbacks(self) -> None:
        """Run the done-callbacks that were not run yet.

        Callbacks that end requests whose callbacks end others would meet the recursion limit at some hundred of them:
        those that are nested too deep are run by the outermost.
        """
        watch = self._watch
        if watch is None or not watch.callbacks:
            return
        depth = getattr(_nested, "depth", 0)
        if depth >= _DEEPEST:
            _nested.later.append(self)
            return
        if not depth:
            _nested.later = deque()
        _nested.depth = depth + 1
        try:
            self._call_all(watch.callbacks)
            while not depth and _nested.later:
                later = _nested.later.popleft()
                later._call_all(later._watched().callbacks)
        finally:
            _nested.depth = depth

    def _call_all(self, callbacks: list[Callable[[Any], object]]) -> None:
        interrupt: BaseException | None = None
        left = len(callbacks) + 1
        while callbacks and len(callbacks) < left:  # else there is no room on the stack to call even one
            left = len(callbacks)
            try:
                self._call_next(callbacks)
            except BaseException as raised:  # kept, so that it cannot cost the others their call
                interrupt = interrupt or raised
                left += isinstance(raised, KeyboardInterrupt)  # which comes once, perhaps before anything was called
        if interrupt is not None:
            raise interrupt

    def _call_next(self, callbacks: list[Callable[[Any], object]]) -> None:
        """Run the next of the done-callbacks, which cannot kill the thread it runs on."""
        try:
            fn = callbacks.pop(0)
        except IndexError:  # another thread runs them too, and was faster
            return
        try:
            fn(self)
        except BaseException as error:
            _log.exception(
                "a done-callback of %s raised; the request's own outcome is not affected",
                self._request,
                extra=log_fields("callback_raised", self._request),
            )
            # On a caller's own thread a Ctrl-C must still reach the caller.
            if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                raise

    # -- waiting

    def _watched(self) -> _Watch:
        """Return what waiting needs, made when it is first needed."""
        watch = self._watch
        if watch is None:
            fresh = _Watch()
            with _unwatched:
                if self._watch is None:
                    self._watch = fresh
                watch = self._watch
        return watch

    if not TYPE_CHECKING:  # they stay the attributes that the base class has: a type checker asks for these

        @property
        def _condition(self) -> threading.Condition:
            """What the stdlib's ``wait`` and ``as_completed`` hold while they look or hang in a waiter."""
            return (self._watch or self._watched()).lock

        @property
        def _waiters(self) -> list[Any]:
            """Where they hang it."""
            waiters = (self._watch or self._watched()).waiters
            return _Hooks(waiters, self) if self._engine.inside.depth else waiters

    def _await(self, timeout: float | None) -> None:
        """Wait until it has ended.

        Raises:
            TimeoutError: It has not, within *timeout* seconds.
            DeadlockError: It waits for the callable that waits here.
            CancelledError: It was cancelled.
        """
        if self._state not in _OVER:
            if self._engine.inside.depth:
                with self._waiting(is_bounded=timeout is not None):
                    self._block(timeout)
            else:
                self._block(timeout)
        if self._state == CANCELLED_AND_NOTIFIED:
            raise CancelledError

    def _waiting(self, *, is_bounded: bool = False) -> AbstractContextManager[None]:
        if self.done() or not self._engine.inside.depth:
            return nullcontext()
        return waiting(self._request, self._engine.blocking_section(), is_bounded=is_bounded)

    def _block(self, timeout: float | None) -> None:
        watch, waiter = self._watched(), _Waiter()
        with watch.lock:
            if self._state in _OVER:
                return
            watch.waiters.append(waiter)
        try:
            if not waiter.wait(timeout) and self._state not in _OVER:
                raise StillOpen
        finally:
            with watch.lock:
                watch.waiters.remove(waiter)


class _OfTheAnswer:
    """A name that an answer has and its Future has not: reading it there raises an error that says where it is.

    One for each name, since a class with a ``__getattr__`` pays for it at every attribute that it does have.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, future: object, owner: object = None) -> NoReturn:
        name = self._name
        raise AttributeError(
            f"a Future has no {name!r}: its answer may, use future.result().{name}", name=name, obj=future
        )


for _name in _OF_THE_ANSWER:
    setattr(RequestFuture, _name, _OfTheAnswer(_name))


class _Hooks:
    """Where the stdlib hangs its waiters on a thread that others must take the place of while it waits.

    Its functions hang one waiter into each of their Futures and take it out of each when they are done.
    """

    def __init__(self, waiters: list[Any], future: RequestFuture[Any]) -> None:
        self._waiters = waiters
        self._future = future

    def append(self, waiter: Any) -> None:
        """Hang it up; with the first, the thread steps aside."""
        self._waiters.append(waiter)
        hung = getattr(waiter, "hung", 0)
        if not hung:
            waiter.blocking_section = self._future._waiting(is_bounded=True)  # by this Future or by another
            waiter.blocking_section.__enter__()
        waiter.hung = hung + 1

    def remove(self, waiter: Any) -> None:
        """Take it out; with the last, the thread is back."""
        self._waiters.remove(waiter)
        hung = getattr(waiter, "hung", 0)  # another thread, which needs no replacement, may have hung it up
        waiter.hung = hung - 1
        if hung == 1:
            waiter.blocking_section.__exit__(None, None, None)

    def __len__(self) -> int:
        return len(self._waiters)


class _Waiter:
    """One caller of ``result`` or ``exception``."""

    __slots__ = ("_ended",)

    def __init__(self) -> None:
        self._ended = threading.Lock()  # held until it has ended
        self._ended.acquire()

    def add_result(self, future: Future[Any]) -> None:
        """Called under the Future's lock, once, when it ends."""
        self._ended.release()

    add_exception = add_cancelled = add_result

    def wait(self, timeout: float | None) -> bool:
        """Return whether it ended within *timeout* seconds, None is any time."""
        if timeout is None:
            return self._ended.acquire()
        return self._ended.acquire(timeout > 0, timeout if timeout > 0 else -1)
