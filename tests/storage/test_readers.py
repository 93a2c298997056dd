"""Closing ends, whatever reads are at."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from support.clock import ManualClock
from support.store import put, read, store_settings
from tachograph.storage.errors import StoreUnavailable
from tachograph.storage.model import Labels
from tachograph.storage.readers import ReaderPool
from tachograph.storage.select import Querier
from tachograph.storage.sqlite import open_writer
from tachograph.storage.store import Store

A = Labels.of({}, "up")
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
SHORT = "SELECT count(*) FROM meta"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    open_writer(tmp_path / "samples.db").close()
    return tmp_path / "samples.db"


async def begun(begins: threading.Event) -> None:
    assert await asyncio.to_thread(begins.wait, 30)


@pytest.mark.parametrize("readers", [1, 2])
async def test_store_closes_with_a_read_stuck_in_a_long_statement(
    tmp_path: Path, readers: int
) -> None:
    clock, begins = ManualClock(), threading.Event()
    store = Store(store_settings(tmp_path), clock, readers=readers, close_grace_s=0.01)
    await store.open()
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    expected = await read(store)

    def stuck(querier: Querier) -> None:
        begins.set()
        querier._connection.execute(ENDLESS).fetchone()

    reading = asyncio.create_task(store.read(stuck))
    await begun(begins)
    await store.close()
    with pytest.raises(StoreUnavailable, match="closing"):
        await reading
    assert not any("reader" in thread.name for thread in threading.enumerate())
    again = Store(store_settings(tmp_path), clock)
    await again.open()
    assert await read(again) == expected, "and what was appended was committed"
    await again.close()


@pytest.mark.parametrize("sql", [ENDLESS, SHORT])
async def test_read_that_never_stops_asking_is_cut_off(path: Path, sql: str) -> None:
    begins, pool = threading.Event(), ReaderPool(path, 1, grace_s=0.01)

    def asks(connection: sqlite3.Connection) -> None:
        while True:
            begins.set()
            connection.execute(sql).fetchall()

    reading = asyncio.create_task(pool.run(asks))
    await begun(begins)
    await pool.close()
    with pytest.raises(StoreUnavailable, match="closing"):
        await reading


async def test_read_may_end_its_transaction_when_it_is_cut_off(path: Path) -> None:
    begins, pool = threading.Event(), ReaderPool(path, 1, grace_s=0.01)
    ended = []

    def asks(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN")
        try:
            begins.set()
            connection.execute(ENDLESS).fetchall()
        finally:
            connection.execute("ROLLBACK")
            ended.append(connection.in_transaction)

    reading = asyncio.create_task(pool.run(asks))
    await begun(begins)
    await pool.close()
    with pytest.raises(StoreUnavailable, match="closing"):
        await reading
    assert ended == [False]


async def test_read_that_ends_in_time_is_not_cut_off(path: Path) -> None:
    begins, goes_on = threading.Event(), threading.Event()
    pool = ReaderPool(path, 1, grace_s=30)

    def slow(connection: sqlite3.Connection) -> int:
        begins.set()
        goes_on.wait(30)
        return int(connection.execute("SELECT 7").fetchone()[0])

    reading = asyncio.create_task(pool.run(slow))
    await begun(begins)
    waiting = asyncio.create_task(pool.run(slow))
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0)
    goes_on.set()
    await closing
    assert await reading == 7
    with pytest.raises(StoreUnavailable, match="is closed"):
        await waiting


async def test_read_that_only_computes_is_left_behind(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begins, goes_on = threading.Event(), threading.Event()
    pool = ReaderPool(path, 1, grace_s=0.01, end_s=0.05)

    def computes(_: sqlite3.Connection) -> int:
        begins.set()
        goes_on.wait(30)
        return 7

    reading = asyncio.create_task(pool.run(computes))
    await begun(begins)
    await pool.close()
    assert "1 reads do not end" in caplog.text
    goes_on.set()
    assert await reading == 7
    await pool.close()
