"""One owner at a time: a lock on a file beside the journal.

The lock is the operating system's, so it goes when its owner does, however it
ends: the next process takes over at once, and no stale file needs judging.
The file itself stays; deleting it would let two owners lock two files of one
name. Its text, the owner's pid and since when, is for people.

One owner also keeps out of reach the WAL-reset race of SQLite 3.7.0 to 3.51.2,
in which two connections that write at once damage the file.

Source: https://www.sqlite.org/wal.html#walresetbug, flock(2).
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
import weakref

from groq_queue.errors import JournalError

if sys.platform == "win32":
    import msvcrt

    _LOCKED_BYTE = 1 << 30  # far behind the text, which others must be able to read

    def _lock(fd: int) -> None:
        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


class OwnerLock:
    """The right to write one journal; held until ``release`` or until the process ends."""

    def __init__(self, path: str) -> None:
        """
        Args:
            path: The journal's own, without links.

        Raises:
            JournalError: Another process, or another object of this one, has it; or no lock can be had there.
        """
        self._pid = os.getpid()
        self._path = path
        self._fd: int | None = None
        self._acquire()

    def _acquire(self) -> None:
        """Lock the file that has the name, in place of one that had it before."""
        path, before = self._path, self._fd
        beside = side_file(path)
        try:
            fd = os.open(beside, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError as error:
            raise JournalError(
                f"journal {path}: its lock file {beside} cannot be opened ({error.strerror}); "
                "make the directory writable for this user"
            ) from error
        try:
            self._take(path, beside, fd)
            if not _has_name(fd, beside):
                raise JournalError(f"journal {path}: its lock file {beside} was removed just now; open it again")
            self._fd = fd
        except BaseException:
            if self._fd is fd:
                self._fd = before
            os.close(fd)
            raise
        if before is not None:
            os.close(before)
        _held.add(self)

    def lost(self) -> JournalError | None:
        """Return why this is the owner no more, or None.

        A lock file that was removed is made and locked again, unless another process was faster.
        One thread at a time may ask.
        """
        if self._fd is None or _has_name(self._fd, side_file(self._path)):
            return None
        try:
            self._acquire()
        except JournalError as error:
            return error
        return None

    def _take(self, path: str, beside: str, fd: int) -> None:
        try:
            _lock(fd)
        except BlockingIOError:
            if owner_of(path) == self._pid:
                raise JournalError(
                    f"journal {path}: another queue of this program ({_text(beside)}) has it open; shut that one "
                    "down, name another path, or let GroqQueue.named(…) find it again"
                ) from None
            raise JournalError(
                f"journal {path}: {_said(beside)} has it open; wait for it to end, close it there, "
                "or name another path; groq-queue status can look at it meanwhile"
            ) from None
        except OSError as error:
            if sys.platform == "win32":
                raise JournalError(f"journal {path}: {_said(beside)} has it open; close it there") from None
            raise JournalError(
                f"journal {path}: this file system cannot lock files ({error.strerror}); put it on a local disk"
            ) from error
        with contextlib.suppress(OSError):  # a full disk; the text is a courtesy, the lock is what counts
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)
            os.write(fd, f"pid {self._pid} since {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}\n".encode())

    def release(self) -> None:
        """Let the next owner in; once is enough, twice is harmless."""
        fd = self._fd
        if fd is None:
            return
        try:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
        finally:  # no Ctrl-C can come between these two: nothing is called in between
            self._fd = None
            os.close(fd)

    def _leave_to_parent(self) -> None:
        """Close a forked child's copy, which would keep the lock when the parent has died.

        Closing does not unlock while the parent's copy is open; LOCK_UN would.
        """
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


_held: weakref.WeakSet[OwnerLock] = weakref.WeakSet()


def _in_child() -> None:
    for ownership in list(_held):
        ownership._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def _has_name(fd: int, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(name))
    except OSError:
        return False


def side_file(path: str) -> str:
    """Return where the lock of a journal lies."""
    return path + ".lock"


def owner_of(path: str) -> int | None:
    """Return the pid that has a journal open, or None; a guess from the text, good enough to show."""
    found = re.match(r"pid (\d+)", _text(side_file(path)))
    if not found:
        return None
    pid = int(found[1])
    if sys.platform != "win32":  # there os.kill(pid, 0) is no question
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            pass  # alive, and another user's
    return pid


def _said(beside: str) -> str:
    return f"another process ({_text(beside) or 'pid unknown'})"


def _text(beside: str) -> str:
    try:
        with open(beside, encoding="ascii", errors="replace") as file:
            return file.readline(200).strip()
    except OSError:
        return ""
