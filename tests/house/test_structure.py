"""The code is laid out and named as the page of the architecture says: one class a name, the field's words."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import groq_queue

PACKAGE = Path(groq_queue.__file__).parent

# Words of our own for what the field has a word for.
RETIRED = set(
    """
    asker asking books bury chooser courier dice doom errand fate inbox keeping ledger outbox patient pricing purse
    restock roster rung shelf shelve stir stocking tally tariff unshelve verdict verdicts wish
    """.split()  # noqa: SIM905
)


def trees() -> list[tuple[Path, ast.Module]]:
    found = [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in sorted(PACKAGE.rglob("*.py"))]
    assert len(found) > 100
    return found


def words_of(name: str) -> set[str]:
    """Return the words of a name, however they are joined."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_no_public_class_name_stands_twice():
    classes = Counter(
        node.name
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )

    assert len(classes) > 100
    assert [] == [name for name, count in classes.items() if count > 1]


def test_no_file_class_or_function_is_named_by_a_retired_word():
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    names = [
        (path, name)
        for path, tree in trees()
        for name in (path.stem, *(node.name for node in ast.walk(tree) if isinstance(node, kinds)))
    ]

    assert [] == [f"{path.relative_to(PACKAGE)}: {name}" for path, name in names if words_of(name) & RETIRED]


def test_a_retired_word_is_found_however_it_is_joined():
    assert all(words_of(name) & RETIRED for name in ("Roster", "NewRoster", "_old_shelf", "HTTPLedger"))
    assert not words_of("bookshelf") & RETIRED
