"""
Aggregations that need only a few numbers per group: fed block by block, answered at the end.

Each accumulator holds ``[groups, steps]`` arrays, however many series pass through it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from ...storage.frame import BoolArray, FloatArray, IntArray
from .over_time import compensated_add

#: Beyond this a handful of values may overflow when added; see :class:`_Mean`.
_LARGE: Final = 1e290
#: A power of two, so that scaling changes no digit.
_SCALE: Final = 2.0**-64


@dataclass(slots=True)
class _Rows:
    """
    A block's rows, sorted by group.

    Attributes:
        values: ``[rows, steps]``, meaningless where ``mask`` is false.
        starts: The first row of each group.
        members: Which group that is, rising.
        counts: ``[members, steps]``, how many values each of these groups has here.
    """

    values: FloatArray
    mask: BoolArray
    starts: IntArray
    members: IntArray
    counts: IntArray

    def filled(self, value: float) -> FloatArray:
        """The values, with another one where there is none."""
        return self.values if self.mask.all() else np.where(self.mask, self.values, value)


class Accumulator:
    """
    Collects values of many series into few groups; by itself it counts them.

    Attributes:
        counts: ``[groups, steps]``, how many values each group has had.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.counts = np.zeros((0, steps), np.int64)

    def add(self, values: FloatArray, mask: BoolArray, groups: IntArray, total: int) -> None:
        """
        Take in a block.

        Args:
            values: ``[rows, steps]``, meaningless where ``mask`` is false.
            groups: ``[rows]``, the group of each row.
            total: How many groups there are by now.
        """
        if total > len(self.counts):
            # Doubling, so that groups may come one by one.
            self._resize(max(total, 2 * len(self.counts)))
        order = np.argsort(groups, kind="stable")
        if not np.array_equal(order, np.arange(len(groups))):
            values, mask, groups = values[order], mask[order], groups[order]
        starts = np.flatnonzero(np.diff(groups, prepend=-1))
        members = groups[starts]
        counts = np.add.reduceat(mask, starts, axis=0, dtype=np.int64)
        self._fold(_Rows(values, mask, starts, members, counts))
        self.counts[members] += counts

    def answer(self, total: int) -> tuple[FloatArray, BoolArray]:
        """Return values and mask of the groups, ``[total, steps]`` each."""
        if total > len(self.counts):
            self._resize(total)
        return self._result()[:total], self.counts[:total] > 0

    def _resize(self, size: int) -> None:
        counts = np.zeros((size, self.steps), np.int64)
        counts[: len(self.counts)] = self.counts
        self.counts = counts

    def _fold(self, rows: _Rows) -> None:
        """Take in rows; their counts are added afterwards."""
        del rows

    def _result(self) -> FloatArray:
        return self.counts.astype(np.float64)


def _grown(array: FloatArray, size: int, fill: float) -> FloatArray:
    """Return a copy with more rows."""
    new = np.full((size, array.shape[1]), fill)
    new[: len(array)] = array
    return new


class _Group(Accumulator):
    def _result(self) -> FloatArray:
        return np.ones(self.counts.shape)


class _Extreme(Accumulator):
    """NaN gives way to any other value, and stays where there is none."""

    def __init__(self, steps: int, ufunc: np.ufunc) -> None:
        super().__init__(steps)
        self._ufunc = ufunc
        self._best = np.zeros((0, steps))

    def _resize(self, size: int) -> None:
        super()._resize(size)
        self._best = _grown(self._best, size, np.nan)

    def _fold(self, rows: _Rows) -> None:
        best = self._ufunc.reduceat(rows.filled(np.nan), rows.starts, axis=0)
        self._best[rows.members] = self._ufunc(self._best[rows.members], best)

    def _result(self) -> FloatArray:
        return self._best


class _Sum(Accumulator):
    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self._total = np.zeros((0, steps))
        self._lost = np.zeros((0, steps))

    def _resize(self, size: int) -> None:
        super()._resize(size)
        self._total = _grown(self._total, size, 0.0)
        self._lost = _grown(self._lost, size, 0.0)

    def _fold(self, rows: _Rows) -> None:
        self._accumulate(rows.filled(0.0), rows.starts, rows.members)

    def _accumulate(self, values: FloatArray, starts: IntArray, members: IntArray) -> None:
        total, lost = compensated_sums(values, starts)
        total, error = compensated_add(self._total[members], self._lost[members], total)
        self._total[members], self._lost[members] = total, error + lost

    def _result(self) -> FloatArray:
        return np.where(np.isinf(self._total), self._total, self._total + self._lost)


def compensated_sums(values: FloatArray, starts: IntArray) -> tuple[FloatArray, FloatArray]:
    """
    Add up runs of rows in pairs, keeping what rounding takes away.

    Args:
        values: ``[rows, steps]``.
        starts: The first row of each run.

    Returns:
        Sums and lost digits, ``[runs, steps]`` each; added together they are as exact as a sum of
        twice the precision. Source: Knuth's TwoSum, applied in a tree.
    """
    if values.shape[1] == 1:
        exact = _exact_column(values[:, 0], starts)
        if exact is not None:
            return exact[:, None], np.zeros((len(starts), 1))
    lost = np.zeros_like(values)
    lengths = np.diff(starts, append=len(values))
    while len(values) > len(lengths):
        place = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        first = np.flatnonzero(place % 2 == 0)
        paired = place[first] + 1 < np.repeat(lengths, lengths)[first]
        a = values[first]
        b = np.where(paired[:, None], values[np.minimum(first + 1, len(values) - 1)], 0.0)
        total = a + b
        part = total - a
        error = (a - (total - part)) + (b - part)
        if not np.isfinite(total).all():
            error = np.where(np.isfinite(total), error, 0.0)
        carried = np.where(paired[:, None], lost[np.minimum(first + 1, len(values) - 1)], 0.0)
        values, lost = total, lost[first] + carried + error
        lengths = (lengths + 1) // 2
    return values, lost


def _exact_column(column: FloatArray, starts: IntArray) -> FloatArray | None:
    """Add up runs of one column; with so few numbers Python's exact sum is faster than arrays."""
    numbers = column.tolist()
    bounds = [*starts.tolist(), len(numbers)]
    try:
        return np.array([math.fsum(numbers[a:b]) for a, b in itertools.pairwise(bounds)])
    except (OverflowError, ValueError):  # infinities of both signs, or a sum beyond them
        return None


class _Mean(_Sum):
    """The mean, right even if the sum overflows: with the first large value all is scaled down."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self._factor = 1.0

    def _fold(self, rows: _Rows) -> None:
        values = rows.filled(0.0)
        if self._factor == 1.0 and (np.abs(values[np.isfinite(values)]) > _LARGE).any():
            self._factor = _SCALE
            self._total *= _SCALE
            self._lost *= _SCALE
        self._accumulate(values * self._factor, rows.starts, rows.members)

    def _result(self) -> FloatArray:
        return super()._result() / self.counts / self._factor


class _Variance(Accumulator):
    """
    Population variance, merged from the blocks' own.

    Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979).
    """

    def __init__(self, steps: int, *, root: bool) -> None:
        super().__init__(steps)
        self._root = root
        self._mean = np.zeros((0, steps))
        self._squares = np.zeros((0, steps))

    def _resize(self, size: int) -> None:
        super()._resize(size)
        self._mean = _grown(self._mean, size, 0.0)
        self._squares = _grown(self._squares, size, 0.0)

    def _fold(self, rows: _Rows) -> None:
        # Deviations from one of the values, so that equal values give exactly 0.
        origin = np.fmax.reduceat(rows.filled(np.nan), rows.starts, axis=0)
        lengths = np.diff(rows.starts, append=len(rows.values))
        deviation = rows.values - np.repeat(origin, lengths, axis=0)
        deviation = np.where(rows.mask, deviation, 0.0)
        shift = np.add.reduceat(deviation, rows.starts, axis=0) / rows.counts
        centred = np.where(rows.mask, deviation - np.repeat(shift, lengths, axis=0), 0.0)
        squares = np.add.reduceat(centred**2, rows.starts, axis=0)
        members, here, before = rows.members, rows.counts, self.counts[rows.members]
        old, mean = self._mean[members], origin + shift
        share = here / (before + here)
        apart = np.where((before > 0) & (here > 0), mean - old, 0.0)
        merged = np.where(before > 0, old + apart * share, mean)
        self._mean[members] = np.where(here > 0, merged, old)
        self._squares[members] += np.where(here > 0, squares + apart**2 * before * share, 0.0)

    def _result(self) -> FloatArray:
        variance = self._squares / self.counts
        # The squares of an infinite value's deviation may have come out as infinite, not as NaN.
        variance = np.where(np.isfinite(self._mean), variance, np.nan)
        return np.sqrt(variance) if self._root else variance


#: How to make an accumulator for a number of steps, by aggregation.
ACCUMULATORS: Final[dict[str, Callable[[int], Accumulator]]] = {
    "avg": _Mean,
    "count": Accumulator,
    "group": _Group,
    "max": lambda steps: _Extreme(steps, np.fmax),
    "min": lambda steps: _Extreme(steps, np.fmin),
    "stddev": lambda steps: _Variance(steps, root=True),
    "stdvar": lambda steps: _Variance(steps, root=False),
    "sum": _Sum,
}
