"""The only place that reads a clock; everything else is handed one of these."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from .kernel_clock import is_synchronised


class Clock(Protocol):
    """Wall time to stamp with, monotonic time to schedule with."""

    def now_ms(self) -> int:
        """Return Unix time in milliseconds, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds that never run backwards, from an arbitrary start."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Sleep; zero or less only yields to the event loop."""
        ...

    def is_synchronised(self) -> bool | None:
        """Tell whether the wall time is kept right (NTP, PTP); ``None`` if nobody can say."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def is_synchronised(self) -> bool | None:
        return is_synchronised()
