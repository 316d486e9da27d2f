"""A journal that has gone is noticed by the next commit, and the looking costs one look while all stands still."""

from __future__ import annotations

import os
import sys

import pytest

from groq_queue.clock import FakeClock
from groq_queue.journal.file_identity import FileIdentity
from groq_queue.journal.owner_lock import OwnerLock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be renamed there")


class Place:
    """A journal's files in a directory of their own, with their owner, long after anything changed there."""

    def __init__(self, directory) -> None:
        self.directory = directory
        self.path = str(directory / "run.db")
        for name in (self.path, self.path + "-wal"):
            open(name, "x").close()
        self.owner = OwnerLock(self.path)
        self.clock = FakeClock()
        self.identity = FileIdentity(self.path, self.owner, self.clock)

    def settle(self) -> None:
        """Let so much time pass that the directory alone is looked at."""
        assert self.identity.lost() is None
        self.clock.advance(2.5)
        assert self.identity.lost() is None


@pytest.fixture
def place(tmp_path):
    (tmp_path / "inner").mkdir()
    place = Place(tmp_path.resolve() / "inner")
    yield place
    place.owner.release()


@pytest.fixture
def looks(monkeypatch):
    """The names that are looked up from now on."""
    found, look = [], os.stat

    def stat(name, **options):
        found.append(name)
        return look(name, **options)

    monkeypatch.setattr(os, "stat", stat)
    return found


def test_while_nothing_changes_one_look_at_the_directory_is_enough(place, looks):
    place.settle()
    looks.clear()

    assert [None] * 5 == [place.identity.lost() for _ in range(5)]
    assert [str(place.directory)] * 5 == looks


def test_each_name_is_looked_up_again_after_a_second(place, looks):
    place.settle()
    place.clock.advance(1)
    looks.clear()

    assert place.identity.lost() is None
    assert {str(place.directory), place.path, place.path + "-wal", place.path + ".lock"} == set(looks)


@pytest.mark.parametrize(("mtime_ns", "tick_s"), [(1_800_000_000_123_456_789, 0.1), (1_800_000_000 * 10**9, 2.0)])
def test_each_name_is_looked_up_while_another_change_of_the_directory_could_bear_the_same_time(
    place, looks, mtime_ns, tick_s
):
    """
    Whole seconds are those of a file system that counts no less.
    """
    os.utime(place.directory, ns=(mtime_ns, mtime_ns))
    assert place.identity.lost() is None
    for _ in range(3):
        place.clock.advance(0.3 * tick_s)
        looks.clear()
        assert place.identity.lost() is None
        assert place.path in looks

    place.clock.advance(0.3 * tick_s)
    assert place.identity.lost() is None
    looks.clear()
    assert place.identity.lost() is None
    assert [str(place.directory)] == looks


@pytest.mark.parametrize("end", ["", "-wal"])
@pytest.mark.parametrize("act", [os.unlink, lambda name: os.rename(name, name + ".away")], ids=["deleted", "moved"])
def test_a_file_that_goes_is_noticed_at_once(place, act, end):
    place.settle()
    act(place.path + end)

    assert f"{place.path}{end} was deleted, moved or replaced" in str(place.identity.lost())
    assert place.identity.lost() is not None


def test_a_file_that_comes_back_is_good_again(place):
    place.settle()
    os.rename(place.path, place.path + ".away")
    assert place.identity.lost() is not None
    os.rename(place.path + ".away", place.path)

    assert place.identity.lost() is None


def test_a_change_that_the_directory_does_not_tell_is_noticed_within_a_second(place):
    """
    As on a file system that does not keep the times of its directories, or under a mount.
    """
    place.settle()
    before = os.stat(place.directory)
    os.unlink(place.path)
    os.utime(place.directory, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert place.identity.lost() is None
    place.clock.advance(1)

    assert place.identity.lost() is not None


def test_a_directory_that_is_moved_is_noticed_at_once(place):
    place.settle()
    os.rename(place.directory, str(place.directory) + ".away")

    assert place.identity.lost() is not None


def test_a_lock_file_that_is_removed_is_made_anew_at_once(place):
    place.settle()
    os.unlink(place.path + ".lock")

    assert place.identity.lost() is None
    assert os.path.exists(place.path + ".lock")
