"""
What was appended and is not committed yet: a bounded queue that a flush empties into the journal.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .codec import crc
from .errors import StoreUnavailable
from .frame import IntArray, RefArray
from .journal import PointsRecord, Record, TickRecord, encode_row, row_crc
from .labels import pack_labels
from .model import Metadata, Series

_INSERT_SERIES: Final = (
    "INSERT INTO series (id, grp, labels, kind, created_ms, last_day, crc) "
    "VALUES (?, ?, ?, ?, ?, -1, ?) "
    # A series that another group has adopted.
    "ON CONFLICT (id) DO UPDATE SET grp = excluded.grp, crc = excluded.crc"
)
_INSERT_GROUP: Final = (
    "INSERT INTO grp (id, name, sealed_seq) VALUES (?, ?, 0) "
    "ON CONFLICT (id) DO UPDATE SET name = excluded.name"
)
_INSERT_LAYOUT: Final = "INSERT INTO layout (id, grp, crc, refs) VALUES (?, ?, ?, ?)"
_INSERT_METADATA: Final = (
    "INSERT OR REPLACE INTO metadata (family, type, help, unit) VALUES (?, ?, ?, ?)"
)
_DELETE_METADATA: Final = "DELETE FROM metadata WHERE family = ?"
_INSERT_JOURNAL: Final = "INSERT INTO journal (seq, crc, data) VALUES (?, ?, ?)"

#: Samples that wait in memory while the disk refuses (2 million are 40 MB); past it, the door is
#: shut.
PENDING_SAMPLES_MAX: Final = 2_000_000
#: A flush need not wait for its interval once this much has come together.
_FLUSH_SAMPLES_MAX: Final = 250_000
#: Nor for the acknowledgement's interval: from here on a commit's fixed cost is small beside it.
_BULK_SAMPLES: Final = 2_000


@dataclass(slots=True)
class Flush:
    """What one transaction writes."""

    seq: int
    groups: list[tuple[int, str]]
    series: list[tuple[int, Series]]  # with its group
    layouts: list[tuple[int, int, RefArray]]
    metadata: list[tuple[str, Metadata | None]]  # None: forgotten
    records: list[Record]
    samples: int

    def write(self, connection: sqlite3.Connection) -> int:
        """Write all of it within the caller's transaction; return the bytes of the journal row."""
        connection.executemany(_INSERT_GROUP, self.groups)
        connection.executemany(
            _INSERT_SERIES,
            [series_row(group, series) for group, series in self.series],
        )
        connection.executemany(
            _INSERT_LAYOUT,
            [_layout_row(*layout) for layout in self.layouts],
        )
        connection.executemany(
            _INSERT_METADATA,
            [(name, m.type, m.help, m.unit) for name, m in self.metadata if m is not None],
        )
        connection.executemany(
            _DELETE_METADATA, [(name,) for name, m in self.metadata if m is None]
        )
        if not self.records:
            return 0
        data = encode_row(self.records)
        connection.execute(_INSERT_JOURNAL, (self.seq, row_crc(self.seq, data), data))
        return len(data)


class Intake:
    """
    The queue between append and commit. Used by the event loop's thread only.

    Order is kept: a series, group or layout is committed with or before the first record that
    names it.
    """

    def __init__(self) -> None:
        self.next_seq = 1
        self.next_layout = 1
        self.samples = 0
        self._records: list[Record] = []
        self._groups: list[tuple[int, str]] = []
        self._series: list[tuple[int, Series]] = []
        self._layouts: list[tuple[int, int, RefArray]] = []
        self._metadata: dict[str, Metadata | None] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._flying: list[asyncio.Future[None]] | None = None  # who waits for the flush under way
        self.wanted = asyncio.Event()  # somebody waits for a commit
        self.bulk = asyncio.Event()  # so much has come together that a commit is worth it now

    @property
    def is_empty(self) -> bool:
        return not (
            self._records or self._groups or self._series or self._layouts or self._metadata
        )

    def admit(self, samples: int) -> None:
        """
        Make sure that there is room.

        Raises:
            StoreUnavailable: The queue is full, as nothing could be committed for a while.
        """
        if self.samples + samples > PENDING_SAMPLES_MAX and self.samples:
            raise StoreUnavailable(
                f"{self.samples} samples wait for the disk already; try again later"
            )

    def add_group(self, group: int, name: str) -> None:
        """Take a new group, or another name for one."""
        self._groups.append((group, _storable(name)))

    def add_series(self, group: int, series: Series) -> None:
        """Take a new series, or one with a new home; of several homes the last one stays."""
        self._series.append((group, series))

    def add_layout(self, group: int, refs: RefArray) -> int:
        """Number a list of members."""
        layout, self.next_layout = self.next_layout, self.next_layout + 1
        self._layouts.append((layout, group, refs))
        return layout

    def add_metadata(self, family: str, metadata: Metadata | None) -> None:
        """Take what is known of a family; ``None`` forgets it."""
        if metadata is not None:
            help_, unit = _storable(metadata.help), _storable(metadata.unit)
            metadata = Metadata(metadata.type, help_, unit)
        self._metadata[_storable(family)] = metadata

    def add_records(self, records: Sequence[Record]) -> None:
        self._records += records
        self.samples += sum(len(record.values) for record in records)
        if self.samples >= (_BULK_SAMPLES if self._waiters else _FLUSH_SAMPLES_MAX):
            self.bulk.set()

    async def committed(self) -> None:
        """Wait for the flush that commits everything added so far."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self.is_empty or self._waiters:
            self._waiters.append(future)
            self.wanted.set()
            if self.samples >= _BULK_SAMPLES:
                self.bulk.set()
        elif self._flying is not None:
            self._flying.append(future)
        else:
            return
        await future

    @property
    def has_waiters(self) -> bool:
        return bool(self._waiters)

    def take(self) -> tuple[Flush, list[asyncio.Future[None]]]:
        """
        Hand over everything for one transaction. :meth:`put_back` undoes it; :meth:`landed` ends it
        either way.
        """
        flush = Flush(
            self.next_seq,
            self._groups,
            self._series,
            self._layouts,
            list(self._metadata.items()),
            self._records,
            self.samples,
        )
        self._flying = waiters = self._waiters
        self.next_seq += 1
        self._groups, self._series, self._layouts, self._metadata = [], [], [], {}
        self._records, self._waiters, self.samples = [], [], 0
        self.wanted.clear()
        self.bulk.clear()
        return flush, waiters

    def put_back(self, flush: Flush) -> None:
        """The commit failed: everything waits for the next one, in the same order."""
        self._groups[:0] = flush.groups
        self._series[:0] = flush.series
        self._layouts[:0] = flush.layouts
        self._metadata = {**dict(flush.metadata), **self._metadata}
        self._records[:0] = flush.records
        self.samples += flush.samples

    def landed(self) -> None:
        """The flush is over; who comes now waits for the next one, if at all."""
        self._flying = None

    def fail_waiters(self, waiters: Iterable[asyncio.Future[None]], error: Exception) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)


def series_row(group: int, series: Series) -> tuple[int, int, str, int, int, int]:
    labels, kind = pack_labels(series.labels), int(series.kind)
    checksum = crc(labels.encode(), series.ref, group, kind, series.created_ms)
    return series.ref, group, labels, kind, series.created_ms, checksum


def _layout_row(layout: int, group: int, refs: RefArray) -> tuple[int, int, int, bytes]:
    data = refs.astype("<u4").tobytes()
    return layout, group, crc(data, layout, group), data


def _storable(text: str) -> str:
    """Replace lone surrogates: one of them would keep everything from being committed."""
    return text.encode("utf-8", "replace").decode()


def tick_records(
    group: int, layout: int, ts_ms: IntArray, refs: RefArray, values: object
) -> list[TickRecord]:
    """
    Build records that own their values: the caller may use its own again, but for ``refs``.

    Args:
        values: ``[ticks, refs]``.
    """
    owned = np.array(values, np.float64)
    return [
        TickRecord(group, layout, ts, refs, row)
        for ts, row in zip(ts_ms.tolist(), owned, strict=True)
    ]


def points_record(refs: object, ts_ms: object, values: object) -> PointsRecord:
    """Build a record that owns its arrays."""
    return PointsRecord(
        np.array(refs, np.uint32), np.array(ts_ms, np.int64), np.array(values, np.float64)
    )
