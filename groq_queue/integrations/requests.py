"""``requests.Session``: an adapter to mount."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn, TypedDict
from urllib.parse import urlsplit

import requests
from requests.adapters import DEFAULT_POOLSIZE, HTTPAdapter

from groq_queue.api.queue import GroqQueue
from groq_queue.errors import ConfigurationError, safe_repr
from groq_queue.integrations.request_gate import OpenStream, RequestGate, StreamSlot


class AdapterOptions(TypedDict, total=False):
    """What ``requests_adapter`` passes on to the adapter of requests; retries are the queue's."""

    pool_connections: int
    pool_maxsize: int
    pool_block: bool


class QueueAdapter(HTTPAdapter):
    """Sends when the queue says so; made by ``requests_adapter``, which tells what it does."""

    def __init__(self, queue: GroqQueue, turns: Mapping[str, Any], idle_timeout: float | None, **options: Any) -> None:
        self._turns = RequestGate(queue, turns, idle_timeout)
        if options.get("max_retries"):
            raise ConfigurationError(
                f"max_retries={safe_repr(options['max_retries'])}: the queue retries; set GroqQueue(max_retries=...)"
            )
        options.setdefault("pool_maxsize", max(DEFAULT_POOLSIZE, queue._settings.max_workers))
        super().__init__(**options)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Send *request*, a POST of JSON that names a model when its turn has come, anything else at once."""
        how = {"stream": stream, "timeout": timeout, "verify": verify, "cert": cert, "proxies": proxies}
        payload = self._turns.payload_of(request.method, request.body)
        if payload is None:
            return super().send(request, **how)
        if stream:
            request = request.copy()
            request.headers["Accept-Encoding"] = "identity"  # so that the usage can be read as the body passes by

        def attempt(hold: StreamSlot) -> requests.Response | OpenStream:
            response = HTTPAdapter.send(self, request, **how)
            if stream and response.status_code < 400:
                hold.owns(response.raw)
                response.raw = _HeldBody(response.raw, hold)
                weakref.finalize(response.raw, hold.forgotten).atexit = False  # it may be all that a reader keeps
                return OpenStream(response, response.status_code, response.headers, response.close)
            _ = response.content  # what goes wrong while it is read is retried as well
            return response

        response: requests.Response = self._turns.send(payload, urlsplit(request.url or "").path, attempt)
        return response

    def __reduce__(self) -> NoReturn:
        raise TypeError("an adapter belongs to a queue of its process and is not pickled: mount one in each process")


class _HeldBody:
    """A urllib3 response that tells its hold what is read of it, and when it ends."""

    def __init__(self, body: Any, hold: StreamSlot) -> None:
        self._body = body
        self._hold = hold

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def __iter__(self) -> Iterator[bytes]:
        return self._passed(self._body)

    def stream(self, *size: Any, **how: Any) -> Iterator[bytes]:
        return self._passed(self._body.stream(*size, **how))

    def read(self, *size: Any, **how: Any) -> bytes:
        return self._took(self._body.read, size, how)

    def read1(self, *size: Any, **how: Any) -> bytes:
        return self._took(self._body.read1, size, how)

    def readline(self, *size: Any) -> bytes:
        return self._took(self._body.readline, size or (-1,), {})

    def readinto(self, buffer: Any) -> int:
        self._hold.reads()
        try:
            count: int = self._body.readinto(buffer)
        except BaseException:
            self._hold.finish()
            raise
        self._hold.saw(bytes(memoryview(buffer)[:count]))
        if not count:
            self._hold.finish()
        return count

    def close(self) -> None:
        try:
            self._body.close()
        finally:
            self._hold.finish()

    def release_conn(self) -> None:
        try:
            self._body.release_conn()
        finally:
            self._hold.finish()

    def _passed(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        yield from self._hold.passing(pieces)  # keeps us alive, which a bare generator of the hold's would not

    def _took(self, read: Any, size: tuple[Any, ...], how: Mapping[str, Any]) -> bytes:
        self._hold.reads()
        try:
            piece: bytes = read(*size, **how)
        except BaseException:
            self._hold.finish()
            raise
        self._hold.saw(piece)
        if not piece or not (size or how.get("amt")):
            self._hold.finish()
        return piece
