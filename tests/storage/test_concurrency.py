"""Reads in threads while samples come, seals run and days are compacted: each sample, once."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from support.clock import ManualClock
from support.store import put_points, refs_of, store_settings
from tachograph.aggregation.compactor import Compactor
from tachograph.config.selector import parse_selector
from tachograph.storage.model import Labels
from tachograph.storage.select import Querier
from tachograph.storage.store import Store

#: Rounds of appending and sealing; some 1.5 s.
ROUNDS = 20
SERIES = [Labels.of({"i": str(i)}, "m") for i in range(40)]
POINTED = Labels.of({}, "p")
STEP_MS = 600_000


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    # Threads take turns a hundred times as often: races show that would take hours.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.00005)
    store = Store(store_settings(tmp_path / "data"), clock, readers=3)
    await store.open()
    yield store
    await store.close()
    sys.setswitchinterval(interval)


def mistakes(querier: Querier, start_ms: int, atleast: int, cached: bool) -> list[str]:
    """Ticks 0, 1, 2, ... of value 0, 1, 2, ... without a gap: what else is there?"""
    wrong: list[str] = []
    if cached:
        querier.use_cache()
    for name in ("m", "p"):
        matchers = parse_selector(name)
        seen = 0
        for frame in querier.frames(querier.index.select(matchers), 0, 1 << 60, 7):
            count = len(frame.ts_ms)
            seen += len(frame.series)
            if frame.has_absent:
                wrong.append(f"{name}: absent cells")
            if frame.ts_ms.tolist() != [start_ms + i * STEP_MS for i in range(count)]:
                wrong.append(f"{name}: times {frame.ts_ms.tolist()}")
            elif (frame.values != np.arange(count)).any():
                wrong.append(f"{name}: values {frame.values.tolist()}")
            if count < atleast:
                wrong.append(f"{name}: {count} ticks, {atleast} were there before the read")
        if seen != (len(SERIES) if name == "m" else 1):
            wrong.append(f"{name}: {seen} series")
    return wrong


async def test_readers_see_every_sample_once_whatever_goes_on(
    store: Store, clock: ManualClock
) -> None:
    group = store.group("g")
    refs = refs_of(group.ref(labels) for labels in SERIES)
    start_ms = clock.now_ms()
    ticks = reads = 0
    busy = True
    wrong: list[str] = []

    def append() -> None:
        nonlocal ticks
        now = start_ms + ticks * STEP_MS
        clock.step(now - clock.now_ms())
        group.append(now, refs, np.full(len(SERIES), float(ticks)))
        put_points(store, [(POINTED, now, float(ticks))])
        ticks += 1

    async def look() -> None:
        nonlocal reads
        while busy:
            atleast = ticks
            job = partial(mistakes, start_ms=start_ms, atleast=atleast, cached=reads % 2 == 0)
            wrong.extend(await store.read(job))
            reads += 1

    async def work() -> None:
        nonlocal busy
        compactor = Compactor(store, rest=0)
        try:
            for number in range(ROUNDS):
                sealing = asyncio.create_task(
                    store.sealer.seal(None if number % 3 else {group.number})
                )
                while not sealing.done():
                    append()
                    await asyncio.sleep(0.001)
                await sealing
                if number % 10 == 9:
                    compacting = asyncio.create_task(compactor.run_once())
                    while not compacting.done():
                        append()
                        await asyncio.sleep(0.001)
                    await compacting
        finally:
            busy = False

    append()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(look())
        tasks.create_task(work())
    assert not wrong[:3]
    assert reads > 20
    assert not store.stats.corrupt.total()


async def test_new_series_during_reads_are_whole_or_not_there(
    store: Store, clock: ManualClock
) -> None:
    """Each series has one sample, and is appended right after it gets its number."""
    busy = True
    wrong: list[str] = []

    def look(querier: Querier) -> int:
        refs = querier.index.select(())
        frames = list(querier.frames(refs, 0, 1 << 60))
        for frame in frames:
            for series, row in zip(frame.series, frame.values, strict=True):
                values = row[~np.isnan(row)].tolist()
                if values != [float(series.labels.get("i"))]:
                    wrong.append(f"{series.labels}: {values}")
        return sum(len(frame.series) for frame in frames)

    async def read() -> None:
        before = 0
        while busy:
            found = await store.read(look)
            if found < before:
                wrong.append(f"{found} series, and {before} before")
            before = found

    async def work() -> None:
        nonlocal busy
        try:
            for i in range(1, 1500):
                clock.step(10)
                group = store.group(f"g{i % 5}")
                ref = group.ref(Labels.of({"i": str(i)}, "m"))
                group.append(clock.now_ms(), refs_of([ref]), np.array([float(i)]))
                if i % 3 == 0:
                    await asyncio.sleep(0)
                if i % 400 == 0:
                    await store.seal()
        finally:
            busy = False

    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(read())
        tasks.create_task(work())
    assert not wrong[:3]


async def test_readers_never_wait_for_the_writer(store: Store, clock: ManualClock) -> None:
    put_points(store, [(POINTED, clock.now_ms(), 0.0)])
    await store.seal()

    def within_a_transaction(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE meta SET v = v WHERE k = 'generation'")

    await store.writer.run(within_a_transaction)
    found = await asyncio.wait_for(
        store.read(lambda querier: len(querier.index.select(()))), timeout=20
    )
    assert found == 1
    await store.writer.run(lambda connection: connection.execute("ROLLBACK"))
