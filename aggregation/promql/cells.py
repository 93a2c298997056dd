"""
Cells: stretches of time, and what is known of the samples in them.

A cell is a bucket of a tier or, where there is none, a single sample. A window is put together
from the cells that end in it. If none of them reaches beyond it, that is exact.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ...config.selector import Matcher
from ...storage.frame import BoolArray, FloatArray, IntArray
from ...storage.model import Labels
from .samples import Samples, some_columns
from .windows import Windows, fold, pick


class Fact(enum.StrEnum):
    """What a cell may tell of its samples, in the words of a rollup bucket."""

    COUNT = "count"
    SUM = "sum"
    MIN = "min"
    MAX = "max"
    FIRST = "first"
    LAST = "last"
    FIRST_MS = "first_ms"
    LAST_MS = "last_ms"
    RESETS = "resets"


_CHANGE: Final = frozenset((Fact.FIRST, Fact.LAST, Fact.FIRST_MS, Fact.LAST_MS))
#: Functions of windows that cells can answer, and what they ask for beside the counts.
FACTS: Final[Mapping[str, frozenset[Fact]]] = {
    "absent_over_time": frozenset(),
    "avg_over_time": frozenset((Fact.SUM,)),
    "count_over_time": frozenset(),
    "delta": _CHANGE,
    "first_over_time": frozenset((Fact.FIRST,)),
    "increase": _CHANGE | {Fact.RESETS},
    "last_over_time": frozenset((Fact.LAST,)),
    "max_over_time": frozenset((Fact.MAX,)),
    "min_over_time": frozenset((Fact.MIN,)),
    "present_over_time": frozenset(),
    "rate": _CHANGE | {Fact.RESETS},
    "sum_over_time": frozenset((Fact.SUM,)),
    "ts_of_first_over_time": frozenset((Fact.FIRST_MS,)),
    "ts_of_last_over_time": frozenset((Fact.LAST_MS,)),
}

#: A column of cells: numbers of either kind.
Column = npt.NDArray[Any]


class Rounding(Protocol):
    """Moves windows to where cells end, if they are coarser than what was asked for."""

    def __call__(self, start_ms: IntArray, end_ms: IntArray) -> tuple[IntArray, IntArray]:
        """Return starts and ends that lie on ends of cells, at least one cell apart."""
        ...


@dataclass(slots=True)
class Cells(Samples):
    """
    Some series and their cells; ``ts_ms`` are the cells' ends, ``values`` their numbers of samples.

    Attributes:
        columns: ``[rows, n]`` by fact.
        rounding: ``None`` if all windows that were asked for end where cells end.
    """

    columns: dict[Fact, Column] = field(default_factory=dict)
    rounding: Rounding | None = None

    @property
    def size(self) -> int:
        return self.values.size * (1 + len(self.columns))


@runtime_checkable
class TieredQuerier(Protocol):
    """
    A querier that has rollups beside the samples.

    What its ``select`` returns may stand for samples that are gone: the last of each bucket.
    """

    def cells(
        self,
        matchers: Sequence[Matcher],
        start_ms: IntArray,
        end_ms: IntArray,
        facts: frozenset[Fact],
        *,
        aligned: bool,
    ) -> Iterable[Cells] | None:
        """
        Return cells for windows ``(start, end]``, or ``None`` if samples serve better.

        Args:
            aligned: False says that windows include their starts, so that no bucket answers
                exactly; buckets are used only where samples are gone.
        """
        ...

    def latest(
        self, matchers: Sequence[Matcher], at_ms: IntArray, lookback_ms: int, *, aligned: bool
    ) -> Iterable[Samples] | None:
        """
        Return samples with an end (``until_ms``) for instant selectors at some times, stale markers
        among them; or ``None`` if plain samples serve better.
        """
        ...

    def notes(self) -> Sequence[str]:
        """Say which tiers have answered so far instead of samples, for the ``infos``."""
        ...


def cells_of(
    labels: list[Labels],
    end_ms: IntArray,
    counts: FloatArray,
    columns: dict[Fact, Column],
    rounding: Rounding | None,
) -> Cells:
    """
    Put cells together; empty ones are taken out.

    Args:
        end_ms: ``[n]``, rising strictly.
        counts: ``[rows, n]``; 0 marks what is no cell.
        columns: ``[rows, n]`` each.
    """
    nameless = np.zeros(len(labels), bool)
    present = counts > 0
    used: BoolArray = np.any(present, axis=0)
    if used.any() and not used.all():
        end_ms, counts = end_ms[used], some_columns(counts, used)
        present = some_columns(present, used)
        columns = {fact: some_columns(column, used) for fact, column in columns.items()}
    if present.all():
        return Cells(labels, nameless, end_ms, counts, columns=columns, rounding=rounding)
    numbers = np.count_nonzero(present, axis=1).astype(np.int64)
    places = np.arange(int(numbers.max(initial=0))) < numbers[:, None]

    def left(column: Column, behind: float = 0.0) -> Column:
        moved = np.full(places.shape, behind, column.dtype)
        moved[places] = column[present]
        return moved

    times = left(np.broadcast_to(end_ms, present.shape))
    # No comparison takes a NaN that stands behind a row's cells for a reset.
    values = (Fact.FIRST, Fact.LAST)
    packed = {
        fact: left(column, np.nan if fact in values else 0.0) for fact, column in columns.items()
    }
    return Cells(labels, nameless, times, left(counts), numbers, columns=packed, rounding=rounding)


@dataclass(slots=True)
class CellWindows(Windows):
    """
    Windows over cells.

    Attributes:
        cells: The same as ``samples``.
        totals: Samples per window, ``[rows, steps]``.
        share: What the window asked for is of the one that is answered, ``[steps]``; ``None``: all.
    """

    cells: Cells = field(kw_only=True)
    totals: FloatArray = field(kw_only=True)
    share: FloatArray | None = field(kw_only=True)

    @property
    def numbers(self) -> FloatArray:
        return self.totals

    @property
    def addends(self) -> FloatArray:
        return self.cells.columns[Fact.SUM]

    @property
    def minima(self) -> FloatArray:
        return self.cells.columns[Fact.MIN]

    @property
    def maxima(self) -> FloatArray:
        return self.cells.columns[Fact.MAX]

    def first(self) -> FloatArray:
        return pick(self.cells.columns[Fact.FIRST], self.low)

    def last(self) -> FloatArray:
        return pick(self.cells.columns[Fact.LAST], self.high - 1)

    def first_ms(self) -> IntArray:
        column: IntArray = self.cells.columns[Fact.FIRST_MS]
        return pick(column, self.low)

    def last_ms(self) -> IntArray:
        column: IntArray = self.cells.columns[Fact.LAST_MS]
        return pick(column, self.high - 1)

    def add_resets(self, change: FloatArray) -> None:
        columns = self.cells.columns
        first, last, inside = columns[Fact.FIRST], columns[Fact.LAST], columns[Fact.RESETS]
        dropped = first[:, 1:] < last[:, :-1]
        rows = np.flatnonzero(dropped.any(axis=1) | (inside > 0).any(axis=1))
        if not len(rows):
            return
        # From each cell to the next one, which may lie outside.
        lost = np.where(dropped[rows], last[rows, :-1], 0.0)
        shared = self.low.ndim == 1
        low, high = (self.low, self.high) if shared else (self.low[rows], self.high[rows])
        change[rows] += fold(np.add, inside[rows], low, high, 0.0)
        if lost.shape[1]:
            change[rows] += fold(np.add, lost, low, high - 1, 0.0)

    def scaled(self, totals: FloatArray) -> FloatArray:
        return totals if self.share is None else totals * self.share


def cell_windows(cells: Cells, start_ms: IntArray, end_ms: IntArray, eval_ms: IntArray) -> Windows:
    """Lay windows ``(start, end]`` over cells; times as in :class:`.windows.Windows`."""
    share: FloatArray | None = None
    if cells.rounding is not None:
        asked_ms = end_ms - start_ms
        start_ms, end_ms = cells.rounding(start_ms, end_ms)
        share = asked_ms / (end_ms - start_ms)
    low, high = cells.upto(start_ms), cells.upto(end_ms)
    totals = fold(np.add, cells.values, low, high, 0.0)
    return CellWindows(
        cells, low, high, start_ms, end_ms, eval_ms, cells=cells, totals=totals, share=share
    )
