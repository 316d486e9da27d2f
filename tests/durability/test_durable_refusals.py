"""A journal that cannot be used: a typed error that names the path and the cure, and nothing sent or changed."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from groq_queue.errors import JournalError
from groq_queue.simulator import GroqSimulator

from .conftest import LIVING, Simulate, rows_of
from .living import MODEL, opened

Run = Callable[..., list[str]]
gate = pytest.mark.gate

_LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
import threading
threading.Event().wait(float(sys.argv[2]))
connection.execute("ROLLBACK")
print("free", flush=True)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[GroqSimulator]:
    """One server for all of this file; who asks what it saw, asks what it has seen since."""
    with GroqSimulator(models=[MODEL]) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def used_bytes(server: GroqSimulator, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A journal in which sixty requests have been answered and three wait."""
    path = str(tmp_path_factory.mktemp("used") / "run.db")
    with opened(path, server.base_url, durability="normal", max_pending=None) as queue:
        for number in range(60):
            queue.submit(f"n{number} " + "x" * 2_000, custom_id=f"n{number}", max_completion_tokens=16)
        assert queue.join(30)
        queue.pause()
        for number in range(3):
            queue.submit(f"waits {number}", custom_id=f"w{number}")
        queue.shutdown(cancel_futures=True)
    assert {"completed": 60, "pending": 3} == Counter(row.status for row in rows_of(path, Path(path).parent).values())
    return Path(path).read_bytes()


@pytest.fixture
def used(path: str, used_bytes: bytes) -> str:
    """A journal of its own in which sixty requests have been answered and three wait: if it were opened, they go."""
    Path(path).write_bytes(used_bytes)
    return path


def refusal_of(path: str, server: GroqSimulator) -> str:
    """Open the journal, so that what waits in it would be sent, and return what was said instead, at once."""
    before = len(server.log)
    begin = time.monotonic()
    with pytest.raises(JournalError) as caught:
        opened(path, server.base_url).shutdown()
    assert time.monotonic() - begin <= 4, "a lock would have been waited for longer"
    assert f"journal {os.path.realpath(path)}: " in str(caught.value)
    assert before == len(server.log)
    return str(caught.value)


@pytest.mark.parametrize("part", [n / 21 for n in range(1, 21)])
def test_a_truncated_file_is_refused_as_it_is(part: float, used: str, server: GroqSimulator) -> None:
    """
    At twenty points; restored, it works, and only what waited and what is new is sent.
    """
    whole = Path(used).read_bytes()
    cut = whole[: round(len(whole) * part)]
    Path(used).write_bytes(cut)

    said = refusal_of(used, server)

    assert "damaged; restore an export" in said or "restore it from a copy" in said
    assert cut == Path(used).read_bytes()
    Path(used).write_bytes(whole)
    before = len(server.log)
    with opened(used, server.base_url, durability="normal") as queue:
        assert queue.submit("new", custom_id="new").result(timeout=10).text
    assert {"new", "waits 0", "waits 1", "waits 2"} == {record.prompt for record in server.log[before:]}
    assert 4 == len(server.log) - before


@pytest.mark.parametrize("seed", range(5))
def test_a_file_of_random_bytes_is_refused_as_it_is(seed: int, path: str, server: GroqSimulator) -> None:
    """
    Whatever their number.
    """
    rubbish = random.Random(seed).randbytes((10, 600, 4_096, 50_000, 200_000)[seed])
    Path(path).write_bytes(rubbish)

    said = refusal_of(path, server)

    assert "no SQLite file" in said
    assert rubbish == Path(path).read_bytes()


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_page_is_found_before_anything_is_sent(seed: int, used: str, server: GroqSimulator) -> None:
    """
    Random bytes in the middle of an otherwise good file.
    """
    rng = random.Random(seed)
    damaged = bytearray(Path(used).read_bytes())
    page = 4_096 * rng.randrange(1, len(damaged) // 4_096)
    damaged[page : page + 64] = rng.randbytes(64)
    Path(used).write_bytes(damaged)

    said = refusal_of(used, server)

    assert "damaged; restore an export" in said
    assert bytes(damaged) == Path(used).read_bytes()


def test_a_newer_schema_is_refused_as_it_is(used: str, server: GroqSimulator) -> None:
    """
    The cure is a newer release.
    """
    connection = sqlite3.connect(used)
    connection.execute("PRAGMA user_version = 1000")
    connection.close()
    before = Path(used).read_bytes()

    said = refusal_of(used, server)

    assert "upgrade groq-queue" in said
    assert before == Path(used).read_bytes()


def test_a_file_of_another_program_is_refused_as_it_is(path: str, server: GroqSimulator) -> None:
    """
    A good SQLite file, but not ours.
    """
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (text)")
    connection.close()
    before = Path(path).read_bytes()

    said = refusal_of(path, server)

    assert "another program" in said
    assert before == Path(path).read_bytes()


@pytest.mark.parametrize(("name", "cure"), [(".", "name a file in it"), ("no/such/run.db", "create it first")])
def test_a_place_where_no_file_can_be_is_refused(name: str, cure: str, tmp_path: Path, server: GroqSimulator) -> None:
    """
    A directory, and a file in a directory that is missing; nothing is made.
    """
    said = refusal_of(str(tmp_path / name), server)

    assert cure in said
    assert [] == os.listdir(tmp_path)


@gate  # the journal by itself is tried in every run: tests/journal/test_journal_opener.py
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs a user who may become another")
@pytest.mark.parametrize("modes", [(0o444, 0o777), (0o666, 0o555)], ids=["file", "folder"])
def test_what_is_read_only_is_refused_as_it_is(modes: tuple[int, int], used: str, server: GroqSimulator) -> None:
    """
    The file, or its directory, in which SQLite needs a place for its log.
    """
    sent = len(server.log)
    script = (
        f"import os, sys; sys.path.insert(0, {str(LIVING.parent)!r}); import living, groq_queue.journal; "
        # What is loaded late may lie where another user may not read.
        "from groq_queue.transport.base import default_user_agent; default_user_agent(); "
        "import importlib, pkgutil; names = [found.name for found in pkgutil.walk_packages(groq_queue.__path__, "
        "'groq_queue.')]; [importlib.import_module(name) for name in names if '__main__' not in name]; "
        "os.setuid(65534); living.try_to_open(*sys.argv[1:])"
    )
    with tempfile.TemporaryDirectory() as folder:  # pytest's own may not be entered by others
        there = os.path.join(folder, "run.db")
        shutil.copy(used, there)
        os.chmod(there, modes[0])
        os.chmod(folder, modes[1])
        before = Path(there).read_bytes()
        done = subprocess.run(
            [sys.executable, "-c", script, there, server.base_url],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        after = Path(there).read_bytes()
        names = os.listdir(folder)

    assert 0 == done.returncode, done.stderr
    seconds, said = json.loads(done.stdout)
    assert seconds <= 4
    assert sent == len(server.log)
    assert f"JournalError: journal {there}: " in said
    assert "read-only for this user" in said
    assert before == after
    assert "run.db-wal" not in names


@contextmanager
def _locked(path: str, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Another program that keeps a write lock on the file for a while."""
    process = subprocess.Popen([sys.executable, "-c", _LOCKER, path, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "locked\n" == process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("seconds", [0.2, pytest.param(3, marks=gate)])
def test_a_lock_of_another_program_is_waited_for(seconds: float, path: str, simulate: Simulate) -> None:
    """
    In submit and at the opening; nothing is refused.
    """
    simulator = simulate()
    with opened(path, simulator.base_url) as queue:
        queue.submit("first", custom_id="first").result(timeout=10)
        with _locked(path, seconds):
            begin = time.monotonic()
            future = queue.submit("second", custom_id="second")
            waited = time.monotonic() - begin
            assert future.result(timeout=10).text
    with _locked(path, seconds), opened(path, simulator.base_url) as queue:
        assert queue.submit("third", custom_id="third").result(timeout=10).text

    assert seconds / 2 <= waited
    assert ["first", "second", "third"] == [record.prompt for record in simulator.log]


@pytest.mark.slow
def test_a_lock_of_45_seconds_is_a_typed_error(path: str, tmp_path: Path, simulate: Simulate) -> None:
    """
    After half a minute; the request is not sent, and the queue works when the lock is gone.
    """
    simulator = simulate()
    with opened(path, simulator.base_url) as queue:
        queue.submit("first", custom_id="first").result(timeout=10)
        with _locked(path, 45) as locker:
            begin = time.monotonic()
            with pytest.raises(JournalError, match="another program holds a lock") as caught:
                queue.submit("second", custom_id="second")
            waited = time.monotonic() - begin
            assert "unknown" == queue.get("second").status
            assert "free\n" == locker.stdout.readline()
        assert queue.submit("third", custom_id="third").result(timeout=10).text

    assert 25 <= waited <= 35
    assert path in str(caught.value)
    assert ["first", "third"] == [record.prompt for record in simulator.log]
    assert {"first", "third"} == set(rows_of(path, tmp_path))


def test_a_full_disk_refuses_and_space_cures(path: str, tmp_path: Path, simulate: Simulate, run: Run) -> None:
    """
    The refused are never sent, the accepted all are, and the next one is taken when there is space again.
    """
    simulator = simulate(log_size=1_000)

    accepted, refused, errors = json.loads(run("full_disk", path, simulator.base_url)[-1])

    sent = sorted(record.prompt.split()[0] for record in simulator.log)
    assert len(accepted) >= 5
    assert len(refused) >= 5
    assert len(refused) == len(errors)
    assert all(path in said and "free some space" in said for said in errors)
    assert sorted(["first", "after", *accepted]) == sent
    assert set(sent) == set(rows_of(path, tmp_path))


def test_what_cannot_be_counted_is_not_sent(path: str, tmp_path: Path, simulate: Simulate, run: Run) -> None:
    """
    The disk is full when the sending begins: nothing is sent uncounted, nothing accepted is lost.
    """
    simulator = simulate(log_size=1_000)

    kinds = json.loads(run("full_disk_later", path, simulator.base_url)[-1])
    before = rows_of(path, tmp_path)
    early = [record.prompt for record in simulator.log]
    run("drain", path, simulator.base_url)
    after = rows_of(path, tmp_path)

    print(f"{kinds}, {len(early)} sent with the disk full")
    assert {"JournalError": 40} == kinds
    assert [] == early
    assert {("pending", 0)} == {row[:2] for row in before.values()}
    assert {f"n{number}" for number in range(40)} == set(after)
    assert {"completed"} == {row.status for row in after.values()}
    sent: Any = [record.prompt for record in simulator.log]
    assert all(after[name].attempts >= sent.count(name) >= 1 for name in after)
