"""A drop-in's send, turned into a request: the caller waits here while a worker sends.

A stream is handed to the caller when its head is there. The worker then waits for
the reader to be done with it: that is how a stream keeps its slot.
"""

from __future__ import annotations

import contextvars
import json
import queue as stdlib_queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any, NamedTuple

from groq_queue.assembly.calling import request_of_call
from groq_queue.core.usage import UsageReader
from groq_queue.engine.calls import Call, current_call
from groq_queue.errors import APIConnectionError, ConfigurationError, shown
from groq_queue.facade import GroqQueue


class Hold:
    """Held by whoever reads a stream, and waited for by the worker whose slot it keeps.

    ``end`` may be called from anywhere, the garbage collector included, because a
    SimpleQueue's ``put`` is re-entrant and takes no lock that could be held.
    """

    def __init__(self) -> None:
        self._ended: stdlib_queue.SimpleQueue[None] = stdlib_queue.SimpleQueue()
        self._reader = UsageReader()

    def saw(self, piece: bytes) -> None:
        """Look at the next piece of the body."""
        self._reader.feed(piece)

    def end(self) -> None:
        """Give the slot back; every further call does nothing."""
        self._ended.put(None)

    def wait(self) -> Mapping[str, Any] | None:
        """Wait for the end and return the usage that was seen by then."""
        self._ended.get()
        return self._reader.usage()


class Opened(NamedTuple):
    """A stream whose head is there, as a sender returns it.

    Attributes:
        response: What the caller gets; it ends the hold.
        status_code: Below 400.
        headers: Of the answer.
        close: Closes the response.
    """

    response: Any
    status_code: int
    headers: Mapping[str, str]
    close: Callable[[], object]


class Streamed(NamedTuple):
    """What is left of a stream when its reader is done: enough to settle it."""

    status_code: int
    headers: Mapping[str, str]
    usage: Mapping[str, Any] | None


class Turns:
    """Makes sends wait for their turn in one queue, all with the same options.

    Raises:
        ConfigurationError: *queue* is none, or an option cannot be used.
    """

    def __init__(self, queue: GroqQueue, options: Mapping[str, Any]) -> None:
        if not isinstance(queue, GroqQueue):
            raise ConfigurationError(f"queue={shown(queue)}: pass a GroqQueue")
        self._queue = queue
        self._engine = queue._engine
        self._options = dict(options)
        request_of_call(Call(_nothing, self._engine), {"model": "any"}, self._options, "call", None)  # checks them

    def payload_of(self, method: str | None, body: Any) -> dict[str, Any] | None:
        """Return the JSON of a request that has to wait for its turn, or None if it goes straight through.

        Only a POST of an object that names a model spends tokens. What a call of this
        queue sends from inside has had its turn.
        """
        if method != "POST" or not isinstance(body, (bytes, str)) or current_call(self._engine) is not None:
            return None
        try:
            payload = json.loads(body)
        except (ValueError, RecursionError):
            return None
        return payload if isinstance(payload, dict) and isinstance(payload.get("model"), str) else None

    def send(self, payload: Mapping[str, Any], path: str, sender: Callable[[Hold], Any]) -> Any:
        """Wait for the turn of a request and return its response.

        Args:
            payload: Its JSON.
            path: Of its URL.
            sender: Sends it once, on a worker; returns a response read to its end, or ``Opened``.

        Raises:
            Exception: What the sender raised last, or an error of the queue.
        """
        turn = _Turn(sender, self._engine)
        future = self._queue._submit_call(turn.call, payload, self._options, path.partition("/v1/")[2] or "call")
        try:
            future.add_done_callback(turn.ended)
            with future._waiting():
                return turn.wait()
        except BaseException:
            # Ctrl-C, or the error that is to be raised; then both do nothing.
            future.cancel()
            turn.leave()
            raise


class _Turn:
    """One send: the worker on one side, the caller on the other.

    ``_changed`` guards ``_answer`` and ``_has_left``; nobody is called under it.
    """

    def __init__(self, sender: Callable[[Hold], Any], engine: object) -> None:
        self._hold = Hold()
        self.call = Call(self._run, engine, let_go=self._hold.end)
        self._sender = sender
        self._context = contextvars.copy_context()  # tracing and the like go on as if the caller sent by itself
        self._changed = threading.Condition()
        self._answer: tuple[Any, BaseException | None, Callable[[], object] | None] | None = None
        self._was_answered = False
        self._has_left = False

    def wait(self) -> Any:
        """Wait for the answer and take it away, so that nothing here keeps a stream alive."""
        with self._changed:
            while self._answer is None:
                self._changed.wait()
            value, error, _ = self._answer
            self._answer = None
        if error is None:
            return value
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def leave(self) -> None:
        """Want no answer any more; a stream that has come already is closed."""
        with self._changed:
            self._has_left = True
            answer, self._answer = self._answer, None
        if answer is not None and answer[2] is not None:
            answer[2]()

    def ended(self, future: Future[Any]) -> None:
        """Hand on how the request ended, unless a stream was handed on already."""
        if future.cancelled():
            self._give(None, CancelledError("the queue cancelled the request"))
        else:
            error = future.exception()
            self._give(None if error is not None else future.result(), error)

    def _run(self) -> Any:
        if self._has_left:
            raise APIConnectionError("the caller waits no more", sent="no", is_final=True)
        sent = self._context.run(self._sender, self._hold)
        if not isinstance(sent, Opened):
            return sent
        status, headers, close = sent.status_code, dict(sent.headers), sent.close
        self.call.begun({name.lower(): value for name, value in headers.items()})
        if not self._give(sent.response, None, close):
            close()
        del sent, close  # or the worker would keep a stream alive that everybody else forgot
        return Streamed(status, headers, self._hold.wait())

    def _give(self, value: Any, error: BaseException | None, close: Callable[[], object] | None = None) -> bool:
        """Answer, the first time; False if nobody waits."""
        with self._changed:
            if self._has_left or self._was_answered:
                return False
            self._was_answered = True
            self._answer = (value, error, close)
            self._changed.notify_all()
            return True


def _nothing() -> None:
    """Stands for a callable while options are checked."""
