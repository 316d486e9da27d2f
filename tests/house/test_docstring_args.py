"""The "Args:" of a docstring name parameters that exist."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator

from tests.house.test_house import PACKAGE, files


def section_of(docstring: str) -> str:
    """Return the lines of the section "Args:", the first at the left margin; empty if there is none."""
    section = re.search(r"^( *)Args:\n((?:\1 +.*\n|\n)*)", docstring + "\n", re.MULTILINE)
    return "" if section is None else textwrap.dedent(section[2])


def described(section: str) -> list[str]:
    """Return the names that a section describes."""
    heads = re.findall(r"^(\S[^:\n]*):(?:\s|$)", section, re.MULTILINE)
    return [name.strip("*` ") for head in heads for name in head.split(",")]


def parameters(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Return what *node* takes; for a class, what its ``__init__`` takes, or the fields of a tuple or dataclass."""
    if isinstance(node, ast.ClassDef):
        made = next((each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), None)
        if made is None:
            return {each.target.id for each in node.body if isinstance(each, ast.AnnAssign)}  # type: ignore[union-attr]
        return parameters(made)
    given = node.args
    return {
        each.arg
        for each in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
        if each is not None and each.arg not in ("self", "cls")
    }


def sections() -> Iterator[tuple[str, str, set[str]]]:
    """Yield for each section its place, its text and what its function takes."""
    for path in files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            if section := section_of(ast.get_docstring(node, clean=False) or ""):
                yield f"{path.relative_to(PACKAGE)} {node.name}", section, parameters(node)


def test_the_section_is_read():
    text = "One.\n\n    Args:\n        a, b: Two,\n            c: no.\n        *d: 3.\n\n    Raises:\n        E: F.\n"

    assert ["a", "b", "d"] == described(section_of(text))


def test_every_name_under_args_is_a_parameter():
    wrong = [f"{where}: {name}" for where, text, given in sections() for name in set(described(text)) - given]

    assert [] == sorted(wrong)
    assert 500 < sum(len(described(text)) for _, text, _ in sections())


def test_a_docstring_with_args_names_every_parameter():
    """
    Several may share one entry, as the simulator's short forms of limits do.
    """
    missing = [
        f"{where}: {name}" for where, text, given in sections() for name in given if not re.search(rf"\b{name}\b", text)
    ]

    assert [] == sorted(set(missing) - {"reporting/estimate.py estimate_load: price_table"})
