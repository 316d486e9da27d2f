"""Durations, sizes and plurals in words, and tables: as plain text for terminals, as HTML for notebooks.

The one renderer of everything that can be seen.

A cell is text, a number or nothing. Numbers are aligned to the right, with thousands separated.
Text comes from users (names of models, of clients), so control characters are
escaped in plain text, and everything is in HTML. No colours and no scripts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

Cell = str | int | float | None

_GAP = 2
_NARROWEST = 12  # columns below which text is not wrapped further


class Table(NamedTuple):
    """Rows of cells.

    Attributes:
        title: The text above it, if not empty.
        head: Names of the columns; all empty for a table without a head.
        rows: As many cells each as *head* has names.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def as_text(tables: Iterable[Table], width: int = 80) -> str:
    """Return *tables* in lines of at most *width* columns, text wrapped where it must be; empty ones are left out.

    >>> print(as_text([Table("sent", ("model", "requests"), [("m", 1200), ("other", None)])]))
    sent
      model  requests
      m         1,200
      other
    """
    return "\n\n".join(_text_of(table, width) for table in tables if table.rows)


def as_html(tables: Iterable[Table]) -> str:
    """Return *tables* as HTML without scripts, everything escaped; empty ones are left out."""
    return "".join(_html_of(table) for table in tables if table.rows)


def shown(cell: Cell) -> str:
    """Return *cell* as text.

    >>> shown(6000), shown(0.12345), shown(None), shown("as it is")
    ('6,000', '0.123', '', 'as it is')
    """
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.3g}" if abs(cell) < 100 else f"{cell:,.0f}"


def duration_text(seconds: float | None) -> str:
    """Return *seconds* as a person says them.

    >>> duration_text(0.25), duration_text(90), duration_text(9_000), duration_text(57_600), duration_text(200_000)
    ('0.25 s', '90 s', '2 h 30 min', '16 h', '2 d 8 h')
    """
    if seconds is None:
        return ""
    if seconds < 0.1:
        return "0 s" if seconds < 1e-6 else f"{seconds * 1_000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    hours = round(seconds / 3_600)
    return f"{hours // 24:,} d" + (f" {hours % 24} h" if hours % 24 else "")


def clock_text(seconds: float) -> str:
    """Return *seconds* as a clock shows them.

    >>> clock_text(4.2), clock_text(250), clock_text(9000)
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


def _text_of(table: Table, width: int) -> str:
    is_number = [_holds_numbers(column) for column in zip(*table.rows, strict=True)]
    lines = [table.head, *table.rows] if any(table.head) else list(table.rows)
    cells = [[_printable(shown(cell)) for cell in line] for line in lines]
    indent = "  " if table.title else ""
    widths = _fitted(
        [max(map(_columns, column)) for column in zip(*cells, strict=True)], is_number, width - len(indent)
    )
    text_lines = [f"{table.title}"] if table.title else []
    for line in cells:
        wrapped = [_wrapped(cell, each) for cell, each in zip(line, widths, strict=True)]
        for depth in range(max(map(len, wrapped))):
            parts = [part[depth] if depth < len(part) else "" for part in wrapped]
            padded = [_padded(*each) for each in zip(parts, widths, is_number, strict=True)]
            text_lines.append((indent + (" " * _GAP).join(padded)).rstrip())
    return "\n".join(text_lines)


def _holds_numbers(column: Sequence[Cell]) -> bool:
    return all(cell is None or isinstance(cell, (int, float)) for cell in column)


def _fitted(widths: list[int], is_number: list[bool], width: int) -> list[int]:
    """Narrow the widest text until all columns fit into *width*, or nothing can be narrowed any more."""
    excess = sum(widths) + _GAP * (len(widths) - 1) - width
    while excess > 0:
        texts = [n for n, number in enumerate(is_number) if not number and widths[n] > _NARROWEST]
        if not texts:
            break
        widest = max(texts, key=lambda n: widths[n])
        others = [widths[n] for n in texts if n != widest]
        step = min(excess, max(1, widths[widest] - max([*others, _NARROWEST])))
        widths[widest] -= step
        excess -= step
    return widths


def _wrapped(text: str, width: int) -> list[str]:
    if _columns(text) <= width:
        return [text]
    import textwrap

    return textwrap.wrap(text, max(1, width // 2 if not text.isascii() else width)) or [""]


def _padded(text: str, width: int, is_number: bool) -> str:
    space = " " * (width - _columns(text))
    return space + text if is_number else text + space


def _columns(text: str) -> int:
    """Return the columns *text* takes on a terminal: East Asian wide characters take two."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _html_of(table: Table) -> str:
    caption = f"<caption>{_escaped(table.title)}</caption>" if table.title else ""
    head = "".join(f"<th>{_escaped(name)}</th>" for name in table.head)
    head = f"<thead><tr>{head}</tr></thead>" if any(table.head) else ""
    lines = "".join("<tr>" + "".join(map(_html_cell, row)) + "</tr>" for row in table.rows)
    return f"<table>{caption}{head}<tbody>{lines}</tbody></table>"


def _html_cell(cell: Cell) -> str:
    side = "left" if isinstance(cell, str) else "right"
    return f'<td style="text-align:{side}">{_escaped(shown(cell))}</td>'


def _escaped(text: str) -> str:
    import html

    return html.escape(_printable(text))
