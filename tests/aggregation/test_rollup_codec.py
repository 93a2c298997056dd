from __future__ import annotations

import math
import random
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tachograph.aggregation import rollup as r
from tachograph.aggregation import rollup_codec as rc
from tachograph.aggregation.rollup import Buckets, Tier
from tachograph.storage.codec import HAS_PCODEC, CodecError
from tachograph.storage.frame import STALE_NAN, FloatArray, IntArray

DAY_MS = 86_400_000
DAY = 20_454
NEEDS_PCODEC = pytest.mark.skipif(not HAS_PCODEC, reason="pcodec has no wheel here")
BOTH = pytest.mark.parametrize(
    "pco", [pytest.param(True, marks=NEEDS_PCODEC), False], ids=["pco", "no pco"]
)


def times(n: int, interval_ms: int = 10_000, start_ms: int = DAY * DAY_MS) -> IntArray:
    return start_ms + interval_ms * np.arange(1, n + 1, dtype=np.int64)


def check(got: Buckets, expected: Buckets, *, is_exact: bool = False) -> None:
    """All columns bit for bit, but sums of decimals, which may lose their rounding errors."""
    with np.errstate(over="ignore"):
        size = expected.count * np.fmax(np.abs(expected.min), np.abs(expected.max))
    for field in fields(Buckets):
        left, right = getattr(got, field.name), getattr(expected, field.name)
        assert left.dtype == right.dtype
        if is_exact or field.name not in ("sum", "resets"):
            assert left.view(np.int64).tolist() == right.view(np.int64).tolist(), field.name
            continue
        with np.errstate(invalid="ignore"):
            is_near = (left == right) | (np.abs(left - right) <= 1e-13 * size)
        assert (is_near | (np.isnan(left) & np.isnan(right))).all(), field.name


DECIMALS = st.integers(-5000, 100_000).map(lambda i: i / 100)
ODD = st.sampled_from([math.nan, math.inf, -math.inf, -0.0, STALE_NAN, 5e-324, 1e300])
VALUES = st.one_of(
    st.lists(DECIMALS, min_size=1, max_size=200),
    st.lists(st.integers(0, 50).map(float), min_size=1, max_size=200),
    st.lists(st.integers(0, 2**51).map(lambda i: i * 4096.0), min_size=1, max_size=60),
    st.lists(st.floats(allow_nan=False), min_size=1, max_size=60),
    st.lists(DECIMALS | ODD, min_size=1, max_size=60),
    st.tuples(st.floats(allow_nan=False), st.integers(1, 200)).map(lambda t: [t[0]] * t[1]),
)


@st.composite
def days(draw: st.DrawFn) -> tuple[IntArray, FloatArray]:
    """One day of one series: regular, jittered or with gaps, its ends possibly on the borders."""
    values = np.array(draw(VALUES), dtype=np.float64)
    n = len(values)
    interval = draw(st.sampled_from([1000, 7000, 10_000, 60_000, 400_000]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    jitter = draw(st.sampled_from([0, 0, 3]))
    ts = times(n, interval) + rng.integers(-jitter, jitter + 1, n)
    if draw(st.booleans()):
        ts += np.cumsum(rng.integers(0, 2, n) * 61_000)
    ts = np.unique(np.clip(ts, DAY * DAY_MS + 1, (DAY + 1) * DAY_MS))
    return ts, values[: len(ts)]


@BOTH
@settings(max_examples=200, deadline=None)
@given(data=days(), tier=st.sampled_from(Tier))
def test_any_day_of_buckets_comes_back(
    data: tuple[IntArray, FloatArray], tier: Tier, pco: bool
) -> None:
    buckets = r.rollup(*data, tier.width_ms)
    if len(buckets):
        check(rc.decode_day(rc.encode_day(buckets, DAY, pco=pco), tier, DAY), buckets)


@BOTH
@pytest.mark.parametrize("tier", list(Tier))
def test_floats_that_are_no_decimals_come_back_with_exact_sums(tier: Tier, pco: bool) -> None:
    values = np.random.default_rng(1).normal(size=8640)
    values[500] = math.nan
    buckets = r.rollup(times(8640), values, tier.width_ms)
    decoded = rc.decode_day(rc.encode_day(buckets, DAY, pco=pco), tier, DAY)
    check(decoded, buckets, is_exact=True)


def test_sum_of_decimals_loses_its_rounding_errors() -> None:
    buckets = r.rollup(times(6), np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3]), 60_000)
    assert buckets.sum.tolist() != [1.2]
    assert rc.decode_day(rc.encode_day(buckets, DAY), Tier.M1, DAY).sum.tolist() == [1.2]


def test_decimals_inside_a_bucket_may_be_finer_than_those_at_its_ends() -> None:
    buckets = r.rollup(times(6), np.array([0.0, 0.123, 0.5, 0.7, 0.25, 1.0]), 60_000)
    blob = rc.encode_day(buckets, DAY)
    assert len(blob) < 20
    assert rc.decode_day(blob, Tier.M1, DAY).sum.tolist() == [2.573]


def test_resets_of_a_gauge_may_be_left_out() -> None:
    buckets = r.rollup(times(6), np.array([5.0, 3.0, 4.0, 1.0, 5.0, 3.0]), 60_000)
    assert buckets.resets.tolist() == [14]
    kept, left_out = rc.encode_day(buckets, DAY), rc.encode_day(buckets, DAY, keep_resets=False)
    assert rc.decode_day(kept, Tier.M1, DAY).resets.tolist() == [14]
    assert np.isnan(rc.decode_day(left_out, Tier.M1, DAY).resets).all()
    assert len(left_out) < len(kept)
    # What was left out once stays unknown, and does no harm.
    again = rc.encode_day(rc.decode_day(left_out, Tier.M1, DAY), DAY)
    assert np.isnan(rc.decode_day(again, Tier.M1, DAY).resets).all()


@pytest.mark.parametrize("tier", list(Tier))
def test_rows_of_many_days_join_into_one_run(tier: Tier) -> None:
    rng = np.random.default_rng(6)
    n = 3 * 8640
    values = np.cumsum(rng.poisson(2, n)).astype(np.float64)
    values[9000:17000] = 3.5  # a constant day between two others
    ts = times(n)
    kept = rng.random(n) < np.repeat([1.0, 0.002, 0.9], 8640)
    buckets = r.rollup(ts[kept], values[kept], tier.width_ms)
    per_day = DAY_MS // tier.width_ms
    rows = []
    for day in range(DAY, DAY + 3):
        part = buckets.between(day * per_day, (day + 1) * per_day - 1)
        rows.append((day, rc.encode_day(part, day)))
    check(rc.decode_days(rows, tier), buckets)


@settings(max_examples=40, deadline=None)
@given(
    series=st.lists(days(), min_size=1, max_size=5),
    tier=st.sampled_from(Tier),
    shift=st.integers(1, 3),
    bad=st.none() | st.integers(0, 30),
)
def test_rows_of_many_series_are_decoded_together(
    series: list[tuple[IntArray, FloatArray]], tier: Tier, shift: int, bad: int | None
) -> None:
    rows: list[tuple[int, int, bytes]] = []
    expected: dict[int, dict[int, Buckets]] = {}
    for ref, (ts, values) in enumerate(series):
        for day in range(3):
            with np.errstate(all="ignore"):
                scaled = values * shift**day
            part = r.rollup(ts + day * DAY_MS, scaled, tier.width_ms)
            if len(part):
                rows.append((ref, DAY + day, rc.encode_day(part, DAY + day)))
                expected.setdefault(ref, {})[DAY + day] = part
    rows.sort(key=lambda row: (row[1] * 7 + row[0] * 5) % 11)
    lost = []
    if bad is not None and rows:
        ref, day, blob = rows[bad % len(rows)]
        rows[bad % len(rows)] = (ref, day, blob[:-1])
        lost = [(ref, day)]
        del expected[ref][day]
    found, damaged = rc.decode_rows(rows, tier)
    assert damaged == lost
    assert found.keys() == {ref for ref, parts in expected.items() if parts}
    for ref, buckets in found.items():
        check(buckets, r.merge(list(expected[ref].values())))


def test_no_rows_are_no_buckets() -> None:
    assert len(rc.decode_days([], Tier.M1)) == 0


def test_day_before_the_epoch_holds_its_last_millisecond() -> None:
    for tier in Tier:
        buckets = r.rollup(np.array([0]), np.array([7.0]), tier.width_ms)
        check(rc.decode_day(rc.encode_day(buckets, -1), tier, -1), buckets)


@pytest.mark.parametrize(
    ("values", "most"),
    [
        (np.full(8640, 1.0), (24, 24, 24, 24)),
        (1e6 + 30.0 * np.arange(8640), (35, 35, 35, 35)),
        (np.full(8640, 0.1), (250, 100, 30, 30)),  # snapped back to its decimal
    ],
    ids=["constant", "steady counter", "constant decimal"],
)
def test_days_without_surprises_take_next_to_nothing(
    values: FloatArray, most: tuple[int, ...]
) -> None:
    for tier, size in zip(Tier, most, strict=True):
        buckets = r.rollup(times(8640), values, tier.width_ms)
        assert len(rc.encode_day(buckets, DAY)) <= size


def test_steady_scrape_of_any_interval_stores_no_times() -> None:
    values = np.round(np.random.default_rng(1).normal(50, 1, 12_000), 1)
    sizes = [
        len(rc.encode_day(r.rollup(times(12_000, interval), values, 300_000), DAY))
        for interval in (7_000, 7_200)
    ]
    assert abs(sizes[0] - sizes[1]) < 150


def _counter() -> Buckets:
    i = np.arange(240)
    values = np.cumsum(i * 7 % 5).astype(np.float64)
    values[130:] -= values[130]  # a reset
    return r.rollup(times(240), values, 60_000)


def _noise() -> Buckets:
    i = np.arange(1, 61)
    return r.rollup(times(60) - i * 5 % 4, i / 7, 300_000)


GOLDEN = {
    "large": (
        _counter,
        Tier.M1,
        "81aa022050a09c01a09c01000c362826264626041001020401001000f0ff1b12338819c40c620631839841cc"
        "20660410010a040100250000fc7ec003000254510a080410000401002500f0008000080002ea2a0504041000"
        "0401002500f0008000200002ea2a050404100105040100450060f67fa0ecff81050008c03e20003a0108c715"
        "0ecc53879402000410000401002500f0008000100402ea2a0504",
    ),
    "small, bits": (
        _noise,
        Tier.M5,
        "65823c3004a09c019e9c01a492c9a492c9a4c27f3c01caa492c9a492490106eeb6dbedb6dbed4eb6dbedb6db"
        "edb60f0001",
    ),
}


@NEEDS_PCODEC
@pytest.mark.parametrize("name", list(GOLDEN))
def test_rows_of_the_first_version_stay_readable(name: str) -> None:
    buckets, tier, blob = GOLDEN[name]
    check(rc.decode_day(bytes.fromhex(blob), tier, DAY), buckets(), is_exact=True)


def test_damaged_rows_raise_only_codec_errors() -> None:
    rng = random.Random(3)
    samples = [(rc.encode_day(_counter(), DAY, pco=HAS_PCODEC), Tier.M1)]
    samples += [(rc.encode_day(_counter(), DAY, pco=False), Tier.M1)]
    samples += [(rc.encode_day(_noise(), DAY), Tier.M5)]
    samples += [(rc.encode_day(r.coarsen(_counter(), 60_000, DAY_MS), DAY), Tier.D1)]
    refused = 0
    for _ in range(4000):
        blob, tier = rng.choice(samples)
        damaged = bytearray(blob)
        match rng.randrange(5):
            case 0:
                del damaged[rng.randrange(len(damaged)) :]
            case 1:
                damaged += rng.randbytes(rng.randint(1, 9))
            case 2:
                damaged = bytearray(rng.randbytes(rng.randint(0, 60)))
            case 3:
                for _ in range(rng.randint(1, 4)):
                    damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            case _:
                # The numbers at the front: lengths and times.
                for _ in range(rng.randint(1, 3)):
                    damaged[rng.randrange(min(20, len(damaged)))] ^= 1 << rng.randrange(8)
        try:
            buckets = rc.decode_day(bytes(damaged), rng.choice([tier, tier, *Tier]), DAY)
        except CodecError:
            refused += 1
        else:
            assert (buckets.count > 0).all()
            assert (buckets.index[1:] > buckets.index[:-1]).all()
    assert refused > 2000
