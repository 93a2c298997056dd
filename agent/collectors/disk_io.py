"""What disks have read and written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import psutil

from .tick import Block, Family, counter

#: Devices in memory, loops over files (counted at the disk below) and drives for removable discs.
_NO_DISKS: Final = re.compile(r"(loop|ram|zram|fd|sr)\d+")

#: Family and divisor of psutil's fields; those that a system doesn't have are left out.
_COLUMNS: Final[tuple[tuple[str, Family, int], ...]] = (
    ("read_bytes", counter("disk_read_bytes_total", "Read since boot."), 1),
    ("write_bytes", counter("disk_written_bytes_total", "Written since boot."), 1),
    ("read_count", counter("disk_reads_completed_total", "Reads completed since boot."), 1),
    ("write_count", counter("disk_writes_completed_total", "Writes completed since boot."), 1),
    (
        "read_merged_count",
        counter("disk_reads_merged_total", "Reads joined with a neighbour since boot."),
        1,
    ),
    (
        "write_merged_count",
        counter("disk_writes_merged_total", "Writes joined with a neighbour since boot."),
        1,
    ),
    (
        "read_time",
        counter("disk_read_time_seconds_total", "Time spent by all reads together since boot."),
        1000,
    ),
    (
        "write_time",
        counter("disk_write_time_seconds_total", "Time spent by all writes together since boot."),
        1000,
    ),
    (
        "busy_time",
        counter("disk_io_time_seconds_total", "Time in which the disk was busy, since boot."),
        1000,
    ),
)


def read_counters() -> Mapping[str, Any]:
    """psutil's counters by device, as the kernel has them: resets are PromQL's business."""
    return psutil.disk_io_counters(perdisk=True, nowrap=False) or {}


def is_disk(device: str) -> bool:
    """Whether it is a disk, RAID or volume; not a partition (its disk counts it) nor a loop."""
    if _NO_DISKS.fullmatch(device):
        return False
    # In sysfs, the slash of names such as cciss/c0d0 is an exclamation mark.
    return not os.path.isdir("/sys/block") or os.path.exists(
        f"/sys/block/{device.replace('/', '!')}"
    )


class DiskIoReader:
    name = "disk_io"

    def __init__(
        self,
        *,
        read_counters: Callable[[], Mapping[str, Any]] = read_counters,
        is_disk: Callable[[str], bool] = is_disk,
    ) -> None:
        self._read_counters, self._is_disk = read_counters, is_disk
        self._known: dict[str, bool] = {}  # of the devices of the last pass

    async def read(self) -> list[Block]:
        counters = self._read_counters()
        known = self._known
        self._known = {
            name: known[name] if name in known else self._is_disk(name) for name in counters
        }
        disks = tuple(sorted(name for name, is_wanted in self._known.items() if is_wanted))
        if not disks:
            return []
        fields = counters[disks[0]]._fields
        columns = [column for column in _COLUMNS if column[0] in fields]
        return [
            Block(
                ("disk_io", disks),
                [
                    getattr(counters[disk], field) / divisor
                    for disk in disks
                    for field, _, divisor in columns
                ],
                lambda: [(family, {"device": disk}) for disk in disks for _, family, _ in columns],
            )
        ]
