"""Bytes to requests and replies to bytes: the part of HTTP/1.1 a test server needs.

One `Connection` per socket, all on the thread of one asyncio loop. A connection
handles one request at a time; pipelined bytes wait in its buffer. It refuses
chunked request bodies (400), heads above 64 KiB and bodies above 32 MiB.
The standard library's server spends a thread per socket and was too slow.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

MAX_HEAD = 64 * 1024
MAX_BODY = 32 * 1024 * 1024
_PAUSE_ABOVE = 1024 * 1024  # bytes pipelined behind an unanswered request

_REASONS = {status.value: status.phrase for status in HTTPStatus} | {498: "Capacity Exceeded", 520: "Unknown Error"}


@dataclass
class HttpRequest:
    """One complete request; header names in lower case."""

    method: str
    path: str
    query: str
    headers: dict[bytes, bytes]
    body: bytes
    is_first: bool  # the first of its connection

    def header(self, name: str) -> str:
        """Return the value of header *name* (lower case), empty if it is missing."""
        return self.headers.get(name.encode(), b"").decode("latin-1")


@dataclass
class HttpReply:
    """One answer. *headers* is ready-made lines, each ended by CRLF; *chunks* make it a stream."""

    status: int
    body: bytes = b""
    headers: str = ""
    content_type: str = "application/json"
    chunks: list[bytes] | None = None

    def head(self, length: str, closes: bool) -> bytes:
        """Return status line and headers; *length* is the line that ends the body."""
        close = "connection: close\r\n" if closes else ""
        # UTF-8, not Latin-1: a Go server writes the µ of a header's 240µs so, and clients must live with it.
        return (
            f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'Unknown')}\r\n"
            f"content-type: {self.content_type}\r\n{length}{close}{self.headers}\r\n"
        ).encode()


class BadRequest(Exception):
    """The bytes are no request we can answer and go on: say so and close."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Connection(asyncio.Protocol):
    """One socket. The handler answers each request exactly once, now or later.

    Args:
        ident: the number of this connection.
        handle: called with (connection, request) on the loop thread.
        refuse: makes the reply for bytes that are no request.
        opened: called once with the connection when the socket is there.
        closed: called once when the socket is gone.
    """

    def __init__(
        self,
        ident: int,
        handle: Callable[[Connection, HttpRequest], None],
        refuse: Callable[[BadRequest], HttpReply],
        opened: Callable[[Connection], None],
        closed: Callable[[Connection], None],
    ) -> None:
        self.ident = ident
        self._handle = handle
        self._refuse = refuse
        self._opened = opened
        self._closed = closed
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._request: HttpRequest | None = None  # head read, body still coming
        self._body_length = 0
        self._requests = 0
        self._is_busy = False  # a request is with the handler
        self._is_pumping = False
        self._is_paused = False
        self._is_eof = False
        self._keep_alive = True
        self._is_head = False  # answers to HEAD have no body

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._buffer.clear()
        self._closed(self)

    def eof_received(self) -> bool:
        # A client may say "no more" and still read: what is being answered is finished first.
        self._is_eof = True
        return self._is_busy

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_busy:
            self._pump()
        elif len(self._buffer) > _PAUSE_ABOVE and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    # Reading.

    def _pump(self) -> None:
        if self._is_pumping:  # an answer given at once, from inside the loop below
            return
        self._is_pumping = True
        try:
            while self._transport is not None and not self._transport.is_closing() and not self._is_busy:
                request = self._next_request()
                if request is None:
                    break
                self._is_busy = True
                self._handle(self, request)
        except BadRequest as error:
            self._keep_alive = self._is_head = False
            self.send(self._refuse(error))
        finally:
            self._is_pumping = False

    def _next_request(self) -> HttpRequest | None:
        buffer = self._buffer
        if self._request is None:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(buffer) > MAX_HEAD:
                    raise BadRequest(431, "the head of the request is longer than 64 KiB")
                return None
            self._request = self._read_head(bytes(buffer[:end]))
            del buffer[: end + 4]
            if self._body_length > len(buffer) and b"100-continue" in self._request.headers.get(b"expect", b"").lower():
                self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if len(buffer) < self._body_length:
            return None
        request, self._request = self._request, None
        if self._body_length:
            request.body = bytes(buffer[: self._body_length])
            del buffer[: self._body_length]
        return request

    def _read_head(self, head: bytes) -> HttpRequest:
        line, *lines = head.lstrip(b"\r\n").split(b"\r\n")
        parts = line.split(b" ")
        if len(parts) != 3 or parts[2] not in (b"HTTP/1.1", b"HTTP/1.0") or not parts[0].isalpha():
            raise BadRequest(400, "the first line is no HTTP/1.1 request line")
        headers: dict[bytes, bytes] = {}
        for field in lines:
            name, colon, value = field.partition(b":")
            if not colon or not name or name != name.strip():
                raise BadRequest(400, "a header line is malformed")
            name, value = name.lower(), value.strip()
            if name == b"content-length" and headers.get(name, value) != value:
                raise BadRequest(400, "two different Content-Length headers")
            headers[name] = value
        if b"transfer-encoding" in headers:
            raise BadRequest(400, "chunked request bodies are not supported: send Content-Length")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            raise BadRequest(400, "Content-Length is not a number")
        if len(length) > 12 or int(length) > MAX_BODY:
            raise BadRequest(413, "Request Entity Too Large")
        self._body_length = int(length)
        connection = headers.get(b"connection", b"").lower()
        self._keep_alive = b"close" not in connection and (parts[2] == b"HTTP/1.1" or b"keep-alive" in connection)
        self._is_head = parts[0] == b"HEAD"
        path, _, query = parts[1].decode("latin-1").partition("?")
        self._requests += 1
        return HttpRequest(parts[0].decode("ascii"), path, query, headers, b"", self._requests == 1)

    # Answering: exactly one of these for each request handed to the handler.

    def send(self, reply: HttpReply) -> None:
        """Answer, then keep the connection or close it as the client asked."""
        closes = not self._keep_alive
        if reply.chunks is None:
            data = reply.head(f"content-length: {len(reply.body)}\r\n", closes)
            if not self._is_head:
                data += reply.body
        else:
            pieces = [reply.head("transfer-encoding: chunked\r\n", closes)]
            pieces += [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in reply.chunks]
            data = b"".join([*pieces, b"0\r\n\r\n"])
        self._write(data)
        if closes:
            self._close()
        else:
            self._go_on()

    def send_truncated(self, reply: HttpReply) -> None:
        """Promise the whole body, send half of it and close."""
        if reply.chunks is None:
            head = reply.head(f"content-length: {len(reply.body)}\r\n", False)
            self._write(head + reply.body[: len(reply.body) // 2])
        else:
            half = reply.chunks[: len(reply.chunks) // 2]
            head = reply.head("transfer-encoding: chunked\r\n", False)
            self._write(head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in half))
        self._close()

    def send_half(self, reply: HttpReply) -> None:
        """Promise no length, send half of the body and close: the client sees a clean end."""
        body = b"".join(reply.chunks) if reply.chunks is not None else reply.body
        self._write(reply.head("", True) + body[: len(body) // 2])
        self._close()

    def reset(self) -> None:
        """Close so that the client sees ECONNRESET, not an end."""
        if self._transport is not None:
            linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._transport.abort()

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _go_on(self) -> None:
        self._is_busy = False
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        if self._buffer:
            self._pump()
        if self._is_eof and not self._is_busy and not self._is_pumping:
            self._close()
