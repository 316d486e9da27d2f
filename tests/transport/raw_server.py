"""A server that misbehaves on purpose: every byte and every close is the test's own.

A handler is called with a ``Peer`` per connection, on a thread of its own, and
says what happens on it. Leaving the ``with`` block ends every thread; a handler
that failed for another reason than the client's departure fails the test.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PATIENCE_S = 10.0  # no wait of a test lasts longer


@dataclass(frozen=True)
class Request:
    """What arrived; header names in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes


class Peer:
    """The server's end of one connection."""

    def __init__(self, server: RawServer, sock: socket.socket, number: int) -> None:
        self.server, self.sock, self.number = server, sock, number
        self._file = sock.makefile("rb")

    def read_request(self) -> Request | None:
        """Return the next request, or None when the client has closed."""
        line = self._file.readline().decode("ascii").rstrip()
        if not line:
            return None
        headers = {}
        while header := self._file.readline().decode("latin-1").rstrip():
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        request = Request(line, headers, self._file.read(int(headers.get("content-length", 0))))
        self.server.requests.append(request)
        return request

    def send(self, raw: bytes) -> None:
        self.sock.sendall(raw)

    def answer(self, body: bytes = b"{}", status: str = "200 OK", *headers: str) -> None:
        """Send a well-formed answer."""
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def serve(self, body: bytes = b"{}") -> None:
        """Answer every request of this connection well."""
        while self.read_request():
            self.answer(body)

    def drip(self, piece: bytes) -> None:
        """Send *piece* now and then until the client leaves, or for a few seconds; then fall silent."""
        for _ in range(2_000):
            if self.server.is_closing.wait(0.002):
                return
            self.send(piece)
        self.hold()

    def hold(self) -> None:
        """Keep the connection open and silent until the test ends."""
        self.server.is_closing.wait(PATIENCE_S)

    def wait_until_client_leaves(self) -> None:
        """Block until the client closes, reading whatever it still sends."""
        while self._file.read(65_536):
            pass

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self._file.close()
        self.sock.close()


class RawServer:
    """Listens on a loopback port while the ``with`` block runs."""

    def __init__(self, handler: Callable[[Peer], Any], tls: ssl.SSLContext | None = None) -> None:
        self._handler, self._tls = handler, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.is_closing = threading.Event()
        self.connections = 0
        self.requests: list[Request] = []
        self._peers: list[Peer] = []
        self._threads: list[threading.Thread] = []
        self._mishaps: list[BaseException] = []

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/openai/v1"

    def __enter__(self) -> RawServer:
        self._start(self._accept)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.is_closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        for peer in list(self._peers):
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a handler did not end"
        self._listener.close()
        assert not self._mishaps, self._mishaps

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(PATIENCE_S)
            self.connections += 1
            self._start(self._serve, sock, self.connections)

    def _serve(self, sock: socket.socket, number: int) -> None:
        with sock:
            try:
                if self._tls is not None:
                    sock = self._tls.wrap_socket(sock, server_side=True)
                peer = Peer(self, sock, number)
            except OSError:
                sock.close()
                return
            self._peers.append(peer)
            try:
                self._handler(peer)
            except OSError:
                pass  # the client left, as many tests mean it to
            except BaseException as mishap:
                self._mishaps.append(mishap)
            finally:
                with contextlib.suppress(OSError):
                    peer.close()
