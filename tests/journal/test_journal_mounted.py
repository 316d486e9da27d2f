"""A journal that is mounted by itself, as into a container: its lock and its log would not come with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from groq_queue.errors import JournalError
from groq_queue.journal import Journal, Reader
from groq_queue.sqlite_file import is_mounted

from .making import entry

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/data/run.db", True), ("/data", True), ("/data/run.db-wal", False), ("/data/my run.db", True), ("/x", False)],
)
def test_what_is_mounted_by_itself_is_told_by_the_list_of_mounts(path, expected):
    mounts = "/dev/a / ext4 rw 0 0\n/dev/b /data xfs rw 0 0\n/dev/b /data/run.db xfs rw 0 0\nnonsense\n"
    mounts += "/dev/b /data/my\\040run.db xfs rw 0 0\n"

    assert expected == is_mounted(path, mounts)


def test_a_mounted_journal_is_refused_before_a_byte_is_written_and_may_be_read(path, monkeypatch):
    with Journal.open(path) as journal:
        journal.add(entry(1))
    os.unlink(path + ".lock")
    monkeypatch.setattr("groq_queue.sqlite_file.mounts", lambda: f"/dev/a / ext4 rw 0 0\n/dev/a {path} ext4 rw 0 0\n")

    with pytest.raises(JournalError, match="mount the directory that it is in"):
        Journal.open(path)

    assert not os.path.exists(path + ".lock")
    with Reader.open(path) as reader:
        assert 1 == reader.counts()["pending"]


def test_the_directory_of_a_journal_may_be_mounted(path, monkeypatch):
    monkeypatch.setattr(
        "groq_queue.sqlite_file.mounts", lambda: f"/dev/a / ext4 rw 0 0\n/dev/b {os.path.dirname(path)} xfs rw 0 0\n"
    )

    with Journal.open(path) as journal:
        assert journal.add(entry(1)).is_new


OPEN = """
import sys
from groq_queue.errors import JournalError
from groq_queue.journal import Journal
try:
    Journal.open(sys.argv[1])
except JournalError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts are Linux's here")
@pytest.mark.parametrize("what", ["file", "directory"])
def test_an_owner_keeps_a_second_one_out_under_a_name_that_was_mounted(path, tmp_path, what):
    """
    Two containers as far as a journal sees them: a mount namespace of its own, and one file of two names.
    """
    inside = tmp_path / "inside"
    inside.mkdir()
    seen = inside / os.path.basename(path)
    source, target = (path, seen) if what == "file" else (os.path.dirname(path), inside)
    if what == "file":
        seen.touch()
    mount = ["unshare", "-m", "sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh", source, str(target)]
    Journal.open(path).close()
    try:
        subprocess.run([*mount, "true"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount")
    with Journal.open(path) as journal:
        journal.add(entry(1))

        program = [*mount, sys.executable, "-c", OPEN, str(seen)]
        done = subprocess.run(program, capture_output=True, text=True, timeout=60, cwd=ROOT)

        assert ("mounted here by itself" if what == "file" else "has it open") in done.stdout, done.stderr
        assert journal.add(entry(2)).is_new
        assert "ok" == journal._writer.execute("PRAGMA integrity_check").fetchone()[0]
