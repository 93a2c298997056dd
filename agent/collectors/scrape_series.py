"""
The series of one target: their numbers in the store, which are on the page, which have ended.

A tick is one append: the page's values, stale markers for what has vanished, and what Prometheus
reports of every scrape (``up`` and so on), all at one timestamp.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ...storage.errors import SeriesRefused
from ...storage.frame import STALE_NAN, BoolArray, FloatArray, IntArray, RefArray, distinct
from ...storage.model import Kind, Labels
from ...storage.sink import GroupSink, Sink
from ..ingest.exposition import NO_TIMESTAMP, Page
from .scrape_page import Named

# A refused series is asked for again so often: the store counts every refusal, and asking costs
# more than a sample.
REFUSED_RETRY_MS: Final = 60_000
# And so many of them at a time, in turn: a refusal takes some 3 µs of the event loop.
REFUSED_RETRY_MAX: Final = 500

_NO_REFS: Final[RefArray] = np.empty(0, np.uint32)
_NO_VALUES: Final[FloatArray] = np.empty(0, np.float64)
_NO_TIMES: Final[IntArray] = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Columns:
    """
    A page sorted out.

    Attributes:
        refs, values: What goes into the tick; each series once.
        point_refs, point_ts_ms, point_values: What has timestamps of its own.
        added: Series that the last good page did not have.
        duplicates: Samples of a series that was on this page before; the first one counts.
        refused: Samples of series that the store did not take.
    """

    refs: RefArray
    values: FloatArray
    point_refs: RefArray
    point_ts_ms: IntArray
    point_values: FloatArray
    added: int
    duplicates: int
    refused: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """How to sort out pages whose slots are the very array ``slots``."""

    slots: IntArray
    take: IntArray | None  # places on the page; None for all of them in order
    refs: RefArray
    duplicates: int
    refused: int


class TargetSeries:
    """
    Keeps the store's numbers of a target's series.

    Args:
        group: Name of the group all of them belong to.
        target: The target's labels, which the report's series carry.
        report: Names of the report's series.
        honor_timestamps: Whether timestamps on the page count.
    """

    def __init__(
        self,
        sink: Sink,
        group: str,
        target: Labels,
        report: Sequence[str],
        honor_timestamps: bool,
    ) -> None:
        self._sink, self._group_name = sink, group
        self._report = [Labels.of(target, name) for name in report]
        self._honor_timestamps = honor_timestamps
        self._group: GroupSink | None = None
        self._refs: RefArray = _NO_REFS  # by slot; 0 for none
        self._refused: dict[int, Named] = {}
        self._refused_ms = 0
        self._layout: _Layout | None = None
        self._on_page: RefArray = _NO_REFS  # of the last good page, points included
        self._alive: RefArray = _NO_REFS  # in the last tick, and not ended by it
        self._report_refs: dict[Labels, int] = {}
        self._has_reported = False

    def forget_slots(self) -> None:
        """Slots get new meanings; which series are alive stays known."""
        self._refs = _NO_REFS
        self._refused.clear()
        self._layout = None

    def learn(self, named: Iterable[Named], ts_ms: int) -> None:
        """Give the next slots, in their order, numbers in the store."""
        group = self._open()
        fresh = [0 if one.labels is None else self._ask(group, one, ts_ms) for one in named]
        if fresh:
            self._refs = np.concatenate([self._refs, np.array(fresh, np.uint32)])
            self._layout = None

    def sort(self, page: Page, ts_ms: int) -> Columns:
        """Sort out a good page whose slots are all known."""
        self._open()
        if self._refused and not 0 <= ts_ms - self._refused_ms < REFUSED_RETRY_MS:
            self._ask_again(ts_ms)
        own_times = page.ts_ms if self._honor_timestamps else None
        if own_times is not None:
            timed = own_times != NO_TIMESTAMP
            layout = self._arrange(page.slots, ~timed)
            at = np.flatnonzero(timed & (self._refs[page.slots] != 0))
            points = (self._refs[page.slots[at]], own_times[at], page.values[at])
        else:
            points = (_NO_REFS, _NO_TIMES, _NO_VALUES)
            known = self._layout
            if known is None or known.slots is not page.slots:
                known = self._layout = self._arrange(page.slots, None)
            layout = known
        return Columns(
            refs=layout.refs,
            values=page.values if layout.take is None else page.values[layout.take],
            point_refs=points[0],
            point_ts_ms=points[1],
            point_values=points[2],
            added=self._count_added(layout.refs, points[0]),
            duplicates=layout.duplicates,
            refused=layout.refused,
        )

    def append(self, ts_ms: int, columns: Columns | None, report: Sequence[float]) -> None:
        """
        Write a tick: a page, or none (every series ends), and the report's values.

        Raises:
            StoreUnavailable: Nothing was taken; the next tick ends what this one should have.
        """
        group = self._open()
        refs = _NO_REFS if columns is None else columns.refs
        values = _NO_VALUES if columns is None else columns.values
        own = [self._report_refs.get(labels, 0) for labels in self._report]
        written = [(ref, value) for ref, value in zip(own, report, strict=True) if ref]
        ended = _NO_REFS
        if self._alive is not refs:
            # A predecessor with the same labels has left its report among the living.
            goes_on = np.concatenate([refs, np.array(own, np.uint32)])
            ended = np.setdiff1d(distinct(self._alive), goes_on, assume_unique=True)
        group.append(
            ts_ms,
            np.concatenate([refs, ended, np.array([ref for ref, _ in written], np.uint32)]),
            np.concatenate(
                [values, np.full(len(ended), STALE_NAN), [value for _, value in written]]
            ),
        )
        self._alive, self._has_reported = refs, True
        if columns is None:
            return
        self._on_page = refs
        if len(columns.point_refs):
            self._on_page = distinct(np.concatenate([refs, columns.point_refs]))
            self._sink.append_points(columns.point_refs, columns.point_ts_ms, columns.point_values)

    def end(self, ts_ms: int) -> None:
        """
        End every series, the report's too: the target is gone.

        Raises:
            StoreUnavailable: Nothing was taken.
        """
        refs = self._living()
        if len(refs):
            self._open().append(ts_ms, refs, np.full(len(refs), STALE_NAN))
        self._alive, self._has_reported = _NO_REFS, False

    def succeed(self, old: TargetSeries) -> None:
        """
        Take the place of ``old``, which is not used any more: what it left alive ends with the
        first tick here, unless it is in that.
        """
        self._alive, self._on_page = old._living(), old._on_page

    def ref_of(self, slot: int) -> int:
        """Return the number of a known slot's series; 0 if it is not stored."""
        return int(self._refs[slot])

    @property
    def refused(self) -> int:
        """How many of the target's series the store does not take."""
        return len(self._refused)

    def _living(self) -> RefArray:
        """Return what would go on without an end: also the report, once there was one."""
        report = list(self._report_refs.values()) if self._has_reported else []
        return distinct(np.concatenate([self._alive, np.array(report, np.uint32)]))

    def _open(self) -> GroupSink:
        """Return the group, and make sure of the report's series unless the store refuses."""
        if self._group is None:
            self._group = self._sink.group(self._group_name)
        if len(self._report_refs) < len(self._report):
            for labels in self._report:
                if labels not in self._report_refs:
                    with contextlib.suppress(SeriesRefused):
                        self._report_refs[labels] = self._group.ref(labels, Kind.GAUGE)
                        self._layout = None
        return self._group

    def _ask(self, group: GroupSink, one: Named, ts_ms: int) -> int:
        assert one.labels is not None
        try:
            return group.ref(one.labels, one.kind)
        except SeriesRefused:
            if not self._refused:
                self._refused_ms = ts_ms
            self._refused[one.slot] = one
            return 0

    def _ask_again(self, ts_ms: int) -> None:
        group = self._open()
        for one in list(itertools.islice(self._refused.values(), REFUSED_RETRY_MAX)):
            del self._refused[one.slot]  # refused again, it stands last
            self._refs[one.slot] = self._ask(group, one, ts_ms)
        self._refused_ms = ts_ms
        self._layout = None

    def _arrange(self, slots: IntArray, plain: BoolArray | None) -> _Layout:
        refs = self._refs[slots]
        refused = 0
        if self._refused:
            refused = int(np.isin(slots, list(self._refused)).sum())
        wanted = refs != 0
        if plain is not None:
            wanted &= plain
        at = np.flatnonzero(wanted)
        # A target that exposes an `up` of its own doesn't overrule ours.
        free = at[~np.isin(refs[at], list(self._report_refs.values()))]
        _, first = np.unique(refs[free], return_index=True)
        take = free[np.sort(first)]
        everything = len(take) == len(slots)
        return _Layout(
            slots=slots,
            take=None if everything else take,
            refs=refs if everything else refs[take],
            duplicates=len(at) - len(take),
            refused=refused,
        )

    def _count_added(self, refs: RefArray, point_refs: RefArray) -> int:
        if refs is self._on_page and not len(point_refs):
            return 0
        now = distinct(np.concatenate([refs, point_refs]))
        return len(np.setdiff1d(now, self._on_page, assume_unique=True))
