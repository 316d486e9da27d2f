"""From a URL to a connection: every reason why a file cannot hold budgets is told with its cure."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from groq_queue.errors import ConfigurationError, LimiterUnavailable
from groq_queue.sqlite_file import FileKind, Identity, Migration, connect_file, identity_of

_BUSY_S = 5.0  # a transaction takes less than a millisecond
_TRY_S = 0.002  # SQLite itself would wait longer after each try, and so let newcomers pass for seconds
_FIRST: Migration = """
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
INSERT INTO changes VALUES (0)
""".strip().split(";\n")
_MIGRATIONS = (_FIRST,)


def _unavailable(path: str, why: str) -> LimiterUnavailable:
    return LimiterUnavailable(f"limiter {path}: {why}", address=path)


_BUDGET_FILE = FileKind(
    error=_unavailable,
    application_id=0x67714C31,  # "gqL1"
    no_access="this user may not read and write the file",
    sidecars="SQLite keeps a file beside it, so make it writable",
    remote=(
        "where locks are not reliable, and other hosts have other clocks; "
        "put it on a local disk, or share by redis:// between hosts"
    ),
    foreign="this SQLite file belongs to another program; name another path",
    newer="its schema is version {version}, this release knows {known}; update groq_queue everywhere",
)


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
    _BUDGET_FILE.create_if_missing(path)
    db = None
    try:
        found = os.stat(path)
        db = connect_file(path, "rw", _TRY_S)
        _BUDGET_FILE.bring_up(db, path, _MIGRATIONS, patiently)
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
    return db, (found.st_dev, found.st_ino)


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
    return identity_of(path) != identity


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


def check_place(path: str) -> None:
    """Refuse what is seen to fail from outside.

    Raises:
        LimiterUnavailable: It names the path and the cure.
    """
    _BUDGET_FILE.check_file(path)
    _BUDGET_FILE.check_directory(path)
