"""A clock that only moves when a test says so."""

from __future__ import annotations

import asyncio
import heapq
import itertools


class ManualClock:
    """Wall and monotonic time under the test's control; sleepers wake in :meth:`advance`."""

    def __init__(self, now_ms: int = 1_767_571_200_000) -> None:
        self._now_ms = now_ms
        #: What the kernel says of the wall time.
        self.synchronised: bool | None = False
        self._monotonic_ms = 0
        self._order = itertools.count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_s(self) -> float:
        return self._monotonic_ms / 1000

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        due = self._monotonic_ms + round(seconds * 1000)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (due, next(self._order), future))
        await future

    def is_synchronised(self) -> bool | None:
        return self.synchronised

    def step(self, delta_ms: int) -> None:
        """Move the wall clock only, as an NTP step does."""
        self._now_ms += delta_ms

    async def advance(self, ms: int) -> None:
        """Move both clocks, waking every sleeper at its own time and letting it run."""
        end = self._monotonic_ms + ms
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            self._now_ms += max(0, due - self._monotonic_ms)
            self._monotonic_ms = max(self._monotonic_ms, due)
            if not future.done():
                future.set_result(None)
            await self._settle()
        self._now_ms += end - self._monotonic_ms
        self._monotonic_ms = end
        await self._settle()

    @staticmethod
    async def _settle() -> None:
        # A handful of turns lets callbacks of callbacks run; real I/O must be awaited by the test.
        for _ in range(10):
            await asyncio.sleep(0)
