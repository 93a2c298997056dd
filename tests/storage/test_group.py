"""Groups: series that share their timestamps, whoever else writes them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from support.clock import ManualClock
from support.store import bits, put, put_points, read, refs_of, store_settings
from tachograph.aggregation.compactor import Compactor
from tachograph.config.settings import RetentionSettings
from tachograph.storage.group import _LAYOUTS_MAX
from tachograph.storage.model import Labels
from tachograph.storage.store import Store

A, B, C = (Labels.of({"host": host}, "up") for host in "abc")
DAY = 86_400_000


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    two_days = RetentionSettings(
        raw_ms=2 * DAY,
        tier_1m_ms=2 * DAY,
        tier_5m_ms=2 * DAY,
        tier_1h_ms=2 * DAY,
        tier_1d_ms=2 * DAY,
    )
    store = Store(store_settings(tmp_path / "data", retention=two_days), clock)
    await store.open()
    yield store
    await store.close()


async def count(store: Store, table: str) -> int:
    def job(connection: sqlite3.Connection) -> int:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    return await store.writer.run(job)


async def test_group_of_a_name_is_one_group(store: Store) -> None:
    assert store.group("g") is store.group("g")
    assert store.group("g").number != store.group("h").number


async def test_group_and_series_are_the_same_after_a_restart(
    store: Store, clock: ManualClock
) -> None:
    put(store.group("h"), clock.now_ms(), {B: 1.0})
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    before = (store.group("g").number, store.group("h").number, store.group("g").ref(A))
    await store.close()
    again = Store(store.settings, clock)
    await again.open()
    assert (again.group("g").number, again.group("h").number, again.group("g").ref(A)) == before
    await again.close()


async def test_members_are_written_out_once(store: Store, clock: ManualClock) -> None:
    group = store.group("g")
    for i in range(1, 20):
        put(group, clock.now_ms() + i, {A: 1.0, B: 2.0})
    await store.flush()
    assert await count(store, "layout") == 1


async def test_members_that_never_repeat_do_not_pile_up(store: Store, clock: ManualClock) -> None:
    group = store.group("g")
    names = [Labels.of({"i": str(i)}, "m") for i in range(200)]
    for i in range(1, 200):
        put(group, clock.now_ms() + i, {names[i - 1]: 1.0, names[i]: 2.0})
    expected = await read(store)
    await store.close()
    again = Store(store.settings, clock)
    await again.open()
    assert await read(again) == expected
    assert await count(again, "layout") == _LAYOUTS_MAX
    await again.seal()
    assert await count(again, "layout") == 0
    assert await count(again, "journal") == 0
    await again.close()


async def test_caller_may_use_its_arrays_again(store: Store, clock: ManualClock) -> None:
    group, other = store.group("g"), store.group("other")
    now = clock.now_ms()
    refs = refs_of([group.ref(A), group.ref(B)])
    values = np.array([1.0, 2.0])
    at = np.array([now, now])
    for target in (group, other):
        target.append(now, refs, values)
        store.append_points(refs, at - 5, values)
        refs[:], values[:], at[:] = refs[::-1].copy(), values + 10, at - 7
    expected = await read(store)
    await store.flush()
    refs[:], values[:], at[:] = 0, 0.0, 0
    assert await read(store) == expected
    await store.close()
    again = Store(store.settings, clock)
    await again.open()
    assert await read(again) == expected
    await again.close()


async def test_foreign_series_are_seen_in_one_place(store: Store, clock: ManualClock) -> None:
    now = clock.now_ms()
    put(store.group("home"), now, {A: 1.0, B: 1.0})
    put(store.group("other"), now + 1, {B: 2.0, C: 2.0})
    found = await read(store)
    assert found[A] == {now: bits([1.0])[0]}
    assert found[B] == {now: bits([1.0])[0], now + 1: bits([2.0])[0]}
    assert found[C] == {now + 1: bits([2.0])[0]}


async def forget_everything(store: Store, clock: ManualClock) -> None:
    """Let so much time pass that retention deletes every series."""
    await store.seal()
    await clock.advance(5 * DAY)
    await Compactor(store, rest=0).run_once()
    await clock.advance(DAY)
    await store.retention.run_once()
    await clock.advance(DAY)
    await store.retention.run_once()
    assert await count(store, "series") == 0
    assert await read(store) == {}


@pytest.mark.parametrize("by_tick", [True, False])
async def test_source_goes_on_with_numbers_of_series_that_were_deleted(
    store: Store, clock: ManualClock, by_tick: bool
) -> None:
    group = store.group("g")
    refs = refs_of([group.ref(A), group.ref(B)])
    group.append(clock.now_ms(), refs, np.array([1.0, 2.0]))
    await forget_everything(store, clock)
    now = clock.now_ms()
    if by_tick:
        group.append(now, refs, np.array([3.0, 4.0]))
    else:
        for at in (now - 1, now):  # each number twice
            twice, values = np.repeat(refs, 2), np.repeat([3.0, 4.0], 2)
            store.append_points(twice, np.array([at, now, at, now]), values)
    expected = {A: {now: bits([3.0])[0]}, B: {now: bits([4.0])[0]}}
    if not by_tick:
        expected = {
            labels: {now - 1: number, now: number}
            for labels, samples in expected.items()
            for number in samples.values()
        }
    assert await read(store) == expected
    await store.close()
    again = Store(store.settings, clock)
    await again.open()
    assert await read(again) == expected
    await again.close()


async def test_deleted_label_set_never_becomes_two_series(store: Store, clock: ManualClock) -> None:
    group = store.group("g")
    old = refs_of([group.ref(A)])
    group.append(clock.now_ms(), old, np.array([1.0]))
    await forget_everything(store, clock)
    now = clock.now_ms()
    # One source starts anew, and asks for its number; the other goes on with the one it has.
    put(store.group("other"), now, {A: 3.0})
    group.append(now + 1, old, np.array([4.0]))
    expected = {A: {now: bits([3.0])[0], now + 1: bits([4.0])[0]}}
    assert await read(store) == expected
    assert len(store.index) == 1
    await store.close()
    again = Store(store.settings, clock)
    await again.open()
    assert await read(again) == expected
    await again.close()


async def test_series_that_replaces_another_is_remembered_as_alive(
    store: Store, clock: ManualClock
) -> None:
    # As many members as before, the last of them another one.
    group = store.group("g")
    put(group, clock.now_ms(), {A: 1.0, B: 1.0})
    put_points(store, [(C, clock.now_ms(), 1.0)])
    await store.seal()
    put(group, clock.now_ms() + 1, {A: 2.0, C: 2.0})
    put(group, clock.now_ms() + 2, {B: 2.0})
    await store.seal()

    def job(connection: sqlite3.Connection) -> list[tuple[int]]:
        return connection.execute("SELECT last_day FROM series").fetchall()

    clock.step(DAY)
    names = [Labels.of({"i": str(i)}, "m") for i in range(4)]
    put(group, clock.now_ms(), {names[0]: 1.0, names[1]: 1.0})
    await store.seal()
    put(group, clock.now_ms() + 1, {names[2]: 1.0, names[3]: 1.0})
    await store.seal()
    assert -1 not in {day for (day,) in await store.writer.run(job)}
