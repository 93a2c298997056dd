"""How busy the processors are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .proc_stat import TOTAL, Stat
from .tick import Block, counter, gauge

USAGE: Final = gauge(
    "cpu_usage_percent",
    "Share of time since the pass before that a core (core=total: all cores) spent in each type of"
    " work, 0 to 100. As with psutil, guest is contained in user and guest_nice in nice.",
)
SECONDS: Final = counter(
    "cpu_seconds_total",
    "Time that a core has spent in each type of work since boot; guest is contained in user.",
)
#: Already counted within user and nice.
_CONTAINED: Final = frozenset({"guest", "guest_nice"})


def percentages(
    types: Sequence[str], before: Sequence[float], after: Sequence[float]
) -> list[float] | None:
    """
    Return the share of each type in the time between two readings, in percent.

    Counters that ran backwards (the kernel's idle and iowait do at times) count as unchanged. Two
    decimals are finer than the kernel's ticks and, unlike all sixteen, compress well.

    Returns:
        ``None`` if no time has passed.
    """
    deltas = [max(0.0, b - a) for a, b in zip(before, after, strict=True)]
    elapsed = sum(
        delta for name, delta in zip(types, deltas, strict=True) if name not in _CONTAINED
    )
    if elapsed <= 0:
        return None
    return [round(100 * delta / elapsed, 2) for delta in deltas]


class CpuUsage:
    """
    Turns readings of the counters into blocks.

    The first reading gives counters only: shares need a reading before, and shares since boot
    would look like a measurement of now. The same holds for a core that came online.
    """

    def __init__(self) -> None:
        self._before: Stat | None = None
        self._percent: dict[str, list[float]] = {}

    def blocks(self, stat: Stat) -> list[Block]:
        before, self._before = self._before, stat
        types = stat.types
        if before is not None and before.types == types:
            self._percent = self._percentages(before, stat)
        usage = [(core, type_) for core in self._percent for type_ in types]
        cores = [core for core in stat.cores if core != TOTAL]
        return [
            Block(
                ("cpu_usage", types, tuple(self._percent)),
                [value for values in self._percent.values() for value in values],
                lambda: [(USAGE, {"core": core, "type": type_}) for core, type_ in usage],
            ),
            Block(
                ("cpu_seconds", types, tuple(cores)),
                [value for core in cores for value in stat.cores[core]],
                lambda: [
                    (SECONDS, {"core": core, "type": type_}) for core in cores for type_ in types
                ],
            ),
        ]

    def _percentages(self, before: Stat, stat: Stat) -> dict[str, list[float]]:
        shares: dict[str, list[float]] = {}
        for core, after in stat.cores.items():
            if core not in before.cores:
                continue
            # Where no time has passed, what was true last is still the best answer.
            share = percentages(stat.types, before.cores[core], after) or self._percent.get(core)
            if share is not None:
                shares[core] = share
        return shares
