"""mypy --strict and pyright find nothing in the package, nor in the recipes, which use it as its users do."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import CHECKOUT, HERE

pytestmark = pytest.mark.slow

RECIPES = sorted(path for path in HERE.glob("*.py") if not re.match("test_|conftest|__init__", path.name))
TYPED = ("flask", "polars", "openai", "groq")  # bring their own types
STUBS = {"pandas": "pandas-stubs", "django": "django-stubs", "celery": "celery-types", "requests": "types-requests"}
PATIENCE_S = 400


@pytest.fixture(autouse=True)
def _everything_that_recipes_use_is_here() -> None:
    """Without a package, or the stubs of one that has no types, a checker could only complain of that."""
    missing = [name for name in (*TYPED, *STUBS) if importlib.util.find_spec(name) is None]
    packages = [path for path in sys.path if path and Path(path).is_dir()]
    for name, stubs in STUBS.items():
        if not any((Path(path) / f"{name}-stubs").is_dir() for path in packages):
            missing.append(stubs)
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; pip install '.[dev]'")


def checked(*command: object, **environment: str) -> str:
    """Run a checker on the checkout and return what it found, nothing if all is well."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=CHECKOUT,
        env={**os.environ, **environment},
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("what", [("-p", "groq_queue"), RECIPES], ids=["package", "recipes"])
def test_mypy_finds_nothing(what: list[object], tmp_path: Path) -> None:
    pytest.importorskip("mypy")

    assert "" == checked("mypy", "--strict", "--cache-dir", tmp_path, *what)


def test_pyright_finds_nothing() -> None:
    pytest.importorskip("pyright")
    if shutil.which("node") is None:
        pytest.skip("pyright runs on node, which is not installed, and nothing is to be downloaded by a test")

    try:
        found = checked(
            "pyright",
            "--pythonpath",
            sys.executable,
            CHECKOUT / "groq_queue",
            *RECIPES,
            PYRIGHT_PYTHON_GLOBAL_NODE="1",
            PYRIGHT_PYTHON_IGNORE_WARNINGS="1",  # or it asks a registry for a newer one
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"pyright did not answer in {PATIENCE_S} s; it may wait for a download")

    assert "" == found


def test_a_checker_would_notice(tmp_path: Path) -> None:
    """
    What submit returns is known to be a Future of a Completion, and what a callable returns stays what it is.
    """
    pytest.importorskip("mypy")
    program = tmp_path / "wrong.py"
    program.write_text(
        "from concurrent.futures import as_completed\n"
        "from groq_queue import GroqQueue\n"
        "with GroqQueue() as queue:\n"
        "    asked = {queue.submit(city): city for city in ('Oslo', 'Lima')}\n"
        "    names: list[str] = [asked[future] for future in as_completed(asked)]\n"
        "    text: int = queue.submit('Why?').result().text\n"
        "    count: str = queue.submit_call(len, 'four', queue_options={'model': 'm'}).result()\n"
    )

    found = checked("mypy", "--strict", "--cache-dir", tmp_path / "cache", program)

    errors = re.findall(r"wrong.py:(\d+): error: (.*?) +\[", found)
    assert [
        ("6", 'Incompatible types in assignment (expression has type "str", variable has type "int")'),
        ("7", 'Incompatible types in assignment (expression has type "int", variable has type "str")'),
    ] == errors, found
