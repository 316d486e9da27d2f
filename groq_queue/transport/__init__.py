"""One attempt over the wire: bytes out, a status and bytes back.

Refuses to retry, wait, price, follow redirects or skip certificate checks.
Urllib3 by default; the user's own ``requests.Session`` when given, and only
then is requests imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from groq_queue.transport.address import resolve_base_url
from groq_queue.transport.base import MAX_CONNECTIONS, MAX_RESPONSE_BYTES
from groq_queue.transport.pooled import PooledTransport
from groq_queue.transport.protocol import CallLater, Reply, Transport
from groq_queue.transport.secret import Secret

if TYPE_CHECKING:
    import requests

__all__ = [
    "MAX_RESPONSE_BYTES",
    "CallLater",
    "PooledTransport",
    "Reply",
    "Secret",
    "Transport",
    "make_transport",
    "resolve_base_url",
]


def make_transport(
    *,
    base_url: str,
    key: Secret,
    session: requests.Session | None = None,
    max_connections: int = MAX_CONNECTIONS,
    max_response_bytes: int = MAX_RESPONSE_BYTES,
    alarm: CallLater | None = None,
    allow_http: bool = False,
) -> Transport:
    """Return the transport for an address.

    Args:
        base_url: Checked and completed by ``resolve_base_url``.
        key: The API key.
        session: A prepared session to send through, or None for connections of our own.
        max_connections: Idle connections kept; at least the number of threads that send. Unused with *session*.
        max_response_bytes: Larger answers are refused, counted after decompression.
        alarm: Calls back when an attempt has had its time; without one a header drip is not bounded.
        allow_http: See ``resolve_base_url``.

    Raises:
        ConfigurationError: The address, or the environment's proxy for it, cannot be used.
    """
    url = resolve_base_url(base_url, allow_http=allow_http)
    if session is None:
        return PooledTransport(
            url, key, max_connections=max_connections, max_response_bytes=max_response_bytes, alarm=alarm
        )
    from groq_queue.transport.session import SessionTransport

    return SessionTransport(session, url, key, max_response_bytes=max_response_bytes, alarm=alarm)
