"""Killed at any moment, the journal keeps what it said it keeps. Few kills here, many in the slow form.

What counts: an id that was acknowledged and is not there is lost; a result that differs
from the one stored is changed; what was in flight at a kill is neither.
"""

from __future__ import annotations

import contextlib
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from extras import needs_program

from groq_queue.core.token_estimate import PromptSize
from groq_queue.journal import Entry, Journal

from .conftest import MAKING
from .making import answer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")

gate = pytest.mark.gate
slow = pytest.mark.slow


class Witness:
    """What the killed processes said, held against the file after each kill."""

    def __init__(self) -> None:
        self.added: set[str] = set()
        self.done: set[str] = set()
        self.sent: dict[str, int] = {}  # attempts that were claimed, by the last count said
        self.in_flight_at_kill = 0

    def hear(self, lines: list[str]) -> None:
        flying = set()
        for line in lines:
            act, _, name = line.partition(" ")
            if act == "added":
                self.added.add(name)
            elif act == "sent":
                assert name not in self.done, f"{name} was sent after it was completed"
                self.sent[name] = self.sent.get(name, 0) + 1
                flying.add(name)
            elif act == "done":
                self.done.add(name)
                flying.discard(name)
            elif act == "released":
                flying.discard(name)
        self.in_flight_at_kill += len(flying)

    def check(self, path: str, failed_writes: int = 0) -> None:
        """Hold what was heard against the file; a write that failed, and was tried again, may have used up a number."""
        with Journal.open(path) as journal:
            assert 1 == journal.summary().schema
            assert "ok" == journal._writer.execute("PRAGMA integrity_check").fetchone()[0]
            there = dict(journal._writer.execute("SELECT custom_id, status FROM requests").fetchall())
            assert set() == self.added - set(there), "accepted and lost"
            ids = [found[0] for found in journal._writer.execute("SELECT id FROM requests ORDER BY id")]
            holes = set(range(1, max(ids, default=0) + 1)) - set(ids)
            assert len(holes) <= failed_writes, "a hole among the survivors"
            assert set() == {name for name in self.done if there[name] != "completed"}
            results = journal._writer.execute(
                "SELECT custom_id, body FROM requests LEFT JOIN results USING (id) WHERE status = 'completed'"
            ).fetchall()
            assert [] == [name for name, body in results if body != answer(name)], "a result was changed"
            attempts = dict(journal._writer.execute("SELECT custom_id, attempts FROM requests").fetchall())
            assert [] == [name for name, times in self.sent.items() if attempts[name] < times], "an uncounted attempt"


def strace(calls: str, inject: str | None = None, out: str = "/dev/null") -> list[str]:
    """Return how to run ``making.py`` with some system calls watched, and one of them spoilt."""
    spoil = [] if inject is None else ["-e", f"inject={inject}"]
    return [
        needs_program("strace"),
        "-f",
        "-y",
        "-qq",
        "-o",
        out,
        "-e",
        f"trace={calls}",
        *spoil,
        sys.executable,
        str(MAKING),
    ]


def run_and_kill(path: str, seed: str, *, after_s: float = 0.0, after_lines: int = 0) -> list[str]:
    """Let ``life`` run until it has said so many lines, or for so long; return all that it said."""
    process = subprocess.Popen([sys.executable, str(MAKING), "life", path, seed], stdout=subprocess.PIPE, text=True)
    heard = [process.stdout.readline() for _ in range(after_lines)]
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(after_s)
    process.send_signal(signal.SIGKILL)
    heard.append(process.stdout.read())  # communicate() would pass over what readline() has in its buffer
    process.communicate(timeout=30)
    assert -signal.SIGKILL == process.returncode
    return [line for line in "".join(heard).split("\n")[:-1] if line]


@pytest.mark.parametrize("kills", [3, pytest.param(12, marks=gate), pytest.param(200, marks=slow)])
def test_killed_at_random_moments_over_one_file(path, kills):
    """
    Start-up, recovery, accepting, claiming and finishing are all cut somewhere.

    Every third moment is by the clock and may come before the work begins; the others are after a number of words.
    """
    rng, witness = random.Random(5), Witness()
    cut_early = 0
    for kill in range(kills):
        if kill % 3 == 2:
            lines = run_and_kill(path, str(kill), after_s=rng.uniform(0.0, 0.25))
        else:
            lines = run_and_kill(path, str(kill), after_lines=rng.randrange(2, 200))
        cut_early += "recovered" not in lines
        witness.hear(lines)
        witness.check(path)
    print(
        f"{kills} kills, {cut_early} before work began: {len(witness.added)} accepted, {len(witness.done)} completed, "
        f"{witness.in_flight_at_kill} in flight at a kill, 0 lost, 0 changed"
    )
    assert witness.done
    assert cut_early <= kills / 3


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=gate), pytest.param(200, marks=slow)])
def test_killed_right_after_accepting(path, kills):
    for kill in range(kills):
        process = subprocess.Popen(
            [sys.executable, str(MAKING), "add_and_wait", path, str(kill)], stdout=subprocess.PIPE, text=True
        )
        assert f"added c-{kill}\n" == process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)

    with Journal.open(path) as journal:
        assert [f"c-{kill}" for kill in range(kills)] == [row.custom_id for row in journal.pending(limit=kills + 1)]


@pytest.mark.parametrize(
    ("call", "numbers"),
    [
        pytest.param("pwrite64", (1, 2, 7, 30), marks=gate),
        pytest.param("fdatasync", (1, 2, 7, 30), marks=gate),
        *(pytest.param(call, range(1, 81), marks=slow) for call in ("pwrite64", "fdatasync", "ftruncate")),
    ],
)
def test_killed_at_every_single_system_call_from_creation_on(tmp_path, call, numbers):
    """
    A new file each time, killed at its Nth write (sync, truncation), N = 1, 2, 3 … : opening again always works.
    """
    kills = 0
    for number in numbers:
        path = str(tmp_path.resolve() / f"{call}-{number}.db")
        traced = subprocess.Popen(
            [*strace(call, f"{call}:signal=SIGKILL:when={number}"), "life", path, "s"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            out, err = traced.communicate(timeout=3 if call == "ftruncate" else 30)
        except subprocess.TimeoutExpired:
            _kill_tree(traced)
            out, err = traced.communicate(timeout=30)
            if call != "ftruncate":
                raise
            break
        if "ptrace" in err.lower() or "not permitted" in err.lower():
            pytest.skip(f"strace may not trace here: {err.strip()[:80]}")
        kills += 1
        witness = Witness()
        witness.hear([line for line in out.split("\n")[:-1] if line])
        witness.check(path)
        for name in tmp_path.glob(f"{call}-{number}.db*"):
            name.unlink()
    print(f"{kills} kills at {call}")
    assert kills >= (len(numbers) if call != "ftruncate" else 1)


def _kill_tree(process: subprocess.Popen[str]) -> None:
    """Kill what strace runs, then strace itself, each by its own number."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pids = re.findall(r"\d+", children.read_text()) if children.exists() else []
    for pid in pids:
        subprocess.run(["kill", "-KILL", pid], check=False)
    process.kill()


@pytest.mark.parametrize(
    ("fault", "numbers"),
    [
        pytest.param("pwrite64:error=ENOSPC", range(12, 32, 4), marks=gate),
        *(
            pytest.param(fault, range(1, 41), marks=slow)
            for fault in ("pwrite64:error=ENOSPC", "fdatasync:error=EIO", "pwrite64:error=EIO")
        ),
    ],
)
def test_an_error_at_every_single_system_call_is_typed_and_loses_nothing(tmp_path, fault, numbers):
    """
    Not killed, refused: the Nth write or sync fails once. Whatever was said to be accepted is there.
    """
    typed = 0
    for number in numbers:
        path = str(tmp_path.resolve() / f"{number}.db")
        call = fault.split(":")[0]
        traced = subprocess.run(
            [*strace(call, f"{fault}:when={number}"), "some", path],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if "ptrace" in traced.stderr.lower():
            pytest.skip("strace may not trace here")
        lines = traced.stdout.split("\n")[:-1]
        assert not [line for line in lines if line.startswith("raw")], lines
        typed += sum(line.startswith("typed") for line in lines)
        witness = Witness()
        witness.hear(lines)
        witness.check(path, failed_writes=1)
    assert typed >= len(numbers) / 8  # a sync may carry several changes, so there are few


@gate
def test_nothing_is_acknowledged_before_the_disk_has_it(tmp_path, path):
    """
    A kill proves nothing about a power cut; the order of system calls does: write, sync, only then the word.
    """
    trace = tmp_path / "trace"

    done = subprocess.run(
        [*strace("write,pwrite64,fdatasync,fsync", out=str(trace)), "life", path, "s", "60"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "ptrace" in done.stderr.lower():
        pytest.skip("strace may not trace here")

    acknowledged, is_synced, is_new = 0, False, False
    for line in trace.read_text().splitlines():
        if "pwrite64(" in line and "-wal>" in line:
            is_synced, is_new = False, True
        elif "sync(" in line and "-wal>" in line:
            is_synced = True
        elif re.search(r'write\(1<.*"(added|sent|done) ', line):
            assert is_new, line
            assert is_synced, line
            acknowledged += 1
            is_new = False
    assert acknowledged >= 100


@slow
def test_a_million_pending_rows_are_there_at_once(path):
    """
    Opening within 5 s, the first page and the one after half a million within 1 s, counting within 1 s.
    """
    payload = b'{"messages":[{"role":"user","content":"' + b"x" * 400 + b'"}]}'
    with Journal.open(path, durability="normal") as journal:
        for start in range(0, 1_000_000, 20_000):
            journal.add_many(
                Entry(f"i{n}", f"c{n}", "m", "m", "chat/completions", n % 3, "d", payload, PromptSize(1, 1), 1)
                for n in range(start, start + 20_000)
            )

    began = time.perf_counter()
    with Journal.open(path) as journal:
        journal.recover()
        opened_s = time.perf_counter() - began
        began = time.perf_counter()
        first = journal.pending(limit=1_000)
        journal.claim(first[0].row_id)
        first_s = time.perf_counter() - began
        middle = first[0].cursor._replace(priority=1, row_id=500_000)
        began = time.perf_counter()
        page = journal.pending(after=middle, limit=1_000)
        middle_s = time.perf_counter() - began
        began = time.perf_counter()
        counts = journal.counts()
        counted_s = time.perf_counter() - began

    print(f"open {opened_s:.3f} s, first page {first_s:.3f} s, middle {middle_s:.3f} s, counts {counted_s:.3f} s")
    assert 1_000 == len(first) == len(page)
    assert 999_999 == counts["pending"]
    assert opened_s < 5
    assert max(first_s, middle_s, counted_s) < 1


def test_the_witness_misses_what_was_lost(path):
    """
    The witness itself: a row that was said to be accepted and is not there.
    """
    witness = Witness()
    with Journal.open(path):
        pass
    witness.hear(["added c-1"])

    with pytest.raises(AssertionError, match="lost"):
        witness.check(path)
