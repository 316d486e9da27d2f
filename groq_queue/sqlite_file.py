"""A local SQLite file, opened safely: what the journal and the budgets of one host do alike.

Every reason to refuse is found before a byte is written. Nothing but SQLite opens a file that
exists: closing it would drop the locks of every connection that this process has to it (POSIX
locks are like that).

A file says what it is in its header: ``application_id`` is the mark of its kind, and
``user_version`` the number of migrations that it went through. Tables and both numbers are
written in one transaction, so a crash leaves a file that is valid, empty and of version 0, which
is a new file. What is refused is said in the words of the room, which knows the cure.
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

try:
    import ctypes
except ImportError:  # a Python built without it: there a child's exit closes the connection
    ctypes = None  # type: ignore[assignment]

Identity = tuple[int, int]
"""Device and number of a file: what makes it itself, whatever its name."""

Migration = Sequence[str]
"""SQL statements, one each, that lead from the version of its place in the list to the next."""

_NETWORK = re.compile(r"nfs\d?|cifs|smb\d?|smbfs|fuse\.sshfs|9p|afs|ceph|fuse\.ceph|lustre|gpfs|fuse\.glusterfs")


def _execute(connection: sqlite3.Connection, statement: str) -> object:
    return connection.execute(statement)


@dataclass(frozen=True)
class FileKind:
    """One kind of SQLite file: the mark in its header, and how its room says what can be wrong with one.

    Attributes:
        error: Returns the room's error of a path and of the reason against it, with the cure.
        application_id: The number in the header of every such file, and of no other.
        no_access: A file that this user may not use; ``{lack}`` is "read-only" or "not readable".
        sidecars: Why the directory has to be writable.
        linked: A file that has several names, ``{count}`` of them.
        mounted: A file that is mounted by itself.
        remote: Why it cannot lie on a network file system, and what to do instead.
        foreign: A SQLite file of another program.
        newer: A file of a later release; ``{version}`` is its schema's, ``{known}`` the newest one here.
    """

    error: Callable[[str, str], Exception]
    application_id: int
    no_access: str
    sidecars: str
    linked: str
    mounted: str
    remote: str
    foreign: str
    newer: str

    def check_file(self, path: str, *, for_writing: bool) -> os.stat_result | None:
        """Return the facts of the file, or None if it is missing and may be made; refuse what is seen to fail."""
        directory = os.path.dirname(path)
        if not os.path.isdir(directory):
            raise self.error(path, f"the directory {directory} does not exist; create it first")
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.error(path, f"{error.strerror}; check the path and its permissions") from error
        if stat.S_ISDIR(found.st_mode):
            raise self.error(path, "this is a directory; name a file in it")
        if not stat.S_ISREG(found.st_mode):
            raise self.error(path, "this is not a regular file; name another path")
        if not os.access(path, os.R_OK | (os.W_OK if for_writing else 0)):
            lack = "read-only" if os.access(path, os.R_OK) else "not readable"
            raise self.error(path, f"{self.no_access.format(lack=lack)}; change its permissions")
        if for_writing and found.st_nlink > 1:
            raise self.error(path, self.linked.format(count=found.st_nlink))
        if for_writing and is_mounted(path):
            raise self.error(path, self.mounted)
        return found

    def check_directory(self, path: str, *, for_writing: bool) -> None:
        """Refuse a file whose directory cannot hold what SQLite puts beside it, or lies on another machine."""
        directory = os.path.dirname(path)
        if for_writing and not os.access(directory, os.W_OK | os.X_OK):
            raise self.error(path, f"the directory {directory} is read-only for this user; {self.sidecars}")
        kind = network_kind(directory)
        if kind:
            raise self.error(path, f"it lies on a network file system ({kind}), {self.remote}")

    def create_if_missing(self, path: str) -> bool:
        """Make the file, for this user alone, as then is what SQLite puts beside it; False if it was there."""
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600))
        except FileExistsError:
            return False
        except OSError as error:
            raise self.error(path, f"it cannot be created ({error.strerror}); check the directory") from error
        return True

    def version_of(self, connection: sqlite3.Connection, path: str, known: int) -> int:
        """Return the version of a file, 0 if it is new, without writing; refuse another program's, and a newer one.

        Raises:
            sqlite3.Error: It cannot be read.
        """
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application_id != self.application_id and (application_id or version or tables):
            raise self.error(path, self.foreign)
        if version > known:
            raise self.error(path, self.newer.format(version=version, known=known))
        return version

    def bring_up(
        self,
        connection: sqlite3.Connection,
        path: str,
        migrations: Sequence[Migration],
        execute: Callable[[sqlite3.Connection, str], object] = _execute,
    ) -> None:
        """Make the schema the newest, in one transaction, all or nothing; refuse as ``version_of``.

        Args:
            connection: May write, and leaves transactions to us.
            path: For the errors.
            migrations: All there are, from version 0.
            execute: Executes what others may stand in the way of.

        Raises:
            sqlite3.Error: It cannot be written.
        """
        execute(connection, "BEGIN IMMEDIATE")
        try:
            version = self.version_of(connection, path, len(migrations))
            if version < len(migrations):
                for migration in migrations[version:]:
                    for statement in migration:
                        connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {self.application_id}")
                connection.execute(f"PRAGMA user_version = {len(migrations)}")
            execute(connection, "COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def connect_file(path: str, mode: str, timeout_s: float, *, is_immutable: bool = False) -> sqlite3.Connection:
    """Open one connection that leaves transactions to us and may move between threads.

    Args:
        path: Absolute.
        mode: ``"ro"`` or ``"rw"``; neither makes a file.
        timeout_s: How long SQLite waits for others' locks.
        is_immutable: No process writes it meanwhile, so neither locks nor files beside it are needed.
    """
    uri = f"{Path(path).as_uri()}?mode={mode}{'&immutable=1' if is_immutable else ''}"
    return sqlite3.connect(uri, uri=True, timeout=timeout_s, isolation_level=None, check_same_thread=False)


def identity_of(path: str) -> Identity | None:
    """Return what makes a file itself, or None if there is none of that name."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def keep(connection: sqlite3.Connection) -> None:
    """Let nothing but ``let_go`` free *connection*.

    A forked child inherits the object. Were it freed there, at exit at the latest, SQLite would close a
    file that it must not touch in a child, or roll back what the parent is about to commit. A list in a
    module does not help: modules are cleared at exit too. So it gets one reference that no Python object owns.
    """
    _count_reference("Py_IncRef", connection)


def let_go(connection: sqlite3.Connection) -> None:
    """Undo ``keep``, after closing."""
    _count_reference("Py_DecRef", connection)


def _count_reference(function: str, thing: object) -> None:
    if ctypes is not None and hasattr(ctypes, "pythonapi"):
        getattr(ctypes.pythonapi, function)(ctypes.py_object(thing))


# -- mounted disks: what processes lock together must lie on this machine, and a file in its directory


def network_kind(directory: str, listed: str | None = None) -> str | None:
    """Return the type of the network file system that holds *directory*, or None if it is local.

    Args:
        directory: Absolute, without links.
        listed: Text in the form of ``/proc/mounts``, in which later lines hide earlier ones; None: this machine's.
    """
    best, kind = "", ""
    for point, its_kind in _points(mounts() if listed is None else listed):
        inside = directory == point or directory.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, its_kind
    return kind if _NETWORK.fullmatch(kind) else None


def is_mounted(path: str, listed: str | None = None) -> bool:
    """Return whether the file at *path* is mounted by itself, as ``docker -v run.db:/data/run.db`` does.

    Args:
        path: Absolute, without links.
        listed: As for ``network_kind``.
    """
    return any(point == path for point, _ in _points(mounts() if listed is None else listed))


def _points(listed: str) -> Iterator[tuple[str, str]]:
    """Yield where something is mounted, and the type of its file system."""
    for line in listed.splitlines():
        fields = line.split(" ")
        if len(fields) >= 3:
            # in UTF-8; spaces, tabs, newlines and backslashes are written as octal numbers
            yield re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[1]), fields[2]


def mounts() -> str:
    """Return Linux's list of mounts; elsewhere nothing is known cheaply, so nothing is refused."""
    if not sys.platform.startswith("linux"):
        return ""
    try:
        return Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
