"""Sealing: from the head into blocks of chunks, at any moment, whatever fails."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.clock import ManualClock
from support.store import (
    FailingConnection,
    bits,
    put,
    put_points,
    read,
    refs_of,
    store_settings,
    times,
)
from tachograph.config.settings import SealSettings
from tachograph.storage.catalogue import Block, Catalogue, PartNumbers
from tachograph.storage.errors import StorageError, StoreUnavailable
from tachograph.storage.frame import FloatArray
from tachograph.storage.head import Points
from tachograph.storage.keys import (
    DAY_MS,
    PART_MAX,
    POINTS_GROUP,
    REF_MAX,
    WINDOW_MS,
    day_bounds,
    day_of,
    rollup_key,
    row_key,
    split_key,
    split_rollup_key,
    window_of,
    window_of_day,
)
from tachograph.storage.model import Labels
from tachograph.storage.seal import (
    decode_points,
    decode_refs,
    encode_points,
    encode_refs,
    seal_points,
)
from tachograph.storage.store import Store

A, B, C = (Labels.of({"host": host}, "up") for host in "abc")
MIDNIGHT_MS = ManualClock().now_ms()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(MIDNIGHT_MS + 30_000)


# --- Keys -----------------------------------------------------------------------------------------

some_times = st.integers(1, 2**24 * WINDOW_MS)


@given(some_times)
def test_windows_and_days_leave_their_start_out(ts_ms: int) -> None:
    assert (window_of(ts_ms) - 1) * WINDOW_MS < ts_ms <= window_of(ts_ms) * WINDOW_MS
    first_ms, last_ms = day_bounds(day_of(ts_ms))
    assert first_ms <= ts_ms <= last_ms
    assert last_ms - first_ms == DAY_MS - 1
    assert window_of(first_ms) == window_of_day(day_of(ts_ms)) <= window_of(ts_ms)


def test_midnight_belongs_to_the_day_that_ends() -> None:
    assert day_of(MIDNIGHT_MS) + 1 == day_of(MIDNIGHT_MS + 1)
    assert day_of(0) == -1
    assert window_of(0) == 0
    assert window_of_day(-1) == 0


@given(st.integers(0, 2**24 - 1), st.integers(0, PART_MAX), st.integers(0, REF_MAX))
def test_row_keys_can_be_split(window: int, part: int, low: int) -> None:
    key = row_key(window, part, low)
    assert split_key(key) == (window, part, low)
    assert 0 <= key < 2**63


@given(st.integers(1, 4), st.integers(-1, 2**18), st.integers(0, REF_MAX))
def test_rollup_keys_can_be_split(tier: int, day: int, ref: int) -> None:
    key = rollup_key(tier, day, ref)
    assert split_rollup_key(key) == (tier, day, ref)
    assert 0 <= key < 2**63


a_place = st.tuples(st.integers(0, 2**24 - 1), st.integers(0, PART_MAX), st.integers(0, REF_MAX))


@given(st.lists(a_place, max_size=10))
def test_row_keys_sort_as_their_parts(places: list[tuple[int, int, int]]) -> None:
    assert sorted(places, key=lambda place: row_key(*place)) == sorted(places)


# --- Parts and the catalogue ----------------------------------------------------------------------


def block(window: int, part: int, group: int, min_ms: int = 1, max_ms: int = 2) -> Block:
    return Block(row_key(window, part, group), min_ms, max_ms, 1)


def test_parts_of_a_group_count_up() -> None:
    parts = PartNumbers(Catalogue.of([block(5, 3, 1), block(5, 1, 2)], 0))
    assert [parts.next(1, 5), parts.next(1, 5), parts.next(2, 5), parts.next(1, 6)] == [4, 5, 2, 0]


def test_points_go_above_every_group_and_groups_above_points() -> None:
    parts = PartNumbers(Catalogue.of([block(5, 3, 1), block(5, 7, 2)], 0))
    assert parts.next(POINTS_GROUP, 5) == 8
    assert parts.next(1, 5) == 9
    assert parts.next(POINTS_GROUP, 5) == 10


def test_full_window_gives_no_part() -> None:
    parts = PartNumbers(Catalogue.of([block(5, PART_MAX, 1)], 0))
    assert parts.next(1, 5) is None
    assert parts.next(POINTS_GROUP, 5) is None
    assert parts.next(2, 5) == 0


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)), unique=True),
    st.lists(st.tuples(st.integers(4, 6), st.integers(0, 3), st.integers(0, 2)), unique=True),
    st.sets(st.integers(0, 20)),
)
def test_changed_catalogue_is_as_one_made_anew(
    old: list[tuple[int, int, int]], new: list[tuple[int, int, int]], gone: set[int]
) -> None:
    before = [block(*place) for place in old]
    added = [block(*place) for place in new]
    removed = [b.key for i, b in enumerate(before) if i in gone]
    changed = Catalogue.of(before, 1).changed(2, added=added, removed=removed)
    kept = [b for b in before if b.key not in removed]
    fresh = Catalogue.of([*kept, *added], 2)
    assert {g: list(blocks) for g, blocks in changed.blocks.items()} == {
        g: list(blocks) for g, blocks in fresh.blocks.items()
    }
    assert changed.generation == 2


# --- Chunks of points -----------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 2**50), st.integers(0, 2**64 - 1)), min_size=1, max_size=50),
    st.booleans(),
)
def test_points_survive_encoding(points: list[tuple[int, int]], pco: bool) -> None:
    ts = times(sorted(ts for ts, _ in points))
    values: FloatArray = np.array([value for _, value in points], np.uint64).view(np.float64)
    found_ts, found = decode_points(encode_points(ts, values, pco=pco))
    assert found_ts.tolist() == ts.tolist()
    assert bits(found) == bits(values)


@given(st.binary(max_size=80))
def test_damaged_points_are_an_error_of_storage(data: bytes) -> None:
    try:
        ts, values = decode_points(data)
    except StorageError:
        return
    assert len(ts) == len(values)


@given(st.sets(st.integers(0, REF_MAX)), st.binary(max_size=30), st.integers(0, 9))
def test_members_survive_encoding_and_damage_is_told(refs: set[int], data: bytes, n: int) -> None:
    members = refs_of(sorted(refs))
    assert decode_refs(encode_refs(members), len(refs)).tolist() == sorted(refs)
    with pytest.raises(StorageError):
        decode_refs(encode_refs(members), len(refs) + 1)
    with contextlib.suppress(StorageError):
        assert len(decode_refs(data, n)) == n


def test_points_of_several_days_become_a_block_a_day() -> None:
    ts = times([MIDNIGHT_MS - 1, MIDNIGHT_MS, MIDNIGHT_MS + 1, MIDNIGHT_MS + DAY_MS])
    points = Points(refs_of([1, 1, 1, 1]), ts, np.arange(4.0)).sorted()
    sealed = seal_points(points, PartNumbers(Catalogue()))
    assert [(b.block.min_ms, b.block.max_ms) for b in sealed] == [
        (MIDNIGHT_MS - 1, MIDNIGHT_MS),
        (MIDNIGHT_MS + 1, MIDNIGHT_MS + DAY_MS),
    ]


# --- The store ------------------------------------------------------------------------------------


async def test_no_block_crosses_midnight(store: Store, clock: ManualClock) -> None:
    for ts in range(MIDNIGHT_MS - 3, MIDNIGHT_MS + 4):
        put(store.group("g"), ts, {A: float(ts), B: 1.0})
        put_points(store, [(C, ts, 2.0), (A, ts - 10, 3.0)])
    expected = await read(store)
    await store.seal()
    blocks = list(store.ledger.catalogue)
    assert len(blocks) == 4
    assert all(day_of(b.min_ms) == day_of(b.max_ms) for b in blocks)
    assert await read(store) == expected


async def test_more_seals_than_a_window_has_parts(store: Store, clock: ManualClock) -> None:
    for i in range(PART_MAX + 10):
        put(store.group("g"), MIDNIGHT_MS + 10 + i, {A: float(i)})
        put_points(store, [(A, MIDNIGHT_MS + 10 + i // 2, -float(i)), (B, MIDNIGHT_MS + i, 1.0)])
        await store.seal()
    expected = await read(store)
    assert {ts: number for ts, number in expected[A].items() if ts < MIDNIGHT_MS + 20} == {
        MIDNIGHT_MS + 10 + i: bits([-float(2 * i + 1)])[0] for i in range(10)
    }
    assert {b.window for b in store.ledger.catalogue} > {window_of(MIDNIGHT_MS + 1)}
    await store.close()
    again = Store(store.settings, clock)
    await again.open()
    assert await read(again) == expected
    await again.close()


async def test_seal_that_fails_anywhere_costs_nothing(store: Store, clock: ManualClock) -> None:
    disk = FailingConnection.install(store)
    statements = 0
    while True:
        now = clock.now_ms()
        put(store.group("g"), now, {A: float(statements), B: 1.0})
        put(store.group("h"), now - 60_000, {C: float(statements)})
        put_points(store, [(A, now - 1, 2.0), (C, now - 90_000, 5.0)])
        clock.step(1_000)
        expected = await read(store)
        disk.fail_after(statements)
        try:
            await store.seal()
        except StorageError:
            assert store.stats.seal_errors == statements + 1
        else:
            break
        finally:
            disk.heal()
        assert await read(store) == expected
        statements += 1
    assert statements > 20
    assert await read(store) == expected
    assert all(group.head.ticks == 0 for group in (store.group("g"), store.group("h")))
    assert store.head_points == 0


async def test_days_of_series_are_remembered_though_a_seal_failed(
    store: Store, clock: ManualClock
) -> None:
    def days(connection: sqlite3.Connection) -> set[int]:
        return {day for (day,) in connection.execute("SELECT last_day FROM series")}

    disk = FailingConnection.install(store)
    for statements in range(60):
        put(store.group("g"), clock.now_ms(), {A: 1.0, B: 2.0})
        clock.step(1_000)
        disk.fail_after(statements)
        try:
            await store.seal()
        except StorageError:
            disk.heal()
            continue
        break
    disk.heal()
    assert await store.writer.run(days) == {day_of(clock.now_ms())}


async def test_ticks_during_a_seal_stay_in_the_head(store: Store, clock: ManualClock) -> None:
    now = clock.now_ms()
    put(store.group("g"), now, {A: 1.0})
    sealing = asyncio.create_task(store.seal())
    while not store.group("g").head.frozen:
        await asyncio.sleep(0)
    put(store.group("g"), now, {A: 2.0, B: 2.0})  # the tick that is being sealed, once more
    put(store.group("g"), now + 1, {A: 3.0, C: 3.0})
    await sealing
    assert store.group("g").head.ticks == 1
    expected = {
        A: {now: bits([2.0])[0], now + 1: bits([3.0])[0]},
        B: {now: bits([2.0])[0]},
        C: {now + 1: bits([3.0])[0]},
    }
    assert await read(store) == expected
    await store.seal()
    assert await read(store) == expected


async def test_seal_is_due_by_the_hour_by_ticks_and_by_points(
    tmp_path: Path, clock: ManualClock
) -> None:
    settings = store_settings(tmp_path, seal=SealSettings(ticks=60))
    store = Store(settings, clock)
    await store.open()
    for i in range(59):
        put(store.group("g"), clock.now_ms() + i, {A: 1.0})
    put(store.group("h"), clock.now_ms(), {B: 1.0})
    await store.sealer.seal_due()
    assert store.stats.seals == 0
    put(store.group("g"), clock.now_ms() + 59, {A: 1.0})
    await store.sealer.seal_due()
    assert (store.group("g").head.ticks, store.group("h").head.ticks) == (0, 1)
    clock.step(3_600_000)
    await store.sealer.seal_due()
    assert store.group("h").head.ticks == 0
    await store.close()


async def test_head_that_cannot_be_sealed_stays_bounded(store: Store, clock: ManualClock) -> None:
    disk = FailingConnection.install(store)
    store.sealer.head_cells_max = 200
    disk.fail_on("INTO chunk")  # commits still work
    running = asyncio.create_task(store.run())
    taken = 0
    while not store.sealer.trouble:
        put(store.group("g"), clock.now_ms(), {A: 1.0, B: 2.0})
        taken += 1
        await clock.advance(5_000)
        await store.writer.run(lambda connection: None)
    with pytest.raises(StoreUnavailable, match="cannot be sealed"):
        put(store.group("g"), clock.now_ms(), {A: 1.0, B: 2.0})
    assert 100 < taken < 1_000
    assert store.stats.dropped["unavailable"] == 2
    assert "cannot be sealed" in store.trouble
    disk.heal()
    while store.trouble:
        await clock.advance(5_000)
        await store.writer.run(lambda connection: None)
    put(store.group("g"), clock.now_ms(), {A: 1.0, B: 2.0})
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert len((await read(store))[A]) == taken + 1


async def test_failing_seal_is_not_tried_at_every_flush(store: Store, clock: ManualClock) -> None:
    disk = FailingConnection.install(store)
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    clock.step(3_600_000)
    disk.fail_on("INTO chunk")
    with pytest.raises(StorageError):
        await store.sealer.seal_due()
    for _ in range(20):
        await store.sealer.seal_due()
    assert store.stats.seal_errors == 1
    await clock.advance(30_000)
    disk.heal()
    await store.sealer.seal_due()
    assert store.group("g").head.ticks == 0


async def test_empty_seal_is_no_mistake(store: Store) -> None:
    await store.seal()
    await store.seal()
    assert list(store.ledger.catalogue) == []


@pytest.mark.parametrize("codec", ["auto", "pcodec", "zlib"])
async def test_chunks_are_read_by_whatever_codec_they_have(
    tmp_path: Path, clock: ManualClock, codec: str
) -> None:
    rng = np.random.default_rng(2)
    store = Store(store_settings(tmp_path, seal=SealSettings(codec=codec)), clock)
    await store.open()
    for i in range(100):
        value = float(rng.normal())
        put(store.group("g"), clock.now_ms() - 1000 + i, {A: value, B: 1.0, C: i / 10})
        put_points(store, [(A, clock.now_ms() - 5000 - 7 * i, value)])
    expected = await read(store)
    await store.seal()
    await store.close()
    again = Store(store_settings(tmp_path), clock)
    await again.open()
    assert await read(again) == expected
    await again.close()
