"""A group as its source sees it: series that are collected together, appended tick by tick."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from .frame import BoolArray, FloatArray, IntArray, RefArray
from .head import GroupHead
from .intake import tick_records
from .journal import TickRecord
from .model import ABSENT_BITS, Kind, Labels

if TYPE_CHECKING:
    from .store import Store

#: Member lists that a group keeps by number between two seals. A sender whose requests never repeat
#: has its members written out in the journal instead.
_LAYOUTS_MAX: Final = 64
#: A new tick with less than one in so many of the group's series is no tick to a sparse group.
_PIECE: Final = 8

#: Ticks of the same members, rising in time.
Records = list[TickRecord]


class _Members(NamedTuple):
    """What is known of a list of members."""

    refs: RefArray  # those whose home is here
    layout: int  # 0: written out with each tick
    foreign: BoolArray | None


class Group:
    """Implements :class:`tachograph.storage.sink.GroupSink`; see there."""

    def __init__(self, store: Store, number: int, name: str) -> None:
        self._store = store
        self.number, self.name = number, name
        self.head = GroupHead(number, name)
        # By their bytes: several senders, or a sender's connections, may take turns.
        self._known: dict[bytes, _Members] = {}
        self._last: tuple[RefArray, _Members] | None = None

    @property
    def has_ticks(self) -> bool:
        """Whether the group has, or has had, ticks; without, it is but a name that points share."""
        return self.head.newest_ms >= 0

    def ref(self, labels: Labels, kind: Kind = Kind.UNKNOWN) -> int:
        return self._store.ref(labels, kind, self.number)

    def append(self, ts_ms: int, refs: RefArray, values: FloatArray) -> None:
        self.append_ticks(np.array([ts_ms]), refs, values.reshape(1, -1))

    def append_ticks(self, ts_ms: IntArray, refs: RefArray, values: FloatArray) -> Counter[str]:
        """Take some ticks of the same members; see :func:`append_ticks`."""
        return append_ticks(self._store, [Ticks(self, ts_ms, refs, values)])

    def take(self, ts_ms: IntArray, refs: RefArray, values: FloatArray) -> Iterator[Records]:
        """
        Put admitted ticks where they belong; yield the records of those that are in the head now,
        some ticks of the same members at a time.
        """
        store = self._store
        values = without_absent(values)
        members = self._members_of(refs)
        if members.foreign is not None:
            self._put_aside(ts_ms, refs, values, members.foreign)
            values = values[:, ~members.foreign]
        refs = members.refs
        first_ms = int(ts_ms[0])
        if (
            first_ms <= store.point_times.newest_ms
            and store.point_times.reach(refs, first_ms).any()
        ):
            for ts, row in zip(ts_ms.tolist(), values, strict=True):
                met = store.point_times.reach(refs, ts)
                self._put_aside(np.array([ts]), refs, row.reshape(1, -1), met)
                rest = members if not met.any() else _Members(refs[~met], 0, None)
                yield self._write(np.array([ts]), rest, row[~met].reshape(1, -1))
        else:
            yield self._write(ts_ms, members, values)

    def _write(self, ts_ms: IntArray, members: _Members, values: FloatArray) -> Records:
        """Write ticks that meet no points, all of members whose home is here."""
        refs = members.refs
        if not len(refs):
            return []
        head = self.head
        rows = head.places(ts_ms)
        if rows[-1] >= head.ticks and len(refs) * _PIECE < head.columns and head.is_sparse:
            rows[rows >= head.ticks] = -1
        late = rows < 0
        if late.any():
            all_of_them = np.ones(len(refs), np.bool_)
            self._put_aside(ts_ms[late], refs, values[late], all_of_them)
            rows, ts_ms, values = rows[~late], ts_ms[~late], values[~late]
            if not len(rows):
                return []
        head.write_ticks(rows, ts_ms, refs, values)
        return tick_records(self.number, members.layout, ts_ms, refs, values)

    def _put_aside(
        self, ts_ms: IntArray, refs: RefArray, values: FloatArray, which: BoolArray
    ) -> None:
        """Keep some series of some ticks as points."""
        count = int(np.count_nonzero(which))
        if count:
            self._store.take_points(
                np.tile(refs[which], len(ts_ms)),
                np.repeat(ts_ms, count),
                values[:, which].reshape(-1),
            )

    def forget_layouts(self) -> None:
        """Number the member lists anew: the rows of the old ones go with the journal."""
        self._known.clear()
        self._last = None

    def _members_of(self, refs: RefArray) -> _Members:
        if self._last is not None and np.array_equal(self._last[0], refs):
            return self._last[1]
        key = refs.tobytes()
        members = self._known.get(key)
        if members is None:
            members = self._learn(refs)
            if len(self._known) < _LAYOUTS_MAX:
                layout = self._store.new_layout(self.number, members.refs)
                members = self._known[key] = members._replace(layout=layout)
        self._last = refs.copy(), members
        return members

    def _learn(self, refs: RefArray) -> _Members:
        # A series has one home. What another source says of it is kept as points, so that a reader
        # looks in two places, not in every group.
        foreign = self._store.homes(refs) != self.number
        if foreign.any() and self._adopt(refs[foreign]):
            foreign = self._store.homes(refs) != self.number
        if foreign.any():
            return _Members(refs[~foreign], 0, foreign)
        return _Members(refs.copy(), 0, None)

    def _adopt(self, refs: RefArray) -> bool:
        """
        Take over the series whose homes have no ticks: what was imported or pushed so far is
        collected here from now on. Their points stay points, which readers look for by themselves.
        """
        store, homes = self._store, self._store.homes(refs)
        adopted = False
        for number, at in zip(*np.unique(homes, return_index=True), strict=True):
            if not number:
                continue  # forgotten: nobody's, and their samples are not taken
            home = store.home(int(refs[at]))
            if home.has_ticks:
                continue
            store.adopt(refs[homes == number], self.number)
            home.forget_layouts()  # they count these series among its own
            adopted = True
        return adopted


class Ticks(NamedTuple):
    """Ticks of the same members of a group: ``values[i]`` at ``ts_ms[i]``, which rise strictly."""

    group: Group
    ts_ms: IntArray
    refs: RefArray
    values: FloatArray


class Admission(NamedTuple):
    """Which times samples may have now; ``settled_ms`` is from when on no policy matters."""

    oldest_ms: int
    newest_ms: int
    settled_ms: int
    #: Why none may be stored at all.
    fault: str = ""


def append_ticks(store: Store, blocks: Sequence[Ticks]) -> Counter[str]:
    """
    Take ticks of any groups at once: what a sender delivers in a request.

    Returns:
        How many samples were not taken, by reason as in ``StoreStats.dropped``.

    Raises:
        StoreUnavailable: Nothing was taken.
    """
    times = store.admit(sum(block.values.size for block in blocks))
    dropped: Counter[str] = Counter()
    taken: list[Records] = []
    for block in blocks:
        taken += _admitted(store, block, times, dropped)
    store.stats.dropped.update(dropped)
    store.take_ticks([records for records in taken if records])
    return dropped


def _admitted(
    store: Store, block: Ticks, times: Admission, dropped: Counter[str]
) -> Iterator[Records]:
    group, ts_ms, refs, values = block
    if times.fault:
        dropped[times.fault] += values.size
        return
    if ts_ms[0] < times.oldest_ms or ts_ms[-1] > times.newest_ms:
        low = int(np.searchsorted(ts_ms, times.oldest_ms))
        high = int(np.searchsorted(ts_ms, times.newest_ms, "right"))
        if low:
            dropped["too_old"] += low * len(refs)
        if high < len(ts_ms):
            dropped["future"] += (len(ts_ms) - high) * len(refs)
        ts_ms, values = ts_ms[low:high], values[low:high]
        if not len(ts_ms):
            return
    if ts_ms[0] >= times.settled_ms:
        yield from group.take(ts_ms, refs, values)
        return
    # A policy keeps some series' samples less long than that.
    for ts, row in zip(ts_ms.tolist(), values, strict=True):
        old = store.too_old(refs, ts)
        if old.any():
            dropped["too_old"] += int(old.sum())
        yield from group.take(np.array([ts]), refs[~old], row[~old].reshape(1, -1))


def without_absent(values: FloatArray) -> FloatArray:
    """Replace the one NaN that cannot be a value, as it marks a cell without a sample."""
    values = np.ascontiguousarray(values, np.float64)
    taken = values.view(np.uint64) == ABSENT_BITS
    if taken.any():
        values = values.copy()
        values[taken] = np.nan
    return values
