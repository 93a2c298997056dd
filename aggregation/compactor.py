"""
The daily job: a closed day's small chunks become one a series, beside its rows of all four tiers.

Idempotent: run on the same day again, it makes the same rows. So late samples, restarts and crashes
need nothing of their own: a day that is not marked, or has dirty series, is simply done (again).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from ..storage.catalogue import Block, PartNumbers
from ..storage.frame import Frame, IntArray, RefArray
from ..storage.keys import POINTS_GROUP, day_bounds, rollup_key, window_of_day
from ..storage.model import Kind
from ..storage.seal import (
    ChunkRow,
    SealedBlock,
    chunk_rows,
    open_block,
    points_block,
    points_chunk,
    points_key,
)
from ..storage.select import Querier
from ..storage.store import Store
from .rollup import Tier, coarsen_rows, rollup_rows
from .rollup_codec import encode_day

log = logging.getLogger(__name__)

#: Series at a time: a day of 64 at 10 s is 4.4 MB, and some 60 ms of a thread.
_PIECE: Final = 64

RollupRow = tuple[int, bytes]


class Compactor:
    """
    Compacts the days that are over.

    Args:
        rest: Pause after each piece of work, in multiples of the time it took: the backend beside
            us goes first. 0 is for when somebody waits.
    """

    def __init__(self, store: Store, *, rest: float = 1.0) -> None:
        self._store, self.rest = store, rest

    async def run_once(self) -> list[int]:
        """
        Do all pending days, oldest first, and return them.

        Raises:
            StorageError: The days before stay done.
        """
        done = []
        for day in await self._store.days.pending():
            async with self._store.days.lock:
                await self._compact(day)
            done.append(day)
        return done

    async def _compact(self, day: int) -> None:
        store, started_s = self._store, time.monotonic()
        await store.sealer.sweep()
        blocks = store.days.blocks(day)
        refs, replaced = await store.read(lambda querier: _plan(querier, day, blocks))
        job = _DayJob(day, PartNumbers(store.ledger.catalogue), store.settings.seal.codec != "zlib")
        low_ms, high_ms = day_bounds(day)
        # Group by group, so that a group's pieces come one after the other.
        order = np.argsort(store.homes(refs), kind="stable") if len(refs) else refs
        for low in range(0, len(refs), _PIECE):
            piece_s = time.monotonic()
            piece = np.sort(refs[order[low : low + _PIECE]])
            frames = await store.read(lambda q, piece=piece: list(q.frames(piece, low_ms, high_ms)))  # type: ignore[misc]
            chunks, rollups = await asyncio.to_thread(job.encode, frames)
            await store.sealer.write_chunks(chunks)
            await store.days.write_rollups(rollups)
            await asyncio.sleep(self.rest * (time.monotonic() - piece_s))
        await store.days.finish(day, replaced, job.blocks())
        store.stats.compacted_series += len(refs)
        store.stats.compaction_seconds += time.monotonic() - started_s
        log.debug("day %d is compacted: %d series", day, len(refs))


class _DayJob:
    """What has been made of one day so far."""

    def __init__(self, day: int, parts: PartNumbers, pco: bool) -> None:
        self._day, self._parts, self._pco = day, parts, pco
        self._window = window_of_day(day)
        self._open: dict[int, tuple[IntArray, SealedBlock]] = {}
        self._sealed: list[SealedBlock] = []
        self._points_key: int | None = None
        self._points: list[tuple[int, int, int]] = []  # series, first and last time

    def encode(self, frames: Sequence[Frame]) -> tuple[list[ChunkRow], list[RollupRow]]:
        """Return the rows of some series, all of whose samples of the day are in the frames."""
        chunks: list[ChunkRow] = []
        rollups: list[RollupRow] = []
        for frame in frames:
            chunks.extend(self._chunks(frame))
            rollups.extend(self._rollups(frame))
        return chunks, rollups

    def blocks(self) -> list[SealedBlock]:
        """Return the blocks of all chunks so far, without the chunks."""
        blocks = [block for _, block in self._open.values()] + self._sealed
        if self._points_key is not None:
            members = np.array(sorted(ref for ref, _, _ in self._points), np.uint32)
            first_ms = min(first for _, first, _ in self._points)
            last_ms = max(last for _, _, last in self._points)
            blocks.append(points_block(self._points_key, first_ms, last_ms, members, []))
        return blocks

    def _chunks(self, frame: Frame) -> Iterator[ChunkRow]:
        if frame.group == POINTS_GROUP:
            ref = frame.series[0].ref
            if self._points_key is None:
                self._points_key = points_key(self._window, self._parts)
            self._points.append((ref, int(frame.ts_ms[0]), int(frame.ts_ms[-1])))
            yield points_chunk(self._points_key, ref, frame.ts_ms, frame.values[0], pco=self._pco)
            return
        opened = self._open.get(frame.group)
        if opened is None or not np.array_equal(opened[0], frame.ts_ms):
            # A tick of this day came in meanwhile: the rest of the group gets a block of its own.
            if opened is not None:
                self._sealed.append(opened[1])
            block = open_block(frame.group, frame.ts_ms, self._parts, self._window, pco=self._pco)
            opened = self._open[frame.group] = (frame.ts_ms, block)
        refs = np.array([series.ref for series in frame.series], np.uint32)
        yield from chunk_rows(opened[1].block.key, refs, frame.values, pco=self._pco)

    def _rollups(self, frame: Frame) -> Iterator[RollupRow]:
        rows = rollup_rows(frame.ts_ms, frame.values, Tier.M1.width_ms)
        finer = Tier.M1
        for tier in Tier:
            if tier is not finer:
                rows = coarsen_rows(rows, finer.width_ms, tier.width_ms)
                finer = tier
            for series, buckets in zip(frame.series, rows, strict=True):
                if len(buckets):
                    keep_resets = series.kind is not Kind.GAUGE
                    row = encode_day(buckets, self._day, keep_resets=keep_resets, pco=self._pco)
                    yield rollup_key(tier, self._day, series.ref), row


def _plan(querier: Querier, day: int, blocks: Sequence[Block]) -> tuple[RefArray, list[Block]]:
    """Return the series to do, rising, and the blocks that then go."""
    points = [block for block in blocks if block.group == POINTS_GROUP]
    members = {block.key: querier.members(block) for block in points}
    groups = {block.group for block in blocks} - {POINTS_GROUP}
    dirty: set[int] = set()
    if day in querier.compacted:
        dirty = querier.dirty(day)
        # A compacted day has one block a group: where there are more, ticks have come since.
        counts = {group: sum(b.group == group for b in blocks) for group in groups}
        groups = {group for group, count in counts.items() if count > 1}
    else:
        dirty = {ref for refs in members.values() for ref in refs.tolist()}
    refs = np.union1d(querier.of_groups(groups), np.array(sorted(dirty), np.uint32)).astype(
        np.uint32
    )
    replaced = [block for block in blocks if block.group in groups]
    # Blocks of points that hold others, too, stay: what is made now overlays them.
    replaced += [block for block in points if np.isin(members[block.key], refs).all()]
    return refs, replaced
