"""The official SDKs: an HTTP client of the class they use themselves, whatever library that is today.

Their ``http_client`` is subclassed at ``send``, which is public and the one way of
every request. So redirects, proxies, hooks and time-outs stay the library's own
business; a transport put below them would lose the proxies of the environment.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from groq_queue.api.queue import GroqQueue
from groq_queue.engine.log import log_fields
from groq_queue.errors import ConfigurationError, safe_repr
from groq_queue.integrations.request_gate import OpenStream, RequestGate, StreamSlot
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")


def make_client(
    queue: GroqQueue, sdk: Any, turns: Mapping[str, Any], idle_timeout: float | None, options: Mapping[str, Any]
) -> Any:
    """See ``sdk_http_client``."""
    waiting = RequestGate(queue, turns, idle_timeout)
    if "transport" in options and not hasattr(options["transport"], "handle_request"):
        raise ConfigurationError("transport: use a synchronous one")
    return _queued(_class_of(sdk))(waiting, **options)


def _class_of(sdk: Any) -> type[Any]:
    """Return the class of HTTP client that *sdk* makes for itself."""
    if inspect.iscoroutinefunction(getattr(sdk, "request", None)):
        raise ConfigurationError(
            f"sdk={safe_repr(sdk)}: asynchronous clients cannot wait in a queue of threads; use the synchronous one"
        )
    module = sdk if isinstance(sdk, ModuleType) else _module_of(sdk if isinstance(sdk, type) else type(sdk))
    for name in ("DefaultHttpxClient", "Client"):
        found = getattr(module, name, None)
        if isinstance(found, type) and hasattr(found, "send") and hasattr(found, "build_request"):
            return found
    raise ConfigurationError(f"sdk={safe_repr(sdk)}: pass the module groq or openai, or a client made by one of them")


def _module_of(cls: type[Any]) -> ModuleType | None:
    return sys.modules.get(cls.__module__.partition(".")[0])


def _queued(base: type[Any]) -> type[Any]:
    """Return a subclass of *base* whose requests wait for their turn."""

    class QueuedClient(base):  # type: ignore[misc]
        """The SDK's own HTTP client, sending when the queue says so."""

        def __init__(self, turns: RequestGate, **options: Any) -> None:
            super().__init__(**options)
            self._turns = turns
            self._warned_of_retries = False

        def send(self, request: Any, *, stream: bool = False, **how: Any) -> Any:
            payload = self._turns.payload_of(request.method, _body_of(request))
            if payload is None:
                return super().send(request, stream=stream, **how)
            self._warn_of_retries(request.headers)
            if stream:
                request.headers["accept-encoding"] = "identity"  # the usage is read as the body passes by
            send = super().send

            def attempt(hold: StreamSlot) -> Any:
                response = send(request, stream=stream, **how)
                if stream and response.status_code < 400:
                    handed = _handed_on(response, hold)
                    return OpenStream(handed, handed.status_code, handed.headers, handed.close)
                response.read()  # what goes wrong while it is read is retried as well
                return response

            response = self._turns.send(payload, request.url.path, attempt)
            if response.status_code >= 400:
                response.headers["x-should-retry"] = "false"  # both SDKs obey: the queue has done what can be done
            return response

        def _warn_of_retries(self, headers: Mapping[str, str]) -> None:
            count = headers.get("x-stainless-retry-count") or "0"
            if count != "0" and not self._warned_of_retries:
                self._warned_of_retries = True
                _log.warning(
                    "the SDK sends a request again after the queue gave it up, which multiplies the attempts: "
                    "make its client with max_retries=0",
                    extra=log_fields("session_retries"),
                )

    return QueuedClient


def _body_of(request: Any) -> bytes | None:
    """Return the body if it is in memory already; a file that is being uploaded must not be read."""
    try:
        content = request.content
    except Exception:  # RequestNotRead of httpx or httpx2
        return None
    return content if isinstance(content, bytes) else None


def _handed_on(response: Any, hold: StreamSlot) -> Any:
    """Return a twin of *response* for the reader, whose end tells *hold*.

    The response itself stays with its byte stream, which knows it: if the reader had it, no program could keep the one
    without keeping the other, and whether the reader is gone would never be known.
    """
    twin = object.__new__(type(response))
    twin.__dict__.update(response.__dict__)
    twin.stream = _held(response, weakref.ref(twin), hold)
    hold.owns(response.stream)
    weakref.finalize(twin, hold.forgotten).atexit = False
    return twin


def _held(response: Any, twin: Callable[[], Any], hold: StreamSlot) -> Any:
    """Return a byte stream that tells its hold what is read of that of *response*, and when it ends."""
    stream = response.stream
    base = next(cls for cls in type(stream).__mro__ if cls.__name__ == "SyncByteStream")

    class HeldStream(base):  # type: ignore[misc, valid-type]
        def __iter__(self) -> Iterator[bytes]:
            return hold.passing(stream)

        def close(self) -> None:
            try:
                stream.close()
                if (handed := twin()) is not None:
                    handed.elapsed = response.elapsed
            finally:
                hold.finish()

    return HeldStream()
