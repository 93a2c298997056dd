"""Damaged files: a value that is read is the one that was written, or it is not read at all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from support.clock import ManualClock
from support.store import Samples, bits, put_points, read, refs_of, store_settings
from tachograph.aggregation.compactor import Compactor
from tachograph.storage.errors import StorageError
from tachograph.storage.model import Kind, Labels, Metadata, MetricType
from tachograph.storage.repair import repair, verify
from tachograph.storage.store import Store

#: Trials; each damages a copy of one database in 64 places.
TRIALS = int(os.environ.get("FLIP_TRIALS", "12"))
BYTES = 64
SERIES = [Labels.of({"host": f"h{i}", "job": "node"}, f"metric_{i % 7}") for i in range(60)]
HOUR = 3_600_000


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Samples, int]:
    """A database with a compacted day, sealed chunks, points, late ones and a journal."""
    path = tmp_path_factory.mktemp("original") / "data"
    clock = ManualClock()

    async def build() -> Samples:
        store = Store(store_settings(path), clock)
        await store.open()
        rng = np.random.default_rng(5)
        store.describe("metric_1", Metadata(MetricType.GAUGE, "Help of it."))
        for hour in range(30):
            for name, members in (("a", SERIES[:40]), ("b", SERIES[40:50])):
                group = store.group(name)
                refs = refs_of(group.ref(labels, Kind.GAUGE) for labels in members)
                for _ in range(30):
                    values = np.round(rng.normal(50, 9, len(members)), 2)
                    values[::5] = 4.0
                    clock.step(1_000)
                    group.append(clock.now_ms(), refs, values)
            now = clock.now_ms()
            put_points(
                store, [(labels, now - 7 * i - 3, float(i)) for i, labels in enumerate(SERIES[45:])]
            )
            clock.step(HOUR - 60_000)
            if hour == 26:
                await store.seal()
                assert await Compactor(store, rest=0).run_once()
            if hour < 29:
                await store.seal()
        await store.flush()
        everything = await read(store)
        await store.close()
        return everything

    return path, asyncio.run(build()), clock.now_ms()


def damage(path: Path, rng: random.Random, count: int) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(count):
        # Not the first page: what happens to that is told by test_directory.
        data[rng.randrange(4096, len(data))] ^= rng.randrange(1, 256)
    path.write_bytes(data)


def wrong(found: Samples, expected: Samples) -> list[str]:
    """What was read and never written."""
    lies = []
    for labels, samples in found.items():
        known = expected.get(labels, {})
        for ts_ms, number in samples.items():
            if known.get(ts_ms) != number:
                lies.append(f"{labels} at {ts_ms}: {number:#x}, not {known.get(ts_ms)}")
    return lies


def names_the_file(error: StorageError) -> None:
    assert "samples.db" in str(error)


async def read_what_can_be_read(store: Store, expected: Samples) -> Samples | None:
    """Read everything three times, as what is damaged is set aside the first time."""
    found = None
    for _ in range(3):
        try:
            found = await read(store)
        except StorageError as error:
            names_the_file(error)
            continue
        assert not wrong(found, expected)
    return found


@pytest.mark.parametrize("trial", range(TRIALS))
async def test_damage_never_turns_into_wrong_values(
    tmp_path: Path, original: tuple[Path, Samples, int], trial: int
) -> None:
    source, expected, now_ms = original
    clock = ManualClock(now_ms)
    shutil.copytree(source, tmp_path / "data")
    path = tmp_path / "data" / "samples.db"
    damage(path, random.Random(trial), BYTES)
    sound = verified(path)
    store = Store(store_settings(path.parent), clock)
    try:
        await store.open()
    except StorageError as error:
        names_the_file(error)
        assert not sound
    else:
        found = await read_what_can_be_read(store, expected)
        corrupt = store.stats.corrupt.total()
        assert found == expected or corrupt or not sound
        set_aside = await store.writer.run(quarantined)
        assert set_aside >= corrupt
        await store.close()

    try:
        repair(path, tmp_path / "aside.db")
    except StorageError as error:
        names_the_file(error)
        return
    assert verified(path)
    store = Store(store_settings(path.parent), clock)
    await store.open()
    found = await read(store)
    assert not wrong(found, expected)
    assert not store.stats.corrupt.total()
    await store.close()


def verified(path: Path) -> bool:
    try:
        return verify(path).is_sound
    except StorageError:
        return False


def quarantined(connection: sqlite3.Connection) -> int:
    try:
        return int(connection.execute("SELECT count(*) FROM quarantine").fetchone()[0])
    except sqlite3.DatabaseError:
        return 1 << 30


def change(path: Path, sql: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(sql)
        connection.commit()


@pytest.mark.parametrize(
    ("table", "sql"),
    [
        ("series", "UPDATE series SET labels = replace(labels, 'h7', 'h8') WHERE id = 8"),
        ("series", "UPDATE series SET labels = CAST(x'ff1fff' AS TEXT) WHERE id = 8"),
        ("series", "UPDATE series SET labels = x'00' WHERE id = 8"),
        ("series", "UPDATE series SET grp = 2 WHERE id = 8"),
        ("series", "UPDATE series SET kind = 'x' WHERE id = 8"),
        ("series", "UPDATE series SET id = 99999999999 WHERE id = 8"),
        ("layout", "UPDATE layout SET refs = x'01000000'"),
        ("layout", "UPDATE layout SET grp = 2"),
        ("block", "UPDATE block SET n = n + 1 WHERE id = (SELECT min(id) FROM block)"),
        ("block", "UPDATE block SET max_ms = 1 << 60 WHERE id = (SELECT max(id) FROM block)"),
        ("block", "UPDATE block SET min_ms = 'a' WHERE id = (SELECT max(id) FROM block)"),
        ("block", "UPDATE block SET data = 'a' WHERE id = (SELECT max(id) FROM block)"),
        ("chunk", "UPDATE chunk SET data = x'0001' WHERE id = (SELECT max(id) FROM chunk)"),
        ("chunk", "UPDATE chunk SET data = 'text' WHERE id = (SELECT min(id) FROM chunk)"),
        ("journal", "UPDATE journal SET data = 'text'"),
        ("journal", "UPDATE journal SET data = substr(data, 1, 20)"),
        ("journal", "UPDATE journal SET seq = seq + 1000"),
    ],
)
async def test_damaged_row_is_told_counted_and_set_aside(
    tmp_path: Path, original: tuple[Path, Samples, int], table: str, sql: str
) -> None:
    source, expected, now_ms = original
    shutil.copytree(source, tmp_path / "data")
    path = tmp_path / "data" / "samples.db"
    change(path, sql)
    assert verify(path).bad[table]
    clock = ManualClock(now_ms)
    store = Store(store_settings(path.parent), clock)
    await store.open()
    found = await read_what_can_be_read(store, expected)
    assert found is not None
    assert found != expected
    assert store.stats.corrupt[table]
    assert await store.writer.run(quarantined)
    # The store goes on, and a new series gets a number that none had.
    new = Labels.of({}, "new")
    ref = store.group("a").ref(new)
    assert ref > len(SERIES)
    clock.step(1_000)
    store.group("a").append(clock.now_ms(), refs_of([ref]), np.array([1.0]))
    await store.seal()
    assert len((await read(store))[new]) == 1
    await store.close()
    assert verified(path)
    again = Store(store_settings(path.parent), clock)
    await again.open()
    assert not wrong(await read(again), {**expected, new: {clock.now_ms(): bits([1.0])[0]}})
    assert again.group("a").ref(Labels.of({}, "newer")) > ref
    assert not again.stats.corrupt.total()
    await again.close()
