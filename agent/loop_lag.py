"""How late the event loop is: the first sign of anything that blocks it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

#: Upper bounds of the histogram, in seconds.
BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
#: Often enough to meet a block of 100 ms, seldom enough to cost nothing (10 wake-ups a second are
#: 0.03% of a core).
_INTERVAL_S: Final = 0.1


@dataclass(slots=True)
class LoopLag:
    """Delays: ``counts[i]`` of them lie above ``BOUNDS_S[i - 1]`` and up to ``BOUNDS_S[i]``."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0
    max_s: float = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + _INTERVAL_S
            await asyncio.sleep(_INTERVAL_S)
            self.note(max(0.0, loop.time() - due_s))

    def note(self, lag_s: float) -> None:
        place = next((i for i, bound in enumerate(BOUNDS_S) if lag_s <= bound), len(BOUNDS_S))
        self.counts[place] += 1
        self.sum_s += lag_s
        self.max_s = max(self.max_s, lag_s)
