"""
Reading samples through storage/select.py.

``python benchmarks/storage_read.py [--series 2000]``: a day at 10 s, by the hour and compacted, and
an hour in the head; CPU time of the reading thread, the best of three runs.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from storage_append import INTERVAL_MS, START_MS, BenchClock, register, samples_of, settings_of

from tachograph.aggregation.compactor import Compactor
from tachograph.storage.frame import RefArray
from tachograph.storage.select import Querier
from tachograph.storage.store import Store

HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def decode(querier: Querier, refs: RefArray, min_ms: int, max_ms: int) -> tuple[int, float, float]:
    """Return samples, CPU seconds of this thread, and wall seconds."""
    started, cpu = time.perf_counter(), time.thread_time()
    samples = sum(frame.values.size for frame in querier.frames(refs, min_ms, max_ms))
    return samples, time.thread_time() - cpu, time.perf_counter() - started


async def show(title: str, store: Store, refs: RefArray, min_ms: int, max_ms: int) -> None:
    # Not yet remembered, then remembered: a dashboard asks again and again.
    runs = [
        await store.read(lambda querier: decode(querier, refs, min_ms, max_ms)) for _ in range(4)
    ]
    samples, first_s, _ = runs[0]
    best = min(cpu for _, cpu, _ in runs[1:])
    wall = min(wall for _, _, wall in runs[1:])
    print(
        f"{title:<44}{samples:>12,}{first_s * 1000:>10.1f}{best * 1000:>10.2f}"
        f"{wall * 1000:>10.2f}{samples / max(best, 1e-9) / 1e6:>9.0f}"
    )


async def measure(series: int) -> None:
    values = samples_of(series, 25 * HOUR_MS // INTERVAL_MS)
    with tempfile.TemporaryDirectory() as root:
        clock = BenchClock(START_MS)
        store = Store(settings_of(Path(root), series), clock)
        await store.open()
        refs = register(store, series)
        for row in values:
            clock.time_ms += INTERVAL_MS
            store.group("bench").append(clock.time_ms, refs, row)
            if not clock.time_ms % HOUR_MS and clock.time_ms < START_MS + 25 * HOUR_MS:
                await store.seal()
        day = START_MS + 1, START_MS + DAY_MS
        hour = START_MS + 10 * HOUR_MS + 1, START_MS + 11 * HOUR_MS
        last = START_MS + DAY_MS + 1, clock.time_ms
        print(f"{'':<44}{'samples':>12}{'first ms':>10}{'CPU ms':>10}{'wall ms':>10}{'M/s':>9}")
        await show(f"{series} series, an hour in the head", store, refs, *last)
        await show("one series, an hour in the head", store, refs[:1], *last)
        await show(f"{series} series, a day by the hour", store, refs, *day)
        await show(f"{series} series, an hour of it", store, refs, *hour)
        await show("one series, a day by the hour", store, refs[:1], *day)
        assert await Compactor(store, rest=0).run_once()
        await show(f"{series} series, the day compacted", store, refs, *day)
        await show(f"{series} series, an hour of it", store, refs, *hour)
        await show("one series, the day compacted", store, refs[:1], *day)
        await store.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--series", type=int, default=2_000)
    asyncio.run(measure(parser.parse_args().series))


if __name__ == "__main__":
    main()
