"""The slow work of the store: compaction of closed days, then retention, about once an hour."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from ..aggregation.compactor import Compactor
from ..storage.clock import Clock
from ..storage.errors import StorageError
from ..storage.store import Store
from ..storage.sweep import shrink

log = logging.getLogger(__name__)

_HOUR_MS: Final = 3_600_000
#: After the hour: the seal of the hour, and samples that come a little late, are through by then.
_DELAY_MS: Final = 5 * 60_000
#: The wall clock may be set: look at it this often rather than sleep to the next hour.
_LOOK_S: Final = 30.0


class Maintenance:
    """Runs compaction and retention; a failure is logged and tried again at the next round."""

    def __init__(self, store: Store, compactor: Compactor, clock: Clock) -> None:
        self._store, self._compactor, self._clock = store, compactor, clock
        self._lock = asyncio.Lock()
        self.rounds = 0
        self.errors = 0
        self.last_ms = 0

    async def run(self) -> None:
        """Work until cancelled. The first round comes at once: a day may have closed meanwhile."""
        done = -1
        while True:
            hour = (self._clock.now_ms() - _DELAY_MS) // _HOUR_MS
            if hour != done:
                done = hour
                try:
                    await self.run_once()
                except StorageError as error:
                    self.errors += 1
                    log.error("compaction or retention failed and will be tried again: %s", error)
            await self._clock.sleep(_LOOK_S)

    async def run_once(self) -> list[int]:
        """
        Compact the days that are over and apply retention.

        Returns:
            The days (since the epoch) that were compacted.

        Raises:
            StorageError: What was done until then stays done.
        """
        async with self._lock:
            days = await self._compactor.run_once()
            await self._store.retention.run_once()
            self.rounds += 1
            self.last_ms = self._clock.now_ms()
            return days

    async def seal_and_compact(self) -> list[int]:
        """Seal all, :meth:`run_once`, and cut the files: what benchmarks and backups ask for."""
        await self._store.seal()
        days = await self.run_once()
        await shrink(self._store.writer)
        return days
