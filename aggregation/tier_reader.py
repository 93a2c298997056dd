"""Reads what a plan says: buckets and samples of some series, day by day, side by side in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..storage.frame import BoolArray, FloatArray, Frame, IntArray, RefArray, is_absent, is_stale
from ..storage.keys import DAY_MS, day_bounds, rollup_key, split_rollup_key
from ..storage.model import Series
from ..storage.select import Querier
from .rollup import Buckets, Tier, merge, rollup_rows
from .rollup_codec import decode_rows
from .tier_plan import RAW, Sources

Column = npt.NDArray[Any]
#: Bytes that a bucket takes in memory.
_BUCKET_BYTES: Final = 88
_FLOATS: Final = frozenset(("count", "sum", "min", "max", "first", "last", "resets"))


class DamagedRows(Exception):
    """Some rollup rows cannot be read: ``rows`` are their tier, day and series. Plan again."""

    def __init__(self, rows: set[tuple[Tier, int, int]]) -> None:
        super().__init__(f"{len(rows)} rollup rows are damaged")
        self.rows = rows


@dataclass(frozen=True, slots=True)
class Part:
    """
    A run of days from one source.

    Attributes:
        width_ms: Of the buckets; 0 for samples.
        end_ms: ``[n]``, where the buckets end, or when the samples were taken.
        count: ``[series, n]``, 0 where there is nothing.
        columns: ``[series, n]`` by the names of :class:`.rollup.Buckets`; samples are buckets of
            themselves. What stands where there is nothing means nothing.
    """

    width_ms: int
    end_ms: IntArray
    count: FloatArray
    columns: dict[str, Column]


@dataclass(frozen=True, slots=True)
class Strip:
    """Some series whose parts have the same ends; ``sources`` are those of each day."""

    series: list[Series]
    sources: Sources
    parts: list[Part]


class TierReader:
    """Reads one snapshot."""

    def __init__(self, querier: Querier) -> None:
        self._querier = querier

    def strips(
        self,
        refs: RefArray,
        days: IntArray,
        sources: Sources,
        span_ms: tuple[int, int],
        wanted: Sequence[str],
        *,
        keep_stale: bool = False,
        rolled: BoolArray | None = None,
    ) -> Iterator[Strip]:
        """
        Yield what there is of some series (``refs`` rising).

        Args:
            sources: ``[series, days]``, see :mod:`.tier_plan`.
            span_ms: First and last time of interest, both included; buckets may reach further.
            wanted: Columns.
            keep_stale: Stale markers are samples, too.
            rolled: ``[series, days]``, where a tier is to be made from samples.

        Raises:
            DamagedRows: Nothing was yielded.
        """
        buckets = {
            tier: self._buckets(tier, refs, days, sources == tier, rolled, span_ms)
            for tier in Tier
            if (sources == tier).any()
        }
        for rows in _alike(sources):
            mine = sources[rows[0]]
            runs = _runs(mine)
            frames = {
                run.start: _Frames(self._querier, refs[rows], days[run], span_ms)
                for run in runs
                if mine[run.start] == RAW
            }
            # Series of one frame have the same times; those of another one make another strip.
            places = np.array([each.frame_of for each in frames.values()])
            groups = _alike(places.T) if len(places) else [np.arange(len(rows))]
            for group in groups:
                found = [self._querier.index.get(int(ref)) for ref in refs[rows[group]]]
                known = np.array([series is not None for series in found], np.bool_)
                members = group[known]
                parts = []
                for run in runs:
                    source = int(mine[run.start])
                    if source == RAW:
                        part = frames[run.start].part(members, wanted, keep_stale)
                    elif source > RAW:
                        tier = Tier(source)
                        each = [buckets[tier].get(int(ref)) for ref in refs[rows[members]]]
                        part = _bucket_part(tier, each, days[run], span_ms, wanted)
                    else:
                        part = None
                    if part is not None and len(part.end_ms):
                        parts.append(part)
                if parts and len(members):
                    yield Strip([s for s in found if s is not None], mine, parts)

    def _buckets(
        self,
        tier: Tier,
        refs: RefArray,
        days: IntArray,
        where: BoolArray,
        rolled: BoolArray | None,
        span_ms: tuple[int, int],
    ) -> dict[int, Buckets]:
        """Return the buckets by series: stored ones, and those that are made on the fly."""
        stored = where if rolled is None else where & ~rolled
        found = self._stored(tier, refs, days, stored) if stored.any() else {}
        made = where & rolled if rolled is not None else np.zeros_like(where)
        parts: dict[int, list[Buckets]] = {ref: [each] for ref, each in found.items()}
        for at in np.flatnonzero(made.any(axis=0)).tolist():
            low_ms, high_ms = day_bounds(int(days[at]))
            low_ms = max(low_ms, (span_ms[0] - 1) // tier.width_ms * tier.width_ms + 1)
            high_ms = min(high_ms, -(-span_ms[1] // tier.width_ms) * tier.width_ms)
            for frame in self._querier.frames(refs[made[:, at]], low_ms, high_ms):
                rows = rollup_rows(frame.ts_ms, frame.values, tier.width_ms)
                for series, each in zip(frame.series, rows, strict=True):
                    if len(each):
                        parts.setdefault(series.ref, []).append(each)
        return {ref: merge(each) for ref, each in parts.items()}

    def _stored(
        self, tier: Tier, refs: RefArray, days: IntArray, where: BoolArray
    ) -> dict[int, Buckets]:
        querier = self._querier
        some, on = where.any(axis=1), where.any(axis=0)
        refs, days, where = refs[some], days[on], where[some][:, on]
        # Rows change with the catalogue, or are those of series that are read from samples.
        key = "rollup", tier, refs.tobytes(), days.tobytes(), where.tobytes()
        known: dict[int, Buckets] | None = querier.decoded.get(querier.catalogue, key)
        if known is not None:
            return known
        before = len(querier.stats.corrupt)
        row_of = {ref: row for row, ref in enumerate(refs.tolist())}
        column_of = {day: column for column, day in enumerate(days.tolist())}
        rows = [
            (ref, day, data)
            for day, ref, data in querier.rollup_rows(tier, refs, days.tolist())
            if where[row_of[ref], column_of[day]]
        ]
        found, damaged = decode_rows(rows, tier)
        querier.stats.corrupt += [("rollup", rollup_key(tier, day, ref)) for ref, day in damaged]
        bad = {
            (tier, day, ref)
            for table, key in querier.stats.corrupt[before:]
            for _, day, ref in [split_rollup_key(key)]
            if table == "rollup" and where[row_of[ref], column_of[day]]
        }
        if bad:
            raise DamagedRows(bad)
        size = _BUCKET_BYTES * sum(len(each) for each in found.values())
        querier.decoded.put(querier.catalogue, key, found, size + 200 * len(found))
        return found


class _Frames:
    """The samples of some series in a run of days."""

    def __init__(
        self, querier: Querier, refs: RefArray, days: IntArray, span_ms: tuple[int, int]
    ) -> None:
        low_ms = max(day_bounds(int(days[0]))[0], span_ms[0])
        high_ms = min(day_bounds(int(days[-1]))[1], span_ms[1])
        row_of = {ref: row for row, ref in enumerate(refs.tolist())}
        self._frames: list[Frame] = []
        #: ``[series]``, which frame each is in, -1 for none; and in which of its rows.
        self.frame_of: IntArray = np.full(len(refs), -1)
        self._place: IntArray = np.zeros(len(refs), np.int64)
        for number, frame in enumerate(querier.frames(refs, low_ms, high_ms, overlay=True)):
            self._frames.append(frame)
            at = [row_of[series.ref] for series in frame.series]
            self.frame_of[at] = number
            self._place[at] = np.arange(len(at))

    def part(self, members: IntArray, wanted: Sequence[str], keep_stale: bool) -> Part | None:
        """Return the samples of some series that are in the same frame."""
        if not len(members) or self.frame_of[members[0]] < 0:
            return None
        frame = self._frames[self.frame_of[members[0]]]
        values = frame.values[self._place[members]]
        present = np.ones(values.shape, np.bool_)
        with np.errstate(all="ignore"):
            has_nan = bool(np.isnan(values.sum()))
        if has_nan:
            present = ~is_absent(values)
            if not keep_stale:
                present &= ~is_stale(values)
        zeros = np.broadcast_to(np.int64(0), values.shape)
        times = np.broadcast_to(frame.ts_ms, values.shape)
        columns: dict[str, Column] = {}
        for name in wanted:
            match name:
                case "sum":
                    columns[name] = np.where(present, values, 0.0)
                case "first_ms" | "last_ms":
                    columns[name] = times
                case "resets":
                    columns[name] = zeros.astype(np.float64)
                case "stale_after_ms":
                    columns[name] = zeros
                case _:
                    columns[name] = values
        return Part(0, frame.ts_ms, present.astype(np.float64), columns)


def _bucket_part(
    tier: Tier,
    each: Sequence[Buckets | None],
    days: IntArray,
    span_ms: tuple[int, int],
    wanted: Sequence[str],
) -> Part:
    width_ms = tier.width_ms
    per_day = DAY_MS // width_ms
    slots = (days[:, None] * per_day + np.arange(per_day)).ravel()
    low, high = (span_ms[0] - 1) // width_ms, (span_ms[1] - 1) // width_ms
    slots = slots[(slots >= low) & (slots <= high)]
    shape = len(each), len(slots)
    if not len(slots):
        return Part(width_ms, slots, np.zeros(shape), {})
    found = [
        (row, buckets.between(int(slots[0]), int(slots[-1])))
        for row, buckets in enumerate(each)
        if buckets is not None
    ]
    index = np.concatenate([buckets.index for _, buckets in found] or [slots[:0]])
    row = np.repeat([row for row, _ in found], [len(buckets) for _, buckets in found])
    at = np.searchsorted(slots, index)

    def laid_out(name: str) -> Column:
        column = np.zeros(shape, np.float64 if name in _FLOATS else np.int64)
        if len(index):
            column[row, at] = np.concatenate([getattr(buckets, name) for _, buckets in found])
        return column

    columns = {name: laid_out(name) for name in wanted}
    if "resets" in columns:
        columns["resets"][np.isnan(columns["resets"])] = 0.0  # those of gauges are not kept
    return Part(width_ms, (slots + 1) * width_ms, laid_out("count"), columns)


def _alike(table: npt.NDArray[Any]) -> list[IntArray]:
    """Return the rows of a table in groups that are alike."""
    table = np.ascontiguousarray(table)
    if not (table != table[0]).any():
        return [np.arange(len(table))]
    _, group = np.unique(table, axis=0, return_inverse=True)
    return [np.flatnonzero(group.ravel() == number) for number in range(int(group.max()) + 1)]


def _runs(sources: Sources) -> list[slice]:
    """Cut days where the source changes."""
    cuts = (np.flatnonzero(sources[1:] != sources[:-1]) + 1).tolist()
    return [slice(a, b) for a, b in zip([0, *cuts], [*cuts, len(sources)], strict=True)]
