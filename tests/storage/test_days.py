"""Closed days: what is pending, and what a day's replacement leaves and takes."""

from __future__ import annotations

import pytest

from support.clock import ManualClock
from support.history import DAY, HOUR, MIDNIGHT, MINUTE
from support.rollups import orphans
from support.store import put, put_points, read, store_settings
from tachograph.aggregation.compactor import Compactor
from tachograph.storage.keys import day_bounds, day_of, rollup_key, split_rollup_key
from tachograph.storage.model import Labels
from tachograph.storage.store import Store

A, B = (Labels.of({"host": host}, "up") for host in "ab")
TODAY = day_of(MIDNIGHT + 1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(MIDNIGHT + HOUR)


async def compact(store: Store) -> list[int]:
    await store.seal()
    return await Compactor(store, rest=0).run_once()


def test_day_ends_with_its_midnight() -> None:
    assert day_of(MIDNIGHT) == TODAY - 1
    assert day_bounds(TODAY) == (MIDNIGHT + 1, MIDNIGHT + DAY)
    assert split_rollup_key(rollup_key(4, TODAY, 2**32 - 1)) == (4, TODAY, 2**32 - 1)
    assert split_rollup_key(rollup_key(1, -1, 7)) == (1, -1, 7), "the epoch itself"


async def test_days_are_pending_once_they_are_over_and_in_chunks(
    store: Store, clock: ManualClock
) -> None:
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    await store.seal()
    assert await store.days.pending() == []
    await clock.advance(23 * HOUR)  # the midnight itself is the day's still
    assert await store.days.pending() == []
    await clock.advance(1)
    assert await store.days.pending() == [TODAY]
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    await clock.advance(DAY)
    assert await store.days.pending() == [TODAY]
    await store.seal()
    assert await store.days.pending() == [TODAY, TODAY + 1]
    assert await compact(store) == [TODAY, TODAY + 1]
    assert await store.days.pending() == []


@pytest.mark.parametrize("by_tick", [False, True], ids=["a point", "a tick"])
async def test_late_sample_makes_its_day_pending_once(
    store: Store, clock: ManualClock, by_tick: bool
) -> None:
    put(store.group("g"), clock.now_ms(), {A: 1.0, B: 1.0})
    put(store.group("h"), clock.now_ms(), {Labels.of({}, "other"): 1.0})
    await clock.advance(DAY)
    assert await compact(store) == [TODAY]
    late_ms = clock.now_ms() - 20 * HOUR
    if by_tick:
        put(store.group("g"), late_ms, {A: 2.0})
    else:
        put_points(store, [(A, late_ms, 2.0)])
    expected = await read(store)
    assert await compact(store) == [TODAY]
    assert await compact(store) == [], "or it would be done again every hour"
    assert await read(store) == expected
    assert await orphans(store) == 0


async def test_old_samples_of_a_day_without_any_are_compacted(
    store: Store, clock: ManualClock
) -> None:
    put_points(store, [(A, clock.now_ms() - 9 * DAY, 1.0)])
    assert await compact(store) == [TODAY - 9]
    assert store.ledger.compacted == {TODAY - 9}


async def test_clock_set_back_leaves_a_compacted_day_right(
    store: Store, clock: ManualClock
) -> None:
    """A day may be open again after it was done."""
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    clock.step(DAY)
    assert await compact(store) == [TODAY]
    clock.step(-DAY + MINUTE)
    put(store.group("g"), clock.now_ms(), {A: 2.0})
    assert await compact(store) == []
    assert len((await read(store))[A]) == 2
    await clock.advance(DAY)
    assert await compact(store) == [TODAY]
    assert await store.days.pending() == []


async def test_chunks_of_a_day_become_one_a_series(store: Store, clock: ManualClock) -> None:
    for _ in range(5):
        put(store.group("g"), clock.now_ms(), {A: 1.0, B: 2.0})
        put_points(store, [(Labels.of({}, "loose"), clock.now_ms(), 3.0)])
        await store.seal()
        await clock.advance(HOUR)
    await clock.advance(DAY)
    before = await read(store)
    await compact(store)
    count = await store.writer.run(lambda c: c.execute("SELECT count(*) FROM chunk").fetchone())
    assert count == (3,)
    assert {block.group for block in store.days.blocks(TODAY)} == {0, 1}
    assert await read(store) == before
    # And the same after a restart.
    await store.close()
    again = Store(store_settings(store.directory), clock)
    await again.open()
    assert again.ledger.compacted == {TODAY}
    assert await read(again) == before
    await again.close()
