"""Reading a tier: rollup rows where a day is compacted, made from raw samples where it is not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..storage.codec import CodecError
from ..storage.frame import FloatArray, IntArray, RefArray
from ..storage.keys import day_bounds, day_of
from ..storage.model import Series
from ..storage.select import Querier
from .rollup import Aggregate, Buckets, Tier, aggregate, coarsen_rows, merge, rollup_rows
from .rollup_codec import decode_days

#: Series that are worked on at a time.
_PIECE: Final = 64


@dataclass(frozen=True, slots=True)
class TierSeries:
    """One series of a tier: what each bucket's aggregate is, at the bucket's end."""

    series: Series
    end_ms: IntArray
    values: FloatArray


def read_tier(
    querier: Querier, refs: RefArray, tier: Tier, what: Aggregate, start_ms: int, end_ms: int
) -> Iterator[TierSeries]:
    """
    Yield an aggregate of some series (``refs`` rising) over the buckets that hold a sample of
    ``(start_ms, end_ms]`` or could: the first and the last bucket are whole.

    Every bucket is right to the second: days that are open, or have late samples, are rolled up
    from raw on the fly. Series without a bucket in the range are left out.
    """
    for low in range(0, len(refs), _PIECE):
        piece = refs[low : low + _PIECE]
        found = read_buckets(querier, piece, tier, start_ms, end_ms)
        before: Mapping[int, float] = {}
        if what is Aggregate.INCREASE:
            first_ms = start_ms // tier.width_ms * tier.width_ms
            before = last_before(querier, np.array(sorted(found), np.uint32), first_ms)
        for ref, buckets in found.items():
            series = querier.index.get(ref)
            if series is not None:
                values = aggregate(buckets, what, before.get(ref))
                yield TierSeries(series, (buckets.index + 1) * tier.width_ms, values)


def read_buckets(
    querier: Querier, refs: RefArray, tier: Tier, start_ms: int, end_ms: int
) -> dict[int, Buckets]:
    """Return the buckets by series that meet ``(start_ms, end_ms]``; no series is empty."""
    width = tier.width_ms
    min_index, max_index = start_ms // width, (end_ms - 1) // width
    parts: dict[int, list[Buckets]] = {}
    days = _days(querier, day_of(min_index * width + 1), day_of((max_index + 1) * width))
    stored = [day for day in days if day in querier.compacted]
    dirty = {day: querier.dirty(day) for day in stored}
    for ref, rows in _rows(querier, tier, refs, stored, dirty).items():
        try:
            parts.setdefault(ref, []).append(decode_days(rows, tier))
        except CodecError:
            querier.stats.corrupt.append(("rollup", 0))
    for day in days:
        fresh = refs
        if day in querier.compacted:
            fresh = np.intersect1d(refs, np.array(sorted(dirty[day]), np.uint32))
        for ref, buckets in _from_raw(querier, fresh, tier, day).items():
            parts.setdefault(ref, []).append(buckets)
    found = {}
    for ref in sorted(parts):
        buckets = merge(parts[ref]).between(min_index, max_index)
        if len(buckets):
            found[ref] = buckets
    return found


def last_before(querier: Querier, refs: RefArray, ts_ms: int) -> dict[int, float]:
    """Return the value of each series' last sample at or before a time, where there is one."""
    found: dict[int, float] = {}
    day = day_of(ts_ms)
    # The day that the time lies in, bucket by bucket; the days before by their last value. A time
    # is a bucket's border, so no bucket reaches over it.
    for ref, buckets in read_buckets(querier, refs, Tier.M1, day_bounds(day)[0] - 1, ts_ms).items():
        found[ref] = float(buckets.last[-1])
    for earlier in reversed(_days(querier, -1, day - 1)):
        wanted = np.setdiff1d(refs, np.array(list(found), np.uint32)).astype(np.uint32)
        if not len(wanted):
            break
        low, high = day_bounds(earlier)
        for ref, buckets in read_buckets(querier, wanted, Tier.D1, low - 1, high).items():
            found[ref] = float(buckets.last[-1])
    return found


def _days(querier: Querier, first: int, last: int) -> list[int]:
    """Return the days of a range that may hold samples, rising."""
    known = {day_of(block.min_ms) for block in querier.catalogue} | querier.compacted
    known |= querier.head_days()
    return sorted(day for day in known if first <= day <= last)


def _rows(
    querier: Querier,
    tier: Tier,
    refs: RefArray,
    days: Sequence[int],
    dirty: Mapping[int, Collection[int]],
) -> dict[int, list[tuple[int, bytes]]]:
    rows: dict[int, list[tuple[int, bytes]]] = {}
    for day, ref, data in querier.rollup_rows(tier, refs, days):
        if ref not in dirty[day]:
            rows.setdefault(ref, []).append((day, data))
    return rows


def _from_raw(querier: Querier, refs: RefArray, tier: Tier, day: int) -> dict[int, Buckets]:
    low_ms, high_ms = day_bounds(day)
    found: dict[int, Buckets] = {}
    for frame in querier.frames(refs, low_ms, high_ms, _PIECE):
        # By way of the finest tier, as the daily job does: sums then agree to the last bit.
        rows = rollup_rows(frame.ts_ms, frame.values, Tier.M1.width_ms)
        if tier is not Tier.M1:
            finer = Tier.M1
            for coarser in (t for t in Tier if Tier.M1 < t <= tier):
                rows = coarsen_rows(rows, finer.width_ms, coarser.width_ms)
                finer = coarser
        for series, buckets in zip(frame.series, rows, strict=True):
            if len(buckets):
                found[series.ref] = buckets
    return found
