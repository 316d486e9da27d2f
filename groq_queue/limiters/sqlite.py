"""The budgets of one host: a SQLite file that its processes share.

Every call is one short transaction. The rollback journal is used, not the
write-ahead log: in SQLite 3.7.0 to 3.51.2 two connections that write and
checkpoint at once may damage a file in WAL mode. The disk is not waited for: what
was committed survives the end of every process; a power cut may take the last
seconds, or the file.

Instants are those of the clock that never steps, which all processes of a host
share until it is booted again; the first to come after a boot moves them over,
by the wall clock's account of the time between.

A lane's buckets stand in one row as JSON, whose integers have no bounds: a level
is an instant times a limit.

Source: https://www.sqlite.org/wal.html#walresetbug, https://www.sqlite.org/pragma.html#pragma_data_version.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from groq_queue.clock import NS_PER_S, Clock, SystemClock
from groq_queue.core.budget import Blocked, TooLarge
from groq_queue.errors import ConfigurationError, LimiterUnavailable
from groq_queue.lifecycle import fork_between
from groq_queue.limiters.lane_state import LaneState, Reservation
from groq_queue.limiters.store import LEASE_S, KnownLimits, LaneStatus, ReservationRequest, Reserved, ServerLimit, Units
from groq_queue.sqlite_file import FileKind, Identity, Migration, connect_file, identity_of, keep, let_go

_LEASE_NS = round(LEASE_S * NS_PER_S)
_KEEP_ALIVE_BELOW_NS = _LEASE_NS // 2  # a process with more time left than that is not written down again
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
    linked=(
        "the file has {count} names (hard links), and after a crash SQLite finds what it keeps beside it under one of "
        "them only; remove the other names"
    ),
    mounted=(
        "the file is mounted here by itself, so what SQLite keeps beside it would lie elsewhere than for processes "
        "that have it under another name; mount the directory that it lies in"
    ),
    remote=(
        "where locks are not reliable, and other hosts have other clocks; "
        "put it on a local disk, or share by redis:// between hosts"
    ),
    foreign="this SQLite file belongs to another program; name another path",
    newer="its schema is version {version}, this release knows {known}; update groq_queue everywhere",
)


class SqliteBudgetStore:
    """Budgets in a file; see ``BudgetStore``. Not thread-safe; useless in a forked child until ``reset_after_fork``."""

    def __init__(self, path: str, clock: Clock | None = None, boot_id: str | None = None) -> None:
        """
        Args:
            path: Absolute, of a file that exists or can be made.
            clock: Tells the time; every process of the host has to have the same.
            boot_id: Tells one boot of the host from another; None asks the host.

        Raises:
            LimiterUnavailable: The file cannot be used.
        """
        self.address = path
        self.token = secrets.token_hex(8)
        self._clock = clock or SystemClock()
        self._boot_id = read_boot_id() if boot_id is None else boot_id
        self._pid = os.getpid()
        self._section = threading.RLock()  # held while SQLite is used, so that no fork comes in between; guards nothing
        fork_between(self._section)
        self._db: sqlite3.Connection | None = None
        self._version = 0  # of the data, as SQLite counts it, when last looked at
        self._changes = 0  # what others may have waited for, as the file counts it, when last looked at
        self._connect()

    @classmethod
    def open(cls, url: str, clock: Clock | None = None) -> SqliteBudgetStore:
        """Open, or make, the file that *url* names: ``sqlite:///path``.

        Raises:
            ConfigurationError: It names none.
            LimiterUnavailable: The file cannot be used.
        """
        return cls(path_of(url), clock)

    # -- claims

    def reserve(self, claim: ReservationRequest, limits: KnownLimits) -> Reserved | Blocked | TooLarge:
        with self._step() as (db, now_ns):
            self._expire_dead(db, now_ns)
            self._keep_alive(db, now_ns)
            self._changes = _changes(db)
            if _reservation(db, claim.id) is not None:
                return Reserved(claim.id)
            state = _lane_state(db, claim.lane)
            if state.differs_from(limits):
                state.fit(limits, _open_costs(db, claim.lane), now_ns)
                _save(db, claim.lane, state)
            excess = state.too_large(claim.cost)
            if excess is not None:
                self._leave_line(db, claim.lane, claim.id)
                return excess
            tag = self._line_up(db, state, claim)
            blocked = state.holds_until(now_ns)
            if blocked is None and not _is_first(db, claim):
                blocked = Blocked("behind", None)
            blocked = blocked or state.blocks(claim.cost, now_ns)
            if blocked is not None:
                return blocked
            self._grant(db, state, claim, tag, now_ns)
            return Reserved(claim.id)

    def settle(
        self,
        lane: str,
        claim_id: str,
        requested: Units,
        used: Units,
        seen: Mapping[str, ServerLimit],
        limits: KnownLimits,
    ) -> None:
        with self._step() as (db, now_ns):
            ended = _reservation(db, claim_id)
            if ended is None:
                return
            db.execute("DELETE FROM reservations WHERE id = ?", (claim_id,))
            state = _lane_state(db, lane)
            state.settle(ended, requested, used, now_ns)
            new = state.fit(limits, _open_costs(db, lane), now_ns)
            state.observe(ended, seen, new, now_ns)
            _save(db, lane, state)
            self._note_change(db)

    def refund(self, lane: str, claim_id: str) -> None:
        with self._step() as (db, _):
            ended = _reservation(db, claim_id)
            if ended is None:
                self._leave_line(db, lane, claim_id)
                return
            db.execute("DELETE FROM reservations WHERE id = ?", (claim_id,))
            state = _lane_state(db, lane)
            state.refund(ended)
            _save(db, lane, state)
            self._note_change(db)

    # -- what the server, or an outage, adds

    def charge(self, lane: str, used: Units, limits: KnownLimits) -> None:
        with self._state_changed(lane, limits) as (state, now_ns):
            state.charge(used, now_ns)

    def hold(self, lane: str, wait_ns: int, dimension: str) -> None:
        with self._state_changed(lane, {}) as (state, now_ns):
            state.hold(wait_ns, dimension, now_ns)

    def at_least(self, lane: str, dimension: str, used: int, age_ns: int, limits: KnownLimits) -> None:
        with self._state_changed(lane, limits) as (state, now_ns):
            state.at_least(dimension, used, age_ns, now_ns)

    # -- looking

    def status(self, lane: str) -> LaneStatus:
        with self._step() as (db, now_ns):
            alive = db.execute("SELECT count(*) FROM processes WHERE until_ns > ?", (now_ns,)).fetchone()[0]
            return _lane_state(db, lane).status(alive, now_ns)

    def has_changed(self) -> bool:
        with self._translated() as db:
            version = patiently(db, "PRAGMA data_version").fetchone()[0]
            if version == self._version:
                return False
            changes = _changes(db)
            self._version = version
            return changes != self._changes

    def heartbeat(self) -> None:
        if is_gone(self.address, self._identity):
            self._drop_connection()
            self._connect()
        with self._step() as (db, now_ns):
            self._note_time(db, now_ns)
            db.execute("INSERT OR REPLACE INTO processes VALUES (?, ?)", (self.token, now_ns + _LEASE_NS))

    def reset_after_fork(self) -> None:
        self.token = secrets.token_hex(8)
        self._pid = os.getpid()
        self._db = None  # not closed: that would take the parent's locks away
        self._version = self._changes = 0

    def close(self) -> None:
        if self._db is None or os.getpid() != self._pid:
            return
        with suppress(LimiterUnavailable), self._step() as (db, now_ns):
            self._expire_process(db, self.token, now_ns)
        self._drop_connection()

    # -- steps

    @contextmanager
    def _translated(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection; what goes wrong with it is LimiterUnavailable."""
        if os.getpid() != self._pid:
            raise LimiterUnavailable(
                f"limiter {self.address}: it was opened before a fork; make the GroqQueue in the child",
                address=self.address,
            )
        with self._section:
            try:
                if self._db is None:
                    self._connect()
                assert self._db is not None
                yield self._db
            except (sqlite3.Error, json.JSONDecodeError) as error:
                raise limiter_error(self.address, error) from error

    @contextmanager
    def _step(self) -> Iterator[tuple[sqlite3.Connection, int]]:
        """One transaction, and the instant at which it has the file to itself."""
        with self._translated() as db:
            patiently(db, "BEGIN IMMEDIATE")
            try:
                yield db, self._clock.now_ns()
                patiently(db, "COMMIT")
            except BaseException:
                if os.getpid() == self._pid:  # else the parent is about to commit what a child would take out
                    with suppress(sqlite3.Error):
                        db.execute("ROLLBACK")
                raise

    @contextmanager
    def _state_changed(self, lane: str, limits: KnownLimits) -> Iterator[tuple[LaneState, int]]:
        with self._step() as (db, now_ns):
            state = _lane_state(db, lane)
            state.fit(limits, _open_costs(db, lane), now_ns)
            yield state, now_ns
            _save(db, lane, state)

    def _connect(self) -> None:
        with self._section:
            db, self._identity = connect(self.address)
            keep(db)
            self._db = db
        try:
            with self._step() as (_, now_ns):
                self._note_time(db, now_ns)
        except BaseException:
            self._drop_connection()
            raise

    def _drop_connection(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with self._section, suppress(sqlite3.Error):
                db.close()
            let_go(db)

    def _note_time(self, db: sqlite3.Connection, now_ns: int) -> None:
        """Write down what both clocks say, for the first process after the next boot."""
        wall_ns = round(self._clock.wall_s() * NS_PER_S)
        last = db.execute("SELECT boot_id, now_ns, wall_ns FROM clock").fetchone()
        if last is not None and (last[0] != self._boot_id or now_ns < last[1]):
            self._move(db, now_ns - last[1] - max(0, wall_ns - last[2]))
        db.execute("INSERT OR REPLACE INTO clock VALUES (1, ?, ?, ?)", (self._boot_id, now_ns, wall_ns))

    def _move(self, db: sqlite3.Connection, shift_ns: int) -> None:
        """Go over to the clock of this boot; no process of an earlier one is alive."""
        for name, text in db.execute("SELECT name, state FROM lanes").fetchall():
            state = LaneState(json.loads(text))
            state.move_by(shift_ns)
            _save(db, name, state)
        db.execute("UPDATE reservations SET granted_ns = granted_ns + ?", (shift_ns,))
        db.execute("UPDATE processes SET until_ns = 0")

    # -- processes

    def _keep_alive(self, db: sqlite3.Connection, now_ns: int) -> None:
        row = db.execute("SELECT until_ns FROM processes WHERE token = ?", (self.token,)).fetchone()
        if row is None or row[0] - now_ns < _KEEP_ALIVE_BELOW_NS:
            db.execute("INSERT OR REPLACE INTO processes VALUES (?, ?)", (self.token, now_ns + _LEASE_NS))

    def _expire_dead(self, db: sqlite3.Connection, now_ns: int) -> None:
        dead = db.execute("SELECT token FROM processes WHERE until_ns <= ?", (now_ns,)).fetchall()
        for (token,) in dead:
            self._expire_process(db, token, now_ns)

    def _expire_process(self, db: sqlite3.Connection, token: str, now_ns: int) -> None:
        """Charge in full what a process reserved, and take it out of every line."""
        left = db.execute(
            "SELECT lane, granted_ns, cost, ended FROM reservations WHERE process = ?", (token,)
        ).fetchall()
        for lane, granted_ns, cost, ended in left:
            state = _lane_state(db, lane)
            state.expire(Reservation(granted_ns, json.loads(cost), json.loads(ended)), now_ns)
            _save(db, lane, state)
        db.execute("DELETE FROM reservations WHERE process = ?", (token,))
        db.execute("DELETE FROM waiters WHERE process = ?", (token,))
        db.execute("DELETE FROM processes WHERE token = ?", (token,))
        self._note_change(db)

    # -- the line

    def _line_up(self, db: sqlite3.Connection, state: LaneState, claim: ReservationRequest) -> int:
        """Return the tag of a claim, which is in line from now on."""
        row = db.execute("SELECT tag FROM waiters WHERE id = ?", (claim.id,)).fetchone()
        if row is not None:
            return int(row[0])
        whose = (claim.lane, claim.priority, claim.client)
        last = db.execute("SELECT ends FROM turns WHERE lane = ? AND priority = ? AND client = ?", whose).fetchone()
        tag, ends = state.turn(claim.priority, last[0] if last else 0, claim.turn_cost, claim.weight)
        db.execute("INSERT OR REPLACE INTO turns VALUES (?, ?, ?, ?)", (*whose, ends))
        db.execute(
            "INSERT INTO waiters (id, lane, process, priority, client, tag, ends) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (claim.id, claim.lane, self.token, claim.priority, claim.client, tag, ends),
        )
        return tag

    def _leave_line(self, db: sqlite3.Connection, lane: str, claim_id: str) -> None:
        """Take a claim out of the line; its turn is given back if it was its client's last."""
        row = db.execute("SELECT priority, client, tag, ends FROM waiters WHERE id = ?", (claim_id,)).fetchone()
        if row is None:
            return
        priority, client, tag, ends = row
        db.execute("DELETE FROM waiters WHERE id = ?", (claim_id,))
        db.execute(
            "UPDATE turns SET ends = ? WHERE lane = ? AND priority = ? AND client = ? AND ends = ?",
            (tag, lane, priority, client, ends),
        )
        self._note_change(db)

    def _grant(
        self, db: sqlite3.Connection, state: LaneState, claim: ReservationRequest, tag: int, now_ns: int
    ) -> None:
        granted = state.grant(claim.cost, claim.priority, tag, now_ns)
        db.execute("DELETE FROM waiters WHERE id = ?", (claim.id,))
        db.execute(
            "DELETE FROM turns WHERE lane = ? AND priority = ? AND ends <= ?",
            (claim.lane, claim.priority, state.turn_now(claim.priority)),
        )
        db.execute(
            "INSERT INTO reservations VALUES (?, ?, ?, ?, ?, ?)",
            (claim.id, claim.lane, self.token, now_ns, json.dumps(dict(claim.cost)), json.dumps(dict(granted.ended))),
        )
        _save(db, claim.lane, state)
        self._note_change(db)

    def _note_change(self, db: sqlite3.Connection) -> None:
        """Count what others may have waited for; a heart-beat or a newcomer in line is nothing of that kind."""
        db.execute("UPDATE changes SET number = number + 1")
        self._changes += 1


def _lane_state(db: sqlite3.Connection, lane: str) -> LaneState:
    row = db.execute("SELECT state FROM lanes WHERE name = ?", (lane,)).fetchone()
    return LaneState(None if row is None else json.loads(row[0]))


def _save(db: sqlite3.Connection, lane: str, state: LaneState) -> None:
    db.execute("INSERT OR REPLACE INTO lanes VALUES (?, ?)", (lane, json.dumps(state.state(), separators=(",", ":"))))


def _reservation(db: sqlite3.Connection, claim_id: str) -> Reservation | None:
    row = db.execute("SELECT granted_ns, cost, ended FROM reservations WHERE id = ?", (claim_id,)).fetchone()
    return None if row is None else Reservation(row[0], json.loads(row[1]), json.loads(row[2]))


def _open_costs(db: sqlite3.Connection, lane: str) -> Iterator[Any]:
    for (cost,) in db.execute("SELECT cost FROM reservations WHERE lane = ?", (lane,)):
        yield json.loads(cost)


def _is_first(db: sqlite3.Connection, claim: ReservationRequest) -> bool:
    first = "SELECT id FROM waiters WHERE lane = ? ORDER BY priority, tag, arrival LIMIT 1"
    return bool(db.execute(first, (claim.lane,)).fetchone()[0] == claim.id)


def _changes(db: sqlite3.Connection) -> int:
    return int(patiently(db, "SELECT number FROM changes").fetchone()[0])


# -- from a URL to a connection: every reason why a file cannot hold budgets is reported with its cure


def path_of(url: str) -> str:
    """Return the absolute path of the file that *url* names.

    ``sqlite:///var/lib/budgets.db`` is absolute, as in any URL. A bare name, ``sqlite:///budgets.db``,
    is one in the working directory: budgets are never kept at the root of a disk.

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
        raise limiter_error(path, error) from error
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


def read_boot_id() -> str:
    """Return what tells one boot of this host from another; "" where only a clock that went back can."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def limiter_error(path: str, error: Exception) -> LimiterUnavailable:
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
    _BUDGET_FILE.check_file(path, for_writing=True)
    _BUDGET_FILE.check_directory(path, for_writing=True)
