"""Deleting in slices: the writer thread stays free for commits, and the file really shrinks."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Container, Iterable, Sequence
from typing import Final

from .frame import RefArray
from .keys import REF_MAX
from .sqlite import WriterThread, transaction

#: Rows per transaction, and pages per step of the vacuum: each some 20 ms (rows of a few kB free
#: their overflow pages one by one).
_SLICE_ROWS: Final = 1_000
_VACUUM_PAGES: Final = 500
#: Rows that are looked at in one go.
_SCAN_ROWS: Final = 2_000

_ORPHANS: Final = (
    "SELECT id FROM chunk WHERE id BETWEEN ? AND ? "
    "AND NOT EXISTS (SELECT 1 FROM block WHERE block.id = chunk.block) ORDER BY id LIMIT ?"
)
_MARK: Final = "INSERT OR IGNORE INTO orphaned (block) VALUES (?)"
_UNMARK: Final = "DELETE FROM orphaned WHERE block = ?"
_CHUNKS: Final = "SELECT id, block FROM chunk WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
_ROLLUPS: Final = "SELECT id FROM rollup WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"

#: Numbers that were given out stay used.
NEXT_REF: Final = "INSERT OR REPLACE INTO meta VALUES ('next_ref', ?)"


def delete_series(connection: sqlite3.Connection, refs: RefArray, next_ref: int) -> None:
    """Delete the rows of series that have nothing left, and note the number of the next new one."""
    with transaction(connection):
        connection.execute(NEXT_REF, (next_ref,))
        connection.executemany("DELETE FROM series WHERE id = ?", [(ref,) for ref in refs.tolist()])


def mark_orphaned(connection: sqlite3.Connection, blocks: Iterable[int]) -> None:
    """Note that chunks of these blocks are written before, or stay after, the blocks' own rows."""
    connection.executemany(_MARK, [(key,) for key in blocks])


def unmark_orphaned(connection: sqlite3.Connection, blocks: Iterable[int]) -> None:
    """The blocks' rows are there now; must be part of the same transaction."""
    connection.executemany(_UNMARK, [(key,) for key in blocks])


async def sweep_orphans(writer: WriterThread) -> int:
    """
    Delete all chunks whose block is gone or never came, and return how many.

    The caller holds the lock under which blocks are made, and has none in the making. Whoever makes
    blocks sweeps first: left-over chunks would come to life with the next block of their key.
    """
    marked = await writer.run(
        lambda c: [key for (key,) in c.execute("SELECT block FROM orphaned ORDER BY block")]
    )
    deleted = 0
    # Groups share their windows' parts: one look at each range of rows serves all of them.
    for low in sorted({key & ~REF_MAX for key in marked}):
        high = low | REF_MAX
        while True:

            def job(connection: sqlite3.Connection, low: int = low, high: int = high) -> list[int]:
                ids = [i for (i,) in connection.execute(_ORPHANS, (low, high, _SLICE_ROWS))]
                with transaction(connection):
                    connection.executemany("DELETE FROM chunk WHERE id = ?", [(i,) for i in ids])
                return ids

            ids = await writer.run(job)
            deleted += len(ids)
            if len(ids) < _SLICE_ROWS:
                break
            low = ids[-1] + 1
    if marked:

        def forget(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                unmark_orphaned(connection, marked)

        await writer.run(forget)
    return deleted


async def delete_chunks(writer: WriterThread, blocks: Collection[int], refs: Container[int]) -> int:
    """Delete the chunks of some series in blocks of one day, and return how many there were."""
    low = min(blocks) & ~REF_MAX
    end = (max(blocks) | REF_MAX) + 1
    deleted = 0
    while True:

        def job(connection: sqlite3.Connection, low: int = low) -> tuple[int, int]:
            rows = connection.execute(_CHUNKS, (low, end, _SCAN_ROWS)).fetchall()
            gone = [(key,) for key, block in rows if key & REF_MAX in refs and block in blocks]
            with transaction(connection):
                connection.executemany("DELETE FROM chunk WHERE id = ?", gone)
            return len(gone), rows[-1][0] if len(rows) == _SCAN_ROWS else 0

        gone, last = await writer.run(job)
        deleted += gone
        if not last:
            return deleted
        low = last + 1


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
    # The file itself is cut when the log is carried over.
    await writer.run(lambda c: c.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone())
    return given


async def cut_log(writer: WriterThread) -> None:
    """Carry the write-ahead log over and empty it, unless a reader holds it."""

    def job(connection: sqlite3.Connection) -> None:
        wait_ms = connection.execute("PRAGMA busy_timeout").fetchone()[0]
        connection.execute("PRAGMA busy_timeout=0")
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            connection.execute(f"PRAGMA busy_timeout={int(wait_ms)}")

    await writer.run(job)


async def shrink(writer: WriterThread) -> int:
    """Give all free pages back and empty the write-ahead log; return the bytes given back."""
    _, free = await used_bytes(writer)
    given = await vacuum(writer, free)
    await writer.run(lambda c: c.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
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
