"""What the kernel counts since boot: CPU times by core, switches, interrupts, forks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

#: The columns of ``/proc/stat`` under psutil's names, in the kernel's order (proc(5)).
CPU_TYPES: Final = (
    "user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice",
)  # fmt: skip
TOTAL: Final = "total"
#: Numbers of the file under the words they have there.
_WORDS: Final = frozenset(
    {b"ctxt", b"intr", b"softirq", b"btime", b"processes", b"procs_running", b"procs_blocked"}
)


@dataclass(frozen=True, slots=True)
class Stat:
    """
    One reading.

    Attributes:
        types: Names of the columns of ``cores``.
        cores: Seconds by type, for each core that is online, under its number, and ``total``.
        numbers: ``ctxt``, ``intr``, ``softirq``, ``btime`` and, on Linux only, ``processes``
            (forks), ``procs_running``, ``procs_blocked``.
    """

    types: tuple[str, ...]
    cores: Mapping[str, tuple[float, ...]]
    numbers: Mapping[str, float]


ReadStat = Callable[[], Stat]


def parse_stat(data: bytes, ticks_per_s: int) -> Stat:
    """Read the content of Linux' ``/proc/stat``."""
    cores: dict[str, tuple[float, ...]] = {}
    numbers: dict[str, float] = {}
    for line in data.splitlines():
        word, _, rest = line.partition(b" ")
        if word.startswith(b"cpu"):
            seconds = tuple([int(ticks) / ticks_per_s for ticks in rest.split()])
            cores[word[3:].decode() or TOTAL] = seconds[: len(CPU_TYPES)]
        elif word in _WORDS:
            numbers[word.decode()] = int(rest.partition(b" ")[0])
    return Stat(CPU_TYPES[: min(map(len, cores.values()))], cores, numbers)


def read_proc_stat(path: Path = Path("/proc/stat")) -> Stat:
    """
    Read it all at once, which psutil would do in three readings; the file is slow to make on hosts
    with many interrupts. Cores keep their numbers when others are offline, as they don't in psutil.
    """
    return parse_stat(path.read_bytes(), os.sysconf("SC_CLK_TCK"))


def read_psutil_stat() -> Stat:
    """Read by psutil, for systems without ``/proc/stat``."""
    total = psutil.cpu_times()
    cores = {str(number): tuple(times) for number, times in enumerate(psutil.cpu_times(True))}
    counts = psutil.cpu_stats()
    return Stat(
        total._fields,
        {TOTAL: tuple(total), **cores},
        {
            "ctxt": counts.ctx_switches,
            "intr": counts.interrupts,
            "softirq": counts.soft_interrupts,
            "btime": psutil.boot_time(),
        },
    )


def default_stat_reader() -> ReadStat:
    return read_proc_stat if sys.platform == "linux" else read_psutil_stat
