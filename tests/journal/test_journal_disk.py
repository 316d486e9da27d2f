"""What the operating system is asked for: files, syncs, locks and permissions, and what is said when it refuses."""

from __future__ import annotations

import errno
import gc
import os
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groq_queue.clock import FakeClock
from groq_queue.errors import ConfigurationError, JournalError
from groq_queue.journal import Journal, Reader, opener, owner_lock

from .making import entry

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")


@pytest.fixture
def synced(monkeypatch) -> list[str]:
    """The names of what was synced, in order."""
    names: list[str] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        names.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note)
    return names


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_a_new_name_and_what_was_exported_survive_a_power_cut(path, tmp_path, synced):
    """
    The directory is synced when a name is new, a copy is synced before its name.
    """
    folder = os.path.basename(os.path.dirname(path))
    with Journal.open(path) as journal:
        made = list(synced)
        journal.add(entry(1))
        journal.export(tmp_path / "copy.db")
        journal.export_batch(tmp_path / "rest.jsonl")
    exported = synced[len(made) :]
    with Journal.open(path):
        pass

    assert [folder] == made
    assert ["copy.db", folder, "rest.jsonl", folder] == exported == synced[1:]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_no_descriptor_stays_open(path, tmp_path):
    """
    After an opening that works, one that is refused by the owner, by the file or by the place, and after exports.
    """
    rubbish, newer = str(tmp_path / "rubbish.db"), str(tmp_path / "newer.db")
    Path(rubbish).write_bytes(b"x" * 5_000)
    Journal.open(newer).close()
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    Path(path + "2").touch()

    def open_all() -> int:
        with Journal.open(path) as journal:
            journal.add(entry(1))
            for bad in (path, rubbish, newer):
                with pytest.raises(JournalError):
                    Journal.open(bad)
            with Reader.open(path) as reader:
                assert 1 == reader.counts()["pending"]
            for copy in ("copy.db", "rest.jsonl"):
                (journal.export if copy == "copy.db" else journal.export_batch)(tmp_path / copy)
                os.unlink(tmp_path / copy)
        return len(os.listdir("/proc/self/fd"))

    first = open_all()

    assert [first] * 3 == [open_all() for _ in range(3)]


def test_a_connection_that_was_closed_belongs_to_nobody_any_more(path):
    """
    While it is open one reference is nobody's, so that a forked child cannot free it; the end takes that back, once.

    Two who close at the same moment are one end.
    """
    plain = sqlite3.connect(path + ".plain")
    plain.execute("SELECT 1")
    before = sys.getrefcount(plain)
    plain.close()
    dropped = before - sys.getrefcount(plain)
    journal = Journal.open(path)
    connections = journal._connection, journal._writer
    counts = [sys.getrefcount(each) for each in connections]
    journal._reading = MetAtTheDoor(2)  # type: ignore[assignment]

    threads = [threading.Thread(target=journal.close) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()

    counts_then = [sys.getrefcount(each) for each in connections]
    [base] = [sys.getrefcount(each) for each in (plain,)]  # of one that is held by a name and in a tuple
    assert [base, base + 1] == counts_then  # the journal's writer is held in two places
    assert [dropped + 1] * 2 == [count - then for count, then in zip(counts, counts_then, strict=True)]


class MetAtTheDoor:
    """A lock that nobody takes before all have come to it."""

    def __init__(self, count: int) -> None:
        self._all, self._lock = threading.Barrier(count), threading.Lock()

    def __enter__(self) -> None:
        self._all.wait(10)
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def fail(call: str, number: int, when: Callable[..., bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the operating system refuse one kind of *call*."""
    real = getattr(os, call)

    def refuse(*arguments: Any, **options: Any) -> Any:
        if when(*arguments):
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, refuse)


@pytest.mark.parametrize("places", [["opener.reader"], ["journal.keep", "reader.keep"]], ids=["reader", "keep"])
def test_an_opening_that_fails_at_its_end_leaves_nothing_behind(path, monkeypatch, places):
    """
    No owner, no connection, and nothing that fails once more when it is freed.
    """

    def refuse(*_: Any) -> Any:
        raise JournalError("no more")

    Journal.open(path).close()
    for place in places:
        monkeypatch.setattr(f"groq_queue.journal.{place}", refuse)

    with pytest.raises(JournalError, match="no more"):
        Journal.open(path)
    left = sorted(os.listdir(os.path.dirname(path)))
    with pytest.raises(JournalError, match="no more"):
        Reader.open(path)
    gc.collect()

    monkeypatch.undo()
    assert ["run.db", "run.db.lock"] == left
    with Journal.open(path) as journal:
        assert journal.add(entry(1)).is_new


def test_a_reader_waits_five_seconds_for_a_lock_and_an_owner_half_a_minute(path):
    with Journal.open(path) as journal, Reader.open(path) as reader:
        waits = [each._connection.execute("PRAGMA busy_timeout").fetchone()[0] for each in (reader, journal)]

    assert [5_000, 30_000] == waits


def test_a_file_that_cannot_be_made_is_refused_and_nobody_owns_it(path, monkeypatch):
    fail("open", errno.ENOSPC, lambda name, *_: name == path, monkeypatch)

    with pytest.raises(JournalError, match=r"it cannot be created .No space left on device"):
        Journal.open(path)

    monkeypatch.undo()
    with Journal.open(path) as journal:
        assert journal.add(entry(1)).is_new


def test_a_lock_file_that_cannot_be_opened_is_named(path, monkeypatch):
    fail("open", errno.EACCES, lambda name, *_: str(name).endswith(".lock"), monkeypatch)

    with pytest.raises(JournalError, match=r"its lock file .*run\.db\.lock cannot be opened .Permission denied"):
        Journal.open(path)
    assert not os.path.exists(path)


@posix
def test_a_file_system_without_locks_is_refused(path, monkeypatch):
    import fcntl

    def flock(fd: int, flags: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)

    with pytest.raises(JournalError, match=r"cannot lock files .No locks available.*put it on a local disk"):
        Journal.open(path)
    assert not os.path.exists(path)


def test_a_file_system_without_a_write_ahead_log_is_refused(path, monkeypatch):
    connect = opener.connect

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> Any:
            return super().execute("PRAGMA journal_mode = DELETE" if "journal_mode = WAL" in sql else sql, *values)

    def connect_without(*arguments: Any) -> sqlite3.Connection:
        connect(*arguments).close()
        return sqlite3.connect(arguments[0], isolation_level=None, factory=Connection)

    monkeypatch.setattr(opener, "connect", connect_without)

    with pytest.raises(JournalError, match="allows no write-ahead log; put it on a local disk"):
        Journal.open(path)

    monkeypatch.undo()
    Journal.open(path).close()


def test_a_full_disk_at_an_export_is_told_and_leaves_no_file(journal, tmp_path, monkeypatch):
    journal.add(entry(1))
    fail("fsync", errno.ENOSPC, lambda fd: True, monkeypatch)

    for export in (journal.export, journal.export_batch):
        with pytest.raises(OSError, match="No space left"):
            export(tmp_path / "half")
        assert not (tmp_path / "half").exists()


def test_batch_lines_that_cannot_be_written_are_refused_by_name(journal, tmp_path, monkeypatch):
    import builtins

    real = open

    def no_room(file: Any, *arguments: Any, **options: Any) -> Any:
        if str(file).endswith("half"):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return real(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", no_room)
    with pytest.raises(JournalError, match=r"half cannot be written .Disk quota exceeded"):
        journal.export_batch(tmp_path / "half")

    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("bad", ["half \udcff.db", "x" * 300])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, bad):
    with pytest.raises((ConfigurationError, JournalError), match=r"use the path of a file|File name too long; check"):
        Journal.open(tmp_path / bad)
    assert [] == os.listdir(tmp_path)


@pytest.mark.parametrize("content", [None, b""])
def test_what_has_to_be_there_is_not_made(path, content):
    """
    For a command that works on what a queue has left, and for whoever only looks.
    """
    if content is not None:
        Path(path).write_bytes(content)

    for look in (Reader.open, lambda name: Journal.open(name, may_make=False)):
        with pytest.raises(JournalError, match="no such file; check" if content is None else "file is empty"):
            look(path)

    assert (content is not None) is os.path.exists(path)
    assert not os.path.exists(path + ".lock")
    Journal.open(path).close()
    Journal.open(path, may_make=False).close()


@pytest.mark.parametrize(
    ("name", "said"),
    [(".", "this is a directory"), ("none/run.db", "does not exist"), ("rubbish.db", "this is no SQLite file")],
)
def test_whoever_looks_is_told_at_once_what_is_no_journal(tmp_path, name, said):
    (tmp_path / "rubbish.db").write_bytes(b"x" * 5_000)

    with pytest.raises(JournalError, match=said):
        Reader.open(tmp_path / name)
    assert ["rubbish.db"] == os.listdir(tmp_path)


@pytest.mark.parametrize(("size", "said"), [(511, "511 bytes are no SQLite file"), (512, "another program")])
def test_the_smallest_sqlite_file_has_512_bytes(path, size, said):
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA page_size = 512")
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    assert 512 == os.path.getsize(path)
    os.truncate(path, size)

    with pytest.raises(JournalError, match=said):
        Journal.open(path)


@pytest.mark.parametrize(("more", "is_checked"), [(0, True), (1, False)])
def test_a_file_of_32_mb_is_checked_at_the_opening_and_a_larger_one_is_not(path, more, is_checked):
    """
    Up to there it takes a tenth of a second; the damage is in a table that nobody reads.
    """
    Journal.open(path, durability="normal").close()
    most = 32 * 1024 * 1024 // 4_096 + more
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("CREATE TABLE padding (bytes BLOB)")
    while (pages := connection.execute("PRAGMA page_count").fetchone()[0]) < most:
        room = (most - pages) * 4_092 - 20_000  # a row longer than a page takes pages of its own
        connection.execute("INSERT INTO padding VALUES (zeroblob(?))", (max(room, 1_000),))
    root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'padding'").fetchone()[0]
    connection.close()
    assert most * 4_096 == os.path.getsize(path)
    with open(path, "r+b") as file:
        file.seek((root - 1) * 4_096)
        file.write(b"\xff" * 100)

    if is_checked:
        with pytest.raises(JournalError, match="damaged; restore an export"):
            Journal.open(path)
    else:
        with Journal.open(path) as journal:
            assert journal.add(entry(1)).is_new


@posix
@pytest.mark.parametrize("is_in_use", [False, True])
def test_what_lies_in_a_read_only_directory_can_be_looked_at(is_in_use):
    """
    SQLite wants to make files beside it even for reading; a file at rest is read without them, one in use with them,
    or what stands in its log would be missed. As an ordinary user.
    """
    with tempfile.TemporaryDirectory() as place:
        path = os.path.join(os.path.realpath(place), "run.db")
        journal = Journal.open(path)
        journal.add_many([entry(number) for number in range(1 + is_in_use)])
        with Reader.open(path) as reader:
            expected = reader.counts()["pending"]
        if not is_in_use:
            journal.close()
        assert is_in_use is os.path.exists(path + "-wal")
        for name in os.listdir(place):
            os.chmod(os.path.join(place, name), 0o644)
        os.chmod(place, 0o555)
        hears, tells = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                os.write(tells, str(Reader.open(path).counts()["pending"]).encode())
            except BaseException as error:
                os.write(tells, f"{type(error).__name__}: {error}".encode())
            finally:
                os._exit(0)
        os.close(tells)
        with os.fdopen(hears) as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        os.chmod(place, 0o700)
        journal.close()

    assert 1 + is_in_use == expected
    assert str(expected) == said


class TestTheTextOfTheLock:
    def test_it_tells_the_pid_and_since_when_and_is_gone_with_the_owner(self, path):
        with Journal.open(path):
            text = Path(path + ".lock").read_text()
            assert os.getpid() == owner_lock.owner_of(path)

        assert text.startswith(f"pid {os.getpid()} since 20")
        assert text.endswith("Z\n")
        assert "" == Path(path + ".lock").read_text()
        assert None is owner_lock.owner_of(path)

    def test_a_longer_text_of_somebody_before_is_replaced(self, path):
        Path(path + ".lock").write_text("pid 1 since the beginning, and much more than we write\n" * 3)

        with Journal.open(path):
            assert 1 == len(Path(path + ".lock").read_text().splitlines())

    @pytest.mark.parametrize("text", ["", "rubbish\n", "pid none\n", f"pid {2**22 + 1} since then\n"])
    def test_a_text_that_names_nobody_alive_is_nobodys(self, path, text):
        """
        The last is above the largest pid there can be.
        """
        Path(path + ".lock").write_text(text)

        assert None is owner_lock.owner_of(path)
        Journal.open(path).close()

    def test_another_users_process_is_alive(self, path, monkeypatch):
        def kill(pid: int, signal: int) -> None:
            assert (77, 0) == (pid, signal)
            raise PermissionError

        monkeypatch.setattr(os, "kill", kill)
        Path(path + ".lock").write_text("pid 77 since then\n")

        assert 77 == owner_lock.owner_of(path)

    def test_an_owner_whose_text_is_missing_is_unknown(self, path, journal):
        """
        A full disk may have kept it from being written; the lock is what counts.
        """
        os.truncate(path + ".lock", 0)

        with pytest.raises(JournalError, match=r"another process \(pid unknown\) has it open"):
            Journal.open(path)


def test_the_clock_that_is_given_dates_every_row(path):
    clock = FakeClock()
    with Journal.open(path, clock=clock) as journal:
        journal.add_many([entry(number) for number in range(3)])
        began = round(clock.wall_s() * 1e9)
        journal.claim(1)
        clock.advance(5)
        journal.finish(1, "completed")
        journal.finish(2, "failed")
        clock.advance(59)
        last = journal.summary().completed_last_minute
        with Reader.open(path, clock=clock) as reader:
            seen = reader.summary().completed_last_minute
        clock.advance(1)

        stored = journal.get("c-0")
        assert (began, began + 5_000_000_000) == (stored.claimed_ns, stored.finished_ns)
        assert (1, 1, 0) == (last, seen, journal.summary().completed_last_minute)
