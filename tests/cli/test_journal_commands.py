"""``status``, ``export``, ``prune`` and ``retry-failed``: a journal looked after, also while others use it."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from groq_queue.core.token_estimate import PromptSize
from groq_queue.journal import Entry, Journal

from .conftest import Command, Ran, clean_environment

_OWNER = """
import sys
from groq_queue.journal import Journal
journal = Journal.open(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
journal.close()
"""


def entry(name: str, text: str = "hi", priority: int = 5, created_ns: int = 10**18) -> Entry:
    payload = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    return Entry(f"r-{name}", name, "m", "m", "chat/completions", priority, "c", payload, PromptSize(1, 1), created_ns)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A journal with two requests that wait, one on its way, three answered and three failed."""
    name = str(tmp_path.resolve() / "run.db")
    with Journal.open(name) as journal:
        rows = [journal.add(entry(f"{n}")).row_id for n in range(9)]
        for row_id in rows[2:]:
            journal.claim(row_id)
        for row_id in rows[3:6]:
            journal.finish(row_id, "completed", result=b'{"id": "x"}' + b" " * 50_000, usage=(1, 2, 0))
        for row_id, kind in zip(rows[6:], ("poison", "BadRequestError", "poison"), strict=True):
            journal.finish(row_id, "failed", error={"kind": kind, "message": "no"})
    return name


@contextmanager
def owner(path: str) -> Iterator[int]:
    """Another process that has the journal open; its pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", _OWNER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment()
    )
    try:
        assert process.stdout is not None
        assert b"open\n" == process.stdout.readline()
        yield process.pid
    finally:
        process.communicate(timeout=10)


def bytes_of(path: str) -> bytes:
    return Path(path).read_bytes()


# status


def test_status_tells_all_there_is_to_know(path: str, command: Command) -> None:
    """
    As a table for people; what was on its way when the last owner ended is called by its name.
    """
    ran = command("status", "--journal", path)

    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in ran.out.splitlines()}
    assert (0, "") == (ran.code, ran.err)
    assert path == lines["journal"]
    assert "none" == lines["owner"]
    assert "2  the oldest for " in lines["pending"]
    assert "1  in flight when the last owner ended; the next run sends them again or fails them" == lines["processing"]
    assert "3  3 in the last minute" == lines["completed"]
    assert "3  poison 2, BadRequestError 1" == lines["failed"]
    assert ("0", "0") == (lines["cancelled"], lines["expired"])


def test_status_for_machines_is_one_json_object(path: str, command: Command) -> None:
    """
    The same figures, in seconds and bytes.
    """
    told = json.loads(command("status", "--journal", path, "--json").out)

    assert {"pending": 2, "processing": 1, "completed": 3, "failed": 3, "cancelled": 0, "expired": 0} == told["counts"]
    assert {"poison": 2, "BadRequestError": 1} == told["errors_by_kind"]
    assert told["oldest_pending_s"] > 0
    assert (3, None, 1) == (told["completed_last_minute"], told["owner_pid"], told["schema"])
    assert os.path.getsize(path) == told["file_bytes"]


def test_status_of_a_new_journal_has_no_oldest(tmp_path: Path, command: Command) -> None:
    """
    Nothing waits, nothing failed.
    """
    path = tmp_path / "new.db"
    Journal.open(path).close()

    assert json.loads(command("status", "--journal", path, "--json").out)["oldest_pending_s"] is None
    assert "oldest" not in command("status", "--journal", path).out


def test_status_names_the_owner_and_does_not_wait_for_it(path: str, command: Command) -> None:
    """
    Neither for its ownership nor for a write transaction it is in the middle of; the file stays as it is.
    """
    with owner(path) as pid:
        writing = sqlite3.connect(path, isolation_level=None)
        writing.execute("BEGIN IMMEDIATE")
        before = bytes_of(path)

        began = time.monotonic()
        ran = command("status", "--journal", path)

        assert time.monotonic() - began < 5
        assert before == bytes_of(path)
        writing.execute("ROLLBACK")
        writing.close()
    assert f"owner       process {pid}\n" in ran.out
    assert "in flight when" not in ran.out
    assert 0 == ran.code, ran.err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs a user who may become another")
@pytest.mark.parametrize("folder_mode", [0o777, 0o555])
def test_status_reads_what_it_may_not_write(path: str, folder_mode: int) -> None:
    """
    A file of another user, in a folder where nothing can be made or where it can.
    """
    before = bytes_of(path)
    script = (
        "import locale, os, shutil, sys; from groq_queue.cli import main; "
        "import groq_queue.cli, groq_queue.journal; groq_queue.cli.build_parser(); "
        "os.setuid(65534); sys.exit(main(sys.argv[1:]))"
    )

    with tempfile.TemporaryDirectory() as folder:  # pytest's own may not be entered by others
        there = os.path.join(folder, "run.db")
        shutil.copy(path, there)
        os.chmod(there, 0o444)
        os.chmod(folder, folder_mode)
        done = subprocess.run(
            [sys.executable, "-c", script, "status", "--journal", there, "--json"],
            capture_output=True, text=True, timeout=10, env=clean_environment(), check=False,
        )  # fmt: skip
        after = bytes_of(there)

    assert 0 == done.returncode, done.stderr
    assert 3 == json.loads(done.stdout)["counts"]["completed"]
    assert before == after


@pytest.mark.parametrize("name", ["status", "export", "prune", "retry-failed"])
@pytest.mark.parametrize("kind", ["missing", "empty", "folder", "short", "text", "truncated", "newer"])
def test_a_journal_that_cannot_be_used_ends_with_2(name: str, kind: str, path: str, command: Command) -> None:
    """
    One line that names the file and the cure; nothing is made and nothing is changed.
    """
    cure = {"missing": "check the path", "newer": "upgrade groq-queue", "truncated": "restore"}
    cure |= {"folder": "name a file in it", **dict.fromkeys(("empty", "short", "text"), "name another path")}
    where = Path(path)
    if kind == "missing":
        where.unlink()
    elif kind == "empty":
        where.write_bytes(b"")
    elif kind == "folder":
        where.unlink()
        where.mkdir()
    elif kind == "short":
        where.write_text("not a journal")
    elif kind == "text":
        where.write_text("not a database, but longer than a few bytes " * 50)
    elif kind == "truncated":
        where.write_bytes(bytes_of(path)[:5_000])
    else:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
    before = bytes_of(path) if where.is_file() else None
    out = where.parent / "copy.db"

    ran = command(name, "--journal", path, *([out] if name == "export" else []))

    assert 2 == ran.code
    assert f"groq-queue: journal {path}: " in ran.err
    assert cure[kind] in ran.err
    assert 1 == len(ran.err.splitlines())
    assert "" == ran.out
    assert before == (bytes_of(path) if where.is_file() else None)
    assert not out.exists()
    assert kind != "missing" or not where.exists()


# export


def test_export_copies_what_still_stands_in_the_log(path: str, tmp_path: Path, command: Command) -> None:
    """
    While an owner is at work; the copy is a journal by itself.
    """
    copy = tmp_path / "copy.db"
    with Journal.open(path) as journal:
        journal.add(entry("late"))

        ran = command("export", "--journal", path, copy)

    told = json.loads(command("status", "--journal", copy, "--json").out)
    assert 0 == ran.code, ran.err
    assert f"{copy}: a copy of {path}, " in ran.out
    assert 3 == told["counts"]["pending"]
    assert 0o600 == copy.stat().st_mode & 0o777


def test_export_overwrites_nothing(path: str, tmp_path: Path, command: Command) -> None:
    """
    Neither as a copy nor as lines.
    """
    there = tmp_path / "there"
    there.write_text("precious")

    for more in ([], ["--batch"]):
        ran = command("export", "--journal", path, there, *more)

        assert 2 == ran.code
        assert f"{there} exists and is not overwritten" in ran.err
    assert "precious" == there.read_text()


def test_what_waits_becomes_a_batch_file(path: str, tmp_path: Path, command: Command) -> None:
    """
    In the order in which it would go; what is left out is counted, with the command that brings it back.
    """
    with Journal.open(path) as journal:
        journal.add(entry("urgent", priority=0))
    rest = tmp_path / "rest.jsonl"

    ran = command("export", "--journal", path, rest, "--batch")

    lines = [json.loads(line) for line in rest.read_text().splitlines()]
    assert 0 == ran.code
    assert f"{rest}: 3 pending requests of {path}\n" == ran.out
    assert "1 request not exported: in flight when" in ran.err
    assert f"groq-queue retry-failed --journal {path}" in ran.err
    assert ["urgent", "0", "1"] == [line["custom_id"] for line in lines]
    assert {("POST", "/v1/chat/completions")} == {(line["method"], line["url"]) for line in lines}
    assert {"model": "m", "messages": [{"role": "user", "content": "hi"}]} == lines[0]["body"]


# prune


def test_prune_deletes_the_answered_and_makes_the_file_smaller(path: str, command: Command) -> None:
    """
    What failed stays, unless another --keep is given.
    """
    before = os.path.getsize(path)

    first = command("prune", "--journal", path)
    smaller = os.path.getsize(path)
    second = json.loads(command("prune", "--journal", path, "--keep", "completed", "expired", "--json").out)
    counts = json.loads(command("status", "--journal", path, "--json").out)["counts"]

    assert re.fullmatch(r"3 requests deleted; 1\d\d\.\d kB before, \d\d\.\d kB now\n", first.out)
    assert before > 2 * smaller
    assert 3 == second["deleted"]
    assert os.path.getsize(path) == second["bytes"]
    assert {"pending": 2, "processing": 1, "completed": 0, "failed": 0, "cancelled": 0, "expired": 0} == counts


def test_prune_keeps_only_what_has_a_name(path: str, command: Command) -> None:
    """
    A mistyped status deletes nothing.
    """
    before = bytes_of(path)

    ran = command("prune", "--journal", path, "--keep", "complete")

    assert 2 == ran.code
    assert "invalid choice: 'complete'" in ran.err
    assert before == bytes_of(path)


# retry-failed


def test_failed_requests_wait_again_and_so_do_those_a_crash_left_behind(path: str, command: Command) -> None:
    """
    All kinds, and one more that was on its way when the last owner ended.
    """
    ran = command("retry-failed", "--journal", path)

    counts = json.loads(command("status", "--journal", path, "--json").out)["counts"]
    assert 0 == ran.code, ran.err
    assert (
        "pending again: 3 failed requests, and 1 request in flight when the last owner ended\n"
        "in all 6 requests pending: the next run with --journal sends them" in ran.out
    )
    assert (6, 0, 0, 3) == tuple(counts[name] for name in ("pending", "processing", "failed", "completed"))


def test_only_the_named_kinds_wait_again(path: str, command: Command) -> None:
    """
    The others are told.
    """
    told = json.loads(command("retry-failed", "--journal", path, "--kind", "poison", "--json").out)
    ran = command("retry-failed", "--journal", path, "--kind", "no-such-kind")

    assert {"retried": 2, "recovered": 1, "failed": 1, "pending": 5} == told
    assert "pending again: 0 failed requests\nin all 5 requests pending: " in ran.out
    assert "still failed: BadRequestError 1\n" in ran.out


@pytest.mark.parametrize("name", ["prune", "retry-failed"])
def test_what_changes_a_journal_names_the_process_that_has_it_open(name: str, path: str, command: Command) -> None:
    """
    And changes nothing, within a second or so; when that process has ended it works.
    """
    with owner(path) as pid:
        before = bytes_of(path)
        began = time.monotonic()
        refused: Ran = command(name, "--journal", path)
        assert time.monotonic() - began < 5
        assert before == bytes_of(path)

    assert 2 == refused.code
    assert f"journal {path}: another process (pid {pid} since " in refused.err
    assert 0 == command(name, "--journal", path).code


def test_every_command_has_its_help_with_examples(command: Callable[..., Any]) -> None:
    """
    And all are in the list of commands.
    """
    listed = command("--help").out

    for name in ("status", "export", "prune", "retry-failed"):
        told = command(name, "--help")
        assert 0 == told.code
        assert f"groq-queue {name} --journal run.db" in told.out
        assert f"\n    {name}" in listed
