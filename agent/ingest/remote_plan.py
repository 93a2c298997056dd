"""How the samples of a request become ticks: by group, time and series, and cut into runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from ...storage.frame import BoolArray, FloatArray, IntArray, RefArray

#: A tick costs as much as that many points: smaller ones are points, if there are many.
_TICK_SAMPLES_MIN: Final = 4
_TICKS_MANY: Final = 64


class Columns(NamedTuple):
    """Samples of a request: the group of each one's series (0: none), time, series, value."""

    groups: IntArray
    ts_ms: IntArray
    refs: RefArray
    values: FloatArray

    def where(self, which: BoolArray | IntArray) -> Columns:
        groups, ts_ms, refs, values = self
        return Columns(groups[which], ts_ms[which], refs[which], values[which])


class Run(NamedTuple):
    """
    Ticks of the same ``members`` of one group, from ``start`` to before ``end`` of the samples in
    order. ``is_small`` if they are better kept as points.
    """

    group: int
    start: int
    end: int
    members: int
    is_small: bool


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """
    Attributes:
        order: Places of the samples in the request: by group, time and series, and of two samples
            of a series at one time the last.
        refs: In that order.
        runs: All samples, in that order.
    """

    order: IntArray
    refs: RefArray
    runs: list[Run]
    _tick_of: IntArray  # [n] where the tick of each sample begins
    _follows: IntArray  # where ticks begin that follow one of the same group
    _before: IntArray  # and where those before them begin
    _is_whole: bool

    def fits(self, ts_ms: IntArray) -> bool:
        """
        Tell whether a request of the same series in the same order, with these times, has the same
        plan.
        """
        if not self._is_whole:
            return False
        ts_ms = ts_ms[self.order]
        if not np.array_equal(ts_ms, ts_ms[self._tick_of]):
            return False
        return bool((ts_ms[self._follows] > ts_ms[self._before]).all())


def make_plan(columns: Columns) -> Plan:
    """Sort the samples of a request out."""
    order = np.lexsort((columns.refs, columns.ts_ms, columns.groups))
    groups, ts_ms, refs, _ = columns.where(order)
    same_tick = _same_as_before(groups) & _same_as_before(ts_ms)
    once = ~(same_tick & _same_as_before(refs))
    is_whole = bool(once.all())
    if not is_whole:
        # Sorting keeps equals in order, so the last of them stays.
        kept = np.append(once[1:], True)
        order, groups, ts_ms, refs = order[kept], groups[kept], ts_ms[kept], refs[kept]
        same_tick = _same_as_before(groups) & _same_as_before(ts_ms)
    starts = np.flatnonzero(~same_tick)
    sizes = np.diff(np.append(starts, len(refs)))
    follows = np.flatnonzero(_same_as_before(groups[starts]))
    return Plan(
        order,
        refs,
        _runs(groups, refs, starts, sizes),
        np.repeat(starts, sizes),
        starts[follows],
        starts[follows - 1],
        is_whole,
    )


def _runs(groups: IntArray, refs: RefArray, starts: IntArray, sizes: IntArray) -> list[Run]:
    """Join neighbouring ticks of a group that have the same members."""
    if not len(starts):
        return []
    # Each series against the one at its place in the tick before.
    before = np.arange(len(refs)) - np.repeat(np.append(0, sizes[:-1]), sizes)
    same = np.logical_and.reduceat(refs == refs[before], starts)
    same &= _same_as_before(groups[starts]) & _same_as_before(sizes)
    first = np.flatnonzero(~same)
    low = starts[first]
    high = np.append(low[1:], len(refs))
    small = (high - low < _TICK_SAMPLES_MIN) & (len(starts) > _TICKS_MANY)
    columns = (groups[low], low, high, sizes[first], small)
    return [Run(*run) for run in zip(*(column.tolist() for column in columns), strict=True)]


def _same_as_before(column: IntArray | RefArray) -> BoolArray:
    same: BoolArray = np.zeros(len(column), np.bool_)
    np.equal(column[1:], column[:-1], out=same[1:])
    return same
