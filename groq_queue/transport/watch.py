"""One attempt seen from outside: on which socket it is, how far it got, when it must end.

Time-outs of sockets bound one read each; a server that sends a header line now
and then, or ``100 Continue`` for ever, never meets one. So an alarm on another
thread shuts the socket down when the whole attempt has had its time.

How the socket is found: connections of our own class report to the ``Attempt``
that the sending thread declared in ``watching``, or that they were told to serve.

Units: seconds as float on CLOCK_MONOTONIC, the clock that sockets time out by.
"""

from __future__ import annotations

import contextlib
import encodings.idna
import functools
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection

from groq_queue.errors import Sent

_this_thread = threading.local()

# Sockets load this codec for the first host name. A process that forks while a worker does so has a child that
# finds half a module and can resolve no name, ever; so it is loaded here, before there are threads.
assert encodings.idna


_CLOCK_ID = getattr(time, "CLOCK_MONOTONIC", None)  # absent on Windows


def now_s() -> float:
    """Return the current instant. ``time.monotonic`` itself stands still under freezegun."""
    return time.monotonic() if _CLOCK_ID is None else time.clock_gettime(_CLOCK_ID)


class Attempt:
    """What is known about one attempt while it is under way.

    ``expire`` may come from another thread at any moment, also long after the
    connection went on to serve somebody else. Two rules make that harmless:

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
        "has_begun",
        "has_expired",
        "is_connected",
        "is_reused",
        "read_s",
        "sock",
        "wrote",
    )

    def __init__(self, timeout: tuple[float, float]) -> None:
        self.connect_s, self.read_s = timeout
        self.deadline = now_s() + self.connect_s + self.read_s
        self.has_begun = False  # False proves that nothing was sent
        self.has_expired = False
        self.connection: WatchedConnection | None = None
        self.sock: Any = None  # kept here: http.client gives its own away before the body is read
        self.answer: http.client.HTTPResponse | None = None
        self.is_connected = False
        self.is_reused = False
        self.wrote = False  # never taken back: bytes written on a dead socket may still have arrived

    def left_s(self) -> float:
        """Return the seconds until the whole attempt must be over, negative after that."""
        return self.deadline - now_s()

    def patience_s(self) -> float:
        """Return how long the next read may take: the read time-out, or less near the end.

        Raises:
            TimeoutError: The whole attempt has had its time.
        """
        left_s = self.left_s()
        if left_s <= 0 or self.has_expired:
            self.has_expired = True
            raise TimeoutError("attempt is over")
        return min(self.read_s, left_s)

    @property
    def has_begun_answer(self) -> bool:
        """Did a complete status line arrive? (``100 Continue`` proves nothing and does not count.)"""
        return self.answer is not None and isinstance(self.answer.status, int)

    @property
    def is_stale(self) -> bool:
        """Did a kept connection end before a byte of answer, as when the server had just closed it?"""
        return self.is_reused and not self.has_begun_answer and not self.has_expired

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


def set_timeout(sock: Any, seconds: float) -> None:
    """Bound each operation on *sock*; a bound that it has already is not set again, which would be a system call."""
    if not isinstance(sock, socket.socket) or sock.gettimeout() != seconds:  # TLS inside TLS does not tell its own
        sock.settimeout(seconds)


def shut_down(sock: Any) -> None:
    """Wake whoever reads or writes *sock*, which stays open until its owner closes it."""
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

    def __init__(self, *args: Any, **options: Any) -> None:
        self.guard = threading.Lock()
        super().__init__(*args, **options)

    def serve(self, attempt: Attempt) -> None:
        """Belong to *attempt*, over the socket that is open from an earlier one."""
        self.owner = attempt  # without the guard: whose it was before let go, and does not shut it down any more
        attempt.has_begun = attempt.is_connected = attempt.is_reused = True
        attempt.sock = self.sock
        attempt.connection = self

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
        if self.owner is not None:
            self.owner.wrote = True
        super().send(data)

    def response_class(self, *args: Any, **options: Any) -> http.client.HTTPResponse:  # type: ignore[override]
        """Build the reader of one answer; http.client calls this attribute, class or not."""
        answer: http.client.HTTPResponse = super().response_class(*args, **options)
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
