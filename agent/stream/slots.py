"""The series of one feed: their small numbers, newest samples, and when each of them changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ...storage.frame import ABSENT, BoolArray, FloatArray, IntArray, RefArray, distinct, is_stale
from ...storage.model import Labels, Series

_ROOM_MIN: Final = 16
_NEVER_MS: Final = -(1 << 62)
#: In the columns of seqs: it has not happened.
_NEVER: Final = -1

_T = TypeVar("_T", bound=np.generic)


class Changes(NamedTuple):
    """What some samples did to the table; the slots of each rise and do not repeat."""

    alive: IntArray
    born: IntArray
    died: IntArray


class SlotTable:
    """
    A slot is a series' number within the feed: given once, kept when the series ends and comes
    back. Dead slots stay until :meth:`compacted` numbers anew.

    Attributes:
        series: The series by slot. The columns beside it have at least as many rows:
        ts_ms: Time of the newest sample, a stale marker included.
        values: Value of the newest sample.
        alive: Whether that is a value and not a stale marker.
        changed: Seq at which the value changed last.
        first: Seq at which the series was announced first.
        announced: Seq at which it was announced last.
        gone: Seq at which it was said to be gone last.
    """

    def __init__(self) -> None:
        self.series: list[Series] = []
        self.ts_ms: IntArray = np.empty(0, np.int64)
        self.values: FloatArray = np.empty(0, np.float64)
        self.alive: BoolArray = np.empty(0, np.bool_)
        self.changed: IntArray = np.empty(0, np.int64)
        self.first: IntArray = np.empty(0, np.int64)
        self.announced: IntArray = np.empty(0, np.int64)
        self.gone: IntArray = np.empty(0, np.int64)
        # The way from refs to slots: two columns in the order of refs.
        self._refs: RefArray = np.empty(0, np.uint32)
        self._slots: IntArray = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.series)

    @property
    def members(self) -> int:
        """Series that are alive, and new ones whose first sample is still to come."""
        n = len(self.series)
        return int(np.count_nonzero(self.alive[:n] | (self.ts_ms[:n] == _NEVER_MS)))

    @property
    def living(self) -> IntArray:
        """Slots of the series that are alive, rising."""
        return np.flatnonzero(self.alive[: len(self.series)])

    def living_refs(self) -> tuple[RefArray, IntArray]:
        """Return the refs, rising, of the series that are alive, and their slots."""
        alive = self.alive[self._slots]
        return self._refs[alive], self._slots[alive]

    def find(self, refs: RefArray) -> tuple[IntArray, IntArray]:
        """Return the positions of those ``refs`` that are in the table, and their slots."""
        if not len(self._refs):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        at = np.searchsorted(self._refs, refs)
        at[at == len(self._refs)] = 0
        positions = np.flatnonzero(self._refs[at] == refs)
        return positions, self._slots[at[positions]]

    def missing(self, series: Sequence[Series]) -> list[Series]:
        """Return those series that are not in the table."""
        held, _ = self.find(np.array([one.ref for one in series], np.uint32))
        known = set(held.tolist())
        return [one for at, one in enumerate(series) if at not in known]

    def add(self, series: Sequence[Series]) -> IntArray:
        """Give slots to series that are not in the table, no two of them the same."""
        refs = np.array([one.ref for one in series], np.uint32)
        old = len(self.series)
        self.series.extend(series)
        if len(self.series) > len(self.ts_ms):
            self._grow(max(_ROOM_MIN, len(self.series), 2 * old))
        slots = np.arange(old, len(self.series), dtype=np.int64)
        all_refs = np.concatenate((self._refs, refs))
        order = np.argsort(all_refs, kind="stable")
        self._refs = all_refs[order]
        self._slots = np.concatenate((self._slots, slots))[order]
        return slots

    def take(self, slots: IntArray, ts_ms: IntArray, values: FloatArray, seq: int) -> Changes:
        """
        Take samples in order of arrival; slots may repeat. What is older than the sample held
        changes nothing, so the newest one wins, and the last one among equal times.
        """
        if (ts_ms[1:] < ts_ms[:-1]).any():
            order = np.argsort(ts_ms, kind="stable")
            slots, ts_ms, values = slots[order], ts_ms[order], values[order]
        newer = ts_ms >= self.ts_ms[slots]
        if not newer.all():
            slots, ts_ms, values = slots[newer], ts_ms[newer], values[newer]
        # Of equal indices the last assignment stays, and times rise by now.
        self.ts_ms[slots] = ts_ms
        self.values[slots] = values
        touched = distinct(slots)
        was = self.alive[touched]
        now = ~is_stale(self.values[touched])
        changes = Changes(touched[now], touched[now & ~was], touched[was & ~now])
        self.alive[touched] = now
        self.changed[changes.alive] = seq
        self.gone[changes.died] = seq
        self.announce(changes.born, seq)
        return changes

    def announce(self, slots: IntArray, seq: int) -> None:
        """Note that clients are told the labels of ``slots`` at ``seq``."""
        self.first[slots[self.first[slots] < 0]] = seq
        self.announced[slots] = seq

    def compacted(self) -> tuple[SlotTable, RefArray]:
        """
        Return a table numbered anew without the dead, and the refs of those. All that is alive
        counts as announced before everything: whoever reads on must get a snapshot first.
        """
        n = len(self.series)
        keep = self.alive[:n] | (self.ts_ms[:n] == _NEVER_MS)
        kept = np.flatnonzero(keep)
        table = SlotTable()
        slots = table.add([self.series[i] for i in kept.tolist()])
        table.ts_ms[slots] = self.ts_ms[kept]
        table.values[slots] = self.values[kept]
        table.alive[slots] = self.alive[kept]
        table.announce(table.living, 0)
        return table, self.refs(np.flatnonzero(~keep))

    def refs(self, slots: IntArray) -> RefArray:
        return np.array([self.series[slot].ref for slot in slots.tolist()], np.uint32)

    def labels(self, slots: IntArray) -> list[tuple[int, Labels]]:
        return [(slot, self.series[slot].labels) for slot in slots.tolist()]

    def _grow(self, rows: int) -> None:
        self.ts_ms = _grown(self.ts_ms, rows, _NEVER_MS)
        self.values = _grown(self.values, rows, ABSENT)
        self.alive = _grown(self.alive, rows, False)
        self.changed = _grown(self.changed, rows, _NEVER)
        self.first = _grown(self.first, rows, _NEVER)
        self.announced = _grown(self.announced, rows, _NEVER)
        self.gone = _grown(self.gone, rows, _NEVER)


def _grown(column: npt.NDArray[_T], rows: int, fill: float) -> npt.NDArray[_T]:
    grown = np.full(rows, fill, column.dtype)
    grown[: len(column)] = column
    return grown
