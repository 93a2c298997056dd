"""Windows over samples: which samples fall into the window of each step, and sums over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

from ...storage.frame import BoolArray, FloatArray, IntArray
from .samples import PIECE_CELLS, Samples


def _go_on() -> None:
    """Nobody minds how long it takes."""


@dataclass(slots=True)
class Windows:
    """
    The windows ``(start, end]`` of a range selector over some series.

    Attributes:
        low: First sample of each window as a column of ``samples``, ``[steps]`` where all rows
            share their times, else ``[rows, steps]``; ``high`` stands behind the last sample.
        start_ms: ``[steps]``; likewise ``end_ms``.
        eval_ms: ``[steps]``, the time of evaluation, which ``offset`` and ``@`` move the windows
            away from.
        extension: ``anchored``, ``smoothed`` or empty; if set the samples reach ``reach_ms``
            further than the windows.
        left_closed: Windows include their start, as in Prometheus 2.
        check: Asked between pieces of work whether the query may go on: a single series may have
            so many samples in so many windows that they take a minute.
    """

    samples: Samples
    low: IntArray
    high: IntArray
    start_ms: IntArray
    end_ms: IntArray
    eval_ms: IntArray
    extension: str = ""
    reach_ms: int = 0
    left_closed: bool = False
    check: Callable[[], None] = _go_on

    @property
    def counts(self) -> IntArray:
        """Samples per window, ``[steps]`` or ``[rows, steps]``."""
        return self.high - self.low

    @property
    def shape(self) -> tuple[int, int]:
        return self.samples.rows, len(self.eval_ms)

    # What follows can be told of buckets as well as of samples, and functions that ask for nothing
    # else can be answered from a tier: see :class:`.cells.CellWindows`.

    @property
    def numbers(self) -> FloatArray:
        """How many samples each window has, ``[steps]`` or ``[rows, steps]``."""
        return self.counts.astype(np.float64)

    @property
    def addends(self) -> FloatArray:
        """What adds up to the sum of a window's samples, a column each, ``[rows, n]``."""
        return self.samples.values

    @property
    def minima(self) -> FloatArray:
        """What the least value of a window is among, ``[rows, n]``; likewise ``maxima``."""
        return self.samples.values

    @property
    def maxima(self) -> FloatArray:
        return self.samples.values

    def first(self) -> FloatArray:
        """Values of the first samples; windows without one give any value."""
        return self.pick(self.low)

    def last(self) -> FloatArray:
        return self.pick(self.high - 1)

    def first_ms(self) -> IntArray:
        return self.pick_ms(self.low)

    def last_ms(self) -> IntArray:
        return self.pick_ms(self.high - 1)

    def add_resets(self, change: FloatArray) -> None:
        """Add to ``change``, ``[rows, steps]``, what counters had reached before each reset."""
        correct_resets(self.samples.values, self.low, self.high - 1, change)

    def scaled(self, totals: FloatArray) -> FloatArray:
        """Put what was counted or added up in proportion to the window that was asked for."""
        return totals

    @property
    def range_s(self) -> FloatArray:
        """Width of each window in seconds."""
        return (self.end_ms - self.start_ms) / 1000

    def masked(self, least: int) -> BoolArray:
        """Tell the windows with at least so many samples, ``[rows, steps]``."""
        return np.broadcast_to(self.numbers >= least, self.shape)

    def pick(self, index: IntArray) -> FloatArray:
        """The values at some columns; columns that do not exist give any value."""
        return pick(self.samples.values, index)

    def pick_ms(self, index: IntArray) -> IntArray:
        """The times at some columns, shaped as ``index``."""
        ts_ms = self.samples.ts_ms
        if ts_ms.ndim == 1:
            return ts_ms.take(index, mode="clip")
        return np.take_along_axis(ts_ms, np.clip(index, 0, ts_ms.shape[1] - 1), axis=1)


def correct_resets(matrix: FloatArray, first: IntArray, last: IntArray, change: FloatArray) -> None:
    """
    Add to ``change`` what a counter had reached at each reset between two columns.

    Args:
        matrix: ``[rows, n]``.
        first: First column of each window, ``[steps]`` or ``[rows, steps]``; ``last`` the last.
        change: ``[rows, steps]``; changed in place.
    """
    if matrix.shape[1] < 2:
        return
    dropped = matrix[:, 1:] < matrix[:, :-1]
    # Few counters restart within a query, and those of a target do so together.
    columns = np.flatnonzero(dropped.any(axis=0))
    if not len(columns):
        return
    if first.ndim == 1 and len(columns) <= _FEW_RESETS:
        for column in columns.tolist():
            rows = np.flatnonzero(dropped[:, column])
            steps = np.flatnonzero((first <= column) & (column < last))
            change[np.ix_(rows, steps)] += matrix[rows, column][:, None]
        return
    rows = np.flatnonzero(dropped.any(axis=1))
    lost = np.where(dropped[rows], matrix[rows, :-1], 0.0)
    low, high = (first, last) if first.ndim == 1 else (first[rows], last[rows])
    change[rows] += fold(np.add, lost, low, high, 0.0)


#: Up to so many columns with resets are added one by one, 10 us each; more are cheaper together.
_FEW_RESETS: Final = 64
_Numbers = TypeVar("_Numbers", FloatArray, IntArray)


def pick(matrix: _Numbers, index: IntArray) -> _Numbers:
    """Take columns: the same ones of every row, or, with a two-dimensional index, its own ones."""
    if index.ndim == 1:
        return matrix.take(index, axis=1, mode="clip")
    return np.take_along_axis(matrix, np.clip(index, 0, matrix.shape[1] - 1), axis=1)


def fold(
    ufunc: np.ufunc, matrix: FloatArray, low: IntArray, high: IntArray, nothing: float
) -> FloatArray:
    """
    Reduce ``matrix[:, low:high]`` for many windows at once.

    Short windows that hardly overlap are reduced one by one; else every reduction over 1, 2, 4, …
    columns is computed once and windows are put together from these. Both add in pairs, so a sum's
    error grows with the logarithm of the window.

    Args:
        low: Window bounds, ``[steps]`` or ``[rows, steps]``; likewise ``high``.
        nothing: What an empty window gives; must be the identity of ``ufunc``.

    Returns:
        ``[rows, steps]``.
    """
    rows, width = matrix.shape
    lengths = np.maximum(high - low, 0)
    low = np.minimum(low, width)  # an empty window may begin behind the last column
    longest = int(lengths.max(initial=0))
    if longest == 0:
        return np.full((rows, low.shape[-1]), nothing)
    levels = longest.bit_length()
    per_row = int(lengths.sum()) // (1 if low.ndim == 1 else rows)
    if per_row > 2 * levels * (width + low.shape[-1]):
        return _fold_doubling(ufunc, matrix, low, lengths, nothing, levels)
    return _fold_each(ufunc, matrix, low, lengths, nothing)


def _fold_each(
    ufunc: np.ufunc, matrix: FloatArray, low: IntArray, lengths: IntArray, nothing: float
) -> FloatArray:
    rows, width = matrix.shape
    # reduceat wants every bound to exist, hence one column more; of an empty window it returns the
    # column at its start, which is overwritten.
    padded = np.full((rows, width + 1), nothing)
    padded[:, :width] = matrix
    if low.ndim == 1:
        bounds = np.empty(2 * len(low), np.int64)
        bounds[0::2], bounds[1::2] = low, low + lengths
        result: FloatArray = ufunc.reduceat(padded, bounds, axis=1)[:, 0::2]
        empty = lengths == 0
        if empty.any():
            result[:, empty] = nothing
        return result
    flat = low + np.arange(rows, dtype=np.int64)[:, None] * (width + 1)
    bounds = np.empty(2 * flat.size, np.int64)
    bounds[0::2], bounds[1::2] = flat.ravel(), (flat + lengths).ravel()
    result = ufunc.reduceat(padded.ravel(), bounds)[0::2].reshape(flat.shape)
    result[lengths == 0] = nothing
    return result


def _fold_doubling(
    ufunc: np.ufunc,
    matrix: FloatArray,
    low: IntArray,
    lengths: IntArray,
    nothing: float,
    levels: int,
) -> FloatArray:
    result = np.full((matrix.shape[0], low.shape[-1]), nothing)
    place = low
    power = matrix  # power[:, i] is the reduction of 2**level columns from i on
    for level in range(levels):
        wanted = (lengths >> level & 1).astype(bool)
        if wanted.any():
            if low.ndim == 1:
                part = power.take(place[wanted], axis=1, mode="clip")
                result[:, wanted] = ufunc(result[:, wanted], part)
            else:
                part = pick(power, place)
                result = np.where(wanted, ufunc(result, part), result)
            place = place + (wanted.astype(np.int64) << level)
        if level + 1 < levels:
            step = 1 << level
            power = ufunc(power[:, :-step], power[:, step:])
    return result


@dataclass(slots=True)
class WindowMatrix:
    """
    All samples of some windows.

    Attributes:
        rows: Which rows of the samples; ``steps`` likewise.
        values: ``[rows, steps, width]``.
        times_ms: ``[steps, width]`` or ``[rows, steps, width]``.
        inside: Which cells lie in the window, shaped as ``times_ms``.
        counts: How many of them do, ``[steps]`` or ``[rows, steps]``.
        eval_ms: ``[steps]``.
    """

    rows: slice
    steps: slice
    values: FloatArray
    times_ms: IntArray
    inside: BoolArray
    counts: IntArray
    eval_ms: IntArray

    @property
    def seconds(self) -> FloatArray:
        """Times relative to the evaluation, which keeps them small and exact."""
        return (self.times_ms - self.eval_ms[:, None]) / 1000


def window_matrices(windows: Windows) -> Iterator[WindowMatrix]:
    """Lay windows out one by one, :data:`.samples.PIECE_CELLS` cells or a row at a time."""
    samples, (rows, steps) = windows.samples, windows.shape
    width = int(windows.counts.max(initial=0))
    if width <= 0 or not steps:
        return
    steps_at_once = max(1, min(steps, PIECE_CELLS // width))
    rows_at_once = max(1, PIECE_CELLS // (steps_at_once * width))
    offsets = np.arange(width)
    for first_row in range(0, rows, rows_at_once):
        row_slice = slice(first_row, min(rows, first_row + rows_at_once))
        values, ts_ms = samples.values[row_slice], samples.ts_ms
        for first_step in range(0, steps, steps_at_once):
            step_slice = slice(first_step, min(steps, first_step + steps_at_once))
            windows.check()
            shared = windows.low.ndim == 1
            where = step_slice if shared else (row_slice, step_slice)
            counts = windows.counts[where]
            index = (windows.low[where][..., None] + offsets).clip(0, values.shape[1] - 1)
            if shared:
                cells, times = values[:, index], ts_ms[index]
            else:
                row = np.arange(len(values))[:, None, None]
                cells, times = values[row, index], ts_ms[row_slice][row, index]
            inside = offsets < counts[..., None]
            eval_ms = windows.eval_ms[step_slice]
            yield WindowMatrix(row_slice, step_slice, cells, times, inside, counts, eval_ms)
