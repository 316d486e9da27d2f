"""The pages have every field of what a queue returns, every event and key of its records, and no class that is gone."""

from __future__ import annotations

import re

import pytest

from groq_queue import Event, Explanation, Record, RequestInfo, Stats
from groq_queue.core.budget import Level
from groq_queue.engine import log
from groq_queue.engine.stats import LaneStats
from tests.house.test_house import PACKAGE, ROOT

TYPES = [(Event, "observability"), (Record, "journal")]
TYPES += [(each, "observability") for each in (Stats, LaneStats, Level, RequestInfo, Explanation)]


def names_in(page: str, head: str) -> list[str]:
    """Return the names in the first column of the table whose first column is headed *head*, in their order."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    found = re.search(rf"^\| {re.escape(head)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert found is not None, f"{page}: no table of {head}"
    return [name for row in found[1].splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]


def fields_of(cls: type) -> list[str]:
    return list(cls.__annotations__) + [name for name, value in vars(cls).items() if isinstance(value, property)]


@pytest.mark.parametrize(("cls", "page"), TYPES, ids=lambda value: getattr(value, "__name__", value))
def test_the_page_has_every_field(cls, page):
    assert sorted(fields_of(cls)) == sorted(names_in(page, f"field of `{cls.__name__}`"))


def test_the_page_has_every_event_with_its_level():
    text = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")

    assert list(log.EVENTS) == names_in("observability", "event")
    for name, meaning in log.EVENTS.items():
        what, _, level = meaning.rpartition("; ")
        assert f"| `{name}` | {level} | {what} |" in text


def test_the_page_has_every_key_of_a_record():
    keys = re.findall(r"^\| ``(\w+)`` \|", log.__doc__, re.MULTILINE)

    assert len(keys) > 10
    assert sorted(keys) == sorted(names_in("observability", "attribute"))


def test_every_class_that_the_architecture_explains_is_in_its_file():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z]\w+)` \| `([\w/]+\.py)` \|", text, re.MULTILINE)

    assert len(rows) > 10
    assert [] == [name for name, path in rows if f"class {name}" not in (PACKAGE / path).read_text(encoding="utf-8")]
