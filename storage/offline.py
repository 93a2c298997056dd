"""
Reading a data directory without its agent: no lock is taken and nothing is written, so that it also
works beside a running one, on a copy, and on a read-only disk.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path
from types import TracebackType

import numpy as np

from ..config.settings import StorageLimits
from .current import Current
from .errors import SchemaTooNew, StorageError, StoreUnavailable
from .head import GroupHead, PointsHead, PointTimes
from .keys import POINTS_GROUP
from .labels import Index
from .metadata import Families
from .recovery import read_tables
from .replay import Replay
from .select import Querier
from .sqlite import SCHEMA_VERSION, open_reader, translate

log = logging.getLogger(__name__)


class OfflineStore:
    """
    One snapshot of a data directory: what was committed when it was opened. Use from one thread.

    The snapshot is a read transaction. While it is open, a running agent's write-ahead log grows.

    Attributes:
        families: Types, help and units.
        querier: Reads the samples, those of the journal included.
    """

    families: Families
    querier: Querier

    def __init__(self, directory: Path) -> None:
        self.path = directory / "samples.db"
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """
        Take the snapshot.

        Raises:
            StoreUnavailable: There is no database, or it cannot be read from here.
            SchemaTooNew: A newer version wrote it.
            StoreCorrupt: It is no database, or damaged. Rows that fail their checksum are left out.
        """
        if not self.path.exists():
            raise StoreUnavailable(f"there is no database at {self.path}")
        try:
            self._connection = self._connect()
            self._read(self._connection)
        except sqlite3.Error as error:
            self.close()
            raise translate(error, self.path) from error
        except StorageError:
            self.close()
            raise

    def close(self) -> None:
        """End the snapshot; may be called twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> OfflineStore:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _connect(self) -> sqlite3.Connection:
        try:
            with contextlib.ExitStack() as undo:
                connection = undo.enter_context(contextlib.closing(open_reader(self.path)))
                connection.execute("BEGIN")
                connection.execute("SELECT 1 FROM meta").fetchone()
                undo.pop_all()
                return connection
        except sqlite3.OperationalError:
            log_path = self.path.with_name("samples.db-wal")
            if log_path.exists() and log_path.stat().st_size:
                raise
        # Without a log to be read beside it, the file alone is the whole database. SQLite would
        # make an empty log nevertheless, which a read-only disk does not let it.
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None
        )
        connection.execute("BEGIN")
        return connection

    def _read(self, connection: sqlite3.Connection) -> None:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise SchemaTooNew(
                f"{self.path} has schema {version}, this version knows {SCHEMA_VERSION}; "
                "read it with the newer Tachograph"
            )
        found = read_tables(connection)
        for table, key in found.damaged:
            log.warning("row %d of %s fails its checksum and is left out", key, table)
        self.families = Families()
        self.families.load(found.metadata)
        index = Index(StorageLimits())
        homes = np.zeros(found.next_ref + 1, np.int64)
        for group, series, _ in found.series:
            index.load(series)
            homes[series.ref] = group
        points = PointsHead()
        heads = {
            number: GroupHead(number, name)
            for number, name in found.groups.items()
            if number != POINTS_GROUP
        }
        replay = Replay(found, heads, points, Current(), PointTimes())
        replay.run(connection)
        for error in replay.damaged.values():
            log.warning("%s; its samples are left out", error)
        self.querier = Querier(
            connection,
            index,
            homes,
            {number: head.view for number, head in heads.items()},
            points.view(),
            found.catalogue,
            frozenset(found.compacted),
        )
