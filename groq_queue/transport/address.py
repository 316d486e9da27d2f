"""Which base URLs are safe to send a key and a prompt to."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from groq_queue.errors import ConfigurationError, excerpt

API_PATH = "/openai/v1"  # https://console.groq.com/docs/api-reference, read 2026-11
PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[\w-]{1,63}(\.[\w-]{1,63})*\.?", re.ASCII)  # another could not be looked up


def resolve_base_url(url: str, *, allow_http: bool = False) -> str:
    """Return *url* without trailing slash, completed by ``/openai/v1`` if it has no path.

    ``GROQ_BASE_URL=https://api.groq.com`` therefore works here as it does in the SDK.

    Args:
        url: ``https://…``, or ``http://…`` of this machine (loopback).
        allow_http: Accept ``http`` to other machines: key and prompts travel in clear.

    Raises:
        ConfigurationError: The address is malformed, or would send the key in clear.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"base_url must be a str, got {type(url).__name__}")
    # Before parsing: urlsplit drops tabs and line breaks silently.
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise ConfigurationError(
            f"base_url {_shown(url)} contains white space, a backslash or a character outside ASCII: "
            "write it like https://api.groq.com/openai/v1"
        )
    parts, port = _split(url)
    if parts.scheme not in PORTS:
        raise _refused(url, f"must start with https:// (or http:// for a server on this machine){_meant(url)}")
    if not parts.hostname:
        raise _refused(url, "names no host: write it like https://api.groq.com/openai/v1")
    if port == 0 or (":" not in parts.hostname and not _HOST.fullmatch(parts.hostname)):
        raise _refused(url, "has a malformed host or port: write it like https://api.groq.com/openai/v1")
    if "@" in parts.netloc:
        raise _refused(url, "carries a user name or password: pass the key as api_key")
    if "?" in url or "#" in url:
        raise _refused(url, "has a query or fragment: leave out everything from '?' or '#' on")
    if parts.scheme == "http" and not allow_http and not is_loopback(parts.hostname):
        raise _refused(url, "would send the key in clear: use https:// (a program may pass allow_http=True)")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authority = host if port is None else f"{host}:{port}"
    return f"{parts.scheme}://{authority}{parts.path.rstrip('/') or API_PATH}"


def is_loopback(host: str) -> bool:
    """Is *host* this machine by definition: localhost, 127.0.0.0/8 or ::1?"""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def port_of(parts: SplitResult) -> int:
    """Return the port of an address, the scheme's own if it names none."""
    return parts.port or PORTS[parts.scheme]


def _split(url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        return parts, parts.port
    except ValueError:
        pass
    raise _refused(url, "has a malformed host or port: write it like https://api.groq.com/openai/v1")


def _meant(url: str) -> str:
    """Return how *url* is written with the scheme that it lacks, or nothing if it has one or could not have any."""
    if "://" in url or "@" in url:
        return ""
    parts, _ = _split(f"//{url}")
    host = parts.hostname or ""
    is_host = ":" in host or _HOST.fullmatch(host)
    scheme = "http" if is_loopback(host) else "https"
    return f": write {excerpt(f'{scheme}://{url}')}" if is_host else ""


def _refused(url: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"base_url {_shown(url)} {why}")


def _shown(url: str) -> str:
    """Return what may be printed of *url*: neither credentials nor a query."""
    start, slashes, rest = url.partition("://")
    bare = rest.partition("?")[0].partition("#")[0] if slashes else ""
    authority, slash, path = bare.partition("/")
    return repr(excerpt(start.rpartition("@")[2] + slashes + authority.rpartition("@")[2] + slash + path))
