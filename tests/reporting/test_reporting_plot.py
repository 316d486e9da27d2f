"""Figures as SVG: well formed whatever is in them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from groq_queue.reporting.plot import Series, comparison_svg, terminal_svg

FIGURES = Path(__file__).parents[2] / "benchmarks" / "figures"


def test_a_capture_keeps_every_line_and_its_spaces():
    """
    As the terminal showed it, markup and control characters made harmless.
    """
    svg = terminal_svg("groq-queue demo", "a  <b> & c\n\n  \x1b[31mred\n")

    texts = [node.text for node in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}tspan")]
    assert ["$ groq-queue demo", "a  <b> & c", "  \N{REPLACEMENT CHARACTER}[31mred"] == texts


@pytest.mark.parametrize("answers", [[], [0.0], [0.1, 0.2, 95.0]])
def test_a_comparison_is_well_formed_whatever_was_sent(answers):
    """
    Even if nothing was.
    """
    svg = comparison_svg("title", [Series("one", answers, []), Series("two", [], answers)], 0.25)

    words = " ".join("".join(ET.fromstring(svg).itertext()).split())
    assert "title" in words
    assert "one" in words
    assert "two" in words


@pytest.mark.parametrize("name", ["demo.svg", "terminal.svg"])
def test_the_pictures_of_the_readme_are_there_and_small(name):
    """
    Made by groq-queue demo --svg … --capture ….
    """
    svg = (FIGURES / name).read_text(encoding="utf-8")

    ET.fromstring(svg)
    assert len(svg) < 40_000
