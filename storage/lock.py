"""One agent per data directory: an advisory lock that the kernel drops when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from .errors import StoreLocked, StoreUnavailable


class DirectoryLock:
    """
    An exclusive ``flock`` on ``<directory>/lock``, with the holder's pid written in it.

    The lock is on a file of its own, not on the database: closing any descriptor of that would drop
    SQLite's own locks.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self._fd: int | None = None

    def acquire(self) -> None:
        """
        Take the lock or say who has it.

        Raises:
            StoreLocked: Another process holds it.
            StoreUnavailable: The directory cannot be written.
        """
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"cannot write {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 100).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise StoreLocked(
                f"{self._path.parent} is in use by another agent (pid {holder}); "
                "stop it, or choose another directory with --data"
            ) from None
        # The number is a courtesy: a disk without room for it must not keep us from opening.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; may be called twice. The file stays: removing it would race."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None
