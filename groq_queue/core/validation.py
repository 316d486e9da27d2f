"""Arguments, checked where they come in: the error names the field, the value and the cure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from groq_queue.clock import NS_PER_S
from groq_queue.core.limits import Limits, limits_named
from groq_queue.core.token_estimate import MOST_UNITS
from groq_queue.errors import ConfigurationError, safe_repr

_MAX_TEXT = 512
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_PATH = re.compile(r"[A-Za-z0-9._~/-]+")


def check_count(field: str, value: Any, *, least: int = 1, optional: bool = False) -> Any:
    """Return *value* if it is a whole number >= *least* (or None, if *optional*).

    Raises:
        ConfigurationError: It is not, or is beyond ``MOST_UNITS``.
    """
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST_UNITS:
        most = f" and <= {MOST_UNITS:,}" if isinstance(value, int) and value > MOST_UNITS else ""
        raise ConfigurationError(f"{field}={safe_repr(value)}: use a whole number >= {least}{most}{_or_none(optional)}")
    return value


def check_seconds(field: str, value: Any, *, optional: bool = True) -> Any:
    """Return *value* if it is a number of seconds > 0 (or None, if *optional*).

    Raises:
        ConfigurationError: It is not, or is beyond a year.
    """
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 31_622_400:
        raise ConfigurationError(f"{field}={safe_repr(value)}: use a number of seconds > 0{_or_none(optional)}")
    return value


def check_wait(field: str, value: Any) -> Any:
    """Return *value* if it is a number of seconds >= 0 or None.

    Raises:
        ConfigurationError: It is not, or is beyond a year.
    """
    is_zero = not isinstance(value, bool) and isinstance(value, (int, float)) and value == 0
    return value if is_zero else check_seconds(field, value)


def check_nanoseconds(field: str, value: Any) -> int | None:
    """Return a number of seconds > 0 in nanoseconds, or None for None.

    Raises:
        ConfigurationError: It is not, or is beyond a year.
    """
    return None if value is None else max(1, round(check_seconds(field, value) * NS_PER_S))


def check_order(not_before: float | None, max_wait: float | None, deadline: float | None) -> None:
    """Refuse a wait of which it is known already that it ends the request.

    Raises:
        ConfigurationError: *not_before* is no sooner than one of the others.
    """
    for field, end in (("max_wait", max_wait), ("deadline", deadline)):
        if not_before is not None and end is not None and not_before >= end:
            raise ConfigurationError(
                f"not_before={not_before!r}: {field}={end!r} would be over by then; make it longer"
            )


def check_dollars(field: str, value: Any) -> Any:
    """Return *value* if it is None or an amount > 0.

    Raises:
        ConfigurationError: It is not.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise ConfigurationError(f"{field}={safe_repr(value)}: use an amount in USD > 0, or None")
    return value


def check_share(field: str, value: Any) -> Any:
    """Return *value* if it is a number from 0 up to, but not, 1.

    Raises:
        ConfigurationError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ConfigurationError(f"{field}={safe_repr(value)}: use a number from 0 to below 1")
    return value


def check_text(field: str, value: Any, *, optional: bool = False) -> Any:
    """Return *value* if it is a str of 1 to 512 characters (or None, if *optional*).

    Raises:
        ConfigurationError: It is not.
    """
    if value is None and optional:
        return None
    if not isinstance(value, str) or not value.strip() or len(value) > _MAX_TEXT:
        raise ConfigurationError(
            f"{field}={safe_repr(value)}: use a str of 1 to {_MAX_TEXT} characters{_or_none(optional)}"
        )
    if not value.isascii() and _HALF_A_PAIR.search(value):
        raise ConfigurationError(f"{field}={safe_repr(value)}: holds half of a surrogate pair, which no file can hold")
    return value


def check_path(field: str, value: Any) -> str:
    """Return *value* without outer slashes if it is a plain path below the base URL.

    Raises:
        ConfigurationError: It is not, or leads elsewhere.
    """
    path = check_text(field, value).strip("/")
    if not _PATH.fullmatch(path) or ".." in path or "//" in path:
        raise ConfigurationError(
            f"{field}={safe_repr(value)}: use a path below the base URL, such as 'chat/completions'"
        )
    return str(path)


def check_choice(field: str, value: Any, choices: Collection[str]) -> Any:
    """Return *value* if it is one of *choices*.

    Raises:
        ConfigurationError: It is not.
    """
    if not isinstance(value, str) or value not in choices:
        raise ConfigurationError(f"{field}={safe_repr(value)}: use one of {', '.join(sorted(choices))}")
    return value


def check_flag(field: str, value: Any) -> bool:
    """Return *value* if it is True or False.

    Raises:
        ConfigurationError: It is not.
    """
    if not isinstance(value, bool):
        raise ConfigurationError(f"{field}={safe_repr(value)}: use True or False")
    return value


def check_timeout(value: Any) -> tuple[float, float]:
    """Return ``(connect, read)`` seconds from a number or a pair, requests' meaning.

    Raises:
        ConfigurationError: It is neither.
    """
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return check_seconds("timeout", value[0], optional=False), check_seconds("timeout", value[1], optional=False)
    return (seconds := check_seconds("timeout", value, optional=False)), seconds


def check_limits(limits: Any) -> Limits | dict[str, Limits] | None:
    """Return *limits* if they are ``Limits``, ``{model: Limits}`` or None.

    Raises:
        ConfigurationError: They are not.
    """
    if limits is None or isinstance(limits, Limits):
        return limits
    if not isinstance(limits, Mapping):
        raise ConfigurationError(f"limits={safe_repr(limits)}: use Limits(...), a dict of them by model, or None")
    for model, each in limits.items():
        if not isinstance(each, Limits) and (names := limits_named(limits)):
            raise ConfigurationError(
                f"limits={safe_repr(limits)}: write limits=Limits({names}), or a dict of them by model"
            )
        check_text(f"limits[{safe_repr(model, 50)}]", model)
        if not isinstance(each, Limits):
            names = limits_named(each)
            cure = f", as in {{{safe_repr(model, 50)}: Limits({names})}}" if names else ""
            raise ConfigurationError(
                f"limits[{safe_repr(model, 50)}]={safe_repr(each)}: use model names and Limits(...){cure}"
            )
    return dict(limits)


def _or_none(optional: bool) -> str:
    return ", or None" if optional else ""
