"""What the journal and the budgets of one host do alike with their SQLite files, seen with a file of a third kind."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groq_queue import sqlite_file
from groq_queue.sqlite_file import FileKind, Migration


class Refused(Exception):
    """What the room of this kind raises."""


MIGRATIONS: tuple[Migration, ...] = (("CREATE TABLE titles (name)",), ("CREATE TABLE readers (name)",))
KIND = FileKind(
    error=lambda path, reason: Refused(f"library {path}: {reason}"),
    application_id=0x4C494252,
    no_access="it is {lack}",
    sidecars="it lends things",
    linked="it has {count} doors",
    mounted="it has no ground",
    remote="walk there",
    foreign="another house",
    newer="edition {version}, not {known}",
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "library.db")


def opened(path: str, migrations: tuple[Migration, ...] = MIGRATIONS) -> sqlite3.Connection:
    KIND.create_if_missing(path)
    connection = sqlite_file.connect_file(path, "rw", 1.0)
    try:
        KIND.bring_up(connection, path, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def facts(connection: sqlite3.Connection) -> list[Any]:
    tables = connection.execute("SELECT group_concat(name) FROM sqlite_master").fetchone()[0]
    return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")] + [
        tables
    ]


def test_a_file_is_made_once_for_this_user_alone(path: str) -> None:
    before = os.umask(0o022)
    try:
        made = [KIND.create_if_missing(path), KIND.create_if_missing(path)]
    finally:
        os.umask(before)

    assert [True, False] == made
    assert sys.platform == "win32" or 0o600 == stat.S_IMODE(os.stat(path).st_mode)


def test_a_file_goes_through_the_migrations_that_it_lacks(path: str) -> None:
    first = opened(path, MIGRATIONS[:1])
    before = facts(first)
    first.close()

    second = opened(path)
    after = facts(second)
    second.close()

    assert [0x4C494252, 1, "titles"] == before
    assert [0x4C494252, 2, "titles,readers"] == after


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: str) -> None:
    with pytest.raises(sqlite3.OperationalError, match="nonsense"):
        opened(path, (*MIGRATIONS, ("CREATE TABLE more (x)", "DROP TABLE nonsense")))

    connection = sqlite_file.connect_file(path, "ro", 1.0)
    assert [0, 0, None] == facts(connection)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("PRAGMA user_version = 3", "edition 3, not 2"),
        ("PRAGMA application_id = 7", "another house"),
        ("PRAGMA application_id = 0", "another house"),
    ],
)
def test_a_newer_file_and_another_programs_are_refused_in_the_words_of_the_room(
    path: str, statement: str, reason: str
) -> None:
    connection = opened(path)
    connection.execute(statement)
    connection.close()
    before = Path(path).read_bytes()

    with pytest.raises(Refused) as caught:
        opened(path)

    assert f"library {path}: {reason}" == str(caught.value)
    assert before == Path(path).read_bytes()


def test_a_file_at_its_place_is_told_from_one_that_may_be_made(path: str) -> None:
    missing = KIND.check_file(path, for_writing=True)
    Path(path).write_bytes(b"12345")
    there = KIND.check_file(path, for_writing=True)
    KIND.check_directory(path, for_writing=True)

    assert missing is None
    assert there is not None
    assert 5 == there.st_size


@pytest.mark.parametrize(
    ("closed", "for_writing", "reason"),
    [
        (os.W_OK, True, "it is read-only; change its permissions"),
        (os.R_OK, True, "it is not readable; change its permissions"),
        (os.R_OK, False, "it is not readable; change its permissions"),
        (os.W_OK, False, None),
    ],
)
def test_a_file_need_not_be_writable_to_be_read(
    path: str, monkeypatch: pytest.MonkeyPatch, closed: int, for_writing: bool, reason: str | None
) -> None:
    Path(path).touch()
    monkeypatch.setattr(os, "access", lambda name, mode: not mode & closed)

    try:
        KIND.check_file(path, for_writing=for_writing)
        said = None
    except Refused as error:
        said = str(error).removeprefix(f"library {path}: ")

    assert reason == said


def test_a_directory_need_not_be_writable_to_be_read_from(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda name, mode: not mode & os.W_OK)

    KIND.check_directory(path, for_writing=False)
    with pytest.raises(Refused, match="is read-only for this user; it lends things"):
        KIND.check_directory(path, for_writing=True)


def test_another_machines_disk_is_refused_whether_it_is_to_be_written_or_not(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "mounts", lambda: "server:/x / nfs4 rw 0 0\n")

    for for_writing in (True, False):
        with pytest.raises(Refused, match=r"lies on a network file system \(nfs4\), walk there"):
            KIND.check_directory(path, for_writing=for_writing)


def test_where_no_list_of_mounts_is_kept_every_disk_counts_as_local(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        elsewhere = sqlite_file.mounts()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sqlite_file, "Path", lambda name: Path(path))  # a Linux without /proc

    assert ["", ""] == [elsewhere, sqlite_file.mounts()]
    KIND.check_directory(path, for_writing=True)


def test_a_line_of_mounts_needs_no_more_than_a_place_and_a_kind() -> None:
    assert "nfs" == sqlite_file.network_kind("/x/y", "server:/ /x nfs\nserver:/ /x\n")


def test_a_file_is_itself_under_another_name_and_another_one_is_not(path: str) -> None:
    Path(path).touch()
    identity = sqlite_file.identity_of(path)
    os.rename(path, path + ".old")
    Path(path).touch()

    assert identity == sqlite_file.identity_of(path + ".old")
    assert identity != sqlite_file.identity_of(path)
    assert sqlite_file.identity_of(path + ".none") is None


@pytest.mark.parametrize("ctypes", [None, object()])
def test_where_python_has_no_such_counts_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, ctypes: object) -> None:
    monkeypatch.setattr(sqlite_file, "ctypes", ctypes)
    thing = object()
    before = sys.getrefcount(thing)

    sqlite_file.keep(thing)  # type: ignore[arg-type]

    assert before == sys.getrefcount(thing)


@pytest.mark.skipif(sqlite_file.ctypes is None, reason="this Python was built without ctypes")
def test_what_is_kept_is_freed_by_letting_go_alone() -> None:
    thing = object()
    counts: list[int] = []
    steps: tuple[Callable[[Any], None] | None, ...] = (None, sqlite_file.keep, sqlite_file.let_go)

    for step in steps:
        if step is not None:
            step(thing)
        counts.append(sys.getrefcount(thing))

    assert [0, 1, 0] == [count - counts[0] for count in counts]
