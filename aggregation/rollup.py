"""
Rollups: what a bucket of samples is reduced to, and how buckets become coarser buckets. Pure numpy.

A bucket holds facts about its own samples only, never about a neighbour's. So buckets merge, a
late sample changes one bucket, and a day's row can be made and replaced alone. What happens
*between* two buckets (a counter's step from the last sample of one to the first of the next) the
reader adds.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from ..storage.frame import BoolArray, FloatArray, IntArray, is_absent, is_stale


class Tier(enum.IntEnum):
    """The resolutions of rollups; the number is the one in the keys of their rows."""

    M1 = 1
    M5 = 2
    H1 = 3
    D1 = 4

    @property
    def width_ms(self) -> int:
        return (60_000, 300_000, 3_600_000, 86_400_000)[self - 1]

    @property
    def label(self) -> str:
        """Its name in settings, queries and metrics: ``1m``, ``5m``, ``1h``, ``1d``."""
        return ("1m", "5m", "1h", "1d")[self - 1]


class Aggregate(enum.StrEnum):
    """What can be read from every bucket."""

    AVG = "avg"
    SUM = "sum"
    MIN = "min"
    MAX = "max"
    COUNT = "count"
    LAST = "last"
    INCREASE = "increase"


@dataclass(frozen=True, slots=True)
class Buckets:
    """
    Buckets of one tier, rising by ``index``; buckets without a sample are left out.

    Stale markers are no samples; any other NaN is one. All arrays are ``[k]``.

    Attributes:
        index: ``(ts_ms - 1) // width_ms``, so that a bucket is ``(start, end]``. A sample at the
            epoch itself is in bucket -1.
        count: Number of samples, 1 and up.
        sum: Added pairwise; NaN if a sample is.
        min, max: NaN samples are passed over unless there are no others, as by ``min_over_time``.
        first, last: Values of the first and the last sample; ``first_ms``, ``last_ms`` their times.
        resets: Sum of the values right before each drop inside the bucket, so that a counter grew
            by ``last - first + resets`` within it. A comparison with NaN is no drop. NaN where it
            was not kept (gauges, see ``rollup_codec``).
        stale_after_ms: How long after ``last_ms`` a stale marker came, before any other sample and
            within the same UTC day; 0 if none did. It may lie in a later bucket.
    """

    index: IntArray
    count: IntArray
    sum: FloatArray
    min: FloatArray
    max: FloatArray
    first: FloatArray
    last: FloatArray
    first_ms: IntArray
    last_ms: IntArray
    resets: FloatArray
    stale_after_ms: IntArray

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, which: slice | IntArray | BoolArray) -> Buckets:
        """Return some of the buckets; a slice shares the arrays."""
        return Buckets(*(getattr(self, name)[which] for name in _COLUMNS))

    def between(self, min_index: int, max_index: int) -> Buckets:
        """Return the buckets with ``min_index <= index <= max_index``, sharing the arrays."""
        low, high = np.searchsorted(self.index, (min_index, max_index + 1)).tolist()
        return self[low:high]


_COLUMNS = tuple(field.name for field in fields(Buckets))


@dataclass(frozen=True, slots=True)
class BucketRows:
    """
    Buckets of several series, one series after the other.

    Attributes:
        buckets: Those of all series; ``index`` rises within each series only.
        offsets: ``[rows + 1]``; series ``i`` has the buckets ``offsets[i]`` to ``offsets[i + 1]``.
    """

    buckets: Buckets
    offsets: IntArray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[Buckets]:
        """Yield each series' buckets, sharing the arrays."""
        bounds = self.offsets.tolist()
        for low, high in itertools.pairwise(bounds):
            yield self.buckets[low:high]


def empty() -> Buckets:
    """Return no buckets."""
    ints, floats = np.empty(0, np.int64), np.empty(0)
    return Buckets(ints, ints, floats, floats, floats, floats, floats, ints, ints, floats, ints)


def rollup(ts_ms: IntArray, values: FloatArray, width_ms: int) -> Buckets:
    """Return the buckets of one series; times rise strictly."""
    return rollup_rows(ts_ms, values.reshape(1, -1), width_ms).buckets


def rollup_rows(ts_ms: IntArray, values: FloatArray, width_ms: int) -> BucketRows:
    """
    Return the buckets of series that share their times.

    Args:
        ts_ms: ``[n]``, rising strictly.
        values: ``[rows, n]``; stale markers and absent cells are passed over.
    """
    rows, n = values.shape
    index = (ts_ms - 1) // width_ms
    # A sum is NaN whenever a cell is, and costs a quarter of looking at each.
    with np.errstate(all="ignore"):
        has_nan = bool(np.isnan(values.sum(axis=1)).any())
    if has_nan:
        stale = is_stale(values)
        present = ~(stale | is_absent(values))
        flat = values[present]
        row, column = np.nonzero(present)
        opens = np.ones(len(flat), np.bool_)
        opens[1:] = (row[1:] != row[:-1]) | (index[column[1:]] != index[column[:-1]])
        starts = np.flatnonzero(opens)
        ends = np.append(starts[1:], len(flat)) - 1 if len(flat) else starts
        first_column, last_column = column[starts], column[ends]
        offsets = np.searchsorted(row[starts], np.arange(rows + 1))
        first_cell, last_cell = row[starts] * n + first_column, row[ends] * n + last_column
        stale_after_ms = _since_stale(ts_ms, stale, first_cell, last_cell)
    else:
        flat = values.reshape(-1)
        edges = np.flatnonzero(index[1:] != index[:-1]) + 1
        column = np.concatenate(([0], edges)) if n else edges
        last = np.append(edges, n) - 1 if n else edges
        base = n * np.arange(rows)[:, np.newaxis]
        starts, ends = (base + column).ravel(), (base + last).ravel()
        first_column, last_column = np.tile(column, rows), np.tile(last, rows)
        offsets = len(column) * np.arange(rows + 1)
        stale_after_ms = np.zeros(len(starts), np.int64)
    if not len(starts):
        return BucketRows(empty(), offsets)
    with np.errstate(all="ignore"):
        buckets = Buckets(
            index=index[first_column],
            count=ends - starts + 1,
            sum=np.add.reduceat(flat, starts),
            min=np.fmin.reduceat(flat, starts),
            max=np.fmax.reduceat(flat, starts),
            first=flat[starts],
            last=flat[ends],
            first_ms=ts_ms[first_column],
            last_ms=ts_ms[last_column],
            resets=_drops(flat, flat, starts, None),
            stale_after_ms=stale_after_ms,
        )
    return BucketRows(buckets, offsets)


def coarsen(buckets: Buckets, width_ms: int, coarser_ms: int) -> Buckets:
    """Return the buckets of one series in a tier whose width is a multiple of theirs."""
    offsets = np.array((0, len(buckets)))
    return coarsen_rows(BucketRows(buckets, offsets), width_ms, coarser_ms).buckets


def coarsen_rows(rows: BucketRows, width_ms: int, coarser_ms: int) -> BucketRows:
    """Return the buckets of several series in a tier whose width is a multiple of theirs."""
    factor, rest = divmod(coarser_ms, width_ms)
    if rest:
        raise ValueError(f"a bucket of {coarser_ms} ms is not made of buckets of {width_ms} ms")
    return _combine(rows.buckets, rows.buckets.index // factor, rows.offsets)


def merge(parts: Sequence[Buckets]) -> Buckets:
    """
    Return the buckets of one series and tier that were computed in parts.

    Two parts may share a bucket if all samples of one lie before those of the other in it: the rest
    of a bucket that the first part ended in. Samples that lie among others need the raw data.
    """
    filled = [part for part in parts if len(part)]
    if len(filled) <= 1:
        return filled[0] if filled else empty()
    joined = Buckets(
        *(np.concatenate([getattr(part, name) for part in filled]) for name in _COLUMNS)
    )
    if (joined.first_ms[1:] < joined.first_ms[:-1]).any():
        joined = joined[np.argsort(joined.first_ms, kind="stable")]
    if (joined.index[1:] > joined.index[:-1]).all():
        return joined
    return _combine(joined, joined.index, np.array((0, len(joined)))).buckets


def aggregate(buckets: Buckets, what: Aggregate, prev_last: float | None = None) -> FloatArray:
    """
    Return one number per bucket, ``[k]``.

    Args:
        prev_last: Value of the last sample before the first bucket; only ``increase`` asks for it.
    """
    match what:
        case Aggregate.AVG:
            return buckets.sum / buckets.count
        case Aggregate.COUNT:
            return buckets.count.astype(np.float64)
        case Aggregate.INCREASE:
            return increase(buckets, prev_last)
        case Aggregate.SUM:
            return buckets.sum
        case Aggregate.MIN:
            return buckets.min
        case Aggregate.MAX:
            return buckets.max
        case Aggregate.LAST:
            return buckets.last


def increase(buckets: Buckets, prev_last: float | None = None) -> FloatArray:
    """
    Return how much a counter grew in each bucket: over its samples, the value less that of the
    sample before, wherever that one lies; a drop counts as the value itself.

    Not extrapolated. The very first sample of a series (``prev_last`` is None) adds 0. Over any run
    of buckets the increases add up to the growth from the last sample before it to its last one.
    """
    if not len(buckets):
        return np.empty(0)
    before = np.empty(len(buckets))
    before[0] = buckets.first[0] if prev_last is None else prev_last
    before[1:] = buckets.last[:-1]
    with np.errstate(all="ignore"):
        # One subtraction instead of a sum of steps: without a reset there is one rounding.
        drop = np.where(buckets.first < before, before, 0.0)
        grown: FloatArray = (buckets.last - before) + (buckets.resets + drop)
    return grown


def _combine(buckets: Buckets, index: IntArray, offsets: IntArray) -> BucketRows:
    """Join neighbours of a series that have the same new ``index``."""
    n = len(buckets)
    if not n:
        return BucketRows(buckets, offsets)
    opens = np.ones(n, np.bool_)
    opens[1:] = index[1:] != index[:-1]
    opens[offsets[offsets < n]] = True
    starts = np.flatnonzero(opens)
    ends = np.append(starts[1:], n) - 1
    with np.errstate(all="ignore"):
        combined = Buckets(
            index=index[starts],
            count=np.add.reduceat(buckets.count, starts),
            sum=np.add.reduceat(buckets.sum, starts),
            min=np.fmin.reduceat(buckets.min, starts),
            max=np.fmax.reduceat(buckets.max, starts),
            first=buckets.first[starts],
            last=buckets.last[ends],
            first_ms=buckets.first_ms[starts],
            last_ms=buckets.last_ms[ends],
            resets=_drops(buckets.first, buckets.last, starts, buckets.resets),
            stale_after_ms=buckets.stale_after_ms[ends],
        )
    return BucketRows(combined, np.searchsorted(starts, offsets))


def _since_stale(
    ts_ms: IntArray, stale: BoolArray, first_cell: IntArray, last_cell: IntArray
) -> IntArray:
    """
    Return how long after the last sample of each bucket a stale marker came, 0 if none did.

    Args:
        stale: ``[rows, n]``.
        first_cell: Where the first sample of each bucket stands among all cells, row by row;
            ``last_cell`` the last.
    """
    n, result = len(ts_ms), np.zeros(len(first_cell), np.int64)
    markers = np.flatnonzero(stale)
    if not len(markers) or not len(result):
        return result
    end = (last_cell // n + 1) * n  # of the row, or where the next bucket begins
    end[:-1] = np.minimum(end[:-1], first_cell[1:])
    next_marker = markers[np.minimum(np.searchsorted(markers, last_cell), len(markers) - 1)]
    ended = (next_marker > last_cell) & (next_marker < end)
    result[ended] = ts_ms[next_marker[ended] % n] - ts_ms[last_cell[ended] % n]
    return result


def _drops(
    first: FloatArray, last: FloatArray, starts: IntArray, inside: FloatArray | None
) -> FloatArray:
    """
    Add up, per run that begins at ``starts``, the values before each drop from one piece to the
    next, and the drops ``inside`` the pieces.
    """
    is_drop = first[1:] < last[:-1]
    is_drop[starts[1:] - 1] = False  # from one run to the next: not this run's business
    if inside is None and not is_drop.any():
        return np.zeros(len(starts))  # counters, nearly always
    drops = np.zeros(len(first))
    np.copyto(drops[1:], last[:-1], where=is_drop)
    if inside is not None:
        drops += inside
    total: FloatArray = np.add.reduceat(drops, starts)
    return total
