"""The figure of a run with matplotlib: the ``plots`` extra."""

from __future__ import annotations

import importlib
import io
from typing import Any

from groq_queue.errors import MissingExtraError
from groq_queue.reporting.plot import ANSWERS, REFUSALS, course_of, share_of
from groq_queue.reporting.report import Report


def plot(report: Report) -> Any:
    """Return a ``matplotlib.figure.Figure``; see ``Report.plot``."""
    try:
        figures = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingExtraError.needed("report.plot()", "plots", "use report.to_svg(), which needs nothing") from error
    figure = figures.Figure(figsize=(9, 6), layout="constrained")  # no pyplot: it would keep the figure for ever
    sent, used = figure.subplots(2, 1, sharex=True)
    bin_s, answers, refusals = course_of(report)
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


def _png_of(figure: Any) -> bytes:
    page = io.BytesIO()
    figure.savefig(page, format="png")
    return page.getvalue()
