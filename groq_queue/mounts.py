"""Whether a directory lies on this machine: files that processes lock together must."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_NETWORK = re.compile(r"nfs\d?|cifs|smb\d?|smbfs|fuse\.sshfs|9p|afs|ceph|fuse\.ceph|lustre|gpfs|fuse\.glusterfs")


def network_kind(directory: str, mounts: str) -> str | None:
    """Return the type of the network file system that holds *directory*, or None if it is local.

    Args:
        directory: Absolute, without links.
        mounts: Text in the form of ``/proc/mounts``; later lines hide earlier ones.
    """
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[1])
        inside = directory == point or directory.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind if _NETWORK.fullmatch(kind) else None


def mounts() -> str:
    """Return Linux's list of mounts; elsewhere nothing is known cheaply, so nothing is refused."""
    if not sys.platform.startswith("linux"):
        return ""
    try:
        return Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
