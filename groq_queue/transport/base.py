"""What both transports share: one attempt's bounds, its body, and the one door for foreign errors.

Whatever goes wrong becomes an ``APIConnectionError`` with its text copied. It is
built here and raised by a frame that never held a header: tracebacks, as error
trackers print them with local variables, show no key.

Replies are asked for uncompressed. An answer of some kilobytes gains nothing on
the way and costs time at both ends, and no body can then be a bomb. A proxy that
compresses all the same is understood (gzip, deflate), up to a cap; one that names
an encoding which the body does not have is not believed.

Bounds of time: an attempt ends after connect + read seconds unless its answer
grows, and white space, header lines and interim answers are no growth: a server that
sends only those keeps a connection open and is silent otherwise. While the answer
grows, only silence ends it, up to ten times the read time-out.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import ssl
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

from urllib3 import exceptions as urllib3_errors

from groq_queue.errors import APIConnectionError, APITimeoutError, Sent, excerpt
from groq_queue.transport.address import port_of
from groq_queue.transport.answer import BadResponse
from groq_queue.transport.deadline import Attempt, AttemptTimer
from groq_queue.transport.protocol import CallLater, Reply
from groq_queue.transport.secret import Secret

MAX_RESPONSE_BYTES = 64 * 1024 * 1024  # an embeddings answer of 2,048 texts has 22 MB
_MAX_UNPACKED_BYTES = 16 * 1024 * 1024  # of a few bytes; more only if the packed body has a twentieth of it
_USUAL_RATIO = 20
MAX_CONNECTIONS = 64
_PIECE = 65_536

_TUNNEL = re.compile(r"Tunnel connection failed: ([0-9]{3})")  # http.client tells the status in its message alone

# What a broken or hostile peer makes the libraries below raise. Anything else is a mistake of ours and stays visible.
FOREIGN_ERRORS = (OSError, http.client.HTTPException, urllib3_errors.HTTPError, ValueError)


def default_user_agent() -> str:
    """Return ``groq_queue/VERSION``: the service bans Python's own name (Cloudflare error 1010)."""
    try:
        return f"groq_queue/{metadata.version('groq_queue')}"
    except metadata.PackageNotFoundError:
        return "groq_queue"


class BaseTransport(ABC):
    """The frame of ``send``: bounds around an exchange, and one translation of what it raises.

    Safe to use from many threads; after a fork the child opens its own connections.
    """

    def __init__(
        self, base_url: str, key: Secret, *, user_agent: str | None, max_response_bytes: int, alarm: CallLater | None
    ) -> None:
        self._base_url = base_url
        self._key = key
        self._user_agent = user_agent or default_user_agent()
        self._max_response_bytes = max_response_bytes
        self._alarm = alarm
        self._is_closed = False
        self._pid = os.getpid()
        parts = urlsplit(base_url)
        self._address = f"{parts.hostname}:{port_of(parts)}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self._base_url}>"

    def __reduce__(self) -> Any:
        raise TypeError("a transport holds sockets and a key and is not pickled: build one in each process")

    def send(self, endpoint: str, body: bytes, *, timeout: tuple[float, float]) -> Reply:
        """POST *body* to *endpoint* once and read the answer; see ``Transport.send``.

        Blocks. Without an alarm a server that drips header lines is not bounded by the total.
        """
        if self._is_closed:
            raise APIConnectionError("transport is closed: the queue was shut down", sent="no", is_final=True)
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._forget_inherited()
        outcome = self._attempt(endpoint, body, timeout)
        if isinstance(outcome, Reply):
            return outcome
        raise outcome  # outside any except block and any frame with headers: no context, no cause

    def close(self) -> None:
        """Close every connection kept; attempts under way still end."""
        self._is_closed = True

    @abstractmethod
    def _exchange(self, attempt: Attempt, endpoint: str, body: bytes) -> Reply:
        """Send and receive; raise whatever the libraries raise, every connection let go and closed."""

    @abstractmethod
    def _forget_inherited(self) -> None:
        """Close connections that belong to the parent process as well."""

    def _attempt(self, endpoint: str, body: bytes, timeout: tuple[float, float]) -> Reply | APIConnectionError:
        attempt = Attempt(timeout)
        timer = None if self._alarm is None else AttemptTimer(attempt, self._alarm)
        try:
            reply = self._exchange(attempt, endpoint, body)
        except (*FOREIGN_ERRORS, BadResponse) as error:
            return translate(error, attempt, self._address, self._key)
        finally:
            if timer is not None:
                timer.end()
        if attempt.has_expired:  # a header drip cut by the alarm looks like a complete 200 without body
            return translate(TimeoutError(), attempt, self._address, self._key)
        return reply

    def _reply(self, status: int, fields: dict[str, str], body: bytes) -> Reply:
        """Build a reply from headers with names in lower case, the key masked wherever it came back."""
        redact = self._key.redact
        values = "\n".join(fields.values())
        if redact(values) is not values:
            fields = {name: redact(value) for name, value in fields.items()}
        return Reply(status, fields, self._key.redact_bytes(body))

    def _body(
        self,
        read1: Callable[[int], bytes],
        length: int | None,
        status: int,
        headers: Mapping[str, str],
        attempt: Attempt,
    ) -> bytes:
        if status < 200:
            # http.client skips only 100. The real answer is still on its way: before a byte of "body"
            # is read the connection is still ours to close, else the next request would get that answer.
            raise BadResponse(f"interim status {status} instead of an answer")
        body = read_body(read1, length, attempt, self._max_response_bytes)
        encoding = headers.get("content-encoding")
        return decoded(body, encoding, self._max_response_bytes) if encoding else body


def read_body(read1: Callable[[int], bytes], length: int | None, attempt: Attempt, cap: int) -> bytes:
    """Read a body to its end in pieces, as they come.

    Args:
        read1: Returns at most that many bytes, after one read of the socket; nothing at the end.
        length: Bytes announced, or None: then the end is what ``read1`` says.
        attempt: Its time bounds each piece.
        cap: Bytes accepted.

    Raises:
        BadResponse: It is larger than *cap* bytes, or announces that it is.
        IncompleteRead: It ended before *length*.
        TimeoutError: The attempt has had its time.
    """
    if length is not None and length > cap:
        raise BadResponse(f"answer of {length} bytes is larger than {cap} bytes", is_final=True)
    pieces: list[bytes] = []
    size = 0
    is_near_end = False
    while True:
        patience_s = attempt.patience_s()
        if (patience_s < attempt.read_s or is_near_end) and attempt.sock is not None:
            attempt.sock.settimeout(patience_s)
            is_near_end = patience_s < attempt.read_s
        # Never ask for more than is left: until 3.12 http.client.read1 does not count
        # what it returned and would wait for bytes beyond Content-Length.
        piece = read1(_PIECE if length is None else max(1, min(_PIECE, length - size)))
        size += len(piece)
        if size > cap:
            raise BadResponse(f"answer is larger than {cap} bytes", is_final=True)
        if size == length:
            return b"".join((*pieces, piece))
        if not piece:
            if length is not None:
                raise http.client.IncompleteRead(b"", length - size)
            return b"".join(pieces)
        pieces.append(piece)
        if not piece.isspace():
            attempt.progressed()


def decoded(body: bytes, encoding: str, cap: int) -> bytes:
    """Undo *encoding*, a list of gzip and deflate, in which other names are not believed over plain JSON.

    Args:
        body: As it came.
        encoding: The header.
        cap: Most bytes to produce; of a small body fewer, because no honest one unpacks to a thousand times its size.

    Raises:
        BadResponse: It is larger, damaged, or of another encoding.
    """
    most = min(cap, max(_MAX_UNPACKED_BYTES, _USUAL_RATIO * len(body)))
    for name in reversed([part.strip().lower() for part in encoding.split(",")]):
        if name in ("", "identity") or not body:
            continue
        if name in ("gzip", "x-gzip", "deflate"):
            body = _unpacked(body, name, most)
        elif not _looks_like_json(body):
            raise BadResponse(f"answer is encoded as {excerpt(encoding)!r} although none was asked for", is_final=True)
    return body


def _unpacked(body: bytes, name: str, most: int) -> bytes:
    """Undo gzip, or deflate with or without its header; plain JSON is left as it is."""
    if _looks_like_json(body):
        return body  # a proxy has undone the compression and left the header
    first = zlib.MAX_WBITS | 32  # either header, gzip or zlib
    for wbits in (first, -zlib.MAX_WBITS) if name == "deflate" else (first,):
        try:
            return _inflated(body, name, most, wbits)
        except zlib.error:
            continue
    raise BadResponse(f"answer is not valid {name}")


def _inflated(body: bytes, name: str, most: int, wbits: int) -> bytes:
    result = b""
    while body:
        unpacker = zlib.decompressobj(wbits=wbits)
        result += unpacker.decompress(body, most + 1 - len(result))
        if len(result) > most:
            raise BadResponse(f"answer unpacks to more than {most} bytes", is_final=True)
        if not unpacker.eof:
            raise BadResponse(f"answer was cut short inside its {name} encoding")
        body = unpacker.unused_data
    return result


def _looks_like_json(body: bytes) -> bool:
    if body[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"{", b"["):
        return False
    try:
        body.decode()
    except UnicodeDecodeError:  # raw deflate may begin with a bracket
        return False
    return True


def translate(error: BaseException, attempt: Attempt, address: str, key: Secret) -> APIConnectionError:
    """Build our error for whatever an exchange raised; the one door of this room.

    Args:
        error: Anything of http.client, ssl, urllib3 or requests.
        attempt: How far it got.
        address: ``host:port`` of the API.
        key: Redacted from every text.
    """
    layers = list(_layers(error))
    connection = attempt.connection
    proxy = getattr(connection, "proxy", None)
    peer = f"proxy {proxy.host}:{proxy.port}" if proxy is not None and not attempt.is_connected else address
    sent = _sent(layers, attempt)

    def found(*kinds: type[BaseException]) -> BaseException | None:
        return next((layer for layer in layers if isinstance(layer, kinds)), None)

    def failed(text: str, is_final: bool = False) -> APIConnectionError:
        failure = APIConnectionError(key.redact(text), sent=sent, is_final=is_final)
        if attempt.is_stale and broke_off(error):
            failure.is_stale = True
        return failure

    if attempt.has_expired:
        total_s = attempt.connect_s + attempt.read_s
        return APITimeoutError(f"attempt at {address} was not complete after {total_s:g} s", sent=sent)
    if bad := found(ssl.SSLCertVerificationError, ssl.CertificateError):
        why = getattr(bad, "verify_message", "") or str(bad)
        return failed(
            f"certificate of {peer} does not verify ({excerpt(why)}): if you trust that server, "
            "put the path of its CA bundle into SSL_CERT_FILE, or into `verify` of your own requests.Session",
            is_final=True,
        )
    if bad := found(urllib3_errors.NameResolutionError):
        host = peer.rpartition(":")[0]
        return failed(f"host name {host} cannot be resolved: check the network, the DNS and the spelling")
    if bad := found(urllib3_errors.NewConnectionError):
        return failed(f"no connection to {peer}: {_reason(bad)}")
    if found(TimeoutError, urllib3_errors.TimeoutError):
        if sent == "no":
            return APITimeoutError(f"no connection to {peer} within {attempt.connect_s:g} s", sent=sent)
        return APITimeoutError(f"{address} was silent for {attempt.read_s:g} s", sent=sent)
    if bad := found(ssl.SSLError, urllib3_errors.SSLError):
        # A handshake that was merely cut off may succeed next time; one that was refused will not.
        is_final = not attempt.wrote and not found(ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)
        return failed(f"TLS with {peer} failed: {_reason(bad)}", is_final=is_final)
    if isinstance(bad := found(BadResponse), BadResponse):
        return failed(f"{address}: {bad}", is_final=bad.is_final)
    if found(http.client.IncompleteRead, urllib3_errors.IncompleteRead):
        return failed(f"answer of {address} was cut short")
    if bad := found(ConnectionError):
        return failed(f"connection to {peer} broke before the answer was complete: {_reason(bad)}")
    if bad := found(http.client.HTTPException, urllib3_errors.ProtocolError) if attempt.has_begun_answer else None:
        return failed(f"answer of {address} was cut short or malformed: {_reason(bad)}")
    if sent == "no" and (why := _refused_by_proxy(layers)):
        return failed(f"proxy before {address} {why}", is_final=True)
    last = layers[-1]
    return failed(f"exchange with {peer} failed: {type(last).__name__}: {_reason(last)}")


def _refused_by_proxy(layers: list[BaseException]) -> str | None:
    """Return in words why a proxy will never do what it was asked, or None: it is down, busy, or there is none."""
    for layer in layers:
        if isinstance(layer, urllib3_errors.LocationValueError) or type(layer).__name__ == "InvalidProxyURL":
            return "has no valid address: write http://host:port"  # whose text may hold a password
        if tunnel := _TUNNEL.search(str(layer)) if isinstance(layer, OSError) else None:
            status = int(tunnel[1])
            if 400 <= status < 500 and status not in (408, 425, 429):
                cure = "check its user name and password" if status == 407 else "ask its administrator, or set NO_PROXY"
                return f"refuses the tunnel (HTTP {status}): {cure}"
    return None


def broke_off(error: BaseException) -> bool:
    """Did the peer end the connection (as opposed to saying something wrong, or nothing)?"""
    ends = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
    return any(isinstance(layer, ends) for layer in _layers(error))


def _layers(error: BaseException) -> Iterable[BaseException]:
    """Yield *error* and what it wraps, outermost first; urllib3 and requests wrap in four ways."""
    seen: set[int] = set()
    todo: list[Any] = [error]
    while todo:
        layer = todo.pop(0)
        if isinstance(layer, BaseException) and id(layer) not in seen:
            seen.add(id(layer))
            yield layer
            todo += [getattr(layer, "reason", None), getattr(layer, "original_error", None), layer.__cause__]
            todo += layer.args


def _sent(layers: list[BaseException], attempt: Attempt) -> Sent:
    if attempt.connection is not None or not attempt.has_begun:
        return attempt.sent
    # A connection that does not report: an adapter of the user's own, or one opened before we came.
    unsent = (
        urllib3_errors.ConnectTimeoutError,  # NewConnectionError and NameResolutionError are its children
        urllib3_errors.LocationValueError,
        urllib3_errors.ProxyError,
        ssl.SSLCertVerificationError,
    )
    if any(isinstance(layer, unsent) for layer in layers):
        return "no"
    return "yes" if any(isinstance(layer, BadResponse) for layer in layers) else "unknown"


def _reason(error: BaseException) -> str:
    """Return one readable line; the innermost errno text is clearer than the wrappers around it."""
    for layer in (error.__cause__, error):
        if isinstance(layer, OSError) and layer.strerror:
            return excerpt(layer.strerror)
    with contextlib.suppress(Exception):  # a foreign __str__ may do anything
        return excerpt(str(error)) or type(error).__name__
    return type(error).__name__
