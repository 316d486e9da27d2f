"""``complete`` and ``map`` show the options of ``submit``, to people and to type checkers alike."""

from __future__ import annotations

import ast
import inspect

import pytest

from groq_queue import GroqQueue
from groq_queue.api import bulk

SUBMIT = inspect.signature(GroqQueue.submit).parameters
OPTIONS = [name for name, each in SUBMIT.items() if each.kind in (each.KEYWORD_ONLY, each.VAR_KEYWORD)]


def declared(name: str) -> list[ast.FunctionDef]:
    """Return what a type checker is told of a method: each of its declarations."""
    tree = ast.parse(inspect.getsource(bulk))
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return [each for block in blocks for each in block.body if isinstance(each, ast.FunctionDef) and each.name == name]


def annotated(function: ast.FunctionDef) -> list[tuple[str, str, str]]:
    """Return the name, the annotation and the default of each option."""
    given = function.args
    rows = [
        (each.arg, ast.unparse(each.annotation or each), ast.unparse(default) if default else "")
        for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    return [row for row in rows if row[0] in OPTIONS]


@pytest.mark.parametrize("name", ["complete", "map"])
def test_every_option_is_a_parameter_that_help_shows(name):
    shown = inspect.signature(getattr(GroqQueue, name)).parameters

    assert name == getattr(GroqQueue, name).__name__
    assert OPTIONS == [each for each in shown if each in OPTIONS]
    assert all(SUBMIT[each].default == shown[each].default for each in OPTIONS)


@pytest.mark.parametrize("name", ["complete", "map"])
def test_every_option_is_declared_as_submit_declares_it(name):
    found = [each for each in declared(name) if each.args.kwonlyargs]
    submit = ast.parse(inspect.cleandoc(inspect.getsource(GroqQueue.submit))).body[0]
    assert isinstance(submit, ast.FunctionDef)

    assert found
    for each in found:
        assert annotated(submit) == annotated(each)
        assert "params" == (each.args.kwarg and each.args.kwarg.arg)
