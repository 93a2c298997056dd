"""Which group each series belongs to, and what becomes of the numbers of deleted series."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Final

import numpy as np

from .frame import IntArray, RefArray, distinct
from .intake import Intake
from .labels import Index
from .model import Labels, Series

#: Deleted series that are remembered, some 100 MB: as many as a store may have by default. More
#: only come together where series live for hours and are kept for days, and by then those that
#: were buried first have long been given up by their sources.
GRAVES_MAX: Final = 100_000


class Homes:
    """
    A series' home is the group where it was seen first, until another one adopts it.

    Deleted series are buried rather than forgotten: a source may still hold their numbers, and the
    next sample under one of these brings the series back. Beyond ``graves_max`` those that were
    buried first are forgotten; their numbers are nobody's then. Used by the event loop's thread
    only, but for :attr:`by_ref`.
    """

    def __init__(self, index: Index, intake: Intake, graves_max: int = GRAVES_MAX) -> None:
        self._index, self._intake = index, intake
        #: Group by number of the series, 0 where there is none. Replaced as it grows.
        self.by_ref: IntArray = np.zeros(1024, np.int64)
        self._graves_max = graves_max
        self._graves: dict[int, tuple[Series, int]] = {}
        self._buried: dict[Labels, int] = {}

    def set(self, ref: int, group: int) -> None:
        if ref >= len(self.by_ref):
            grown = np.zeros(max(ref + 1, len(self.by_ref) * 2), np.int64)
            grown[: len(self.by_ref)] = self.by_ref
            self.by_ref = grown
        self.by_ref[ref] = group

    def of(self, refs: RefArray) -> IntArray:
        """
        Return the group of each series, bringing back those that were deleted; 0 for those that are
        forgotten by now.
        """
        homes = self.by_ref[refs]
        if not homes.all():
            deleted: list[int] = distinct(refs[homes == 0]).tolist()
            self.revive(ref for ref in deleted if ref in self._graves)
            homes = self.by_ref[refs]
        return homes

    def adopt(self, refs: RefArray, group: int) -> None:
        """
        Move living series to another group. Their home so far must not have had ticks: chunks of
        ticks are looked for in the home's blocks only.
        """
        for ref in refs.tolist():
            series = self._index.get(ref)
            assert series is not None, "those that are appended to are alive"
            self.set(ref, group)
            self._intake.add_series(group, series)

    @property
    def buried(self) -> int:
        """How many deleted series are remembered."""
        return len(self._graves)

    def find_buried(self, labels: Labels) -> int | None:
        """Return the number that a deleted series had."""
        return self._buried.get(labels)

    def bury(self, refs: RefArray) -> None:
        """Take series out of the index; those that are not in it are no mistake."""
        before = len(self._graves)
        for ref in refs.tolist():
            series = self._index.get(ref)
            if series is not None:
                self._graves[ref] = (series, int(self.by_ref[ref]))
                self._buried[series.labels] = ref
                self.by_ref[ref] = 0
        self._index.remove(refs.tolist())
        # Not the newcomers: whoever deleted them may find that some are needed still.
        excess = min(before, len(self._graves) - self._graves_max)
        for ref in list(itertools.islice(self._graves, max(0, excess))):
            series, _ = self._graves.pop(ref)
            del self._buried[series.labels]

    def revive(self, refs: Iterable[int]) -> None:
        """A source goes on with series that were deleted: they get their rows again."""
        for ref in refs:
            series, group = self._graves.pop(ref)
            del self._buried[series.labels]
            self._index.load(series)
            self.set(ref, group)
            self._intake.add_series(group, series)
