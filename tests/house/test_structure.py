"""The code is laid out and named as the page of the architecture says: one class a name, the field's words."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import groq_queue

PACKAGE = Path(groq_queue.__file__).parent

# Words of our own for what the field has a word for.
RETIRED = set(
    """
    aside asker asking beat books bury chooser courier credits dice doom errand fate inbox keeping ledger naming
    outbox patient payer payers pricing purse restock roster rung shelf shelve stand standing stands stir stirs stocking
    stood sweep tally tariff told unshelve verdict verdicts wish
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


def names_in(tree: ast.AST) -> Iterator[str]:
    """Yield every name that a file gives: to classes, functions, parameters, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def test_no_name_has_a_retired_word():
    names = [(path, name) for path, tree in trees() for name in (path.stem, *names_in(tree))]
    scripts = [(path, path.stem) for path in PACKAGE.rglob("*.lua")]

    assert len(names) > 5_000
    assert [] == sorted(
        {f"{path.relative_to(PACKAGE)}: {name}" for path, name in names + scripts if words_of(name) & RETIRED}
    )


def test_every_kind_of_name_is_looked_at():
    source = "class A:\n    def b(self, c):\n        self.d = e = c\n"
    assert {"A", "b", "self", "c", "d", "e"} == set(names_in(ast.parse(source)))


def test_a_retired_word_is_found_however_it_is_joined():
    assert all(words_of(name) & RETIRED for name in ("Roster", "NewRoster", "_old_shelf", "HTTPLedger"))
    assert not words_of("bookshelf") & RETIRED
