"""Buckets as their definition reads, in plain Python, and a store held to them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from support.store import ALL_MS, Samples, from_bits, unpack
from tachograph.aggregation.rollup import Aggregate, Tier
from tachograph.aggregation.tiers import read_tier
from tachograph.storage.frame import FloatArray
from tachograph.storage.model import STALE_NAN_BITS, Kind, Labels
from tachograph.storage.select import Querier
from tachograph.storage.store import Store

WIDTHS = {Tier.M1: 60_000, Tier.M5: 300_000, Tier.H1: 3_600_000, Tier.D1: 86_400_000}
#: What a sum and an increase may be off, as a share of what was added up.
PROMISE = 1e-12


@dataclass
class Expected:
    """One bucket; ``size`` and ``grown`` are the magnitudes of what its two sums add up."""

    count: int
    sum: float
    size: float
    min: float
    max: float
    last: float
    increase: float
    grown: float

    def of(self, what: Aggregate) -> float:
        if what is Aggregate.AVG:
            return self.sum / self.count
        return float(getattr(self, what.value))

    def slack(self, what: Aggregate) -> float:
        """How far a stored number may be off."""
        if what is Aggregate.SUM:
            return PROMISE * self.size
        if what is Aggregate.AVG:
            return PROMISE * self.size / self.count
        return PROMISE * self.grown if what is Aggregate.INCREASE else 0.0


#: By series and end of the bucket.
Buckets = dict[Labels, dict[int, Expected]]


def recompute(samples: Mapping[int, int], width_ms: int) -> dict[int, Expected]:
    """Return the buckets of one series by their ends, from the bits of its samples by time."""
    found: dict[int, Expected] = {}
    before = None
    ordered = _ordered(samples)
    for end_ms, run in itertools.groupby(ordered, lambda each: -(-each[0] // width_ms) * width_ms):
        values = [value for _, value in run]
        found[end_ms] = _bucket(values, values[0] if before is None else before)
        before = values[-1]
    return found


def _ordered(samples: Mapping[int, int]) -> list[tuple[int, float]]:
    times = sorted(ts_ms for ts_ms, bits in samples.items() if bits != STALE_NAN_BITS)
    values = from_bits([samples[ts_ms] for ts_ms in times]).tolist()
    return list(zip(times, values, strict=True))


def _bucket(values: list[float], before: float) -> Expected:
    numbers = [v for v in values if v == v] or [math.nan]
    # A counter that drops has restarted from 0: it had grown to the value before the drop.
    drops = [a for a, b in zip([before, *values], values, strict=False) if b < a]
    terms = [values[-1], -before, *drops]
    return Expected(
        count=len(values),
        sum=exact_sum(values),
        size=sum(map(abs, values)),
        min=min(numbers),
        max=max(numbers),
        last=values[-1],
        increase=exact_sum(terms),
        # Whole numbers are added up without rounding.
        grown=0.0 if all(map(_is_whole, terms)) else sum(map(abs, terms)),
    )


def exact_sum(values: Iterable[float]) -> float:
    """Add up as if with all digits; NaN and infinities as floats do."""
    values = list(values)
    if all(map(math.isfinite, values)):
        return math.fsum(values)
    return sum(v for v in values if not math.isfinite(v))


def _is_whole(value: float) -> bool:
    return math.isfinite(value) and value == int(value) and abs(value) < 2**50


def check_tiers(
    querier: Querier,
    samples: Samples,
    tiers: Iterable[Tier] = tuple(Tier),
    start_ms: int = -1,
    end_ms: int = 1 << 45,
    aggregates: Iterable[Aggregate] = tuple(Aggregate),
) -> None:
    """Hold aggregates of some tiers, in ``(start_ms, end_ms]``, to what the samples say."""
    for tier in tiers:
        wanted: Buckets = {}
        for labels, each in samples.items():
            buckets = {
                end: bucket
                for end, bucket in recompute(each, WIDTHS[tier]).items()
                if end > start_ms and end - WIDTHS[tier] < end_ms
            }
            if buckets:
                wanted[labels] = buckets
        check_tier(querier, wanted, tier, start_ms, end_ms, aggregates)


def check_tier(
    querier: Querier,
    wanted: Buckets,
    tier: Tier,
    start_ms: int = -1,
    end_ms: int = 1 << 45,
    aggregates: Iterable[Aggregate] = tuple(Aggregate),
) -> None:
    """Hold aggregates of a tier, in ``(start_ms, end_ms]``, to some buckets."""
    refs = querier.index.select(())
    kinds = {series.labels: series.kind for series in querier.index.series()}
    for what in aggregates:
        found = {
            series.series.labels: dict(
                zip(series.end_ms.tolist(), series.values.tolist(), strict=True)
            )
            for series in read_tier(querier, refs, tier, what, start_ms, end_ms)
        }
        # Resets of gauges are not kept.
        must = {
            labels
            for labels in wanted
            if what is not Aggregate.INCREASE or kinds[labels] is not Kind.GAUGE
        }
        assert set(found) == must, f"{tier.label} {what}: series"
        for labels, values in found.items():
            expected = wanted[labels]
            assert values.keys() == expected.keys(), f"{tier.label} {what} of {labels}: buckets"
            ends = list(values)
            got = np.array(list(values.values()))
            want = np.array([expected[end].of(what) for end in ends])
            slack = np.array([expected[end].slack(what) for end in ends])
            for bad in np.flatnonzero(~_same(got, want, slack))[:1].tolist():
                raise AssertionError(
                    f"{tier.label} {what} of {labels} at {ends[bad]}: "
                    f"{got[bad]!r}, not {want[bad]!r}"
                )


def _same(got: FloatArray, want: FloatArray, slack: FloatArray) -> npt.NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        near: npt.NDArray[np.bool_] = np.abs(got - want) <= slack
    alike: npt.NDArray[np.bool_] = near | (got == want) | (np.isnan(got) & np.isnan(want))
    return alike


async def assert_right(
    store: Store,
    samples: Samples,
    tiers: Iterable[Tier] = tuple(Tier),
    start_ms: int = -1,
    end_ms: int = 1 << 45,
    aggregates: Iterable[Aggregate] = tuple(Aggregate),
) -> None:
    """Hold a store to its samples: raw reads bit by bit, and tiers (see :func:`check_tiers`)."""

    def job(querier: Querier) -> Samples:
        check_tiers(querier, samples, tiers, start_ms, end_ms, aggregates)
        return unpack(querier.select((), *ALL_MS))

    found = await store.read(job)
    expected = {labels: each for labels, each in samples.items() if each}
    assert found.keys() == expected.keys(), "raw: series"
    for labels, each in expected.items():
        assert found[labels] == each, f"raw samples of {labels}"


async def orphans(store: Store) -> int:
    """Count the chunks that belong to no block."""
    sql = "SELECT count(*) FROM chunk WHERE block NOT IN (SELECT id FROM block)"
    return int(await store.writer.run(lambda c: c.execute(sql).fetchone()[0]))
