from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tachograph.aggregation import rollup as r
from tachograph.aggregation.rollup import Aggregate, Buckets, Tier
from tachograph.storage.frame import ABSENT, STALE_NAN, FloatArray, IntArray
from tachograph.storage.keys import day_of
from tachograph.storage.model import ABSENT_BITS, STALE_NAN_BITS

MINUTE = 60_000
DAY = 86_400_000
EXACT = ("index", "count", "min", "max", "first", "last", "first_ms", "last_ms")


def is_sample(value: float) -> bool:
    return int(np.float64(value).view(np.uint64)) not in (STALE_NAN_BITS, ABSENT_BITS)


@dataclass
class Naive:
    """One bucket, computed as the definition reads, sample by sample."""

    index: int
    count: int
    sum: float
    size: float
    min: float
    max: float
    first: float
    last: float
    first_ms: int
    last_ms: int
    resets: float

    @classmethod
    def of(cls, index: int, samples: list[tuple[int, float]]) -> Naive:
        values = [v for _, v in samples]
        real = [v for v in values if not math.isnan(v)] or [math.nan]
        resets = 0.0
        for before, after in itertools.pairwise(values):
            if after < before:
                resets += before
        return cls(
            index=index,
            count=len(values),
            sum=math.fsum(values) if all(map(math.isfinite, values)) else sum(values),
            size=sum(abs(v) for v in values if math.isfinite(v)),
            min=min(real),
            max=max(real),
            first=values[0],
            last=values[-1],
            first_ms=samples[0][0],
            last_ms=samples[-1][0],
            resets=resets,
        )


def naive_rollup(ts_ms: IntArray, values: FloatArray, width_ms: int) -> list[Naive]:
    found: dict[int, list[tuple[int, float]]] = {}
    for t, v in zip(ts_ms.tolist(), values, strict=True):
        if is_sample(v):
            found.setdefault(math.ceil(t / width_ms) - 1, []).append((t, float(v)))
    return [Naive.of(index, samples) for index, samples in sorted(found.items())]


def naive_increase(values: list[float], before: float | None) -> float:
    total = 0.0
    for v in values:
        if before is not None:
            total += v if v < before else v - before
        before = v
    return total


def check(buckets: Buckets, expected: list[Naive]) -> None:
    assert len(buckets) == len(expected)
    for name in EXACT:
        np.testing.assert_array_equal(
            getattr(buckets, name), [getattr(one, name) for one in expected], err_msg=name
        )
    for got, one in zip(buckets.sum.tolist(), expected, strict=True):
        assert _near(got, one.sum, one.size), "sum"
    for got, one in zip(buckets.resets.tolist(), expected, strict=True):
        assert _near(got, one.resets, one.size), "resets"


def _near(got: float, expected: float, size: float) -> bool:
    if not math.isfinite(expected):
        return got == expected or (math.isnan(got) and math.isnan(expected))
    return abs(got - expected) <= 1e-12 * size


def same(one: Buckets, other: Buckets) -> None:
    for field in fields(Buckets):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if field.name in ("sum", "resets"):
            np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-6, err_msg=field.name)
        else:
            np.testing.assert_array_equal(left, right, err_msg=field.name)


@st.composite
def times(draw: st.DrawFn, max_size: int = 120) -> IntArray:
    """Rising times with jitter, gaps and samples exactly on the borders, around a midnight."""
    start = draw(st.sampled_from([0, 1, 59_999, 60_000, 60_001, DAY - 300_000, 7 * DAY]))
    step = st.sampled_from([1, 999, 10_000, 15_000, 30_000, 60_000, 61_000, 400_000, 4_000_000])
    steps = draw(st.lists(step, max_size=max_size))
    ts: IntArray = start + np.cumsum(np.array([0, *steps], dtype=np.int64))
    return ts


VALUE = st.one_of(
    st.integers(0, 1000).map(float),
    st.floats(-1e6, 1e6, allow_subnormal=False),
    st.sampled_from([STALE_NAN, ABSENT, math.nan, math.inf, -math.inf, 0.0]),
)
#: Values whose sums are exact: then every column must agree exactly.
WHOLE = st.one_of(st.integers(0, 50).map(float), st.sampled_from([STALE_NAN, ABSENT]))


@st.composite
def series(draw: st.DrawFn, value: st.SearchStrategy[float] = VALUE) -> tuple[IntArray, FloatArray]:
    ts = draw(times())
    values = draw(st.lists(value, min_size=len(ts), max_size=len(ts)))
    return ts, np.array(values, dtype=np.float64)


@st.composite
def frames(draw: st.DrawFn) -> tuple[IntArray, FloatArray]:
    ts = draw(times(max_size=40))
    rows = draw(st.integers(0, 4))
    kinds = [
        draw(st.sampled_from([VALUE, WHOLE, st.integers(0, 9).map(float)])) for _ in range(rows)
    ]
    cells = [draw(st.lists(kind, min_size=len(ts), max_size=len(ts))) for kind in kinds]
    return ts, np.array(cells, dtype=np.float64).reshape(rows, len(ts))


@settings(max_examples=150, deadline=None)
@given(data=series(), tier=st.sampled_from(Tier))
def test_rollup_equals_the_definition(data: tuple[IntArray, FloatArray], tier: Tier) -> None:
    ts, values = data
    check(r.rollup(ts, values, tier.width_ms), naive_rollup(ts, values, tier.width_ms))


@settings(max_examples=100, deadline=None)
@given(data=frames(), tier=st.sampled_from([Tier.M1, Tier.M5]))
def test_rows_of_a_frame_are_rolled_up_each_alone(
    data: tuple[IntArray, FloatArray], tier: Tier
) -> None:
    ts, values = data
    rows = r.rollup_rows(ts, values, tier.width_ms)
    assert len(rows) == len(values)
    for buckets, row in zip(rows, values, strict=True):
        check(buckets, naive_rollup(ts, row, tier.width_ms))


@settings(max_examples=100, deadline=None)
@given(data=frames())
def test_rollup_of_rollups_equals_rollup_of_samples(data: tuple[IntArray, FloatArray]) -> None:
    ts, values = data
    rows = r.rollup_rows(ts, values, Tier.M1.width_ms)
    for finer, coarser in ((Tier.M1, Tier.M5), (Tier.M5, Tier.H1), (Tier.H1, Tier.D1)):
        rows = r.coarsen_rows(rows, finer.width_ms, coarser.width_ms)
        for buckets, row in zip(rows, values, strict=True):
            check(buckets, naive_rollup(ts, row, coarser.width_ms))


@settings(max_examples=100, deadline=None)
@given(data=series(WHOLE))
def test_rollup_of_rollups_is_exact_where_sums_are(data: tuple[IntArray, FloatArray]) -> None:
    ts, values = data
    cascaded = r.coarsen(r.rollup(ts, values, MINUTE), MINUTE, 3_600_000)
    direct = r.rollup(ts, values, 3_600_000)
    for field in fields(Buckets):
        np.testing.assert_array_equal(getattr(cascaded, field.name), getattr(direct, field.name))


@settings(max_examples=100, deadline=None)
@given(data=series(WHOLE), cut=st.integers(0, 200), tier=st.sampled_from(Tier))
def test_parts_cut_anywhere_merge_into_the_whole(
    data: tuple[IntArray, FloatArray], cut: int, tier: Tier
) -> None:
    ts, values = data
    # Parts are whole days: a marker stays with the sample that it follows.
    while cut < len(ts) and not is_sample(values[cut]):
        cut += 1
    parts = [
        r.rollup(ts[cut:], values[cut:], tier.width_ms),
        r.rollup(ts[:cut], values[:cut], tier.width_ms),
    ]
    same(r.merge(parts), r.rollup(ts, values, tier.width_ms))


@settings(max_examples=150, deadline=None)
@given(data=series(WHOLE), tier=st.sampled_from(Tier), before=st.none() | st.integers(0, 50))
def test_increase_adds_the_steps_between_samples(
    data: tuple[IntArray, FloatArray], tier: Tier, before: int | None
) -> None:
    ts, values = data
    buckets = r.rollup(ts, values, tier.width_ms)
    got = r.aggregate(buckets, Aggregate.INCREASE, before)
    present = [(t, float(v)) for t, v in zip(ts.tolist(), values, strict=True) if is_sample(v)]
    last = None if before is None else float(before)
    for index, grown in zip(buckets.index.tolist(), got.tolist(), strict=True):
        inside = [v for t, v in present if (t - 1) // tier.width_ms == index]
        assert grown == naive_increase(inside, last)
        last = inside[-1]
    if before is not None:
        assert got.sum() == naive_increase([v for _, v in present], float(before))


def test_sums_keep_twelve_digits_over_a_day() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(0, 1e6, 86_400) + 1e9 * rng.choice([-1, 1], 86_400)
    ts = 1000 * np.arange(1, 86_401)
    buckets = r.rollup(ts, values, MINUTE)
    for finer, coarser in ((Tier.M1, Tier.M5), (Tier.M5, Tier.H1), (Tier.H1, Tier.D1)):
        buckets = r.coarsen(buckets, finer.width_ms, coarser.width_ms)
    assert len(buckets) == 1
    assert abs(buckets.sum[0] - math.fsum(values)) <= 1e-14 * np.abs(values).sum()


def test_sample_on_a_border_belongs_to_the_bucket_that_ends_there() -> None:
    ts = np.array([0, 1, 60_000, 60_001, DAY, DAY + 1])
    buckets = r.rollup(ts, np.arange(6.0), MINUTE)
    assert buckets.index.tolist() == [-1, 0, 1, 1439, 1440]
    assert buckets.count.tolist() == [1, 2, 1, 1, 1]
    days = r.coarsen(buckets, MINUTE, DAY)
    assert days.index.tolist() == sorted({day_of(t) for t in ts.tolist()}) == [-1, 0, 1]


def test_counter_reset_between_two_buckets_counts_from_zero() -> None:
    ts = np.array([10_000, 50_000, 70_000, 110_000])
    buckets = r.rollup(ts, np.array([90.0, 100.0, 3.0, 7.0]), MINUTE)
    assert buckets.resets.tolist() == [0, 0]
    assert r.increase(buckets, 80.0).tolist() == [20.0, 7.0]
    hour = r.coarsen(buckets, MINUTE, 3_600_000)
    assert hour.resets.tolist() == [100.0]
    assert r.increase(hour).tolist() == [17.0]


def test_stale_marker_is_no_sample_and_other_nan_is() -> None:
    ts = 1000 * np.arange(1, 5)
    buckets = r.rollup(ts, np.array([2.0, math.nan, 1.0, STALE_NAN]), MINUTE)
    assert buckets.count.tolist() == [3]
    assert math.isnan(buckets.sum[0])
    assert (buckets.min[0], buckets.max[0], buckets.last[0]) == (1.0, 2.0, 1.0)
    assert buckets.last_ms.tolist() == [3000]
    # 2 -> NaN -> 1 is no drop: neither comparison holds.
    assert buckets.resets.tolist() == [0]


def test_aggregates_of_a_bucket() -> None:
    buckets = r.rollup(1000 * np.arange(1, 5), np.array([4.0, 6.0, 1.0, 3.0]), MINUTE)
    got = {what.value: r.aggregate(buckets, what, 3.0).tolist() for what in Aggregate}
    assert got == {
        "avg": [3.5],
        "sum": [14.0],
        "min": [1.0],
        "max": [6.0],
        "count": [4.0],
        "last": [3.0],
        "increase": [6.0],
    }


def test_nothing_rolls_up_to_nothing() -> None:
    none = np.empty(0, np.int64)
    assert len(r.rollup(none, np.empty(0), MINUTE)) == 0
    assert [len(b) for b in r.rollup_rows(none, np.empty((3, 0)), MINUTE)] == [0, 0, 0]
    stale = np.full((2, 5), STALE_NAN)
    rows = r.rollup_rows(np.arange(1, 6), stale, MINUTE)
    assert [len(b) for b in r.coarsen_rows(rows, MINUTE, DAY)] == [0, 0]
    assert len(r.merge([])) == 0
    assert len(r.increase(r.empty(), 1.0)) == 0


def test_between_takes_both_ends() -> None:
    buckets = r.rollup(MINUTE * np.arange(1, 10), np.arange(9.0), MINUTE)
    assert buckets.between(2, 4).index.tolist() == [2, 3, 4]


def test_widths_must_divide() -> None:
    with pytest.raises(ValueError, match="is not made of"):
        r.coarsen(r.empty(), 60_000, 90_000)
