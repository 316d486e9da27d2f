"""Whether a directory lies on this machine, and a file in its directory: what processes lock together must."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

_NETWORK = re.compile(r"nfs\d?|cifs|smb\d?|smbfs|fuse\.sshfs|9p|afs|ceph|fuse\.ceph|lustre|gpfs|fuse\.glusterfs")


def network_kind(directory: str, mounts: str) -> str | None:
    """Return the type of the network file system that holds *directory*, or None if it is local.

    Args:
        directory: Absolute, without links.
        mounts: Text in the form of ``/proc/mounts``; later lines hide earlier ones.
    """
    best, kind = "", ""
    for point, its_kind in _points(mounts):
        inside = directory == point or directory.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, its_kind
    return kind if _NETWORK.fullmatch(kind) else None


def is_mounted(path: str, mounts: str) -> bool:
    """Return whether the file at *path* is mounted by itself, as ``docker -v run.db:/data/run.db`` does.

    Args:
        path: Absolute, without links.
        mounts: As for ``network_kind``.
    """
    return any(point == path for point, _ in _points(mounts))


def _points(mounts: str) -> Iterator[tuple[str, str]]:
    """Yield where something is mounted, and the type of its file system."""
    for line in mounts.splitlines():
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
