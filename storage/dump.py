"""Everything that is stored of some series, piece by piece in bounded memory, for exports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from .frame import FloatArray, IntArray, is_absent
from .keys import POINTS_GROUP, day_bounds
from .model import Series
from .select import Querier

#: Cells that are read at a time, 16 MB; and samples that a step returns, about.
CELLS_MAX: Final = 2_000_000
_STEP_SAMPLES: Final = 200_000
_ROWS_MAX: Final = 256
#: Of points nobody knows how many there are before they are read: at one a second these are 2.7
#: million, and commonly a tenth of it.
_POINT_ROWS: Final = 32
_POINT_DAYS: Final = 31


class Stretch(NamedTuple):
    """Some samples of one series, times rising strictly."""

    series: Series
    ts_ms: IntArray
    values: FloatArray


class Dump:
    """
    Reads series one after the other, in the order given.

    Each step may use another snapshot, so that a slow reader holds none: a series is as it was when
    its turn came.

    Args:
        querier: Tells how much there is; not kept.
        series: All of them.
        whole: All of a series comes before the next one begins. Else a few take turns, day by day,
            which is faster where there are points.
        cells_max: How much is read at a time.
    """

    def __init__(
        self,
        querier: Querier,
        series: Sequence[Series],
        min_ms: int,
        max_ms: int,
        *,
        whole: bool = False,
        cells_max: int = CELLS_MAX,
    ) -> None:
        homes = querier.homes(np.array([each.ref for each in series], np.uint32)).tolist()
        self._pieces = _Plan(querier, min_ms, max_ms, cells_max, whole=whole).pieces(series, homes)
        self._is_over = False
        self.samples = 0

    @property
    def is_over(self) -> bool:
        """Whether everything was returned."""
        return self._is_over

    def step(self, querier: Querier, least: int = _STEP_SAMPLES) -> list[Stretch]:
        """Return the next samples, at least so many unless there are no more."""
        found: list[Stretch] = []
        samples = 0
        while samples < least:
            piece = next(self._pieces, None)
            if piece is None:
                self._is_over = True
                break
            for stretch in _read(querier, *piece):
                found.append(stretch)
                samples += len(stretch.ts_ms)
        self.samples += samples
        return found


class _Plan:
    """Cuts series and time into pieces that fit the memory."""

    def __init__(
        self, querier: Querier, min_ms: int, max_ms: int, cells_max: int, *, whole: bool
    ) -> None:
        self._min_ms, self._max_ms, self._whole = min_ms, max_ms, whole
        self._cells_max = cells_max
        bounds = [(day, *day_bounds(day)) for day in querier.days]
        self._days = [day for day, low, high in bounds if low <= max_ms and high >= min_ms]
        # What is in the head is little beside it.
        self._ticks: Counter[int] = Counter()
        for block in querier.catalogue:
            if block.min_ms <= max_ms and block.max_ms >= min_ms:
                self._ticks[block.group] += block.n

    def pieces(
        self, series: Sequence[Series], homes: Sequence[int]
    ) -> Iterator[tuple[Sequence[Series], int, int]]:
        """Yield some series each, all of one group, and the times to read."""
        days, at = self._days, 0
        while days and at < len(series):
            rows, at_once = self._room(homes[at])
            high = at + 1
            while high < min(len(series), at + rows) and homes[high] == homes[at]:
                high += 1
            for first in range(0, len(days), at_once):
                some = days[first : first + at_once]
                low_ms, high_ms = day_bounds(some[0])[0], day_bounds(some[-1])[1]
                yield series[at:high], max(self._min_ms, low_ms), min(self._max_ms, high_ms)
            at = high

    def _room(self, home: int) -> tuple[int, int]:
        """Return how many series of a group, and how many days of them, are read at a time."""
        ticks, days = self._ticks[home], len(self._days)
        if self._ticks[POINTS_GROUP]:
            return (1, _POINT_DAYS) if self._whole else (_POINT_ROWS, 1)
        if ticks > self._cells_max:
            return 1, max(1, days * self._cells_max // ticks)
        return min(_ROWS_MAX, self._cells_max // max(ticks, 1)), days


def _read(
    querier: Querier, series: Sequence[Series], min_ms: int, max_ms: int
) -> Iterator[Stretch]:
    refs = np.array(sorted(each.ref for each in series), np.uint32)
    found: dict[int, Stretch] = {}
    for frame in querier.frames(refs, min_ms, max_ms):
        for one, values in zip(frame.series, frame.values, strict=True):
            ts_ms = frame.ts_ms
            if frame.has_absent:
                here = ~is_absent(values)
                ts_ms, values = ts_ms[here], values[here]
            if len(ts_ms):
                found[one.ref] = Stretch(one, ts_ms, values)
    for each in series:
        if each.ref in found:
            yield found[each.ref]
