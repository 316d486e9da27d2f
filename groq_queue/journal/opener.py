"""From a path to connections: every reason to refuse is found before a byte is written.

The order matters: look at the path, take the ownership, look at the file
through a read-only connection, and only then open it for writing. What holds
for every SQLite file, the budgets' too, is in ``sqlite_file``.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Any

from groq_queue.errors import ConfigurationError, JournalError, safe_repr
from groq_queue.journal import schema
from groq_queue.journal.errors import journal_error
from groq_queue.journal.schema import JOURNAL_FILE
from groq_queue.sqlite_file import connect_file

_SMALLEST = 512  # bytes of the smallest page
_CHECKED_BYTES = 32 * 1024 * 1024  # a file up to here is checked page by page at each opening: about 0.1 s
_WAL_BYTES_KEPT = 16 * 1024 * 1024


def checked_path(path: Any) -> str:
    """Return the absolute path behind all links, if it is one that a journal may have.

    Raises:
        ConfigurationError: Not a path of a file.
    """
    try:
        name = os.fspath(path)
    except TypeError:
        name = None
    if not isinstance(name, str) or not name or "\0" in name or name == ":memory:" or not _is_unicode(name):
        raise ConfigurationError(f"journal={safe_repr(path, 80)}: use the path of a file")
    return os.path.realpath(name)


def _is_unicode(name: str) -> bool:
    """Return whether SQLite, which knows UTF-8 only, can open a file of that name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_place(path: str, *, for_writing: bool) -> None:
    """Refuse what is seen to fail from outside.

    Raises:
        JournalError: It names the path and the cure.
    """
    JOURNAL_FILE.check_file(path, for_writing=for_writing)
    JOURNAL_FILE.check_directory(path, for_writing=for_writing)


def check_is_there(path: str) -> None:
    """Refuse a file that would have to be made first.

    Raises:
        JournalError: It is missing or empty; the message names the path and the cure.
    """
    if not os.path.exists(path):
        raise JournalError(f"journal {path}: there is no such file; check the path")
    if not size_of(path):
        raise _empty(path)


def create_if_missing(path: str) -> None:
    """Make the file, for this user alone, and its name last.

    Raises:
        JournalError: It cannot be made.
    """
    if JOURNAL_FILE.create_if_missing(path):
        sync_directory(os.path.dirname(path))


def sync_directory(directory: str) -> None:
    """Make a new name last through a power cut, where directories can be synced."""
    try:
        fd = os.open(directory, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(fd)
    except OSError:
        pass  # a file system that cannot; there is no other way to ask it
    finally:
        os.close(fd)


def check_contents(path: str, *, needs_schema: bool = False) -> None:
    """Refuse a file that is no journal, is damaged or is newer, leaving it as it is.

    Raises:
        JournalError: It names the path and the cure.
    """
    size = size_of(path)
    if not size:
        if size_of(path + "-wal"):
            raise _empty(path)
        return
    if size < _SMALLEST:
        raise JournalError(f"journal {path}: {size} bytes are no SQLite file, so no journal; name another path")
    if size_of(path + "-journal"):
        return  # a crash before the switch to WAL; only a connection that may write can roll it back
    connection = None
    try:
        connection = connect(path, "ro", 5.0)
        version = schema.check_kind(connection, path)
        if needs_schema and version != len(schema.MIGRATIONS):
            raise JournalError(f"journal {path}: its schema is version {version}; open it once for writing first")
        if size <= _CHECKED_BYTES:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise journal_error(path, sqlite3.DatabaseError(f"malformed: {found}"))
    except sqlite3.Error as error:
        raise journal_error(path, error) from error
    finally:
        if connection is not None:
            connection.close()


def _empty(path: str) -> JournalError:
    return JournalError(
        f"journal {path}: the file is empty, so no journal; name another path, or, if it was one, restore it (and a "
        "-wal file that lies beside it) from a copy"
    )


def connect(path: str, mode: str, timeout_s: float) -> sqlite3.Connection:
    """Open one connection, see ``connect_file``; to a file at rest in a directory that is read-only, too."""
    is_immutable = mode == "ro" and _is_at_rest(path)
    return connect_file(path, mode, timeout_s, is_immutable=is_immutable)


def _is_at_rest(path: str) -> bool:
    """Whether no process writes *path* and SQLite cannot make the files it wants beside it even for reading."""
    return not os.access(os.path.dirname(path), os.W_OK) and not os.path.exists(path + "-wal")


def writer(path: str, durability: str, timeout_s: float) -> sqlite3.Connection:
    """Open the connection that writes, with the schema up to date.

    Raises:
        JournalError: It cannot be, with the reason.
    """
    connection = connect(path, "rw", timeout_s)
    try:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise JournalError(f"journal {path}: this file system allows no write-ahead log; put it on a local disk")
        connection.execute(f"PRAGMA synchronous = {durability}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}")
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute("PRAGMA temp_store = MEMORY")
        schema.bring_up(connection, path)
        for statement in schema.ENDING:
            connection.execute(statement)
    except sqlite3.Error as error:
        connection.close()
        raise journal_error(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def reader(path: str, timeout_s: float) -> sqlite3.Connection:
    """Open a connection that can only read, so that it never waits for a writer's disk.

    Raises:
        JournalError: It cannot be, with the reason.
    """
    try:
        connection = connect(path, "ro", timeout_s)
        connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error as error:
        raise journal_error(path, error) from error
    return connection


def size_of(path: str) -> int:
    """Return the length of a file in bytes, 0 if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def closed(path: str) -> JournalError:
    """Return the error of a call after ``close``."""
    return JournalError(f"journal {path}: it was closed; open it again")
