"""
Bytes a sample on disk: everything in the file counted, by table.

``python benchmarks/storage_size.py [--series 2000] [--hours 24] [--host TICKS]``: the generated mix
at 10 s, sealed by the hour, then compacted with its rollups; with ``--host`` also what psutil reads
of this machine, TICKS times a second, sealed once.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import tempfile
from pathlib import Path

import numpy as np
from host import sample_host
from series import FloatArray
from storage_append import INTERVAL_MS, START_MS, BenchClock, register, samples_of, settings_of

from tachograph.aggregation.compactor import Compactor
from tachograph.storage.store import Store

HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def by_table(connection: sqlite3.Connection) -> dict[str, int]:
    """Bytes of the pages of each table; of the whole file only, where SQLite has no `dbstat`."""
    try:
        rows = connection.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name")
        found = {str(name): int(size) for name, size in rows}
    except sqlite3.OperationalError:
        found = {}
    pages, free, size = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return {**found, "free": free * size, "file": pages * size}


def show(title: str, sizes: dict[str, int], samples: int) -> None:
    used = sizes["file"] - sizes["free"]
    rollup = sizes.get("rollup", 0)
    print(f"\n{title}: {samples:,} samples")
    print(f"  {'all but free pages':<22}{used / samples:>8.3f} B a sample {used:>14,} B")
    if rollup > 4096:
        print(f"  {'without rollups':<22}{(used - rollup) / samples:>8.3f}")
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        if name not in ("file", "free") and size > 4096:
            print(f"    {name:<20}{size / samples:>8.3f}{'':12}{size:>14,}")


async def generated(series: int, hours: int, jitter_ms: int) -> None:
    values = samples_of(series, hours * HOUR_MS // INTERVAL_MS)
    rng = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as root:
        clock = BenchClock(START_MS)
        store = Store(settings_of(Path(root), series), clock)
        await store.open()
        refs = register(store, series)
        group = store.group("bench")
        for tick, row in enumerate(values, 1):
            clock.time_ms = START_MS + tick * INTERVAL_MS
            late = int(rng.integers(0, jitter_ms)) if jitter_ms else 0
            group.append(clock.time_ms - late, refs, row)
            if not clock.time_ms % HOUR_MS:
                await store.seal()
        await store.seal()
        sizes = await store.writer.run(by_table)
        jitter = f", {jitter_ms} ms jitter" if jitter_ms else ""
        show(f"{series} series, {hours} h at 10 s{jitter}, by the hour", sizes, values.size)
        clock.time_ms = START_MS + DAY_MS + 1
        if await Compactor(store, rest=0).run_once():
            show("the same, compacted", await store.writer.run(by_table), values.size)
        await store.close()


async def of_host(values: FloatArray) -> None:
    series, ticks = values.shape
    with tempfile.TemporaryDirectory() as root:
        clock = BenchClock(START_MS)
        store = Store(settings_of(Path(root), series), clock)
        await store.open()
        refs = register(store, series)
        for row in values.T:
            clock.time_ms += 1_000
            store.group("bench").append(clock.time_ms, refs, row)
        await store.seal()
        changing = int((np.ptp(values, axis=1) > 0).sum())
        show(
            f"this host: {series} series ({changing} change), {ticks} ticks, sealed once",
            await store.writer.run(by_table),
            values.size,
        )
        await store.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--series", type=int, default=2_000)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--host", type=int, default=0, metavar="TICKS")
    args = parser.parse_args()
    asyncio.run(generated(args.series, args.hours, 0))
    asyncio.run(generated(args.series, args.hours, 5))
    if args.host:
        asyncio.run(of_host(sample_host(args.host, 1.0)))


if __name__ == "__main__":
    main()
