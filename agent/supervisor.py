"""Runs the long-lived components: restarts what fails, with back-off, and stops all in order."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from ..storage.clock import Clock

log = logging.getLogger(__name__)

_BACKOFF_MIN_S: Final = 1.0
_BACKOFF_MAX_S: Final = 60.0
#: A component that ran this long has recovered: its next failure is a first one again.
_HEALTHY_S: Final = 120.0


class Supervisor:
    """
    Owns one task per component.

    A component is ``async def run() -> None`` that works until it is cancelled. One that raises is
    logged, counted and started again; the others do not notice.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.restarts: Counter[str] = Counter()

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Start a component under a name that is free."""
        assert name not in self._tasks, name
        self._tasks[name] = asyncio.create_task(self._keep_running(name, run), name=name)

    async def stop(self, name: str, deadline_s: float) -> None:
        """Cancel a component and wait for its end; unknown names are stopped already."""
        task = self._tasks.pop(name, None)
        if task is None:
            return
        task.cancel()
        _, pending = await asyncio.wait({task}, timeout=deadline_s)
        if pending:
            log.error("%s did not stop within %g s", name, deadline_s)

    async def stop_all(self, deadline_s: float) -> None:
        """Stop what still runs, the newest first."""
        for name in reversed(list(self._tasks)):
            await self.stop(name, deadline_s)

    async def _keep_running(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        pause_s = _BACKOFF_MIN_S
        while True:
            started_s = self._clock.monotonic_s()
            try:
                await run()
                return
            except Exception:
                self.restarts[name] += 1
                if self._clock.monotonic_s() - started_s > _HEALTHY_S:
                    pause_s = _BACKOFF_MIN_S
                log.exception("%s failed; it starts again in %g s", name, pause_s)
            await self._clock.sleep(pause_s)
            pause_s = min(pause_s * 2, _BACKOFF_MAX_S)
