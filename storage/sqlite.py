"""
Connections to ``samples.db``: one writer in its own thread, read-only readers in a few more.

Stock SQLite before 3.51.3 can corrupt a WAL when a checkpoint races the commit of another
connection. One connection that does every write and every checkpoint rules that out within the
process; the lock file (``lock.py``) keeps other processes away.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, TypeVar

from .errors import SchemaTooNew, StorageError, StoreCorrupt, StoreUnavailable

T = TypeVar("T")

SCHEMA_VERSION: Final = 1
# importlib.resources would do for archives, too, but it loads zipfile and more: 0.5 MiB.
_SCHEMA: Final = Path(__file__).with_name("schema")
_SCHEMA_FILES: Final = {1: "0001_samples.sql"}

#: The write-ahead log is cut to this when it starts anew; only a reader that holds it makes it
#: longer for a while.
LOG_BYTES_KEPT: Final = 16 << 20

#: Codes that say "not now": the disk is full, read-only, failing or held by somebody else.
_UNAVAILABLE: Final = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
    }
)
#: Codes that say "damaged".
CORRUPT_CODES: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code of an error, or 0 if it has none."""
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def is_full(error: BaseException | None) -> bool:
    """Tell whether an error (or its cause) says that the disk is full."""
    if isinstance(error, StorageError):
        error = error.__cause__
    if isinstance(error, OSError):
        return error.errno == 28  # ENOSPC
    if not isinstance(error, sqlite3.Error):
        return False
    # No room for the index of the WAL is told as an I/O error.
    no_index = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHMSIZE
    return no_index or primary_code(error) == sqlite3.SQLITE_FULL


def translate(error: sqlite3.Error, path: Path) -> StorageError:
    """Turn an error of SQLite into one of ours, with what to do about it."""
    code = primary_code(error)
    if code in CORRUPT_CODES:
        return StoreCorrupt(
            f"{path} is damaged ({error}); stop the agent and run `tachograph db repair`"
        )
    if code in _UNAVAILABLE:
        return StoreUnavailable(f"{path}: {error}")
    return StorageError(f"{path}: {error}")


def open_writer(path: Path, durability_full: bool = False) -> sqlite3.Connection:
    """
    Open the one read-write connection, creating the file or migrating it.

    Raises:
        SchemaTooNew: A newer version wrote the file; nothing was changed.
        StoreCorrupt: The file is not a database, or damaged.
        StoreUnavailable: It cannot be opened or written.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        _look_at_version(path)
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=64
        )
    except OSError as error:
        raise StoreUnavailable(f"cannot open {path}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise translate(error, path) from error
    try:
        version = _version(connection, path)
        if version == 0:
            # Both only take effect before the first table.
            connection.execute("PRAGMA page_size=4096")
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
        for name, value in {
            # Debian compiles SECURE_DELETE in: deleting a day then writes 33 MB instead of 0.2.
            "secure_delete": "OFF",
            "wal_autocheckpoint": "1000",
            "journal_size_limit": str(LOG_BYTES_KEPT),
            "cache_size": "-4000",
            "temp_store": "MEMORY",
            "synchronous": "FULL" if durability_full else "NORMAL",
        }.items():
            connection.execute(f"PRAGMA {name}={value}")
        for number in range(version + 1, SCHEMA_VERSION + 1):
            script = (_SCHEMA / _SCHEMA_FILES[number]).read_text("utf-8")
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version={number};\nCOMMIT;"
            )
    except sqlite3.Error as error:
        connection.close()
        raise translate(error, path) from error
    except SchemaTooNew:
        connection.close()
        raise
    return connection


def _look_at_version(path: Path) -> None:
    """Look at the version without touching the file: closing a writer carries the log over."""
    if not path.stat().st_size:
        return
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        try:
            _version(connection, path)
        except sqlite3.OperationalError as error:
            # Killed while it was made: only a writer can undo that, and looks again then.
            if primary_code(error) != sqlite3.SQLITE_READONLY:
                raise


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{path} has schema {version}, this version knows {SCHEMA_VERSION}; "
            "install the newer Tachograph again or use another data directory"
        )
    return version


def open_reader(
    path: Path, factory: type[sqlite3.Connection] = sqlite3.Connection
) -> sqlite3.Connection:
    """Open a read-only connection, of that class; the file must exist."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=64,
        factory=factory,
    )
    connection.execute("PRAGMA query_only=ON")
    connection.execute("PRAGMA cache_size=-2000")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Commit what the block did, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may have rolled back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


class WriterThread:
    """Runs jobs one after the other on the write connection, off the event loop."""

    def __init__(self, path: Path, *, durability_full: bool, fsync_interval_ms: int) -> None:
        self._path = path
        self._durability_full = durability_full
        self._fsync_interval_ms = fsync_interval_ms
        self._last_full_ms = 0
        self._pool = ThreadPoolExecutor(1, "tachograph-writer")
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    async def open(self) -> None:
        def job() -> None:
            self._connection = open_writer(self._path, self._durability_full)

        await asyncio.get_running_loop().run_in_executor(self._pool, job)

    async def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """
        Run ``job`` in the writer thread and return what it returns. The job goes on when the
        wait for it is cancelled.

        Raises:
            StorageError: SQLite refused; the open transaction, if any, was rolled back.
        """

        def call() -> T:
            connection = self._connection
            if connection is None:
                raise StoreUnavailable(f"{self._path} is closed")
            try:
                return job(connection)
            except sqlite3.Error as error:
                raise translate(error, self._path) from error

        if self._closed:
            raise StoreUnavailable(f"{self._path} is closed")
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def make_durable(self, connection: sqlite3.Connection, now_ms: int) -> None:
        """
        Choose how hard the next commit is: with ``durability: normal`` one commit per
        ``fsync_interval`` is FULL, so that a power cut takes no more than that.
        """
        if self._durability_full:
            return
        due = not 0 <= now_ms - self._last_full_ms < self._fsync_interval_ms
        connection.execute(f"PRAGMA synchronous={'FULL' if due else 'NORMAL'}")
        if due:
            self._last_full_ms = now_ms

    async def close(self) -> None:
        """Checkpoint and close; may be called twice."""

        def job() -> None:
            connection, self._connection = self._connection, None
            if connection is not None:
                try:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                except sqlite3.Error:
                    pass  # a full disk must not keep us from closing; the WAL is replayed at start
                finally:
                    connection.close()

        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._pool, job)
            self._pool.shutdown(wait=True)
