"""Committing: what is acknowledged is on disk, and what is not is kept."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest

from support.clock import ManualClock
from support.store import (
    FailingConnection,
    crash_copy,
    put,
    put_points,
    read,
    refs_of,
    store_settings,
    times,
)
from tachograph.storage import intake
from tachograph.storage.commit import finish
from tachograph.storage.errors import StorageError, StoreUnavailable
from tachograph.storage.model import Labels, Metadata, MetricType
from tachograph.storage.store import Store

A, B = (Labels.of({"host": host}, "up") for host in "ab")


class BusyWriter:
    """Keeps the writer thread busy until it is let go."""

    def __init__(self, store: Store) -> None:
        self._go = threading.Event()
        self._task = asyncio.ensure_future(store.writer.run(self._wait))

    def _wait(self, connection: sqlite3.Connection) -> None:
        assert self._go.wait(20)

    async def let_go(self) -> None:
        self._go.set()
        await self._task


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_acknowledgement_waits_for_the_flush_under_way(
    store: Store, clock: ManualClock
) -> None:
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    busy = BusyWriter(store)
    flush = asyncio.create_task(store.flush())
    await settle()
    acknowledged = asyncio.create_task(store.committed())
    await settle()
    assert not acknowledged.done()
    await busy.let_go()
    await flush
    await asyncio.wait_for(acknowledged, 10)
    assert store.stats.flushes == 1


async def test_acknowledgement_of_a_flush_under_way_that_fails_is_none(
    store: Store, clock: ManualClock
) -> None:
    disk = FailingConnection.install(store)
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    busy = BusyWriter(store)
    flush = asyncio.create_task(store.flush())
    await settle()
    acknowledged = asyncio.create_task(store.committed())
    await settle()
    disk.fail_after(0)
    await busy.let_go()
    for task in (flush, acknowledged):
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(task, 10)
    disk.heal()
    await store.flush()
    assert len(await read(store)) == 1


async def test_acknowledgement_covers_what_came_during_a_flush(
    store: Store, clock: ManualClock
) -> None:
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    busy = BusyWriter(store)
    flush = asyncio.create_task(store.flush())
    await settle()
    put(store.group("g"), clock.now_ms() + 1, {A: 2.0})
    acknowledged = asyncio.create_task(store.committed())
    await settle()
    await busy.let_go()
    await flush
    await settle()
    assert not acknowledged.done(), "the second tick is in no flush yet"
    await store.flush()
    await asyncio.wait_for(acknowledged, 10)


async def test_nothing_to_commit_is_acknowledged_at_once(store: Store) -> None:
    await asyncio.wait_for(store.committed(), 10)
    assert store.stats.flushes == 0


async def test_closed_store_acknowledges_nothing(store: Store) -> None:
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.committed()


async def test_close_settles_who_waits(tmp_path: Path, clock: ManualClock) -> None:
    store = Store(store_settings(tmp_path / "data"), clock)
    await store.open()
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    acknowledged = asyncio.create_task(store.committed())
    await settle()
    await store.close()
    await asyncio.wait_for(acknowledged, 10)


async def test_failed_commit_keeps_everything_in_order(
    tmp_path: Path, store: Store, clock: ManualClock
) -> None:
    disk = FailingConnection.install(store)
    now = clock.now_ms()
    expected = {}
    for i, statements in enumerate((0, 1, 2, 3, 4, 5, 6, 7)):
        labels = Labels.of({}, f"m{i}")
        put(store.group(f"g{i}"), now + i, {labels: float(i), A: float(i)})
        put_points(store, [(B, now + i, 1.0), (B, now, float(i))])
        store.describe(f"m{i}", Metadata(MetricType.GAUGE, f"help {i}"))
        disk.fail_after(statements)
        with pytest.raises(StoreUnavailable):
            await store.flush()
        disk.heal()
        expected[labels] = i
        assert store.trouble
    await store.flush()
    assert not store.trouble
    held = await read(store)
    crash_copy(store, tmp_path / "copy")
    again = Store(store_settings(tmp_path / "copy"), clock)
    await again.open()
    assert await read(again) == held
    assert len(held) == 10
    assert [name for name, _ in again.families.items()] == [f"m{i}" for i in range(8)]
    await again.close()


async def test_full_queue_refuses_and_counts(store: Store, clock: ManualClock) -> None:
    disk = FailingConnection.install(store)
    disk.fail_after(0)
    group = store.group("g")
    many = 50_000
    refs = refs_of(group.ref(Labels.of({"i": str(i)}, "m")) for i in range(1_000))
    values = np.zeros(many)
    now = clock.now_ms()
    at = times(now - 1_000 - i for i in range(many))
    for _ in range(intake.PENDING_SAMPLES_MAX // many):
        store.append_points(np.resize(refs, many), at, values)
    with pytest.raises(StoreUnavailable):
        store.append_points(np.resize(refs, many), at, values)
    assert store.stats.dropped["unavailable"] == many
    with pytest.raises(StoreUnavailable):
        await store.flush()
    with pytest.raises(StoreUnavailable):
        put(group, now, {A: 1.0})
    disk.heal()
    await store.flush()
    put(group, now, {A: 1.0})
    assert (await read(store))[A]


async def test_text_that_is_no_utf8_stops_no_commit(store: Store, clock: ManualClock) -> None:
    store.describe("broken", Metadata(MetricType.GAUGE, "\ud800", "\udfff"))
    put(store.group("bad\ud800name"), clock.now_ms(), {A: 1.0})
    await store.flush()
    assert store.stats.samples_committed == 1


async def test_cancelled_flush_is_carried_through(store: Store, clock: ManualClock) -> None:
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    busy = BusyWriter(store)
    flush = asyncio.create_task(store.flush())
    await settle()
    flush.cancel()
    await settle()
    flush.cancel()
    await settle()
    assert not flush.done()
    await busy.let_go()
    with pytest.raises(asyncio.CancelledError):
        await flush
    assert store.stats.samples_committed == 1


async def test_cancelled_work_that_fails_ends_quietly() -> None:
    gate = asyncio.Event()

    async def work() -> None:
        await gate.wait()
        raise StorageError("late")

    task = asyncio.create_task(finish(work()))
    await settle()
    task.cancel()
    await settle()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_run_commits_at_its_interval_and_seals_by_the_hour(
    store: Store, clock: ManualClock
) -> None:
    running = asyncio.create_task(store.run())
    await clock.advance(1)
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    await clock.advance(4_000)
    assert store.stats.flushes == 0
    await clock.advance(1_500)
    await store.writer.run(lambda connection: None)
    await settle()
    assert store.stats.flushes == 1
    await clock.advance(3_600_000)
    while not store.stats.seals:
        await store.writer.run(lambda connection: None)
        await clock.advance(5_000)
    assert store.ledger.catalogue.newest_ms(1) > 0
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_run_commits_soon_for_who_waits(store: Store, clock: ManualClock) -> None:
    running = asyncio.create_task(store.run())
    await clock.advance(60_000)
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    acknowledged = asyncio.create_task(store.committed())
    await settle()
    await clock.advance(1_000)
    await asyncio.wait_for(acknowledged, 10)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_run_goes_on_after_trouble(store: Store, clock: ManualClock) -> None:
    disk = FailingConnection.install(store)
    running = asyncio.create_task(store.run())
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    disk.fail_after(0)
    await clock.advance(5_000)
    while not store.trouble:
        await clock.advance(1_000)
        await asyncio.sleep(0.001)
    disk.heal()
    while store.trouble:
        await clock.advance(1_000)
        await asyncio.sleep(0.001)
    assert store.stats.samples_committed == 1
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
