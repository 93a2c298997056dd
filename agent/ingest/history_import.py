"""History into the store, as points."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ...storage.clock import Clock
from ...storage.errors import SeriesRefused, StoreUnavailable
from ...storage.frame import FloatArray, IntArray, RefArray
from ...storage.keys import day_of
from ...storage.model import Kind, Metadata, MetricType
from ...storage.sink import REFUSALS
from ...storage.store import Store
from .history import Run
from .history_types import described
from .naming import family_of, kind_of

#: Name of the group that series get which nobody has collected yet.
GROUP: Final = "import"
#: Between such pieces others get their turn: each is some 3 ms.
_RUNS_SLICE: Final = 500
_SAMPLES_SLICE: Final = 50_000
#: Points that may wait in the head to be sealed, 60 MB; the sealer makes 1 to 2 million a second
#: into chunks, but not while the daily job runs.
_HEAD_MAX: Final = 3_000_000
_HEAD_LOOK_S: Final = 0.05
_HEAD_WAIT_S: Final = 120.0
_REASON_OF: Final = {text: reason for reason, text in REFUSALS.items()}


@dataclass(slots=True)
class Imported:
    """
    What became of runs.

    Attributes:
        samples: Stored.
        refused: Samples that weren't, by reason as in ``storage.sink.REFUSALS``, or a limit.
        faults: A text for each of these reasons.
        days: UTC days of what was stored, since the epoch.
    """

    samples: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)
    days: set[int] = field(default_factory=set)

    def refuse(self, reason: str, samples: int, fault: str) -> None:
        self.refused[reason] += samples
        self.faults.setdefault(reason, fault)

    def add(self, other: Imported) -> None:
        self.samples += other.samples
        self.refused.update(other.refused)
        self.faults = other.faults | self.faults
        self.days |= other.days


class HistoryImporter:
    """Stores runs as points; of two samples of a series at one time the later import counts."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock

    async def write(self, runs: Sequence[Run]) -> Imported:
        """
        Store and commit runs.

        Raises:
            StoreUnavailable: The store takes nothing now. Some of it may be in; sent again, it is
                the same.
        """
        done = Imported()
        await self._wait_for_room()
        refs: list[int] = []
        taken: list[Run] = []
        for number, run in enumerate(runs, start=1):
            if not number % _RUNS_SLICE:
                await asyncio.sleep(0)
            try:
                ref = self._ref(run)
            except SeriesRefused as error:
                done.refuse(error.reason, len(run.ts_ms), str(error))
                continue
            refs.append(ref)
            taken.append(run)
            if run.type is not MetricType.UNKNOWN or run.help or run.unit:
                self._describe(run)
        if taken:
            lengths = np.array([len(run.ts_ms) for run in taken])
            await self._append(
                np.repeat(np.array(refs, np.uint32), lengths),
                np.concatenate([run.ts_ms for run in taken]),
                np.concatenate([run.values for run in taken]),
                done,
            )
            await self._store.committed()
        return done

    async def _append(
        self, refs: RefArray, ts_ms: IntArray, values: FloatArray, done: Imported
    ) -> None:
        for start in range(0, len(refs), _SAMPLES_SLICE):
            part = slice(start, start + _SAMPLES_SLICE)
            refusal = self._store.append_points(refs[part], ts_ms[part], values[part])
            stored = ts_ms[part]
            if refusal is not None:
                for text, count in Counter(filter(None, refusal.reasons)).items():
                    if _REASON_OF[text] == "clock":
                        raise StoreUnavailable(text)
                    done.refuse(_REASON_OF[text], count, text)
                stored = stored[[not reason for reason in refusal.reasons]]
            done.samples += len(stored)
            done.days.update(day_of(ts) for ts in _one_a_day(stored))
            await asyncio.sleep(0)

    async def _wait_for_room(self) -> None:
        waited_s = 0.0
        while self._store.head_points > _HEAD_MAX:
            if waited_s > _HEAD_WAIT_S:
                raise StoreUnavailable(
                    f"{self._store.head_points} samples wait to be made into chunks; try again"
                )
            await self._clock.sleep(_HEAD_LOOK_S)
            waited_s += _HEAD_LOOK_S

    def _ref(self, run: Run) -> int:
        store, labels = self._store, run.labels
        known = store.index.find(labels)
        if known is not None:
            return known.ref
        if any(not name for name, _ in labels):
            raise SeriesRefused("labels", f"{labels}: a label's name is empty")
        type_ = run.type
        if type_ is MetricType.UNKNOWN:
            type_, _, _ = described(labels, store.families, None)
        kind = kind_of(type_, labels.name, [name for name, _ in labels]) or Kind.UNKNOWN
        return store.group(GROUP).ref(labels, kind)

    def _describe(self, run: Run) -> None:
        """Remember what a run says of its family; what it doesn't say stays as it was."""
        family, families = family_of(run.type, run.labels.name), self._store.families
        # What says nothing is not worth a family.
        before = families.metadata(family) or Metadata(MetricType.UNKNOWN)
        new = Metadata(run.type, run.help, run.unit).over(before)
        if new != before:
            self._store.describe(family, new)


def _one_a_day(ts_ms: IntArray) -> list[int]:
    if not len(ts_ms):
        return []
    _, first = np.unique((ts_ms - 1) // 86_400_000, return_index=True)
    found: list[int] = ts_ms[first].tolist()
    return found
