"""Range functions against plain definitions of them, sample by sample."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.promql import MemoryQuerier
from tachograph.aggregation.promql.aggregators import compensated_sums
from tachograph.aggregation.promql.engine import Engine, EngineOptions
from tachograph.aggregation.promql.windows import fold
from tachograph.storage.frame import STALE_NAN

Points = Sequence[tuple[int, float]]
STEP_MS, RANGE_MS = 20_000, 60_000


def window(points: Points, end_ms: int) -> list[tuple[int, float]]:
    return [(t, v) for t, v in points if end_ms - RANGE_MS < t <= end_ms]


def extrapolate(points: Points, end_ms: int, *, counter: bool) -> float | None:
    if len(points) < 2:
        return None
    (first_ms, first), (last_ms, last) = points[0], points[-1]
    change = last - first
    if counter:
        change += sum(a for (_, a), (_, b) in itertools.pairwise(points) if b < a)
    sampled = (last_ms - first_ms) / 1000
    interval = sampled / (len(points) - 1)
    to_start, to_end = (first_ms - end_ms + RANGE_MS) / 1000, (end_ms - last_ms) / 1000
    to_start = interval / 2 if to_start >= 1.1 * interval else to_start
    to_end = interval / 2 if to_end >= 1.1 * interval else to_end
    if counter and change > 0 and first >= 0:
        to_start = min(to_start, sampled * first / change)
    return change * (sampled + to_start + to_end) / sampled


def slope(points: Points, end_ms: int) -> float | None:
    if len(points) < 2:
        return None
    seconds = [(t - end_ms) / 1000 for t, _ in points]
    values = [v for _, v in points]
    if len(set(values)) == 1:
        return 0.0
    return statistics.linear_regression(seconds, values).slope


def values_of(points: Points) -> list[float]:
    return [v for _, v in points]


def pairs(points: Points) -> list[tuple[float, float]]:
    values = values_of(points)
    return list(itertools.pairwise(values))


def some(function: Callable[[list[float]], float]) -> Callable[[Points, int], float | None]:
    return lambda points, _: function(values_of(points)) if points else None


def quantile(values: list[float], phi: float) -> float:
    values = sorted(values)
    rank = phi * (len(values) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(values) - 1)
    return values[low] * (1 - (rank - low)) + values[high] * (rank - low)


def over_range(value: float | None) -> float | None:
    return None if value is None else value / (RANGE_MS / 1000)


def irate(points: Points, _: int) -> float | None:
    if len(points) < 2:
        return None
    (a_ms, a), (b_ms, b) = points[-2:]
    return (b if b < a else b - a) / ((b_ms - a_ms) / 1000)


DEFINITIONS: dict[str, Callable[[Points, int], float | None]] = {
    "rate(x[1m])": lambda p, t: over_range(extrapolate(p, t, counter=True)),
    "increase(x[1m])": lambda p, t: extrapolate(p, t, counter=True),
    "delta(x[1m])": lambda p, t: extrapolate(p, t, counter=False),
    "irate(x[1m])": irate,
    "idelta(x[1m])": lambda p, _: p[-1][1] - p[-2][1] if len(p) > 1 else None,
    "changes(x[1m])": lambda p, _: float(sum(a != b for a, b in pairs(p))) if p else None,
    "resets(x[1m])": lambda p, _: float(sum(b < a for a, b in pairs(p))) if p else None,
    "deriv(x[1m])": slope,
    "sum_over_time(x[1m])": some(math.fsum),
    "avg_over_time(x[1m])": some(lambda values: math.fsum(values) / len(values)),
    "min_over_time(x[1m])": some(min),
    "max_over_time(x[1m])": some(max),
    "count_over_time(x[1m])": some(lambda values: float(len(values))),
    "present_over_time(x[1m])": some(lambda values: 1.0),
    "last_over_time(x[1m])": some(lambda values: values[-1]),
    "first_over_time(x[1m])": some(lambda values: values[0]),
    "stddev_over_time(x[1m])": some(statistics.pstdev),
    "stdvar_over_time(x[1m])": some(statistics.pvariance),
    "quantile_over_time(0.3, x[1m])": some(lambda values: quantile(values, 0.3)),
    "mad_over_time(x[1m])": some(
        lambda values: quantile([abs(v - quantile(values, 0.5)) for v in values], 0.5)
    ),
    "ts_of_first_over_time(x[1m])": lambda p, _: p[0][0] / 1000 if p else None,
    "ts_of_last_over_time(x[1m])": lambda p, _: p[-1][0] / 1000 if p else None,
    "ts_of_max_over_time(x[1m])": lambda p, _: (
        max(p, key=lambda point: (point[1], point[0]))[0] / 1000 if p else None
    ),
    "ts_of_min_over_time(x[1m])": lambda p, _: (
        max(p, key=lambda point: (-point[1], point[0]))[0] / 1000 if p else None
    ),
}

samples = st.lists(
    st.one_of(
        st.sampled_from([0.0, 1.0, 5.0, -3.0]),
        st.floats(-1e6, 1e6).map(lambda value: round(value, 3)),
        st.sampled_from([None, STALE_NAN]),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=25, deadline=None)
@given(st.lists(samples, min_size=1, max_size=4), st.integers(0, 9_999), st.booleans())
def test_every_range_function_does_what_it_says(
    rows: list[list[float | None]], offset_ms: int, grouped: bool
) -> None:
    querier = MemoryQuerier(grouped=grouped)
    kept: dict[str, list[tuple[int, float]]] = {}
    for number, row in enumerate(rows):
        # In a group all series share their times; alone each has its own.
        shift_ms = offset_ms if grouped else offset_ms + 137 * number
        points = [(shift_ms + 10_000 * i, v) for i, v in enumerate(row) if v is not None]
        querier.add({"__name__": "x", "n": str(number)}, points)
        kept[str(number)] = [(t, v) for t, v in points if not math.isnan(v)]
    engine = Engine(EngineOptions(experimental=True))
    for text, definition in DEFINITIONS.items():
        result = engine.range(querier, text, 0, 420_000, STEP_MS)
        got = {labels.get("n"): dict(zip(t, v, strict=True)) for labels, t, v in result.series()}
        for name, points in kept.items():
            expected = {
                t: value
                for t in range(0, 420_001, STEP_MS)
                if (value := definition(window(points, t), t)) is not None
            }
            mine = got.get(name, {})
            assert set(mine) == set(expected), text
            for t, value in expected.items():
                scale = max((abs(v) for _, v in window(points, t)), default=1.0)
                assert mine[t] == pytest.approx(value, rel=1e-9, abs=1e-9 * scale), (text, t)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_folding_windows_equals_folding_each(data: st.DataObject) -> None:
    rows, width = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 70))
    steps = data.draw(st.integers(1, 60))
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, width))
    shape = (steps,) if data.draw(st.booleans()) else (rows, steps)
    low = rng.integers(0, width + 1, shape)
    high = np.minimum(low + rng.integers(0, width + 1, shape), width)
    for ufunc, nothing, plain in (
        (np.add, 0.0, math.fsum),
        (np.fmax, -np.inf, max),
        (np.fmin, np.inf, min),
    ):
        result = fold(ufunc, matrix, low, high, nothing)
        wide_low, wide_high = (np.broadcast_to(part, (rows, steps)) for part in (low, high))
        for row in range(rows):
            for step in range(steps):
                cells = matrix[row, wide_low[row, step] : wide_high[row, step]].tolist()
                expected = plain(cells) if cells else nothing
                assert result[row, step] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(-1e15, 1e15), min_size=1, max_size=20), min_size=1, max_size=6))
def test_compensated_sums_are_as_good_as_exact_ones(groups: list[list[float]]) -> None:
    values = np.array([[value] for group in groups for value in group])
    starts = np.cumsum([0, *(len(group) for group in groups[:-1])])
    total, lost = compensated_sums(values, starts)
    for group, got in zip(groups, (total + lost)[:, 0], strict=True):
        # Twice the precision: what is left is far below the parts' own rounding.
        assert got == pytest.approx(math.fsum(group), rel=1e-15, abs=1e-13)


@pytest.mark.parametrize(
    "order", [(1, 1e100, 1, -1e100), (1e100, 1, -1e100, 1), (1, 1, 1e100, -1e100)]
)
def test_sums_do_not_lose_small_values_between_large_ones(order: tuple[float, ...]) -> None:
    querier = MemoryQuerier(grouped=True)
    querier.add({"__name__": "x"}, [(10_000 * i, v) for i, v in enumerate(order)])
    for number, value in enumerate(order):
        querier.add({"__name__": "y", "n": str(number)}, [(30_000, value)])
    engine = Engine()
    for text in ("sum_over_time(x[1m])", "avg_over_time(x[1m]) * 4", "sum(y)", "avg(y) * 4"):
        assert engine.instant(querier, text, 30_000).values.tolist() == [[2.0]], text


def test_equal_values_have_no_deviation_and_their_own_mean() -> None:
    querier = MemoryQuerier()
    for number in range(100):
        points = [(1_000 * i, 1.33 * 3) for i in range(60)]
        querier.add({"__name__": "x", "n": str(number)}, points)
    engine = Engine()
    for text in ("stddev(x)", "stdvar_over_time(x[1m])", "deriv(x[1m])"):
        values = engine.instant(querier, text, 59_000).values
        assert np.array_equal(values, np.zeros_like(values)), text


def test_means_survive_sums_that_overflow() -> None:
    querier = MemoryQuerier(grouped=True)
    for number in range(4):
        points = [(10_000 * i, 9e307) for i in range(4)]
        querier.add({"__name__": "x", "n": str(number)}, points)
    engine = Engine()
    assert engine.instant(querier, "avg(x)", 30_000).values.tolist() == [[9e307]]
    assert engine.instant(querier, "avg(avg_over_time(x[1m]))", 30_000).values.tolist() == [[9e307]]
    assert engine.instant(querier, "sum(x)", 30_000).values.tolist() == [[math.inf]]
