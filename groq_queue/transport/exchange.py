"""One exchange on one connection: head and body out in one piece, the answer in through http.client.

Urllib3 opened the connection, with TLS and proxies; what it puts around each
request (headers written one by one, a second response object, a second dict of
headers, decoders) costs more than the request itself and is left out. The answer
is read by the standard library's own parser and by nothing of ours. A third of
what is left is email.parser, which http.client reads headers with; its cost
cannot be had back without a parser of our own, so it stays.
"""

from __future__ import annotations

import http.client
import socket
from typing import Any
from urllib.parse import SplitResult

from groq_queue.errors import ConfigurationError, excerpt
from groq_queue.transport.address import PORTS, port_of
from groq_queue.transport.base import BadResponse
from groq_queue.transport.deadline import Attempt, now_s
from groq_queue.transport.secret import Secret

_ONE_PIECE = 65_536  # up to this size, copying a body is cheaper than a second packet


class Head:
    """The head of every request of a transport, encoded once but for path, key and length.

    Args:
        prefix: What a path below the base URL is appended to: the base's own path, or,
            for a proxy that forwards, the whole address.
        parts: The base URL.
        user_agent: Printable ASCII.
        key: Sent as Bearer.
        proxy_key: Credentials for a proxy that forwards, or None.

    Raises:
        ConfigurationError: *user_agent* is not printable ASCII.
    """

    def __init__(self, prefix: str, parts: SplitResult, user_agent: str, key: Secret, proxy_key: Secret | None) -> None:
        if not (user_agent.isascii() and user_agent.isprintable()):
            raise ConfigurationError(f"user_agent {excerpt(user_agent)!r} is not printable ASCII")
        self._start = f"POST {prefix}"
        self._fixed = (
            f" HTTP/1.1\r\nHost: {_authority(parts)}\r\nUser-Agent: {user_agent}\r\nAccept: application/json\r\n"
            "Accept-Encoding: identity\r\nContent-Type: application/json\r\nAuthorization: Bearer "
        )
        self._key = key
        self._proxy_key = proxy_key

    def encoded(self, endpoint: str, length: int) -> bytes:
        """Return the head of a request; to be used up at once, since it holds the key."""
        # One expression each: a local variable would show the key in a traceback.
        if self._proxy_key is None:
            return (
                f"{self._start}{endpoint}{self._fixed}{self._key.reveal()}\r\nContent-Length: {length}\r\n\r\n"
            ).encode("ascii")
        return (
            f"{self._start}{endpoint}{self._fixed}{self._key.reveal()}\r\n"
            f"Proxy-Authorization: Basic {self._proxy_key.reveal()}\r\nContent-Length: {length}\r\n\r\n"
        ).encode("ascii")


def write(sock: Any, attempt: Attempt, head: Head, endpoint: str, body: bytes) -> bool:
    """Send one request whole; return whether the peer took all of it.

    A server that refuses a large body may answer, then close; that answer is still readable.

    Raises:
        ValueError: *endpoint* cannot stand in a request line; nothing was sent.
        OSError: The time is over, TLS broke, or (``attempt.wrote`` is False then) not a byte was taken.
    """
    if not (endpoint.isascii() and endpoint.isprintable()) or " " in endpoint:
        raise ValueError(f"endpoint {excerpt(endpoint)!r} is not a path")
    attempt.wrote, attempt.wrote_s = True, now_s()
    is_small = len(body) <= _ONE_PIECE
    first = head.encoded(endpoint, len(body)) + body if is_small else head.encoded(endpoint, len(body))
    try:
        taken = sock.send(first)
    except ConnectionError:
        # Not a byte was taken, so nobody can have read one, and what could be read now answers something else.
        # TLS may have written a part of its record.
        if type(sock) is socket.socket:
            attempt.wrote = False
            raise
        return False
    try:
        if taken < len(first):
            sock.sendall(memoryview(first)[taken:])
        if not is_small:
            sock.sendall(body)
    except ConnectionError:
        return False
    return True


def fields_of(answer: http.client.HTTPResponse) -> dict[str, str]:
    """Return the headers of an answer that has begun, names in lower case; of a repeated one the last.

    Raises:
        BadResponse: They leave open where the answer ends, so its rest could pass for the next one.
    """
    headers = answer.headers
    # Not items(): that looks in each value for surrogates, which Latin-1 cannot have.
    fields = {name.lower(): value for name, value in headers.raw_items()}
    if len(fields) < len(headers) and len(set(headers.get_all("content-length", ()))) > 1:
        raise BadResponse("answer has two lengths")
    if answer.length is None and "content-length" in fields and not answer.chunked:
        answer.length = _one_length(fields["content-length"])
    coding = fields.get("transfer-encoding")
    if coding is not None and not answer.chunked and coding.lower() != "identity":
        raise BadResponse(f"answer is transferred as {excerpt(coding)!r}")
    return fields


def _one_length(text: str) -> int:
    """Return the length that a list such as ``242, 242`` repeats, as proxies join headers.

    Raises:
        BadResponse: It is no number, or several.
    """
    lengths = {part.strip() for part in text.split(",")}
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit() and len(length) <= 18):
        raise BadResponse(f"answer has the length {excerpt(text)!r}")
    return int(length)


def _authority(parts: SplitResult) -> str:
    """Return host and port as the Host header wants them: without zone, final dot and the scheme's own port."""
    host = (parts.hostname or "").partition("%")[0].rstrip(".")
    host = f"[{host}]" if ":" in host else host
    port = port_of(parts)
    return host if port == PORTS[parts.scheme] else f"{host}:{port}"
