"""
CPU time to seal and compact a day of series, and to read tiers, from a real store on disk.

``python benchmarks/compaction.py [--rows 2000] [--days 30]``
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from series import IntArray, mix

from tachograph.aggregation.compactor import Compactor
from tachograph.aggregation.rollup import Aggregate, Tier
from tachograph.aggregation.tiers import read_tier
from tachograph.config.settings import RetentionSettings, StorageSettings
from tachograph.storage.keys import DAY_MS
from tachograph.storage.model import Kind, Labels
from tachograph.storage.select import Querier
from tachograph.storage.store import Store

_T = TypeVar("_T")
_START_MS = 1_767_225_600_000  # a UTC midnight
_GROUP_ROWS = 200


class _Clock:
    """Stands where it is put, so that days pass at once."""

    def __init__(self) -> None:
        self.ms = _START_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def is_synchronised(self) -> bool | None:
        return None


async def _timed(work: Callable[[], Awaitable[_T]]) -> tuple[float, float, _T]:
    cpu, wall = time.process_time(), time.monotonic()
    result = await work()
    return time.process_time() - cpu, time.monotonic() - wall, result


async def _fill(store: Store, clock: _Clock, rows: int, days: int) -> tuple[float, float]:
    """Collect and compact; return the CPU seconds of the seals and of the compactions, a day."""
    samples = [(kind, values) for kind, values in mix(rows, 8_640)]
    members = [
        (values[row], kind.name, Kind.COUNTER if kind.is_counter else Kind.GAUGE)
        for kind, values in samples
        for row in range(len(values))
    ]
    # As sources have them: kinds side by side.
    members = [members[at] for at in np.random.default_rng(5).permutation(len(members))]
    groups = []
    for low in range(0, len(members), _GROUP_ROWS):
        part = members[low : low + _GROUP_ROWS]
        group = store.group(f"g{low}")
        numbers = [
            group.ref(Labels.of({"n": str(low + n)}, name.replace(" ", "_")), kind)
            for n, (_, name, kind) in enumerate(part)
        ]
        values = np.array([row for row, _, _ in part])
        groups.append((group, np.array(numbers, np.uint32), values))
    sealing = compacting = 0.0
    for day in range(days):
        for hour in range(24):
            ticks: IntArray = np.arange(hour * 360 + 1, hour * 360 + 361)
            clock.ms = _START_MS + day * DAY_MS + int(ticks[-1]) * 10_000
            for group, refs, values in groups:
                cells = np.ascontiguousarray(values[:, ticks - 1].T)
                group.append_ticks(_START_MS + day * DAY_MS + ticks * 10_000, refs, cells)
            await store.flush()
            cpu, _, _ = await _timed(store.seal)
            sealing += cpu
        clock.ms += 300_000
        cpu, _, _ = await _timed(Compactor(store, rest=0).run_once)
        compacting += cpu
    return sealing / days, compacting / days


async def _read(store: Store, tier: Tier, what: Aggregate, rows: int, days: float) -> None:
    refs = np.arange(1, rows + 1, dtype=np.uint32)
    end_ms = store.clock.now_ms()
    start_ms = end_ms - round(days * DAY_MS)

    def job(querier: Querier) -> int:
        found = read_tier(querier, refs, tier, what, start_ms, end_ms)
        return sum(len(series.values) for series in found)

    best = (float("inf"), float("inf"), 0)
    for _ in range(3):
        best = min(best, await _timed(lambda: store.read(job)))
    cpu, wall, points = best
    name = f"{tier.label} {what} of {rows} series, {days:g} days"
    print(f"{name:42} {cpu * 1e3:8.1f} ms CPU {wall * 1e3:8.1f} ms {points:>9} points")


async def _run(rows: int, days: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        clock = _Clock()
        forever = RetentionSettings(raw_ms=9_000 * DAY_MS)
        settings = StorageSettings(path=Path(root) / "one", ballast_bytes=0, retention=forever)
        store = Store(settings, clock)
        await store.open()
        sealing, compacting = await _fill(store, clock, rows, 1)
        samples = rows * 8_640
        print(f"a day of {rows} series at 10 s: seal {sealing:.2f} CPU s, compact {compacting:.2f}")
        print(f"  {(sealing + compacting) / samples * 1e9:.0f} ns a sample")
        for table in ("chunk", "rollup"):
            sql = f"SELECT sum(length(data)) FROM {table}"
            size = await store.writer.run(lambda c, sql=sql: c.execute(sql).fetchone()[0])  # type: ignore[misc]
            print(f"  {table}: {size / samples:.3f} bytes a sample")
        clock.ms = _START_MS + DAY_MS
        for tier in Tier:
            await _read(store, tier, Aggregate.AVG, rows, 1)
        await _read(store, Tier.M5, Aggregate.INCREASE, rows, 0.25)
        await store.close()

        store = Store(
            StorageSettings(path=Path(root) / "two", ballast_bytes=0, retention=forever), clock
        )
        clock.ms = _START_MS
        await store.open()
        await _fill(store, clock, 50, days)
        clock.ms = _START_MS + days * DAY_MS
        for what in (Aggregate.AVG, Aggregate.INCREASE):
            for tier in Tier:
                await _read(store, tier, what, 40, days)
        await _read(store, Tier.H1, Aggregate.AVG, 1, days)
        # And with an open day behind.
        ticks: IntArray = np.arange(1, 2_161) * 10_000 + clock.ms
        group = store.group("g0")
        clock.ms = int(ticks[-1])
        group.append_ticks(ticks, np.arange(1, 41, dtype=np.uint32), np.ones((2_160, 40)))
        print("with 6 hours of an open day:")
        await _read(store, Tier.M1, Aggregate.AVG, 40, 1 / 24)
        await _read(store, Tier.M1, Aggregate.INCREASE, 40, 1 / 24)
        await _read(store, Tier.H1, Aggregate.AVG, 40, 7)
        await store.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--days", type=int, default=30)
    args = parser.parse_args()
    asyncio.run(_run(args.rows, args.days))


if __name__ == "__main__":
    main()
