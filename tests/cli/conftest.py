"""How these tests run the command: as a process, or as main() in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from groq_queue.cli import main
from groq_queue.simulator import GroqSimulator

MODEL = "llama-3.1-8b-instant"
COMMAND = (sys.executable, "-m", "groq_queue")


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of a user who has set nothing up."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GROQ_")}
    return kept | {"PYTHONWARNINGS": "error"} | more


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GROQ_API_KEY", "GROQ_BASE_URL", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def simulate() -> Iterator[Callable[..., GroqSimulator]]:
    """Start simulators; they are stopped when the test ends."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(GroqSimulator(**({"models": [MODEL]} | options)))


@dataclass
class Ran:
    """One command line that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def by_id(self) -> dict[str, dict[str, Any]]:
        return {line["custom_id"]: line for line in self.lines}


Command = Callable[..., Ran]


@pytest.fixture
def command(capfdbinary: pytest.CaptureFixture[bytes]) -> Command:
    """Run main() in this process."""

    def run(*argv: object) -> Ran:
        capfdbinary.readouterr()
        code = main([str(argument) for argument in argv])
        out, err = capfdbinary.readouterr()
        return Ran(int(code), out.decode(), err.decode())

    return run


def run_process(*argv: object, stdin: str | bytes = b"", timeout: float = 30, **environment: str) -> Ran:
    """Run the command as a process of its own."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    ended = subprocess.run(
        [*COMMAND, *map(str, argv)],
        input=given,
        capture_output=True,
        timeout=timeout,
        env=clean_environment(**environment),
        check=False,
    )
    return Ran(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


@dataclass
class Demo:
    """``groq-queue demo`` with both of its drawings, and how long it took."""

    ran: Ran
    took_s: float
    figure: Path
    capture: Path


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Run the demo, once for all who look at it."""
    place = tmp_path_factory.mktemp("demo")
    figure, capture = place / "demo.svg", place / "terminal.svg"
    began = time.monotonic()
    ran = run_process("demo", "--svg", figure, "--capture", capture)
    return Demo(ran, time.monotonic() - began, figure, capture)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write lines (str as they are, dicts as JSON) to a file."""

    def write_lines(*lines: str | dict[str, Any], name: str = "in.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
        return path

    return write_lines


def batch(custom_id: str, prompt: str = "Say hello.", **body: Any) -> dict[str, Any]:
    """Return one line of a Batch file."""
    whole = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_completion_tokens": 16} | body
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": whole}


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command and leave it running; after 30 s, and when the test ends, it is killed."""
    with ExitStack() as stack:

        def start(*argv: object) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [*COMMAND, *map(str, argv)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=clean_environment(),
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            alarm = threading.Timer(30, process.kill)
            alarm.start()
            stack.callback(alarm.join)
            stack.callback(alarm.cancel)
            return process

        yield start
