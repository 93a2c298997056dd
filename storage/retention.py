"""What is deleted, and when: by age of each tier, by policy, and by total size."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..config.selector import Matcher, parse_selector
from ..config.settings import RetentionSettings, StorageSettings
from .catalogue import Block, Catalogue, Ledger
from .clock import Clock
from .current import Current
from .disk_usage import LOG, SAMPLES, own_sizes
from .frame import IntArray, RefArray
from .keys import REF_MAX, day_bounds, day_of, rollup_key
from .labels import Index
from .seal import bump_generation
from .sealer import Sealer
from .sqlite import LOG_BYTES_KEPT, WriterThread, transaction
from .stats import StoreStats
from .sweep import (
    cut_log,
    delete_chunks,
    delete_rollups,
    mark_orphaned,
    rollup_keys,
    used_bytes,
    vacuum,
)

log = logging.getLogger(__name__)

_TIERS: Final = {"1m": 1, "5m": 2, "1h": 3, "1d": 4}
#: The size cap never takes the two newest days: what is being looked at stays.
_DAYS_MIN: Final = 2
#: Free space is given back to the file system above this; a little is kept for the next hour.
_FREE_BYTES_KEPT: Final = 4 << 20
#: A clock that far ahead of what the monotonic one makes of it is not believed at once.
_LEAP_MS: Final = 86_400_000
_LEAP_WAIT_S: Final = 3_600.0

_DEAD_SERIES: Final = "SELECT id FROM series WHERE last_day < ? AND created_ms < ?"


@dataclass(frozen=True, slots=True)
class _Class:
    """Series that are kept equally long."""

    matchers: tuple[Matcher, ...] | None
    keep: RetentionSettings


class Retention:
    """Applies retention; :meth:`run_once` is called about hourly, and after each compaction."""

    def __init__(
        self,
        settings: StorageSettings,
        clock: Clock,
        index: Index,
        current: Current,
        ledger: Ledger,
        sealer: Sealer,
        writer: WriterThread,
        stats: StoreStats,
        forget: Callable[[RefArray, int], Awaitable[None]],
    ) -> None:
        self._clock, self._index, self._current = clock, index, current
        self._forget = forget
        self._ledger, self._sealer, self._writer = ledger, sealer, writer
        self._stats = stats
        self._directory = settings.path
        self._thinned: set[tuple[int, int]] = set()  # day and class that are done
        self._rollup_day = -2
        self._known_version = -1
        self._class_of: IntArray | None = None
        self._floor: tuple[Catalogue, int] | None = None
        self._raw_day = -1  # raw samples of the days before are gone, or about to go
        self._trusted = (0, 0.0)  # wall and monotonic time that went together
        self._suspect_s: float | None = None
        self.configure(settings)

    def configure(self, settings: StorageSettings) -> None:
        """Take new settings; they apply from the next round on."""
        self._max_bytes = settings.max_bytes
        self._classes = [
            _Class(parse_selector(policy.match), policy.over(settings.retention))
            for policy in settings.retention_policies
        ]
        self._classes.append(_Class(None, settings.retention))
        self._shortest_raw_ms = min(each.keep.raw_ms for each in self._classes)
        self._known_version = self._rollup_day = -2
        self._thinned.clear()

    def start(self, newest_ms: int) -> None:
        """The store opens, and the newest time that it has seen is this; 0 if none."""
        self._trusted = (newest_ms or self._clock.now_ms(), self._clock.monotonic_s())

    def oldest_ms(self, refs: RefArray | None, now_ms: int) -> int | IntArray:
        """
        Return the oldest time at which a sample may still come, for all or for each of some series.

        A late sample has its day's rollups made anew, and that takes the day's raw samples: where
        those are gone, by age or for want of space, it would replace them by itself alone.
        """
        floor_ms = max(self._raw_floor_ms(), day_bounds(self._raw_day)[0])
        # A clock that was days ahead may have made history of what is today again.
        floor_ms = max(0, min(floor_ms, day_bounds(day_of(now_ms))[0]))
        if refs is None or len(self._classes) == 1:
            return max(floor_ms, now_ms - self.tier_keep_ms("raw"))
        if self._known_version != self._index.version:
            self._known_version, self._class_of = self._index.version, self._classify()
        assert self._class_of is not None
        cutoffs = np.array([now_ms - each.keep.raw_ms for each in self._classes])
        oldest: IntArray = np.maximum(cutoffs[self._class_of[refs]], floor_ms)
        return oldest

    def keeps_all_ms(self, now_ms: int) -> int:
        """Return a time from which on a sample may come whatever its series' policy is."""
        return now_ms - self._shortest_raw_ms

    def _raw_floor_ms(self) -> int:
        """Return the first millisecond of the oldest day whose raw samples are all there."""
        catalogue, compacted = self._ledger.catalogue, self._ledger.compacted
        if self._floor is None or self._floor[0] is not catalogue:
            day = min(catalogue.days, default=max(compacted, default=-2) + 1)
            has_older = any(each < day for each in compacted)
            self._floor = (catalogue, day_bounds(day)[0] if has_older else 0)
        return self._floor[1]

    def cutoffs_ms(self, refs: RefArray) -> dict[str, IntArray] | None:
        """
        Return by tier, ``raw`` among them, the time before whose day's end samples of each of some
        series may have gone by a policy of their own; ``None`` if there is none. Any thread may.
        """
        class_of = self._classify()
        if class_of is None:
            return None
        now_ms, classes = self._clock.now_ms(), self._classes
        # A series that came after is in the last class, if in any.
        mine = np.where(refs < len(class_of), class_of[np.minimum(refs, len(class_of) - 1)], -1)
        return {
            tier: np.array([now_ms - each.keep.by_tier()[tier] for each in classes])[mine]
            for tier in ("raw", *_TIERS)
        }

    def tier_keep_ms(self, tier: str) -> int:
        """How long a tier is kept at the most, over all policies."""
        return max(each.keep.by_tier()[tier] for each in self._classes)

    async def run_once(self) -> None:
        """Delete what has expired. Raises StorageError; what was deleted by then stays so."""
        async with self._sealer.lock:
            self._stats.retention_rows["chunk"] += await self._sealer.sweep()
            now_ms = self._believed_ms()
            today = day_of(now_ms)
            class_of = self._classify()
            unsettled = await self._unsettled()
            await self._raw_by_age(now_ms, class_of, unsettled)
            if today != self._rollup_day:
                await self._rollups_by_age(now_ms, class_of)
                await self._dead_series(now_ms)
                self._rollup_day = today
            used = await self._by_size(today, unsettled)
            _, free = await used_bytes(self._writer)
            kept = min(_FREE_BYTES_KEPT, max(0, self._max_bytes - used))
            if free > kept:
                self._stats.retention_bytes += await vacuum(self._writer, free - kept)

    def _believed_ms(self) -> int:
        """
        Return the time that ages are counted from. A clock that is suddenly days ahead (an empty
        battery, a slip of the hand) is believed after an hour: nothing brings back what has gone.
        """
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic_s()
        trusted_ms, trusted_s = self._trusted
        expected_ms = trusted_ms + round((now_s - trusted_s) * 1000)
        if now_ms > expected_ms + _LEAP_MS:
            if self._suspect_s is None:
                self._suspect_s = now_s
                log.warning(
                    "the clock is %d h ahead of what is stored; nothing expires by it for an hour",
                    (now_ms - expected_ms) // 3_600_000,
                )
            if now_s - self._suspect_s < _LEAP_WAIT_S:
                return expected_ms
        self._trusted, self._suspect_s = (now_ms, now_s), None
        return now_ms

    async def _unsettled(self) -> set[int]:
        """
        Return the days whose rollups do not stand for all of their samples yet. Their raw samples
        are needed still, however old.
        """
        dirty = await self._writer.run(
            lambda c: {day for (day,) in c.execute("SELECT DISTINCT day FROM dirty")}
        )
        return (
            dirty
            | (self._ledger.catalogue.days - self._ledger.compacted)
            | self._sealer.head_days()
        )

    def _classify(self) -> IntArray | None:
        """Return each series' class by its number, or ``None`` if there is one class only."""
        if len(self._classes) == 1:
            return None
        class_of = np.full(self._index.next_ref, len(self._classes) - 1)
        for number in reversed(range(len(self._classes) - 1)):
            matchers = self._classes[number].matchers
            assert matchers is not None
            class_of[self._index.select(matchers)] = number
        return class_of

    async def _raw_by_age(
        self, now_ms: int, class_of: IntArray | None, unsettled: Collection[int]
    ) -> None:
        """
        Delete raw samples, by whole days: as long as one sample of a day may come late, all of the
        day are needed to make its rollups anew.
        """
        cutoffs = [now_ms - each.keep.raw_ms for each in self._classes]
        days = sorted(day for day in self._ledger.catalogue.days if day not in unsettled)
        for day in days:
            if day_bounds(day)[1] < min(cutoffs):
                await self._drop_day(day)
        if class_of is None:
            return
        for number, cutoff in enumerate(cutoffs):
            refs = frozenset(np.flatnonzero(class_of == number).tolist())
            for day in days:
                blocks = {block.key for block in self._blocks(day)}
                if day_bounds(day)[1] < cutoff and blocks and (day, number) not in self._thinned:
                    deleted = await delete_chunks(self._writer, blocks, refs)
                    self._ledger.rewritten()
                    self._stats.retention_rows["chunk"] += deleted
                    self._thinned.add((day, number))
        alive = self._ledger.catalogue.days
        self._thinned = {done for done in self._thinned if done[0] in alive}

    async def _drop_day(self, day: int) -> None:
        gone = [block.key for block in self._blocks(day)]
        self._raw_day = max(self._raw_day, day + 1)

        def job(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.executemany("DELETE FROM block WHERE id = ?", [(key,) for key in gone])
                mark_orphaned(connection, gone)
                connection.execute("DELETE FROM dirty WHERE day = ?", (day,))
                generation = bump_generation(connection)
            self._ledger.change(generation, removed=gone)

        await self._writer.run(job)
        self._stats.retention_rows["block"] += len(gone)
        self._stats.retention_rows["chunk"] += await self._sealer.sweep()

    def _blocks(self, day: int) -> list[Block]:
        return [block for block in self._ledger.catalogue if day_of(block.min_ms) == day]

    async def _rollups_by_age(self, now_ms: int, class_of: IntArray | None) -> None:
        for name, tier in _TIERS.items():
            days = np.array([day_of(now_ms - c.keep.by_tier()[name]) for c in self._classes])
            low, end = rollup_key(tier, -1, 0), rollup_key(tier, int(days.max()), 0)
            while keys := await rollup_keys(self._writer, low, end):
                expired = keys
                if class_of is not None:
                    array = np.array(keys)
                    refs, key_days = array & REF_MAX, (array >> 32 & 0xFFFFFFF) - 1
                    known = np.where(refs < len(class_of), refs, 0)
                    expired = array[key_days < days[class_of[known]]].tolist()
                self._stats.retention_rows["rollup"] += await delete_rollups(self._writer, expired)
                low = keys[-1] + 1
        forgotten = day_of(now_ms - max(self._keeps()))
        kept = frozenset(day for day in self._ledger.compacted if day >= forgotten)
        if kept != self._ledger.compacted:
            await self._writer.run(
                lambda c: c.execute("DELETE FROM day WHERE day < ?", (forgotten,))
            )
            self._ledger.compacted = kept

    async def _dead_series(self, now_ms: int) -> None:
        """Forget series without a sample in any tier. Their numbers are not given out again."""
        cutoff_ms = now_ms - max(self._keeps())
        found = await self._writer.run(
            lambda c: c.execute(_DEAD_SERIES, (day_of(cutoff_ms), cutoff_ms)).fetchall()
        )
        refs = np.array([ref for (ref,) in found], np.uint32)
        if not len(refs):
            return
        newest_ms, _ = self._current.get(refs)
        dead = refs[newest_ms < cutoff_ms]
        if len(dead):
            await self._forget(dead, cutoff_ms)
            self._stats.retention_rows["series"] += len(dead)

    async def _by_size(self, today: int, unsettled: Collection[int]) -> int:
        """
        Over the cap: the oldest raw day goes, down to two; then the oldest of 1m, 5m, 1h. Return
        the bytes that are used then.
        """
        while True:
            used = await self._used()
            if used > self._max_bytes:  # by the log alone, perhaps; and each deletion grows it
                await cut_log(self._writer)
                used = await self._used()
            if used <= self._max_bytes:
                return used
            days = sorted(d for d in self._ledger.catalogue.days if d <= today - _DAYS_MIN)
            if days:
                log.warning("%d bytes are over storage.max_bytes: a raw day goes", used)
                # One that is still to be compacted goes last: it would leave nothing.
                await self._drop_day(min(days, key=lambda day: (day in unsettled, day)))
                continue
            for tier in (1, 2, 3):
                if await self._oldest_rollup_day(tier, today):
                    log.warning("%d bytes are over storage.max_bytes: a rollup day goes", used)
                    break
            else:
                log.error(
                    "%d bytes are over storage.max_bytes (%d) and nothing may go but the two "
                    "newest days; raise it, or collect less",
                    used,
                    self._max_bytes,
                )
                return used

    async def _used(self) -> int:
        """Return the bytes that our files need, without what the database's free pages take."""
        sizes = await asyncio.to_thread(own_sizes, self._directory)
        pages, _ = await used_bytes(self._writer)
        log_bytes = sum(sizes.get(name, 0) for name in LOG)
        others = sum(size for name, size in sizes.items() if name not in LOG and name != SAMPLES)
        # A longer log is held by a reader: deleting would make it longer still.
        return pages + others + min(log_bytes, LOG_BYTES_KEPT)

    async def _oldest_rollup_day(self, tier: int, today: int) -> bool:
        end = rollup_key(tier, today - _DAYS_MIN + 1, 0)
        keys = await rollup_keys(self._writer, rollup_key(tier, -1, 0), end)
        if not keys:
            return False
        end = min(end, (keys[0] >> 32) + 1 << 32)
        low = keys[0]
        while keys := await rollup_keys(self._writer, low, end):
            self._stats.retention_rows["rollup"] += await delete_rollups(self._writer, keys)
            low = keys[-1] + 1
        return True

    def _keeps(self) -> Iterator[int]:
        for each in self._classes:
            yield from each.keep.by_tier().values()
