"""The tables of ``docs/configuration.md`` are those of ``wiring/options.py``, and so are the names that pages list.

``python -m tests.house.test_options_page`` writes the tables anew, and the options in the help of ``groq-queue run``,
which are written out there since a page of help loads no table. ``docs/scaling.md`` is written by hand.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

import groq_queue
from groq_queue.wiring.options import CONSTRUCTOR, IN_LINES, SUBMIT, Option

RUN = Path(groq_queue.__file__).parent / "cli" / "run.py"
SCALING = Path(groq_queue.__file__).parent.parent / "docs" / "scaling.md"
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


def options_of_a_line() -> str:
    """Return the sentence of the help of ``run`` that names what may stand in a line."""
    names = [option.name for option in SUBMIT if option.types and option.name != "messages"]
    return textwrap.fill(f"Options are {', '.join(names[:-1])} and {names[-1]}.", 80)


def help_written(source: str) -> str:
    """Return the source of the command with that sentence as it is to be."""
    return re.sub(r"^Options are [^A-Z]*(?=^A Batch line)", options_of_a_line() + "\n", source, count=1, flags=re.M)


def test_the_help_of_run_names_every_option_that_a_line_may_have():
    source = RUN.read_text(encoding="utf-8")

    assert set(IN_LINES) | {"custom_id", "model", "endpoint"} == set(re.findall(r"[a-z_]{5,}", options_of_a_line())[1:])
    assert f"\n{options_of_a_line()}\n" in source, "python -m tests.house.test_options_page writes it"
    assert help_written(source) == source


def test_what_an_engine_refuses_is_all_named_where_the_engine_is_explained():
    """
    In the paragraph that lists it, each by its own name.
    """
    listed = SCALING.read_text(encoding="utf-8").partition("Not available with it")[2].partition("\n\n")[0]

    refused = [option.name for option in CONSTRUCTOR if option.celery]
    assert len(refused) > 10
    assert [] == [name for name in refused if f"`{name}`" not in listed]
    assert '`when_full="shed"`' in listed  # which is refused by its value
    assert "`submit_call`" in listed


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_the_table_as_the_code_has_it(name):
    assert table_of(name) in PAGE.read_text(encoding="utf-8"), "python -m tests.house.test_options_page writes it"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    RUN.write_text(help_written(RUN.read_text(encoding="utf-8")), encoding="utf-8")
