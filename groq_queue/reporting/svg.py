"""A small writer of SVG: shapes and text on an explicit background, so that it reads in light and dark pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

INK = "#1f2328"
FAINT = "#d0d7de"
PAPER = "#ffffff"


class Canvas:
    """Shapes, in pixels from the upper left corner."""

    def __init__(self, width: int, height: int, title: str, *, paper: str = PAPER) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" font-family="Helvetica,Arial,sans-serif" font-size="12">',
            f"<title>{_escaped(title)}</title>",
            f'<rect width="{width}" height="{height}" rx="8" fill="{paper}"/>',
        ]

    def bars(self, boxes: Iterable[tuple[float, float, float, float]], fill: str) -> None:
        """Fill rectangles of ``(x, y, width, height)``; those without an area are left out."""
        path = "".join(
            f"M{_number(x)} {_number(y)}h{_number(width)}v{_number(height)}h-{_number(width)}z"
            for x, y, width, height in boxes
            if width > 0 and height > 0
        )
        if path:
            self._parts.append(f'<path d="{path}" fill="{fill}"/>')

    def line(self, points: Sequence[tuple[float, float]], stroke: str, *, width: float = 1, dashes: str = "") -> None:
        """Draw a line through *points*."""
        told = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self._parts.append(f'<polyline points="{told}" fill="none" stroke="{stroke}" stroke-width="{width}"{dashed}/>')

    def dot(self, x: float, y: float, radius: float, fill: str) -> None:
        """Draw a filled circle."""
        self._parts.append(f'<circle cx="{_number(x)}" cy="{_number(y)}" r="{_number(radius)}" fill="{fill}"/>')

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "start",
        size: int = 12,
        fill: str = INK,
        bold: bool = False,
    ) -> None:
        """Write one line of text, its base line at *y*."""
        weight = ' font-weight="bold"' if bold else ""
        self._parts.append(
            f'<text x="{_number(x)}" y="{_number(y)}" text-anchor="{anchor}" font-size="{size}" '
            f'fill="{fill}"{weight}>{_escaped(text)}</text>'
        )

    def code(self, x: float, y: float, lines: Sequence[str], *, leading: float, size: int, fill: str) -> None:
        """Write *lines* in a fixed-width face, spaces kept."""
        spans = "".join(
            f'<tspan x="{_number(x)}" y="{_number(y + n * leading)}">{_escaped(line)}</tspan>'
            for n, line in enumerate(lines)
            if line
        )
        self._parts.append(
            f'<text xml:space="preserve" font-family="ui-monospace,Menlo,Consolas,monospace" font-size="{size}" '
            f'fill="{fill}">{spans}</text>'
        )

    def finish(self) -> str:
        """Return the whole document."""
        return "\n".join([*self._parts, "</svg>"]) + "\n"


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _escaped(text: str) -> str:
    """Escape markup, and whatever XML cannot hold."""
    import html

    kept = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return html.escape(kept, quote=False)
