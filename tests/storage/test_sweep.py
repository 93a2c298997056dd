"""Deleting in slices, and giving space back."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.clock import ManualClock
from support.store import store_settings
from tachograph.storage import sweep
from tachograph.storage.keys import REF_MAX, rollup_key, row_key
from tachograph.storage.sqlite import WriterThread
from tachograph.storage.store import Store


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[WriterThread]:
    store = Store(store_settings(tmp_path / "data"), ManualClock())
    await store.open()
    yield store.writer
    await store.close()


async def insert_chunks(writer: WriterThread, block: int, refs: range, size: int = 10) -> None:
    rows = [(block & ~REF_MAX | ref, block, 0, bytes(size)) for ref in refs]
    await writer.run(lambda c: c.executemany("INSERT INTO chunk VALUES (?, ?, ?, ?)", rows))


async def insert_block(writer: WriterThread, key: int) -> None:
    await writer.run(lambda c: c.execute("INSERT INTO block VALUES (?, 0, 1, 1, 0, ?)", (key, b"")))


async def chunks(writer: WriterThread) -> list[int]:
    """The series of the chunks that are left."""
    rows = await writer.run(lambda c: c.execute("SELECT id & 4294967295 FROM chunk").fetchall())
    return sorted(ref for (ref,) in rows)


def mark(connection: sqlite3.Connection, *blocks: int) -> None:
    sweep.mark_orphaned(connection, blocks)


async def test_sweep_takes_the_chunks_of_marked_blocks_that_are_gone(
    writer: WriterThread,
) -> None:
    gone, there, other = row_key(7, 0, 1), row_key(7, 0, 2), row_key(8, 0, 1)
    await insert_chunks(writer, gone, range(1, 2_501))
    await insert_chunks(writer, there, range(3_000, 3_010))
    await insert_chunks(writer, other, range(4_000, 4_005))
    await insert_block(writer, there)
    await writer.run(lambda c: mark(c, gone, there))
    assert await sweep.sweep_orphans(writer) == 2_500
    assert await chunks(writer) == [*range(3_000, 3_010), *range(4_000, 4_005)]
    assert await sweep.sweep_orphans(writer) == 0
    left = await writer.run(lambda c: c.execute("SELECT count(*) FROM orphaned").fetchone())
    assert left == (0,)


async def test_chunks_of_some_series_in_some_blocks_are_deleted(writer: WriterThread) -> None:
    ours, same_row, later = row_key(7, 0, 1), row_key(7, 0, 2), row_key(9, 3, 1)
    await insert_chunks(writer, ours, range(0, 6_000, 2))
    await insert_chunks(writer, same_row, range(1, 101, 2))
    await insert_chunks(writer, later, range(0, 10))
    await insert_chunks(writer, row_key(8, 0, 1), range(0, 4))  # between them, and none of them
    refs = frozenset(range(0, 5_000))
    assert await sweep.delete_chunks(writer, {ours, later}, refs) == 2_500 + 10
    assert await chunks(writer) == sorted(
        [*range(5_000, 6_000, 2), *range(1, 101, 2), *range(0, 4)]
    )


async def test_rollups_are_listed_by_range_and_deleted_by_key(writer: WriterThread) -> None:
    keys = [rollup_key(1, day, ref) for day in (-1, 0, 20_000) for ref in range(1, 501)]
    keys.append(rollup_key(2, 0, 1))
    await writer.run(
        lambda c: c.executemany("INSERT INTO rollup VALUES (?, 0, x'00')", [(k,) for k in keys])
    )
    low, end = rollup_key(1, -1, 0), rollup_key(1, 20_000, 0)
    assert await sweep.rollup_keys(writer, low, end) == sorted(keys[:1_000])
    assert await sweep.delete_rollups(writer, [*keys[:1_200], 5]) == 1_200
    assert await sweep.rollup_keys(writer, low, rollup_key(3, 0, 0)) == sorted(keys[1_200:])


async def test_vacuum_gives_back_what_is_asked_and_the_file_is_shorter(
    tmp_path: Path, writer: WriterThread
) -> None:
    path = tmp_path / "data" / "samples.db"
    await insert_chunks(writer, row_key(7, 0, 1), range(400), 50_000)
    await writer.run(lambda c: c.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
    before = path.stat().st_size
    assert before > 20_000_000
    await writer.run(lambda c: c.execute("DELETE FROM chunk WHERE id & 4294967295 >= 100"))
    _, free = await sweep.used_bytes(writer)
    assert free > 14_000_000
    given = await sweep.vacuum(writer, 10_000_000)
    assert 10_000_000 <= given <= 10_000_000 + 500 * 4_096
    shorter = before - path.stat().st_size
    assert 0 <= shorter - given <= 20 * 4_096, "and the pages that only list the others"
    # No more than there is.
    assert 0 <= free - given - await sweep.vacuum(writer, 1 << 40) <= 20 * 4_096
    assert (await sweep.used_bytes(writer))[1] == 0
    assert len(await chunks(writer)) == 100


async def test_shrink_leaves_no_free_page_and_no_log(writer: WriterThread, tmp_path: Path) -> None:
    await writer.run(
        lambda c: c.executemany(
            "INSERT INTO rollup (id, crc, data) VALUES (?, 0, ?)",
            [(key, bytes(3000)) for key in range(2000)],
        )
    )
    await sweep.delete_rollups(writer, range(2000))
    assert await sweep.shrink(writer) > 5_000_000
    assert (await sweep.used_bytes(writer))[1] == 0
    assert (tmp_path / "data" / "samples.db-wal").stat().st_size == 0
    assert (tmp_path / "data" / "samples.db").stat().st_size < 200_000
