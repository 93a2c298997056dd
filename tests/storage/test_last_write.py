"""Of two samples of one series at one time the one that came last stays, wherever they lie."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from support.clock import ManualClock
from support.store import FailingConnection, bits, put, put_points, read, store_settings
from tachograph.storage.errors import StorageError
from tachograph.storage.model import Labels
from tachograph.storage.store import Store

A, B = (Labels.of({"host": host}, "up") for host in "ab")
MINUTE = 60_000


async def held(store: Store, ts_ms: int) -> int:
    return (await read(store))[A][ts_ms]


@pytest.mark.parametrize("writers", list(itertools.product(["tick", "foreign", "point"], repeat=3)))
@pytest.mark.parametrize("seals", ["", "0", "1", "01"])
async def test_last_write_wins(
    store: Store, clock: ManualClock, writers: tuple[str, ...], seals: str
) -> None:
    now = clock.now_ms()
    store.group("home").ref(A)
    for i, writer in enumerate(writers):
        if writer == "point":
            put_points(store, [(A, now, float(i))])
        else:
            put(store.group("home" if writer == "tick" else "other"), now, {A: float(i), B: 0.0})
        assert await held(store, now) == bits([float(i)])[0]
        if str(i) in seals:
            await store.seal()
            assert await held(store, now) == bits([float(i)])[0]
    await store.seal()
    assert await held(store, now) == bits([2.0])[0]


async def test_earlier_points_sealed_later_come_second(store: Store, clock: ManualClock) -> None:
    now = clock.now_ms()
    put_points(store, [(A, now, 1.0)])
    await store.seal()
    # A block of points is kept under the window of its first one: this one lies before the other.
    put_points(store, [(A, now - 50 * MINUTE, 5.0), (A, now, 2.0)])
    await store.seal()
    assert await held(store, now) == bits([2.0])[0]
    put_points(store, [(A, now - 90 * MINUTE, 5.0), (A, now, 3.0)])
    await store.seal()
    assert await held(store, now) == bits([3.0])[0]


async def test_tick_after_a_point_and_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    now = clock.now_ms()
    for seal in (False, True):
        settings = store_settings(tmp_path / str(seal))
        store = Store(settings, clock)
        await store.open()
        store.group("home").ref(A)
        put_points(store, [(A, now, 1.0)])
        if seal:
            await store.seal()
        await store.close()
        store = Store(settings, clock)
        await store.open()
        put(store.group("home"), now, {A: 2.0})
        assert await held(store, now) == bits([2.0])[0]
        await store.close()


async def test_ticks_of_a_failed_seal_keep_their_order(store: Store, clock: ManualClock) -> None:
    now = clock.now_ms()
    disk = FailingConnection.install(store)
    put(store.group("home"), now, {A: 1.0})
    await store.flush()
    disk.fail_after(6)
    with pytest.raises(StorageError):
        await store.seal()
    disk.heal()
    for value in (2.0, 3.0):
        put(store.group("home"), now, {A: value})
        assert await held(store, now) == bits([value])[0]
    await store.seal()
    assert await held(store, now) == bits([3.0])[0]


async def test_tick_that_meets_no_point_stays_with_its_group(
    store: Store, clock: ManualClock
) -> None:
    now = clock.now_ms()
    put_points(store, [(B, now + MINUTE, 1.0)])
    put(store.group("home"), now, {A: 2.0})
    assert store.stats.points_appended == 1
