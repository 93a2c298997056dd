"""Reading: one consistent view of chunks and head, as frames of samples or rows of rollups."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np

from ..config.selector import Matcher
from .catalogue import Block, Catalogue
from .checksum import holds
from .codec import crc, decode_chunk, decode_ints
from .decoded import DecodedCache
from .errors import StorageError
from .frame import ABSENT, BoolArray, FloatArray, Frame, IntArray, RefArray, distinct, is_absent
from .frontier import ALWAYS_MS
from .head import HeadView, PointsView
from .keys import POINTS_GROUP, REF_MAX, day_bounds, day_of, rollup_key, split_rollup_key
from .labels import Index
from .model import Series
from .seal import decode_points, decode_refs

#: Series in a frame at the most: 256 rows of a day at 10 s are 18 MB.
FRAME_ROWS_MAX: Final = 256
_IN_MAX: Final = 256
#: Fewer rows than these are looked up one by one, of several days in one go.
_DENSE_MIN: Final = 16

_POINT_LOOKUP: Final = "SELECT id, crc, data FROM chunk WHERE block = ? AND id IN ({})"
_BLOCK_DATA: Final = "SELECT crc, data FROM block WHERE id = ?"
_FIRST_ROLLUP: Final = "SELECT id FROM rollup WHERE id >= ? AND id < ? ORDER BY id LIMIT 1"
_ROLLUPS: Final = "SELECT id, crc, data FROM rollup WHERE id IN ({})"
_ROLLUP_RANGE: Final = "SELECT id, crc, data FROM rollup WHERE id BETWEEN ? AND ?"

#: Times, and the values at them.
PointColumns = tuple[IntArray, FloatArray]
#: Points are laid over a group's ticks while no more than one cell in so many is without a sample.
_OVERLAY_SPARSE: Final = 2


class Piece(NamedTuple):
    """A stretch of one block or of the head that a selection reads."""

    ts_ms: IntArray
    low: int  # the first and the one past the last tick that lie in the range
    high: int
    source: Block | HeadView


class Part(NamedTuple):
    """The samples of some series in a stretch; ``cells`` are ``[series, n]``, not to be changed."""

    ts_ms: IntArray
    cells: FloatArray
    has_absent: bool  # perhaps; False is certain


@dataclass(slots=True)
class ReadStats:
    """What a querier has touched."""

    chunks: int = 0
    samples: int = 0
    corrupt: list[tuple[str, int]] = field(default_factory=list)


class Querier:
    """
    Reads one snapshot. Lives in one worker thread, within a read transaction of that thread's
    connection; :meth:`tachograph.storage.store.Store.read` makes and ends it.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        index: Index,
        groups_of: IntArray,
        heads: Mapping[int, HeadView],
        points_head: PointsView,
        catalogue: Catalogue,
        compacted: frozenset[int],
        *,
        decoded: DecodedCache | None = None,
        era: int = 0,
        revision: int = 0,
        mark: int = 0,
        earliest_since: Callable[[int], int] = lambda mark: ALWAYS_MS,
    ) -> None:
        self._connection = connection
        self._groups_of = groups_of
        self._heads = heads
        self._points_head = points_head
        self.index = index
        self.catalogue = catalogue
        #: UTC days whose rollup rows are written.
        self.compacted = compacted
        #: As of the snapshot or before, see ``Ledger`` in catalogue.py and frontier.py.
        self.revision, self.mark, self.earliest_since = revision, mark, earliest_since
        self.stats = ReadStats()
        self._cache = decoded
        #: What has been decoded; keeps nothing before :meth:`use_cache`.
        self.decoded = DecodedCache(0)
        self._era = era
        self._dirty: dict[int, frozenset[int]] = {}

    def use_cache(self) -> None:
        """
        From now on, take what has been decoded before, and keep what is decoded. For readers who
        will ask again: the daily job would push everything else out.
        """
        if self._cache is not None:
            self.decoded = self._cache

    # --- Series -------------------------------------------------------------------------------

    def series(self, matchers: Sequence[Matcher]) -> list[Series]:
        """Return the series that satisfy the matchers, in order of their numbers."""
        return self.resolve(self.index.select(matchers))

    def resolve(self, refs: RefArray) -> list[Series]:
        found = (self.index.get(ref) for ref in refs.tolist())
        return [series for series in found if series is not None]

    # --- Samples ------------------------------------------------------------------------------

    def select(self, matchers: Sequence[Matcher], min_ms: int, max_ms: int) -> list[Frame]:
        """Return all samples of the matching series with ``min_ms <= t <= max_ms``."""
        return list(self.frames(self.index.select(matchers), min_ms, max_ms))

    def frames(
        self,
        refs: RefArray,
        min_ms: int,
        max_ms: int,
        rows_max: int = FRAME_ROWS_MAX,
        *,
        overlay: bool = False,
    ) -> Iterator[Frame]:
        """
        Yield the samples of some series (``refs`` rising), at most ``rows_max`` series a frame.
        Series without a sample in the range are left out.

        Args:
            overlay: Points may stand between the ticks of a group as if they were such, instead of
                each series with points having a frame of its own.
        """
        # Series that came after this snapshot have no samples in it, and perhaps no home yet.
        refs = refs[refs < len(self._groups_of)]
        groups = self._groups_of[refs]
        refs, groups = refs[groups != POINTS_GROUP], groups[groups != POINTS_GROUP]
        if not len(refs):
            return
        pointed = self._points(refs, min_ms, max_ms)
        order = np.argsort(groups, kind="stable")
        cuts = np.flatnonzero(np.diff(groups[order])) + 1
        for at in np.split(order, cuts):
            group = int(groups[at[0]])
            pieces = self._pieces(group, min_ms, max_ms)
            for low in range(0, len(at), rows_max):
                members = refs[at[low : low + rows_max]]
                yield from self._group_frames(group, members, pieces, pointed, overlay)

    def rollup_rows(
        self, tier: int, refs: RefArray, days: Sequence[int]
    ) -> Iterator[tuple[int, int, bytes]]:
        """Yield (day, series, row) of the rollup rows that exist, days in the order given."""
        members = refs.tolist()
        if len(members) >= _DENSE_MIN and members[-1] - members[0] < 2 * len(members):
            # Neighbours: also, days before any of them was known cost nothing then.
            wanted = set(members)
            for day in days:
                ends = rollup_key(tier, day, members[0]), rollup_key(tier, day, members[-1])
                for key, data in self._rows(_ROLLUP_RANGE, ends, "rollup"):
                    if key & REF_MAX in wanted:
                        yield day, key & REF_MAX, data
            return
        keys = [rollup_key(tier, day, ref) for day in days for ref in members]
        for low in range(0, len(keys), _IN_MAX):
            for key, data in self._rows(_ROLLUPS, keys[low : low + _IN_MAX], "rollup"):
                _, day, ref = split_rollup_key(key)
                yield day, ref, data

    def first_rollup_day(self, tier: int) -> int | None:
        """Return the oldest day that a tier has rows of; older ones have expired."""
        bounds = rollup_key(tier, -1, 0), rollup_key(tier + 1, -1, 0)
        row = self._connection.execute(_FIRST_ROLLUP, bounds).fetchone()
        return None if row is None else split_rollup_key(row[0])[1]

    def ticks_by_day(self, group: int) -> dict[int, int]:
        """Return how many ticks of a group there are in chunks, by day."""
        found: dict[int, int] | None = self.decoded.get(self.catalogue, group)
        if found is None:
            found = {}
            for block in self.catalogue.blocks.get(group, ()):
                day = day_of(block.min_ms)
                found[day] = found.get(day, 0) + block.n
            self.decoded.put(self.catalogue, group, found, 100 * len(found))
        return found

    def members(self, block: Block) -> RefArray:
        """Return the series, rising, that a block of points has chunks of."""
        data = self._block_data(block)
        return np.empty(0, np.uint32) if data is None else decode_refs(data, block.n)

    def of_groups(self, groups: Collection[int]) -> RefArray:
        """Return the series, rising, whose home is one of some groups."""
        homes = np.isin(self._groups_of, list(groups)) & (self._groups_of > 0)
        return np.flatnonzero(homes).astype(np.uint32)

    def between(self, min_ms: int, max_ms: int) -> RefArray:
        """
        Return the series, rising, that may have samples with ``min_ms <= t <= max_ms``, as far as
        that can be told without reading chunks: all of a group that had ticks then.
        """
        bare = self.compacted - self.catalogue.days
        if any(min_ms <= day_bounds(day)[1] and day_bounds(day)[0] <= max_ms for day in bare):
            return np.flatnonzero(self._groups_of).astype(np.uint32)  # only rollups are left
        blocks = [b for b in self.catalogue if b.min_ms <= max_ms and b.max_ms >= min_ms]
        groups = {block.group for block in blocks}
        for number, head in self._heads.items():
            low, high = _clip(head.ts_ms[: head.ticks], min_ms, max_ms)
            if low < high:
                groups.add(number)
        found = [self.of_groups(groups - {POINTS_GROUP})]
        found += [self.members(block) for block in blocks if block.group == POINTS_GROUP]
        pointed = self._points_head.refs_between(min_ms, max_ms)
        found.append(np.fromiter(pointed, np.uint32, len(pointed)))
        return distinct(np.concatenate(found))

    @cached_property
    def days(self) -> list[int]:
        """The days that may hold samples, rising."""
        return sorted(self.raw_days | self.compacted)

    @cached_property
    def raw_days(self) -> frozenset[int]:
        """The days that have samples in chunks or in the head."""
        return self.catalogue.days | self._head_days

    def dirty(self, day: int) -> frozenset[int]:
        """Return the series of a compacted day that have got samples since, the head's included."""
        found = self._dirty.get(day)
        if found is None:
            dirty = set(self.dirty_rows(day))
            if day in self._head_days:
                low_ms, high_ms = day_bounds(day)
                dirty |= self._points_head.refs_between(low_ms, high_ms)
                for head in self._heads.values():
                    low, high = _clip(head.ts_ms[: head.ticks], low_ms, high_ms)
                    if low < high:
                        dirty |= set(head.refs.tolist())
            found = self._dirty[day] = frozenset(dirty)
        return found

    def dirty_rows(self, day: int) -> frozenset[int]:
        """As :meth:`dirty`, but only what is in chunks."""
        rows = self._connection.execute("SELECT series FROM dirty WHERE day = ?", (day,))
        return frozenset(ref for (ref,) in rows)

    def homes(self, refs: RefArray) -> IntArray:
        """Return the group that each series belongs to; 0 for one that has been deleted."""
        homes: IntArray = np.zeros(len(refs), np.int64)
        known = refs < len(self._groups_of)
        homes[known] = self._groups_of[refs[known]]
        return homes

    # --- How ----------------------------------------------------------------------------------

    @cached_property
    def _head_days(self) -> set[int]:
        days = self._points_head.days()
        for head in self._heads.values():
            if head.ticks:
                ends = (int(head.ts_ms[0]), int(head.ts_ms[head.ticks - 1]))
                days |= set(range(day_of(ends[0]), day_of(ends[1]) + 1))
        return days

    def _pieces(self, group: int, min_ms: int, max_ms: int) -> list[Piece]:
        pieces = []
        for block in self.catalogue.overlapping(group, min_ms, max_ms):
            ts = self._block_times(block)
            if ts is None:
                continue
            low, high = _clip(ts, min_ms, max_ms)
            if low < high:
                pieces.append(Piece(ts, low, high, block))
        head = self._heads.get(group)
        if head is not None and head.ticks:
            ts = head.ts_ms[: head.ticks]
            low, high = _clip(ts, min_ms, max_ms)
            if low < high:
                pieces.append(Piece(ts, low, high, head))
        return pieces

    def _group_frames(
        self,
        group: int,
        refs: RefArray,
        pieces: Sequence[Piece],
        pointed: Mapping[int, PointColumns],
        overlay: bool,
    ) -> Iterator[Frame]:
        parts = [part for part in (self._read(refs, p) for p in pieces) if len(part.ts_ms)]
        if len(parts) == 1:
            ts, cells, has_absent = parts[0]
        else:
            ts = np.concatenate([part.ts_ms for part in parts] or [np.empty(0, np.int64)])
            cells = np.concatenate([p.cells for p in parts] or [np.empty((len(refs), 0))], axis=1)
            has_absent = any(part.has_absent for part in parts)
            if not (ts[1:] > ts[:-1]).all():
                ts, cells = _merge(ts, cells, [len(part.ts_ms) for part in parts])
                has_absent = True
        self.stats.samples += cells.size
        ragged = [row for row, ref in enumerate(refs.tolist()) if ref in pointed] if pointed else []
        if ragged and overlay:
            laid = _overlaid(ts, cells, [(row, *pointed[int(refs[row])]) for row in ragged])
            if laid is not None:
                (ts, cells), has_absent, ragged = laid, True, []
        if not ragged and not has_absent and len(ts):
            whole = [s for s in map(self.index.get, refs.tolist()) if s is not None]
            if len(whole) == len(refs):
                yield Frame(whole, ts, cells, False, group)
                return
        keep: BoolArray = np.full(len(refs), len(ts) > 0)
        absent: BoolArray | None = None
        if has_absent:
            absent = is_absent(cells)
            keep &= ~absent.all(axis=1)
            has_absent = bool(absent.any())
        for row in ragged:
            ref = int(refs[row])
            here = np.ones(len(ts), np.bool_) if absent is None else ~absent[row]
            frame = self._ragged(ref, ts[here], cells[row, here], *pointed[ref])
            if frame is not None:
                yield frame
            keep[row] = False
        found = [self.index.get(ref) for ref in refs.tolist()]
        keep &= [series is not None for series in found]  # retention may have dropped some
        if not keep.any():
            return
        if not keep.all():
            cells = cells[keep]
            has_absent = absent is not None and bool(absent[keep].any())
        series = [s for s, kept in zip(found, keep.tolist(), strict=True) if s is not None and kept]
        yield Frame(series, ts, cells, has_absent, group)

    def _ragged(
        self,
        ref: int,
        ts: IntArray,
        values: FloatArray,
        point_ts: IntArray,
        point_values: FloatArray,
    ) -> Frame | None:
        series = self.index.get(ref)
        if series is None:
            return None
        # Points come second: at one time, what was sent later with its own timestamp wins.
        all_ts = np.concatenate([ts, point_ts])
        values = np.concatenate([values, point_values])
        order = np.argsort(all_ts, kind="stable")
        all_ts, values = all_ts[order], values[order]
        last = np.append(all_ts[1:] != all_ts[:-1], True)
        return Frame((series,), all_ts[last], values[last].reshape(1, -1), False)

    def _read(self, refs: RefArray, piece: Piece) -> Part:
        """Return the samples of some series in a piece."""
        source, low, high = piece.source, piece.low, piece.high
        if isinstance(source, HeadView):
            return Part(piece.ts_ms[low:high], self._of_head(refs, piece, source), True)
        if not self.decoded.takes(8 * len(refs) * source.n):
            cells = np.empty((len(refs), high - low))
            self._decode(cells, refs, piece)
            return Part(piece.ts_ms[low:high], cells, True)
        key = self._era, refs.tobytes()
        kept: Part | None = self.decoded.get(source, key)
        if kept is None:
            cells = np.empty((len(refs), source.n))
            self._decode(cells, refs, piece._replace(low=0, high=source.n))
            kept = _without_gaps(piece.ts_ms, cells)
            self.decoded.put(source, key, kept, kept.cells.nbytes + kept.ts_ms.nbytes)
        if len(kept.ts_ms) < source.n and low < high:
            low = int(np.searchsorted(kept.ts_ms, piece.ts_ms[low]))
            high = int(np.searchsorted(kept.ts_ms, piece.ts_ms[high - 1], "right"))
        return Part(kept.ts_ms[low:high], kept.cells[:, low:high], kept.has_absent)

    def _of_head(self, refs: RefArray, piece: Piece, head: HeadView) -> FloatArray:
        cells = np.full((len(refs), piece.high - piece.low), ABSENT)
        if len(head.refs):
            sorter = np.argsort(head.refs)
            found = np.searchsorted(head.refs, refs, sorter=sorter)
            found[found == len(head.refs)] = 0
            columns = sorter[found]
            known = head.refs[columns] == refs
            # A head widened after this view was taken has no cells for its newest columns here.
            cells[known] = head.cells[piece.low : piece.high, columns[known]].T
        return cells

    def _decode(self, target: FloatArray, refs: RefArray, piece: Piece) -> None:
        """Decode a piece of a block; what has no chunk, or a damaged one, is absent."""
        block = piece.source
        assert isinstance(block, Block)
        target[:] = ABSENT
        whole = piece.low == 0 and piece.high == block.n
        row_of = {ref: row for row, ref in enumerate(refs.tolist())}
        for key, data in self._chunks(block, refs):
            row = row_of[key & REF_MAX]
            try:
                if whole and target.strides[1] == 8:
                    decode_chunk(data, block.n, target[row])
                else:
                    target[row] = decode_chunk(data, block.n)[0][piece.low : piece.high]
            except StorageError:
                target[row] = ABSENT
                self.stats.corrupt.append(("chunk", key))

    def _points(self, refs: RefArray, min_ms: int, max_ms: int) -> dict[int, PointColumns]:
        """Return times and values by series of the points with timestamps of their own."""
        parts: dict[int, list[PointColumns]] = {}
        for block in self.catalogue.overlapping(POINTS_GROUP, min_ms, max_ms):
            for ref, (ts, values) in self._block_points(block, refs).items():
                low, high = _clip(ts, min_ms, max_ms)
                if low < high:
                    parts.setdefault(ref, []).append((ts[low:high], values[low:high]))
        head = self._points_head.select(refs, min_ms, max_ms)
        if len(head.refs):
            members, starts = np.unique(head.refs, return_index=True)
            ends = [*starts.tolist()[1:], len(head.refs)]
            for ref, low, high in zip(members.tolist(), starts.tolist(), ends, strict=True):
                parts.setdefault(ref, []).append((head.ts_ms[low:high], head.values[low:high]))
        return {
            ref: (np.concatenate([p[0] for p in each]), np.concatenate([p[1] for p in each]))
            for ref, each in parts.items()
        }

    def _block_times(self, block: Block) -> IntArray | None:
        """Return the times of a block's ticks; ``None`` if it is damaged."""
        found: IntArray | None = self.decoded.get(block, "times")
        if found is None:
            data = self._block_data(block)
            if data is None:
                return None
            found = decode_ints(data, block.n)
            self.decoded.put(block, "times", found, found.nbytes)
        return found

    def _block_points(self, block: Block, refs: RefArray) -> dict[int, PointColumns]:
        """Return all times and values that a block of points holds of some series."""
        key = self._era, refs.tobytes()
        found: dict[int, PointColumns] | None = self.decoded.get(block, key)
        if found is not None:
            return found
        found = {}
        members = np.intersect1d(self.members(block), refs, assume_unique=True)
        for row, blob in self._chunks(block, members):
            try:
                found[row & REF_MAX] = decode_points(blob)
            except StorageError:
                self.stats.corrupt.append(("chunk", row))
        size = sum(ts.nbytes + values.nbytes for ts, values in found.values())
        self.decoded.put(block, key, found, size)
        return found

    def _block_data(self, block: Block) -> bytes | None:
        row = self._connection.execute(_BLOCK_DATA, (block.key,)).fetchone()
        if row is None or not holds(*row, block.key, block.min_ms, block.max_ms, block.n):
            self.stats.corrupt.append(("block", block.key))
            return None
        return bytes(row[1])

    def _chunks(self, block: Block, refs: RefArray) -> Iterator[tuple[int, bytes]]:
        base = block.key & ~REF_MAX
        for low in range(0, len(refs), _IN_MAX):
            keys = [base | ref for ref in refs[low : low + _IN_MAX].tolist()]
            yield from self._rows(_POINT_LOOKUP, keys, "chunk", block.key)

    def _rows(
        self, sql: str, keys: Sequence[int], table: str, *first: int
    ) -> Iterator[tuple[int, bytes]]:
        if not keys:
            return
        statement = sql.format(",".join("?" * len(keys)))
        for key, stored, data in self._connection.execute(statement, (*first, *keys)).fetchall():
            self.stats.chunks += 1
            if isinstance(data, bytes) and crc(data, key) == stored:
                yield key, data
            else:
                self.stats.corrupt.append((table, key))


def _clip(ts_ms: IntArray, min_ms: int, max_ms: int) -> tuple[int, int]:
    # The methods take half as long as the functions of the same name.
    return int(ts_ms.searchsorted(min_ms, "left")), int(ts_ms.searchsorted(max_ms, "right"))


def _without_gaps(ts_ms: IntArray, cells: FloatArray) -> Part:
    """Leave out the ticks that none of the series is in: a target that did not answer."""
    absent = is_absent(cells)
    has_absent = bool(absent.any())
    if has_absent:
        used = ~absent.all(axis=0)
        if not used.all():
            ts_ms, cells = ts_ms[used], cells[:, used]
            has_absent = bool(absent[:, used].any())
    cells.flags.writeable = False
    return Part(ts_ms, cells, has_absent)


def _overlaid(
    ts_ms: IntArray, cells: FloatArray, points: Sequence[tuple[int, IntArray, FloatArray]]
) -> PointColumns | None:
    """
    Lay points over ticks, where they win, for they were sent with their own timestamps.

    Most are what a sender delivered after the ticks of its other connections had been sealed, at
    their very times. Rows of their own make a range query three times as slow.

    Args:
        points: Row, times and values; of values at one time the last counts.

    Returns:
        Times and ``[series, n]``; ``None`` if too few times are shared.
    """
    # Mostly the points of all series are of the same times.
    shared = {times.tobytes(): times for _, times, _ in points}
    extra = [times[~_are_among(times, ts_ms)] for times in shared.values()]
    merged = distinct(np.concatenate([ts_ms, *extra])) if any(map(len, extra)) else ts_ms
    count = sum(len(times) for _, times, _ in points)
    if len(cells) * len(merged) > _OVERLAY_SPARSE * (cells.size + count):
        return None
    laid = np.full((len(cells), len(merged)), ABSENT)
    if merged is ts_ms:
        laid[:] = cells
    else:
        laid[:, merged.searchsorted(ts_ms)] = cells
    places = {key: merged.searchsorted(times) for key, times in shared.items()}
    for row, times, values in points:
        laid[row, places[times.tobytes()]] = values
    return merged, laid


def _are_among(times: IntArray, ts_ms: IntArray) -> BoolArray:
    """Tell which of some times are among others, which rise."""
    if not len(ts_ms):
        return np.zeros(len(times), np.bool_)
    at = np.minimum(ts_ms.searchsorted(times), len(ts_ms) - 1)
    found: BoolArray = ts_ms[at] == times
    return found


def _merge(
    ts_ms: IntArray, cells: FloatArray, lengths: Sequence[int]
) -> tuple[IntArray, FloatArray]:
    """Lay stretches that overlap in time over one another: the later one wins."""
    merged_ts = distinct(ts_ms)
    merged = np.full((len(cells), len(merged_ts)), ABSENT)
    at = 0
    for length in lengths:
        piece = cells[:, at : at + length]
        columns = np.searchsorted(merged_ts, ts_ms[at : at + length])
        merged[:, columns] = np.where(is_absent(piece), merged[:, columns], piece)
        at += length
    return merged_ts, merged
