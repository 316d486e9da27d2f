"""How examples are run: each as a program of its own, as its user would, with a simulator where Groq would be."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import groq_queue
from groq_queue import GroqSimulator

CHECKOUT = Path(groq_queue.__file__).parent.parent
EXAMPLES = CHECKOUT / "examples"
PATIENCE_S = 120


@dataclass
class Ran:
    """A program that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Pace:
    """Latencies of a simulator: the first *quick* answers at once, the next after *then_s*, until all may be quick."""

    def __init__(self, quick: int, then_s: float) -> None:
        self.is_quick = threading.Event()
        self._left = quick
        self._then_s = then_s

    def __call__(self, random: object) -> float:
        self._left -= 1
        return 0.02 if self._left >= 0 or self.is_quick.is_set() else self._then_s


class Bench:
    """A simulator, a directory, and the programs that run in it.

    Warnings of a program are errors, as in the suite. ``GROQ_BASE_URL`` is told without
    a path: so the groq SDK reads it, which completes it by itself.
    """

    def __init__(self, groq: GroqSimulator, directory: Path, stack: ExitStack) -> None:
        self.groq = groq
        self.directory = directory
        self._stack = stack
        nobody = ("GROQ_", "CELERY_", "DJANGO_", "FLASK_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(nobody)}
        self.environment = {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")} | {
            "GROQ_BASE_URL": groq.base_url.removesuffix("/openai/v1"),
            "GROQ_API_KEY": "gsk_simulated",
            "PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(directory)]),
            "PYTHONWARNINGS": "error",
            "PYTHONIOENCODING": "utf-8",
        }

    def start(self, *command: object) -> subprocess.Popen[str]:
        """Start a program; it and its children are killed when the test ends."""
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=self.directory,
            env=self.environment,
            start_new_session=True,
        )
        self._stack.enter_context(process)
        self._stack.callback(_kill, process)
        return process

    def wait(self, process: subprocess.Popen[str]) -> Ran:
        out, err = process.communicate(timeout=PATIENCE_S)
        return Ran(process.returncode, out, err)

    def run_example(self, example: str, *arguments: object) -> Ran:
        """Run an example to its end, which must be a good one."""
        ran = self.wait(self.start(sys.executable, EXAMPLES / example, *arguments))
        assert 0 == ran.code, ran.err
        return ran

    def drive(self, code: str) -> Ran:
        """Run *code* in a fresh process that can import the examples."""
        self.environment["PYTHONPATH"] += os.pathsep + str(EXAMPLES)
        ran = self.wait(self.start(sys.executable, "-c", code))
        assert 0 == ran.code, ran.err
        return ran

    def prompts(self) -> list[str]:
        """Return what came to the simulator's meter, in its order."""
        return [record.prompt for record in self.groq.log]


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, 9)


@pytest.fixture
def make_bench(groq_simulator_factory: Callable[..., GroqSimulator], tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Return a maker of benchs; the arguments are the simulator's."""
    with ExitStack() as stack:

        def make(**options: Any) -> Bench:
            groq = groq_simulator_factory(**{"rpm": 1_000, "tpm": 250_000, "latency": 0.02, **options})
            return Bench(groq, tmp_path, stack)

        yield make
