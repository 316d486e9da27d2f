"""A server that sees everything, programs that die, and what is held against both."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from groq_queue.journal.schema import MIGRATIONS
from groq_queue.simulator import GroqSimulator

from .living import MODEL

LIVING = Path(__file__).parent / "living.py"

Simulate = Callable[..., GroqSimulator]
Program = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path.resolve() / "run.db")


@pytest.fixture
def simulate() -> Iterator[Simulate]:
    """Start simulators; they live here, outside the programs that are killed."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(GroqSimulator(**({"models": [MODEL]} | options)))


@pytest.fixture
def program() -> Iterator[Program]:
    """Start programs of ``living.py``; they are killed at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GROQ_")}
        process = subprocess.Popen(
            [*before, sys.executable, str(LIVING), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=kept | {"PYTHONWARNINGS": "error"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def run(program: Program) -> Callable[..., list[str]]:
    """Run a program of ``living.py`` to its end; return the lines it said."""

    def run_to_end(*arguments: object, timeout: float = 60) -> list[str]:
        process = program(*arguments)
        out, err = process.communicate(timeout=timeout)
        assert 0 == process.returncode, err
        return out.splitlines()

    return run_to_end


class Row(NamedTuple):
    """One request, as it stands in the file; its result is told by the number that the server gave the answer."""

    status: str
    attempts: int
    result: str | None
    kind: str | None


def rows_of(path: str, scratch: Path) -> dict[str, Row]:
    """Return what a plain SQLite connection finds in a copy of the file and its log, after checking the copy.

    A copy, because whoever opens the file itself mends it, and the next owner is to find it as the crash left it.
    """
    copy = scratch / "copy.db"
    for end in ("", "-wal", "-journal"):
        Path(f"{copy}{end}").unlink(missing_ok=True)
        if os.path.exists(path + end):
            shutil.copy(path + end, f"{copy}{end}")
    if not copy.exists():
        return {}
    connection = sqlite3.connect(copy)
    try:
        assert "ok" == connection.execute("PRAGMA integrity_check").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        assert version in (0, len(MIGRATIONS))
        if not version:
            assert 0 == connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0], "half a schema"
            return {}
        found = connection.execute(
            "SELECT custom_id, status, attempts, results.body, error_kind FROM requests LEFT JOIN results USING (id)"
        )
        return {name: Row(status, attempts, _number(body), kind) for name, status, attempts, body, kind in found}
    finally:
        connection.close()


def _number(body: bytes | None) -> str | None:
    if body is None:
        return None
    number: str = json.loads(body)["id"]
    return number


class Witness:
    """What programs said and the server saw, held against the file after each of their deaths."""

    def __init__(self, path: str, simulator: GroqSimulator, scratch: Path) -> None:
        self._path, self._simulator, self._scratch = path, simulator, scratch
        self.accepted: set[str] = set()
        self.done: dict[str, str] = {}  # the answer that was handed out
        self.completed: dict[str, str | None] = {}  # the answer that was first found in the file
        self.completed_before: dict[str, int] = {}  # calls the server had seen when that was found
        self.in_flight: Counter[str] = Counter()  # deaths during which it was on its way

    def hear(self, lines: list[str]) -> None:
        """Note what a program said."""
        for line in lines:
            act, *words = line.split()
            if act == "accepted":
                self.accepted.add(words[0])
            elif act == "done":
                assert self.done.setdefault(words[0], words[1]) == words[1], f"{words[0]}: another answer than before"

    def look(self) -> dict[str, Row]:
        """Check the file as it is now."""
        rows = rows_of(self._path, self._scratch)
        assert set() == self.accepted - set(rows), "accepted and lost"
        for name, answer in self.done.items():
            assert rows[name].status == "completed", f"{name} was answered and is {rows[name].status}"
            assert rows[name].result == answer, f"{name}: the answer is not the one that was handed out"
        for name, answer in self.completed.items():
            assert rows[name].status == "completed", f"{name} was completed and is {rows[name].status}"
            assert rows[name].result == answer, f"{name}: its result was changed"
        seen = len(self._simulator.log)
        for name, row in rows.items():
            if row.status == "completed" and name not in self.completed:
                self.completed[name] = row.result
                self.completed_before[name] = seen
            self.in_flight[name] += row.status == "processing"
        return rows

    def judge(self) -> dict[str, int]:
        """Check what the server saw in all, and return the figures."""
        rows = self.look()
        sent: Counter[str] = Counter()
        for number, record in enumerate(self._simulator.log):
            sent[record.prompt] += 1
            assert number < self.completed_before.get(record.prompt, number + 1), (
                f"{record.prompt}: sent when completed"
            )
        for name, times in sent.items():
            assert times <= 1 + self.in_flight[name], f"{name}: sent {times} times, in flight at {self.in_flight[name]}"
            assert times <= rows[name].attempts, f"{name}: sent {times} times, counted {rows[name].attempts}"
        for name, row in rows.items():
            if row.status == "failed":
                assert (row.kind, True) == ("poison", self.in_flight[name] >= 3), f"{name}: {row}"
            else:
                assert "completed" == row.status, f"{name}: {row}"
                assert sent[name] >= 1, f"{name}: answered without being sent"
        return {
            "accepted": len(self.accepted),
            "completed": len(self.completed),
            "sent": sum(sent.values()),
            "sent_twice": sum(times > 1 for times in sent.values()),
            "in_flight_at_a_kill": sum(self.in_flight.values()),
            "poisoned": sum(row.status == "failed" for row in rows.values()),
        }
