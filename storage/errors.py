"""What can go wrong in storage."""

from __future__ import annotations

from pathlib import Path

from ..config.errors import TachographError


class StorageError(TachographError):
    """Root of storage's errors."""


class SeriesRefused(StorageError):
    """A new series would exceed a limit; ``reason`` names it and is the label of the counter."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class StoreUnavailable(StorageError):
    """The store cannot take or keep samples now (disk full, read-only, closing); try later."""


class StoreCorrupt(StorageError):
    """A database file cannot be used as it is; the message says what to do."""


class StoreLocked(StorageError):
    """Another agent owns the data directory; the message says which process."""


class StoreOnNetwork(StorageError):
    """The data directory lies on a network file system, where SQLite cannot be trusted."""

    def __init__(self, path: Path, type: str, mount_point: Path) -> None:
        super().__init__(
            f"{path} lies on a network file system ({type}, mounted at {mount_point}), where the "
            "database would be damaged sooner or later; choose a directory on a local disk with "
            "--data or storage.path"
        )
        self.path, self.type, self.mount_point = path, type, mount_point


class SchemaTooNew(StorageError):
    """The data directory was written by a newer version."""
