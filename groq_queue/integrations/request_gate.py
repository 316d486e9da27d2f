"""A drop-in's send, turned into a request: the caller waits here while a worker sends.

A stream is handed to the caller when its head is there. The worker then waits for
the reader to be done with it: that is how a stream keeps its slot. A reader who
leaves in the middle need not say so: the SDKs' streams are circles of references,
which only the garbage collector takes apart, if it ever comes by. So a stream that
is not read for ``idle_timeout`` gives its slot back, and can be read on without one.

Nor may the collector close what it finds: it may run on a thread that holds the lock of
a connection pool, which closing a stream takes as well (httpcore's is not re-entrant).
So what a reader has in its hand never owns the connection; the hold does.
"""

from __future__ import annotations

import _thread
import contextvars
import gc
import json
import queue as stdlib_queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from groq_queue.api.queue import GroqQueue
from groq_queue.api.requests import request_of_call
from groq_queue.clock import NS_PER_S, Clock
from groq_queue.core.response import UsageReader
from groq_queue.core.validation import check_nanoseconds
from groq_queue.engine.callables import Call, current_call
from groq_queue.engine.log import log_fields
from groq_queue.errors import APIConnectionError, ConfigurationError, safe_repr
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_LOOK_NS = NS_PER_S  # unread for so long while others wait, a stream may be one that everybody forgot


class TimerSource(Protocol):
    """What a hold needs of ``engine.background``."""

    def at(self, when_ns: int, callback: Callable[[], None]) -> Callable[[], None]: ...


class StreamSlot:
    """Held by the reader of a stream, and waited for by the worker whose slot it keeps.

    ``end`` may be called from anywhere, the garbage collector included, because a
    SimpleQueue's ``put`` is re-entrant and takes no lock that could be held.

    ``_lock`` guards ``_unread_since_ns``, ``_is_watched`` and ``_was_looked_for``. The reader and the timers take it,
    for assignments only.

    Args:
        clock: Tells the time.
        timers: Call back at instants.
        idle_ns: Nanoseconds without a read after which it ends by itself; None is never.
        others_wait: Returns whether anybody waits for a slot.
        on_unread: Called when it ended so.
    """

    def __init__(
        self,
        clock: Clock,
        timers: TimerSource,
        idle_ns: int | None,
        others_wait: Callable[[], bool] = lambda: False,
        on_unread: Callable[[], object] = lambda: None,
    ) -> None:
        self._clock = clock
        self._timers = timers
        self._idle_ns = idle_ns
        self._others_wait = others_wait
        self._on_unread = on_unread
        self._ended: stdlib_queue.SimpleQueue[None] = stdlib_queue.SimpleQueue()
        self._reader = UsageReader()
        self._lock = threading.RLock()
        self._unread_since_ns: int | None = None  # None while it is being read: a server may take its time
        self._is_watched = False  # a timer is set
        self._was_looked_for = False
        self._call_off: Callable[[], None] | None = None
        self._source: Any = None
        self._pieces: Iterator[bytes] | None = None
        self.has_ended = False

    def owns(self, source: Any) -> None:
        """Keep what is to be closed, without any reference to what the reader has."""
        self._source = source

    def opened(self) -> None:
        """Begin to count the time without a read."""
        self._rests()

    def reads(self) -> None:
        """Note that the reader asks for more; followed by ``saw`` when it came."""
        with self._lock:
            self._unread_since_ns = None

    def saw(self, piece: bytes) -> None:
        """Look at the next piece of the body, which the reader gets now."""
        if not self.has_ended:
            self._reader.feed(piece)
            self._rests()

    def passing(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield *pieces* to the reader, and end with them."""
        self._pieces = iter(pieces)  # kept here as well: this very generator may be what is collected
        try:
            self.reads()
            for piece in self._pieces:
                self.saw(piece)
                yield piece
                self.reads()
        except GeneratorExit:  # closing follows, or the collector, or the reader takes another way to go on
            raise
        except BaseException:
            self.finish()
            raise
        self.finish()

    def finish(self) -> None:
        """End, since there is nothing more to read or to close."""
        self._source = self._pieces = None
        self.end()

    def forgotten(self) -> None:
        """End, since the reader is gone, and have the source closed on a thread that holds no lock.

        Called by the collector, so it takes none itself.
        """
        self.end()
        if self._source is not None:
            try:
                _thread.start_new_thread(self._close_source, ())
            except RuntimeError:  # no thread is left, or the interpreter ends: the system closes the connection
                return

    def _close_source(self) -> None:
        source, pieces, self._source, self._pieces = self._source, self._pieces, None, None
        for each in (pieces, source):
            with suppress(Exception):  # no caller is there to handle it
                close: Callable[[], object] = getattr(each, "close", _nothing)
                close()

    def end(self) -> None:
        """Give the slot back; every further call does nothing."""
        self.has_ended = True
        self._ended.put(None)

    def wait(self) -> Mapping[str, Any] | None:
        """Wait for the end and return the usage that was seen by then."""
        self._ended.get()
        call_off = self._call_off
        if call_off is not None:
            call_off()
        return self._reader.usage()

    def _rests(self) -> None:
        """Note that the reader has received data, and set a timer that checks whether it reads on."""
        now_ns = self._clock.now_ns()
        with self._lock:
            self._unread_since_ns = now_ns
            due_ns = None if self._is_watched else self._due_ns()
            self._is_watched = self._is_watched or due_ns is not None
        if due_ns is not None:
            self._call_off = self._timers.at(due_ns, self._look)

    def _due_ns(self) -> int | None:
        """Return when it is to be looked at next, None for not before the next read. The lock is held."""
        since_ns = self._unread_since_ns
        if since_ns is None or self.has_ended:
            return None
        if not self._was_looked_for:
            return since_ns + (_LOOK_NS if self._idle_ns is None else min(_LOOK_NS, self._idle_ns))
        return None if self._idle_ns is None else since_ns + self._idle_ns

    def _look(self) -> None:
        """Give the slot back if the stream was not read for too long; its reader may be gone already."""
        now_ns = self._clock.now_ns()
        with self._lock:
            self._is_watched = False
            since_ns = self._unread_since_ns
            if since_ns is None or self.has_ended:
                return  # the next piece is watched again
            has_come = (due_ns := self._due_ns()) is not None and now_ns >= due_ns
            is_unread = self._idle_ns is not None and now_ns >= since_ns + self._idle_ns
            self._was_looked_for = self._was_looked_for or has_come
            due_ns = None if is_unread else self._due_ns()
            self._is_watched = due_ns is not None
        if is_unread:
            self.end()
            self._on_unread()
            return
        if due_ns is not None:
            self._call_off = self._timers.at(due_ns, self._look)
        if has_come and gc.isenabled() and self._others_wait():
            gc.collect()  # a response that it finds ends its hold; once for each stream, since a large heap takes long


class OpenStream(NamedTuple):
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


class RequestGate:
    """Makes sends wait for their turn in one queue, all with the same options.

    Raises:
        ConfigurationError: *queue* is none, or an option cannot be used.
    """

    def __init__(self, queue: GroqQueue, options: Mapping[str, Any], idle_timeout: float | None) -> None:
        if not isinstance(queue, GroqQueue):
            raise ConfigurationError(f"queue={safe_repr(queue)}: pass a GroqQueue")
        self._queue = queue
        self._engine = queue._engine
        self._options = dict(options)
        self._idle_timeout = idle_timeout
        self._idle_ns = check_nanoseconds("idle_timeout", idle_timeout)
        self._warned_unread = False
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

    def send(self, payload: Mapping[str, Any], path: str, sender: Callable[[StreamSlot], Any]) -> Any:
        """Wait for the turn of a request and return its response.

        Args:
            payload: Its JSON.
            path: Of its URL.
            sender: Sends it once, on a worker; returns a response read to its end, or ``OpenStream``.

        Raises:
            Exception: What the sender raised last, or an error of the queue.
        """
        engine: Any = self._engine
        timers: Any = getattr(engine, "timers", None)  # workers elsewhere have none, and are given no streams
        hold = StreamSlot(
            self._queue._settings.clock, timers, self._idle_ns, lambda: engine.stats().pending > 0, self._tell_unread
        )
        turn = _GatedRequest(sender, engine, hold)
        future: Future[Any] | None = None
        try:
            future = self._queue._submit_call(turn.call, payload, self._options, path.partition("/v1/")[2] or "call")
            future.add_done_callback(turn.ended)
            timers.start()  # if the system refused that thread before, no other thread may look after streams
            with future._waiting():
                return turn.wait()
        except BaseException:
            # Ctrl-C, or the error that is to be raised; after such an error, cancelling and leaving do nothing.
            # Without a Future the request may wait in the queue all the same: it ends unsent when its turn comes.
            if future is not None:
                future.cancel()
            turn.leave()
            raise

    def _tell_unread(self) -> None:
        if not self._warned_unread:
            self._warned_unread = True
            _log.warning(
                "a stream that was not read for %g s gave its slot back; it can still be read, but its tokens are "
                "counted in full: close a stream that you leave, with `with ... as stream:`, or raise idle_timeout",
                self._idle_timeout,
                extra=log_fields("stream_unread"),
            )


class _GatedRequest:
    """One send: the worker on one side, the caller on the other.

    ``_changed`` guards ``_answer`` and ``_has_left``; no foreign code is called under it.
    """

    def __init__(self, sender: Callable[[StreamSlot], Any], engine: object, hold: StreamSlot) -> None:
        self._hold = hold
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
        if not isinstance(sent, OpenStream):
            return sent
        status, headers, close = sent.status_code, dict(sent.headers), sent.close
        self.call.begun({name.lower(): value for name, value in headers.items()})
        self._hold.opened()
        if not self._give(sent.response, None, close):
            close()
        del sent, close  # or the worker would keep a stream alive that everybody else forgot
        return Streamed(status, headers, self._hold.wait())

    def _give(self, value: Any, error: BaseException | None, close: Callable[[], object] | None = None) -> bool:
        """Answer, the first time; False if no caller waits."""
        with self._changed:
            if self._has_left or self._was_answered:
                return False
            self._was_answered = True
            self._answer = (value, error, close)
            self._changed.notify_all()
            return True


def _nothing() -> None:
    """A placeholder for a callable while options are checked."""
