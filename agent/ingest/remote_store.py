"""
Remote write, from columns to the store: series get numbers, samples become ticks of groups.

Series that a sender collected together share their timestamps, and a group stores those once. Which
series are collected together is told by the labels ``job`` and ``instance``.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np

from ...storage.errors import SeriesRefused, StoreUnavailable
from ...storage.exemplars import Exemplars
from ...storage.frame import FloatArray, IntArray, RefArray
from ...storage.group import Group, Ticks, append_ticks
from ...storage.model import Kind, Labels, Metadata, MetricType
from ...storage.sink import REFUSALS
from ...storage.store import Store
from .naming import kind_of, text_fault
from .own_series import REMOTE_PREFIX
from .remote_columns import Template
from .remote_plan import Columns, Plan, make_plan
from .remote_series import Fresh, Refused, SeriesTable
from .remote_write import WriteBatch, read_series

#: Groups made here. A group costs some kB, and instances come and go: the series of further ones
#: are kept as points.
GROUPS_MAX: Final = 2_000
#: What those series belong to. No sender is called so: their names begin with an address.
_POINTS: Final = f"{REMOTE_PREFIX}points"
_HELP_BYTES_MAX: Final = 4_096
_NAME_BYTES_MAX: Final = 1_024
#: Between such pieces others get their turn: each is some 3 ms.
_SERIES_SLICE: Final = 200
_SAMPLES_SLICE: Final = 50_000
_BLOCKS_SLICE: Final = 64
#: More than this is sorted in a thread.
_SORT_INLINE: Final = 50_000
_SUFFIXES: Final = ("_bucket", "_sum", "_count", "_total")

#: How often refused series are asked for again, and where they are many, one piece after the other.
_ASK_AGAIN_S: Final = 60.0
_ASK_AGAIN_SOON_S: Final = 1.0
#: The sender of series that are taken later than they came, as far as they need one.
_LATER: Final = "later"
_FAULT_CHARS: Final = 300
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


class RemoteWriter:
    """Stores the batches of all senders."""

    def __init__(self, store: Store, exemplars: Exemplars, *, groups_max: int = GROUPS_MAX) -> None:
        self._store, self._exemplars, self._groups_max = store, exemplars, groups_max
        self._groups: dict[int, Group] = {}
        self._made = 0
        self._plans: WeakKeyDictionary[Template, Plan] = WeakKeyDictionary()
        self._ask_again_s = 0.0
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
        written, table = Written(), batch.table
        self._describe(batch)
        self._ask_again(table)
        slots = await self._slots(table, batch.fresh, sender, written)
        series = batch.series
        if len(slots):
            is_fresh = series < 0
            series = series.copy()
            series[is_fresh] = slots[~series[is_fresh]]
        columns = self._stored(table, series, batch, written)
        is_whole = len(columns.refs) == len(batch.values)
        await self._append(columns, batch.template if is_whole else None, written)
        written.refuse("histogram", batch.histograms, _NO_HISTOGRAMS)
        self._keep_exemplars(batch, slots, written)
        self.stats.samples += written.samples
        self.stats.refused.update(written.refused)
        if self.table.is_full:
            self.table = SeriesTable()
        return written

    # --- Series -------------------------------------------------------------------------------

    async def _slots(
        self, table: SeriesTable, fresh: list[Fresh], sender: str, written: Written
    ) -> IntArray:
        """Give fresh series their slots; -1 for those that are not stored nor remembered."""
        slots = np.full(len(fresh), -1)
        for place, one in enumerate(fresh):
            if place and not place % _SERIES_SLICE:
                await asyncio.sleep(0)
            if one.fault:
                slots[place] = table.refuse(Refused(one.key, "labels", one.fault))
                written.faults.setdefault("labels", one.fault)
                continue
            try:
                ref, group = self._find(one, sender)
            except SeriesRefused as error:
                fault = str(error)[:_FAULT_CHARS]
                slots[place] = table.refuse(Refused(one.key, error.reason, fault))
                written.faults.setdefault(error.reason, fault)
            else:
                slots[place] = table.add(one.key, ref, group)
        return slots

    def _stored(
        self, table: SeriesTable, series: IntArray, batch: WriteBatch, written: Written
    ) -> Columns:
        """Return the samples of series that are stored, and count the others."""
        refs = table.refs(series)
        if not self._store.homes(refs[refs > 0]).all():
            # The sender's next attempt looks all of its series up again.
            self.table = SeriesTable()
            raise StoreUnavailable("some series were deleted long ago; try again")
        columns = Columns(table.groups(series), batch.ts_ms, refs, batch.values)
        good = (refs > 0) & (series >= 0)
        if good.all():
            return columns
        slots, counts = np.unique(series[~good], return_counts=True)
        for slot, count in zip(slots.tolist(), counts.tolist(), strict=True):
            known = table.refused.get(slot)
            if known is not None:
                written.refuse(known.reason, count, known.fault)
            else:
                # Too many to remember each; they share what is wrong with them.
                reason = next(iter(written.faults), "labels")
                written.refuse(reason, count, "too many series are refused")
        return columns.where(good)

    def _ask_again(self, table: SeriesTable) -> None:
        """Ask for some of the series that were refused by a limit: it may be another by now."""
        now_s = self._store.clock.monotonic_s()
        if now_s < self._ask_again_s:
            return
        asked = [(slot, one) for slot, one in table.refused.items() if one.reason != "labels"]
        for slot, one in asked[:_SERIES_SLICE]:
            fresh, _ = read_series(one.key, MetricType.UNKNOWN)
            try:
                table.accept(slot, *self._find(fresh, _LATER))
            except SeriesRefused as error:
                # To the end: the others have their turn first.
                del table.refused[slot]
                table.refused[slot] = one._replace(reason=error.reason)
        waits = _ASK_AGAIN_S if len(asked) <= _SERIES_SLICE else _ASK_AGAIN_SOON_S
        self._ask_again_s = now_s + waits

    def _find(self, fresh: Fresh, sender: str) -> tuple[int, int]:
        """Return a series' number and that of the group it is stored in, 0 for none."""
        store, labels = self._store, fresh.labels
        known = store.index.find(labels)
        if known is None:
            store.index.check(labels)  # first: a series that is refused needs no group
            group = self._group_for(labels, sender)
            ref = store.ref(labels, self._kind(fresh), group.number)
        else:
            ref = known.ref
        home = store.home(ref)
        if not home.has_ticks:
            home = self._group_for(labels, sender)  # it adopts what was imported or pushed so far
        # Ticks of a group have one collector. Who else writes the same series writes points.
        if not home.name.startswith(REMOTE_PREFIX) or home.name == _POINTS:
            return ref, 0
        self._groups[home.number] = home
        return ref, home.number

    def _group_for(self, labels: Labels, sender: str) -> Group:
        job, instance = labels.get("job"), labels.get("instance")
        name = f"{REMOTE_PREFIX}{job}/{instance}" if job or instance else f"{REMOTE_PREFIX}{sender}"
        if not self._store.has_group(name):
            if self._made >= self._groups_max:
                return self._store.group(_POINTS)
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

    def _describe(self, batch: WriteBatch) -> None:
        for family, sent in batch.metadata.items():
            if text_fault("", family, _NAME_BYTES_MAX) or "\x00" in family:
                continue
            help_ = sent.help.encode()[:_HELP_BYTES_MAX].decode(errors="ignore")
            unit = sent.unit.encode()[:_NAME_BYTES_MAX].decode(errors="ignore")
            self._store.describe(family, Metadata(sent.type, help_, unit))
            self.stats.metadata += 1

    def _keep_exemplars(self, batch: WriteBatch, slots: IntArray, written: Written) -> None:
        for series, exemplar in batch.exemplars:
            slot = series if series >= 0 else int(slots[~series])
            ref = int(batch.table.refs(np.array([slot]))[0]) if slot >= 0 else 0
            if ref:
                self._exemplars.add(ref, exemplar)
                written.exemplars += 1
        self.stats.exemplars += written.exemplars

    # --- Samples ------------------------------------------------------------------------------

    async def _append(self, columns: Columns, template: Template | None, written: Written) -> None:
        plan = self._plans.get(template) if template is not None else None
        if plan is None or not plan.fits(columns.ts_ms):
            if len(columns.refs) > _SORT_INLINE:
                plan = await asyncio.to_thread(make_plan, columns)
            else:
                plan = make_plan(columns)
            if template is not None:
                self._plans[template] = plan
        ts_ms, values = columns.ts_ms[plan.order], columns.values[plan.order]
        samples, offered = 0, written.samples
        blocks: list[Ticks] = []
        points: list[slice] = []
        for run in plan.runs:
            part = slice(run.start, run.end)
            group = self._groups.get(run.group)
            if group is None or run.is_small:
                points.append(part)
                continue
            members = slice(run.start, run.start + run.members)
            block = values[part].reshape(-1, run.members)
            blocks.append(Ticks(group, ts_ms[part][:: run.members], plan.refs[members], block))
            samples += run.end - run.start
            if len(blocks) == _BLOCKS_SLICE or samples > _SAMPLES_SLICE:
                self._take(append_ticks(self._store, blocks), written)
                samples, blocks = 0, []
                await asyncio.sleep(0)
        if blocks:
            self._take(append_ticks(self._store, blocks), written)
        if points:
            at = np.concatenate([np.arange(part.start, part.stop) for part in points])
            await self._append_points(plan.refs[at], ts_ms[at], values[at], written)
        refused = written.refused["too_old"] + written.refused["future"]
        written.samples = offered + len(columns.refs) - refused

    async def _append_points(
        self, refs: RefArray, ts_ms: IntArray, values: FloatArray, written: Written
    ) -> None:
        for start in range(0, len(refs), _SAMPLES_SLICE):
            if start:
                await asyncio.sleep(0)
            part = slice(start, start + _SAMPLES_SLICE)
            refusal = self._store.append_points(refs[part], ts_ms[part], values[part])
            if refusal is not None:
                texts = Counter(filter(None, refusal.reasons))
                self._take({_REASON_OF[text]: count for text, count in texts.items()}, written)

    def _take(self, dropped: Mapping[str, int], written: Written) -> None:
        """Note what the store did not take."""
        for reason, count in dropped.items():
            if reason == "clock":
                # Not the sender's fault, and over soon: it shall try again.
                raise StoreUnavailable(REFUSALS[reason])
            written.refuse(reason, count, REFUSALS[reason])
