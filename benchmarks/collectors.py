"""
What a steady pass of the built-in collectors costs: CPU of the whole process and of the event
loop's thread, beside the bare psutil calls for the same numbers.

Run: python benchmarks/collectors.py [passes]
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable

import numpy as np
import psutil

from tachograph.agent.collectors.connections import default_connection_counter
from tachograph.agent.collectors.disk_usage import DiskUsageReader
from tachograph.agent.collectors.host import HostSource, Reader, host_readers
from tachograph.agent.collectors.offload import Offload
from tachograph.agent.collectors.process import ProcessSource, own_process
from tachograph.agent.collectors.process_table import find_pids
from tachograph.agent.collectors.tick import Block, TickWriter, gauge
from tachograph.config.settings import ProcessWatch, SystemSettings
from tachograph.storage.frame import FloatArray, IntArray, RefArray
from tachograph.storage.model import Kind, Labels, Metadata


class CountingSink:
    """Takes everything and keeps nothing, so that only the collectors are measured."""

    def __init__(self) -> None:
        self.refs: dict[Labels, int] = {}
        self.samples = 0

    def group(self, name: str) -> CountingSink:
        return self

    def describe(self, family: str, metadata: Metadata) -> None:
        return None

    def ref(self, labels: Labels, kind: Kind = Kind.UNKNOWN) -> int:
        return self.refs.setdefault(labels, len(self.refs) + 1)

    def append(self, ts_ms: int, refs: RefArray, values: FloatArray) -> None:
        self.samples = len(refs)

    def append_points(self, refs: RefArray, ts_ms: IntArray, values: FloatArray) -> None:
        return None

    async def committed(self) -> None:
        return None


async def measure(once: Callable[[], Awaitable[object]], passes: int) -> tuple[float, float, float]:
    """Return CPU ms a pass of the process and of this thread, and the latter's longest pass."""
    for _ in range(5):
        await once()
    worst = 0.0
    process, thread = time.process_time(), time.thread_time()
    for _ in range(passes):
        began = time.thread_time()
        await once()
        worst = max(worst, time.thread_time() - began)
    total = time.process_time() - process
    loop = time.thread_time() - thread
    return total * 1000 / passes, loop * 1000 / passes, worst * 1000


def row(name: str, series: int, figures: tuple[float, float, float]) -> None:
    total, loop, worst = figures
    print(f"{name:42s}{series:8d}{total:10.3f}{loop:10.3f}{worst:10.3f}")


async def bare_psutil() -> None:
    psutil.cpu_times(percpu=True)
    psutil.cpu_stats()
    psutil.boot_time()
    psutil.virtual_memory()
    psutil.swap_memory()
    psutil.disk_io_counters(perdisk=True)
    psutil.net_io_counters(pernic=True)
    os.getloadavg()
    psutil.pids()
    for partition in psutil.disk_partitions():
        psutil.disk_usage(partition.mountpoint)
    psutil.sensors_temperatures()


async def main(passes: int) -> None:
    cores, processes = os.cpu_count(), len(psutil.pids())
    print(f"{cores} cores, {processes} processes, {passes} passes; CPU ms a pass\n")
    print(f"{'':42s}{'series':>8s}{'process':>10s}{'loop':>10s}{'worst':>10s}")
    row("the same by bare psutil calls", 0, await measure(bare_psutil, passes))

    sink = CountingSink()
    host = HostSource(sink, SystemSettings(), namespace="backend")
    figures = await measure(lambda: host.collect(0), passes)
    row("system, all of it", sink.samples, figures)
    await host.close()

    offload = Offload("benchmark")
    for reader in host_readers(SystemSettings(), offload, 1.0):
        await show_reader(reader, passes)
    empty = DiskUsageReader(offload, list_mounts=lambda: [])
    row("  of disk_usage: a trip to a thread", 0, await measure(empty.read, passes))
    offload.close()

    own = ProcessSource(sink, own_process(), namespace="backend")
    figures = await measure(lambda: own.collect(0), passes)
    row("own process", sink.samples, figures)
    await own.close()

    count = default_connection_counter()

    async def connections() -> None:
        count([os.getpid()])

    few = max(1, passes // 10)
    row("  of it: connections, once a minute", 9, await measure(connections, few))

    mine = psutil.Process().name()
    named = ProcessWatch(name="named", process_name=mine)
    row("search by name, once a minute", 0, await measure(lambda: search(named), few))

    series = [(gauge("value", ""), {"number": str(number)}) for number in range(1_000)]
    values = np.random.default_rng(0).random(1_000).tolist()
    writer = TickWriter(sink, "wide")
    block = Block("wide", values, lambda: series)

    async def write() -> None:
        writer.write(0, [block])

    row("TickWriter alone", 1_000, await measure(write, passes))


async def show_reader(reader: Reader, passes: int) -> None:
    blocks = await reader.read()
    blocks = await reader.read()
    series = sum(len(block.values) for block in blocks)
    row(f"  {reader.name}", series, await measure(reader.read, passes))


async def search(watch: ProcessWatch) -> None:
    find_pids(watch)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 300))
