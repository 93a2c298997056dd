"""
A file that is only there to be deleted.

On a full disk SQLite can neither delete nor checkpoint nor even open a database. Unlinking a few
megabytes of our own makes room for retention to run and for the newest samples to be committed.
"""

from __future__ import annotations

import os
from pathlib import Path


class Ballast:
    """Keeps ``size_bytes`` of disk reserved as ``<directory>/ballast``; 0 switches it off."""

    def __init__(self, directory: Path, size_bytes: int) -> None:
        self._path = directory / "ballast"
        self._size_bytes = size_bytes

    @property
    def is_aboard(self) -> bool:
        """Whether all the room is reserved that shall be."""
        return not self._size_bytes or self._path.exists()

    def take_aboard(self) -> bool:
        """Reserve the room unless it is; return False if the disk has none to spare."""
        if self.is_aboard:
            return True
        try:
            stat = os.statvfs(self._path.parent)
            # Leave as much again for the samples: ballast must not be what fills the disk.
            if stat.f_bavail * stat.f_frsize < 2 * self._size_bytes:
                return False
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, self._size_bytes)
            finally:
                os.close(fd)
        except OSError:
            self.throw_overboard()
            return False
        return True

    def throw_overboard(self) -> bool:
        """Give the room back; return whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
