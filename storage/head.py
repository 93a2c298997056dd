"""The newest samples, in memory until they are sealed into chunks."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .frame import ABSENT, BoolArray, FloatArray, IntArray, RefArray, distinct, is_absent
from .keys import DAY_MS

_TICKS_MIN: Final = 16
#: How far back a tick may be filled in by a further piece of it (a sender's shards arrive apart).
_FILL_TICKS_MAX: Final = 720
#: A matrix with less than one cell in so many in use is a waste.
_SPARSE: Final = 8


class HeadView(NamedTuple):
    """What a reader may use without a lock: arrays that are only ever appended to, and how far."""

    refs: RefArray  # one per column
    ts_ms: IntArray  # valid up to ``ticks``, strictly rising
    cells: FloatArray  # [ticks and more, columns and more]; cells without a sample are ABSENT
    ticks: int


class GroupHead:
    """
    One group's matrix: a row a tick, a column a series.

    Rows are ticks, so that an append is one copy of memory; reading turns it around. Samples are
    taken in order of time; what is older than the newest tick and no part of a known one is left to
    the caller (:meth:`place` says so).
    """

    def __init__(self, group: int, name: str) -> None:
        self.group, self.name = group, name
        self._refs: RefArray = np.empty(0, np.uint32)  # by column
        self._by_ref: IntArray = np.empty(0, np.int64)  # the columns in order of their series
        self._ts: IntArray = np.empty(0, np.int64)
        self._cells: FloatArray = np.empty((0, 0))
        self._ticks = 0
        self._frozen = 0  # rows below are being sealed: they take no more samples
        self._newest_sealed_ms = -1
        self._filled = 0
        self._last_refs: RefArray | None = None
        self._last_columns: IntArray | slice = slice(0)
        self.view = HeadView(self._refs, self._ts, self._cells, 0)

    @property
    def ticks(self) -> int:
        return self._ticks

    @property
    def frozen(self) -> int:
        """How many of the first rows are being sealed."""
        return self._frozen

    @property
    def columns(self) -> int:
        return len(self._refs)

    @property
    def is_sparse(self) -> bool:
        """Whether most of the matrix is empty: its series don't share their times after all."""
        cells = self._ticks * len(self._refs)
        return self._ticks >= _TICKS_MIN and self._filled * _SPARSE < cells

    @property
    def newest_ms(self) -> int:
        """Time of the newest tick that the group has ever had here; -1 if none."""
        return int(self._ts[self._ticks - 1]) if self._ticks else self._newest_sealed_ms

    def place(self, ts_ms: int) -> int | None:
        """
        Return the row of a tick: an existing one, the next one, or ``None`` if the time lies
        before the newest tick and is not one of the open ticks.
        """
        row = int(self.places(np.array([ts_ms]))[0])
        return None if row < 0 else row

    def places(self, ts_ms: IntArray) -> IntArray:
        """Do the same for some ticks, rising in time; -1 stands for ``None``."""
        ticks, newest_ms = self._ticks, self.newest_ms
        if ts_ms[0] > newest_ms:
            return np.arange(ticks, ticks + len(ts_ms))
        low = max(self._frozen, ticks - _FILL_TICKS_MAX)
        opened = self._ts[low:ticks]
        rows = np.full(len(ts_ms), -1)
        if len(opened):
            at = np.searchsorted(opened, ts_ms)
            known = opened[np.minimum(at, len(opened) - 1)] == ts_ms
            rows[known] = low + at[known]
        first_new = int(np.searchsorted(ts_ms, newest_ms, "right"))
        rows[first_new:] = np.arange(ticks, ticks + len(ts_ms) - first_new)
        return rows

    def write(self, row: int, ts_ms: int, refs: RefArray, values: FloatArray) -> None:
        """Put samples into a row that :meth:`place` returned for this time."""
        self.write_ticks(np.array([row]), np.array([ts_ms]), refs, values.reshape(1, -1))

    def write_ticks(
        self, rows: IntArray, ts_ms: IntArray, refs: RefArray, values: FloatArray
    ) -> None:
        """Put samples into rows that :meth:`places` returned; ``values[i]`` belongs to the i-th."""
        columns = self._columns_of(refs)
        ticks = self._ticks
        known = int(np.searchsorted(rows, ticks))
        if known:
            some = rows[:known]
            # One row by its number is a view; several take two lists of indices.
            at = int(some[0]) if known == 1 else some
            if known > 1 and not isinstance(columns, slice):
                at = some[:, None]
            self._cells[at, columns] = values[0] if known == 1 else values[:known]
        if known < len(rows):
            end = ticks + len(rows) - known
            while end > len(self._ts):
                self._grow_ticks()
            cells = self._cells
            # Spare columns too: a series that gets one of them later has no sample here.
            cells[ticks:end, columns.stop if isinstance(columns, slice) else 0 :] = ABSENT
            cells[ticks:end, columns] = values[known:]
            self._ts[ticks:end] = ts_ms[known:]
            self._ticks = end
        self._filled += values.size
        # The view comes last: a reader never sees a row that is not whole.
        self.view = HeadView(self._refs, self._ts, self._cells, self._ticks)

    def freeze(self) -> HeadView:
        """Let no sample into the present rows any more and return them, to be sealed."""
        self._frozen = self._ticks
        return self.view

    def thaw(self) -> None:
        """The seal failed: the rows stay, and are sealed by the next."""
        self._frozen = 0

    def drop(self, ticks: int) -> None:
        """Forget the first ``ticks`` rows, as they are in chunks now, and empty columns."""
        self._frozen = 0
        if not ticks:
            return
        self._newest_sealed_ms = max(self._newest_sealed_ms, int(self._ts[ticks - 1]))
        left = self._cells[ticks : self._ticks, : len(self._refs)]
        present = ~is_absent(left)
        used = np.flatnonzero(present.any(axis=0))
        self._filled = int(np.count_nonzero(present))
        # New arrays, not moved rows: readers may hold the old ones.
        self._ts = _with_room(self._ts[ticks : self._ticks], len(left))
        self._cells = np.ascontiguousarray(left[:, used])
        self._refs = self._refs[used]
        self._by_ref = np.argsort(self._refs)
        self._ticks = len(left)
        self._last_refs = None
        self.view = HeadView(self._refs, self._ts, self._cells, self._ticks)

    def restore_newest(self, newest_ms: int) -> None:
        """After a restart: nothing up to this time is a new tick."""
        self._newest_sealed_ms = max(self._newest_sealed_ms, newest_ms)

    def _columns_of(self, refs: RefArray) -> IntArray | slice:
        last = self._last_refs
        if last is refs or (last is not None and np.array_equal(last, refs)):
            return self._last_columns
        columns = self._find(refs)
        new = refs[columns < 0]
        if len(new):
            # In order of appearance, so that a source's own order is that of the columns.
            _, first = np.unique(new, return_index=True)
            self._refs = np.concatenate([self._refs, new[np.sort(first)]])
            self._by_ref = np.argsort(self._refs)
            self._grow_columns(len(self._refs))
            columns = self._find(refs)
        result: IntArray | slice = columns
        # Most sources write all of their series in the same order each time.
        if len(columns) and np.array_equal(columns, np.arange(len(columns))):
            result = slice(0, len(columns))
        self._last_refs, self._last_columns = refs.copy(), result
        return result

    def _find(self, refs: RefArray) -> IntArray:
        """Return the column of each series, -1 where it has none."""
        order = self._by_ref
        if not len(order):
            return np.full(len(refs), -1)
        at = np.minimum(np.searchsorted(self._refs, refs, sorter=order), len(order) - 1)
        columns = order[at]
        columns[self._refs[columns] != refs] = -1
        return columns

    def _grow_ticks(self) -> None:
        # Half as much again, not double: a full hour of 10,000 series is 29 MB.
        room = max(_TICKS_MIN, len(self._ts) * 3 // 2)
        self._ts = _with_room(self._ts[: self._ticks], room)
        cells = np.empty((room, self._cells.shape[1]))
        cells[: self._ticks] = self._cells[: self._ticks]
        self._cells = cells

    def _grow_columns(self, columns: int) -> None:
        held = self._cells.shape[1]
        if columns <= held:
            return
        room = columns if not held else max(columns, held + held // 4)
        cells = np.full((self._cells.shape[0], room), ABSENT)
        cells[: self._ticks, :held] = self._cells[: self._ticks]
        self._cells = cells


def _with_room(ts: IntArray, room: int) -> IntArray:
    grown = np.empty(max(room, len(ts)), np.int64)
    grown[: len(ts)] = ts
    return grown


class Points(NamedTuple):
    """Samples with timestamps of their own, column by column."""

    refs: RefArray
    ts_ms: IntArray
    values: FloatArray

    @staticmethod
    def empty() -> Points:
        return Points(np.empty(0, np.uint32), np.empty(0, np.int64), np.empty(0))

    @staticmethod
    def join(parts: Iterable[Points]) -> Points:
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return Points.empty()
        return Points(
            np.concatenate([p.refs for p in parts]),
            np.concatenate([p.ts_ms for p in parts]),
            np.concatenate([p.values for p in parts]),
        )

    def where(self, keep: BoolArray | npt.NDArray[np.intp]) -> Points:
        """Return the points at some places, in that order."""
        return Points(self.refs[keep], self.ts_ms[keep], self.values[keep])

    def sorted(self) -> Points:
        """Order by series, then time; of samples of one series at one time the last one stays."""
        order = np.lexsort((self.ts_ms, self.refs))  # stable: arrival order among equals
        refs, ts, values = self.refs[order], self.ts_ms[order], self.values[order]
        if len(refs) > 1:
            last = np.empty(len(refs), np.bool_)
            np.logical_or(refs[1:] != refs[:-1], ts[1:] != ts[:-1], out=last[:-1])
            last[-1] = True
            if not last.all():
                refs, ts, values = refs[last], ts[last], values[last]
        return Points(refs, ts, values)


class PointsView(NamedTuple):
    """What the head of the points held at one moment, for a reader in any thread."""

    #: In order of arrival: where two have the same series and time, the later one stays. The first
    #: ``ordered`` of them are sorted.
    parts: tuple[Points, ...]
    ordered: int

    def select(self, refs: RefArray, min_ms: int, max_ms: int) -> Points:
        """Return the points of some series (``refs`` rising) in a time range, sorted."""
        picked = [_pick_sorted(points, refs) for points in self.parts[: self.ordered]]
        picked += [_pick(points, refs) for points in self.parts[self.ordered :]]
        points = Points.join(p for p in picked if len(p.refs)).sorted()
        keep = (points.ts_ms >= min_ms) & (points.ts_ms <= max_ms)
        return points if keep.all() else points.where(keep)

    def days(self) -> set[int]:
        """Return the UTC days that the points fall in."""
        days = (distinct((points.ts_ms - 1) // DAY_MS) for points in self.parts)
        return {day for each in days for day in each.tolist()}

    def refs_between(self, min_ms: int, max_ms: int) -> set[int]:
        """Return the series that have a point with ``min_ms <= t <= max_ms``."""
        found: set[int] = set()
        for points in self.parts:
            within = (points.ts_ms >= min_ms) & (points.ts_ms <= max_ms)
            found |= set(distinct(points.refs[within]).tolist())
        return found


class PointsHead:
    """
    The points that are not yet in chunks: a sorted bulk, and a tail of batches as they came.

    A reader sorts the tail in once it is long; that work is then shared by all later readers.
    """

    _TAIL_MAX = 65_536
    #: Batches that a reader looks through one by one; each costs it some 10 us.
    _BATCHES_MAX = 64

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sealing = Points.empty()
        self._bulk = Points.empty()
        self._tail: list[Points] = []
        self._tail_size = 0

    def __len__(self) -> int:
        return len(self._sealing.refs) + len(self._bulk.refs) + self._tail_size

    def append(self, points: Points) -> None:
        with self._lock:
            self._tail.append(points)
            self._tail_size += len(points.refs)

    def view(self) -> PointsView:
        """Return what is here now; later appends and seals do not change it."""
        with self._lock:
            if self._tail_size > max(self._TAIL_MAX, len(self._bulk.refs) // 4):
                self._merge_tail()
            elif len(self._tail) > self._BATCHES_MAX:
                self._tail = [Points.join(self._tail)]
            return PointsView((self._sealing, self._bulk, *self._tail), 2)

    def freeze(self) -> Points:
        """Return all points, sorted, to be sealed; :meth:`drop` or :meth:`thaw` comes next."""
        with self._lock:
            self._merge_tail()
            self._sealing, self._bulk = self._bulk, Points.empty()
            return self._sealing

    def thaw(self) -> None:
        """The seal failed: keep the points for the next one."""
        with self._lock:
            self._bulk = Points.join([self._sealing, self._bulk]).sorted()
            self._sealing = Points.empty()

    def drop(self) -> None:
        """Forget what :meth:`freeze` returned: it is in chunks now."""
        with self._lock:
            self._sealing = Points.empty()

    def _merge_tail(self) -> None:
        self._bulk = Points.join([self._bulk, *self._tail]).sorted()
        self._tail, self._tail_size = [], 0


class PointTimes:
    """
    Time of the newest point of each series, by its number, sealed ones included.

    Readers let a point win over a tick of the same time. So that the last write wins, a sample of a
    tick that may meet a point has to become a point itself.
    """

    def __init__(self) -> None:
        #: The newest time of all: a later tick meets no point.
        self.newest_ms = -1
        self._unknown_ms = -1
        self._by_ref: IntArray = np.full(1024, -1, np.int64)

    def restore(self, newest_ms: int) -> None:
        """After a restart: any series may have points up to this time."""
        self.newest_ms = max(self.newest_ms, newest_ms)
        self._unknown_ms = max(self._unknown_ms, newest_ms)
        np.maximum(self._by_ref, newest_ms, out=self._by_ref)

    def note(self, refs: RefArray, ts_ms: IntArray) -> None:
        if len(refs):
            self._make_room(refs)
            np.maximum.at(self._by_ref, refs, ts_ms)
            self.newest_ms = max(self.newest_ms, int(ts_ms.max()))

    def reach(self, refs: RefArray, ts_ms: int) -> BoolArray:
        """Tell which series may have a point at this time or later."""
        if not len(refs):
            return np.empty(0, np.bool_)
        self._make_room(refs)
        later: BoolArray = self._by_ref[refs] >= ts_ms
        return later

    def _make_room(self, refs: RefArray) -> None:
        top, room = int(refs.max()), len(self._by_ref)
        if top >= room:
            grown = np.full(max(top + 1, room * 2), self._unknown_ms, np.int64)
            grown[:room] = self._by_ref
            self._by_ref = grown


def _pick_sorted(points: Points, refs: RefArray) -> Points:
    if not len(points.refs):
        return points
    low = np.searchsorted(points.refs, refs, "left")
    high = np.searchsorted(points.refs, refs, "right")
    runs = [np.arange(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True) if a < b]
    at = np.concatenate(runs) if runs else np.empty(0, np.intp)
    return points.where(at)


def _pick(points: Points, refs: RefArray) -> Points:
    return points.where(np.isin(points.refs, refs))
