"""A data directory read without its agent: all that was committed, and nothing is changed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from support.clock import ManualClock
from support.disk import small_disk
from support.history import MIDNIGHT, SECOND
from support.store import (
    ALL_MS,
    Samples,
    crash_copy,
    put,
    put_points,
    read,
    store_settings,
    unpack,
)
from tachograph.aggregation.compactor import Compactor
from tachograph.storage.errors import SchemaTooNew, StoreUnavailable
from tachograph.storage.frame import STALE_NAN
from tachograph.storage.model import Kind, Labels, Metadata, MetricType
from tachograph.storage.offline import OfflineStore
from tachograph.storage.store import Store

SERIES = [Labels.of({"n": str(n)}, "level") for n in range(3)]
DAY = 86_400 * SECOND


async def filled(path: Path) -> Store:
    """A store with a compacted day, sealed ticks, and ticks and points in the journal."""
    clock = ManualClock(MIDNIGHT)
    store = Store(store_settings(path), clock)
    await store.open()
    group = store.group("host")
    for step in range(5):
        put(group, MIDNIGHT + (step + 1) * SECOND, dict.fromkeys(SERIES, float(step)), Kind.GAUGE)
    clock.step(DAY + 1000 * SECOND)
    await store.seal()
    await Compactor(store, rest=0).run_once()
    for step in range(5):
        tick = {SERIES[0]: float(step), SERIES[1]: STALE_NAN if step == 3 else -0.0}
        put(group, MIDNIGHT + DAY + (step + 1) * SECOND, tick)
        if step == 2:
            await store.seal()
    put_points(
        store,
        [
            (Labels.of({}, "pushed"), MIDNIGHT + DAY + 7, np.nan),
            (SERIES[2], MIDNIGHT + DAY + 2, 8.0),
            (SERIES[0], MIDNIGHT + DAY + 2 * SECOND, 9.0),  # later, so it wins
        ],
    )
    store.describe("level", Metadata(MetricType.GAUGE, "How full it is."))
    await store.flush()
    return store


def offline(path: Path) -> Samples:
    with OfflineStore(path) as found:
        return unpack(found.querier.select((), *ALL_MS))


async def test_it_has_all_that_is_committed_and_not_what_is_not(tmp_path: Path) -> None:
    store = await filled(tmp_path)
    whole = await read(store)
    put_points(store, [(SERIES[0], MIDNIGHT + DAY + 60 * SECOND, 1.0)])
    assert offline(tmp_path) == whole
    with OfflineStore(tmp_path) as found:
        assert found.families.metadata("level") == Metadata(MetricType.GAUGE, "How full it is.")
        assert found.querier.index.find(SERIES[0]) == store.index.find(SERIES[0])
        assert found.querier.compacted == store.ledger.compacted
    await store.close()
    assert len(offline(tmp_path)[SERIES[0]]) == len(whole[SERIES[0]]) + 1


async def test_it_reads_what_a_kill_left(tmp_path: Path) -> None:
    store = await filled(tmp_path / "live")
    whole = await read(store)
    crash_copy(store, tmp_path / "dead")
    await store.close()
    assert offline(tmp_path / "dead") == whole


async def test_a_snapshot_stays_as_it_is_while_the_agent_goes_on(tmp_path: Path) -> None:
    store = await filled(tmp_path)
    whole = await read(store)
    with OfflineStore(tmp_path) as found:
        put_points(store, [(SERIES[0], MIDNIGHT + DAY + 60 * SECOND, 1.0)])
        await store.seal()
        await Compactor(store, rest=0).run_once()
        assert unpack(found.querier.select((), *ALL_MS)) == whole
    await store.close()


async def test_nothing_is_written(tmp_path: Path) -> None:
    store = await filled(tmp_path)
    await store.close()
    before = contents(tmp_path)
    offline(tmp_path)
    assert contents(tmp_path) == before


async def test_a_read_only_disk_is_read(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        store = await filled(disk.path / "data")
        whole = await read(store)
        await store.close()
        disk.make_read_only()
        assert offline(disk.path / "data") == whole


def contents(directory: Path) -> dict[str, bytes]:
    """What files hold; SQLite may leave an empty log and its index behind, which say nothing."""
    files = [file for file in directory.iterdir() if not file.name.endswith("-shm")]
    return {file.name: file.read_bytes() for file in files if file.stat().st_size}


async def test_a_newer_schema_and_no_database_are_told(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="no database at"):
        OfflineStore(tmp_path / "none").open()
    store = Store(store_settings(tmp_path), ManualClock(MIDNIGHT))
    await store.open()
    await store.close()
    with sqlite3.connect(tmp_path / "samples.db") as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(SchemaTooNew, match="schema 99"):
        OfflineStore(tmp_path).open()
