"""A missing package is told with a command that installs it, wherever this library came from."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

import groq_queue
from groq_queue import MissingExtraError
from groq_queue.clock import FakeClock
from groq_queue.errors import EXTRAS

PACKAGE = Path(groq_queue.__file__).parent
ROOT = Path(__file__).parent.parent.parent
OURS_ONLY = {"bench", "dev", "test"}  # extras that the package itself never asks for
HANG_S = 300


def room(name: str) -> Any:
    return importlib.import_module(f"groq_queue.{name}")


def read_toml() -> object:
    return room("wiring.config_file")._parse_toml("queue.toml", "")


def open_redis() -> object:
    return room("limiters.redis").RedisBudgetStore.open("redis://127.0.0.1:1/0")


# file that raises it: the extra, what is hidden, what is done then
PLACES: dict[str, tuple[str, tuple[str, ...], Callable[[], object]]] = {
    "wiring/config_file.py": ("toml", ("tomllib", "tomli"), read_toml),
    "distributed/wakeups.py": (
        "celery",
        ("celery",),
        lambda: room("distributed.wakeups").make_app("redis://127.0.0.1"),
    ),
    "distributed/job_store.py": (
        "celery",
        ("redis",),
        lambda: room("distributed.job_store").JobStore("redis://127.0.0.1:1/0", FakeClock()),
    ),
    "integrations/otel.py": ("otel", ("opentelemetry",), lambda: room("integrations.otel").observer()),
    "integrations/prometheus.py": (
        "prometheus",
        ("prometheus_client",),
        lambda: room("integrations.prometheus").collector({}),
    ),
    "limiters/redis.py": ("redis", ("redis",), open_redis),
    "reporting/plot.py": ("plots", ("matplotlib.figure",), lambda: room("reporting.plot").plot(None)),
}


def error_at(place: str, monkeypatch: pytest.MonkeyPatch) -> MissingExtraError:
    """Return the error that *place* raises while its packages are hidden."""
    _, hidden, act = PLACES[place]
    for package in hidden:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError) as caught:
        act()
    return caught.value


def command_in(error: MissingExtraError) -> list[str]:
    """Return the words behind ``pip install`` in what *error* says: quoted requirements only."""
    found = re.search(r"pip install ((?:'[^']+' ?)+)", str(error))
    assert found is not None, str(error)
    return shlex.split(found.group(1))


def test_the_errors_ask_for_what_the_extras_bring():
    """
    One table in the package, one in setup.cfg: they cannot drift apart.
    """
    setup = ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")

    declared = {
        extra: tuple(line.partition(";")[0].strip() for line in lines.split("\n") if line.strip())
        for extra, lines in setup["options.extras_require"].items()
        if extra not in OURS_ONLY
    }

    assert declared == EXTRAS


@pytest.mark.parametrize("place", PLACES)
def test_each_place_names_its_extra_and_the_requirements_themselves(place, monkeypatch):
    """
    ``groq_queue[extra]`` would need the package on an index.
    """
    extra = PLACES[place][0]

    error = error_at(place, monkeypatch)

    assert extra == error.extra
    assert f"the extra {extra!r}" in str(error)
    assert list(EXTRAS[extra]) == command_in(error)
    assert "groq_queue[" not in str(error)


def test_no_place_is_left_out():
    """
    A new place that raises it must stand in the table above, and its text comes from the one helper.
    """
    made: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and "MissingExtraError" in ast.unparse(node.func):
                made.setdefault(path.relative_to(PACKAGE).as_posix(), []).append(ast.unparse(node.func))

    assert {place: ["MissingExtraError.needed"] for place in PLACES} == made


def test_no_page_and_no_text_names_an_index_that_does_not_have_us():
    """
    In the README and the benchmarks, which stand in a checkout, ``'.[extra]'`` works.
    """
    pages = [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        ROOT / "CHANGELOG.md",
        *(ROOT / "benchmarks").rglob("*.[pm][yd]"),
        *PACKAGE.rglob("*.py"),
    ]

    assert 100 < len(pages)
    assert [] == [str(page) for page in pages if re.search(r"pip install .?groq_queue\b", page.read_text())]


@pytest.mark.gate
@pytest.mark.parametrize("place", {extra: place for place, (extra, _, _) in PLACES.items()}.values())
def test_the_command_of_each_error_succeeds(place, monkeypatch, tmp_path):
    """
    As if nothing were installed; it needs a package index, and installs nothing. Once for each extra.
    """
    words = command_in(error_at(place, monkeypatch))

    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-input", *words],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        cwd=tmp_path,
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "Would install" in done.stdout
