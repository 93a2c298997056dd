"""
The daily job: a closed day's small chunks become one a series, beside its rows of all four tiers.

Idempotent: run on the same day again, it makes the same rows. So late samples, restarts and crashes
need nothing of their own: a day that is not marked, or has dirty series, is simply done (again).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ..storage.catalogue import Block, PartNumbers
from ..storage.codec import CodecError
from ..storage.frame import Frame, IntArray, RefArray, distinct, is_stale
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
from .rollup import BucketRows, Tier, coarsen_rows, rollup_rows
from .rollup_codec import decode_day, encode_day

log = logging.getLogger(__name__)

#: What is worked on at a time: 64 series of a day at 10 s are 4.4 MB, and some 60 ms of a thread.
#: Of series at 1 s it is 6.
_PIECE_ROWS: Final = 64
_PIECE_CELLS: Final = 64 * 8_640
#: Blocks of points that one day may have. Each run on late points adds one beside that of the rest.
_POINT_BLOCKS_MAX: Final = 8

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
        async with self._store.days.lock:
            # What is left of an attempt that was cut off after its day was done.
            await self._store.sealer.sweep()
        for day in await self._store.days.pending():
            async with self._store.days.lock:
                await self._compact(day)
            done.append(day)
        return done

    async def _compact(self, day: int) -> None:
        store, started_s = self._store, time.monotonic()
        await store.sealer.sweep()
        blocks = store.days.blocks(day)
        plan = await store.read(lambda querier: _plan(querier, day, blocks))
        # A crash gives the numbers of series that no flush has committed to others: their rows must
        # not be there first.
        await store.flush()
        job = _DayJob(
            plan, PartNumbers(store.ledger.catalogue), store.settings.seal.codec != "zlib"
        )
        for refs in plan.pieces:
            piece_s = time.monotonic()
            piece = await store.read(lambda querier, refs=refs: _read(querier, day, refs))  # type: ignore[misc]
            made = await asyncio.to_thread(job.encode, piece)
            await store.sealer.write_chunks(made.chunks)
            await store.days.write_rollups(made.rollups, made.gone)
            store.stats.compacted_series += len(refs)
            await asyncio.sleep(self.rest * (time.monotonic() - piece_s))
        await store.days.finish(day, plan.dirty, plan.replaced, job.blocks())
        store.stats.compaction_seconds += time.monotonic() - started_s
        if job.short:
            log.warning(
                "day %d: raw samples of %d series are missing; their rollups stay", day, job.short
            )
        log.debug("day %d is compacted in %d pieces", day, len(plan.pieces))


@dataclass(frozen=True, slots=True)
class _Plan:
    """
    What one run on a day does.

    Attributes:
        pieces: The series whose rows are made (again), each rising; those of a group stand
            together.
        groups: The groups whose chunks are made; those of the others stay.
        replaced: The blocks that then go.
        dirty: The series that then are clean.
    """

    day: int
    pieces: list[RefArray]
    groups: frozenset[int]
    replaced: list[Block]
    dirty: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Piece:
    """All samples of the day of some series, and how many its rows now stand for, if it has any."""

    frames: list[Frame]
    counts: Mapping[int, int]


@dataclass(slots=True)
class _Made:
    """Rows to write, and keys of rollup rows to delete."""

    chunks: list[ChunkRow] = field(default_factory=list)
    rollups: list[RollupRow] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)


class _DayJob:
    """What has been made of one day so far."""

    def __init__(self, plan: _Plan, parts: PartNumbers, pco: bool) -> None:
        self._day, self._groups = plan.day, plan.groups
        self._parts, self._pco = parts, pco
        self._window = window_of_day(plan.day)
        self._open: dict[int, tuple[IntArray, SealedBlock]] = {}
        self._sealed: list[SealedBlock] = []
        self._points_key: int | None = None
        self._points: list[tuple[int, int, int]] = []  # series, first and last time
        self.short = 0  # series whose rollups stay, as their raw samples are not all there

    def encode(self, piece: _Piece) -> _Made:
        """Return the rows of some series."""
        made = _Made()
        for frame in piece.frames:
            made.chunks.extend(self._chunks(frame))
            self._roll_up(frame, piece.counts, made)
        return made

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
        if frame.group not in self._groups:
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

    def _roll_up(self, frame: Frame, counts: Mapping[int, int], made: _Made) -> None:
        tiers = _all_tiers(frame)
        written = []
        for row, series in enumerate(frame.series):
            ref, before = series.ref, counts.get(series.ref, 0)
            low, high = tiers[Tier.D1].offsets[row : row + 2].tolist()
            count = int(tiers[Tier.D1].buckets.count[low:high].sum())
            # A marker that ends a series may have taken the place of a sample. Nothing else takes
            # one away, so raw samples that are too few have been damaged or deleted.
            if count + int(is_stale(frame.values[row]).sum()) < before:
                self.short += 1
            elif count:
                written.append((row, ref, series.kind is not Kind.GAUGE))
            elif before:
                made.gone.extend(rollup_key(tier, self._day, ref) for tier in Tier)
        for tier, rows in tiers.items():
            buckets = list(rows)
            for row, ref, keep_resets in written:
                data = encode_day(buckets[row], self._day, keep_resets=keep_resets, pco=self._pco)
                made.rollups.append((rollup_key(tier, self._day, ref), data))


def _all_tiers(frame: Frame) -> dict[Tier, BucketRows]:
    rows = rollup_rows(frame.ts_ms, frame.values, Tier.M1.width_ms)
    tiers = {Tier.M1: rows}
    for finer, tier in zip(Tier, list(Tier)[1:], strict=False):
        tiers[tier] = rows = coarsen_rows(rows, finer.width_ms, tier.width_ms)
    return tiers


def _plan(querier: Querier, day: int, blocks: Sequence[Block]) -> _Plan:
    points = [block for block in blocks if block.group == POINTS_GROUP]
    members = {block.key: querier.members(block) for block in points}
    pointed = {ref for refs in members.values() for ref in refs.tolist()}
    groups = {block.group for block in blocks} - {POINTS_GROUP}
    dirty = querier.dirty_rows(day)
    wanted = set(dirty)
    if day not in querier.compacted:
        wanted |= pointed
    else:
        # A compacted day has one block a group: where there are more, ticks have come since.
        counts = {group: sum(b.group == group for b in blocks) for group in groups}
        groups = {group for group, count in counts.items() if count > 1}
        if len(points) >= _POINT_BLOCKS_MAX:
            wanted |= pointed
    others = np.fromiter(wanted, np.uint32, len(wanted))
    refs = distinct(np.concatenate([querier.of_groups(groups), others]))
    replaced = [block for block in blocks if block.group in groups]
    # Blocks of points that hold others, too, stay: what is made now overlays them.
    replaced += [block for block in points if np.isin(members[block.key], refs).all()]
    ticks = {group: sum(b.n for b in blocks if b.group == group) for group in groups}
    return _Plan(day, _pieces(querier, refs, ticks), frozenset(groups), replaced, dirty)


def _pieces(querier: Querier, refs: RefArray, ticks: Mapping[int, int]) -> list[RefArray]:
    """Cut series into pieces, group by group, of about the same work."""
    homes = querier.homes(refs)
    order = np.argsort(homes, kind="stable")
    pieces: list[list[int]] = []
    cells = 0
    for ref, home in zip(refs[order].tolist(), homes[order].tolist(), strict=True):
        if home == POINTS_GROUP:
            continue  # the series has been deleted
        size = ticks.get(home, 0)
        if not pieces or len(pieces[-1]) == _PIECE_ROWS or cells + size > _PIECE_CELLS:
            pieces.append([])
            cells = 0
        pieces[-1].append(ref)
        cells += size
    return [np.array(sorted(piece), np.uint32) for piece in pieces]


def _read(querier: Querier, day: int, refs: RefArray) -> _Piece:
    low_ms, high_ms = day_bounds(day)
    counts = {}
    if day in querier.compacted:
        for _, ref, data in querier.rollup_rows(Tier.D1, refs, [day]):
            try:
                counts[ref] = int(decode_day(data, Tier.D1, day).count.sum())
            except CodecError:
                querier.stats.corrupt.append(("rollup", rollup_key(Tier.D1, day, ref)))
    return _Piece(list(querier.frames(refs, low_ms, high_ms)), counts)
