"""Figures as SVG: well formed whatever is in them."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from groq_queue.reporting.plot import ANSWERS, LIMIT, REFUSALS, Series, comparison_svg, terminal_svg

FIGURES = Path(__file__).parents[2] / "benchmarks" / "figures"
SVG = "{http://www.w3.org/2000/svg}"


def test_a_capture_keeps_every_line_and_its_spaces():
    """
    As the terminal showed it, markup and control characters made harmless.
    """
    svg = terminal_svg("groq-queue demo", "a  <b> & c\n\n  \x1b[31mred\n")

    texts = [node.text for node in ET.fromstring(svg).iter(f"{SVG}tspan")]
    assert ["$ groq-queue demo", "a  <b> & c", "  \N{REPLACEMENT CHARACTER}[31mred"] == texts


@pytest.mark.parametrize("answers", [[], [0.0], [0.1, 0.2, 95.0]])
def test_a_comparison_is_well_formed_whatever_was_sent(answers):
    """
    Even if nothing was.
    """
    svg = comparison_svg("title", [Series("one", answers, []), Series("two", [], answers)], 0.25, limit=2, period_s=60)

    words = " ".join("".join(ET.fromstring(svg).itertext()).split())
    assert "title" in words
    assert "one" in words
    assert "two" in words
    assert "answered so far" in words
    assert "seconds" in words


def lines_of(svg, stroke):
    """Return the points of each line of one colour."""
    found = [node for node in ET.fromstring(svg).iter(f"{SVG}polyline") if node.get("stroke") == stroke]
    return [[tuple(map(float, pair.split(","))) for pair in node.get("points").split()] for node in found]


def test_the_last_answer_is_drawn_whatever_the_seconds_are():
    rng = random.Random(5)
    for seconds in [rng.uniform(0.1, 200) for _ in range(300)]:
        svg = comparison_svg("t", [Series("one", [seconds], [])], 1, limit=1, period_s=seconds)

        (line,) = lines_of(svg, ANSWERS)
        assert line[-1][1] < line[0][1], seconds


def test_a_comparison_draws_what_was_answered_so_far_against_what_the_limit_allows():
    """
    30 at once and then one every two seconds, as many as 30 a minute allow; and half as many.
    """
    allowed = [0.0] * 30 + [2.0 * n for n in range(1, 31)]

    svg = comparison_svg("t", [Series("all", allowed, []), Series("half", allowed[::2], [])], 1, limit=30, period_s=60)

    whole, half = lines_of(svg, ANSWERS)
    _, limit, below = lines_of(svg, LIMIT)  # the first is the legend's
    assert whole[0][0] == half[0][0] == limit[0][0]  # they begin together
    assert limit[-1] == whole[-1]  # 60 after a minute: the upper right corner
    assert all(y >= at(limit, x) - 0.2 for x, y in whole)  # never over it: y grows downwards
    bottom, top = whole[0][1], whole[-1][1]
    assert (bottom + top) / 2 == pytest.approx(limit[0][1], abs=0.2)  # 30 of 60 at once
    assert half[-1][1] == pytest.approx(below[0][1], abs=0.2)  # 30 of 60 in the end, on the same scale


def at(line, x):
    """Return the y of a straight *line* at *x*."""
    (x1, y1), (x2, y2) = line[0], line[-1]
    return y1 + (y2 - y1) * (x - x1) / (x2 - x1)


def test_refusals_stand_below_in_bars_of_their_own_and_a_run_without_any_says_so():
    answers = [0.1 * n for n in range(40)]

    svg = comparison_svg(
        "t", [Series("pool", answers, [1.1, 1.2, 3.0]), Series("ours", answers, [])], 0.5, limit=10, period_s=6
    )

    words = [node.text for node in ET.fromstring(svg).iter(f"{SVG}text")]
    bars = [node for node in ET.fromstring(svg).iter(f"{SVG}path") if node.get("fill") == REFUSALS]
    assert 1 == words.count("none")
    assert 2 == words.count("429s per 0.5 s")
    assert 2 == len(bars)  # of the legend, and of the one that was refused
    assert 2 == bars[1].get("d").count("M")


@pytest.mark.parametrize("name", ["demo.svg", "peers.svg", "terminal.svg"])
def test_the_pictures_of_the_readme_are_there_and_small(name):
    """
    Made by groq-queue demo --svg … --capture …, and by benchmarks/peers.py --figure ….
    """
    svg = (FIGURES / name).read_text(encoding="utf-8")

    ET.fromstring(svg)
    assert len(svg) < 40_000
