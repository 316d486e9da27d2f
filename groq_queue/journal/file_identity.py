"""Whether an open journal is still the file of its name: what is written to a deleted or moved one is lost."""

from __future__ import annotations

import os

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.errors import JournalError
from groq_queue.journal.owner_lock import OwnerLock
from groq_queue.sqlite_file import identity_of

_SETTLED_NS = NS_PER_S // 10  # changes of a directory that are nearer may bear one time: a tick of the kernel, 10 ms
_COARSELY_SETTLED_NS = 2 * NS_PER_S  # the same where the file system counts whole seconds, or two of them
_LOOK_AGAIN_NS = NS_PER_S  # for a file system that does not keep its directories' times


class FileIdentity:
    """Remembers which files an open journal has, and looks whether their names still lead to them.

    Nearly every commit asks (see ``GroupCommit._trouble``), so the answer must be cheap. No name can go or change
    without changing the directory's modification time. So while that does not change, and has not for long enough to
    show any change, one look at the directory is enough; each name is looked up once a second all the same.

    Not thread-safe: only the thread that writes to the journal asks.

    Args:
        path: The journal's own, without links; it is open.
        owner: Holds the journal's lock file.
        clock: Tells the time.
    """

    def __init__(self, path: str, owner: OwnerLock, clock: Clock) -> None:
        self._path = path
        self._owner = owner
        self._clock = clock
        self._directory = os.path.dirname(path)
        self._files = [(name, identity_of(name)) for name in (path, path + "-wal")]
        self._seen: tuple[int, int, int] | None = None  # what the directory was like when last looked at
        self._since_ns = clock.now_ns()  # since when it has been so
        self._trusted_until_ns = self._since_ns  # until then it is enough that the directory is as it was

    def lost(self) -> JournalError | None:
        """Return why the file must not be written any more, or None."""
        now_ns = self._clock.now_ns()
        seen = _state_of(self._directory)
        if seen is None or seen != self._seen:
            self._seen, self._since_ns = seen, now_ns
        elif now_ns < self._trusted_until_ns:
            return None
        self._trusted_until_ns = now_ns
        for name, known in self._files:
            if known is not None and identity_of(name) != known:
                return JournalError(
                    f"journal {self._path}: {name} was deleted, moved or replaced while it was open, so nothing more "
                    "can be stored in it; move it back, or close the queue and open a journal again"
                )
        error = self._owner.lost()
        if error is None and seen is not None:
            settled_ns = _COARSELY_SETTLED_NS if seen[2] % NS_PER_S == 0 else _SETTLED_NS
            if now_ns - self._since_ns >= settled_ns:
                self._trusted_until_ns = now_ns + _LOOK_AGAIN_NS
        return error


def _state_of(directory: str) -> tuple[int, int, int] | None:
    """Return what changes when a name in a directory does, or None if there is no such directory."""
    try:
        found = os.stat(directory)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns
