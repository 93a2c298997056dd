"""Quantiles and fractions of classic histograms: cumulative counts with a label ``le``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from ...storage.frame import BoolArray, FloatArray, IntArray
from ...storage.model import METRIC_NAME, Labels
from .annotations import Annotations
from .nodes import Expr
from .values import Block, Grid, Naming, named

_BUCKET_LABEL: Final = "le"
#: Counts that differ by less than this, relatively, are equal but for rounding; as upstream.
_TOLERANCE: Final = 1e-12
_BOUND: Final = re.compile(
    r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?i:inf(?:inity)?)"
)


@dataclass(slots=True)
class Buckets:
    """
    The histogram buckets of some histograms with the same bounds, at some steps.

    Attributes:
        bounds: ``[buckets]``, rising; may miss +Inf.
        counts: ``[histograms, buckets, steps]``.
    """

    bounds: FloatArray
    counts: FloatArray


#: Computes something of buckets, ``[histograms, steps]``, for the given steps of the grid.
Calculation = Callable[[Buckets, IntArray], FloatArray]


def histogram_quantile(buckets: Buckets, quantiles: FloatArray) -> FloatArray:
    """Interpolate a quantile within its bucket; ``quantiles`` are those of each step."""
    bounds, counts = buckets.bounds, buckets.counts
    shape = (counts.shape[0], counts.shape[2])
    result = np.full(shape, np.nan)
    if len(bounds) >= 2 and bounds[-1] == np.inf:
        result = _interpolated(bounds, counts, quantiles)
    # Quantiles beyond 0 and 1 are infinite whatever the buckets are.
    result = np.where(quantiles < 0, -np.inf, np.where(quantiles > 1, np.inf, result))
    return np.where(np.isnan(quantiles), np.nan, result)


def _interpolated(bounds: FloatArray, counts: FloatArray, quantiles: FloatArray) -> FloatArray:
    total = counts[:, -1, :]
    rank = quantiles * total
    # The first bucket that reaches the rank; the last one holds whatever none else does.
    place = np.count_nonzero(counts[:, :-1, :] < rank[:, None, :], axis=1)
    histogram, step = np.indices(total.shape)
    if np.isnan(counts).any() or np.isnan(rank).any():
        place = _searched(counts, rank)
    upper_count = counts[histogram, place, step]
    below = np.where(place > 0, counts[histogram, np.maximum(place - 1, 0), step], 0.0)
    end = bounds[place]
    start = np.where(place > 0, bounds[np.maximum(place - 1, 0)], 0.0)
    result = start + (end - start) * ((rank - below) / (upper_count - below))
    result = np.where((place == 0) & (bounds[0] <= 0), bounds[0], result)
    result = np.where(place == len(bounds) - 1, bounds[-2], result)
    return np.where(total == 0, np.nan, result)


def _searched(counts: FloatArray, rank: FloatArray) -> IntArray:
    """
    Search for the bucket that reaches a rank by halving, as upstream does. NaN reaches nothing, so
    among counts that are NaN the answer is a matter of the way there.
    """
    histogram, step = np.indices(rank.shape)
    low, high = np.zeros(rank.shape, np.int64), np.full(rank.shape, counts.shape[1] - 1)
    for _ in range(counts.shape[1].bit_length()):
        middle = (low + high) // 2
        reached = (counts[histogram, middle, step] >= rank) | (low >= high)
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
    return low


def histogram_fraction(buckets: Buckets, lower: FloatArray, upper: FloatArray) -> FloatArray:
    """Estimate the share of observations between two values, each given per step."""
    bounds, counts = buckets.bounds, buckets.counts
    shape = (counts.shape[0], counts.shape[2])
    if not len(bounds) or bounds[-1] != np.inf:
        return np.full(shape, np.nan)
    total = counts[:, -1, :]
    fraction = (_rank(buckets, upper) - _rank(buckets, lower)) / total
    fraction = np.where(lower >= upper, 0.0, fraction)
    undefined = (total == 0) | np.isnan(total) | np.isnan(lower) | np.isnan(upper)
    return np.where(undefined, np.nan, fraction)


def _rank(buckets: Buckets, value: FloatArray) -> FloatArray:
    """How many observations lie below a value, by interpolation within its bucket."""
    bounds, counts = buckets.bounds, buckets.counts
    rank = np.broadcast_to(counts[:, -1, :], (counts.shape[0], counts.shape[2])).copy()
    found = np.zeros(len(value), bool)
    below = np.zeros_like(rank)
    start = 0.0 if bounds[0] > 0 else -np.inf
    for index, end in enumerate(bounds):
        count = counts[:, index, :]
        at_start = ~found & (start >= value)
        rank = np.where(at_start, below, rank)
        found |= at_start
        inside = ~found & (value < end)
        if start == -np.inf:
            # Of a bucket without a lower end nobody knows where its observations lie.
            part = count
        else:
            part = below + (count - below) * ((value - start) / (end - start))
        rank = np.where(inside, part, rank)
        found |= inside
        below, start = count, float(end)
    return np.minimum(rank, counts[:, -1, :])


def evaluate(
    block: Block,
    grid: Grid,
    naming: Naming,
    notes: Annotations,
    at: Expr,
    calculate: Calculation,
) -> Block:
    """
    Compute something of every histogram in a vector.

    Args:
        at: The vector's expression, where warnings about labels and monotonicity point to.

    Returns:
        One series per histogram, without ``le`` and metric name.
    """
    labels: list[Labels] = []
    values: list[FloatArray] = []
    masks: list[BoolArray] = []
    for keys, metric_names, bounds, rows in _by_bounds(block, naming, notes, at):
        result = np.zeros((len(keys), grid.steps))
        mask = np.zeros((len(keys), grid.steps), bool)
        counts, present = block.values[rows], block.mask[rows]  # [histograms, buckets, steps]
        for steps, histograms, there in _by_presence(present):
            part = counts[np.ix_(histograms, there, steps)]
            merged = _merge_equal_bounds(bounds[there], part)
            _make_monotonic(
                merged, [metric_names[i] for i in histograms], grid.ts_ms[steps], notes, at
            )
            result[np.ix_(histograms, steps)] = calculate(merged, steps)
            mask[np.ix_(histograms, steps)] = True
        labels += keys
        values.append(result)
        masks.append(mask)
    if not labels:
        return named([], np.empty((0, grid.steps)), np.empty((0, grid.steps), bool))
    return Block(labels, np.concatenate(values), np.concatenate(masks), np.ones(len(labels), bool))


def _by_bounds(
    block: Block, naming: Naming, notes: Annotations, at: Expr
) -> Iterator[tuple[list[Labels], list[str], FloatArray, IntArray]]:
    """
    Put histograms with the same bounds together.

    Yields:
        Labels without ``le`` and metric names of some histograms, their bounds rising, and the
        rows of their buckets, ``[histograms, buckets]``.
    """
    histograms: dict[Labels, list[tuple[float, int]]] = {}
    for row, labels in enumerate(naming.visible(block)):
        text = labels.get(_BUCKET_LABEL)
        if not _BOUND.fullmatch(text):
            notes.bad_bucket_label(block.labels[row].get(METRIC_NAME), text, at)
            continue
        key = labels.without(_BUCKET_LABEL)
        histograms.setdefault(key, []).append((float(text), row))
    same: dict[tuple[float, ...], list[tuple[Labels, list[int]]]] = {}
    for key, buckets in histograms.items():
        buckets.sort()
        bounds = tuple(bound for bound, _ in buckets)
        same.setdefault(bounds, []).append((key, [row for _, row in buckets]))
    for bounds, members in same.items():
        keys = [key for key, _ in members]
        rows = np.array([rows for _, rows in members], np.int64)
        metric_names = [block.labels[row].get(METRIC_NAME) for row in rows[:, 0]]
        yield keys, metric_names, np.array(bounds), rows


def _by_presence(present: BoolArray) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
    """
    Split histograms and steps by which of the buckets have a value there.

    Yields:
        Steps, histograms and buckets such that all these buckets, and no others, have a value.
    """
    everything = np.arange(present.shape[1])
    steps, histograms = np.arange(present.shape[2]), np.arange(present.shape[0])
    if present.all():
        yield steps, histograms, everything
        return
    for histogram in histograms:
        patterns, which = np.unique(present[histogram].T, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            if pattern.any():
                some = np.flatnonzero(which.reshape(-1) == number)
                yield some, histograms[histogram : histogram + 1], np.flatnonzero(pattern)


def _merge_equal_bounds(bounds: FloatArray, counts: FloatArray) -> Buckets:
    """Add up the counts of one bound written in several ways, like ``1`` and ``1.0``."""
    unique, first = np.unique(bounds, return_index=True)
    if len(unique) == len(bounds):
        return Buckets(bounds, counts)
    return Buckets(unique, np.add.reduceat(counts, first, axis=1))


def _make_monotonic(
    buckets: Buckets, metric_names: list[str], times_ms: IntArray, notes: Annotations, at: Expr
) -> None:
    """
    Let cumulative counts never fall, which they may when buckets were scraped at different times.

    Tiny differences, up or down, are rounding and vanish silently.
    """
    counts = buckets.counts
    rises = np.diff(counts, axis=1)
    scale = np.abs(counts[:, 1:, :]) + np.abs(counts[:, :-1, :])
    if not ((rises != 0) & (rises < _TOLERANCE * scale)).any():
        return
    counts = buckets.counts = counts.copy()
    forced = np.zeros((counts.shape[0], counts.shape[2]), bool)
    worst = np.zeros(forced.shape)
    low = np.full(forced.shape, np.inf)
    high = np.full(forced.shape, -np.inf)
    previous = counts[:, 0, :]
    for index in range(1, len(buckets.bounds)):
        current = counts[:, index, :]
        scale = np.abs(previous) + np.abs(current)
        tiny = np.abs(previous - current) < _TOLERANCE * scale
        falls = (current < previous) & ~tiny
        bound = buckets.bounds[index]
        low = np.where(falls, np.minimum(low, bound), low)
        high = np.where(falls, np.maximum(high, bound), high)
        worst = np.where(falls, np.maximum(worst, previous - current), worst)
        forced |= falls
        previous = np.where(tiny | falls, previous, current)
        counts[:, index, :] = previous
    for histogram in np.flatnonzero(forced.any(axis=1)):
        where = forced[histogram]
        concerned = times_ms[where]
        notes.forced_monotonicity(
            metric_names[histogram],
            at,
            (float(low[histogram][where].min()), float(high[histogram][where].max())),
            float(worst[histogram].max()),
            (int(concerned[0]), int(concerned[-1])),
            len(concerned),
        )
