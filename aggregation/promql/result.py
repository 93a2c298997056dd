"""The answer to a query."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ...storage.frame import BoolArray, FloatArray, IntArray
from ...storage.model import Labels
from .budget import QueryStats
from .nodes import ValueType


@dataclass(frozen=True, slots=True)
class Result:
    """
    The answer to a query, series by series in columns.

    Attributes:
        type: ``scalar``, ``string``, ``vector`` (one step) or ``matrix``.
        times_ms: ``[steps]``; of an instant query the one time it was asked for.
        labels: One per series, the metric name among them; a range query's are sorted. Of a scalar
            and a string there are none.
        values: ``[series, steps]``; of a scalar ``[1, 1]``.
        mask: ``[series, steps]``, true where there is a value.
        text: The string of a string.
        points: Times and values of each series where those have times of their own, which only an
            instant query for a range vector gives; ``values`` and ``mask`` are empty then.
        warnings: Texts with positions, as upstream words them; likewise ``infos``.
    """

    type: ValueType
    times_ms: IntArray
    labels: list[Labels] = field(default_factory=list)
    values: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    mask: BoolArray = field(default_factory=lambda: np.empty((0, 0), bool))
    text: str = ""
    points: list[tuple[IntArray, FloatArray]] | None = None
    warnings: tuple[str, ...] = ()
    infos: tuple[str, ...] = ()
    stats: QueryStats = field(default_factory=QueryStats)

    def series(self) -> Iterator[tuple[Labels, IntArray, FloatArray]]:
        """Yield each series of a vector or matrix with the times and values that it has."""
        if self.points is not None:
            for labels, (times_ms, values) in zip(self.labels, self.points, strict=True):
                yield labels, times_ms, values
            return
        for labels, values, mask in zip(self.labels, self.values, self.mask, strict=True):
            if mask.all():
                yield labels, self.times_ms, values
            else:
                yield labels, self.times_ms[mask], values[mask]

    @property
    def scalar(self) -> float:
        """The value of a scalar."""
        return float(self.values[0, 0])
