"""Type checkers see what the public methods take and return: right calls pass, each wrong argument is an error."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from extras import needs, needs_program

pytestmark = pytest.mark.gate

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PATIENCE_S = 300
NAMED = ("groq", "openai", "pandas", "polars", "requests")  # in what is checked


def lines_found_by(checker: str, file: Path, folder: Path) -> set[int]:
    """Return the lines of *file* in which a checker finds an error."""
    for package in (checker, *NAMED):
        needs(package)
    if checker == "mypy":
        options = ["--strict", "--cache-dir", str(folder), "--no-error-summary"]
    else:
        needs_program("node", "nodejs")  # which pyright would download
        options = ["--pythonpath", sys.executable]
    done = subprocess.run(
        [sys.executable, "-m", checker, *options, str(file)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=ROOT,
    )
    return {int(found[1]) for found in re.finditer(rf"{re.escape(file.name)}:(\d+)\S* -? ?error", done.stdout)}


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_right_calls_pass(checker, tmp_path):
    assert set() == lines_found_by(checker, HERE / "right.py", tmp_path)


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_each_wrong_argument_is_an_error(checker, tmp_path):
    lines = (HERE / "wrong.py").read_text(encoding="utf-8").splitlines()
    marked = {number for number, line in enumerate(lines, start=1) if line.endswith("# wrong")}

    assert len(marked) > 50
    assert marked == lines_found_by(checker, HERE / "wrong.py", tmp_path)
