"""
Remote write, from columns to the store: series get numbers, samples become ticks of groups.

Series that a sender collected together share their timestamps, and a group stores those once. Which
series are collected together is told by the labels ``job`` and ``instance``.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from ...storage.errors import SeriesRefused, StoreUnavailable
from ...storage.exemplars import Exemplars
from ...storage.frame import BoolArray, FloatArray, IntArray, RefArray
from ...storage.group import Group
from ...storage.model import Kind, Labels, Metadata, MetricType
from ...storage.sink import REFUSALS
from ...storage.store import Store
from .naming import kind_of, text_fault
from .remote_series import Fresh, SeriesTable
from .remote_write import WriteBatch

#: What the names of the groups of remote series begin with; the rest is ``<job>/<instance>``.
GROUP_PREFIX: Final = "remote/"
#: Groups made here. A group costs some kB, and instances come and go: the series of further ones
#: are kept as points.
_GROUPS_MAX: Final = 2_000
_FAMILIES_MAX: Final = 20_000
_HELP_BYTES_MAX: Final = 4_096
_NAME_BYTES_MAX: Final = 1_024
#: Between such pieces others get their turn: each is some 3 ms.
_SERIES_SLICE: Final = 200
_SAMPLES_SLICE: Final = 50_000
_CALLS_SLICE: Final = 64
#: More than this is sorted in a thread.
_SORT_INLINE: Final = 50_000
#: A tick costs as much as that many points: smaller ones are points, if there are many.
_TICK_SAMPLES_MIN: Final = 4
_TICKS_MANY: Final = 64
_SUFFIXES: Final = ("_bucket", "_sum", "_count", "_total")

_NO_HISTOGRAMS: Final = "native histograms are not stored; send classic ones"
_REASON_OF: Final = {text: reason for reason, text in REFUSALS.items()}


@dataclass(slots=True)
class WriteStats:
    """
    Attributes:
        requests: Bodies decoded, by protocol version.
        samples: Samples stored.
        refused: Samples that weren't, by reason: ``labels`` (the series can't be stored), a limit
            of the store, ``too_old``, ``future``, ``histogram``.
    """

    requests: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    exemplars: int = 0
    metadata: int = 0


@dataclass(slots=True)
class Written:
    """What became of one request; ``faults`` has a text for each reason in ``refused``."""

    samples: int = 0
    exemplars: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)

    def refuse(self, reason: str, samples: int, fault: str) -> None:
        if samples:
            self.refused[reason] += samples
            self.faults.setdefault(reason, fault)


class _Columns(NamedTuple):
    groups: IntArray
    ts_ms: IntArray
    refs: RefArray
    values: FloatArray

    def where(self, which: BoolArray | slice | IntArray) -> _Columns:
        groups, ts_ms, refs, values = self
        return _Columns(groups[which], ts_ms[which], refs[which], values[which])


class RemoteWriter:
    """Stores the batches of all senders."""

    def __init__(self, store: Store, exemplars: Exemplars) -> None:
        self._store, self._exemplars = store, exemplars
        self._groups: dict[int, Group] = {}
        self._made = 0
        self.stats = WriteStats()
        #: What the decoder looks series up in.
        self.table = SeriesTable()

    async def write(self, batch: WriteBatch, sender: str) -> Written:
        """
        Hand a batch to the store; nothing is committed yet.

        Args:
            sender: Names the group of series that have neither ``job`` nor ``instance``.

        Raises:
            StoreUnavailable: The store takes nothing now. Some of the samples may be in it; sent
                again, they are the same.
        """
        written = Written()
        self._describe(batch)
        slots, faults = await self._slots(batch.table, batch.fresh, sender)
        series = batch.series
        if len(slots):
            is_fresh = series < 0
            series = series.copy()
            series[is_fresh] = slots[~series[is_fresh]]
        self._count_faults(batch, faults, written)
        table = batch.table
        columns = _Columns(table.groups(series), batch.ts_ms, table.refs(series), batch.values)
        if faults:
            columns = columns.where(series >= 0)
        offered = len(columns.refs)
        if len(columns.refs) > _SORT_INLINE:
            columns = await asyncio.to_thread(_sorted, columns)
        else:
            columns = _sorted(columns)
        await self._append(columns, written)
        written.samples = offered - sum(written.refused[each] for each in ("too_old", "future"))
        written.refuse("histogram", batch.histograms, _NO_HISTOGRAMS)
        self._keep_exemplars(batch, slots, written)
        self.stats.samples += written.samples
        self.stats.refused.update(written.refused)
        if self.table.is_full:
            self.table = SeriesTable()
        return written

    # --- Series -------------------------------------------------------------------------------

    async def _slots(
        self, table: SeriesTable, fresh: list[Fresh], sender: str
    ) -> tuple[IntArray, dict[int, tuple[str, str]]]:
        """
        Give fresh series their slots; -1 for those that can't have one, with reason and fault by
        their place in ``fresh``.
        """
        slots = np.full(len(fresh), -1)
        faults: dict[int, tuple[str, str]] = {}
        for place, one in enumerate(fresh):
            if place and not place % _SERIES_SLICE:
                await asyncio.sleep(0)
            if one.fault:
                faults[place] = "labels", one.fault
                continue
            try:
                ref, group = self._find(one, sender)
            except SeriesRefused as error:
                faults[place] = error.reason, str(error)
                continue
            slots[place] = table.add(one.key, ref, group)
        return slots, faults

    def _find(self, fresh: Fresh, sender: str) -> tuple[int, int]:
        """Return a series' number and that of the group it is stored in, 0 for none."""
        store, labels = self._store, fresh.labels
        known = store.index.find(labels)
        if known is None:
            group = self._group_for(labels, sender)
            ref = store.ref(labels, self._kind(fresh), group.number)
        else:
            ref = known.ref
        home = store.home(ref)
        # Ticks of a group have one collector. Who else writes the same series writes points.
        if not home.name.startswith(GROUP_PREFIX):
            return ref, 0
        self._groups[home.number] = home
        return ref, home.number

    def _group_for(self, labels: Labels, sender: str) -> Group:
        job, instance = labels.get("job"), labels.get("instance")
        name = f"{GROUP_PREFIX}{job}/{instance}" if job or instance else f"{GROUP_PREFIX}{sender}"
        if not self._store.has_group(name):
            if self._made >= _GROUPS_MAX:
                return self._store.group("points")
            self._made += 1
        return self._store.group(name)

    def _kind(self, fresh: Fresh) -> Kind:
        name, type_ = fresh.labels.name, fresh.type
        if type_ is MetricType.UNKNOWN:
            families = (name, *(name.removesuffix(s) for s in _SUFFIXES if name.endswith(s)))
            for family in families:
                known = self._store.families.metadata(family)
                if known is not None:
                    type_ = known.type
                    break
        return kind_of(type_, name, [label for label, _ in fresh.labels]) or Kind.UNKNOWN

    def _count_faults(
        self, batch: WriteBatch, faults: dict[int, tuple[str, str]], written: Written
    ) -> None:
        if faults:
            places, counts = np.unique(~batch.series[batch.series < 0], return_counts=True)
            for place, count in zip(places.tolist(), counts.tolist(), strict=True):
                if place in faults:
                    reason, fault = faults[place]
                    written.refuse(reason, count, fault)

    def _describe(self, batch: WriteBatch) -> None:
        families = self._store.families
        for family, sent in batch.metadata.items():
            if text_fault("", family, _NAME_BYTES_MAX) or "\x00" in family:
                continue
            if families.metadata(family) is None and len(families) >= _FAMILIES_MAX:
                continue
            help_ = sent.help.encode()[:_HELP_BYTES_MAX].decode(errors="ignore")
            unit = sent.unit.encode()[:_NAME_BYTES_MAX].decode(errors="ignore")
            self._store.describe(family, Metadata(sent.type, help_, unit))
            self.stats.metadata += 1

    def _keep_exemplars(self, batch: WriteBatch, slots: IntArray, written: Written) -> None:
        for series, exemplar in batch.exemplars:
            slot = series if series >= 0 else int(slots[~series])
            if slot >= 0:
                ref = int(batch.table.refs(np.array([slot]))[0])
                self._exemplars.add(ref, exemplar)
                written.exemplars += 1
        self.stats.exemplars += written.exemplars

    # --- Samples ------------------------------------------------------------------------------

    async def _append(self, columns: _Columns, written: Written) -> None:
        """Store sorted columns: each group's ticks, and what is no tick as points."""
        points: list[_Columns] = []
        calls = samples = 0
        for piece in _by_group(columns):
            group = self._groups.get(int(piece.groups[0]))
            if group is None:
                points.append(piece)
                continue
            runs = list(_runs(piece))
            if len(runs) > _TICKS_MANY and len(piece.refs) < len(runs) * _TICK_SAMPLES_MIN:
                points.append(piece)
                continue
            for run in runs:
                if calls > _TICKS_MANY and len(run.refs) < _TICK_SAMPLES_MIN:
                    points.append(run)
                    continue
                ticks = int(np.count_nonzero(np.diff(run.ts_ms))) + 1
                members = len(run.refs) // ticks
                dropped = group.append_ticks(
                    run.ts_ms[::members],
                    run.refs[:members],
                    run.values.reshape(ticks, members),
                )
                for reason, count in dropped.items():
                    self._dropped(reason, count, written)
                calls += 1
                samples += len(run.refs)
                if not calls % _CALLS_SLICE or samples > _SAMPLES_SLICE:
                    samples = 0
                    await asyncio.sleep(0)
        for start in range(0, len(points), _CALLS_SLICE):
            some = points[start : start + _CALLS_SLICE]
            await self._append_points(some, written)

    async def _append_points(self, pieces: list[_Columns], written: Written) -> None:
        _, ts_ms, refs, values = (np.concatenate(column) for column in zip(*pieces, strict=True))
        for start in range(0, len(refs), _SAMPLES_SLICE):
            part = slice(start, start + _SAMPLES_SLICE)
            refusal = self._store.append_points(refs[part], ts_ms[part], values[part])
            await asyncio.sleep(0)
            if refusal is None:
                continue
            for text, count in Counter(filter(None, refusal.reasons)).items():
                self._dropped(_REASON_OF[text], count, written)

    def _dropped(self, reason: str, count: int, written: Written) -> None:
        if reason == "clock":
            # Not the sender's fault, and over soon: it shall try again.
            raise StoreUnavailable(REFUSALS[reason])
        written.refuse(reason, count, REFUSALS[reason])


def _sorted(columns: _Columns) -> _Columns:
    """Order by group, time and series; of two samples of a series at one time the last stays."""
    if not len(columns.refs):
        return columns
    order = np.lexsort((columns.refs, columns.ts_ms, columns.groups))
    columns = columns.where(order)
    groups, ts_ms, refs, _ = columns
    same = (refs[1:] == refs[:-1]) & (ts_ms[1:] == ts_ms[:-1]) & (groups[1:] == groups[:-1])
    return columns.where(~np.append(same, False)) if same.any() else columns


def _by_group(columns: _Columns) -> Iterator[_Columns]:
    if not len(columns.groups):
        return
    cuts = (np.flatnonzero(np.diff(columns.groups)) + 1).tolist()
    for low, high in zip([0, *cuts], [*cuts, len(columns.groups)], strict=True):
        yield columns.where(slice(low, high))


def _runs(piece: _Columns) -> Iterator[_Columns]:
    """Cut one group's samples into stretches of ticks that have the same members."""
    cuts = np.flatnonzero(np.diff(piece.ts_ms)) + 1
    ticks, samples = len(cuts) + 1, len(piece.refs)
    if not samples % ticks:
        members = samples // ticks
        even = ticks == 1 or bool((cuts == np.arange(1, ticks) * members).all())
        if even and bool((piece.refs.reshape(ticks, members) == piece.refs[:members]).all()):
            yield piece
            return
    bounds = [0, *cuts.tolist(), samples]
    first = 0
    for tick in range(1, ticks + 1):
        if tick < ticks:
            before, low, high = bounds[tick - 1 : tick + 2]
            if np.array_equal(piece.refs[before:low], piece.refs[low:high]):
                continue
        yield piece.where(slice(bounds[first], bounds[tick]))
        first = tick
