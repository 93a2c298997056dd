"""
Samples as range functions and selectors need them: series side by side, gaps taken out.

Series that share their times without a gap stay one matrix with one time vector, and a window is a
pair of column numbers for all of them. The others are moved to the left, each with times of its
own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from ...storage.frame import BoolArray, FloatArray, Frame, IntArray, is_absent, is_stale
from ...storage.model import Labels

_Number = TypeVar("_Number", bound=np.generic)
#: Runs of columns that are copied one by one.
_RUNS_MAX: Final = 100
#: Cells of one piece of work: 64 series of a day at 10 s. Larger pieces fall out of the cache,
#: smaller ones cost more calls (benchmarks/promql_queries.py).
PIECE_CELLS = 1 << 19


@dataclass(slots=True)
class Samples:
    """
    Some series and their samples.

    Attributes:
        labels: One per row.
        nameless: ``[rows]``, see :class:`.values.Block`.
        ts_ms: ``[n]`` if shared, else ``[rows, n]``, meaningless behind ``counts``.
        values: ``[rows, n]``, likewise.
        counts: ``[rows]``, how many samples a row has; ``None`` if times are shared.
        until_ms: When each sample is too old to be the latest, shaped as ``values``; ``None`` if
            the lookback says.
    """

    labels: list[Labels]
    nameless: BoolArray
    ts_ms: IntArray
    values: FloatArray
    counts: IntArray | None = None
    until_ms: IntArray | None = None
    _keys: tuple[IntArray, IntArray, int, int] | None = field(default=None, repr=False)
    _original: tuple[IntArray, BoolArray] | None = field(default=None, repr=False)
    _before: npt.NDArray[np.int32] | None = field(default=None, repr=False)

    @property
    def rows(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        return self.values.size

    def upto(self, edges_ms: IntArray) -> IntArray:
        """
        Count the samples at or before each of some times.

        Returns:
            ``[edges]`` if times are shared, else ``[rows, edges]``.
        """
        if self.counts is None:
            return np.searchsorted(self.ts_ms, edges_ms, side="right")
        if self._original is not None:
            return self._present_upto(*self._original, edges_ms)
        steps = len(edges_ms)
        # Either every edge is looked up among the samples or every sample among the edges, of which
        # there are few enough to stay in the cache.
        if self.values.size <= 4 * self.rows * steps and (np.diff(edges_ms) >= 0).all():
            return self._samples_upto(edges_ms)
        if self._keys is None:
            self._keys = self._make_keys()
        keys, starts, base, span = self._keys
        # One search for all rows: every row has a number range of its own.
        offsets = np.arange(self.rows, dtype=np.int64)[:, None] * span
        edges = np.clip(edges_ms - base, 0, span - 1)[None, :] + offsets
        return np.searchsorted(keys, edges, side="right") - starts[:, None]

    def _present_upto(self, ts_ms: IntArray, present: BoolArray, edges_ms: IntArray) -> IntArray:
        """Count where the gaps were in times that the rows once shared."""
        if self._before is None:
            before = np.zeros((self.rows, len(ts_ms) + 1), np.int32)
            np.cumsum(present, axis=1, dtype=np.int32, out=before[:, 1:])
            self._before = before
        ticks = np.searchsorted(ts_ms, edges_ms, side="right")
        return self._before.take(ticks, axis=1).astype(np.int64)

    def _samples_upto(self, edges_ms: IntArray) -> IntArray:
        assert self.counts is not None
        steps = len(edges_ms)
        first = np.searchsorted(edges_ms, self.ts_ms, side="left")
        unused = np.arange(self.ts_ms.shape[1]) >= self.counts[:, None]
        first[unused] = steps
        first += np.arange(self.rows)[:, None] * (steps + 1)
        added = np.bincount(first.ravel(), minlength=self.rows * (steps + 1))
        counts: IntArray = np.cumsum(added.reshape(self.rows, -1)[:, :steps], axis=1)
        return counts

    def _make_keys(self) -> tuple[IntArray, IntArray, int, int]:
        assert self.counts is not None
        used = np.arange(self.ts_ms.shape[1]) < self.counts[:, None]
        times = self.ts_ms[used]
        base = int(times.min()) - 1 if times.size else 0
        span = int(times.max()) - base + 2 if times.size else 2
        rows = np.repeat(np.arange(self.rows, dtype=np.int64), self.counts)
        starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        return times - base + rows * span, starts, base, span


def packed(
    labels: list[Labels],
    nameless: BoolArray,
    ts_ms: IntArray,
    values: FloatArray,
    present: BoolArray,
) -> Samples:
    """Take out the cells that are not ``present`` by moving what is behind them to the left."""
    counts = np.count_nonzero(present, axis=1).astype(np.int64)
    width = int(counts.max(initial=0))
    used = np.arange(width) < counts[:, None]
    new_ts = np.zeros(used.shape, np.int64)
    # Behind a row's samples stands NaN, which no comparison takes for a counter's reset.
    new_values = np.full(used.shape, np.nan)
    # Both masks are walked row by row, so cell after cell moves to its place.
    new_ts[used] = np.broadcast_to(ts_ms, values.shape)[present]
    new_values[used] = values[present]
    original = (ts_ms, present) if ts_ms.ndim == 1 else None
    return Samples(labels, nameless, new_ts, new_values, counts, _original=original)


def from_frame(frame: Frame, first: int, last: int, *, drop_stale: bool) -> Iterator[Samples]:
    """Yield the rows ``first`` to ``last`` of a frame, those with gaps apart from the others."""
    values = frame.values[first:last]
    labels = [series.labels for series in frame.series[first:last]]
    nameless = np.zeros(len(labels), bool)
    # Markers are NaNs, so a row whose sum is a number has none; rows are long and sums are fast.
    suspicious = np.isnan(values.sum(axis=1))
    if not suspicious.any():
        yield Samples(labels, nameless, frame.ts_ms, values)
        return
    rows = np.flatnonzero(suspicious)
    some = values if len(rows) == len(labels) else values[rows]
    missing = is_absent(some)
    if drop_stale:
        missing |= is_stale(some)
    gappy = np.any(missing, axis=1)
    whole = np.ones(len(labels), bool)
    whole[rows[gappy]] = False
    if whole.any():
        kept = np.flatnonzero(whole)
        yield Samples([labels[i] for i in kept], nameless[kept], frame.ts_ms, values[kept])
    if gappy.any():
        left = [labels[i] for i in rows[gappy]]
        present = ~missing[gappy]
        some, flags = some[gappy], nameless[: len(left)]
        shared: BoolArray = np.any(present, axis=0)
        if not shared.any():
            return
        if np.count_nonzero(present) == len(left) * np.count_nonzero(shared):
            # A target that could not be scraped: all of its series have the same gaps.
            yield Samples(left, flags, frame.ts_ms[shared], some_columns(some, shared))
        else:
            yield packed(left, flags, frame.ts_ms, some, present)


def some_columns(matrix: npt.NDArray[_Number], which: BoolArray) -> npt.NDArray[_Number]:
    """Return a matrix without some columns, which mostly stand together."""
    cuts = (np.flatnonzero(which[1:] != which[:-1]) + 1).tolist()
    if len(cuts) > _RUNS_MAX:
        return matrix[:, which]
    runs = zip([0, *cuts], [*cuts, len(which)], strict=True)
    # Copying whole runs is several times faster than picking columns.
    return np.concatenate([matrix[:, a:b] for a, b in runs if which[a]], axis=1)


def side_by_side(frames: list[Frame], *, drop_stale: bool) -> Samples:
    """Put frames below each other."""
    width = max(len(frame.ts_ms) for frame in frames)
    labels = [series.labels for frame in frames for series in frame.series]
    ts_ms = np.zeros((len(labels), width), np.int64)
    values = np.zeros((len(labels), width))
    counts = np.zeros(len(labels), np.int64)
    row = 0
    for frame in frames:
        count, rows = len(frame.ts_ms), slice(row, row + len(frame.series))
        ts_ms[rows, :count] = frame.ts_ms
        values[rows, :count] = frame.values
        values[rows, count:] = frame.values[:, -1:]  # no drop where there is no sample
        counts[rows] = count
        row += len(frame.series)
    nameless = np.zeros(len(labels), bool)
    if np.isnan(values.sum()):
        present = np.arange(width) < counts[:, None]
        present &= ~is_absent(values)
        if drop_stale:
            present &= ~is_stale(values)
        return packed(labels, nameless, ts_ms, values, present)
    return Samples(labels, nameless, ts_ms, values, counts)
