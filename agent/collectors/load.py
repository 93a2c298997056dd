"""The load averages."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from .tick import Block, gauge

LOAD: Final = gauge(
    "system_load",
    "Threads that ran, waited for a core or (on Linux) for a disk, averaged over 1m, 5m, 15m.",
)
PERIODS: Final = ("1m", "5m", "15m")


class LoadReader:
    name = "load"

    def __init__(
        self, getloadavg: Callable[[], tuple[float, float, float]] = os.getloadavg
    ) -> None:
        self._getloadavg = getloadavg

    async def read(self) -> list[Block]:
        # The kernel has two decimals; libc's doubles carry the noise of its binary fractions.
        values = [round(value, 2) for value in self._getloadavg()]
        return [Block("load", values, lambda: [(LOAD, {"period": period}) for period in PERIODS])]
