"""
Which source serves which day of a query: raw samples or a tier. Pure.

Days are looked at one by one: what must be exact in one may be coarse in the next. A query for the
maximum of a month reads the raw samples of the days that its window begins and ends in, and one
bucket of each day between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ..storage.frame import BoolArray, FloatArray, IntArray, distinct
from ..storage.keys import DAY_MS
from .rollup import Tier

#: Sources beside the tiers' own numbers.
RAW: Final = 0
NOTHING: Final = -1
Sources = npt.NDArray[np.int8]

_COARSE_FIRST: Final = tuple(reversed(Tier))
#: Reading a bucket costs as much as so many samples (benchmarks/promql_store.py).
_SAMPLES_PER_BUCKET: Final = 8


@dataclass(frozen=True, slots=True)
class Stock:
    """
    What is there of some series on some days.

    Attributes:
        raw: ``[series, days]``, where raw samples are all there, or nothing else is.
        tiers: ``[series, days]`` by tier, where buckets stand for all samples.
        samples: ``[series, days]``, how many raw samples there may be; 0 if nobody knows.
    """

    raw: BoolArray
    tiers: dict[Tier, BoolArray]
    samples: FloatArray


def exact_widths(days: IntArray, edges_ms: IntArray, least_ms: int = 0) -> IntArray:
    """
    Return the widest buckets that no edge falls into, day by day.

    Args:
        days: ``[d]``, rising.
        edges_ms: Where windows start or end, in any order.
        least_ms: Narrower buckets are of no use.

    Returns:
        ``[d]``, milliseconds; 0 where there are none. A tier is exact if its width divides it.
    """
    edges = distinct(edges_ms)
    edge_days = (edges - 1) // DAY_MS
    widths: IntArray = np.full(len(days), DAY_MS)
    if len(edges):
        opens = np.flatnonzero(np.append(True, edge_days[1:] != edge_days[:-1]))
        # An edge at the end of a day is 0 here, which every width divides.
        common = np.gcd.reduceat(edges % DAY_MS, opens)
        at = np.searchsorted(days, edge_days[opens])
        known = (at < len(days)) & (days[np.minimum(at, len(days) - 1)] == edge_days[opens])
        widths[at[known]] = np.gcd(common[known], DAY_MS)
    exact = np.zeros(len(days), np.int64)
    for tier in Tier:
        fits = (widths % tier.width_ms == 0) & (tier.width_ms >= least_ms)
        exact[fits] = tier.width_ms
    return exact


def choose(stock: Stock, exact_ms: IntArray, unfit: BoolArray) -> Sources:
    """
    Choose what serves each series each day: the coarsest tier that is exact, unless raw samples are
    so few that they cost less; else raw samples; else whatever tier is exact; else the finest kept.

    Args:
        exact_ms: As from :func:`exact_widths`, ``[days]``; 0 if no tier is exact.
        unfit: ``[series]``, those whose buckets lack something that is asked for.
    """
    chosen = np.full(stock.raw.shape, NOTHING, np.int8)

    def take(source: int, where: BoolArray) -> None:
        chosen[(chosen == NOTHING) & where] = source

    exact: dict[Tier, BoolArray] = {}
    for tier in _COARSE_FIRST:
        fits = (exact_ms > 0) & (exact_ms >= tier.width_ms)
        exact[tier] = stock.tiers[tier] & fits & ~unfit[:, None]
        buckets = DAY_MS // tier.width_ms
        # The daily and hourly rows are short, and read many at a time.
        is_cheap = (buckets <= 24) | (stock.samples >= _SAMPLES_PER_BUCKET * buckets)
        take(tier, exact[tier] & is_cheap)
    take(RAW, stock.raw)
    for tier in _COARSE_FIRST:
        take(tier, exact[tier])
    for tier in Tier:
        take(tier, stock.tiers[tier])
    return chosen


@dataclass(frozen=True, slots=True)
class DayRounding:
    """
    Moves windows to where the buckets of a plan end: up, so that the newest bucket is whole.

    Attributes:
        days: ``[d]``, rising; ``widths_ms`` are those of their buckets, 1 where there are samples.
    """

    days: IntArray
    widths_ms: IntArray

    def __call__(self, start_ms: IntArray, end_ms: IntArray) -> tuple[IntArray, IntArray]:
        start, _ = self._round(start_ms)
        end, width = self._round(end_ms)
        return np.minimum(start, end - width), end

    def _round(self, edges_ms: IntArray) -> tuple[IntArray, IntArray]:
        day = (edges_ms - 1) // DAY_MS
        at = np.minimum(np.searchsorted(self.days, day), len(self.days) - 1)
        width = np.where(self.days[at] == day, self.widths_ms[at], 1)
        return -(-edges_ms // width) * width, width
