"""A full disk: appends are kept, readers go on, and all is well once there is room again."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support.clock import ManualClock
from support.disk import SmallDisk, small_disk
from support.store import Samples, bits, read, refs_of, store_settings
from tachograph.storage.errors import StorageError, StoreUnavailable
from tachograph.storage.model import Labels
from tachograph.storage.store import Store

SERIES = [Labels.of({"i": str(i)}, "m") for i in range(500)]
BALLAST = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 8) as disk:
        yield disk


class Feeder:
    """Appends ticks that do not compress, and remembers them."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store, self._clock = store, clock
        self._rng = np.random.default_rng(1)
        self.expected: Samples = {labels: {} for labels in SERIES}

    def append(self, ticks: int = 1) -> None:
        group = self.store.group("g")
        refs = refs_of(group.ref(labels) for labels in SERIES)
        for _ in range(ticks):
            self._clock.step(1_000)
            now = self._clock.now_ms()
            values = self._rng.normal(size=len(SERIES))
            group.append(now, refs, values)
            for labels, number in zip(SERIES, bits(values), strict=True):
                self.expected[labels][now] = number


async def opened(disk: SmallDisk, clock: ManualClock, ballast_bytes: int = BALLAST) -> Store:
    settings = replace(store_settings(disk.path / "data"), ballast_bytes=ballast_bytes)
    store = Store(settings, clock)
    await store.open()
    return store


async def append_until_full(feeder: Feeder) -> int:
    """Flush tick by tick until the disk refuses; return how many ticks were committed."""
    for ticks in range(10_000):
        feeder.append()
        try:
            await feeder.store.flush()
        except StoreUnavailable:
            return ticks
    raise AssertionError("the disk never got full")


def integrity(store: Store) -> str:
    with contextlib.closing(sqlite3.connect(store.path)) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


async def test_full_disk_takes_nothing_and_heals_without_a_restart(
    disk: SmallDisk, clock: ManualClock
) -> None:
    store = await opened(disk, clock)
    feeder = Feeder(store, clock)
    feeder.append(20)
    await store.flush()
    disk.fill(but_bytes=200_000)
    assert store.ballast.is_aboard
    committed = await append_until_full(feeder)
    assert not store.ballast.is_aboard, "it was given up for the newest samples"
    assert committed * len(SERIES) * 8 > BALLAST // 4, "and they had room then"

    # Nothing works but what needs no disk: appending and reading.
    feeder.append(5)
    waiting = asyncio.create_task(store.committed())
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        await store.flush()
    with pytest.raises(StoreUnavailable):
        await waiting
    with pytest.raises(StorageError):
        await store.seal()
    assert store.trouble
    assert store.stats.flush_errors >= 3
    assert await read(store) == feeder.expected

    disk.free()
    feeder.append()
    await store.flush()
    assert not store.trouble
    assert await read(store) == feeder.expected
    await store.seal()
    assert await read(store) == feeder.expected
    await store.close()
    assert integrity(store) == "ok"
    again = await opened(disk, clock)
    assert await read(again) == feeder.expected
    assert again.ballast.is_aboard
    await again.close()


async def test_what_was_committed_before_the_disk_filled_survives_a_kill(
    disk: SmallDisk, tmp_path: Path, clock: ManualClock
) -> None:
    store = await opened(disk, clock)
    feeder = Feeder(store, clock)
    disk.fill(but_bytes=400_000)
    await append_until_full(feeder)
    times = sorted(feeder.expected[SERIES[0]])
    with contextlib.suppress(StorageError):
        await store.seal()
    data = tmp_path / "copy"
    data.mkdir()
    for name in ("samples.db", "samples.db-wal"):
        (data / name).write_bytes((store.directory / name).read_bytes())
    again = Store(store_settings(data), clock)
    await again.open()
    found = await read(again)
    assert sorted(found) == sorted(SERIES)
    for labels, samples in found.items():
        assert samples == {ts: feeder.expected[labels][ts] for ts in times[:-1]}
    await again.close()
    disk.free()
    await store.close()


async def test_seal_on_a_full_disk_leaves_everything_in_the_head(
    disk: SmallDisk, clock: ManualClock
) -> None:
    store = await opened(disk, clock, ballast_bytes=0)
    feeder = Feeder(store, clock)
    for room in (40_000, 200_000, 400_000, 800_000):
        feeder.append(100)
        await store.flush()
        disk.fill(but_bytes=room)
        with pytest.raises(StorageError):
            await store.seal()
        assert store.stats.seal_errors
        assert await read(store) == feeder.expected
        disk.free()
    await store.seal()
    assert store.group("g").head.ticks == 0
    assert await read(store) == feeder.expected
    await store.close()
    assert integrity(store) == "ok"


async def test_full_disk_at_start_costs_the_ballast(disk: SmallDisk, clock: ManualClock) -> None:
    store = await opened(disk, clock)
    feeder = Feeder(store, clock)
    feeder.append(10)
    await store.close()
    disk.fill()
    again = await opened(disk, clock)
    feeder.store = again
    assert await read(again) == feeder.expected
    feeder.append()
    await again.flush()
    assert await read(again) == feeder.expected
    await again.close()


async def test_full_disk_without_ballast_at_start_is_told(
    disk: SmallDisk, clock: ManualClock
) -> None:
    store = await opened(disk, clock, ballast_bytes=0)
    feeder = Feeder(store, clock)
    feeder.append(10)
    await store.close()
    disk.fill()
    with pytest.raises(StoreUnavailable, match=r"samples\.db"):
        await opened(disk, clock, ballast_bytes=0)
    disk.free()
    again = await opened(disk, clock, ballast_bytes=0)
    assert await read(again) == feeder.expected
    await again.close()


async def test_closing_on_a_full_disk_keeps_what_was_committed(
    disk: SmallDisk, clock: ManualClock
) -> None:
    store = await opened(disk, clock, ballast_bytes=0)
    feeder = Feeder(store, clock)
    feeder.append(10)
    await store.flush()
    expected = {labels: dict(samples) for labels, samples in feeder.expected.items()}
    disk.fill()
    feeder.append()
    await store.close()
    disk.free()
    again = await opened(disk, clock, ballast_bytes=0)
    assert await read(again) == expected
    await again.close()


async def test_ballast_comes_aboard_again_without_a_restart(
    disk: SmallDisk, clock: ManualClock
) -> None:
    store = await opened(disk, clock)
    feeder = Feeder(store, clock)
    disk.fill(but_bytes=200_000)
    await append_until_full(feeder)
    assert not store.ballast.is_aboard
    disk.free()
    running = asyncio.create_task(store.run())
    while not store.ballast.is_aboard:
        await clock.advance(1_000)
        await asyncio.sleep(0.001)
    assert not store.trouble
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert await read(store) == feeder.expected
    await store.close()


async def test_ballast_needs_room_to_spare(disk: SmallDisk, clock: ManualClock) -> None:
    disk.fill(but_bytes=3 * BALLAST // 2)
    store = await opened(disk, clock)
    assert not store.ballast.is_aboard
    await store.close()
