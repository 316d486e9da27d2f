"""Published limits, by the names that the server uses in its refusals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from groq_queue.errors import ConfigurationError, refusing_unknown, safe_repr

DIMENSIONS: dict[str, str] = {
    "RPM": "requests per minute",
    "RPD": "requests per day",
    "TPM": "tokens per minute",
    "TPD": "tokens per day",
    "ITPM": "input tokens per minute",
    "OTPM": "output tokens per minute",
    "ASPH": "seconds of audio per hour",
    "ASPD": "seconds of audio per day",
}

_LIMIT_FIELDS = {
    "rpm": "RPM",
    "rpd": "RPD",
    "tpm": "TPM",
    "tpd": "TPD",
    "itpm": "ITPM",
    "otpm": "OTPM",
    "audio_hour": "ASPH",
    "audio_day": "ASPD",
}


_LARGEST = 10**15 - 1  # what a header can tell; with more a unit would drain in less than a nanosecond


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Published limits of one model; None means unlimited.

    Args:
        rpm: Requests per minute.
        rpd: Requests per day.
        tpm: Tokens per minute, prompt and completion together.
        tpd: Tokens per day.
        itpm: Prompt tokens per minute.
        otpm: Completion tokens per minute.
        audio_hour: Seconds of audio per hour.
        audio_day: Seconds of audio per day.
        minute_s: Seconds of a "minute"; another value is for simulators and tests.
        hour_s: Seconds of an "hour".
        day_s: Seconds of a "day".

    Raises:
        ConfigurationError: A limit is not a whole number >= 1, or a period not > 0, or there is no such limit.

    >>> Limits(rpm=30, tpm=6_000).rpm
    30
    """

    rpm: int | None = None
    rpd: int | None = None
    tpm: int | None = None
    tpd: int | None = None
    itpm: int | None = None
    otpm: int | None = None
    audio_hour: int | None = None
    audio_day: int | None = None
    minute_s: float = 60
    hour_s: float = 3_600
    day_s: float = 86_400

    def __post_init__(self) -> None:
        for field in _LIMIT_FIELDS:
            limit = getattr(self, field)
            if limit is None:
                continue
            if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _LARGEST:
                raise ConfigurationError(
                    f"{field}={safe_repr(limit, 50)}: a limit is a whole number >= 1, or None for unlimited"
                )
        for field in ("minute_s", "hour_s", "day_s"):
            period = getattr(self, field)
            if isinstance(period, bool) or not isinstance(period, (int, float)) or not 1e-3 <= period <= 1e9:
                raise ConfigurationError(f"{field}={safe_repr(period, 50)}: a period is a number of seconds > 0")

    def by_dimension(self) -> dict[str, int]:
        """Return the limits that are set as ``{"TPM": 6000, ...}``."""
        pairs = ((name, getattr(self, field)) for field, name in _LIMIT_FIELDS.items())
        return {name: limit for name, limit in pairs if limit is not None}

    def period_s(self, dimension: str) -> float:
        """Return the seconds in which *dimension*'s bucket drains from full."""
        if dimension == "ASPH":
            return self.hour_s
        return self.day_s if dimension in DAILY else self.minute_s


Limits.__init__ = refusing_unknown(Limits.__init__)  # type: ignore[method-assign]


def limits_named(table: object) -> str:
    """Return what a plain dict of limits is as arguments of ``Limits``, misspelt names put right; "" if it is none.

    >>> limits_named({"rpm": 30, "tmp": 6000})
    'rpm=30, tpm=6000'
    """
    named: list[str] = []
    for name, limit in table.items() if isinstance(table, Mapping) else ():
        known = _nearest_field(name)
        if known is None:
            return ""
        named.append(f"{known}={safe_repr(limit, 50)}")
    return ", ".join(named)


def _nearest_field(name: object) -> str | None:
    """Return the argument of ``Limits`` that *name* is, in whatever case, or may have been meant to be."""
    import difflib  # not at the top: most programs never need it

    near = (
        difflib.get_close_matches(str(name).lower(), Limits.__dataclass_fields__, n=1) if isinstance(name, str) else ()
    )
    return near[0] if near else None


def tightest(limits: Iterable[Limits]) -> Limits | None:
    """Return the smallest of each limit, or None if there are none.

    Raises:
        ConfigurationError: They count in different periods.
    """
    every = list(limits)
    if not every:
        return None
    periods = {(each.minute_s, each.hour_s, each.day_s) for each in every}
    if len(periods) > 1:
        raise ConfigurationError(f"limits: open queues of one account count in different periods: {sorted(periods)}")
    smallest: dict[str, int] = {}
    for field in _LIMIT_FIELDS:
        values = [value for each in every if (value := getattr(each, field)) is not None]
        if values:
            smallest[field] = min(values)
    minute_s, hour_s, day_s = periods.pop()
    return Limits(minute_s=minute_s, hour_s=hour_s, day_s=day_s, **smallest)


DAILY = frozenset({"RPD", "TPD", "ASPD"})
