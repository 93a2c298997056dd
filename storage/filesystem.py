"""Which file system a directory lies on, and whether the store can live there."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from .errors import StoreOnNetwork

#: File systems whose files other machines (or the host of a virtual one) change as well. SQLite's
#: log needs memory that all its users share, and the lock must hold for all of them.
_REMOTE: Final = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "orangefs",
        "prl_fs",
        "pvfs2",
        "smb3",
        "smbfs",
        "vboxsf",
        "vmhgfs",
    }
)
#: FUSE can be anything, and most of what is mounted by it is far away; these are known to be near.
_LOCAL_FUSE: Final = frozenset(
    {
        "fuse.bindfs",
        "fuse.encfs",
        "fuse.exfat",
        "fuse.fuse-overlayfs",
        "fuse.gocryptfs",
        "fuse.mergerfs",
        "fuse.ntfs-3g",
        "fuse.unionfs",
        "fuse.zfs",
    }
)
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """Where a file system is mounted, and its type as the kernel names it, e.g. ``ext4``."""

    point: Path
    type: str

    @property
    def is_remote(self) -> bool:
        if self.type == "fuse" or self.type.startswith("fuse."):
            return self.type not in _LOCAL_FUSE
        return self.type in _REMOTE


def read_mounts() -> str:
    """Return the kernel's list of mounts; empty where there is none (not Linux, no /proc)."""
    try:
        return Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return ""


def find_mount(path: Path, mounts: Callable[[], str] = read_mounts) -> Mount | None:
    """
    Return what a path lies on, or would if it were there; ``None`` if nobody knows. The path is
    looked at, so that what mounts itself on demand is mounted.
    """
    real = os.path.realpath(path)
    found: Mount | None = None
    for line in mounts().splitlines():
        fields = line.split(" ")
        # ... (5) mount point, (6) options, any number of tags, "-", type, source, options
        try:
            point, kind = fields[4], fields[fields.index("-", 6) + 1]
        except (IndexError, ValueError):
            continue
        mount = Mount(Path(_ESCAPE.sub(lambda m: chr(int(m[1], 8)), point)), kind)
        # Of two at one place the later one covers the earlier.
        if Path(real).is_relative_to(mount.point) and (
            found is None or len(mount.point.parts) >= len(found.point.parts)
        ):
            found = mount
    return found


def refuse_network(path: Path, mounts: Callable[[], str] = read_mounts) -> None:
    """
    Raises:
        StoreOnNetwork: The directory lies on a network file system, or would.
    """
    mount = find_mount(path, mounts)
    if mount is not None and mount.is_remote:
        raise StoreOnNetwork(path.absolute(), mount.type, mount.point)
