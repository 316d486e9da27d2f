"""mypy --strict and pyright find nothing in the package, nor in the examples, which use it as its users do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from extras import may_be_missing, needs, needs_program

from .conftest import CHECKOUT, EXAMPLES

pytestmark = pytest.mark.slow

PROGRAMS = sorted(EXAMPLES.glob("*.py"))
TYPED = ("flask", "polars", "openai", "groq")  # bring their own types
STUBBED = ("pandas", "django", "celery", "requests")
PATIENCE_S = 400


@pytest.fixture(autouse=True)
def _everything_that_examples_use_is_here() -> None:
    """Without a package, or the stubs of one that has no types, a checker could only complain of that."""
    for name in (*TYPED, *STUBBED, *(f"{name}-stubs" for name in STUBBED)):
        needs(name)


def checked(*command: object, directory: Path = CHECKOUT, **environment: str) -> str:
    """Run a checker and return what it found, nothing if all is well."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=directory,
        env={**os.environ, **environment},
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("what", [("-p", "groq_queue"), PROGRAMS], ids=["package", "examples"])
def test_mypy_finds_nothing(what: list[object], tmp_path: Path) -> None:
    needs("mypy")

    assert "" == checked("mypy", "--strict", "--cache-dir", tmp_path, *what)


def test_pyright_finds_nothing() -> None:
    needs("pyright")
    needs_program("node", "nodejs")  # which pyright would download

    try:
        found = checked(
            "pyright",
            "--pythonpath",
            sys.executable,
            CHECKOUT / "groq_queue",
            *PROGRAMS,
            PYRIGHT_PYTHON_GLOBAL_NODE="1",
            PYRIGHT_PYTHON_IGNORE_WARNINGS="1",  # or it asks a registry for a newer one
        )
    except subprocess.TimeoutExpired:
        assert may_be_missing(), f"pyright did not answer in {PATIENCE_S} s"
        pytest.skip(f"pyright did not answer in {PATIENCE_S} s; it may wait for a download")

    assert "" == found


WRONG = """\
from concurrent.futures import as_completed
from groq_queue import GroqQueue
with GroqQueue() as queue:
    asked = {queue.submit(city): city for city in ('Oslo', 'Lima')}
    names: list[str] = [asked[future] for future in as_completed(asked)]
    text: int = queue.submit('Why?').result().text
    count: str = queue.submit_call(len, 'four', queue_options={'model': 'm'}).result()
"""
COMPLAINTS = [
    ("6", 'Incompatible types in assignment (expression has type "str", variable has type "int")'),
    ("7", 'Incompatible types in assignment (expression has type "int", variable has type "str")'),
]


def errors_in(found: str) -> list[tuple[str, str]]:
    return re.findall(r"wrong\.py:(\d+): error: (.*?) +\[", found)


def test_a_checker_would_notice(tmp_path: Path) -> None:
    """
    What submit returns is known to be a Future of a Completion, and what a callable returns stays what it is.
    """
    needs("mypy")
    program = tmp_path / "wrong.py"
    program.write_text(WRONG)

    found = checked("mypy", "--strict", "--cache-dir", tmp_path / "cache", program)

    assert COMPLAINTS == errors_in(found), found


def test_types_come_with_an_installed_wheel(tmp_path: Path) -> None:
    """
    For a program elsewhere; without py.typed the checker would not look into the package at all. Needs a package index.
    """
    needs("mypy")
    source, wheels, environment = tmp_path / "source", tmp_path / "wheels", tmp_path / "environment"
    ignored = shutil.ignore_patterns(".*", "tests", "benchmarks", "build", "*.egg-info", "__pycache__")
    shutil.copytree(CHECKOUT, source, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, source]
    subprocess.run(pip, check=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=PATIENCE_S)
    python = environment / "bin" / "python"
    installed = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (wheel,) = wheels.glob("groq_queue-*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(installed)  # all that installing a wheel of pure Python does for its modules
    program = tmp_path / "elsewhere" / "wrong.py"
    program.parent.mkdir()
    program.write_text(WRONG)
    command = ("mypy", "--strict", "--python-executable", python, "--cache-dir", tmp_path / "cache", program)

    found = checked(*command, directory=program.parent)
    (Path(installed) / "groq_queue" / "py.typed").unlink()
    without = checked(*command, directory=program.parent)

    assert COMPLAINTS == errors_in(found), found
    assert "missing library stubs or py.typed marker" in without
