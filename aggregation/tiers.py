"""Reading a tier: rollup rows where a day is compacted, made from raw samples where it is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..storage.frame import FloatArray, IntArray, RefArray, is_absent, is_stale
from ..storage.keys import DAY_MS, day_bounds, day_of, rollup_key, split_rollup_key
from ..storage.labels import Index
from ..storage.model import Kind, Series
from ..storage.select import Querier
from .rollup import Aggregate, Buckets, Tier, aggregate, merge, rollup_rows
from .rollup_codec import decode_rows

#: What is worked on at a time: series, buckets of all of them (each takes 88 bytes), and series
#: whose raw samples are read.
_PIECE: Final = 512
_PIECE_BUCKETS: Final = 1 << 18
_PIECE_RAW: Final = 64
#: How far back the sample before a range is looked for first; nearly all series have one there.
_NEAR_MS: Final = 600_000


@dataclass(frozen=True, slots=True)
class TierSeries:
    """One series of a tier: what each bucket's aggregate is, at the bucket's end."""

    series: Series
    end_ms: IntArray
    values: FloatArray


def readable(index: Index, refs: RefArray, what: Aggregate) -> RefArray:
    """
    Return those of some series that an aggregate can be read of: all, but that gauges have no
    ``increase``, as their drops are no resets and are not kept.
    """
    if what is not Aggregate.INCREASE:
        return refs
    found = (index.get(ref) for ref in refs.tolist())
    keep = [series is not None and series.kind is not Kind.GAUGE for series in found]
    return refs[np.array(keep, np.bool_)]


def read_tier(
    querier: Querier, refs: RefArray, tier: Tier, what: Aggregate, start_ms: int, end_ms: int
) -> Iterator[TierSeries]:
    """
    Yield an aggregate of some series (``refs`` rising) over the buckets that meet
    ``(start_ms, end_ms]``: the first and the last bucket are whole.

    Every bucket is right to the second: days that are open, or have late samples, are rolled up
    from raw on the fly. Series without a bucket in the range, or that are not :func:`readable`, are
    left out.
    """
    refs = readable(querier.index, refs, what)
    min_index, max_index = start_ms // tier.width_ms, (end_ms - 1) // tier.width_ms
    days = sum(day_of(start_ms) <= day <= day_of(end_ms) for day in querier.days)
    most = days * DAY_MS // tier.width_ms
    piece = max(1, min(_PIECE, _PIECE_BUCKETS // max(1, most)))
    for low in range(0, len(refs), piece):
        found = _read(querier, refs[low : low + piece], tier, min_index, max_index)
        before: dict[int, float] = {}
        if what is Aggregate.INCREASE:
            before = _last_before(querier, found, tier, min_index)
        for ref, buckets in found.items():
            series = querier.index.get(ref)
            buckets = buckets.between(min_index, max_index)
            if series is not None and len(buckets):
                values = aggregate(buckets, what, before.get(ref))
                yield TierSeries(series, (buckets.index + 1) * tier.width_ms, values)


def read_buckets(
    querier: Querier, refs: RefArray, tier: Tier, start_ms: int, end_ms: int
) -> dict[int, Buckets]:
    """Return the buckets by series that meet ``(start_ms, end_ms]``; no series is empty."""
    min_index, max_index = start_ms // tier.width_ms, (end_ms - 1) // tier.width_ms
    found = {
        ref: buckets.between(min_index, max_index)
        for ref, buckets in _read(querier, refs, tier, min_index, max_index).items()
    }
    return {ref: buckets for ref, buckets in found.items() if len(buckets)}


def _read(
    querier: Querier, refs: RefArray, tier: Tier, min_index: int, max_index: int
) -> dict[int, Buckets]:
    """Return the buckets of a range; of days that are stored, there may be others before it."""
    first_ms, last_ms = min_index * tier.width_ms + 1, (max_index + 1) * tier.width_ms
    days = [day for day in querier.days if day_of(first_ms) <= day <= day_of(last_ms)]
    stored = [day for day in days if day in querier.compacted]
    parts = _stored(querier, refs, tier, stored)
    for day in days:
        fresh = _not_stored(querier, refs, (tier,), day)
        low_ms, high_ms = day_bounds(day)
        made = _from_raw(querier, fresh, tier, max(low_ms, first_ms), min(high_ms, last_ms))
        for ref, buckets in made:
            parts.setdefault(ref, []).append(buckets)
    return {ref: merge(parts[ref]) for ref in sorted(parts)}


def _stored(
    querier: Querier, refs: RefArray, tier: Tier, days: Sequence[int]
) -> dict[int, list[Buckets]]:
    """Return what the rows of some days hold, by series; damaged ones are noted and left out."""
    rows = [
        (ref, day, data)
        for day, ref, data in querier.rollup_rows(tier, refs, days)
        if ref not in querier.dirty(day)
    ]
    found, damaged = decode_rows(rows, tier)
    querier.stats.corrupt += [("rollup", rollup_key(tier, day, ref)) for ref, day in damaged]
    return {ref: [buckets] for ref, buckets in found.items()}


def _not_stored(querier: Querier, refs: RefArray, tiers: Sequence[Tier], day: int) -> RefArray:
    """Return the series whose row of a day is not there, out of date, or damaged in some tier."""
    if day not in querier.compacted:
        return refs
    keys = [split_rollup_key(key) for table, key in querier.stats.corrupt if table == "rollup"]
    bad = (ref for tier, of_day, ref in keys if of_day == day and tier in tiers)
    some = querier.dirty(day).union(bad)
    return refs[np.isin(refs, np.fromiter(some, np.uint32, len(some)))] if some else refs[:0]


def _from_raw(
    querier: Querier, refs: RefArray, tier: Tier, min_ms: int, max_ms: int
) -> Iterator[tuple[int, Buckets]]:
    for frame in querier.frames(refs, min_ms, max_ms, _PIECE_RAW):
        # The daily job goes from tier to tier, and stores decimals as such: its sums and these are
        # rounded differently, by 1e-12 of what is added up at the most.
        rows = rollup_rows(frame.ts_ms, frame.values, tier.width_ms)
        for series, buckets in zip(frame.series, rows, strict=True):
            if len(buckets):
                yield series.ref, buckets


def _last_before(
    querier: Querier, found: dict[int, Buckets], tier: Tier, min_index: int
) -> dict[int, float]:
    """Return the last value before a range, where there is one, of the series that were read."""
    before: dict[int, float] = {}
    wanted = []
    for ref, buckets in found.items():
        at = int(np.searchsorted(buckets.index, min_index))
        if at:
            before[ref] = float(buckets.last[at - 1])
        elif len(buckets):
            wanted.append(ref)
    refs, until_ms = np.array(wanted, np.uint32), min_index * tier.width_ms
    for day in reversed(querier.days):
        if not len(refs):
            break
        if day > day_of(until_ms):
            continue
        low_ms, high_ms = day_bounds(day)
        last = _last_of_day(querier, refs, tier, low_ms, min(high_ms, until_ms))
        before |= last
        refs = refs[~np.isin(refs, list(last))]
    return before


def _last_of_day(
    querier: Querier, refs: RefArray, tier: Tier, min_ms: int, max_ms: int
) -> dict[int, float]:
    """Return the last value of each series in a part of a day that begins with it."""
    day = day_of(min_ms)
    found: dict[int, float] = {}
    # The rows of the range's own day have been read already: what is not there is not stored.
    if day in querier.compacted and max_ms == day_bounds(day)[1]:
        for coarse in dict.fromkeys((Tier.D1, tier)):
            parts = _stored(querier, refs, coarse, [day])
            found = {ref: float(each[0].last[-1]) for ref, each in parts.items()}
            if found:
                break
    fresh = _not_stored(querier, refs, (Tier.D1, tier), day)
    for low_ms in (max(min_ms, max_ms - _NEAR_MS), min_ms):
        if not len(fresh):
            break
        last = dict(_last_raw(querier, fresh, low_ms, max_ms))
        found |= last
        fresh = fresh[~np.isin(fresh, list(last))]
    return found


def _last_raw(
    querier: Querier, refs: RefArray, min_ms: int, max_ms: int
) -> Iterator[tuple[int, float]]:
    for frame in querier.frames(refs, min_ms, max_ms, _PIECE_RAW):
        present = ~(is_absent(frame.values) | is_stale(frame.values))
        last = present.shape[1] - 1 - np.argmax(present[:, ::-1], axis=1)
        for row, series in enumerate(frame.series):
            if present[row, last[row]]:
                yield series.ref, float(frame.values[row, last[row]])
