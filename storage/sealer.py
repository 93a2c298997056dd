"""When and how the head becomes chunks."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from ..config.settings import SealSettings
from .catalogue import Ledger, PartNumbers
from .clock import Clock
from .commit import Committer, finish
from .errors import StorageError
from .frame import distinct
from .group import Group
from .head import Points, PointsHead
from .intake import Intake
from .keys import DAY_MS, POINTS_GROUP, day_of
from .seal import (
    INSERT_BLOCK,
    ChunkRow,
    SealedBlock,
    bump_generation,
    seal_points,
    seal_ticks,
    write_chunks,
)
from .sqlite import WriterThread, transaction
from .stats import StoreStats
from .sweep import mark_orphaned, sweep_orphans, unmark_orphaned

#: Rows per transaction: some 10 ms.
_SLICE_ROWS: Final = 512
#: Head cells (8 bytes each) above which everything is sealed before its hour is over.
_HEAD_CELLS_MAX: Final = 40_000_000
_POINTS_MAX: Final = 500_000
#: A head that cannot be sealed takes no more once it is so many times as big as that.
_OVERFULL: Final = 1.25
#: After a seal that failed, the next attempt waits so long: it may cost seconds of CPU.
_RETRY_S: Final = 30.0

_MARK_SEALED: Final = "UPDATE grp SET sealed_seq = ? WHERE id = ?"
_MARK_DAY: Final = "UPDATE series SET last_day = ? WHERE id = ? AND last_day < ?"
_MARK_DIRTY: Final = "INSERT OR IGNORE INTO dirty (day, series) VALUES (?, ?)"


class Sealer:
    """Moves frozen ticks and points into blocks of chunks, group by group."""

    def __init__(
        self,
        settings: SealSettings,
        clock: Clock,
        groups: Mapping[int, Group],
        points: PointsHead,
        intake: Intake,
        committer: Committer,
        writer: WriterThread,
        ledger: Ledger,
        stats: StoreStats,
    ) -> None:
        self._clock = clock
        self._groups, self._points = groups, points
        self._intake, self._committer, self._writer = intake, committer, writer
        self._ledger, self._stats = ledger, stats
        self.configure(settings)
        #: Held while blocks are made or deleted; see days.py and retention.py.
        self.lock = asyncio.Lock()
        self._marked_day: dict[int, tuple[int, int]] = {}  # by group: day and members last marked
        self.last_seal_ms = 0
        self.head_cells_max = _HEAD_CELLS_MAX
        #: Why the head may take no more; empty while it may.
        self.trouble = ""
        self._retry_s = 0.0

    def configure(self, settings: SealSettings) -> None:
        self._settings = settings
        self._pco = settings.codec != "zlib"

    async def seal_due(self) -> None:
        """Seal what is due: everything once an hour; a group, or the points, when they are many."""
        if self.lock.locked():
            return  # the commits that come in turn with this must not wait for a compaction
        if self._clock.monotonic_s() < self._retry_s:
            return
        now_ms = self._clock.now_ms()
        interval_ms = self._settings.interval_ms
        # An hour starts with the clock's hour, so that the chunks of all groups fall together.
        is_full = self._head_cells() > self.head_cells_max
        if now_ms // interval_ms != self.last_seal_ms // interval_ms or is_full:
            await self.seal()
            return
        due = {g.number for g in self._groups.values() if g.head.ticks >= self._settings.ticks}
        if len(self._points) > _POINTS_MAX:
            due.add(POINTS_GROUP)
        if due:
            await self.seal(due)

    async def seal(self, only: Collection[int] | None = None) -> None:
        """
        Move the head (or that of some groups; 0 is the points) into chunks.

        A crash in between loses nothing: a group's chunks count once its block and the number of
        the last journal row that is in it are committed, together.

        Raises:
            StorageError: Some of it was not sealed and stays in the head.
        """
        async with self.lock:
            try:
                await finish(self._seal(only))
            except StorageError as error:
                self._stats.seal_errors += 1
                self._retry_s = self._clock.monotonic_s() + _RETRY_S
                if self._is_overfull():
                    self.trouble = f"the head is full and cannot be sealed: {error}"
                raise
            if not self._is_overfull():
                self._retry_s, self.trouble = 0.0, ""

    def _head_cells(self) -> int:
        return sum(group.head.ticks * group.head.columns for group in self._groups.values())

    def _is_overfull(self) -> bool:
        # A point takes some three times the memory of a cell.
        held = self._head_cells() + 3 * max(0, len(self._points) - _POINTS_MAX)
        return held > _OVERFULL * self.head_cells_max

    def head_days(self) -> set[int]:
        """Return the UTC days that samples in the head fall in."""
        days = self._points.view().days()
        for group in self._groups.values():
            head = group.head.view
            days |= set(distinct((head.ts_ms[: head.ticks] - 1) // DAY_MS).tolist())
        return days

    async def write_chunks(self, chunks: Sequence[ChunkRow]) -> None:
        """Write chunk rows in slices; they do not count before their block's own row does."""
        for low in range(0, len(chunks), _SLICE_ROWS):
            rows = chunks[low : low + _SLICE_ROWS]

            def job(connection: sqlite3.Connection, rows: Sequence[ChunkRow] = rows) -> None:
                with transaction(connection):
                    mark_orphaned(connection, {row[1] for row in rows})
                    write_chunks(connection, rows)

            await self._writer.run(job)
            self._stats.chunks_written += len(rows)
            self._stats.chunk_bytes += sum(len(row[3]) for row in rows)

    async def sweep(self) -> int:
        """
        Delete what an attempt to make blocks left behind when it failed, and return how many
        chunks it was. Comes before every new attempt, under :attr:`lock`.
        """
        return await sweep_orphans(self._writer)

    async def _seal(self, only: Collection[int] | None) -> None:
        started_s = self._clock.monotonic_s()
        groups = [
            group
            for group in list(self._groups.values())
            if group.head.ticks and (only is None or group.number in only)
        ]
        with_points = only is None or POINTS_GROUP in only
        async with self._committer.lock:
            # In one step: what is frozen is exactly what the journal's rows up to this flush hold.
            for group in groups:
                group.head.freeze()
            points = self._points.freeze() if with_points else Points.empty()
            flush, waiters = self._intake.take()
            first_layout = 0
            if only is None:
                # Layouts of later rows get new numbers, so that the old ones can go with the rows.
                first_layout = self._intake.next_layout
                for group in self._groups.values():
                    group.forget_layouts()
            try:
                await self._committer.commit(flush, waiters)
            except BaseException:
                self._thaw(groups, with_points)
                raise
        waiting = list(groups)
        try:
            await self.sweep()
            parts = PartNumbers(self._ledger.catalogue)
            for group in groups:
                view = group.head.view._replace(ticks=group.head.frozen)
                sealed = await asyncio.to_thread(
                    seal_ticks, group.number, view, parts, pco=self._pco
                )
                await self._land(group.number, sealed, flush.seq)
                group.head.drop(group.head.frozen)
                waiting.remove(group)
            if with_points:
                sealed = await asyncio.to_thread(seal_points, points, parts, pco=self._pco)
                await self._land(POINTS_GROUP, sealed, flush.seq)
                self._points.drop()
                with_points = False
        finally:
            self._thaw(waiting, with_points)
        if only is None:
            await self._writer.run(lambda c: _empty_journal(c, flush.seq, first_layout))
            self.last_seal_ms = self._clock.now_ms()
        self._stats.seals += 1
        self._stats.seal_seconds += self._clock.monotonic_s() - started_s

    def _thaw(self, groups: Iterable[Group], points: bool) -> None:
        for group in groups:
            group.head.thaw()
        if points:
            self._points.thaw()

    async def _land(self, group: int, sealed: Sequence[SealedBlock], seq: int) -> None:
        """Write blocks and their chunks; the last transaction makes them count."""
        for block in sealed:
            await self.write_chunks(block.chunks)
        today = day_of(self._clock.now_ms())
        compacted = self._ledger.compacted
        # In their order: of several days of a group the last one counts.
        marks = {b.block.key: (b.day, hash(tuple(b.refs))) for b in sealed}
        known = self._marked_day.get(group)

        def job(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                for block in sealed:
                    connection.execute(INSERT_BLOCK, block.row)
                    refs = block.refs
                    if group == POINTS_GROUP or marks[block.block.key] != known:
                        connection.executemany(_MARK_DAY, [(block.day, r, block.day) for r in refs])
                    # Points of a closed day: its rollups may be written, or be in the making.
                    if block.day in compacted or (group == POINTS_GROUP and block.day < today):
                        connection.executemany(_MARK_DIRTY, [(block.day, ref) for ref in refs])
                unmark_orphaned(connection, [block.block.key for block in sealed])
                connection.execute(_MARK_SEALED, (seq, group))
                generation = bump_generation(connection)
            self._ledger.change(generation, added=[each.block for each in sealed])

        await self._writer.run(job)
        for mark in marks.values():
            self._marked_day[group] = mark


def _empty_journal(connection: sqlite3.Connection, seq: int, first_layout: int) -> None:
    with transaction(connection):
        connection.execute("DELETE FROM journal WHERE seq <= ?", (seq,))
        connection.execute("DELETE FROM layout WHERE id < ?", (first_layout,))
