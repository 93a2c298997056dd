"""The store: appends and reads for the layers above, and the order in which its parts work."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from ..config.settings import StorageSettings
from .ballast import Ballast
from .catalogue import Ledger
from .clock import Clock
from .clock_trust import NOTE_BELIEF, ClockTrust
from .commit import Committer
from .current import Current
from .days import Days
from .decoded import DecodedCache
from .disk_usage import own_sizes
from .errors import StorageError, StoreUnavailable
from .filesystem import read_mounts, refuse_network
from .frame import BoolArray, FloatArray, IntArray, RefArray
from .frontier import Frontier
from .group import Admission, Group, Records, without_absent
from .groups import Groups
from .head import Points, PointsHead, PointTimes
from .homes import Homes
from .intake import Intake, points_record
from .keys import POINTS_GROUP
from .labels import Index
from .lock import DirectoryLock
from .metadata import Families
from .model import Kind, Labels, Metadata
from .quarantine import set_aside, set_journal_aside
from .readers import GRACE_S, ReaderPool
from .recovery import Recovered, read_tables
from .replay import Replay
from .retention import Retention
from .sealer import Sealer
from .select import Querier
from .sink import REFUSALS, Refusal
from .snapshot import Snapshots
from .sqlite import WriterThread, is_full
from .stats import StoreStats
from .sweep import delete_series

log = logging.getLogger(__name__)
T = TypeVar("T")
Observer = Callable[[RefArray, "int | IntArray", FloatArray], None]

#: A thousand series hold the event loop up for 10 ms when they go: each label's list is made anew.
_FORGET_AT_ONCE: Final = 1_000
#: What was decoded for queries is let go when it has not been used for that long or twice as long.
_DECODED_UNUSED_S: Final = 300.0


class Store:
    """
    Owns a data directory. Use from one event loop; reads run in worker threads.

    Life: ``await open()``, then :meth:`run` as a task (it flushes and seals), ``await close()``.
    """

    def __init__(
        self,
        settings: StorageSettings,
        clock: Clock,
        *,
        readers: int = 2,
        mounts: Callable[[], str] = read_mounts,
        close_grace_s: float = GRACE_S,
    ) -> None:
        self.settings = settings
        self._mounts = mounts
        self.directory = Path(settings.path)
        self.path = self.directory / "samples.db"
        self.clock = clock
        self.stats = StoreStats()
        self.index = Index(settings.limits)
        self.current = Current()
        self.families = Families(self.index.has_metric)
        self.ledger = Ledger()
        self.ballast = Ballast(self.directory, settings.ballast_bytes)
        self.writer = WriterThread(
            self.path,
            durability_full=settings.durability == "full",
            fsync_interval_ms=settings.fsync_interval_ms,
        )
        self.decoded = DecodedCache()
        self.frontier = Frontier()
        self._readers = ReaderPool(self.path, readers, grace_s=close_grace_s)
        self._lock = DirectoryLock(self.directory)
        self._points = PointsHead()
        self.point_times = PointTimes()
        self._intake = Intake()
        self._homes = Homes(self.index, self._intake)
        self._groups = Groups(self, self._homes, self._intake, clock, self.stats)
        numbered = self._groups.by_number
        self._snapshots = Snapshots(
            self.index,
            self._homes,
            numbered,
            self._points,
            self.ledger,
            self.decoded,
            self.frontier,
        )
        self.committer = Committer(
            settings, clock, self._intake, self.writer, self.ballast, self.stats
        )
        self.sealer = Sealer(
            settings.seal,
            clock,
            numbered,
            self._points,
            self._intake,
            self.committer,
            self.writer,
            self.ledger,
            self.stats,
        )
        self.days = Days(self.writer, self.ledger, self.sealer, clock)
        self.retention = Retention(
            settings,
            clock,
            self.index,
            self.current,
            self.ledger,
            self.sealer,
            self.writer,
            self.stats,
            self.forget,
        )
        self._observers: list[Observer] = []
        self.clock_trust = ClockTrust(clock, self.stats, self._forget_ahead)
        self._noted_ms = 0
        self._state = "new"

    # --- Life ---------------------------------------------------------------------------------

    async def open(self) -> None:
        """
        Take the directory's lock, open or create the database, load the index, replay the journal.

        Raises:
            StoreLocked, StoreOnNetwork, SchemaTooNew, StoreCorrupt, StoreUnavailable: nothing was
                changed.
        """
        started_s = time.monotonic()
        # In a thread: a server that is gone may keep us waiting for long.
        await asyncio.to_thread(refuse_network, self.directory, self._mounts)
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"cannot create {self.directory}: {error.strerror}") from error
        self._lock.acquire()
        try:
            try:
                await self.writer.open()
            except StorageError as error:
                if not (is_full(error) and self.ballast.throw_overboard()):
                    raise
                await self.writer.open()
            found = await self.writer.run(read_tables)
            self._load(found)
            await self._replay(found)
            if found.damaged:
                await self._quarantine(found.damaged)
        except BaseException:
            await self.writer.close()
            self._lock.release()
            raise
        self.ballast.take_aboard()
        newest_ms = max((block.max_ms for block in self.ledger.catalogue), default=0)
        newest_ms = max(newest_ms, *(g.head.newest_ms for g in self._each_group()), 0)
        newest_ms = max(newest_ms, self.point_times.newest_ms)
        self._noted_ms = found.believed_ms
        self.clock_trust.start(newest_ms, found.believed_ms)
        self.sealer.last_seal_ms = self.clock.now_ms()
        self.retention.start(newest_ms)
        self.stats.recovery_seconds = time.monotonic() - started_s
        self._state = "open"

    async def run(self) -> None:
        """Flush and seal when it is time, until cancelled."""
        aged_s = self.clock.monotonic_s()
        while True:
            await self.committer.until_due()
            if self.clock.monotonic_s() - aged_s >= _DECODED_UNUSED_S:
                aged_s = self.clock.monotonic_s()
                self.decoded.age()
            # Kept, counted and logged where it happened; the next round tries again.
            with contextlib.suppress(StorageError):
                await self.flush()
                await self._note_belief()
                await self.sealer.seal_due()
                if not self.ballast.is_aboard:  # there may be room for it again
                    await asyncio.to_thread(self.ballast.take_aboard)

    async def close(self) -> None:
        """Commit what is left, checkpoint, give the lock back. May be called twice."""
        if self._state != "open":
            return
        self._state = "closing"
        try:
            await self.flush()
            await self._note_belief()
        except StorageError as error:
            log.error("%d samples could not be committed: %s", self._intake.samples, error)
        await self._readers.close()
        self.decoded.clear()
        await self.writer.close()
        self._lock.release()
        self._state = "closed"

    def configure(self, settings: StorageSettings) -> None:
        """Take new settings; path, engine and durability stay until the next start."""
        self.settings = settings
        self.index.limits = settings.limits
        self.committer.configure(settings)
        self.sealer.configure(settings.seal)
        self.retention.configure(settings)

    async def ping(self) -> None:
        """Show that the writer thread works. Raises StorageError if the database does not."""
        await self.writer.run(lambda connection: connection.execute("SELECT 1").fetchone())

    @property
    def trouble(self) -> str:
        """Why nothing can be taken or committed now; empty while all is well."""
        return (
            self.committer.trouble
            or self.sealer.trouble
            or self.clock_trust.fault(self.clock.now_ms())
        )

    async def bytes_on_disk(self) -> int:
        """Return the size of our files, asked of the disk in a thread."""
        return sum((await asyncio.to_thread(own_sizes, self.directory)).values())

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return len(self._groups)

    @property
    def buried_series(self) -> int:
        """How many deleted series are remembered, should their sources go on with them."""
        return self._homes.buried

    @property
    def pending_samples(self) -> int:
        return self._intake.samples

    @property
    def head_cells(self) -> int:
        return sum(g.head.ticks * g.head.columns for g in self._each_group())

    @property
    def head_points(self) -> int:
        return len(self._points)

    # --- Series -------------------------------------------------------------------------------

    def group(self, name: str) -> Group:
        """Return the group of that name, creating it if it is new."""
        return self._groups.named(name)

    def has_group(self, name: str) -> bool:
        return name in self._groups

    def home(self, ref: int) -> Group:
        """Return the group that a series belongs to."""
        return self._groups.by_number[int(self.homes(np.array([ref], np.uint32))[0])]

    def ref(self, labels: Labels, kind: Kind, group: int) -> int:
        """Return a series' number, creating it in that group. Raises SeriesRefused."""
        series = self.index.find(labels)
        if series is None:
            buried = self._homes.find_buried(labels)
            if buried is not None:  # its old number comes back: another source may still use it
                self._homes.revive((buried,))
                return buried
            series = self.index.add(labels, kind, self.clock.now_ms())
            self._homes.set(series.ref, group)
            self._intake.add_series(group, series)
        return series.ref

    def describe(self, family: str, metadata: Metadata) -> None:
        """Remember type, help and unit of a metric family."""
        for change in self.families.set(family, metadata):
            self._intake.add_metadata(*change)

    def homes(self, refs: RefArray) -> IntArray:
        """Return the group that each series belongs to, for series that are appended to."""
        return self._homes.of(refs)

    def adopt(self, refs: RefArray, group: int) -> None:
        """Give series another home; see :meth:`.homes.Homes.adopt`."""
        self._homes.adopt(refs, group)
        # Whoever goes by the homes of series looks again.
        self.index.version += 1

    def group_name(self, number: int) -> str:
        """Return the name of a group that :meth:`homes` gave."""
        return self._groups.by_number[number].name

    # --- Appending ----------------------------------------------------------------------------

    def append_points(self, refs: RefArray, ts_ms: IntArray, values: FloatArray) -> Refusal | None:
        """
        Take samples with timestamps of their own, in any order. Of two at one time the later wins.

        Returns:
            ``None`` if all were taken, else which were not, and why.

        Raises:
            StoreUnavailable: Nothing was taken.
        """
        self._admit(len(refs))
        now_ms = self.clock.now_ms()
        if self.clock_trust.fault(now_ms):
            self.stats.dropped["clock"] += len(refs)
            return Refusal((REFUSALS["clock"],) * len(refs))
        late: BoolArray = ts_ms < self.retention.oldest_ms(refs, now_ms)
        early = ts_ms > now_ms + self.settings.limits.future_ms
        refusal = None
        bad: BoolArray = late | early
        if bad.any():
            self.stats.dropped["too_old"] += int(late.sum())
            self.stats.dropped["future"] += int(early.sum())
            refusal = Refusal(
                tuple(
                    REFUSALS["too_old"] if old else REFUSALS["future"] if new else ""
                    for old, new in zip(late.tolist(), early.tolist(), strict=True)
                )
            )
            refs, ts_ms, values = refs[~bad], ts_ms[~bad], values[~bad]
        if len(refs):
            self.take_points(refs, ts_ms, without_absent(values))
        return refusal

    async def committed(self) -> None:
        """
        Wait until everything appended before this call is committed.

        Raises:
            StoreUnavailable: It could not be; it is kept in memory and tried again.
        """
        if self._state != "open":
            raise StoreUnavailable("the store is closing")
        await self._intake.committed()

    def observe(self, observer: Observer) -> Callable[[], None]:
        """
        Call ``observer(refs, ts_ms, values)`` on the event loop with everything that is appended;
        ``ts_ms`` is one time for all, or an array. Returns what ends it.
        """
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    # What a group calls; samples are clean and admitted by then.

    def admit(self, samples: int) -> Admission:
        """Make sure of room for some samples, and tell which times they may have."""
        self._admit(samples)
        now_ms = self.clock.now_ms()
        return Admission(
            int(self.retention.oldest_ms(None, now_ms)),
            now_ms + self.settings.limits.future_ms,
            self.retention.keeps_all_ms(now_ms),
            "clock" if self.clock_trust.fault(now_ms) else "",
        )

    def too_old(self, refs: RefArray, ts_ms: int) -> BoolArray:
        """Tell which series keep no samples that old."""
        late: BoolArray = np.broadcast_to(
            ts_ms < self.retention.oldest_ms(refs, self.clock.now_ms()), refs.shape
        )
        return late

    def take_ticks(self, taken: Sequence[Records]) -> None:
        """Take what groups have put into their heads."""
        if not taken:
            return
        self._intake.add_records([record for records in taken for record in records])
        newest = [records[-1] for records in taken]
        if len(newest) == 1:
            self.current.update(newest[0].refs, newest[0].ts_ms, newest[0].values)
        else:
            self.current.update(
                np.concatenate([record.refs for record in newest]),
                np.repeat([record.ts_ms for record in newest], [len(r.refs) for r in newest]),
                np.concatenate([record.values for record in newest]),
            )
        self.frontier.note(min(records[0].ts_ms for records in taken))
        for records in taken:
            for record in records:
                self._tell(record.refs, record.ts_ms, record.values)

    def take_points(self, refs: RefArray, ts_ms: IntArray, values: FloatArray) -> None:
        homes = self._homes.of(refs)
        if not homes.all():
            self.stats.dropped["forgotten"] += int(np.count_nonzero(homes == 0))
            refs, ts_ms, values = refs[homes > 0], ts_ms[homes > 0], values[homes > 0]
            if not len(refs):
                return
        record = points_record(refs, ts_ms, values)
        self._points.append(Points(record.refs, record.ts_ms, record.values))
        self.point_times.note(record.refs, record.ts_ms)
        self.frontier.note(int(record.ts_ms.min()))
        self._intake.add_records([record])
        self.stats.points_appended += len(refs)
        self.current.update(record.refs, record.ts_ms, record.values)
        self._tell(record.refs, record.ts_ms, record.values)

    def new_layout(self, group: int, refs: RefArray) -> int:
        """Number a list of members; it is committed before the first tick that uses it."""
        return self._intake.add_layout(group, refs)

    # --- Reading ------------------------------------------------------------------------------

    async def read(self, job: Callable[[Querier], T]) -> T:
        """
        Run ``job`` in a worker thread on one consistent snapshot, committed or not.

        Raises:
            StorageError: The database cannot be read. Rows that fail their checksum are left out,
                counted and put into quarantine instead.
        """
        if self._state != "open":
            raise StoreUnavailable("the store is not open")
        started_s = time.monotonic()
        querier, result = await self._readers.run(
            lambda connection: self._snapshots.read(connection, job)
        )
        self.stats.reads += 1
        self.stats.read_seconds += time.monotonic() - started_s
        if querier.stats.corrupt:
            await self._quarantine(querier.stats.corrupt)
        return result

    # --- Committing ---------------------------------------------------------------------------

    async def flush(self) -> None:
        """Commit everything appended so far. Raises StoreUnavailable; it is kept then."""
        await self.committer.flush()

    async def seal(self) -> None:
        """Move the whole head into chunks. Raises StorageError if some of it stays in the head."""
        await self.sealer.seal()

    # --- Inside -------------------------------------------------------------------------------

    def _each_group(self) -> Iterable[Group]:
        return self._groups.by_number.values()

    def _admit(self, samples: int) -> None:
        if self._state != "open":
            raise StoreUnavailable("the store is not open")
        try:
            if self.sealer.trouble:
                raise StoreUnavailable(self.sealer.trouble)
            self._intake.admit(samples)
        except StoreUnavailable:
            self.stats.dropped["unavailable"] += samples
            raise
        self.stats.samples_appended += samples

    def _tell(self, refs: RefArray, ts_ms: int | IntArray, values: FloatArray) -> None:
        for observer in self._observers:
            observer(refs, ts_ms, values)

    async def forget(self, refs: RefArray, cutoff_ms: int) -> None:
        """
        Delete series that have nothing left, but for those with a sample since ``cutoff_ms``.

        Raises:
            StorageError: Some of them are deleted; the same call again deletes the rest.
        """
        for first in range(0, len(refs), _FORGET_AT_ONCE):
            some = refs[first : first + _FORGET_AT_ONCE]
            await self.writer.run(partial(delete_series, refs=some, next_ref=self.index.next_ref))
            self._forget(some, cutoff_ms)

    def _forget(self, refs: RefArray, cutoff_ms: int) -> None:
        """
        Bury series that retention has deleted: a source may still hold their numbers. One that
        came back while they were being deleted has a sample since ``cutoff_ms``, and goes on.
        """
        newest_ms, _ = self.current.get(refs)
        self._homes.bury(refs)
        self.current.forget(refs)
        for group in self._each_group():
            group.forget_layouts()
        self._homes.revive(refs[newest_ms >= cutoff_ms].tolist())

    def _forget_ahead(self, now_ms: int) -> None:
        """
        The clock is right and samples lie ahead of it: they are nobody's newest any more, or no
        present one would be shown before the clock has passed them.
        """
        refs = self.index.select(())
        newest_ms, _ = self.current.get(refs)
        self.current.forget(refs[newest_ms > now_ms + self.settings.limits.future_ms])

    async def _note_belief(self) -> None:
        believed_ms = self.clock_trust.believed_ms
        if believed_ms != self._noted_ms:
            await self.writer.run(lambda c: c.execute(NOTE_BELIEF, (believed_ms,)).close())
            self._noted_ms = believed_ms

    def _load(self, found: Recovered) -> None:
        self.families.load(found.metadata)
        self.ledger.compacted = frozenset(found.compacted)
        self.ledger.catalogue = found.catalogue
        for number, name in found.groups.items():
            if number != POINTS_GROUP:
                self._groups.add(number, name)
        for group_number, series, _ in found.series:
            self.index.load(series)
            self._homes.set(series.ref, group_number)
        self.index.reserve(found.next_ref)
        self._intake.next_layout = max(found.layouts, default=0) + 1

    async def _replay(self, found: Recovered) -> None:
        """Play the journal back into the head."""
        heads = {number: group.head for number, group in self._groups.by_number.items()}
        replay = Replay(found, heads, self._points, self.current, self.point_times)
        now_ms = self.clock.now_ms()

        def job(connection: sqlite3.Connection) -> None:
            replay.run(connection)
            if replay.damaged:
                set_journal_aside(connection, list(replay.damaged), now_ms)

        await self.writer.run(job)
        for error in replay.damaged.values():
            log.error("%s; it is set aside, its samples are lost", error)
        self._intake.next_seq = replay.last_seq + 1
        self.stats.recovered_samples += replay.samples
        self.stats.corrupt["journal"] += len(replay.damaged)

    async def _quarantine(self, found: list[tuple[str, int]]) -> None:
        """Take damaged rows out of use, keeping their bytes."""
        now_ms = self.clock.now_ms()
        unique = sorted(set(found))

        def job(connection: sqlite3.Connection) -> list[tuple[str, int]]:
            return set_aside(connection, unique, now_ms, self.index.next_ref, self.ledger)

        try:
            moved = await self.writer.run(job)
        except StorageError as error:
            log.error("damaged rows cannot be set aside: %s", error)
            return
        for table, key in moved:
            self.stats.corrupt[table] += 1
            log.error("row %d of %s fails its checksum and is set aside", key, table)
