"""From a URL to a connection: which file it is, what it says of itself, and the cure in every reason against it."""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groq_queue.errors import ConfigurationError, LimiterUnavailable
from groq_queue.limiters import sqlite
from groq_queue.sqlite_file import FileKind


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "budgets.db")


# -- which file


@pytest.mark.parametrize("url", ["sqlite:///a%00b.db", "sqlite:///:memory:", "sqlite:////", "sqlite://host/b.db"])
def test_what_names_no_file_is_refused_with_examples(url: str) -> None:
    with pytest.raises(ConfigurationError, match="name a file") as caught:
        sqlite.path_of(url)

    assert "sqlite:///var/lib/app/budgets.db" in str(caught.value)


@pytest.mark.parametrize(
    ("platform", "url", "path"),
    [
        ("linux", "sqlite:///C:/b.db", "/C:/b.db"),
        ("linux", "sqlite:///var/b.db", "/var/b.db"),
        ("win32", "sqlite:///C:/b.db", "{cwd}/C:/b.db"),  # which is absolute there
        ("win32", "sqlite:///var/b.db", "/var/b.db"),
    ],
)
def test_a_drive_is_one_on_windows_only(monkeypatch: pytest.MonkeyPatch, platform: str, url: str, path: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)

    assert path.replace("{cwd}", os.getcwd()) == sqlite.path_of(url)


# -- what it says of itself


def test_a_new_file_says_what_it_is_and_how_it_is_used(path: str) -> None:
    """
    Releases that are installed already look for exactly this; another number would shut them out.
    """
    db, identity = sqlite.connect(path)
    pragmas = {
        name: db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("application_id", "user_version", "journal_mode", "synchronous", "temp_store")
    }
    db.close()

    assert {
        "application_id": int.from_bytes(b"gqL1", "big"),
        "user_version": 1,
        "journal_mode": "persist",
        "synchronous": 0,
        "temp_store": 2,
    } == pragmas
    assert (os.stat(path).st_dev, os.stat(path).st_ino) == identity


def test_a_file_that_is_there_is_opened_and_keeps_what_it_holds(path: str) -> None:
    first, _ = sqlite.connect(path)
    first.execute("UPDATE changes SET number = 7")
    first.close()

    second, _ = sqlite.connect(path)
    number = second.execute("SELECT number FROM changes").fetchone()[0]
    second.close()

    assert 7 == number


def test_an_empty_file_becomes_a_budget_file(path: str) -> None:
    Path(path).touch()

    db, _ = sqlite.connect(path)
    number = db.execute("SELECT number FROM changes").fetchone()[0]
    db.close()

    assert 0 == number


def test_a_file_of_this_release_is_not_too_new_and_one_of_the_next_is(path: str) -> None:
    db, _ = sqlite.connect(path)
    db.execute("PRAGMA user_version = 2")
    db.close()

    with pytest.raises(LimiterUnavailable, match=r"its schema is version 2, this release knows 1; update groq_queue"):
        sqlite.connect(path)


def test_a_connection_that_cannot_be_used_is_closed(path: str, closings: Callable[[], list[bool]]) -> None:
    """
    Whether the reason is ours, as a newer schema, or SQLite's.
    """
    sqlite.connect(path)[0].close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 2")
    db.close()
    text = Path(path).with_name("text")
    text.write_text("dear diary, " * 100)
    closed = closings()

    for each in (path, str(text)):
        with pytest.raises(LimiterUnavailable):
            sqlite.connect(each)

    assert [True, True] == closed


def test_a_file_that_vanishes_while_it_is_opened_is_told(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileKind, "create_if_missing", lambda kind, path: False)

    with pytest.raises(LimiterUnavailable, match="No such file or directory; check the path") as caught:
        sqlite.connect(path)

    assert path == caught.value.address
    assert not os.path.exists(path)


# -- places


def test_what_is_no_file_is_refused(path: str) -> None:
    os.mkfifo(path)

    with pytest.raises(LimiterUnavailable, match="not a regular file; name another path"):
        sqlite.check_place(path)


def test_a_name_that_the_file_system_cannot_hold_is_told(tmp_path: Path) -> None:
    with pytest.raises(LimiterUnavailable, match="File name too long; check the path and its permissions"):
        sqlite.check_place(str(tmp_path / ("x" * 300)))


@pytest.mark.parametrize(
    ("closed", "denied", "said"),
    [
        ("file", os.R_OK, "may not read and write the file"),
        ("file", os.W_OK, "may not read and write the file"),
        ("directory", os.W_OK, "is read-only for this user"),
        ("directory", os.X_OK, "is read-only for this user"),
    ],
)
def test_each_missing_permission_is_a_reason(
    path: str, monkeypatch: pytest.MonkeyPatch, closed: str, denied: int, said: str
) -> None:
    """
    The tests may run as root, whom nothing stops; so the question is answered for an ordinary user.
    """
    Path(path).touch()
    place = path if closed == "file" else os.path.dirname(path)
    monkeypatch.setattr(os, "access", lambda name, mode: not (name == place and mode & denied))

    with pytest.raises(LimiterUnavailable, match=said):
        sqlite.check_place(path)


def test_a_place_where_all_is_well_is_not_refused(path: str) -> None:
    sqlite.check_place(path)
    Path(path).touch()
    sqlite.check_place(path)

    assert b"" == Path(path).read_bytes()


def test_a_file_that_cannot_be_made_is_told(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", refuse)

    with pytest.raises(LimiterUnavailable, match=r"cannot be created \(No space left on device\)"):
        sqlite.connect(path)


# -- patience


class Locked:
    """A connection that is locked for so many tries."""

    def __init__(self, times: int, says: str = "database is locked") -> None:
        self.left, self.says, self.tries = times, says, 0

    def execute(self, statement: str) -> str:
        self.tries += 1
        if self.left:
            self.left -= 1
            raise sqlite3.OperationalError(self.says)
        return f"done: {statement}"


def test_a_locked_file_is_tried_again_until_it_is_free() -> None:
    db = Locked(2_499)

    assert "done: COMMIT" == sqlite.patiently(db, "COMMIT")  # type: ignore[arg-type]
    assert 2_500 == db.tries


def test_a_file_that_stays_locked_is_given_up_after_five_seconds_of_tries() -> None:
    """
    SQLite itself waits two milliseconds in each.
    """
    db = Locked(10_000)

    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite.patiently(db, "COMMIT")  # type: ignore[arg-type]

    assert 5_000 == db.tries * 2


def test_another_trouble_is_not_tried_again() -> None:
    db = Locked(1, "disk I/O error")

    with pytest.raises(sqlite3.OperationalError, match="disk"):
        sqlite.patiently(db, "COMMIT")  # type: ignore[arg-type]

    assert 1 == db.tries


# -- small questions


def test_a_file_is_gone_when_its_path_leads_elsewhere_or_nowhere(path: str) -> None:
    db, identity = sqlite.connect(path)
    there = sqlite.is_gone(path, identity)
    os.rename(path, path + ".old")
    nowhere = sqlite.is_gone(path, identity)
    Path(path).touch()
    elsewhere = sqlite.is_gone(path, identity)
    db.close()

    assert (False, True, True) == (there, nowhere, elsewhere)


def test_the_boot_is_told_by_the_host_or_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(path: Path, encoding: str) -> str:
        asked.append(str(path))
        if len(asked) == 1:
            return "one-boot\n"
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", answer)

    assert ["one-boot", ""] == [sqlite.read_boot_id(), sqlite.read_boot_id()]
    assert {"/proc/sys/kernel/random/boot_id"} == set(asked)


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (sqlite3.OperationalError("database is locked"), "another process kept it locked for 5 s"),
        (sqlite3.OperationalError("SQLITE_BUSY"), "another process kept it locked for 5 s"),
        (sqlite3.DatabaseError("file is not a database"), "no budget file, or damaged (file is not a database)"),
        (sqlite3.DatabaseError("database disk image is malformed"), "no budget file, or damaged (database disk"),
        (sqlite3.DatabaseError("corrupt index"), "no budget file, or damaged (corrupt index)"),
        (ValueError("no JSON"), "no budget file, or damaged (no JSON)"),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full; make room"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "it cannot be written (attempt to write"),
        (sqlite3.OperationalError("unable to open database file"), "it cannot be written (unable to open"),
        (sqlite3.OperationalError("disk I/O error"), "disk I/O error; check the disk, or delete the file"),
    ],
    ids=lambda each: str(each)[:20],
)
def test_each_error_of_sqlite_comes_with_its_cure(error: Exception, cure: str) -> None:
    ours = sqlite.limiter_error("/x/b.db", error)

    assert f"limiter /x/b.db: {cure}" in str(ours).replace("it is no budget", "no budget")
    assert "/x/b.db" == ours.address
