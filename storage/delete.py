"""
Deleting samples by order: of some series, in a time range, from chunks and rollups alike.

Everything happens at once and nothing is only marked: what is gone is gone from the file's live
pages. A crash in between leaves some of it deleted; the same order again deletes the rest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from .catalogue import Block
from .checksum import holds
from .codec import decode_chunk, decode_ints, encode_chunk
from .current import NEVER_MS
from .errors import StorageError
from .frame import ABSENT, IntArray, RefArray, distinct, is_absent
from .keys import POINTS_GROUP, REF_MAX, day_bounds, day_of, rollup_key
from .seal import (
    INSERT_CHUNK,
    bump_generation,
    chunk_row,
    decode_points,
    decode_refs,
    encode_points,
)
from .sqlite import transaction
from .sweep import delete_chunks, delete_rollups

if TYPE_CHECKING:
    from .store import Store

#: Chunks of a whole day that are decoded and encoded in one go, between commits.
_SLICE_CHUNKS: Final = 16
_TIERS: Final = (1, 2, 3, 4)

_BLOCK: Final = "SELECT crc, data FROM block WHERE id = ?"
_CHUNKS: Final = "SELECT id, crc, data FROM chunk WHERE block = ? AND id IN ({})"
_DELETE: Final = "DELETE FROM chunk WHERE id = ?"
_MARK_DIRTY: Final = "INSERT OR IGNORE INTO dirty (day, series) VALUES (?, ?)"


class Eraser:
    """Deletes samples. Takes the lock under which blocks are made, for as long as it takes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ledger, self._sealer, self._writer = store.ledger, store.sealer, store.writer

    async def delete(self, refs: RefArray, min_ms: int, max_ms: int) -> int:
        """
        Delete the samples of some series (``refs`` rising) with ``min_ms <= t <= max_ms`` that came
        before this call. A series that has none left is forgotten.

        Of a day whose raw samples have expired and that is deleted in part, all rollups go: what
        was to be deleted cannot be taken out of them.

        Returns:
            The series concerned.

        Raises:
            StorageError: Some of it is deleted; the same call again deletes the rest.
        """
        if not len(refs):
            return 0
        await self._sealer.seal()
        async with self._sealer.lock:
            homes = self._store.homes(refs)
            partly = False
            for day in sorted(self._ledger.catalogue.days):
                partly |= await self._raw_day(day, refs, homes, min_ms, max_ms)
            partly |= await self._rollups(refs, min_ms, max_ms)
            await self._writer.run(self._bump)
            current = self._store.current
            newest_ms, _ = current.get(refs)
            current.forget(refs[(newest_ms >= min_ms) & (newest_ms <= max_ms)])
            if not partly:
                await self._forget_empty(refs)
        return len(refs)

    # --- Raw samples --------------------------------------------------------------------------

    async def _raw_day(
        self, day: int, refs: RefArray, homes: IntArray, min_ms: int, max_ms: int
    ) -> bool:
        """Delete in one day's blocks; tell whether some of it is out of range and stays."""
        blocks = [b for b in self._ledger.catalogue if day_of(b.min_ms) == day]
        whole: set[int] = set()
        stays = False
        for block in blocks:
            if block.group == POINTS_GROUP:
                members = await self._members(block, refs)
            else:
                members = refs[homes == block.group]
            if not len(members):
                continue
            if block.max_ms < min_ms or block.min_ms > max_ms:
                stays = True
            elif min_ms <= block.min_ms and block.max_ms <= max_ms:
                whole.add(block.key)
            else:
                stays = True
                await self._cut(block, members, min_ms, max_ms)
        if whole:
            await delete_chunks(self._writer, whole, set(refs.tolist()))
        return stays

    async def _members(self, block: Block, refs: RefArray) -> RefArray:
        data = await self._writer.run(lambda connection: _block_data(connection, block))
        if data is None:
            return refs[:0]
        return np.intersect1d(decode_refs(data, block.n), refs, assume_unique=True)

    async def _cut(self, block: Block, members: RefArray, min_ms: int, max_ms: int) -> None:
        """Take a time range out of some series' chunks."""
        for low in range(0, len(members), _SLICE_CHUNKS):
            some = members[low : low + _SLICE_CHUNKS].tolist()

            def job(connection: sqlite3.Connection, some: Sequence[int] = some) -> None:
                _cut_chunks(connection, block, some, min_ms, max_ms)

            await self._writer.run(job)

    # --- Rollups and series -------------------------------------------------------------------

    async def _rollups(self, refs: RefArray, min_ms: int, max_ms: int) -> bool:
        """Delete rollup rows; tell whether there are days that stay."""
        stays = False
        for day in sorted(self._ledger.compacted):
            low_ms, high_ms = day_bounds(day)
            if high_ms < min_ms or low_ms > max_ms:
                stays = True
                continue
            if not (min_ms <= low_ms and high_ms <= max_ms):
                stays = True
                if day in self._ledger.catalogue.days:
                    # First, so that whoever reads meanwhile makes them from the samples.
                    await self._mark_dirty(day, refs)
            keys = [rollup_key(tier, day, ref) for ref in refs.tolist() for tier in _TIERS]
            await delete_rollups(self._writer, keys)
        return stays

    async def _mark_dirty(self, day: int, refs: RefArray) -> None:
        def job(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.executemany(_MARK_DIRTY, [(day, ref) for ref in refs.tolist()])

        await self._writer.run(job)

    async def _forget_empty(self, refs: RefArray) -> None:
        """Forget series that have nothing left; those with samples since the seal go on."""
        store = self._store
        dead = np.setdiff1d(refs, self._in_head(), assume_unique=True)
        if not len(dead):
            return
        store.current.forget(dead)
        await store.forget(dead, NEVER_MS + 1)

    def _in_head(self) -> RefArray:
        """Return the series, rising, that have samples in the head."""
        store = self._store
        found = [part.refs for part in store._points.view().parts]
        for group in store._each_group():
            view = group.head.view
            cells = view.cells[: view.ticks, : len(view.refs)]
            found.append(view.refs[~is_absent(cells).all(axis=0)])
        return distinct(np.concatenate(found))

    def _bump(self, connection: sqlite3.Connection) -> None:
        with transaction(connection):
            generation = bump_generation(connection)
        self._ledger.change(generation)
        self._ledger.rewritten()


def _block_data(connection: sqlite3.Connection, block: Block) -> bytes | None:
    """Return what a block's row holds, ``None`` if it is damaged: a reader will find that out."""
    row = connection.execute(_BLOCK, (block.key,)).fetchone()
    if row is None or not holds(*row, block.key, block.min_ms, block.max_ms, block.n):
        return None
    return bytes(row[1])


def _cut_chunks(
    connection: sqlite3.Connection, block: Block, refs: Collection[int], min_ms: int, max_ms: int
) -> None:
    keys = [block.key & ~REF_MAX | ref for ref in refs]
    rows = connection.execute(_CHUNKS.format(",".join("?" * len(keys))), (block.key, *keys))
    ts_ms: IntArray | None = None
    if block.group != POINTS_GROUP:
        data = _block_data(connection, block)
        if data is None:
            return
        ts_ms = decode_ints(data, block.n)
    written, gone = [], []
    for key, stored, data in rows.fetchall():
        if not holds(stored, data, key):
            continue
        try:
            rest = (
                _points_outside(data, min_ms, max_ms)
                if ts_ms is None
                else _cells_outside(data, ts_ms, min_ms, max_ms)
            )
        except StorageError:
            continue
        if rest is None:
            gone.append((key,))
        else:
            written.append(chunk_row(block.key, key & REF_MAX, rest))
    with transaction(connection):
        connection.executemany(INSERT_CHUNK, written)
        connection.executemany(_DELETE, gone)


def _cells_outside(data: bytes, ts_ms: IntArray, min_ms: int, max_ms: int) -> bytes | None:
    values, _ = decode_chunk(data, len(ts_ms))
    values[(ts_ms >= min_ms) & (ts_ms <= max_ms)] = ABSENT
    return None if is_absent(values).all() else encode_chunk(values)


def _points_outside(data: bytes, min_ms: int, max_ms: int) -> bytes | None:
    ts_ms, values = decode_points(data)
    rest = (ts_ms < min_ms) | (ts_ms > max_ms)
    return encode_points(ts_ms[rest], values[rest]) if rest.any() else None
