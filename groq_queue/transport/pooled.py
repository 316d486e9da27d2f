"""The default transport: urllib3 connections, kept alive, owned by one attempt at a time.

Not urllib3's own pool: that takes a connection back inside the last read, when
an alarm may still be about to shut it down. A stack of idle connections is all a
single address needs.

On a connection, head and body go out in one piece and the answer comes in through
http.client. Urllib3 opened the connection, with TLS and proxies; what it puts around each
request (headers written one by one, a second response object, a second dict of
headers, decoders) costs more than the request itself and is left out. The answer
is read by the standard library's own parser and by nothing of ours. A third of
what is left is email.parser, which http.client reads headers with; its cost
cannot be had back without a parser of our own, so it stays.

Proxies come from the environment (``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``,
``NO_PROXY``), read once when the transport is built. Loopback is never proxied:
to a proxy, 127.0.0.1 is itself, and the key would reach it in clear.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import urllib.request
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import urllib3
from urllib3 import exceptions as urllib3_errors
from urllib3.util import make_headers

from groq_queue.errors import ConfigurationError, excerpt
from groq_queue.transport.address import PORTS, is_loopback, port_of
from groq_queue.transport.answer import Answer
from groq_queue.transport.base import FOREIGN_ERRORS, MAX_CONNECTIONS, MAX_RESPONSE_BYTES, BaseTransport
from groq_queue.transport.deadline import Attempt, WatchedConnection, WatchedTLSConnection, now_s, set_timeout, watching
from groq_queue.transport.protocol import CallLater, Reply
from groq_queue.transport.secret import Secret

_ONE_PIECE = 65_536  # up to this size, copying a body is cheaper than a second packet
_KEPT_S = 60.0  # below the idle time after which servers and address translators drop a connection; 60 felt safe
# Used again so soon, a connection is not asked whether it is still open: asking hands the interpreter to another
# thread, and among 32 busy ones the asker then waits for its turn. One that was closed in that time is noticed by the
# exchange (see ``deadline``); given up is only to notice a server that sends more than the length it announced.
_JUST_USED_S = 0.01


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


class PooledTransport(BaseTransport):
    """Sends attempts over kept connections to one address; safe to use from many threads.

    Args:
        base_url: As returned by ``resolve_base_url``.
        key: The API key.
        user_agent: None for ``groq_queue/VERSION``.
        max_connections: Idle connections kept. More may be open while more threads send; none waits for another.
        max_response_bytes: Larger answers are refused, counted after decompression.
        alarm: Bounds what socket time-outs cannot see; see ``deadline``.

    ``_idle`` is shared without a lock: ``append`` and ``pop`` of a deque are atomic.
    """

    def __init__(
        self,
        base_url: str,
        key: Secret,
        *,
        user_agent: str | None = None,
        max_connections: int = MAX_CONNECTIONS,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        alarm: CallLater | None = None,
    ) -> None:
        super().__init__(base_url, key, user_agent=user_agent, max_response_bytes=max_response_bytes, alarm=alarm)
        self._max_connections = max_connections
        self._idle: deque[WatchedConnection] = deque()
        parts = urlsplit(base_url)
        proxy_url = environment_proxy(parts)
        proxy_key = _proxy_credentials(proxy_url)
        self._new_connection = _factory(parts, proxy_url, proxy_key)
        # A proxy that forwards plain http wants the whole address, everybody else the path.
        is_forwarded = proxy_url is not None and parts.scheme == "http"
        self._head = Head(
            prefix=(base_url if is_forwarded else parts.path) + "/",
            parts=parts,
            user_agent=self._user_agent,
            key=key,
            proxy_key=proxy_key if is_forwarded else None,
        )

    def close(self) -> None:
        super().close()
        self._forget_inherited()

    def _forget_inherited(self) -> None:
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:  # another thread took the last one
                return

    def _exchange(self, attempt: Attempt, endpoint: str, body: bytes) -> Reply:
        if connection := self._kept_connection():
            try:
                return self._round_trip(connection, attempt, endpoint, body)
            except FOREIGN_ERRORS as error:
                if attempt.ended_s is not None or not attempt.wrote:
                    self._forget_inherited()  # what ended this one has probably ended the others
                if not attempt.has_ended_unread(error):
                    raise
            attempt.begins_anew()
        return self._round_trip(self._new_connection(), attempt, endpoint, body)

    def _round_trip(self, connection: WatchedConnection, attempt: Attempt, endpoint: str, body: bytes) -> Reply:
        answer: Answer | None = None
        try:
            if connection.sock is None:
                connection.timeout = min(attempt.connect_s, attempt.patience_s())
                with watching(attempt):
                    connection.connect()
            else:
                connection.serve(attempt)
            sock: Any = connection.sock
            set_timeout(sock, attempt.patience_s())
            is_usable = write(sock, attempt, self._head, endpoint, body)
            answer = attempt.answer = Answer(sock, method="POST")
            answer.begin()
            connection.trip_s = min(connection.trip_s, now_s() - attempt.wrote_s)
            fields = answer.fields()
            content = self._body(answer.read1, answer.length, answer.status, fields, attempt)
            reply = self._reply(answer.status, fields, content)
            answer.close()
        except BaseException:
            connection.close()  # which tells the attempt what can be known, so it is let go after that
            attempt.let_go()
            if answer is not None:
                answer.close()
            raise
        attempt.let_go()
        if is_usable and not answer.will_close and not attempt.has_expired:
            self._keep(connection)
        else:
            connection.close()
        return reply

    def _kept_connection(self) -> WatchedConnection | None:
        """Return the connection used last that is still good, or None."""
        now = now_s()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            idle_s = now - connection.idle_since
            # Readable while idle means closed by the server, or bytes without a request.
            if idle_s <= _KEPT_S and (idle_s < _JUST_USED_S or connection.is_connected):
                return connection
            connection.close()

    def _keep(self, connection: WatchedConnection) -> None:
        if len(self._idle) >= self._max_connections:
            connection.close()
            return
        connection.idle_since = now_s()
        self._idle.append(connection)
        if self._is_closed:  # closed between our first byte and here
            self._forget_inherited()


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
        # Not a byte was taken, so the server has read none, and what could be read now answers something else.
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


def _authority(parts: SplitResult) -> str:
    """Return host and port as the Host header wants them: without zone, final dot and the scheme's own port."""
    host = (parts.hostname or "").partition("%")[0].rstrip(".")
    host = f"[{host}]" if ":" in host else host
    port = port_of(parts)
    return host if port == PORTS[parts.scheme] else f"{host}:{port}"


def environment_proxy(parts: SplitResult) -> str | None:
    """Return the URL of the proxy that the environment names for an address, or None.

    Raises:
        ConfigurationError: It is not the address of an http or https proxy.
    """
    host = parts.hostname or ""
    proxies = urllib.request.getproxies()
    url = (proxies.get(parts.scheme) or proxies.get("all") or "").strip()
    if not url or is_loopback(host) or urllib.request.proxy_bypass(f"{host}:{port_of(parts)}"):
        return None
    if "://" not in url:
        url = f"http://{url}"
    scheme = url.partition("://")[0].lower()
    try:
        proxy = urlsplit(url)
        is_address = bool(proxy.hostname) and proxy.port != 0 and " " not in proxy.netloc
    except ValueError:
        is_address = False
    if not is_address:
        raise _no_address(url)
    if scheme not in ("http", "https"):
        raise ConfigurationError(
            f"the environment names a {scheme} proxy, which is not built in: "
            "use an http proxy, or pass a requests.Session that can speak to it"
        )
    return url


def _proxy_credentials(proxy_url: str | None) -> Secret | None:
    """Return user and password of a proxy in the form of its header, or None."""
    parts = urlsplit(proxy_url or "")
    if parts.username is None:
        return None
    user_and_password = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    try:
        header = make_headers(proxy_basic_auth=user_and_password)["proxy-authorization"]
    except UnicodeEncodeError:
        header = ""
    if not header:
        raise ConfigurationError("the proxy's user name or password in the environment has characters outside Latin-1")
    return Secret(header.partition(" ")[2], field="proxy credentials")


def _factory(parts: SplitResult, proxy_url: str | None, proxy_key: Secret | None) -> Callable[[], WatchedConnection]:
    """Return a function that makes unconnected connections to an address, through a proxy if given."""
    host, port = parts.hostname or "", port_of(parts)
    context = tls_context() if parts.scheme == "https" or (proxy_url or "").startswith("https") else None
    if proxy_url is None:
        if context is None:
            return lambda: WatchedConnection(host, port)
        return lambda: WatchedTLSConnection(host, port, ssl_context=context)

    proxy_parts = urlsplit(proxy_url)
    bare_url = proxy_parts._replace(netloc=proxy_parts.netloc.rpartition("@")[2]).geturl()
    manager = _read_proxy(bare_url)
    options: dict[str, Any] = {"proxy": manager.proxy, "proxy_config": manager.proxy_config}
    proxy_scheme, _, proxy_host, proxy_port, *_ = manager.proxy or (None,) * 4
    if proxy_host is None:
        raise _no_address(bare_url)

    def through_proxy() -> WatchedConnection:
        connection: WatchedConnection
        if context is None:
            return WatchedConnection(proxy_host, proxy_port, **options)
        connection = WatchedTLSConnection(proxy_host, proxy_port, ssl_context=context, **options)
        if parts.scheme == "https":
            headers = {} if proxy_key is None else {"Proxy-Authorization": f"Basic {proxy_key.reveal()}"}
            connection.set_tunnel(host, port, headers, scheme=proxy_scheme or "http")
        return connection

    return through_proxy


def _read_proxy(url: str) -> urllib3.ProxyManager:
    """Let urllib3 read the address of a proxy; the manager itself opens nothing here."""
    with contextlib.suppress(urllib3_errors.HTTPError, ValueError):
        return urllib3.ProxyManager(url)
    raise _no_address(url)


def _no_address(url: str) -> ConfigurationError:
    scheme, _, rest = url.partition("://")
    bare = excerpt(f"{scheme}://{rest.rpartition('@')[2]}")
    return ConfigurationError(f"the environment's proxy {bare!r} is not an address: write http://host:port")


def tls_context() -> ssl.SSLContext:
    """Return the one TLS context of a transport; loading the certificates costs milliseconds.

    The system's store, which honours ``SSL_CERT_FILE``; where there is none (some Python
    builds on macOS), the bundle that comes with requests.
    """
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if os.name != "nt" and paths.cafile is None and paths.capath is None:
        import certifi  # a dependency of requests, so it is installed

        context.load_verify_locations(certifi.where())
    return context
