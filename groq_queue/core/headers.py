"""What the server says about its limits, read: durations, headers, refusals.

Everything here takes foreign text and returns a value or None; nothing raises,
because a limit that cannot be read must never cost a request.

Source: captured headers and refusals, 2024-04 to 2026-10; names and meanings from
https://console.groq.com/docs/rate-limits, read 2026-11. The two daily traps:
``x-ratelimit-*-requests`` counts requests per *day*, and ``reset`` is the time
until the bucket is *full*, not until one may send again.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from datetime import timezone
from typing import NamedTuple

_NS_BY_UNIT = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # micro sign
    "\u03bcs": 1_000,  # Greek mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
LONGEST_WAIT_NS = 366 * _NS_BY_UNIT["d"]
"""What is longer is a mistake, or means never; it is read as this, and not as no wait at all."""

_PART = re.compile(r"([0-9]+)(?:\.([0-9]+))?(ns|us|\u00b5s|\u03bcs|ms|s|m|h|d)\s*", re.ASCII)
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)
_DIGITS_READ = 18  # of a whole part no more make sense, and of a fraction no more matter
_COUNT = re.compile(r"[0-9]{1,15}", re.ASCII)


class RateHeader(NamedTuple):
    """One limit as the headers of an answer give it."""

    dimension: str
    limit: int
    remaining: int
    reset_ns: int | None = None  # until the bucket is full again


class Refusal(NamedTuple):
    """A refusal's own numbers; None where the message had none.

    Attributes:
        is_too_large: It never fits; otherwise it fits after *wait_ns*.
        dimension: ``"TPM"`` and so on, ``""`` if the message left it blank.
    """

    is_too_large: bool
    dimension: str
    limit: int | None
    used: int | None
    requested: int | None
    wait_ns: int | None


def parse_duration(text: str) -> int | None:
    """Read a duration such as ``2m59.56s``, ``432ms``, ``240µs`` or ``6m 11.52s``.

    Returns:
        Nanoseconds, rounded up, at most ``LONGEST_WAIT_NS``, or None if *text* is
        anything else. A bare number has no unit and is None.

    >>> parse_duration("1h23m45.6s")
    5025600000000
    """
    text = text.strip().replace("\u00c2\u00b5", "\u00b5")  # UTF-8 that a client read as Latin-1
    total, position = 0, 0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            return None
        whole, fraction, unit = part.groups()
        scale = _NS_BY_UNIT[unit]
        whole = whole.lstrip("0")
        total += LONGEST_WAIT_NS if len(whole) > _DIGITS_READ else int(whole or "0") * scale
        if fraction:
            digits = fraction[:_DIGITS_READ]
            total += -(-int(digits) * scale // 10 ** len(digits))
        position = part.end()
    return min(total, LONGEST_WAIT_NS) if position else None


def parse_retry_after(value: str | None, wall_s: float, date: str | None = None) -> int | None:
    """Read a ``retry-after`` header: seconds, an HTTP date, or a duration.

    Args:
        value: The header, or None.
        wall_s: Present time in seconds of the Unix epoch.
        date: The answer's ``date`` header. A date in *value* is read by the clock that wrote it, which is this one,
            and by *wall_s* only if there is none.

    Returns:
        Nanoseconds from 0 (a past date) to ``LONGEST_WAIT_NS``, or None: absent, negative, not a number.
    """
    if value is None:
        return None
    value = value.strip()
    if _NUMBER.fullmatch(value):
        return parse_duration(value + "s")
    duration = parse_duration(value) if len(value) < 64 else None
    if duration is not None:
        return duration
    until_s = _parse_date(value)
    if until_s is None:
        return None
    written_s = None if date is None else _parse_date(date)
    seconds = until_s - (wall_s if written_s is None else written_s)
    return round(min(max(0.0, seconds * 1e9), LONGEST_WAIT_NS))  # clipped first: the wall may be at any distance


def _parse_date(text: str) -> float | None:
    """Return an HTTP date in seconds of the Unix epoch, or None if *text* is none."""
    try:
        moment = email.utils.parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        return moment.timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


_RATE_HEADERS = tuple(
    (dimension, f"x-ratelimit-limit-{name}", f"x-ratelimit-remaining-{name}", f"x-ratelimit-reset-{name}")
    for name, dimension in (("requests", "RPD"), ("tokens", "TPM"), ("audio-seconds", "ASPH"))
)


def parse_rate_headers(headers: Mapping[str, str]) -> list[RateHeader]:
    """Read the ``x-ratelimit-*`` headers of an answer; those that make no sense are left out.

    Args:
        headers: Names in lower case.
    """
    found = []
    for dimension, limit_name, remaining_name, reset_name in _RATE_HEADERS:
        if limit_name not in headers:
            continue
        limit = _count(headers[limit_name])
        remaining = _count(headers.get(remaining_name)) if limit else None
        if limit and remaining is not None and remaining <= limit:
            reset_ns = parse_duration(headers.get(reset_name, ""))
            found.append(RateHeader(dimension, limit, remaining, reset_ns))
    return found


def _count(text: str | None) -> int | None:
    if text is None:
        return None
    text = text.strip()
    return int(text) if _COUNT.fullmatch(text) else None


_REACHED = re.compile(r"rate limit reached", re.IGNORECASE)
_TOO_LARGE = re.compile(r"request too large|request entity too large", re.IGNORECASE)
_DIMENSION = re.compile(r"\((RPM|RPD|TPM|TPD|ITPM|OTPM|ASPH|ASPD)\)")
_FIGURE = {
    name: re.compile(rf"\b{name} ~?([0-9]{{1,15}})(?![0-9]|,[0-9])", re.ASCII)
    for name in ("Limit", "Used", "Requested")
}
_TRY_AGAIN = re.compile(
    r"try again in ((?:[0-9]+(?:\.[0-9]+)?(?:ns|us|\u00c2?\u00b5s|\u03bcs|ms|s|m|h) ?)+)", re.IGNORECASE
)


def parse_refusal(message: str) -> Refusal | None:
    """Read a limiter's refusal by its sentence.

    The error's ``type`` and ``code`` are the same for all refusals, and the tail
    of a per-minute one mentions "billing" and "today"; only the first words, the
    dimension in brackets and the figures tell them apart.

    Args:
        message: ``error.message`` of the body.

    Returns:
        The refusal, or None if the sentence is not one.
    """
    message = message[:2_000]
    is_too_large = _TOO_LARGE.search(message) is not None
    if not is_too_large and not _REACHED.search(message):
        return None
    dimension = _DIMENSION.search(message)
    figures = {name: pattern.search(message) for name, pattern in _FIGURE.items()}
    limit, used, requested = (int(found.group(1)) if found else None for found in figures.values())
    again = None if is_too_large else _TRY_AGAIN.search(message)
    wait_ns = parse_duration(again.group(1)) if again else None
    if not is_too_large and wait_ns is None and None not in (limit, requested) and requested > limit:  # type: ignore[operator]
        is_too_large = True
    return Refusal(is_too_large, dimension.group(1) if dimension else "", limit, used, requested, wait_ns)
