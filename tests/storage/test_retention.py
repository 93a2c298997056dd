"""What retention deletes, and what it must not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.clock import ManualClock
from support.history import DAY, HOUR, MIDNIGHT, MINUTE, SECOND, History
from support.kept import TODAY, Open, noise, raw_days, rollup_days
from support.rollups import orphans
from support.store import put, put_points, read, refs_of, store_settings, times
from tachograph.aggregation.compactor import Compactor
from tachograph.config.settings import RetentionPolicy, RetentionSettings
from tachograph.storage.keys import day_of
from tachograph.storage.model import Labels
from tachograph.storage.store import Store

A, B, C = (Labels.of({"job": job}, "up") for job in ("web", "debug", "audit"))
SHORT = RetentionSettings(
    raw_ms=2 * DAY, tier_1m_ms=3 * DAY, tier_5m_ms=4 * DAY, tier_1h_ms=5 * DAY, tier_1d_ms=6 * DAY
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(MIDNIGHT + HOUR)


async def maintain(store: Store) -> None:
    """What the agent does once an hour."""
    await store.seal()
    await Compactor(store, rest=0).run_once()
    await store.retention.run_once()


async def live(store: Store, clock: ManualClock, days: int, *series: Labels) -> None:
    """Collect series for some days, maintained at the start of each; ends within a day."""
    for _ in range(days):
        for hour in range(4):
            put(store.group("g"), clock.now_ms() + hour, dict.fromkeys(series, 1.0))
        await clock.advance(DAY)
        await maintain(store)


# --- By age ------------------------------------------------------------------------------------


async def test_each_tier_goes_at_its_age(opened: Open, clock: ManualClock) -> None:
    store = await opened(retention=SHORT)
    await live(store, clock, 9, A)  # it is the 9th day now, at 01:00
    assert raw_days(store) == [7, 8], "a day that is over for less than 2 days is kept whole"
    assert await rollup_days(store, "1m") == [6, 7, 8]
    assert await rollup_days(store, "5m") == [5, 6, 7, 8]
    assert await rollup_days(store, "1h") == [4, 5, 6, 7, 8]
    assert await rollup_days(store, "1d") == [3, 4, 5, 6, 7, 8]
    assert await orphans(store) == 0
    assert min(store.ledger.compacted) == TODAY + 3


async def test_raw_samples_of_a_day_go_together(opened: Open, clock: ManualClock) -> None:
    """A late sample has its whole day rolled up anew."""
    store = await opened(retention=RetentionSettings(raw_ms=6 * HOUR))
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    put(store.group("h"), clock.now_ms() + MINUTE, {B: 1.0})
    await clock.advance(22 * HOUR)
    put(store.group("h"), clock.now_ms(), {B: 2.0})
    await clock.advance(2 * HOUR)
    await maintain(store)  # the first samples are a day old
    put_points(store, [(A, clock.now_ms() - 2 * HOUR, 3.0)])
    await maintain(store)
    refs = refs_of([1])
    rows = await store.read(lambda q: list(q.rollup_rows(4, refs, [TODAY])))
    assert len(rows) == 1
    assert raw_days(store) == [0]
    assert len((await read(store))[A]) == 2
    await clock.advance(6 * HOUR)
    await maintain(store)
    assert raw_days(store) == []


async def test_day_that_is_not_compacted_keeps_its_raw_samples(
    opened: Open, clock: ManualClock
) -> None:
    store = await opened(retention=SHORT)
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    await store.seal()
    await clock.advance(5 * DAY)
    await store.retention.run_once()
    assert raw_days(store) == [0]
    await maintain(store)
    assert raw_days(store) == []
    assert await rollup_days(store, "1h") == [0]


async def test_day_with_samples_to_roll_up_keeps_its_raw_samples(
    opened: Open, clock: ManualClock
) -> None:
    store = await opened(retention=SHORT)
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    await clock.advance(2 * DAY)
    await maintain(store)
    put_points(store, [(A, clock.now_ms() - 2 * DAY + 1, 2.0)])
    await clock.advance(2 * DAY)
    await store.retention.run_once()  # it is in the head
    assert raw_days(store) == [0]
    await store.seal()
    await store.retention.run_once()  # it is in a chunk
    assert raw_days(store) == [0]
    await maintain(store)
    assert raw_days(store) == []
    assert await rollup_days(store, "5m") == [0]


# --- Policies ----------------------------------------------------------------------------------

POLICIES = (
    RetentionPolicy(match='{job="debug"}', raw_ms=DAY, tier_1m_ms=DAY, tier_1h_ms=8 * DAY),
    RetentionPolicy(match='{job=~"audit|debug"}', raw_ms=4 * DAY, tier_1m_ms=7 * DAY),
)


async def test_first_policy_that_matches_decides(opened: Open, clock: ManualClock) -> None:
    store = await opened(retention=SHORT, retention_policies=POLICIES)
    await live(store, clock, 9, A, B, C)
    found = await read(store)
    days = {labels: sorted({day_of(ts) - TODAY for ts in each}) for labels, each in found.items()}
    assert days == {A: [7, 8], B: [8], C: [5, 6, 7, 8]}
    assert await rollup_days(store, "1m", 1) == [6, 7, 8]
    assert await rollup_days(store, "1m", 2) == [8]
    assert await rollup_days(store, "1m", 3) == [2, 3, 4, 5, 6, 7, 8]
    assert await rollup_days(store, "1h", 2) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert await orphans(store) == 0


async def test_policies_may_change_while_it_runs(opened: Open, clock: ManualClock) -> None:
    store = await opened(retention=SHORT)
    await live(store, clock, 4, A, B)
    assert len((await read(store))[B]) == 8
    store.configure(
        store_settings(store.directory, retention=SHORT, retention_policies=POLICIES[:1])
    )
    await store.retention.run_once()
    found = await read(store)
    assert (len(found[A]), len(found[B])) == (8, 4)
    assert await rollup_days(store, "1m", 2) == [3]


async def test_late_tick_leaves_out_who_keeps_none_that_old(
    opened: Open, clock: ManualClock
) -> None:
    """The raw samples of one member are gone, so its rollup cannot be made anew; others' can."""
    store = await opened(retention=SHORT, retention_policies=POLICIES[:1])
    await live(store, clock, 2, A, B)
    before = await store.writer.run(lambda c: c.execute("SELECT * FROM rollup").fetchall())
    late_ms = clock.now_ms() - 2 * DAY + MINUTE
    dropped = store.group("g").append_ticks(
        times([late_ms, late_ms + 1]), refs_of([1, 2]), np.full((2, 2), 5.0)
    )
    assert dropped == {"too_old": 2}
    assert store.stats.dropped["too_old"] == 2
    await maintain(store)
    after = await store.writer.run(lambda c: c.execute("SELECT * FROM rollup").fetchall())
    ref_of = [key & 0xFFFFFFFF for key, *_ in set(before) ^ set(after)]
    assert set(ref_of) == {1}


async def test_late_points_are_judged_by_their_series_policy(
    opened: Open, clock: ManualClock
) -> None:
    store = await opened(retention=SHORT, retention_policies=POLICIES)
    await live(store, clock, 5, A, B, C)
    now_ms = clock.now_ms()
    refusal = store.append_points(
        refs_of([1, 2, 3, 1, 2, 3]),
        times([now_ms - 3 * DAY] * 3 + [now_ms - DAY + SECOND] * 3),
        np.ones(6),
    )
    assert refusal is not None
    assert [bool(reason) for reason in refusal.reasons] == [True, True, False, False, False, False]


# --- Late samples ------------------------------------------------------------------------------


async def test_late_sample_is_refused_where_raw_samples_are_gone(
    opened: Open, clock: ManualClock
) -> None:
    store = await opened(max_bytes=1)
    await noise(store, clock, 4)
    await store.retention.run_once()
    assert raw_days(store) == [3]
    now_ms = clock.now_ms()
    first_ms = (TODAY + 3) * DAY + 1
    assert store.retention.oldest_ms(None, now_ms) == first_ms
    refusal = store.append_points(refs_of([1, 1]), times([first_ms - 1, first_ms]), np.ones(2))
    assert refusal is not None
    assert [bool(reason) for reason in refusal.reasons] == [True, False]
    before = store.stats.dropped["too_old"]
    store.group("noise").append(first_ms - 1, refs_of([1]), np.ones(1))
    assert store.stats.dropped["too_old"] == before + 1
    # A restart knows as much.
    await store.close()
    again = await opened()
    assert again.retention.oldest_ms(None, now_ms) == first_ms


async def test_old_samples_are_welcome_where_there_were_none(
    opened: Open, clock: ManualClock
) -> None:
    """History may be filled in as far as raw samples are kept."""
    store = await opened()
    await live(store, clock, 1, A)
    put_points(store, [(B, clock.now_ms() - 14 * DAY, 1.0)])
    await maintain(store)
    assert len(await read(store)) == 2


async def test_sample_that_comes_while_its_day_goes_takes_nothing_from_its_rollup(
    opened: Open, clock: ManualClock
) -> None:
    store = await opened(max_bytes=1)
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    put(store.group("g"), clock.now_ms() + 1, {A: 2.0})
    late_ms = clock.now_ms() + 2
    await clock.advance(3 * DAY)
    await maintain_without_retention(store)
    before = await store.writer.run(lambda c: c.execute("SELECT * FROM rollup").fetchall())
    put_points(store, [(A, late_ms, 9.0)])
    await store.retention.run_once()  # the sample is in the head
    await store.seal()
    await Compactor(store, rest=0).run_once()
    after = await store.writer.run(lambda c: c.execute("SELECT * FROM rollup").fetchall())
    key = {row[0] for row in before}
    assert [row for row in after if row[0] in key] == [r for r in before if r in after] != []
    assert await store.days.pending() == []


async def maintain_without_retention(store: Store) -> None:
    await store.seal()
    await Compactor(store, rest=0).run_once()


# --- Series ------------------------------------------------------------------------------------

BRIEF = RetentionSettings(
    raw_ms=HOUR, tier_1m_ms=HOUR, tier_5m_ms=HOUR, tier_1h_ms=DAY, tier_1d_ms=2 * DAY
)


async def test_dead_series_is_forgotten_and_its_number_never_used_again(
    opened: Open, clock: ManualClock
) -> None:
    store = await opened(retention=BRIEF)
    put(store.group("g"), clock.now_ms(), {A: 1.0, B: 1.0})
    for _ in range(4):
        await clock.advance(DAY)
        put(store.group("g"), clock.now_ms(), {A: 1.0})
        await maintain(store)
    assert store.index.find(B) is None
    assert store.stats.retention_rows["series"] == 1
    assert list(await read(store)) == [A]
    await store.close()
    again = await opened()
    assert again.index.find(B) is None
    series = again.index.find(A)
    assert series is not None
    assert series.ref == 1
    assert again.group("g").ref(B) == 3
    put(again.group("g"), clock.now_ms() + 1, {B: 7.0})
    assert len(await read(again)) == 2


async def test_more_dead_series_than_go_at_once_are_all_forgotten(
    opened: Open, clock: ManualClock
) -> None:
    store = await opened(retention=BRIEF)
    many = [Labels.of({"n": str(n)}, "up") for n in range(2_500)]
    put(store.group("g"), clock.now_ms(), dict.fromkeys(many, 1.0))
    back = many[700]
    for _ in range(4):
        await clock.advance(DAY)
        put(store.group("g"), clock.now_ms(), {A: 1.0, back: 2.0})
        await maintain(store)
    assert store.stats.retention_rows["series"] == 2_499
    assert {series.labels for series in store.index.series()} == {A, back}
    await store.close()
    again = await opened()
    assert {series.labels for series in again.index.series()} == {A, back}


@pytest.mark.parametrize("by_points", [False, True], ids=["by tick", "by points"])
@pytest.mark.parametrize("group", ["g", "other"])
async def test_source_goes_on_with_a_number_that_was_forgotten(
    opened: Open, clock: ManualClock, group: str, by_points: bool
) -> None:
    store = await opened(retention=BRIEF)
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    put(store.group("alive"), clock.now_ms(), {C: 1.0})
    for _ in range(4):
        await clock.advance(DAY)
        put(store.group("alive"), clock.now_ms(), {C: 1.0})
        await maintain(store)
    assert store.index.find(A) is None
    refs = refs_of([1])  # kept by the source all the time
    for _ in range(2):
        await clock.advance(MINUTE)
        if by_points:
            store.append_points(refs, times([clock.now_ms()]), np.ones(1))
        else:
            store.group(group).append(clock.now_ms(), refs, np.ones(1))
    series = store.index.find(A)
    assert series is not None
    assert series.ref == 1
    assert len((await read(store))[A]) == 2
    await maintain(store)
    await store.close()
    again = await opened()
    assert len((await read(again))[A]) == 2
    assert again.group("g").ref(A) == 1


async def test_series_that_comes_back_while_it_is_forgotten_goes_on(
    opened: Open, clock: ManualClock
) -> None:
    store = await opened(retention=BRIEF)
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    await store.seal()
    await clock.advance(4 * DAY)
    await maintain_without_retention(store)
    run = store.writer.run

    async def slow(job: Callable[..., Any]) -> Any:
        result = await run(job)
        if store.group("g").head.ticks == 0:
            store.group("g").append(clock.now_ms(), refs_of([1]), np.ones(1))
        return result

    store.writer.run = slow
    await store.retention.run_once()
    store.writer.run = run
    assert len((await read(store))[A]) == 1
    await store.close()
    again = await opened()
    assert len((await read(again))[A]) == 1


async def test_series_that_takes_anothers_place_in_a_group_is_no_dead_one(
    opened: Open, clock: ManualClock
) -> None:
    """As many members as before are not the same members as before."""
    store = await opened(retention=BRIEF)
    put(store.group("g"), clock.now_ms(), {A: 1.0, B: 1.0})
    await store.seal()
    await clock.advance(2 * DAY)
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    await store.seal()
    await clock.advance(SECOND)
    put(store.group("g"), clock.now_ms(), {B: 1.0})
    await maintain(store)
    await store.close()
    again = await opened(retention=BRIEF)
    await clock.advance(DAY + HOUR)
    await maintain(again)
    assert again.index.find(B) is not None


# --- The clock ---------------------------------------------------------------------------------


async def test_clock_that_leaps_ahead_deletes_nothing_within_the_hour(
    opened: Open, clock: ManualClock
) -> None:
    store = await opened(retention=SHORT)
    await live(store, clock, 3, A)
    before = (raw_days(store), await rollup_days(store, "1m"))
    clock.step(400 * DAY)
    for _ in range(3):
        await clock.advance(15 * MINUTE)
        await store.retention.run_once()
    assert (raw_days(store), await rollup_days(store, "1m")) == before
    clock.step(-400 * DAY)
    put(store.group("g"), clock.now_ms(), {A: 2.0})
    await maintain(store)
    assert raw_days(store) == [1, 2, 3], "and goes on as if nothing had been"
    # One that stays ahead is right after all.
    clock.step(400 * DAY)
    for _ in range(8):
        await clock.advance(15 * MINUTE)
        await maintain(store)
    assert raw_days(store) == []


async def test_agent_that_was_off_for_long_waits_an_hour_before_it_deletes(
    opened: Open, clock: ManualClock
) -> None:
    store = await opened(retention=SHORT)
    await live(store, clock, 2, A)
    await store.close()
    clock.step(30 * DAY)
    store = await opened(retention=SHORT)
    await maintain(store)
    assert raw_days(store) == [0, 1]
    await clock.advance(50 * MINUTE)
    await maintain(store)
    assert raw_days(store) == [0, 1]
    await clock.advance(10 * MINUTE)
    await maintain(store)
    assert raw_days(store) == []


# --- Beside everything else --------------------------------------------------------------------


async def test_reads_and_appends_go_on_while_days_are_deleted(tmp_path: Path) -> None:
    h = History(tmp_path, retention=RetentionSettings(raw_ms=HOUR))
    await h.open()
    for seed in range(3):
        await h.ticks("web", 30, 10 * MINUTE, seed)
        await h.ticks("host", 30, 10 * MINUTE, seed)
        await h.next_day()
        await h.compact()
    today_ms = h.clock.now_ms() // DAY * DAY

    async def append_and_look() -> None:
        for seed in range(30):
            await h.ticks("web", 1, SECOND, seed)
            found = await read(h.store, min_ms=today_ms)
            for labels, samples in found.items():
                assert samples == {t: v for t, v in h.expected[labels].items() if t >= today_ms}

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(append_and_look())
        for _ in range(3):
            await h.clock.advance(HOUR)
            await h.store.retention.run_once()
            await asyncio.sleep(0.01)
    assert h.store.ledger.catalogue.days <= {today_ms // DAY}
    assert await orphans(h.store) == 0
    await h.close()
