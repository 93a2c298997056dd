"""
Start after kill -9: index and an hour of journal back into memory.

``python benchmarks/storage_recovery.py [--series 10000 100000] [--ticks 360]``: the files of a
store that never sealed are opened by a process of their own; then the seal that follows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from storage_append import INTERVAL_MS, START_MS, BenchClock, register, samples_of, settings_of

from tachograph.storage.store import Store


async def leave_behind(path: Path, series: int, ticks: int) -> int:
    """Fill a store, commit everything, copy its files as a kill would leave them."""
    values = samples_of(series, ticks)
    work = path / "work"
    clock = BenchClock(START_MS)
    store = Store(settings_of(work, series), clock)
    await store.open()
    refs = register(store, series)
    for row in values:
        clock.time_ms += INTERVAL_MS
        store.group("bench").append(clock.time_ms, refs, row)
        await store.flush()
    shutil.copytree(work, path / "left", ignore=shutil.ignore_patterns("*-shm", "lock"))
    await store.close()
    shutil.rmtree(work)
    return clock.time_ms


def memory_kib(field: str) -> int:
    """Read a field of this process's status; ``ru_maxrss`` would be that of our parent."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1])


async def recover(path: Path, series: int, now_ms: int) -> None:
    """Open what was left, and print what it took."""
    imported = memory_kib("VmRSS")
    started, cpu = time.perf_counter(), time.process_time()
    store = Store(settings_of(path, series), BenchClock(now_ms))
    await store.open()
    opened, opened_cpu = time.perf_counter() - started, time.process_time() - cpu
    rss = memory_kib("VmHWM") - imported
    started, cpu = time.perf_counter(), time.process_time()
    await store.seal()
    sealed, sealed_cpu = time.perf_counter() - started, time.process_time() - cpu
    print(
        json.dumps(
            {
                "samples": store.stats.recovered_samples,
                "open": opened,
                "open_cpu": opened_cpu,
                "mib": rss / 1024,
                "seal": sealed,
                "seal_cpu": sealed_cpu,
            }
        )
    )
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--series", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--ticks", type=int, default=360)
    parser.add_argument("--recover", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--now", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.recover is not None:
        asyncio.run(recover(args.recover, args.series[0], args.now))
        return

    heads = {"samples": 12, "open s": 9, "CPU s": 8, "M/s": 7, "MiB": 7, "seal s": 9, "CPU": 8}
    print(" " * 18 + "".join(f"{name:>{width}}" for name, width in heads.items()))
    for series in args.series:
        with tempfile.TemporaryDirectory() as root:
            now_ms = asyncio.run(leave_behind(Path(root), series, args.ticks))
            command = [sys.executable, __file__, "--recover", f"{root}/left"]
            command += ["--series", str(series), "--now", str(now_ms)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        print(
            f"{series:>11,} series{found['samples']:>12,}{found['open']:>9.2f}"
            f"{found['open_cpu']:>8.2f}{found['samples'] / found['open'] / 1e6:>7.1f}"
            f"{found['mib']:>7.0f}{found['seal']:>9.2f}{found['seal_cpu']:>8.2f}"
        )


if __name__ == "__main__":
    main()
