"""What may be opened, what is refused, and that the refused is left as it was."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from groq_queue.errors import ConfigurationError, JournalError
from groq_queue.journal import Journal, Reader, opener, schema
from groq_queue.sqlite_file import network_kind

from .making import entry


def fingerprint(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def refused(path: str, *words: str) -> None:
    """Opening fails with an error that names the path, at once, and leaves the file as it was."""
    before = fingerprint(path) if os.path.isfile(path) else None
    with pytest.raises(JournalError) as caught:
        Journal.open(path, busy_timeout_s=0.5)
    for word in (path, *words):
        assert word in str(caught.value)
    if before is not None:
        assert before == fingerprint(path)


@pytest.fixture(scope="module")
def filled_bytes(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("filled").resolve() / "run.db")
    with Journal.open(path, durability="normal") as journal:
        journal.add_many([entry(number) for number in range(300)])
        for row_id in range(1, 50):
            journal.finish(row_id, "completed", result=b"{}" * 200)
    return Path(path).read_bytes()


@pytest.fixture
def filled(path, filled_bytes):
    """A journal of 300 requests, closed."""
    Path(path).write_bytes(filled_bytes)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_every_file_is_for_this_user_alone(path):
    """
    Prompts are private: under the usual umask the main file and all beside it are 0600.
    """
    before = os.umask(0o022)
    try:
        with Journal.open(path) as journal, Reader.open(path):
            journal.add(entry(1))
            journal.export(path + ".copy")
            journal.export_batch(path + ".jsonl")
            names = sorted(os.listdir(os.path.dirname(path)))
            modes = {stat.S_IMODE(os.stat(os.path.join(os.path.dirname(path), name)).st_mode) for name in names}
    finally:
        os.umask(before)

    assert ["run.db", "run.db-shm", "run.db-wal", "run.db.copy", "run.db.jsonl", "run.db.lock"] == names
    assert {0o600} == modes


def test_what_is_closed_leaves_one_file_and_its_lock(path):
    with Journal.open(path) as journal:
        journal.add(entry(1))

    assert ["run.db", "run.db.lock"] == sorted(os.listdir(os.path.dirname(path)))


@pytest.mark.parametrize("bad", [None, 5, "", ":memory:", "a\0b", b"bytes.db", ["run.db"]])
def test_what_is_no_path_is_refused_by_name(bad):
    with pytest.raises(ConfigurationError, match="journal="):
        Journal.open(bad)


@pytest.mark.parametrize(
    "bad", [{"durability": "off"}, {"durability": None}, {"busy_timeout_s": 0}, {"busy_timeout_s": "5"}]
)
def test_bad_options_are_refused_by_name(path, bad):
    with pytest.raises(ConfigurationError, match=next(iter(bad))):
        Journal.open(path, **bad)
    assert not os.path.exists(path)


def test_odd_names_are_just_names(tmp_path):
    for name in ("a b?mode=ro#x%20.db", "äöü.db", "file:x", "-wal"):
        with Journal.open(tmp_path / name) as journal:
            journal.add(entry(1))
        assert (tmp_path / name).stat().st_size


def test_a_link_is_followed_to_the_one_owner(tmp_path):
    """
    Two names of one file are one journal.
    """
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")

    with Journal.open(tmp_path / "link.db"):
        refused(str(tmp_path.resolve() / "real.db"), "has it open")


def test_a_missing_directory_is_not_made(tmp_path):
    refused(str(tmp_path.resolve() / "none" / "run.db"), "does not exist")
    assert [] == os.listdir(tmp_path)


def test_a_directory_is_refused(tmp_path):
    refused(str(tmp_path.resolve()), "is a directory")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_a_pipe_is_refused(path):
    os.mkfifo(path)

    with pytest.raises(JournalError, match="not a regular file"):
        Journal.open(path)


def test_another_programs_file_is_refused(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE requests (id)")
    connection.close()

    refused(path, "another program")


@pytest.mark.parametrize("content", [b"x", b"hello\n" * 1000, b"\0" * 4096, b"SQLite format 3\0", os.urandom(8192)])
def test_what_is_no_database_is_refused(path, content):
    Path(path).write_bytes(content)

    refused(path)


def test_an_empty_file_is_a_new_journal(path):
    Path(path).touch()

    with Journal.open(path) as journal:
        assert journal.add(entry(1)).is_new


def test_an_empty_file_beside_its_log_is_no_new_journal(path):
    """
    SQLite would delete the log, and with it what may be all that is left.
    """
    Path(path).touch()
    Path(path + "-wal").write_bytes(b"x" * 5000)

    refused(path, "-wal")
    assert 5000 == os.path.getsize(path + "-wal")


def test_a_file_that_a_crash_left_without_schema_is_a_new_journal(path):
    """
    WAL is on, no table is there, version 0: the window in which others refuse the file for ever.
    """
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    assert os.path.getsize(path)

    with Journal.open(path) as journal:
        assert journal.add(entry(1)).is_new


@pytest.mark.parametrize("part", range(1, 21))
def test_a_truncated_file_is_refused(filled, part):
    size = os.path.getsize(filled)
    os.truncate(filled, size * part // 21)

    refused(filled)


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_never_come_out_as_a_raw_error_or_a_wrong_payload(filled, seed):
    rng = random.Random(seed)
    with open(filled, "r+b") as file:
        file.seek(rng.randrange(os.path.getsize(filled) - 600))
        file.write(rng.randbytes(600))
    before = fingerprint(filled)

    handed_out, told = 0, []
    try:
        journal = Journal.open(filled)
    except JournalError as error:
        told.append(str(error))
    else:
        with journal:
            for number in range(300):
                try:
                    stored = journal.get(f"c-{number}")
                    if stored.status == "pending":
                        assert entry(number).payload == journal.payload(stored.row_id)
                        handed_out += 1
                except JournalError as error:
                    told.append(str(error))
    assert handed_out or told
    assert all(filled in error for error in told)
    assert handed_out or before == fingerprint(filled)


def test_a_damaged_file_above_the_size_that_is_checked_fails_typed_when_read(filled, monkeypatch):
    monkeypatch.setattr(opener, "_CHECKED_BYTES", 0)
    with open(filled, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (os.path.getsize(filled) - 4096))

    with pytest.raises(JournalError, match=r"damaged|\.recover"):
        Journal.open(filled)


class TestVersions:
    def test_a_new_file_says_what_it_is(self, filled):
        connection = sqlite3.connect(filled)
        facts = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        connection.close()

        assert [int.from_bytes(b"GRQJ", "big"), 1] == facts

    def test_a_newer_file_is_refused_untouched(self, filled):
        connection = sqlite3.connect(filled)
        connection.execute("PRAGMA user_version = 2")
        connection.close()

        refused(filled, "version 2", "up to 1", "upgrade")
        with pytest.raises(JournalError, match="version 2"):
            Reader.open(filled)

    def test_an_older_file_is_migrated_step_by_step(self, path, monkeypatch):
        """
        0 to 1 to 2, and a file of 1 to 2, with its rows.
        """
        two = (
            *schema.MIGRATIONS,
            ("ALTER TABLE requests ADD COLUMN colour TEXT DEFAULT 'red'", "CREATE TABLE more (x)"),
        )
        with Journal.open(path) as journal:
            journal.add(entry(1))

        monkeypatch.setattr(schema, "MIGRATIONS", two)

        for name in (path, path + ".new"):
            with Journal.open(name) as journal:
                journal.add(entry(2))
                assert 2 == journal.summary().schema
                assert [("red",)] == journal._writer.execute("SELECT DISTINCT colour FROM requests").fetchall()
                assert [] == journal._writer.execute("SELECT * FROM more").fetchall()
        with Journal.open(path) as journal:
            assert ["c-1", "c-2"] == [row.custom_id for row in journal.pending()]

    def test_a_migration_that_fails_changes_nothing(self, filled, monkeypatch):
        two = (*schema.MIGRATIONS, ("CREATE TABLE more (x)", "ALTER TABLE nonsense ADD COLUMN y"))
        monkeypatch.setattr(schema, "MIGRATIONS", two)

        with pytest.raises(JournalError, match="nonsense"):
            Journal.open(filled)

        monkeypatch.undo()
        with Journal.open(filled) as journal:
            assert 1 == journal.summary().schema
            assert 0 == journal._writer.execute("SELECT count(*) FROM sqlite_master WHERE name = 'more'").fetchone()[0]

    def test_a_reader_does_not_migrate(self, filled, monkeypatch):
        monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE more (x)",)))

        with pytest.raises(JournalError, match="open it once for writing"):
            Reader.open(filled)


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/home/u", None),
        ("/mnt/share", "nfs4"),
        ("/mnt/share/deep/er", "nfs4"),
        ("/mnt/shareholder", None),
        ("/mnt/share/local", None),
        ("/with space/x", "cifs"),
        ("/ssh", "fuse.sshfs"),
        ("/over", None),
    ],
)
def test_network_file_systems_are_told_by_their_mount(directory, kind):
    mounts = (
        "/dev/sda / ext4 rw 0 0\n"
        "host:/x /mnt/share nfs4 rw 0 0\n"
        "tmpfs /mnt/share/local tmpfs rw 0 0\n"
        "//h/y /with\\040space cifs rw 0 0\n"
        "u@h: /ssh fuse.sshfs rw 0 0\n"
        "host:/x /over nfs rw 0 0\n"
        "/dev/sdb /over ext4 rw 0 0\n"
        "nonsense\n"
    )

    assert kind == network_kind(directory, mounts)


def test_a_network_file_system_is_refused_with_the_reason(path, monkeypatch):
    monkeypatch.setattr("groq_queue.sqlite_file.mounts", lambda: "host:/x / nfs rw 0 0\n")

    refused(path, "network file system (nfs)", "local disk")
    assert not os.path.exists(path)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
@pytest.mark.parametrize(
    ("what", "word"), [("file", "read-only"), ("directory", "read-only"), ("secret", "not readable")]
)
def test_read_only_places_are_refused(what, word):
    """
    As an ordinary user: root may write everywhere, so root lends this test to nobody.
    """
    with tempfile.TemporaryDirectory() as place:
        path = os.path.join(os.path.realpath(place), "run.db")
        Journal.open(path).close()
        for name in (path, path + ".lock"):
            os.chmod(name, 0o666)
        os.chmod(place, 0o777)
        os.chmod(place if what == "directory" else path, {"file": 0o444, "directory": 0o555, "secret": 0o000}[what])
        hears, tells = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                Journal.open(path)
            except BaseException as error:
                os.write(tells, f"{type(error).__name__}: {error}".encode())
            finally:
                os._exit(0)
        os.close(tells)
        with os.fdopen(hears) as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        os.chmod(place, 0o700)

    assert said.startswith("JournalError: ")
    assert path in said
    assert word in said
