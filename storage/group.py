"""A group as its source sees it: series that are collected together, appended tick by tick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from .frame import BoolArray, FloatArray, RefArray
from .head import GroupHead
from .intake import tick_record
from .model import ABSENT_BITS, Kind, Labels

if TYPE_CHECKING:
    from .store import Store

#: Member lists that a group keeps by number between two seals. A sender whose requests never repeat
#: has its members written out in the journal instead.
_LAYOUTS_MAX: Final = 64


class Group:
    """Implements :class:`tachograph.storage.sink.GroupSink`; see there."""

    def __init__(self, store: Store, number: int, name: str) -> None:
        self._store = store
        self.number, self.name = number, name
        self.head = GroupHead(number, name)
        self._layouts: dict[bytes, int] = {}
        self._refs: RefArray | None = None  # those of the last tick, and what is known of them:
        self._layout = 0
        self._foreign: BoolArray | None = None

    def ref(self, labels: Labels, kind: Kind = Kind.UNKNOWN) -> int:
        return self._store.ref(labels, kind, self.number)

    def append(self, ts_ms: int, refs: RefArray, values: FloatArray) -> None:
        store = self._store
        if not store.admit_tick(ts_ms, len(values)):
            return
        values = without_absent(values)
        if self._refs is None or not np.array_equal(self._refs, refs):
            self._learn(refs)
        layout = self._layout
        if self._foreign is not None:
            refs, values = self._put_aside(ts_ms, refs, values, self._foreign)
        if ts_ms <= store.point_times.newest_ms:
            met = store.point_times.reach(refs, ts_ms)
            if met.any():
                refs, values = self._put_aside(ts_ms, refs, values, met)
                layout = 0
        if not len(refs):
            return
        row = self.head.place(ts_ms)
        if row is None:
            store.take_points(refs, np.full(len(refs), ts_ms), values)
            return
        self.head.write(row, ts_ms, refs, values)
        members = refs if layout else refs.copy()
        store.take_tick(tick_record(self.number, layout, ts_ms, members, values))

    def _put_aside(
        self, ts_ms: int, refs: RefArray, values: FloatArray, which: BoolArray
    ) -> tuple[RefArray, FloatArray]:
        """Keep some samples of a tick as points; return the others."""
        self._store.take_points(refs[which], np.full(int(which.sum()), ts_ms), values[which])
        return refs[~which], values[~which]

    def forget_layouts(self) -> None:
        """Number the member lists anew: the rows of the old ones go with the journal."""
        self._layouts.clear()
        self._refs = None

    def _learn(self, refs: RefArray) -> None:
        self._refs = refs.copy()
        # A series has one home, where it was seen first. What another source says of it is kept as
        # points, so that a reader looks in two places, not in every group.
        foreign = self._store.homes(refs) != self.number
        self._foreign = foreign if foreign.any() else None
        own = refs if self._foreign is None else refs[~foreign]
        key = own.tobytes()
        layout = self._layouts.get(key, 0)
        if not layout and len(self._layouts) < _LAYOUTS_MAX:
            layout = self._layouts[key] = self._store.new_layout(self.number, own.copy())
        self._layout = layout


def without_absent(values: FloatArray) -> FloatArray:
    """Replace the one NaN that cannot be a value, as it marks a cell without a sample."""
    values = np.ascontiguousarray(values, np.float64)
    taken = values.view(np.uint64) == ABSENT_BITS
    if taken.any():
        values = values.copy()
        values[taken] = np.nan
    return values
