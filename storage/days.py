"""
Closed days: replacing a day's many small chunks by one a series, beside its rollup rows.

What the rows hold is the business of the layer above (``aggregation/compactor.py``); here is what
must be true together, and what a crash in between leaves: chunks without a block, which nobody
reads and the next sweep deletes, and rollup rows of a day that does not count as compacted yet.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Collection, Sequence
from typing import Final

from .catalogue import Block, Ledger
from .clock import Clock
from .codec import crc
from .keys import day_of
from .seal import INSERT_BLOCK, SealedBlock, bump_generation
from .sealer import Sealer
from .sqlite import WriterThread, transaction
from .sweep import delete_rollups, mark_orphaned, unmark_orphaned

RollupRow = tuple[int, bytes]

_INSERT_ROLLUP: Final = "INSERT OR REPLACE INTO rollup (id, crc, data) VALUES (?, ?, ?)"
_INSERT_DAY: Final = "INSERT OR REPLACE INTO day (day, compacted_ms) VALUES (?, ?)"
_CLEAN: Final = "DELETE FROM dirty WHERE day = ? AND series = ?"
_SLICE_ROWS: Final = 512


class Days:
    """What the daily job needs of the store. Used under :attr:`lock`, a day at a time."""

    def __init__(self, writer: WriterThread, ledger: Ledger, sealer: Sealer, clock: Clock) -> None:
        self._writer, self._ledger, self._sealer, self._clock = writer, ledger, sealer, clock

    @property
    def lock(self) -> asyncio.Lock:
        """Held while blocks are made: two makers would give out the same part numbers."""
        return self._sealer.lock

    async def pending(self) -> list[int]:
        """
        Return the days, oldest first, that are over and not compacted, or have samples since.
        Samples that are still in the head do not count: seal first.
        """
        today = day_of(self._clock.now_ms())
        dirty = await self._writer.run(
            lambda c: [day for (day,) in c.execute("SELECT DISTINCT day FROM dirty")]
        )
        days = self._ledger.catalogue.days - self._ledger.compacted
        return sorted(day for day in days | set(dirty) if day < today)

    def blocks(self, day: int) -> list[Block]:
        """Return the blocks of a day, of all groups; no block crosses midnight."""
        return [block for block in self._ledger.catalogue if day_of(block.min_ms) == day]

    async def write_rollups(self, rollups: Sequence[RollupRow], gone: Sequence[int]) -> None:
        """
        Write rollup rows in slices, and delete those of the keys ``gone``. Rows of a new day count
        once it is finished.
        """
        for low in range(0, len(rollups), _SLICE_ROWS):
            rows = [(key, crc(data, key), data) for key, data in rollups[low : low + _SLICE_ROWS]]

            def job(
                connection: sqlite3.Connection, rows: Sequence[tuple[int, int, bytes]] = rows
            ) -> None:
                with transaction(connection):
                    connection.executemany(_INSERT_ROLLUP, rows)

            await self._writer.run(job)
        await delete_rollups(self._writer, gone)

    async def finish(
        self,
        day: int,
        done: Collection[int],
        replaced: Sequence[Block],
        blocks: Sequence[SealedBlock],
    ) -> None:
        """
        Put the new blocks in the place of some old ones, all at once, and count the day as
        compacted and the series ``done`` as clean. Then delete the old chunks.
        """
        now_ms = self._clock.now_ms()
        gone = [block.key for block in replaced]
        compacted = self._ledger.compacted | {day}

        def job(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.executemany("DELETE FROM block WHERE id = ?", [(key,) for key in gone])
                mark_orphaned(connection, gone)
                connection.executemany(INSERT_BLOCK, [block.row for block in blocks])
                unmark_orphaned(connection, [each.block.key for each in blocks])
                connection.execute(_INSERT_DAY, (day, now_ms))
                connection.executemany(_CLEAN, [(day, ref) for ref in done])
                generation = bump_generation(connection)
            self._ledger.change(
                generation,
                added=[each.block for each in blocks],
                removed=gone,
                compacted=compacted,
            )

        await self._writer.run(job)
        await self._sealer.sweep()
