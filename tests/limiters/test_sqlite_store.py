"""What is particular to budgets in a file: places that cannot hold one, boots, forks, and files that vanish."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from stores import SqliteStore

from groq_queue import GroqQueue, GroqSimulator, Limits
from groq_queue.clock import NS_PER_S, FakeClock
from groq_queue.core.budget import Blocked
from groq_queue.errors import ConfigurationError, LimiterUnavailable
from groq_queue.limiters.lane_state import LaneState
from groq_queue.limiters.sqlite import SqliteBudgetStore, path_of
from groq_queue.limiters.store import KnownLimits, ReservationRequest, Reserved
from groq_queue.sqlite_file import let_go

TPM: KnownLimits = {"TPM": (6_000, 60 * NS_PER_S)}
TPD: KnownLimits = {"TPD": (86_400, 86_400 * NS_PER_S)}  # a token drains each second
PATIENCE_S = 30.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    made = SqliteStore(tmp_path)
    yield made
    made.close()


def spend(budgets: SqliteBudgetStore, tokens: int, limits: KnownLimits = TPM) -> None:
    cost = dict.fromkeys(limits, tokens)
    claim = ReservationRequest(f"{budgets.token}-1", "lane", cost)
    assert isinstance(budgets.reserve(claim, limits), Reserved)
    budgets.settle("lane", claim.id, cost, cost, {}, limits)


def used(budgets: SqliteBudgetStore) -> int:
    return budgets.status("lane").levels[0].used


# -- which file


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/lib/budgets.db", "/var/lib/budgets.db"),
        ("sqlite:////var/lib/budgets.db", "/var/lib/budgets.db"),
        ("sqlite:///with%20space/b.db", "/with space/b.db"),
        ("sqlite:///budgets.db", "{cwd}/budgets.db"),
        ("sqlite:budgets.db", "{cwd}/budgets.db"),
    ],
)
def test_a_url_names_a_file(url: str, path: str) -> None:
    assert path.replace("{cwd}", os.getcwd()) == path_of(url)


@pytest.mark.parametrize(
    "url",
    ["sqlite:", "sqlite:///", "sqlite://budgets.db", "sqlite:///:memory:", "sqlite:///b.db?mode=ro", "sqlite:///a#b"],
)
def test_a_url_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="three slashes"):
        SqliteBudgetStore.open(url)


@pytest.mark.parametrize("limiter", ["postgres://u:secret@h/db", 5, "", Path("/tmp/x")])
def test_a_queue_says_which_limiters_there_are(limiter: Any) -> None:
    with pytest.raises(ConfigurationError, match="use None for this process") as caught:
        GroqQueue(api_key="k", limiter=limiter)

    assert "secret" not in str(caught.value)


def test_a_queue_says_what_can_be_done_in_an_outage() -> None:
    with pytest.raises(ConfigurationError, match="local_share"):
        GroqQueue(api_key="k", on_outage="panic")  # type: ignore[arg-type]


# -- places that cannot hold one


def make_directory(path: Path) -> None:
    path.mkdir()


def make_text(path: Path) -> None:
    path.write_text("dear diary, " * 100)


def make_others(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE diary (line)")
    db.close()


def make_newer(path: Path) -> None:
    SqliteBudgetStore(str(path)).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


def make_damaged(path: Path) -> None:
    SqliteBudgetStore(str(path)).close()
    content = bytearray(path.read_bytes())
    content[4096 : 4096 * 3] = b"\xff" * 4096 * 2
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (make_directory, "this is a directory; name a file in it"),
        (make_text, "no budget file, or damaged"),
        (make_others, "belongs to another program; name another path"),
        (make_newer, "its schema is version 99"),
        (make_damaged, "damaged"),
    ],
)
def test_a_file_that_holds_no_budgets_is_told_with_the_cure_and_left_alone(
    tmp_path: Path, make: Any, said: str
) -> None:
    path = tmp_path / "budgets.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None

    with pytest.raises(LimiterUnavailable, match=said) as caught:
        spend(SqliteBudgetStore(str(path)), 1)

    assert str(path) == caught.value.address
    assert before == (path.read_bytes() if path.is_file() else None)


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(LimiterUnavailable, match="create it first"):
        SqliteBudgetStore(str(tmp_path / "no" / "budgets.db"))

    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["directory", "file"])
def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """
    The tests may run as root, whom nothing stops; so the question is answered for an ordinary user.
    """
    path = tmp_path / "budgets.db"
    SqliteBudgetStore(str(path)).close()
    closed = tmp_path if what == "directory" else path
    access = os.access
    monkeypatch.setattr(os, "access", lambda name, mode: str(name) != str(closed) and access(name, mode))

    with pytest.raises(LimiterUnavailable, match=r"writable|may not read and write"):
        SqliteBudgetStore(str(path))


def test_a_file_that_hosts_would_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groq_queue.sqlite_file.mounts", lambda: f"server:/home {tmp_path} nfs4 rw 0 0\n")

    with pytest.raises(LimiterUnavailable, match=r"network file system \(nfs4\).*share by redis://"):
        SqliteBudgetStore(str(tmp_path / "budgets.db"))

    assert [] == list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="there a file has one name")
def test_a_file_with_several_names_is_refused(tmp_path: Path) -> None:
    """
    What SQLite keeps beside it, and needs after a crash, goes by the name under which it was opened.
    """
    path = tmp_path.resolve() / "budgets.db"
    SqliteBudgetStore(str(path)).close()
    os.link(path, tmp_path / "other.db")

    with pytest.raises(LimiterUnavailable, match=r"has 2 names \(hard links\), .* remove the other names"):
        SqliteBudgetStore(str(path))


def test_a_file_that_is_mounted_by_itself_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    As ``docker -v budgets.db:/data/budgets.db`` does.
    """
    path = tmp_path.resolve() / "budgets.db"
    SqliteBudgetStore(str(path)).close()
    monkeypatch.setattr("groq_queue.sqlite_file.mounts", lambda: f"/dev/a / ext4 rw 0 0\n/dev/a {path} ext4 rw 0 0\n")

    with pytest.raises(LimiterUnavailable, match="mounted here by itself"):
        SqliteBudgetStore(str(path))


def test_a_queue_over_such_a_place_is_not_made(tmp_path: Path) -> None:
    before = threading.active_count()

    with pytest.raises(LimiterUnavailable, match="create it first"):
        GroqQueue(api_key="k", limiter=f"sqlite://{tmp_path}/no/budgets.db")

    assert before == threading.active_count()


def test_the_file_is_for_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        budgets = SqliteBudgetStore(str(tmp_path / "budgets.db"))
        spend(budgets, 1)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        budgets.close()
    finally:
        os.umask(before)

    assert {"budgets.db", "budgets.db-journal"} == set(modes)
    assert {0o600} == set(modes.values())


def test_no_key_is_stored(tmp_path: Path) -> None:
    with GroqSimulator() as groq:
        queue = GroqQueue(
            api_key="gsk_verysecret", base_url=groq.base_url, model="llama-3.1-8b-instant",
            limiter=f"sqlite://{tmp_path}/budgets.db",
        )  # fmt: skip
        with queue:
            queue.submit("Why?").result(PATIENCE_S)

    stored = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert b"llama-3.1-8b-instant" in stored["budgets.db"]
    assert [] == [name for name, content in stored.items() if b"verysecret" in content]


# -- time


def test_levels_outlive_every_process(store: SqliteStore) -> None:
    first = store.open()
    spend(first, 5_000, TPD)
    store.kill(first)
    first.close()
    store.clock.advance(1_000)

    assert 4_000 == used(store.open())


class Boot:
    """A clock of one boot of the host: its steady part began anew, its wall went on."""

    def __init__(self, uptime_s: float, wall_s: float) -> None:
        self._fake = FakeClock(round(uptime_s * NS_PER_S))
        self.wall = wall_s

    def now_ns(self) -> int:
        return self._fake.now_ns()

    def wall_s(self) -> float:
        return self.wall

    def wait(self, condition: Any, until_ns: int | None) -> None:
        self._fake.wait(condition, until_ns)


@pytest.mark.parametrize("uptime_s", [10.0, 5_000_000.0])
def test_after_a_boot_levels_have_drained_by_the_wall_clock(store: SqliteStore, uptime_s: float) -> None:
    """
    Whether the new boot's clock stands lower or higher than the old one's.
    """
    before = store.open(Boot(1_000_000, 1_800_000_000), boot_id="one")
    spend(before, 5_000, TPD)

    after = store.open(Boot(uptime_s, 1_800_001_000), boot_id="two")

    assert 4_000 == used(after)


def test_a_wall_clock_that_went_back_over_a_boot_drains_nothing(store: SqliteStore) -> None:
    before = store.open(Boot(1_000_000, 1_800_000_000), boot_id="one")
    spend(before, 5_000, TPD)

    after = store.open(Boot(10, 1_700_000_000), boot_id="two")

    assert 5_000 == used(after)


def test_each_beat_notes_the_time_so_that_a_corrected_wall_clock_drains_nothing_at_the_next_boot(
    store: SqliteStore,
) -> None:
    """
    The wall was put right by an hour; a boot later 1,000 s have passed.
    """
    clock = Boot(1_000_000, 1_800_000_000)
    before = store.open(clock, boot_id="one")
    spend(before, 5_000, TPD)
    clock.wall += 3_600
    before.heartbeat()

    after = store.open(Boot(10, 1_800_004_600), boot_id="two")

    assert 4_000 == used(after)


def test_what_was_open_at_a_boot_is_charged(store: SqliteStore) -> None:
    before = store.open(Boot(1_000_000, 1_800_000_000), boot_id="one")
    assert isinstance(before.reserve(ReservationRequest("x-1", "lane", {"TPD": 5_000}), TPD), Reserved)
    store.kill(before)

    after = store.open(Boot(10, 1_800_000_000), boot_id="two")
    blocked = after.reserve(ReservationRequest("y-1", "lane", {"TPD": 86_400}), TPD)

    assert Blocked("limit", 5_000 * NS_PER_S, "TPD", 5_000, 86_400) == blocked


def test_wall_clocks_that_differ_by_hours_change_nothing(store: SqliteStore) -> None:
    ahead, behind = Boot(1_000, 1_800_003_600), Boot(1_000, 1_799_996_400)
    one, two = store.open(ahead, boot_id="same"), store.open(behind, boot_id="same")
    for _ in range(3):
        one.heartbeat()
        two.heartbeat()
    spend(one, 5_000, TPD)
    two.heartbeat()
    one.heartbeat()

    assert [5_000, 5_000] == [used(one), used(two)]


@pytest.mark.parametrize("wall_s", [1_800_001_000, 1_799_999_000])
def test_a_steady_clock_that_went_back_is_a_boot_whatever_the_host_calls_it(store: SqliteStore, wall_s: float) -> None:
    """
    A host that names no boots; 5,000 s of the day were in use, and its wall says that 1,000 s or none have passed.
    """
    before = store.open(Boot(1_000_000, 1_800_000_000), boot_id="")
    spend(before, 5_000, TPD)

    after = store.open(Boot(999_999, wall_s), boot_id="")

    assert (4_000 if wall_s > 1_800_000_000 else 5_000) == used(after)


def test_a_process_that_comes_at_the_same_instant_comes_after_no_boot(store: SqliteStore) -> None:
    before = store.open(Boot(1_000, 1_800_000_000), boot_id="")
    spend(before, 5_000, TPD)
    assert isinstance(before.reserve(ReservationRequest("x-2", "lane", {"TPD": 1}), TPD), Reserved)

    after = store.open(Boot(1_000, 1_800_001_000), boot_id="")

    assert 5_001 == used(after)
    assert 2 == _alive(after) + 1  # the first one still counts as alive


def _alive(budgets: SqliteBudgetStore) -> int:
    assert budgets._db is not None
    now_ns = budgets._clock.now_ns()
    return int(budgets._db.execute("SELECT count(*) FROM processes WHERE until_ns > ?", (now_ns,)).fetchone()[0])


def test_no_process_lives_through_a_boot(store: SqliteStore) -> None:
    before = store.open(Boot(10, 1_800_000_000), boot_id="one")
    before.heartbeat()

    after = store.open(Boot(11, 1_800_000_000), boot_id="two")

    assert 0 == _alive(after)


# -- who is alive


def until_s(store: SqliteStore, budgets: SqliteBudgetStore) -> float | None:
    """Return in how many seconds a process will be taken for dead, or None if it is not written down."""
    with contextlib.closing(sqlite3.connect(store.path)) as db:
        row = db.execute("SELECT until_ns FROM processes WHERE token = ?", (budgets.token,)).fetchone()
    return None if row is None else (row[0] - store.clock.now_ns()) / NS_PER_S


def test_to_claim_is_as_good_as_a_beat_once_half_the_time_is_over(store: SqliteStore) -> None:
    """
    Not sooner, because it would be written down with every request.
    """
    budgets, claim = store.open(), ReservationRequest("x-1", "lane", {"TPM": 1})
    left = [until_s(store, budgets)]
    for passed_s in (0, 1.5, 0.25):
        store.clock.advance(passed_s)
        budgets.reserve(claim, TPM)
        left.append(until_s(store, budgets))

    assert [None, 3.0, 1.5, 3.0] == left


def test_a_beat_is_good_for_three_seconds_and_not_for_a_nanosecond_more(store: SqliteStore) -> None:
    one, other = store.open(), store.open()
    one.heartbeat()
    other.heartbeat()

    store.clock.advance(3.0 - 1e-9)
    before = _alive(other)
    store.clock.advance(1e-9)

    assert (2, 0) == (before, _alive(other))


# -- news


def test_a_fresh_file_holds_no_news(store: SqliteStore) -> None:
    assert not store.open().has_changed()


def test_nothing_new_is_no_news_however_often_one_looks(store: SqliteStore) -> None:
    one, other = store.open(), store.open()
    assert isinstance(one.reserve(ReservationRequest("x-1", "lane", {"TPM": 6_000}), TPM), Reserved)
    other.reserve(ReservationRequest("y-1", "lane", {"TPM": 1}), TPM)

    one.heartbeat()

    assert [False] * 3 == [other.has_changed() for _ in range(3)]


def test_ones_own_ends_are_no_news_and_those_of_others_are_until_one_asks(store: SqliteStore) -> None:
    one, other = store.open(), store.open()
    for budgets, name in ((one, "x-1"), (one, "x-2"), (other, "y-1")):
        assert isinstance(budgets.reserve(ReservationRequest(name, "lane", {"TPM": 100}), TPM), Reserved)
    one.has_changed()
    one.reserve(ReservationRequest("x-3", "lane", {"TPM": 100}), TPM)

    one.refund("lane", "x-1")
    own = one.has_changed()
    other.refund("lane", "y-1")
    of_another = one.has_changed()
    one.reserve(ReservationRequest("x-4", "lane", {"TPM": 100}), TPM)

    assert (False, True, False) == (own, of_another, one.has_changed())


@pytest.mark.parametrize("how", ["settles", "gives back", "leaves the line", "dies", "closes"])
def test_each_way_to_free_budget_is_news_to_those_who_wait(store: SqliteStore, how: str) -> None:
    holder, waiter, third = (store.open() for _ in range(3))
    cost = {"TPM": 6_000}
    assert isinstance(holder.reserve(ReservationRequest("x-1", "lane", cost), TPM), Reserved)
    if how == "leaves the line":
        holder.reserve(ReservationRequest("x-2", "lane", {"TPM": 1}, priority=0), TPM)
    waiter.reserve(ReservationRequest("y-1", "lane", {"TPM": 1}), TPM)
    before = waiter.has_changed()

    if how == "settles":
        holder.settle("lane", "x-1", cost, cost, {}, TPM)
    elif how == "gives back":
        holder.refund("lane", "x-1")
    elif how == "leaves the line":
        holder.refund("lane", "x-2")
    elif how == "dies":
        store.kill(holder)
        store.clock.advance(3)
        third.reserve(ReservationRequest("z-1", "other lane", {}), {})
    else:
        store.kill(holder)
        holder.close()

    assert (False, True) == (before, waiter.has_changed())


# -- one step is all or nothing


def test_a_step_that_breaks_leaves_no_trace_and_the_file_free(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = store.open(), store.open()

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(LaneState, "grant", broken)
        with pytest.raises(ZeroDivisionError):
            one.reserve(ReservationRequest("x-1", "lane", {"TPM": 1}, priority=0), TPM)

    assert isinstance(other.reserve(ReservationRequest("y-1", "lane", {"TPM": 1}), TPM), Reserved)
    assert [] == rows(store, "waiters")
    assert 1 == used(one)


def rows(store: SqliteStore, table: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(store.path)) as db:
        return db.execute(f"SELECT * FROM {table}").fetchall()


def test_a_store_that_cannot_be_made_leaves_no_connection(
    store: SqliteStore, closings: Callable[[], list[bool]]
) -> None:
    class Broken(FakeClock):
        def wall_s(self) -> float:
            raise ZeroDivisionError

    closed = closings()

    with pytest.raises(ZeroDivisionError):
        SqliteBudgetStore(str(store.path), Broken())

    assert [True] == closed


def test_what_is_over_leaves_nothing_behind_but_its_level(store: SqliteStore) -> None:
    """
    Turns are forgotten as soon as others have come as far.
    """
    budgets = store.open()
    for number in (*range(20), 20):
        claim = ReservationRequest(f"x-{number}", "lane", {"TPM": 1}, client=f"client {number % 20}")
        assert isinstance(budgets.reserve(claim, TPM), Reserved)
        budgets.settle("lane", claim.id, claim.cost, claim.cost, {}, TPM)

    assert ([], []) == (rows(store, "reservations"), rows(store, "waiters"))
    assert [("lane", 5, "client 0")] == [row[:3] for row in rows(store, "turns")]


# -- forks and files


def test_renewed_it_is_another_process_with_another_connection(store: SqliteStore) -> None:
    """
    As in a forked child. What it had reserved stays reserved, in the name of the parent.
    """
    budgets = store.open()
    assert isinstance(budgets.reserve(ReservationRequest(f"{budgets.token}-1", "lane", {"TPM": 5_000}), TPM), Reserved)
    token, parents = budgets.token, budgets._db
    assert parents is not None

    budgets.reset_after_fork()
    blocked = budgets.reserve(ReservationRequest(f"{budgets.token}-1", "lane", {"TPM": 5_000}), TPM)
    parents.close()
    let_go(parents)

    assert token != budgets.token
    assert isinstance(blocked, Blocked)
    assert 5_000 == used(budgets)
    assert {token, budgets.token} == {row[0] for row in rows(store, "processes")}


def is_closed(db: sqlite3.Connection) -> bool:
    try:
        db.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return True
    return False


def test_renewed_in_a_child_it_is_the_childs(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets = store.open()
    parents = budgets._db
    assert parents is not None

    monkeypatch.setattr(os, "getpid", lambda: -1)
    budgets.reset_after_fork()

    assert isinstance(budgets.reserve(ReservationRequest("x-1", "lane", {"TPM": 5_000}), TPM), Reserved)
    parents.close()
    let_go(parents)


def test_two_stores_are_two_processes(store: SqliteStore) -> None:
    assert 10 == len({store.open().token for _ in range(10)})


def test_in_a_child_a_store_of_the_parent_closes_nothing(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets = store.open()
    assert isinstance(budgets.reserve(ReservationRequest("x-1", "lane", {"TPM": 5_000}), TPM), Reserved)

    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        db = budgets._db
        budgets.close()

    assert db is budgets._db
    assert not is_closed(db)
    assert 1 == len(rows(store, "reservations"))
    assert 5_000 == used(budgets)


def test_closing_twice_is_closing_once(store: SqliteStore) -> None:
    budgets, other = store.open(), store.open()
    assert isinstance(budgets.reserve(ReservationRequest("x-1", "lane", {"TPM": 5_000}), TPM), Reserved)

    db = budgets._db
    assert db is not None

    budgets.close()
    budgets.close()

    assert is_closed(db)
    assert [] == rows(store, "reservations")
    assert 5_000 == used(other)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_never_uses_what_it_inherited(tmp_path: Path) -> None:
    """
    Not even at its end, when its objects are freed: the parent is in the middle of a transaction.
    """
    script = """
import os, sys
from groq_queue.limiters.sqlite import SqliteBudgetStore
from groq_queue.limiters.store import ReservationRequest
from groq_queue.errors import LimiterUnavailable
budgets = SqliteBudgetStore(sys.argv[1])
limits = {"TPM": (6_000, 60 * 10**9)}
with budgets._step() as (db, now_ns):
    db.execute("UPDATE changes SET number = 41")
    for number in range(10_000):  # more than fits into memory: some of it is in the file already
        db.execute("INSERT INTO lanes VALUES (?, ?)", (f"lane {number}", "{}" + " " * 500))
    if not (child := os.fork()):
        try:
            budgets.status("lane")
        except LimiterUnavailable as error:
            print("make the GroqQueue in the child" in str(error), flush=True)
        budgets.close()
        sys.exit()
    os.waitpid(child, 0)
    db.execute("UPDATE changes SET number = number + 1")
print(db.execute("SELECT number FROM changes").fetchone()[0], db.execute("PRAGMA integrity_check").fetchone()[0])
print(db.execute("SELECT count(*) FROM lanes").fetchone()[0])
budgets.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "budgets.db")], capture_output=True, text=True, timeout=60
    )

    assert ("True\n42 ok\n10000\n", 0) == (done.stdout, done.returncode), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_counts_for_itself_in_memory_and_as_another_process_in_a_file(tmp_path: Path) -> None:
    """
    Of 500 the parent has leased 150: the child's own budget is empty, and in the file it finds the parent's.
    """
    script = """
import os, sys
sys.path.insert(0, sys.argv[2])
from organisation import Desk
from groq_queue.clock import SystemClock
from groq_queue.core.limits import Limits
from groq_queue.core.token_estimate import PromptSize
from groq_queue.core.priority import LeaseApplicant
from groq_queue.limiters.in_process import ProcessLimiter
from groq_queue.limiters.shared import SharedLimiter
from groq_queue.limiters.sqlite import SqliteBudgetStore
limits, size = Limits(tpm=500, minute_s=86_400), PromptSize(150, 0, is_exact=True)
turn, clock = LeaseApplicant("r"), SystemClock()
budgets, desks = SqliteBudgetStore(sys.argv[1]), []
alone = ProcessLimiter(limits, "u", "account")
shared = SharedLimiter(budgets, limits, "u", "account", clock, lambda client: desks.append(Desk(client)) or desks[-1])
def lease():
    alone.meter("m", "m").lease(size, clock.now_ns())
    shared.meter("m", "m").lease(size, clock.now_ns(), turn)
    desks[-1].go()
    assert shared.meter("m", "m").lease(size, clock.now_ns(), turn).cost
def show():
    print(len(desks), alone.levels(0)["m"][0].used, budgets.status("u account m").levels[0].used, flush=True)
lease()
token = budgets.token
if not (child := os.fork()):
    assert budgets.token != token
    lease()
    show()
    os._exit(0)
assert 0 == os.waitpid(child, 0)[1]
show()
budgets.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "budgets.db"), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert ("2 150 300\n1 150 300\n", 0) == (done.stdout, done.returncode), done.stderr


def test_a_file_that_was_removed_is_made_again(store: SqliteStore) -> None:
    """
    Else this process would go on in a file that nobody else can see.
    """
    one = store.open()
    spend(one, 5_000)
    store.path.unlink()
    gone = one._db
    assert gone is not None

    one.heartbeat()
    assert is_closed(gone)
    two = store.open()
    spend(two, 3_000)

    assert [3_000, 3_000] == [used(one), used(two)]


def test_a_locked_file_is_an_outage_that_ends(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groq_queue.limiters.sqlite._BUSY_S", 0.0)
    budgets = store.open()
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")

    with pytest.raises(LimiterUnavailable, match="kept it locked"):
        budgets.status("lane")
    other.execute("ROLLBACK")
    other.close()

    assert [] == budgets.status("lane").levels


def test_a_row_that_is_no_state_is_damage(store: SqliteStore) -> None:
    budgets = store.open()
    budgets._db.execute("INSERT INTO lanes VALUES ('lane', 'rubbish')")

    with pytest.raises(LimiterUnavailable, match="damaged"):
        budgets.status("lane")


def test_a_process_killed_in_mid_transaction_harms_nothing(tmp_path: Path) -> None:
    """
    It dies with half of its changes on their way into the file; the next to come rolls them back.
    """
    script = """
import os, signal, sys
from groq_queue.limiters.sqlite import SqliteBudgetStore
budgets = SqliteBudgetStore(sys.argv[1])
budgets.charge("lane", {"TPM": 1_000}, {"TPM": (6_000, 10**18)})
with budgets._step() as (db, now_ns):
    for number in range(10_000):
        db.execute("INSERT INTO lanes VALUES (?, ?)", (f"lane {number}", "x" * 500))
    db.execute("UPDATE lanes SET state = '{}'")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "budgets.db"
    subprocess.run([sys.executable, "-c", script, str(path)], timeout=60, check=False)
    size = path.stat().st_size

    budgets = SqliteBudgetStore(str(path))
    levels = budgets.status("lane").levels
    budgets.close()

    assert size > 1_000_000  # it had begun to write
    assert [("TPM", 1_000)] == [(level.dimension, level.used) for level in levels]


# -- a queue


def test_a_program_is_the_same_with_another_limiter(tmp_path: Path) -> None:
    """
    One argument decides where budgets are counted; results, errors and callbacks are the same.
    """

    def program(limiter: str | None) -> tuple[Any, ...]:
        limits, called = Limits(rpm=60, tpm=2_000, minute_s=1), []
        with (
            GroqSimulator(limits=limits, latency=0.001) as groq,
            GroqQueue(
                api_key="k", base_url=groq.base_url, model="llama-3.1-8b-instant", limits=limits, limiter=limiter
            ) as queue,
        ):
            futures = [
                queue.submit(f"{number}?", max_completion_tokens=50, callback=lambda future: called.append(1))
                for number in range(30)
            ]
            texts = [len(future.result(PATIENCE_S).text) > 0 for future in futures]
            try:
                queue.submit("Too much?", max_completion_tokens=5_000)
            except Exception as error:
                failure = type(error).__name__
            stats = queue.stats()
        return texts, failure, len(called), stats.completed, stats.refused, len(groq.log)

    assert program(None) == program(f"sqlite://{tmp_path}/budgets.db")


def test_two_queues_of_one_process_share_a_file_too(tmp_path: Path) -> None:
    limits = Limits(tpm=1_500, minute_s=1)
    with GroqSimulator(limits=limits, latency=0.001) as groq:
        queues = [
            GroqQueue(
                api_key="k",
                base_url=groq.base_url,
                model="llama-3.1-8b-instant",
                limits=limits,
                limiter=f"sqlite://{tmp_path}/budgets.db",
            )
            for _ in range(2)
        ]
        futures = [queue.submit("Why?", max_completion_tokens=90) for _ in range(20) for queue in queues]
        for future in futures:
            future.result(PATIENCE_S)
        for queue in queues:
            queue.shutdown()

        assert (40, 0) == (groq.stats().admitted, groq.stats().refused)


def eventually(path: Path, question: str, expected: Any) -> None:
    """Return when the file answers *question* as *expected*."""
    pause, found = threading.Event(), None
    for _ in range(round(PATIENCE_S * 50)):
        with contextlib.closing(sqlite3.connect(path, timeout=10)) as db:
            found = db.execute(question).fetchall()
        if found == expected:
            return
        pause.wait(0.02)
    raise AssertionError(found)


def test_what_ranks_a_request_reaches_the_file_and_leaves_with_it(tmp_path: Path) -> None:
    """
    The minute is spent by somebody else. Of those that wait, the head of the lane stands in line, while it waits.
    """
    path, limits = tmp_path / "budgets.db", Limits(tpm=1_000, minute_s=10_000)
    in_line = "SELECT priority, client, (ends - tag) FROM waiters"
    with GroqSimulator() as groq:
        queue = GroqQueue(
            api_key="k",
            base_url=groq.base_url,
            model="llama-3.1-8b-instant",
            limits=limits,
            limiter=f"sqlite://{path}",
        )
        queue.set_weight("acme", 4)
        queue.submit("Why?", max_completion_tokens=900).result(PATIENCE_S)
        low = queue.submit("Low?", max_completion_tokens=900, priority="low")
        eventually(path, in_line, [(8, "default", 1 << 20)])
        high = queue.submit("High?", max_completion_tokens=900, priority="high", client="acme")
        eventually(path, in_line, [(1, "acme", 1 << 18)])
        high.cancel()
        eventually(path, in_line, [(8, "default", 1 << 20)])
        low.cancel()
        eventually(path, in_line, [])
        queue.submit("Again?", max_completion_tokens=900)
        eventually(path, in_line, [(5, "default", 1 << 20)])
        queue.cancel_all()
        eventually(path, in_line, [])
        queue.shutdown()


def test_a_queue_that_ends_leaves_nothing_open_in_the_file(tmp_path: Path) -> None:
    with GroqSimulator(tpm=10_000) as groq:
        for _ in range(2):
            with GroqQueue(
                api_key="k",
                base_url=groq.base_url,
                model="llama-3.1-8b-instant",
                limits=Limits(tpm=10_000),
                limiter=f"sqlite://{tmp_path}/budgets.db",
            ) as queue:
                queue.submit("Why?").result(PATIENCE_S)

    with closing(sqlite3.connect(tmp_path / "budgets.db")) as db:
        left = [
            db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("processes", "reservations", "waiters")
        ]
    assert [0, 0, 0] == left


def test_requests_fail_with_the_stores_error_if_so_wished(tmp_path: Path) -> None:
    """
    A whole queue whose file turns into something else while it runs.
    """
    path = tmp_path / "budgets.db"
    with GroqSimulator(tpm=10_000) as groq:
        queue = GroqQueue(
            api_key="k",
            base_url=groq.base_url,
            model="llama-3.1-8b-instant",
            limits=Limits(tpm=10_000),
            limiter=f"sqlite://{path}",
            on_outage="raise",
        )
        queue.submit("Why?").result(PATIENCE_S)
        path.unlink()
        path.mkdir()
        future = queue.submit("And now?", custom_id="mine")
        error = future.exception(PATIENCE_S)
        path.rmdir()
        queue.shutdown()

    assert isinstance(error, LimiterUnavailable)
    assert ("mine", str(path)) == (error.custom_id, error.address)
