"""The kernel's books: CPU, context switches, interrupts, processes, open files, boot time."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

from .cpu import CpuUsage
from .proc_stat import ReadStat, default_stat_reader
from .tick import Block, Family, counter, gauge

#: Families by the kernel's word in ``/proc/stat``.
_NUMBERS: Final[dict[str, Family]] = {
    "ctxt": counter("context_switches_total", "Context switches since boot."),
    "intr": counter("interrupts_total", "Interrupts served since boot."),
    "softirq": counter("soft_interrupts_total", "Software interrupts served since boot."),
    "btime": gauge("boot_time_seconds", "When the system was booted, in Unix time."),
    "processes": counter("forks_total", "Processes and threads started since boot."),
    "procs_running": gauge("processes_running", "Threads that run or wait for a core."),
    "procs_blocked": gauge("processes_blocked", "Threads that wait for a disk."),
}
PROCESSES: Final = gauge("processes", "Processes that exist.")
FILES_OPEN: Final = gauge("file_descriptors_allocated", "Open files of the whole system.")
FILES_MAX: Final = gauge("file_descriptors_max", "Open files that the system allows.")


def count_processes() -> int:
    """Count the entries of ``/proc`` that are processes; elsewhere psutil's list."""
    if sys.platform == "linux":
        return sum(map(str.isdigit, os.listdir("/proc")))
    return len(psutil.pids())


class KernelReader:
    """
    Args:
        cpu: Whether to report CPU times as well; they come with the same reading.
        file_nr: Linux' file of open files; nothing is reported where there is none.
    """

    name = "kernel"

    def __init__(
        self,
        *,
        cpu: bool = True,
        read_stat: ReadStat | None = None,
        count_processes: Callable[[], int] = count_processes,
        file_nr: Path = Path("/proc/sys/fs/file-nr"),
    ) -> None:
        self._cpu = CpuUsage() if cpu else None
        self._read_stat = read_stat or default_stat_reader()
        self._count_processes = count_processes
        self._file_nr = file_nr

    async def read(self) -> list[Block]:
        stat = self._read_stat()
        blocks = self._cpu.blocks(stat) if self._cpu else []
        words = [word for word in _NUMBERS if word in stat.numbers]
        blocks.append(
            Block(
                ("kernel", tuple(words)),
                [*(stat.numbers[word] for word in words), self._count_processes()],
                lambda: [*((_NUMBERS[word], {}) for word in words), (PROCESSES, {})],
            )
        )
        return blocks + self._files()

    def _files(self) -> list[Block]:
        try:
            allocated, _, limit = self._file_nr.read_bytes().split()
        except FileNotFoundError:
            return []
        return [
            Block(
                "files", [int(allocated), int(limit)], lambda: [(FILES_OPEN, {}), (FILES_MAX, {})]
            )
        ]
