"""Deleting in slices: the writer thread stays free for commits, and the file really shrinks."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from .keys import row_key
from .sqlite import WriterThread, transaction

#: Rows per transaction, and pages per step of the vacuum: each some 20 ms (rows of a few kB free
#: their overflow pages one by one).
_SLICE_ROWS: Final = 1_000
_VACUUM_PAGES: Final = 500

_ORPHANS: Final = (
    "SELECT id FROM chunk WHERE id >= ? AND id < ? "
    "AND NOT EXISTS (SELECT 1 FROM block WHERE block.id = chunk.block) ORDER BY id LIMIT ?"
)
_ROLLUPS: Final = "SELECT id FROM rollup WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"


async def sweep_chunks(writer: WriterThread, min_window: int, max_window: int) -> int:
    """
    Delete the chunks of some windows (both included) whose block is gone, and return how many.

    A block's row goes first, and its chunks count no more; whatever a crash leaves behind is found
    by the next sweep. The caller holds the lock under which blocks are made: chunks that are
    being written have no block yet.
    """
    low, end = row_key(min_window, 0, 0), row_key(max_window + 1, 0, 0)
    deleted = 0
    while True:

        def job(connection: sqlite3.Connection, low: int = low) -> list[int]:
            ids = [i for (i,) in connection.execute(_ORPHANS, (low, end, _SLICE_ROWS))]
            with transaction(connection):
                connection.executemany("DELETE FROM chunk WHERE id = ?", [(i,) for i in ids])
            return ids

        ids = await writer.run(job)
        deleted += len(ids)
        if len(ids) < _SLICE_ROWS:
            return deleted
        low = ids[-1] + 1


async def delete_chunks(writer: WriterThread, keys: Sequence[int]) -> int:
    """Delete chunks by their keys and return how many there were."""
    return await _delete(writer, "DELETE FROM chunk WHERE id = ?", keys)


async def delete_rollups(writer: WriterThread, keys: Sequence[int]) -> int:
    """Delete rollup rows by their keys and return how many there were."""
    return await _delete(writer, "DELETE FROM rollup WHERE id = ?", keys)


async def rollup_keys(writer: WriterThread, low: int, end: int) -> list[int]:
    """Return the keys of the rollup rows with ``low <= key < end``, a slice of them at the most."""
    return await writer.run(
        lambda connection: [key for (key,) in connection.execute(_ROLLUPS, (low, end, _SLICE_ROWS))]
    )


async def used_bytes(writer: WriterThread) -> tuple[int, int]:
    """Return the bytes that the database's pages use, and those of its free pages."""

    def job(connection: sqlite3.Connection) -> tuple[int, int]:
        pages, free, size = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size, free * size

    return await writer.run(job)


async def vacuum(writer: WriterThread, bytes_to_free: int) -> int:
    """Give free pages back to the file system, step by step; return the bytes given back."""
    given = 0
    while given < bytes_to_free:
        _, before = await used_bytes(writer)
        # `execute` would step the statement once, and free a single page.
        await writer.run(lambda c: c.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})"))
        _, after = await used_bytes(writer)
        if after >= before:
            break
        given += before - after
    return given


async def _delete(writer: WriterThread, sql: str, keys: Sequence[int]) -> int:
    deleted = 0
    for low in range(0, len(keys), _SLICE_ROWS):
        rows = [(key,) for key in keys[low : low + _SLICE_ROWS]]

        def job(connection: sqlite3.Connection, rows: Sequence[tuple[int]] = rows) -> int:
            with transaction(connection):
                return connection.executemany(sql, rows).rowcount

        deleted += max(0, await writer.run(job))
    return deleted
