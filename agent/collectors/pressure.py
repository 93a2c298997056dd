"""Pressure stall information: how long work has stood still for want of CPU, memory or disk."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .tick import Block, counter

PRESSURE: Final = counter(
    "pressure_seconds_total",
    "Time in which work stood still for want of a resource since boot. kind=some: at least one"
    " task waited; kind=full: all did.",
)
RESOURCES: Final = ("cpu", "io", "irq", "memory")


class PressureReader:
    """Reads Linux' ``/proc/pressure``; reports nothing where the kernel doesn't keep it."""

    name = "pressure"

    def __init__(self, folder: Path = Path("/proc/pressure")) -> None:
        self._files = [(resource, str(folder / resource)) for resource in RESOURCES]

    async def read(self) -> list[Block]:
        series: list[tuple[str, str]] = []
        values: list[float] = []
        for resource, path in self._files:
            try:
                with open(path, "rb", buffering=0) as file:  # noqa: ASYNC230  # procfs, no disk
                    data = file.read()
            except (
                OSError
            ):  # absent, or switched off at boot: then opening or reading says EOPNOTSUPP
                continue
            for line in data.splitlines():
                kind, _, total = line.partition(b" ")
                # All tasks can't wait for a CPU at the system level; the line is there, always 0.
                if (resource, kind) != ("cpu", b"full"):
                    series.append((resource, kind.decode()))
                    values.append(int(total.rpartition(b"total=")[2]) / 1e6)
        return [
            Block(
                ("pressure", tuple(series)),
                values,
                lambda: [(PRESSURE, {"resource": r, "kind": kind}) for r, kind in series],
            )
        ]
