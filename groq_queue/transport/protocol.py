"""What the engine may expect of anything that carries one attempt over the wire.

One attempt is one exchange: bytes out, a status and bytes back. Retrying,
waiting and pricing are not its business. Every transport raises only
``APITimeoutError`` and ``APIConnectionError``; an error status is a ``Reply``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Reply:
    """An HTTP answer, read to its end.

    Attributes:
        status: 100..599.
        headers: Names in lower case; of a repeated header the last one.
        body: Decompressed bytes, at most the transport's cap.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(Protocol):
    """Sends single attempts; safe to use from many threads at once."""

    def send(self, endpoint: str, body: bytes, *, timeout: tuple[float, float]) -> Reply:
        """POST *body* to *endpoint* once and read the answer.

        Args:
            endpoint: Path below the base URL, such as ``"chat/completions"``.
            body: JSON, encoded.
            timeout: Seconds to connect, and seconds the server may stay silent
                between two reads (the meaning of requests' ``timeout``). The
                whole attempt takes no longer than their sum unless the answer
                grows, and then at most ten times the silence.

        Raises:
            APITimeoutError: One of the three bounds passed; ``sent`` tells whether
                the server may have got the request.
            APIConnectionError: Refused, reset, cut short, or (``is_final``) larger than the
                cap, in an unknown encoding, refused by a proxy, or a certificate that
                does not verify. ``is_stale``: a kept connection ended as it was used.
        """
        ...

    def close(self) -> None:
        """Close every pooled connection; attempts under way still end."""
        ...


class CallLater(Protocol):
    """Calls back once when a time has passed, on a thread that is not the caller's."""

    def __call__(self, seconds: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Arrange one call of *callback* and return a function that calls it off."""
        ...
