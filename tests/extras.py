"""What a test needs beside pytest and freezegun: a package of an extra, or a server program.

Without it the test is skipped with the name of the extra and the command that brings it. With ``CI=1`` in the
environment, which the gate sets where everything is installed, the test fails instead, so that nothing stays
untried by accident. Only ``1`` counts: hosted runners set ``CI=true``, and the README's commands must pass there
with what they install.
"""

from __future__ import annotations

import importlib
import os
import shutil
from typing import Any

import pytest

EXTRA_OF = {
    "celery": "celery",
    "kombu": "celery",
    "matplotlib": "plots",
    "opentelemetry": "otel",
    "opentelemetry.sdk": "dev",
    "prometheus_client": "prometheus",
    "redis": "redis",
    "tomli": "toml",
}  # the packages of the other extras are in "dev"
_SKIPPED = "needs the extra"  # conftest counts the reasons that begin like this
_NO_PROGRAM = "needs the program"


def needs(package: str, *, is_module: bool = False) -> Any:
    """Return *package*, imported; skip the test, or the whole module with *is_module*, if it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != package.partition(".")[0]:
            raise  # it is there, and what it needs itself is not
        extra = EXTRA_OF.get(package, "dev")
        _missing(f"{_SKIPPED} {extra}: {package} is not installed (pip install '.[{extra}]')", is_module)


def needs_program(program: str, package: str | None = None, *, is_module: bool = False) -> str:
    """Return the path of *program*, which the system's *package* brings; skip the test if it is not on PATH."""
    path = shutil.which(program)
    if path is None:
        _missing(f"{_NO_PROGRAM} {program}, which is not on PATH (apt-get install {package or program})", is_module)
    assert path is not None
    return path


def may_be_missing() -> bool:
    """Return whether a test may be skipped for want of an extra or a server."""
    return os.environ.get("CI") != "1"


def _missing(reason: str, is_module: bool) -> None:
    if not may_be_missing():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=is_module)
