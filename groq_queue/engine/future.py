"""The Future of a request: the stdlib's, cancellable until bytes leave."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

from groq_queue.core.request import Request, State
from groq_queue.engine.log import told

_log = logging.getLogger("groq_queue")
_T = TypeVar("_T")


class Owner(Protocol):
    """The engine, as its Futures know it."""

    def cancel(self, request: Request) -> bool: ...
    def is_inside(self) -> bool: ...
    def aside(self) -> AbstractContextManager[None]: ...
    def keep(self, future: RequestFuture[Any], row_id: int) -> None: ...


class RequestFuture(Future[_T]):
    """A ``concurrent.futures.Future`` whose request may wait, be retried and be cancelled.

    The base class stays in its pending state until the request ends, because a
    request may run, fail and wait again; ``running`` and ``cancel`` ask the engine.
    """

    def __init__(self, request: Request, engine: Owner) -> None:
        super().__init__()
        self._request = request
        self._engine = engine

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
            with self._waiting():
                return super().result(timeout)
        finally:
            del self  # its error holds this frame, and both would live until a garbage collection

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the error, or None; inside a callback another worker takes over meanwhile."""
        with self._waiting():
            return super().exception(timeout)

    def running(self) -> bool:
        """Return whether an attempt is on its way."""
        return self._request.state is State.RUNNING

    def add_done_callback(self, fn: Callable[[Future[_T]], object]) -> None:
        """Call ``fn(future)`` when the request has ended, on the thread that ended it.

        One that raises is logged with the custom_id and harms nothing, not even
        with SystemExit on a worker thread.
        """
        super().add_done_callback(_Guarded(fn, self._request))
        if self._request.is_shelved and self._request.row_id is not None:
            self._engine.keep(self, self._request.row_id)

    def _waiting(self) -> AbstractContextManager[None]:
        return self._engine.aside() if not self.done() and self._engine.is_inside() else nullcontext()

    def leave_to_parent(self, error: BaseException) -> None:
        """End with *error* in a forked child, whose parent delivers the outcome and runs the callbacks.

        The lock inside may have been held by another thread at the fork, so all of it is made anew.
        """
        Future.__init__(self)
        self.set_exception(error)

    def end_cancelled(self) -> None:
        """Become cancelled and wake everyone who waits; called once, by the engine."""
        self._request.call = None
        try:
            super().cancel()  # runs the callbacks
        finally:
            self.set_running_or_notify_cancel()  # wakes wait() and as_completed()

    def end(self, result: _T | None, error: BaseException | None) -> None:
        """Deliver; called once, by the engine."""
        call, self._request.call = self._request.call, None
        if call is not None:
            result, error = call.ending(result, error)
            del call
        try:
            if error is None:
                self.set_result(result)  # type: ignore[arg-type]
            else:
                self.set_exception(error)
        except InvalidStateError:
            _log.error(
                "%s: its Future was ended by somebody else; the outcome is dropped",
                self._request,
                extra=told("future_taken", self._request),
            )


class _Guarded:
    """A done-callback that cannot kill the thread it runs on."""

    def __init__(self, fn: Callable[[Future[Any]], object], request: Request) -> None:
        self._fn = fn
        self._request = request

    def __call__(self, future: Future[Any]) -> None:
        try:
            self._fn(future)
        except BaseException as error:
            _log.exception("a done-callback of %s raised", self._request, extra=told("callback_raised", self._request))
            # On a caller's own thread a Ctrl-C must still reach the caller.
            if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                raise
