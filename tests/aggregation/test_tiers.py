"""Reading a tier: stored rows, the open day, damaged rows, what lies before a range."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.history import COUNTERS, DAY, GAUGES, HOUR, LOOSE, MIDNIGHT, MINUTE, SECOND, History
from support.rollups import recompute
from support.store import bits, refs_of
from tachograph.aggregation.rollup import Aggregate, Tier
from tachograph.aggregation.tiers import read_buckets, read_tier, readable
from tachograph.config.settings import RetentionSettings
from tachograph.storage.codec import crc
from tachograph.storage.frame import STALE_NAN
from tachograph.storage.keys import day_of, rollup_key
from tachograph.storage.model import STALE_NAN_BITS, Labels
from tachograph.storage.select import Querier

DAY_0 = day_of(MIDNIGHT)  # the one that ends at MIDNIGHT


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[History]:
    history = History(tmp_path)
    await history.open()
    yield history
    await history.close()


async def three_days(h: History, *, compact: bool = True) -> None:
    """Three closed days with a few samples an hour, and some of a fourth."""
    for seed in range(4):
        await h.ticks("web", 20, HOUR, seed)
        await h.ticks("points", 15, MINUTE, seed)
        if seed < 3:
            await h.next_day()
            if compact:
                await h.compact()


async def value(
    h: History, labels: Labels, tier: Tier, what: Aggregate, start_ms: int, end_ms: int
) -> dict[int, float]:
    """One aggregate of one series, by the ends of its buckets."""
    series = h.store.index.find(labels)
    assert series is not None
    refs = refs_of([series.ref])
    found = await h.store.read(lambda q: list(read_tier(q, refs, tier, what, start_ms, end_ms)))
    if not found:
        return {}
    return dict(zip(found[0].end_ms.tolist(), found[0].values.tolist(), strict=True))


# --- The definition, checked against hand-made numbers -----------------------------------------


def test_recomputation_by_hand() -> None:
    """The judge itself: numbers worked out on paper."""
    values = [(1, 1.0), (60_000, 5.0), (60_001, 2.0), (120_000, 2.5), (180_001, math.nan)]
    numbers = bits([v for _, v in values])
    samples = {ts: number for (ts, _), number in zip(values, numbers, strict=True)}
    got = recompute(samples, 60_000)
    assert list(got) == [60_000, 120_000, 240_000]
    first, second, last = got.values()
    assert (first.count, first.sum, first.min, first.max, first.last) == (2, 6.0, 1.0, 5.0, 5.0)
    assert first.increase == 4.0, "the very first sample adds nothing"
    assert second.increase == 2.5, "a drop counts as the value itself"
    assert math.isnan(last.min)
    assert last.count == 1


# --- Ranges ------------------------------------------------------------------------------------


@pytest.mark.parametrize("compact", [True, False])
async def test_any_range_gives_the_buckets_that_meet_it(h: History, compact: bool) -> None:
    await three_days(h, compact=compact)
    now_ms = h.clock.now_ms()
    rng = np.random.default_rng(4)
    for _ in range(12):
        start_ms = int(rng.integers(MIDNIGHT - 3 * HOUR, now_ms))
        if rng.random() < 0.5:
            start_ms = start_ms // MINUTE * MINUTE
        for length in (1, MINUTE, 50 * MINUTE, 30 * HOUR):
            tier = list(Tier)[int(rng.integers(4))]
            await h.check([tier], start_ms, start_ms + length)


async def test_range_before_after_and_of_no_length_is_empty(h: History) -> None:
    await three_days(h)
    now_ms = h.clock.now_ms()
    for start_ms, end_ms in (
        (0, MIDNIGHT - 5 * DAY),
        (now_ms + DAY, now_ms + 2 * DAY),
        (now_ms, now_ms - DAY),
    ):
        for tier in Tier:
            for what in Aggregate:
                assert await value(h, COUNTERS[0], tier, what, start_ms, end_ms) == {}


async def test_short_range_of_the_open_day_reads_no_more_than_it_needs(h: History) -> None:
    await h.ticks("web", 400, 10 * SECOND)
    now_ms = h.clock.now_ms()
    refs = h.store.index.select(())
    for what in Aggregate:

        def job(querier: Querier, what: Aggregate = what) -> int:
            list(read_tier(querier, refs, Tier.M1, what, now_ms - 5 * MINUTE, now_ms))
            return querier.stats.samples

        # 6 minutes at 6 a minute, of 4 series; an increase also looks at the 10 minutes before.
        assert await h.store.read(job) <= (6 + 10 * (what is Aggregate.INCREASE)) * 6 * 4


async def test_short_range_of_a_compacted_day_reads_no_raw_samples(h: History) -> None:
    await three_days(h)
    start_ms = MIDNIGHT + 5 * HOUR
    refs = h.store.index.select(())
    for what in Aggregate:

        def job(querier: Querier, what: Aggregate = what) -> int:
            list(read_tier(querier, refs, Tier.M1, what, start_ms, start_ms + HOUR))
            return querier.stats.samples

        assert await h.store.read(job) == 0


# --- What lies before --------------------------------------------------------------------------


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("tier", Tier)
async def test_increase_takes_the_step_from_days_before(
    h: History, tier: Tier, compact: bool
) -> None:
    """The sample before a range may lie in another day, or in one more before that."""
    h.put("web", h.clock.now_ms(), {COUNTERS[0]: 10.0, COUNTERS[1]: 1.0})
    for _ in range(2):
        await h.next_day()
        h.put("web", h.clock.now_ms(), {COUNTERS[1]: 2.0})
        if compact:
            await h.compact()
    await h.next_day()
    if compact:
        await h.compact()
    start_ms = h.clock.now_ms() // DAY * DAY
    h.put("web", h.clock.now_ms(), {COUNTERS[0]: 17.0, COUNTERS[1]: 1.0, COUNTERS[2]: 5.0})
    for labels, wanted in zip(COUNTERS, (7.0, 1.0, 0.0), strict=True):
        got = await value(h, labels, tier, Aggregate.INCREASE, start_ms, start_ms + DAY)
        assert list(got.values()) == [wanted]
    await h.check([tier])


async def test_increase_looks_past_a_stale_marker(h: History) -> None:
    now_ms = h.clock.now_ms()
    for after_ms, number in ((0, 3.0), (SECOND, STALE_NAN), (5 * MINUTE, 8.0)):
        h.put("web", now_ms + after_ms, {COUNTERS[0]: number})
    start_ms = now_ms + 4 * MINUTE
    got = await value(h, COUNTERS[0], Tier.M1, Aggregate.INCREASE, start_ms, start_ms + HOUR)
    assert list(got.values()) == [5.0]


# --- Gauges ------------------------------------------------------------------------------------


async def test_gauges_have_no_increase(h: History) -> None:
    await three_days(h)
    index = h.store.index
    refs = index.select(())
    for what in Aggregate:
        left = {
            series.labels
            for ref in readable(index, refs, what).tolist()
            if (series := index.get(ref)) is not None
        }
        known = {series.labels for series in index.series()}
        assert left == (known - set(GAUGES) if what is Aggregate.INCREASE else known)


# --- Damage ------------------------------------------------------------------------------------


async def damage(h: History, tier: Tier, day: int, labels: Labels, *, with_crc: bool) -> None:
    """Spoil a rollup row: some bytes of it, or all with a checksum that fits."""
    series = h.store.index.find(labels)
    assert series is not None
    key = rollup_key(tier, day, series.ref)
    data = b"\x01\x00\x00\x00 no rollup"

    def job(connection: object) -> None:
        connection.execute(  # type: ignore[attr-defined]
            "UPDATE rollup SET data = ?, crc = ? WHERE id = ?",
            (data, crc(data, key) if with_crc else 1, key),
        )

    await h.store.writer.run(job)


@pytest.mark.parametrize("with_crc", [True, False])
@pytest.mark.parametrize("tier", Tier)
async def test_damaged_row_is_made_from_raw_and_takes_no_other_with_it(
    h: History, tier: Tier, with_crc: bool
) -> None:
    await three_days(h)
    await damage(h, tier, DAY_0 + 1, COUNTERS[1], with_crc=with_crc)
    await damage(h, tier, DAY_0 + 2, LOOSE[0], with_crc=with_crc)
    # At first sight, once it is set aside, and once the day is done again.
    for _ in range(2):
        await h.check_values()
    assert h.store.stats.corrupt["rollup"] == 2
    assert await h.store.days.pending() == [DAY_0 + 1, DAY_0 + 2]
    await h.compact()
    await h.check_values()
    await h.check_tidy()


async def test_row_damaged_where_raw_is_gone_costs_that_day_alone(tmp_path: Path) -> None:
    h = History(tmp_path, retention=RetentionSettings(raw_ms=HOUR))
    await h.open()
    await three_days(h)
    await h.store.retention.run_once()
    assert h.store.ledger.catalogue.days == set()
    await damage(h, Tier.H1, DAY_0 + 1, COUNTERS[1], with_crc=False)
    for _ in range(2):
        got = await value(h, COUNTERS[1], Tier.H1, Aggregate.COUNT, 0, 1 << 45)
        wanted = {
            end: bucket.count
            for end, bucket in recompute(h.expected[COUNTERS[1]], HOUR).items()
            if day_of(end) != DAY_0 + 1
        }
        assert got == wanted
    # The other tiers of that day are not made less by it.
    for tier in (Tier.M1, Tier.M5, Tier.D1):
        got = await value(h, COUNTERS[1], tier, Aggregate.COUNT, 0, 1 << 45)
        buckets = recompute(h.expected[COUNTERS[1]], tier.width_ms)
        assert got == {end: bucket.count for end, bucket in buckets.items()}
    await h.close()


# --- Buckets -----------------------------------------------------------------------------------


@given(st.integers(-1, 1 << 45), st.sampled_from(Tier))
def test_bucket_of_a_time_ends_at_or_after_it(ts_ms: int, tier: Tier) -> None:
    end_ms = ((ts_ms - 1) // tier.width_ms + 1) * tier.width_ms
    assert end_ms - tier.width_ms < ts_ms <= end_ms


async def test_buckets_carry_what_promql_needs(h: History) -> None:
    await three_days(h)
    series = h.store.index.find(COUNTERS[0])
    assert series is not None
    refs = refs_of([series.ref])
    found = await h.store.read(lambda q: read_buckets(q, refs, Tier.H1, 0, 1 << 45))
    buckets = found[series.ref]
    samples = sorted(ts for ts, _ in _values(h, COUNTERS[0]))
    for end_ms, first_ms, last_ms in zip(
        ((buckets.index + 1) * HOUR).tolist(),
        buckets.first_ms.tolist(),
        buckets.last_ms.tolist(),
        strict=True,
    ):
        inside = [ts for ts in samples if end_ms - HOUR < ts <= end_ms]
        assert (first_ms, last_ms) == (inside[0], inside[-1])


def _values(h: History, labels: Labels) -> list[tuple[int, int]]:
    return [(ts, v) for ts, v in h.expected[labels].items() if v != STALE_NAN_BITS]
