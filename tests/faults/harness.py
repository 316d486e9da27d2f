"""Runs one row of the fault table in a process of its own, and what the scenarios have in common.

A scenario gets the scale (``quick`` or ``full``) and returns a ``Figure``. The process that
runs it dies with the stacks of all its threads if it takes too long, so nothing hangs a run.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from groq_queue import GroqQueue, Limits

ROOT = Path(__file__).resolve().parents[2]
KEY = "gsk_SENTINELsentinel0123456789abcdWXYZ"
PATIENCE_S = 60.0  # of one wait inside a scenario
SLACK = float(os.environ.get("GROQ_QUEUE_FAULTS_SLACK", "1"))
"""By how much times may exceed their bar: 1 in the table, more in the suite, which runs on busy machines."""


class Figure(NamedTuple):
    """What was measured, and whether it is within the bar."""

    passed: bool
    text: str


class Server:
    """The bad server as a scenario sees it."""

    def __init__(self, port: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.badserver", str(port)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def url(self, behaviour: str) -> str:
        return f"http://127.0.0.1:{self.port}/{behaviour}/openai/v1"

    def seen(self, behaviour: str) -> dict[str, Any]:
        with _plain.open(f"http://127.0.0.1:{self.port}/seen/{behaviour}", timeout=PATIENCE_S) as answer:
            told: dict[str, Any] = json.load(answer)
            return told

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


_plain = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """Run a bad server for the length of a block."""
    running = Server()
    try:
        yield running
    finally:
        running.kill()


def queue(url: str, **options: Any) -> GroqQueue:
    """Open a queue without limits of its own."""
    return GroqQueue(**{"api_key": KEY, "base_url": url, "model": "m", "limits": Limits(), **options})


def error_of(future: Any) -> BaseException | None:
    """Return how a Future failed, waiting for it within bounds."""
    failed: BaseException | None = future.exception(PATIENCE_S)
    return failed


def raised(future: Any) -> BaseException | None:
    """Return what ``result`` raises, with its traceback, or None."""
    try:
        future.result(PATIENCE_S)
    except Exception as error:
        return error
    return None


def seconds(act: Callable[[], Any]) -> float:
    """Return how long *act* takes."""
    begin = time.monotonic()
    act()
    return time.monotonic() - begin


def memory_mib(field: str = "VmRSS") -> float:
    """Return memory of this process; ``VmHWM`` is its peak."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1_024 for line in status if line.startswith(field + ":"))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def quiet_threads(baseline: int, patience_s: float = 10.0) -> int:
    """Return how many threads there are beyond *baseline*, once those about to end have ended."""
    until = time.monotonic() + patience_s
    while threading.active_count() > baseline and time.monotonic() < until:
        time.sleep(0.01)
    return threading.active_count() - baseline


def wait_until(is_true: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
    """Look at the world a hundred times a second until it is as wanted."""
    until = time.monotonic() + patience_s
    while not is_true():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def child(script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start a program of a few lines; ``sys.argv[1:]`` are the *arguments*."""
    return subprocess.Popen(
        [sys.executable, "-c", "from tests.faults.harness import *\n" + script, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], patience_s: float = PATIENCE_S) -> tuple[int, str, str]:
    """Return how a child ended; one that does not is killed and has the code -999."""
    try:
        out, err = process.communicate(timeout=patience_s)
        return process.returncode, out, err
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        return -999, out, err


def run_row(number: str, *, scale: str, patience_s: float, slack: float = 1.0) -> Figure:
    """Run the scenario of one row in a fresh process."""
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    for name in ("GROQ_API_KEY", "GROQ_BASE_URL", "SSL_CERT_FILE", "NETRC"):
        environment.pop(name, None)
    environment |= {"GROQ_QUEUE_FAULTS_SLACK": str(slack), "PYTHONDONTWRITEBYTECODE": "1"}
    # Into files: a server that outlives its scenario would keep pipes open, and who reads them waiting.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.harness", number, scale, str(patience_s)],
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            code = process.wait(patience_s + 20)
        except subprocess.TimeoutExpired:
            code = -999
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)  # whatever a scenario that died has left behind
        process.wait()
        out.seek(0)
        err.seek(0)
        said, complaint = out.read(), err.read()
    for line in reversed(said.splitlines()):
        if line.startswith("FIGURE "):
            return Figure(*json.loads(line.removeprefix("FIGURE ")))
    return Figure(False, f"no figure, exit {code}: {complaint.strip()[-600:]}")


def main() -> None:
    from tests.faults.rows import ROWS

    number, scale, patience_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
    faulthandler.dump_traceback_later(patience_s, exit=True)
    scenario = next(row.scenario for row in ROWS if row.number == number)
    assert scenario is not None
    figure = scenario(scale == "full")
    print("FIGURE " + json.dumps([bool(figure.passed), figure.text]), flush=True)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
