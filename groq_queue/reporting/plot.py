"""Figures of runs: one run over time, two runs side by side, and what a terminal showed.

As SVG, which needs nothing, on an explicit background, so that it reads in light and dark
pages; one run also with matplotlib, the ``plots`` extra.
"""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from groq_queue.errors import MissingExtraError
from groq_queue.reporting.report import LimitUsage, ModelReport, Report

INK = "#1f2328"
FAINT = "#d0d7de"
PAPER = "#ffffff"
ANSWERS = "#1f78b4"
REFUSALS = "#d7301f"
LIMIT = "#6e7781"
_LINES = ("#1f78b4", "#e6820e", "#33a02c", "#6a3d9a")
_WIDTH = 760
_LEFT, _RIGHT = 76, 20
_MOST_BARS = 120
_POINTS = 240  # of a curve: more would make the file larger, and the picture no finer
_PANEL, _UPPER, _GAP, _LOWER = 270, 140, 14, 44  # heights: of a panel, of its answers, between, of its refusals
_COUNTED = {"RPM": (0, 2), "RPD": (0, 2), "TPM": (3, None), "TPD": (3, None)}  # columns of a bin: added, taken off


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
        path = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self._parts.append(f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="{width}"{dashed}/>')

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
        upwards: bool = False,
    ) -> None:
        """Write one line of text, its base line at *y*, or from there upwards, its base line at *x*."""
        weight = ' font-weight="bold"' if bold else ""
        turned = f' transform="rotate(-90 {_number(x)} {_number(y)})"' if upwards else ""
        self._parts.append(
            f'<text x="{_number(x)}" y="{_number(y)}" text-anchor="{anchor}" font-size="{size}" '
            f'fill="{fill}"{weight}{turned}>{_escaped(text)}</text>'
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


class Frame(NamedTuple):
    """Position and size of a panel, and the seconds it spans."""

    top: float
    height: float
    seconds: float

    def x(self, second: float) -> float:
        """Return where *second* is."""
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * second / self.seconds

    def y(self, share: float) -> float:
        """Return where *share* of the height is, from the bottom up."""
        return self.top + self.height * (1 - share)


class Series(NamedTuple):
    """One way of sending, for ``comparison_svg``.

    Attributes:
        title: The text above its panel.
        answers: Seconds at which a request was admitted.
        refusals: Seconds at which one was refused.
    """

    title: str
    answers: Sequence[float]
    refusals: Sequence[float]


def report_svg(report: Report) -> str:
    """Draw answers and 429s over time, and the used share of the limits."""
    canvas = Canvas(_WIDTH, 430, "answers, refusals and use of the limits over time")
    bin_s, answers, refusals = series_of(report)
    seconds = max(1e-9, len(answers) * bin_s)
    canvas.text(_LEFT, 26, "Answers and refusals (429)", size=14, bold=True)
    _legend(canvas, 26)
    _bars(canvas, Frame(40, 150, seconds), bin_s, answers, refusals)
    frame = Frame(260, 120, seconds)
    canvas.text(_LEFT, 246, "Used share of what the binding limit has allowed so far", size=14, bold=True)
    _shares(canvas, frame, report)
    _seconds(canvas, frame)
    return canvas.finish()


def plot(report: Report) -> Any:
    """Return the figure of ``report_svg`` as a ``matplotlib.figure.Figure``; see ``Report.plot``."""
    try:
        figures = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingExtraError.needed("report.plot()", "plots", "use report.to_svg(), which needs nothing") from error
    figure = figures.Figure(figsize=(9, 6), layout="constrained")  # no pyplot: it would keep the figure for ever
    sent, used = figure.subplots(2, 1, sharex=True)
    bin_s, answers, refusals = series_of(report)
    places = [place * bin_s for place in range(len(answers))]
    sent.bar(places, answers, bin_s * 0.9, align="edge", color=ANSWERS, label="answers")
    sent.bar(places, [-count for count in refusals], bin_s * 0.9, align="edge", color=REFUSALS, label="refused (429)")
    sent.set_ylabel(f"per {bin_s:g} s")
    sent.legend()
    for model in report.models:
        use = model.binding
        points = [] if use is None else share_of(model, use, report.bin_s)
        if use is not None and points:
            seconds, shares = zip(*points, strict=True)
            used.plot(seconds, [100 * share for share in shares], label=f"{model.name}: {use.limit:,} {use.dimension}")
            used.legend()
    used.set_ylim(0, 105)
    used.set_ylabel("% of the limit used so far")
    used.set_xlabel("seconds")
    figure._repr_png_ = lambda: _png_of(figure)  # notebooks show figures of pyplot by themselves, and only these
    return figure


def comparison_svg(title: str, runs: Sequence[Series], bin_s: float, *, limit: int, period_s: float) -> str:
    """Draw several runs of one load below each other, on the same axes.

    Above, what was answered so far beside what the limit allows; below, refusals.

    Args:
        title: The text above all panels.
        runs: The runs, from top to bottom.
        bin_s: Seconds of a bar of refusals.
        limit: Requests a period: as many at once, then as many again in each period.
        period_s: Seconds of a period.
    """
    canvas = Canvas(_WIDTH, 74 + _PANEL * len(runs), title)
    canvas.text(_LEFT, 28, title, size=15, bold=True)
    _legend(canvas, 52, limit=True)
    seconds = max((max([*run.answers, *run.refusals], default=0.0) for run in runs), default=0.0) or bin_s
    most = max((len(run.answers) for run in runs), default=0) or 1
    refused = [_binned(run.refusals, bin_s, int(seconds / bin_s) + 1) for run in runs]
    most_refused = max((max(bins) for bins in refused), default=0) or 1
    for place, (run, bins) in enumerate(zip(runs, refused, strict=True)):
        upper = Frame(102 + _PANEL * place, _UPPER, seconds)
        lower = Frame(upper.top + _UPPER + _GAP, _LOWER, seconds)
        canvas.text(_LEFT, upper.top - 12, run.title, size=13, bold=True)
        _axis(canvas, upper, most, "answered so far")
        curve = [(upper.x(second), upper.y(count / most)) for second, count in _so_far(run.answers, seconds)]
        canvas.line(curve, ANSWERS, width=2)
        _allowed(canvas, upper, most, limit, period_s)
        _axis(canvas, lower, most_refused, f"429s per {bin_s:g} s")
        _refused(canvas, lower, bin_s, bins, most_refused)
        _seconds(canvas, lower, unit="")
        canvas.text(lower.x(seconds / 2), lower.top + _LOWER + 32, "seconds", anchor="middle", size=11)
    return canvas.finish()


def terminal_svg(command: str, printed: str) -> str:
    """Draw what a terminal showed."""
    lines = [f"$ {command}", *printed.rstrip("\n").split("\n")]
    columns = max(map(len, lines))
    canvas = Canvas(round(48 + columns * 7.85), 66 + 18 * len(lines), command, paper="#0d1117")
    for place, colour in enumerate(("#ff5f56", "#ffbd2e", "#27c93f")):
        canvas.dot(24 + 20 * place, 22, 6, colour)
    canvas.code(24, 58, lines, leading=18, size=13, fill="#e6edf3")
    return canvas.finish()


def series_of(report: Report) -> tuple[float, list[int], list[int]]:
    """Return ``(seconds of a bin, answers, refusals)`` of all models together, in bins that are wide enough to see."""
    count = max((len(model.bins) for model in report.models), default=0)
    joined = max(1, -(-count // _MOST_BARS))
    answers, refusals = ([0] * max(1, -(-count // joined)) for _ in range(2))
    for model in report.models:
        for place, (_, answered, refused, _) in enumerate(model.bins):
            answers[place // joined] += answered
            refusals[place // joined] += refused
    return report.bin_s * joined, answers, refusals


def share_of(model: ModelReport, use: LimitUsage, bin_s: float) -> list[tuple[float, float]]:
    """Return ``(second, share of what the limit has allowed until then)`` at the end of each bin."""
    added, taken_off = _COUNTED.get(use.dimension, (None, None))
    if added is None:
        return []
    used, points = 0, []
    for place, each in enumerate(model.bins, start=1):
        used += each[added] - (0 if taken_off is None else each[taken_off])
        elapsed_s = place * bin_s - model.begin_s
        if elapsed_s > 0:
            points.append((place * bin_s, used / (use.limit * (1 + elapsed_s / use.period_s))))
    return points


def _binned(seconds: Sequence[float], bin_s: float, count: int) -> list[int]:
    bins = [0] * count
    for second in seconds:
        bins[min(count - 1, max(0, int(second / bin_s)))] += 1
    return bins


def _bars(canvas: Canvas, frame: Frame, bin_s: float, answers: Sequence[int], refusals: Sequence[int]) -> None:
    """Draw answers upwards and refusals downwards from one base line."""
    up, down = max(answers, default=0), max(refusals, default=0)
    scale = frame.height / max(1, up + down)
    base = frame.top + up * scale
    ticks = [(value, base - value * scale) for value in _ticks(up)]
    ticks += [(value, base + value * scale) for value in _ticks(down)[1:] if value * scale > 12]
    for value, y in ticks:
        canvas.line([(_LEFT, y), (_WIDTH - _RIGHT, y)], FAINT)
        canvas.text(_LEFT - 6, y + 4, f"{value:,}", anchor="end", size=11)
    width = frame.x(bin_s) - _LEFT
    thick = max(1.0, width - 1)
    canvas.bars(((_LEFT + n * width, base - v * scale, thick, v * scale) for n, v in enumerate(answers)), ANSWERS)
    canvas.bars(((_LEFT + n * width, base, thick, v * scale) for n, v in enumerate(refusals)), REFUSALS)
    canvas.line([(_LEFT, base), (_WIDTH - _RIGHT, base)], INK)


def _shares(canvas: Canvas, frame: Frame, report: Report) -> None:
    for percent in (0, 50, 100):
        y = frame.top + frame.height * (1 - percent / 100)
        canvas.line([(_LEFT, y), (_WIDTH - _RIGHT, y)], FAINT if percent else INK)
        canvas.text(_LEFT - 6, y + 4, f"{percent} %", anchor="end", size=11)
    lines = [(model, model.binding) for model in report.models[: len(_LINES)]]
    for place, (model, use) in enumerate(lines):
        points = [] if use is None else share_of(model, use, report.bin_s)
        if use is None or not points:
            continue
        colour = _LINES[place]
        path = [(frame.x(second), frame.top + frame.height * (1 - min(1.0, share))) for second, share in points]
        canvas.line(path, colour, width=2)
        label = f"{model.name}: {use.limit:,} {use.dimension}, {use.share:.1%} in the end"
        right, y = _WIDTH - _RIGHT - 8, frame.top + frame.height - 8 - 15 * place
        canvas.text(right, y, label, anchor="end", size=11, fill=colour)


def _seconds(canvas: Canvas, frame: Frame, unit: str = " s") -> None:
    for second in _ticks(frame.seconds):
        canvas.text(frame.x(second), frame.top + frame.height + 16, f"{second:,}{unit}", anchor="middle", size=11)


def _ticks(most: float, count: float = 5) -> list[int]:
    """Return about *count* round numbers from 0 to *most*."""
    if most < 1:
        return [0]
    rough = most / count
    power = 10 ** math.floor(math.log10(rough)) if rough >= 1 else 1
    step = next(round(power * factor) for factor in (1, 2, 5, 10) if power * factor >= rough)
    return list(range(0, int(most) + 1, step))


def _legend(canvas: Canvas, y: float, *, limit: bool = False) -> None:
    for place, (name, colour) in enumerate((("answers", ANSWERS), ("refused (429)", REFUSALS))):
        x = _WIDTH - _RIGHT - 190 + 84 * place
        canvas.bars([(x, y - 10, 10, 10)], colour)
        canvas.text(x + 15, y, name)
    if limit:
        x = _WIDTH - _RIGHT - 190 - 165
        canvas.line([(x, y - 5), (x + 18, y - 5)], LIMIT, width=2, dashes="5 3")
        canvas.text(x + 23, y, "what the limit allows")


def _axis(canvas: Canvas, frame: Frame, most: int, name: str) -> None:
    """Draw a scale from 0 to *most* and what it counts."""
    ticks = _ticks(most, max(2.5, frame.height / 28))
    for value in ticks:
        y = frame.y(value / most)
        canvas.line([(_LEFT, y), (_WIDTH - _RIGHT, y)], FAINT if value else INK)
        canvas.text(_LEFT - 6, y + 4, f"{value:,}", anchor="end", size=11)
    canvas.text(_LEFT - 52, frame.y(0.5), name, anchor="middle", size=11, upwards=True)


def _allowed(canvas: Canvas, frame: Frame, most: int, limit: int, period_s: float) -> None:
    """Draw how many requests the limit lets pass until each instant, up to *most*."""
    full_s = (most - limit) / limit * period_s  # the instant at which it has let all of them pass
    end_s = min(full_s, frame.seconds) if full_s > 0 else frame.seconds
    points = [(second, min(most, limit * (1 + second / period_s))) for second in (0.0, end_s)]
    canvas.line([(frame.x(second), frame.y(count / most)) for second, count in points], LIMIT, width=2, dashes="5 3")


def _refused(canvas: Canvas, frame: Frame, bin_s: float, bins: Sequence[int], most: int) -> None:
    """Draw refusals as bars, and say so if there are none."""
    if not any(bins):
        canvas.text(frame.x(frame.seconds / 2), frame.y(0.5) + 4, "none", anchor="middle", size=11, fill=LIMIT)
    width = frame.x(bin_s) - _LEFT
    right = frame.x(frame.seconds)  # the last bin may go beyond
    boxes = [(_LEFT + place * width, count / most) for place, count in enumerate(bins)]
    canvas.bars(
        ((x, frame.y(share), min(max(1.0, width - 1), right - x), frame.height * share) for x, share in boxes),
        REFUSALS,
    )


def _so_far(answers: Sequence[float], seconds: float) -> list[tuple[float, int]]:
    """Return ``(second, answers until then)``, from nothing at 0 on."""
    points, count = [(0.0, 0)], 0
    ordered = sorted(answers)
    for place in range(_POINTS + 1):
        second = seconds * (place / _POINTS)  # at the last place it is *seconds* to the bit
        while count < len(ordered) and ordered[count] <= second:
            count += 1
        points.append((second, count))
    return points


def _png_of(figure: Any) -> bytes:
    page = io.BytesIO()
    figure.savefig(page, format="png")
    return page.getvalue()


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _escaped(text: str) -> str:
    """Escape markup, and whatever XML cannot hold."""
    import html

    kept = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return html.escape(kept, quote=False)
