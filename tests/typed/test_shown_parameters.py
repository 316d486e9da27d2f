"""``complete`` and ``map`` show the options of ``submit`` to people, and all that takes them to type checkers."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType

import pytest

from groq_queue import ConfigurationError, GroqQueue
from groq_queue.api import bulk, estimate, queue

SUBMIT = inspect.signature(GroqQueue.submit).parameters
OPTIONS = [name for name, each in SUBMIT.items() if each.kind in (each.KEYWORD_ONLY, each.VAR_KEYWORD)]


REFUSED = ("NoReturn", "...")  # as the type of what a call refuses, whatever the value: it is an error in a checker

DECLARED = {
    "submit": (bulk, 1, {}),
    "complete": (bulk, 1, {}),
    "map": (bulk, 2, {"messages": REFUSED}),
    "map_column": (bulk, 2, {"messages": REFUSED}),
    "with_options": (bulk, 1, {"messages": REFUSED, "custom_id": REFUSED}),
    "GroqQueue.estimate": (queue, 1, {"messages": REFUSED}),
    "groq_queue.estimate": (estimate, 1, {"messages": REFUSED}),
}
"""Where a type checker is told of each option of ``submit``, how many times, and which it takes otherwise."""


def declared(module: ModuleType, name: str) -> list[ast.FunctionDef]:
    """Return each declaration of *name* in *module* that writes the options out."""
    functions = [node for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.FunctionDef)]
    return [each for each in functions if each.name == name and "deadline" in {one.arg for one in each.args.kwonlyargs}]


def annotated(function: ast.FunctionDef) -> dict[str, tuple[str, str]]:
    """Return the annotation and the default of each option."""
    given = function.args
    return {
        each.arg: (ast.unparse(each.annotation or each), ast.unparse(default) if default else "")
        for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
        if each.arg in OPTIONS
    }


@pytest.mark.parametrize("name", ["complete", "map"])
def test_every_option_is_a_parameter_that_help_shows(name):
    shown = inspect.signature(getattr(GroqQueue, name)).parameters

    assert name == getattr(GroqQueue, name).__name__
    assert OPTIONS == [each for each in shown if each in OPTIONS]
    assert all(SUBMIT[each].default == shown[each].default for each in OPTIONS)


@pytest.mark.parametrize("name", DECLARED)
def test_every_option_is_declared_as_submit_declares_it(name):
    module, count, otherwise = DECLARED[name]
    (submit,) = declared(queue, "submit")
    found = declared(module, name.rpartition(".")[2])

    assert count == len(found)
    for each in found:
        constant = {"'chat/completions'": "CHAT"}  # for people who read the signature of ``estimate``
        shown = {option: (kind, constant.get(default, default)) for option, (kind, default) in annotated(each).items()}
        assert {**annotated(submit), **otherwise} == shown
        assert "params" == (each.args.kwarg and each.args.kwarg.arg)


@pytest.mark.parametrize("name", ["map", "map_column", "with_options", "GroqQueue.estimate"])
def test_what_is_declared_as_refused_is_refused(name):
    values = {"messages": [{"role": "user", "content": "a"}], "custom_id": "1"}
    refused = DECLARED[name][2]
    given = () if name == "with_options" else (["a"],)

    assert refused
    with GroqQueue.simulated() as made:
        for option in refused:
            with pytest.raises(ConfigurationError, match=f"^{option}"):
                getattr(made, name.rpartition(".")[2])(*given, **{option: values[option]})
