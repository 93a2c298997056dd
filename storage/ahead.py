"""
Samples that a clock which was ahead has left in the future: counting and deleting them.

They keep new samples from being the newest of their series, go to disk as points beside them, and
neither age nor the size cap takes them before the clock has passed them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from .catalogue import Block, Ledger
from .checksum import holds
from .clock_trust import FLOOR_MS, NOTE_BELIEF
from .codec import decode_chunk, decode_ints, encode_chunk, encode_ints
from .errors import StorageError
from .frame import IntArray, RefArray, is_absent
from .intake import series_row
from .keys import POINTS_GROUP, REF_MAX, day_of, rollup_key
from .model import Series
from .seal import (
    INSERT_BLOCK,
    INSERT_CHUNK,
    block_row,
    bump_generation,
    chunk_row,
    decode_points,
    decode_refs,
    encode_points,
    encode_refs,
)
from .select import Querier
from .sqlite import transaction
from .sweep import delete_rollups, mark_orphaned, rollup_keys

if TYPE_CHECKING:
    from .store import Store

_TIERS: Final = (1, 2, 3, 4)
_NEVER_MS: Final = 1 << 62

_BLOCK: Final = "SELECT crc, data FROM block WHERE id = ?"
_CHUNK_KEYS: Final = "SELECT id FROM chunk WHERE id BETWEEN ? AND ? AND block = ?"
_CHUNK: Final = "SELECT crc, data FROM chunk WHERE id = ?"
_DELETE_CHUNK: Final = "DELETE FROM chunk WHERE id = ?"
_MOVE_SERIES: Final = "UPDATE series SET created_ms = ?, crc = ? WHERE id = ?"
_MARK_DAY: Final = "UPDATE series SET last_day = ? WHERE last_day > ?"


@dataclass(frozen=True, slots=True)
class Ahead:
    """What lies after a time; ``days`` are those that have rollups, whether samples or not."""

    samples: int = 0
    series: int = 0
    first_ms: int = 0
    last_ms: int = 0
    days: int = 0

    def __bool__(self) -> bool:
        return bool(self.samples or self.days)


async def find_ahead(store: Store, cutoff_ms: int) -> Ahead:
    """Count the samples after a time. Raises StorageError, as for a time before 2024."""
    _refuse_wrong_clock(cutoff_ms)

    def job(querier: Querier) -> Ahead:
        samples = series = 0
        times: list[int] = []
        refs = querier.index.select(())
        for frame in querier.frames(refs, cutoff_ms + 1, _NEVER_MS):
            samples += int(np.count_nonzero(~is_absent(frame.values)))
            series += len(frame.series)
            times += [int(frame.ts_ms[0]), int(frame.ts_ms[-1])]
        return Ahead(samples, series, min(times, default=0), max(times, default=0))

    found = await store.read(job)
    days = sum(day > day_of(cutoff_ms) for day in store.ledger.compacted)
    return replace(found, days=days)


async def forget_ahead(store: Store, cutoff_ms: int) -> None:
    """
    Delete all samples after a time, and their rollups. The store is closed and opened again then:
    its heads still go on from where they were.

    Days after that of ``cutoff_ms`` go as a whole. That day itself counts as open again, and its
    rollups are made anew, unless its raw samples have gone: then its rollups stay as they are.

    Raises:
        StorageError: Some of it is deleted; the same call again deletes the rest. Or nothing is, as
            the time is before 2024: then the clock is wrong, and not the samples.
    """
    _refuse_wrong_clock(cutoff_ms)
    await store.seal()
    async with store.sealer.lock:
        blocks = [block for block in store.ledger.catalogue if block.max_ms > cutoff_ms]
        for block in blocks:
            if block.min_ms <= cutoff_ms:
                await store.writer.run(partial(_cut, store.ledger, block, cutoff_ms))
        last_day = day_of(cutoff_ms)
        # Its rows first: once the day counts as open, what they hold is nobody's any more.
        first_day = last_day if last_day in store.ledger.catalogue.days else last_day + 1
        await _open_days(store, first_day)
        gone = [block.key for block in blocks if block.min_ms > cutoff_ms]
        created = [series for series in _all_series(store) if series.created_ms > cutoff_ms]

        def job(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.executemany("DELETE FROM block WHERE id = ?", [(key,) for key in gone])
                mark_orphaned(connection, gone)
                connection.execute("DELETE FROM dirty WHERE day > ?", (last_day,))
                # Or retention would keep them for as long as the clock was ahead.
                connection.execute(_MARK_DAY, (last_day, last_day))
                for series in created:
                    _move(connection, store, replace(series, created_ms=cutoff_ms))
                connection.execute(NOTE_BELIEF, (0,))
                generation = bump_generation(connection)
            store.ledger.change(generation, removed=gone)
            store.ledger.rewritten()

        await store.writer.run(job)
        await store.sealer.sweep()
        for tier in _TIERS:
            low, end = rollup_key(tier, first_day, 0), (tier + 1) << 60
            while keys := await rollup_keys(store.writer, low, end):
                await delete_rollups(store.writer, keys)
                low = keys[-1] + 1


def _refuse_wrong_clock(cutoff_ms: int) -> None:
    if cutoff_ms < FLOOR_MS:
        raise StorageError("the clock is before 2024, so that all would lie ahead of it; set it")


def _all_series(store: Store) -> list[Series]:
    found = (store.index.get(ref) for ref in store.index.select(()).tolist())
    return [series for series in found if series is not None]


async def _open_days(store: Store, first_day: int) -> None:
    """No day from this one on counts as compacted any more."""
    kept = frozenset(day for day in store.ledger.compacted if day < first_day)

    def job(connection: sqlite3.Connection) -> None:
        with transaction(connection):
            connection.execute("DELETE FROM day WHERE day >= ?", (first_day,))
            generation = bump_generation(connection)
        store.ledger.change(generation, compacted=kept)

    await store.writer.run(job)


def _move(connection: sqlite3.Connection, store: Store, series: Series) -> None:
    home = int(store.homes(np.array([series.ref], np.uint32))[0])
    *_, created_ms, crc = series_row(home, series)
    connection.execute(_MOVE_SERIES, (created_ms, crc, series.ref))


def _cut(ledger: Ledger, block: Block, cutoff_ms: int, connection: sqlite3.Connection) -> None:
    """
    Shorten a block that begins before the time and ends after it. Damaged rows stay as they are,
    to be found by whoever reads them.
    """
    row = connection.execute(_BLOCK, (block.key,)).fetchone()
    if row is None or not holds(*row, block.key, block.min_ms, block.max_ms, block.n):
        return
    data: bytes = row[1]
    low = block.key & ~REF_MAX
    keys = [k for (k,) in connection.execute(_CHUNK_KEYS, (low, low | REF_MAX, block.key))]
    with transaction(connection):
        if block.group == POINTS_GROUP:
            new = _cut_points(connection, block, decode_refs(data, block.n), keys, cutoff_ms)
        else:
            new = _cut_ticks(connection, block, decode_ints(data, block.n), keys, cutoff_ms)
        connection.execute(INSERT_BLOCK, new)
        generation = bump_generation(connection)
    ledger.change(generation, removed=[block.key], added=[Block(*new[:4])])
    ledger.rewritten()


_BlockRow = tuple[int, int, int, int, int, bytes]


def _cut_ticks(
    connection: sqlite3.Connection,
    block: Block,
    ts_ms: IntArray,
    keys: Sequence[int],
    cutoff_ms: int,
) -> _BlockRow:
    """Cut the chunks of a group's ticks; return the block's new row."""
    ticks = int(np.searchsorted(ts_ms, cutoff_ms, "right"))
    for key in keys:
        crc, data = connection.execute(_CHUNK, (key,)).fetchone()
        if not holds(crc, data, key):
            continue
        values = decode_chunk(data, block.n)[0][:ticks]
        if is_absent(values).all():
            connection.execute(_DELETE_CHUNK, (key,))
        else:
            chunk = chunk_row(block.key, key & REF_MAX, encode_chunk(values))
            connection.execute(INSERT_CHUNK, chunk)
    kept = ts_ms[:ticks]
    shorter = Block(block.key, block.min_ms, int(kept[-1]), ticks)
    return block_row(shorter, encode_ints(kept))


def _cut_points(
    connection: sqlite3.Connection,
    block: Block,
    refs: RefArray,
    keys: Sequence[int],
    cutoff_ms: int,
) -> _BlockRow:
    """Do the same for points, whose chunks have times of their own."""
    gone: list[int] = []
    newest_ms = block.min_ms
    for key in keys:
        crc, data = connection.execute(_CHUNK, (key,)).fetchone()
        if not holds(crc, data, key):
            newest_ms = cutoff_ms  # nobody knows what it holds
            continue
        ts_ms, values = decode_points(data)
        kept = ts_ms <= cutoff_ms
        if kept.any():
            newest_ms = max(newest_ms, int(ts_ms[kept].max()))
            chunk = chunk_row(block.key, key & REF_MAX, encode_points(ts_ms[kept], values[kept]))
            connection.execute(INSERT_CHUNK, chunk)
        else:
            connection.execute(_DELETE_CHUNK, (key,))
            gone.append(key & REF_MAX)
    members = np.setdiff1d(refs, np.array(gone, np.uint32), assume_unique=True)
    shorter = Block(block.key, block.min_ms, newest_ms, len(members))
    return block_row(shorter, encode_refs(members))
