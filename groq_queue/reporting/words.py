"""Numbers as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return *seconds* as a clock shows them.

    >>> duration(4.2), duration(250), duration(9000)
    ('0:04', '4:10', '2:30:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plural(count: int, noun: str) -> str:
    """Return *count* and its *noun*.

    >>> plural(1, "line"), plural(1_319, "line")
    ('1 line', '1,319 lines')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def file_size(count: int) -> str:
    """Return *count* bytes, in the largest unit of which there is a whole one.

    >>> file_size(0), file_size(4096), file_size(12_300_000)
    ('0 bytes', '4.1 kB', '12.3 MB')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return plural(count, "byte")
