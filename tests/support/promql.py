"""Samples in memory for tests of PromQL: a querier over plain lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tachograph.config.selector import Matcher
from tachograph.storage.frame import ABSENT, Frame
from tachograph.storage.model import Kind, Labels, Series

#: Times in milliseconds and values.
Points = Sequence[tuple[int, float]]


class MemoryQuerier:
    """
    Answers selections from memory.

    Args:
        grouped: Put all selected series into one frame, with absent cells where one has no sample
            at another's time; else every series is a frame of its own.
    """

    def __init__(self, *, grouped: bool = False) -> None:
        self.grouped = grouped
        self.selections: list[tuple[tuple[Matcher, ...], int, int]] = []
        self._samples: dict[Labels, dict[int, float]] = {}
        self._series: dict[Labels, Series] = {}

    def add(self, labels: Mapping[str, str] | Labels, points: Iterable[tuple[int, float]]) -> None:
        """Add samples; of two at the same time the later one counts."""
        key = labels if isinstance(labels, Labels) else Labels.of(labels)
        self._samples.setdefault(key, {}).update(points)
        self._series.setdefault(key, Series(len(self._series) + 1, key, Kind.UNKNOWN, 0))

    def select(self, matchers: Sequence[Matcher], min_ms: int, max_ms: int) -> Sequence[Frame]:
        self.selections.append((tuple(matchers), min_ms, max_ms))
        found: list[tuple[Series, list[tuple[int, float]]]] = []
        for labels, samples in self._samples.items():
            if all(matcher.matches(labels.get(matcher.name)) for matcher in matchers):
                points = sorted((t, v) for t, v in samples.items() if min_ms <= t <= max_ms)
                if points:
                    found.append((self._series[labels], points))
        if not found:
            return []
        return [_together(found)] if self.grouped else [_alone(*pair) for pair in found]


def _alone(series: Series, points: Points) -> Frame:
    times = np.array([t for t, _ in points], np.int64)
    values = np.array([[v for _, v in points]], np.float64)
    return Frame([series], times, values, has_absent=False)


def _together(found: Sequence[tuple[Series, Points]]) -> Frame:
    times = sorted({t for _, points in found for t, _ in points})
    column = {t: index for index, t in enumerate(times)}
    values = np.full((len(found), len(times)), ABSENT)
    for row, (_, points) in enumerate(found):
        for t, v in points:
            values[row, column[t]] = v
    has_absent = any(len(points) < len(times) for _, points in found)
    return Frame([series for series, _ in found], np.array(times, np.int64), values, has_absent)
