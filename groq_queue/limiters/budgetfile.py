"""From a URL to a connection: every reason why a file cannot hold budgets is told with its cure."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from groq_queue.errors import ConfigurationError, LimiterUnavailable
from groq_queue.sqlite_file import mounts, network_kind

try:
    import ctypes
except ImportError:  # a Python built without it: there a child's exit closes the connection
    ctypes = None  # type: ignore[assignment]

Identity = tuple[int, int]
"""Device and number of a file: what a path leads to."""

_APPLICATION = 0x67714C31  # "gqL1": tells the file from every other SQLite file
_VERSION = 1
_BUSY_S = 5.0  # a transaction takes less than a millisecond
_TRY_S = 0.002  # SQLite itself would wait longer after each try, and so let newcomers pass for seconds
_SCHEMA = """
CREATE TABLE clock (one INTEGER PRIMARY KEY, boot_id TEXT NOT NULL, now_ns INTEGER NOT NULL, wall_ns INTEGER NOT NULL);
CREATE TABLE changes (number INTEGER NOT NULL);
CREATE TABLE processes (token TEXT PRIMARY KEY, until_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE lanes (name TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE reservations (
    id TEXT PRIMARY KEY, lane TEXT NOT NULL, process TEXT NOT NULL, granted_ns INTEGER NOT NULL,
    cost TEXT NOT NULL, ended TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE waiters (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, lane TEXT NOT NULL, process TEXT NOT NULL,
    priority INTEGER NOT NULL, client TEXT NOT NULL, tag INTEGER NOT NULL, ends INTEGER NOT NULL
);
CREATE INDEX waiters_in_order ON waiters (lane, priority, tag, arrival);
CREATE TABLE turns (
    lane TEXT NOT NULL, priority INTEGER NOT NULL, client TEXT NOT NULL, ends INTEGER NOT NULL,
    PRIMARY KEY (lane, priority, client)
) WITHOUT ROWID;
INSERT INTO changes VALUES (0);
"""


def path_of(url: str) -> str:
    """Return the absolute path of the file that *url* names.

    ``sqlite:///var/lib/budgets.db`` is absolute, as in any URL. A bare name, ``sqlite:///budgets.db``,
    is one in the working directory: nobody keeps budgets at the root of a disk.

    Raises:
        ConfigurationError: It names no file.
    """
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc or parts.query or parts.fragment or not path.strip("/") or "\0" in path or path == "/:memory:":
        raise ConfigurationError(
            f"limiter={url!r:.200}: name a file, as in sqlite:///var/lib/app/budgets.db (three slashes), "
            "or sqlite:///budgets.db for one in the working directory"
        )
    bare = path.lstrip("/")
    if "/" not in bare or (sys.platform == "win32" and bare[1:2] == ":"):
        path = bare
    return os.path.realpath(path.replace("//", "/"))


def connect(path: str) -> tuple[sqlite3.Connection, Identity]:
    """Open the file, which is made if there is none, with its tables; readable for this user alone.

    Raises:
        LimiterUnavailable: It names the path and the cure.
    """
    check_place(path)
    _create_if_missing(path)
    db = None
    try:
        identity = _identity(path)
        uri = f"{Path(path).as_uri()}?mode=rw"
        db = sqlite3.connect(uri, uri=True, timeout=_TRY_S, isolation_level=None, check_same_thread=False)
        _bring_up(db, path)
        db.execute("PRAGMA journal_mode = PERSIST")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA temp_store = MEMORY")
    except OSError as error:
        raise _unavailable(path, f"{error.strerror}; check the path and its permissions") from error
    except sqlite3.Error as error:
        if db is not None:
            db.close()
        raise told(path, error) from error
    except BaseException:
        if db is not None:
            db.close()
        raise
    return db, identity


def patiently(db: sqlite3.Connection, statement: str) -> sqlite3.Cursor:
    """Execute a statement that others may stand in the way of, trying for some seconds.

    Raises:
        sqlite3.OperationalError: The file was locked all the time, or something else is wrong.
    """
    tries = round(_BUSY_S / _TRY_S)
    while True:
        tries -= 1
        try:
            return db.execute(statement)
        except sqlite3.OperationalError as error:
            if tries <= 0 or "locked" not in str(error):
                raise


def is_gone(path: str, identity: Identity) -> bool:
    """Return whether *path* leads to another file by now, or to none."""
    try:
        return _identity(path) != identity
    except OSError:
        return True


def boot_id() -> str:
    """Return what tells one boot of this host from another; "" where only a clock that went back can."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def told(path: str, error: Exception) -> LimiterUnavailable:
    """Return SQLite's error as ours, with the cure."""
    text = str(error).lower()
    if "locked" in text or "busy" in text:
        cure = f"another process kept it locked for {_BUSY_S:.0f} s; is one stopped, or is the disk very slow?"
    elif "not a database" in text or "malformed" in text or "corrupt" in text or isinstance(error, ValueError):
        cure = f"it is no budget file, or damaged ({error}); delete it if it is yours, a new one is made"
    elif "full" in text:
        cure = "the disk is full; make room"
    elif "readonly" in text or "unable to open" in text:
        cure = f"it cannot be written ({error}); check the permissions of the file and its directory"
    else:
        cure = f"{error}; check the disk, or delete the file, a new one is made"
    return _unavailable(path, cure)


def keep(db: sqlite3.Connection) -> None:
    """Let nothing but ``let_go`` free *db*.

    A forked child inherits the object. Were it freed there, SQLite might roll back, in the child, what the
    parent is about to commit. Modules are cleared at exit, so no list of ours would hold it long enough.
    """
    _count_reference("Py_IncRef", db)


def let_go(db: sqlite3.Connection) -> None:
    """Undo ``keep``, after closing."""
    _count_reference("Py_DecRef", db)


def _count_reference(function: str, thing: Any) -> None:
    if ctypes is not None and hasattr(ctypes, "pythonapi"):
        getattr(ctypes.pythonapi, function)(ctypes.py_object(thing))


def _unavailable(path: str, why: str) -> LimiterUnavailable:
    return LimiterUnavailable(f"limiter {path}: {why}", address=path)


def _identity(path: str) -> Identity:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def check_place(path: str) -> None:
    """Refuse what is seen to fail from outside.

    Raises:
        LimiterUnavailable: It names the path and the cure.
    """
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise _unavailable(path, f"the directory {directory} does not exist; create it first")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unavailable(path, f"{error.strerror}; check the path and its permissions") from error
    else:
        if stat.S_ISDIR(mode):
            raise _unavailable(path, "this is a directory; name a file in it")
        if not stat.S_ISREG(mode):
            raise _unavailable(path, "this is not a regular file; name another path")
        if not os.access(path, os.R_OK | os.W_OK):
            raise _unavailable(path, "this user may not read and write the file; change its permissions")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise _unavailable(
            path,
            f"the directory {directory} is read-only for this user; SQLite keeps a file beside it, so make it writable",
        )
    kind = network_kind(directory, mounts())
    if kind:
        raise _unavailable(
            path,
            f"it lies on a network file system ({kind}), where locks are not reliable, and other hosts have other "
            "clocks; put it on a local disk, or share by redis:// between hosts",
        )


def _create_if_missing(path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise _unavailable(path, f"it cannot be created ({error.strerror}); check the directory") from error


def _bring_up(db: sqlite3.Connection, path: str) -> None:
    """Make the tables, if the file is new; refuse one of another kind or of a later release."""
    patiently(db, "BEGIN IMMEDIATE")
    try:
        kind = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        is_new = not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not is_new and kind != _APPLICATION:
            raise _unavailable(path, "this SQLite file belongs to another program; name another path")
        if version > _VERSION:
            raise _unavailable(
                path, f"its schema is version {version}, this release knows {_VERSION}; update groq_queue everywhere"
            )
        if is_new:
            for statement in _SCHEMA.split(";\n"):
                if statement.strip():
                    db.execute(statement)
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute(f"PRAGMA user_version = {_VERSION}")
        patiently(db, "COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
