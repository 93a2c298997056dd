"""The newest sample of every series: what ``/metrics``, the live stream and the guards look at."""

from __future__ import annotations

from typing import Final

import numpy as np

from .frame import ABSENT, FloatArray, IntArray, RefArray, distinct

#: Time of a series that has no sample; far enough from the edge of int64 to be subtracted from.
NEVER_MS: Final = -(1 << 62)

# Refs are never reused, so an array indexed by ref would grow for ever under churn. A page goes
# back to the pool once all its series are forgotten; 256 series (4 KiB) keep the page table at
# 1/512 of the samples and let cohorts that came together leave together.
_PAGE_BITS: Final = 8
_PAGE: Final = 1 << _PAGE_BITS


class Current:
    """
    Time and value of each series' newest sample, by ref.

    A stale marker is kept like any sample, so an older sample can't bring its series back;
    readers tell it with ``frame.is_stale``. Not for several threads at once.

    Memory: 16 bytes a series, in pages of 256 neighbouring refs.
    """

    def __init__(self) -> None:
        # Page 0 of the pool is nowhere: never written, read for every ref that has no page. The
        # last entry of the table points there for good and stands for all refs beyond it.
        self._base = np.zeros(1, dtype=np.int64)
        self._ts_ms = np.full(_PAGE, NEVER_MS, dtype=np.int64)
        self._values = np.full(_PAGE, ABSENT, dtype=np.float64)
        self._free: list[int] = []

    def update(self, refs: RefArray, ts_ms: int | IntArray, values: FloatArray) -> None:
        """
        Take samples; those older than what is held are left out.

        Args:
            refs: May repeat: the newest sample wins, and the last one among equal times.
            ts_ms: One time for all, or ``[n]``.
            values: ``[n]``; stale markers allowed, absent cells not.
        """
        if not refs.size:
            return
        if isinstance(ts_ms, np.ndarray) and (ts_ms[1:] < ts_ms[:-1]).any():
            order = np.argsort(ts_ms, kind="stable")
            refs, ts_ms, values = refs[order], ts_ms[order], values[order]
        at = self._places(refs)
        taken = self._ts_ms[at] <= ts_ms
        if not taken.all():
            at, values = at[taken], values[taken]
            ts_ms = ts_ms[taken] if isinstance(ts_ms, np.ndarray) else ts_ms
        # Of equal indices the last assignment stays, and times rise by now.
        self._ts_ms[at] = ts_ms
        self._values[at] = values

    def get(self, refs: RefArray) -> tuple[IntArray, FloatArray]:
        """
        Return times and values, ``[n]`` each, as copies.

        A series without a sample has ``NEVER_MS`` and ``frame.ABSENT``; one that ended has the
        time of its stale marker and ``frame.STALE_NAN``.
        """
        at = self._base[np.minimum(refs >> _PAGE_BITS, len(self._base) - 1)] + (refs & (_PAGE - 1))
        return self._ts_ms[at], self._values[at]

    def ended_before(self, ts_ms: int) -> RefArray:
        """Return the series, rising, whose newest sample is older than a time."""
        pages = np.flatnonzero(self._base)
        places = self._base[pages][:, None] + np.arange(_PAGE)
        newest_ms = self._ts_ms[places]
        page, at = np.nonzero((newest_ms < ts_ms) & (newest_ms != NEVER_MS))
        return (pages[page] * _PAGE + at).astype(np.uint32)

    def forget(self, refs: RefArray) -> None:
        """Drop what is held of series that the store has deleted; unknown refs are no mistake."""
        pages = np.minimum(refs >> _PAGE_BITS, len(self._base) - 1)
        base = self._base[pages]
        at = base + (refs & (_PAGE - 1))
        self._ts_ms[at] = NEVER_MS
        self._values[at] = ABSENT
        for page in distinct(pages[base > 0]).tolist():
            start = int(self._base[page])
            if (self._ts_ms[start : start + _PAGE] == NEVER_MS).all():
                self._base[page] = 0
                self._free.append(start)

    def _places(self, refs: RefArray) -> IntArray:
        """Return where in the pool each ref lies, making pages as needed."""
        pages = refs >> _PAGE_BITS
        top = int(pages.max())
        if top >= len(self._base) - 1:
            grown = np.zeros(max(top + 2, 2 * len(self._base)), dtype=np.int64)
            grown[: len(self._base)] = self._base
            self._base = grown
        base = self._base[pages]
        missing = base == 0
        if missing.any():
            self._add_pages(distinct(pages[missing]))
            base = self._base[pages]
        places: IntArray = base + (refs & (_PAGE - 1))
        return places

    def _add_pages(self, pages: RefArray) -> None:
        need = len(pages) - len(self._free)
        if need > 0:
            old = len(self._ts_ms)
            size = max(old + need * _PAGE, 2 * old)
            ts_ms = np.full(size, NEVER_MS, dtype=np.int64)
            ts_ms[:old] = self._ts_ms
            values = np.full(size, ABSENT, dtype=np.float64)
            values[:old] = self._values
            self._ts_ms, self._values = ts_ms, values
            self._free[:0] = range(size - _PAGE, old - _PAGE, -_PAGE)
        for page in pages.tolist():
            self._base[page] = self._free.pop()
