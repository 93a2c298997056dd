"""Playing the journal back into the heads when a data directory is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

import numpy as np

from .current import Current
from .head import GroupHead, Points, PointsHead, PointTimes
from .journal import JournalError, PointsRecord, TickRecord
from .keys import POINTS_GROUP
from .recovery import Recovered, read_journal


class Replay:
    """
    Puts the journal's records where they were before the restart, but for what is in chunks
    already. Used once, by whoever opens, before anyone else sees the heads.

    Attributes:
        samples: How many samples were played back.
        last_seq: Number of the last row that ever was, as far as is known; 0 if none.
        damaged: The rows that could not be played back, by number, with what is wrong with them.
    """

    def __init__(
        self,
        found: Recovered,
        heads: Mapping[int, GroupHead],
        points: PointsHead,
        current: Current,
        point_times: PointTimes,
    ) -> None:
        self._sealed, self._layouts = found.sealed_seq, found.layouts
        self._heads, self._points = heads, points
        self._current, self._point_times = current, point_times
        for number, head in heads.items():
            head.restore_newest(found.catalogue.newest_ms(number))
        point_times.restore(found.catalogue.newest_ms(POINTS_GROUP))
        self.samples = 0
        self.last_seq = max(self._sealed.values(), default=0)
        self.damaged: dict[int, JournalError] = {}

    def run(self, connection: sqlite3.Connection) -> None:
        """Play the whole journal back. A damaged row costs its own samples only."""
        for seq, record in read_journal(connection, self._layouts):
            self.last_seq = max(self.last_seq, seq)
            if isinstance(record, JournalError):
                self.damaged[seq] = record
            elif isinstance(record, TickRecord):
                if seq > self._sealed.get(record.group, 0):
                    self._tick(record)
            elif seq > self._sealed.get(POINTS_GROUP, 0):
                self._take_points(record)

    def _tick(self, record: TickRecord) -> None:
        head = self._heads.get(record.group)
        if head is None:
            return
        row = head.place(record.ts_ms)
        if row is None:
            times = np.full(len(record.refs), record.ts_ms)
            self._take_points(PointsRecord(record.refs, times, record.values))
            return
        head.write(row, record.ts_ms, record.refs, record.values)
        self._current.update(record.refs, record.ts_ms, record.values)
        self.samples += len(record.values)

    def _take_points(self, record: PointsRecord) -> None:
        self._points.append(Points(record.refs, record.ts_ms, record.values))
        self._point_times.note(record.refs, record.ts_ms)
        self._current.update(record.refs, record.ts_ms, record.values)
        self.samples += len(record.values)
