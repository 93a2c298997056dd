"""When and how the intake is committed, and what happens when the disk refuses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Coroutine
from typing import Final

from ..config.settings import StorageSettings
from .ballast import Ballast
from .clock import Clock
from .errors import StorageError, StoreUnavailable
from .intake import Flush, Intake
from .sqlite import WriterThread, is_full, transaction
from .stats import StoreStats

log = logging.getLogger(__name__)

#: A failing disk is asked again after this long, not at every flush interval.
_RETRY_S: Final = 1.0


class Committer:
    """Empties the intake into the journal. Everything goes through :attr:`lock`, one at a time."""

    def __init__(
        self,
        settings: StorageSettings,
        clock: Clock,
        intake: Intake,
        writer: WriterThread,
        ballast: Ballast,
        stats: StoreStats,
    ) -> None:
        self._settings, self._clock = settings, clock
        self._intake, self._writer, self._ballast = intake, writer, ballast
        self._stats = stats
        self._last_flush_s = 0.0
        self.lock = asyncio.Lock()
        #: Why nothing can be committed now; empty while all is well.
        self.trouble = ""

    def configure(self, settings: StorageSettings) -> None:
        self._settings = settings

    async def until_due(self) -> None:
        """Wait for the flush interval, or until somebody waits and it is worth a commit."""
        if self.trouble:
            await self._clock.sleep(_RETRY_S)
        elif await self._wait(self._intake.wanted, self._settings.flush_interval_ms / 1000):
            since_s = self._clock.monotonic_s() - self._last_flush_s
            await self._wait(self._intake.bulk, self._settings.ack_interval_ms / 1000 - since_s)

    async def flush(self) -> None:
        """
        Commit everything appended so far.

        Raises:
            StoreUnavailable: It could not be committed; it is kept for the next flush.
        """
        async with self.lock:
            if not self._intake.is_empty or self._intake.has_waiters:
                await finish(self.commit(*self._intake.take()))

    async def commit(self, flush: Flush, waiters: list[asyncio.Future[None]]) -> None:
        """Write what was taken from the intake; the caller holds the lock. Raises as `flush`."""
        started_s = self._last_flush_s = self._clock.monotonic_s()
        now_ms = self._clock.now_ms()

        def job(connection: sqlite3.Connection) -> int:
            self._writer.make_durable(connection, now_ms)
            with transaction(connection):
                return flush.write(connection)

        try:
            try:
                written = await self._writer.run(job)
            except StorageError as error:
                # Room for the newest samples, and for retention to make more.
                if not (is_full(error) and self._ballast.throw_overboard()):
                    raise
                log.error("the disk is full; the ballast is given up to go on for a while")
                written = await self._writer.run(job)
        except StorageError as error:
            self._intake.put_back(flush)
            self._stats.flush_errors += 1
            if not self.trouble:
                log.error("samples cannot be committed and are kept in memory: %s", error)
            self.trouble = str(error)
            unavailable = StoreUnavailable(str(error))
            self._intake.fail_waiters(waiters, unavailable)
            raise unavailable from error
        except BaseException as error:
            # A mistake of ours: it must not cost samples, nor leave anyone waiting for ever.
            self._intake.put_back(flush)
            self._intake.fail_waiters(waiters, StoreUnavailable(f"cannot commit: {error!r}"))
            raise
        finally:
            self._intake.landed()
        if self.trouble:
            log.warning("samples are committed again")
            self.trouble = ""
        self._stats.flushes += 1
        self._stats.flush_seconds += self._clock.monotonic_s() - started_s
        self._stats.journal_bytes += written
        self._stats.samples_committed += flush.samples
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for an event, for bulk or for some time; tell whether the event came."""
        bulk = self._intake.bulk
        if seconds <= 0 or event.is_set() or bulk.is_set():
            return event.is_set()
        tasks: list[asyncio.Future[object]] = [
            asyncio.ensure_future(self._clock.sleep(seconds)),
            asyncio.ensure_future(event.wait()),
            asyncio.ensure_future(bulk.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return event.is_set()


async def finish(work: Coroutine[object, object, None]) -> None:
    """
    Await work that must not stop half-way: a database call goes on when the wait for it is
    cancelled, so the state around it has to follow.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # told and counted where it happened; nobody waits for it any more
        raise
