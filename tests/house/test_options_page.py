"""The tables of ``docs/configuration.md`` are those of ``wiring/options.py``.

``python -m tests.house.test_options_page`` writes them anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import groq_queue
from groq_queue.wiring.options import CONSTRUCTOR, SUBMIT, Option

PAGE = Path(groq_queue.__file__).parent.parent / "docs" / "configuration.md"
TABLES = {"argument": CONSTRUCTOR, "option": SUBMIT}
PLACES = {"argument": "in a file", "option": "in a line"}
KINDS = {str: "text", int: "whole number", float: "number", bool: "true or false", dict: "table", list: "pair"}


def kinds_of(option: Option) -> str:
    if option.name == "messages":
        return "list"
    names = [KINDS[kind] for kind in option.types if not (kind is int and float in option.types)]
    return (" or ".join(names) + (f", {option.unit}" if option.unit else "")) or "–"


def default_of(option: Option) -> str:
    if option.shown:
        return option.shown
    value = option.default
    if value is None or isinstance(value, (bool, tuple)):
        return f"`{value}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"{value // 2**20} MiB" if option.unit == "bytes" else f"{value:,}"


def table_of(name: str) -> str:
    """Return the table whose first column is headed *name*."""
    rows = [
        f"| `{option.name}` | {kinds_of(option)} | {default_of(option)} | {option.help} |" for option in TABLES[name]
    ]
    return "\n".join([f"| {name} | {PLACES[name]} | default | meaning |", "|---|---|---|---|", *rows])


def written(text: str) -> str:
    """Return the page with both tables as they are to be."""
    for name in TABLES:
        before, _, rest = text.partition(f"| {name} |")
        text = f"{before}{table_of(name)}\n\n{rest.partition(chr(10) * 2)[2]}"
    return text


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_the_table_as_the_code_has_it(name):
    assert table_of(name) in PAGE.read_text(encoding="utf-8"), "python -m tests.house.test_options_page writes it"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
