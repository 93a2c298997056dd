"""
CPU time and bytes of appending to storage/store.py: head, journal, commits.

``python benchmarks/storage_append.py [--series 2000 10000] [--ticks 360] [--dir DIR]``: one tick of
all series every 10 s, committed after each tick, after every second one, or as points with times of
their own; the second line of a size has every commit synced. What is sealed by the hour is counted
on its own.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from series import FloatArray, IntArray, mix

from tachograph.config.settings import StorageLimits, StorageSettings
from tachograph.storage.clock import SystemClock
from tachograph.storage.frame import RefArray
from tachograph.storage.model import Kind, Labels
from tachograph.storage.store import Store

START_MS = 1_767_571_200_000
INTERVAL_MS = 10_000


class BenchClock(SystemClock):
    """Wall time by the ticks, so that an hour passes in a second."""

    def __init__(self, now_ms: int) -> None:
        self.time_ms = now_ms

    def now_ms(self) -> int:
        return self.time_ms


def samples_of(series: int, ticks: int) -> FloatArray:
    """``[ticks, series]`` of the generated mix: 2,000 series, then those moved up, and so on."""
    rows = np.concatenate([rows for _, rows in mix(min(series, 2_000), ticks)])
    # Not plain repeats: zlib would find them, as it never could in earnest.
    lift = np.arange(series) // len(rows) * 137.0
    return np.ascontiguousarray((np.resize(rows, (series, ticks)) + lift[:, None]).T)


def settings_of(path: Path, series: int, *, full: bool = False) -> StorageSettings:
    return StorageSettings(
        path=path,
        durability="full" if full else "normal",
        limits=StorageLimits(series=max(series, 100_000), series_per_metric=max(series, 20_000)),
    )


def register(store: Store, series: int, name: str = "bench") -> RefArray:
    """Make series with seven labels in one group; return their numbers."""
    group = store.group(name)
    return np.array(
        [
            group.ref(
                Labels.of(
                    {
                        "job": "node",
                        "instance": f"10.0.{i % 40}.{i % 7}:9100",
                        "device": f"dev{i}",
                        "mode": ("user", "system", "idle")[i % 3],
                        "zone": f"z{i % 5}",
                    },
                    f"metric_{i % 100}_total",
                ),
                Kind.COUNTER,
            )
            for i in range(series)
        ],
        np.uint32,
    )


@dataclass(frozen=True, slots=True)
class Cost:
    samples: int
    append_cpu_s: float
    seal_cpu_s: float
    wall_s: float
    journal_bytes: int


async def measure(
    path: Path, values: FloatArray, *, full: bool = False, per_flush: int = 1, points: bool = False
) -> Cost:
    """Append all ticks, then seal; time the two apart."""
    ticks, series = values.shape
    clock = BenchClock(START_MS)
    store = Store(settings_of(path, series, full=full), clock)
    await store.open()
    refs = register(store, series)
    await store.flush()
    group = store.group("bench")
    rng = np.random.default_rng(4)
    started, cpu = time.perf_counter(), time.process_time()
    for tick, row in enumerate(values):
        clock.time_ms += INTERVAL_MS
        if points:
            at: IntArray = clock.time_ms - rng.integers(0, INTERVAL_MS, series)
            store.append_points(refs, at, row)
        else:
            group.append(clock.time_ms, refs, row)
        if tick % per_flush == per_flush - 1:
            await store.flush()
    await store.flush()
    appended = time.process_time()
    wall_s = time.perf_counter() - started
    journal_bytes = store.stats.journal_bytes
    await store.seal()
    sealed = time.process_time()
    await store.close()
    return Cost(ticks * series, appended - cpu, sealed - appended, wall_s, journal_bytes)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--series", type=int, nargs="+", default=[2_000, 10_000])
    parser.add_argument("--ticks", type=int, default=360)
    parser.add_argument("--dir", type=Path, default=None, help="where to put the database")
    args = parser.parse_args()

    print(
        f"{'':38}{'CPU s per M':>24}{'M samples/s':>13}{'journal B':>11}\n"
        f"{'':38}{'append':>12}{'seal':>12}{'wall':>13}{'a sample':>11}"
    )
    for series in args.series:
        values = samples_of(series, args.ticks)
        for name, options in {
            "a commit a tick": {},
            "a commit every 2 ticks": {"per_flush": 2},
            "a commit a tick, synced": {"full": True},
            "points, a commit every 10 s": {"points": True},
        }.items():
            with tempfile.TemporaryDirectory(dir=args.dir) as root:
                cost = asyncio.run(measure(Path(root), values, **options))  # type: ignore[arg-type]
            millions = cost.samples / 1e6
            print(
                f"{series:>7,} series, {name:<22}{cost.append_cpu_s / millions:>12.3f}"
                f"{cost.seal_cpu_s / millions:>12.3f}{millions / cost.wall_s:>13.2f}"
                f"{cost.journal_bytes / cost.samples:>11.2f}"
            )


if __name__ == "__main__":
    main()
