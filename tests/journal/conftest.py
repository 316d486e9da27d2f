"""Journals that are closed when the test ends, and other processes that are ended with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from groq_queue.journal import Journal

MAKING = Path(__file__).parent / "making.py"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path.resolve() / "run.db")


@pytest.fixture
def journal(path: str) -> Iterator[Journal]:
    with Journal.open(path) as opened:
        yield opened


@pytest.fixture
def other() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``making.py`` as another process; it is killed at the end of the test."""
    started = []

    def start(*arguments: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*before, sys.executable, str(MAKING), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
