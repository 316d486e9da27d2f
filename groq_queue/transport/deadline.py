"""One attempt seen from outside: on which socket it is, how far it got, when it must end.

Time-outs of sockets bound one read each; a server that sends a header line now
and then, or ``100 Continue`` for ever, never meets one. So an alarm on another
thread shuts the socket down when the whole attempt has had its time.

A kept connection may end just as it is used again, and then it is not certain whether the
request was read. What can be known, in this order:

1. The write took no byte, or the peer's FIN left before the peer's system had the whole request (Linux tells
   which bytes were acknowledged): the server has not read it, and it is sent again like one that found no connection.
2. The end came within about a round trip of the write: it was most probably on its way already. ``is_stale``.
3. Anything later: the server may have worked. An attempt like any other that was lost.

How the socket is found: connections of our own class report to the ``Attempt``
that the sending thread declared in ``watching``, or that was assigned to them.

Units: seconds as float on CLOCK_MONOTONIC, the clock that sockets time out by.
"""

from __future__ import annotations

import contextlib
import encodings.idna
import functools
import http.client
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection

from groq_queue.errors import Sent
from groq_queue.transport.answer import Answer
from groq_queue.transport.protocol import CallLater

_this_thread = threading.local()

# Sockets load this codec for the first host name. A process that forks while a worker does so has a child that
# finds half a module and can resolve no name, ever; so it is loaded here, before there are threads.
assert encodings.idna


_SLACK_S = 0.02  # beyond a round trip: how late a busy machine may notice that a connection has ended
_LONGEST_TRIP_S = 0.25
_TCP_CLOSE = 7
_UNACKED_AT = 24  # in Linux's struct tcp_info, of segments that the peer's system has not acknowledged
_PROGRESS = 10  # an answer that grows may take that many times as long as one that does not

_CLOCK_ID = getattr(time, "CLOCK_MONOTONIC", None)  # absent on Windows


def _monotonic_s() -> float:
    return time.monotonic()


now_s: Callable[[], float] = _monotonic_s if _CLOCK_ID is None else functools.partial(time.clock_gettime, _CLOCK_ID)
"""Return the current instant in seconds. ``time.monotonic`` itself does not advance under freezegun."""


class Attempt:
    """What is known about one attempt while it is under way.

    ``expire`` may come from another thread at any moment, also long after the
    connection began to serve another attempt. Two rules make that harmless:

    * ``expire`` sets ``has_expired`` before it looks for a connection, and the
      sender announces the connection before it looks at ``has_expired``: at
      least one of them sees the other;
    * the socket is shut down only under ``connection.guard`` and only while
      ``connection.owner`` is this attempt.
    """

    __slots__ = (
        "answer",
        "connect_s",
        "connection",
        "deadline",
        "ended_s",
        "has_begun",
        "has_expired",
        "has_grown",
        "is_connected",
        "is_reused",
        "latest",
        "read_s",
        "sock",
        "was_unread",
        "wrote",
        "wrote_s",
    )

    def __init__(self, timeout: tuple[float, float]) -> None:
        self.connect_s, self.read_s = timeout
        now = now_s()
        self.deadline = now + self.connect_s + self.read_s
        self.latest = now + self.connect_s + _PROGRESS * self.read_s
        self.has_begun = False  # False proves that nothing was sent
        self.has_expired = False
        self.has_grown = False  # the answer has, and the deadline with it
        self.connection: WatchedConnection | None = None
        self.sock: Any = None  # kept here: http.client gives its own away before the body is read
        self.answer: http.client.HTTPResponse | None = None
        self.is_connected = False
        self.is_reused = False
        self.wrote = False  # not taken back on a guess: bytes written on a dead socket may still have arrived
        self.wrote_s = 0.0
        self.ended_s: float | None = None  # when a kept connection ended without a byte of answer
        self.was_unread = False  # it is certain that the server read nothing of what was written

    def left_s(self) -> float:
        """Return the seconds until the whole attempt must be over, negative after that."""
        return self.deadline - now_s()

    def patience_s(self) -> float:
        """Return how long the next read may take: the read time-out, or less near the end.

        Raises:
            TimeoutError: The whole attempt has had its time.
        """
        left_s = self.deadline - now_s()  # as ``left_s``, without the call
        if left_s <= 0 or self.has_expired:
            self.has_expired = True
            raise TimeoutError("attempt is over")
        return min(self.read_s, left_s)

    @property
    def has_begun_answer(self) -> bool:
        """Did a complete status line arrive? (``100 Continue`` proves nothing and does not count.)"""
        return self.answer is not None and isinstance(self.answer.status, int)

    def progressed(self) -> None:
        """Note that the answer has grown: what was allowed for silence begins anew, within bounds."""
        until = min(now_s() + self.read_s, self.latest)
        if until > self.deadline:
            self.deadline, self.has_grown = until, True

    def ends(self, connection: WatchedConnection, sock: Any) -> None:
        """Note what can be known of a kept connection that is being closed before it answered."""
        if self.is_reused and self.wrote and self.ended_s is None and not self.has_begun_answer:
            self.ended_s = now_s()
            self.was_unread = _was_cut_off(sock)

    def has_ended_unread(self, error: BaseException) -> bool:
        """Return whether *error* is the end of a kept connection, and proves that the server did not read the request.

        A reset proves nothing: it may overtake the acknowledgement of what was read.
        """
        if not self.is_reused or self.has_begun_answer or self.has_expired:
            return False
        if not self.wrote:
            return isinstance(error, ConnectionError)
        return self.was_unread and _is_end_of_file(error)

    def begins_anew(self) -> None:
        """Forget a connection on which certainly nothing was read."""
        self.wrote = self.was_unread = self.is_reused = self.is_connected = False
        self.ended_s = self.answer = self.sock = None

    @property
    def is_stale(self) -> bool:
        """Did a kept connection end within about a round trip of the write, and without a byte of answer?"""
        if self.ended_s is None or self.has_expired or self.connection is None:
            return False
        return self.ended_s - self.wrote_s <= min(self.connection.trip_s, _LONGEST_TRIP_S) + _SLACK_S

    @property
    def sent(self) -> Sent:
        """May the server have got the request?"""
        if self.has_begun_answer:
            return "yes"
        return "unknown" if self.wrote else "no"

    def expire(self) -> None:
        """End the attempt now, whatever it waits for; called by the alarm's thread."""
        self.has_expired = True
        connection = self.connection
        if connection is None:
            return
        with connection.guard:
            if connection.owner is self:
                shut_down(self.sock or connection.sock)

    def let_go(self) -> None:
        """Give the connection up; from here on ``expire`` does not touch it."""
        connection = self.connection
        if connection is not None and connection.owner is self:  # only our own thread makes it ours
            with connection.guard:  # a shutdown that has begun must end first
                connection.owner = None


class AttemptTimer:
    """Ends an attempt when it has had its time, which grows while its answer does."""

    def __init__(self, attempt: Attempt, alarm: CallLater) -> None:
        self._alarm = alarm
        self._attempt = attempt
        self._is_over = False
        self._call_off = alarm(attempt.connect_s + attempt.read_s, self._ring)

    def _ring(self) -> None:
        left_s = self._attempt.left_s()
        if left_s <= 0 or not self._attempt.has_grown:
            self._attempt.expire()
        elif not self._is_over:  # if it ends just now, one alarm more rings in vain
            self._call_off = self._alarm(left_s, self._ring)

    def end(self) -> None:
        """Call the alarm off."""
        self._is_over = True
        self._call_off()


def _was_cut_off(sock: Any) -> bool:
    """Return whether the peer's system never had the whole of what was written; False where that is not known."""
    plain = getattr(sock, "socket", sock)
    option = getattr(socket, "TCP_INFO", None)
    if option is None or not sys.platform.startswith("linux") or not isinstance(plain, socket.socket):
        return False
    try:
        info = plain.getsockopt(socket.IPPROTO_TCP, option, _UNACKED_AT + 4)
        return info[0] == _TCP_CLOSE or bool(struct.unpack_from("=I", info, _UNACKED_AT)[0])
    except (OSError, struct.error):
        return False


def _is_end_of_file(error: BaseException) -> bool:
    """Return whether the peer closed the connection, as opposed to resetting it."""
    todo: list[Any] = [error]
    for _ in range(10):  # requests and urllib3 wrap an error in two layers or three
        if not todo:
            break
        layer = todo.pop(0)
        if isinstance(layer, (http.client.RemoteDisconnected, ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return True
        if isinstance(layer, BaseException):
            todo += [*layer.args, layer.__cause__, layer.__context__]
    return False


def set_timeout(sock: Any, seconds: float) -> None:
    """Bound each operation on *sock*; a bound that it has already is not set again, which would be a system call."""
    if not isinstance(sock, socket.socket) or sock.gettimeout() != seconds:  # TLS inside TLS does not tell its own
        sock.settimeout(seconds)


def shut_down(sock: Any) -> None:
    """Wake the thread that reads or writes *sock*, which stays open until its owner closes it."""
    plain = getattr(sock, "socket", sock)  # TLS inside TLS keeps the real one here
    if isinstance(plain, socket.socket):
        # Not SSLSocket.shutdown: it drops the TLS state under the feet of the reading thread.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(plain, socket.SHUT_RDWR)


@contextlib.contextmanager
def watching(attempt: Attempt) -> Iterator[None]:
    """Make the connections that this thread uses meanwhile report to *attempt*."""
    _this_thread.attempt = attempt
    try:
        yield
    finally:
        _this_thread.attempt = None


class WatchedConnection(HTTPConnection):
    """A connection that tells the attempt on its thread what happens.

    ``guard`` guards ``owner``, is held for one shutdown at most, and is a leaf.
    """

    owner: Attempt | None = None
    idle_since: float = 0.0
    trip_s: float = 0.0  # an upper bound of a round trip to the peer: what connecting took, or the fastest answer

    def __init__(self, *args: Any, **options: Any) -> None:
        self.guard = threading.Lock()
        super().__init__(*args, **options)

    def serve(self, attempt: Attempt) -> None:
        """Belong to *attempt*, over the socket that is open from an earlier one."""
        self.owner = attempt  # without the guard: whose it was before let go, and does not shut it down any more
        attempt.has_begun = attempt.is_connected = attempt.is_reused = True
        attempt.sock = self.sock
        attempt.connection = self

    def close(self) -> None:
        owner, sock = self.owner, self.sock
        if owner is not None and sock is not None:
            owner.ends(self, sock)
        super().close()

    def _new_conn(self) -> Any:
        began = now_s()
        sock = super()._new_conn()
        self.trip_s = now_s() - began
        return sock

    def connect(self) -> None:
        attempt = self._report()
        if attempt is None:
            return super().connect()
        attempt.is_connected = attempt.is_reused = False
        wrote = attempt.wrote
        try:
            super().connect()
        finally:
            # Bytes of a CONNECT and its answer are the proxy's business, not the request's.
            attempt.wrote, attempt.answer = wrote, None
        attempt.is_connected = True
        attempt.sock = self.sock
        if attempt.has_expired:
            raise TimeoutError("attempt expired while it connected")
        return None

    def request(self, *args: Any, **options: Any) -> None:
        attempt = self._report()
        if attempt is not None:
            attempt.answer = None
            if self.sock is not None:
                attempt.is_reused = attempt.sock is not self.sock
                attempt.is_connected = True
                attempt.sock = self.sock
        super().request(*args, **options)

    def send(self, data: Any) -> None:
        if self.sock is None and self.auto_open:
            self.connect()
        owner = self.owner
        if owner is not None and not owner.wrote:
            owner.wrote, owner.wrote_s = True, now_s()
        super().send(data)

    def response_class(self, *args: Any, **options: Any) -> http.client.HTTPResponse:  # type: ignore[override]
        """Build the reader of one answer; http.client calls this attribute, class or not."""
        answer = Answer(*args, **options)
        if self.owner is not None:
            self.owner.answer = answer
        return answer

    def _report(self) -> Attempt | None:
        attempt: Attempt | None = getattr(_this_thread, "attempt", None)
        if self.owner is not attempt:
            with self.guard:
                self.owner = attempt
        if attempt is not None:
            attempt.has_begun = True
            attempt.connection = self
        return attempt


class WatchedTLSConnection(WatchedConnection, HTTPSConnection):  # pyright: ignore[reportIncompatibleVariableOverride]
    """The same over TLS."""


@functools.lru_cache(maxsize=32)
def watched(connection_class: type[Any]) -> type[Any]:
    """Return *connection_class*, made to report."""
    if issubclass(connection_class, WatchedConnection):
        return connection_class
    return type(f"Watched{connection_class.__name__}", (WatchedConnection, connection_class), {})
