"""Chunks whose block never came, or is gone: they are never read, and they go."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from support.clock import ManualClock
from support.store import FailingConnection, crash_copy, put, put_points, read, store_settings
from tachograph.aggregation.compactor import Compactor
from tachograph.storage.errors import StorageError
from tachograph.storage.model import Labels
from tachograph.storage.store import Store

A, B, C = (Labels.of({"host": host}, "up") for host in "abc")
SECOND, DAY = 1_000, 86_400_000


async def orphans(store: Store) -> int:
    """Chunks without their block's row."""

    def job(connection: sqlite3.Connection) -> int:
        sql = "SELECT count(*) FROM chunk WHERE block NOT IN (SELECT id FROM block)"
        return int(connection.execute(sql).fetchone()[0])

    return await store.writer.run(job)


async def fail_when_orphans_lie_about(store: Store, disk: FailingConnection, minimum: int) -> None:
    """Try to compact until an attempt has written chunks and then failed."""
    for statements in range(100):
        disk.fail_after(statements)
        with pytest.raises(StorageError):
            await Compactor(store, rest=0).run_once()
        disk.heal()
        if await orphans(store) >= minimum:
            return
    raise AssertionError("no attempt failed half-way")


@pytest.mark.parametrize("crash", [False, True])
async def test_chunks_of_an_attempt_that_failed_are_not_read_with_the_next(
    tmp_path: Path, store: Store, clock: ManualClock, crash: bool
) -> None:
    others = {Labels.of({}, f"m{i}"): 1.0 for i in range(64)}  # a piece of the daily job
    start = clock.now_ms() - 100 * SECOND  # the day before
    clock.step(-100 * SECOND)
    for i in range(1, 5):
        put(store.group("g"), start + i, {**others, A: 1.0})
    clock.step(200 * SECOND)
    await store.seal()
    disk = FailingConnection.install(store)
    await fail_when_orphans_lie_about(store, disk, 65)
    if crash:
        crash_copy(store, tmp_path / "copy")
        await store.close()
        store = Store(store_settings(tmp_path / "copy"), clock)
        await store.open()
    # One series gets a point, and so times of its own; the others a tick more.
    put(store.group("g"), start + 5, others)
    put_points(store, [(A, start + 1, 9.0)])
    await store.seal()
    expected = await read(store)
    assert len(expected[A]) == 4
    await Compactor(store, rest=0).run_once()
    assert await read(store) == expected
    assert not store.stats.corrupt.total()
    assert await orphans(store) == 0
    await store.close()


async def test_chunks_of_a_failed_seal_go_with_the_next(store: Store, clock: ManualClock) -> None:
    disk = FailingConnection.install(store)
    put_points(store, [(A, clock.now_ms(), 1.0)])
    put(store.group("g"), clock.now_ms(), {A: 1.0, B: 2.0, C: 3.0})
    for statements in range(100):
        disk.fail_after(statements)
        with pytest.raises(StorageError):
            await store.seal()
        disk.heal()
        if await orphans(store):
            break
    # Points under an earlier window get another key: nothing would replace the old chunk.
    put_points(store, [(A, clock.now_ms() - 3_600 * SECOND, 1.0)])
    expected = await read(store)
    await store.seal()
    assert await read(store) == expected
    assert await orphans(store) == 0


async def test_chunks_of_deleted_blocks_go_after_a_crash_too(
    tmp_path: Path, store: Store, clock: ManualClock
) -> None:
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    await store.seal()
    await clock.advance(20 * DAY)
    await Compactor(store, rest=0).run_once()
    disk = FailingConnection.install(store)
    for statements in range(100):
        disk.fail_after(statements)
        with pytest.raises(StorageError):
            await store.retention.run_once()
        disk.heal()
        if await orphans(store):
            break
    crash_copy(store, tmp_path / "copy")
    again = Store(store_settings(tmp_path / "copy"), clock)
    await again.open()
    assert await orphans(again) == 1
    await again.seal()
    assert await orphans(again) == 0
    await again.close()
