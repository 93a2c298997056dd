"""Reads what selectors ask for and cuts it into pieces that fit the cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

import numpy as np

from ...config.selector import Matcher
from ...storage.frame import FloatArray, Frame, IntArray, is_stale
from .budget import Budget
from .cells import Fact, TieredQuerier, cell_windows
from .samples import PIECE_CELLS, Samples, from_frame, side_by_side
from .values import Block
from .windows import Windows, pick

#: Frames, which have times of their own, are put side by side up to this many samples and steps: a
#: larger one is worth the calls that it takes alone. Most targets give a query a dozen series.
_SMALL_MAX: Final = 2_500


class Querier(Protocol):
    """Where samples come from."""

    def select(self, matchers: Sequence[Matcher], min_ms: int, max_ms: int) -> Iterable[Frame]:
        """
        Return the series that satisfy all matchers, with their samples of ``min_ms`` to ``max_ms``.

        Frames are taken once, in order, and forgotten: a generator that decodes one at a time lets
        an aggregation over any number of series run in the memory of one frame.
        """
        ...


class Selection:
    """
    The reading side of one query.

    Args:
        lookback_ms: How old a sample an instant selector still takes.
        left_closed: Windows and lookback include their start, as in Prometheus 2.
    """

    def __init__(
        self, querier: Querier, budget: Budget, *, lookback_ms: int, left_closed: bool
    ) -> None:
        self._querier, self._budget = querier, budget
        self._tiers = querier if isinstance(querier, TieredQuerier) else None
        self.lookback_ms, self.left_closed = lookback_ms, left_closed

    def instant(
        self, matchers: Sequence[Matcher], at_ms: IntArray, *, smoothed: bool = False
    ) -> Iterator[tuple[Block, IntArray]]:
        """
        Yield the newest values at some times, and when they were taken (``[steps]`` or the shape of
        the block).

        Args:
            smoothed: Take the value of a line between the samples before and after instead.
        """
        back = self.lookback_ms
        first_ms = int(at_ms.min()) - back + (not self.left_closed)
        last_ms = int(at_ms.max()) + (back if smoothed else 0)
        # Only the values that come of it are held: what a piece takes is small and soon gone.
        pieces = None if smoothed else self._latest(matchers, at_ms)
        if pieces is None:
            pieces = self._cut(matchers, first_ms, last_ms, len(at_ms), drop_stale=smoothed)
        for samples in pieces:
            latest = samples.upto(at_ms) - 1
            windows = Windows(samples, latest, latest + 1, at_ms - back, at_ms, at_ms)
            times_ms = windows.pick_ms(latest)
            if samples.until_ms is None:
                fresh = (latest >= 0) & (times_ms > at_ms - back - self.left_closed)
            else:
                fresh = (latest >= 0) & (at_ms < pick(samples.until_ms, latest))
            values = windows.pick(latest)
            mask = np.broadcast_to(fresh, windows.shape)
            if smoothed:
                values = _smooth(windows, latest, times_ms, values, back)
            elif np.isnan(values.sum()):
                mask = mask & ~is_stale(np.ascontiguousarray(values))
            self._budget.touch(int(np.count_nonzero(mask)))
            yield Block(samples.labels, values, mask, samples.nameless), times_ms

    def ranges(
        self,
        matchers: Sequence[Matcher],
        at_ms: IntArray,
        eval_ms: IntArray,
        range_ms: int,
        extension: str = "",
        facts: frozenset[Fact] | None = None,
    ) -> Iterator[Windows]:
        """
        Yield the windows of a range selector that end at some times.

        Args:
            facts: All that will be asked of the windows, so that a tier may answer; ``None``: their
                samples.
        """
        if facts is not None and self._tiers is not None and not extension:
            aligned = not self.left_closed
            found = self._tiers.cells(matchers, at_ms - range_ms, at_ms, facts, aligned=aligned)
            if found is not None:
                for cells in found:
                    if not cells.size:
                        continue
                    held = self._budget.hold(cells.size)
                    self._budget.stats.series += cells.rows
                    windows = cell_windows(cells, at_ms - range_ms, at_ms, eval_ms)
                    windows.check = self._budget.check
                    self._touch(windows)
                    yield windows
                    self._budget.release(held)
                    self._budget.check()
                return
        reach = self.lookback_ms if extension else 0
        first_ms = int(at_ms.min()) - range_ms - reach + (not self.left_closed)
        last_ms = int(at_ms.max()) + (reach if extension == "smoothed" else 0)
        for samples in self._cut(matchers, first_ms, last_ms, len(at_ms), drop_stale=True):
            held = self._budget.hold(samples.size)
            yield self.windows(samples, at_ms, eval_ms, range_ms, extension)
            self._budget.release(held)

    def windows(
        self,
        samples: Samples,
        at_ms: IntArray,
        eval_ms: IntArray,
        range_ms: int,
        extension: str = "",
    ) -> Windows:
        """Lay windows over samples."""
        start_ms = at_ms - range_ms
        low = samples.upto(start_ms - self.left_closed)
        high = samples.upto(at_ms)
        windows = Windows(
            samples,
            low,
            high,
            start_ms,
            at_ms,
            eval_ms,
            extension,
            self.lookback_ms if extension else 0,
            self.left_closed,
            self._budget.check,
        )
        self._touch(windows)
        return windows

    def _touch(self, windows: Windows) -> None:
        touched = int(windows.counts.sum())
        self._budget.touch(touched * (windows.samples.rows if windows.low.ndim == 1 else 1))

    def _latest(self, matchers: Sequence[Matcher], at_ms: IntArray) -> Iterator[Samples] | None:
        if self._tiers is None:
            return None
        aligned = not self.left_closed
        found = self._tiers.latest(matchers, at_ms, self.lookback_ms, aligned=aligned)
        return None if found is None else self._counted(found)

    def _counted(self, found: Iterable[Samples]) -> Iterator[Samples]:
        for samples in found:
            yield from self._piece(samples)

    def _cut(
        self,
        matchers: Sequence[Matcher],
        min_ms: int,
        max_ms: int,
        steps: int,
        *,
        drop_stale: bool,
    ) -> Iterator[Samples]:
        """Yield the selected samples in pieces; each is forgotten before the next is made."""
        small: list[Frame] = []
        # Neither samples nor results of a piece shall be more than its cells.
        rows, widest = 0, steps
        for frame in self._querier.select(matchers, min_ms, max_ms):
            width = len(frame.ts_ms)
            if not width:
                continue
            if len(frame.series) * (width + steps) < _SMALL_MAX:
                if small and (rows + len(frame.series)) * max(widest, width) > PIECE_CELLS:
                    yield from self._piece(side_by_side(small, drop_stale=drop_stale))
                    small, rows, widest = [], 0, steps
                self._budget.check()
                small.append(frame)
                rows += len(frame.series)
                widest = max(widest, width)
                continue
            at_once = max(1, PIECE_CELLS // max(width, steps))
            for first in range(0, len(frame.series), at_once):
                for samples in from_frame(frame, first, first + at_once, drop_stale=drop_stale):
                    yield from self._piece(samples)
        if small:
            yield from self._piece(side_by_side(small, drop_stale=drop_stale))

    def _piece(self, samples: Samples) -> Iterator[Samples]:
        if samples.size:
            self._budget.check()
            self._budget.stats.series += samples.rows
            yield samples


def _smooth(
    windows: Windows, latest: IntArray, times_ms: IntArray, values: FloatArray, back_ms: int
) -> FloatArray:
    samples, at_ms = windows.samples, windows.end_ms
    followed = samples.upto(at_ms + back_ms) > latest + 1
    next_ms = windows.pick_ms(latest + 1)
    weight = (at_ms - times_ms) / np.maximum(next_ms - times_ms, 1)
    after = windows.pick(latest + 1)
    result: FloatArray = np.where(followed, values + (after - values) * weight, values)
    return result
