"""The usage in a body that is read by somebody else: one JSON object, or server-sent events passing by.

Groq puts it into the last chunk's ``x_groq``, OpenAI into a chunk of its own if
``stream_options.include_usage`` was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groq_queue.core.response import decode_object, usage_of

_MAX_LINE = 1024 * 1024  # bytes kept of what may turn out to hold the usage
_MARK = b'"prompt_tokens"'


class UsageReader:
    """Looks at the pieces of a body, uncompressed, and keeps only the line that tells the usage."""

    def __init__(self) -> None:
        self._line = b""  # the one still incomplete
        self._told = b""  # the last complete one that tells usage

    def feed(self, piece: bytes) -> None:
        """Take the next piece, of any size."""
        *lines, self._line = (self._line + piece).split(b"\n")
        for line in lines:
            if _MARK in line:
                self._told = line
        if len(self._line) > _MAX_LINE:
            self._line = b""

    def usage(self) -> Mapping[str, Any] | None:
        """Return the usage object seen so far, or None."""
        return next((found for line in (self._line, self._told) if (found := _usage_in(line)) is not None), None)


def usage_in_body(body: bytes) -> Mapping[str, Any] | None:
    """Return the usage object of a complete body, or None if it tells none."""
    found = _usage_in(body)
    if found is None:
        reader = UsageReader()
        reader.feed(body)
        found = reader.usage()
    return found


def _usage_in(text: bytes) -> Mapping[str, Any] | None:
    """Return the usage object of one JSON text, ``data:`` before it or not."""
    text = text.strip().removeprefix(b"data:").lstrip()
    if _MARK not in text or not text.startswith(b"{"):
        return None
    try:
        answer = decode_object(text)
    except ValueError:
        return None
    for holder in (answer, answer.get("x_groq")):
        if isinstance(holder, Mapping) and usage_of(holder) is not None:
            usage: Mapping[str, Any] = holder["usage"]
            return usage
    return None
