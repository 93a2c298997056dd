"""The host as a source: every reader's blocks become one tick of the group ``system``."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from ...config.settings import SystemSettings
from ...storage.sink import Sink
from .disk_io import DiskIoReader
from .disk_usage import DiskUsageReader
from .kernel import KernelReader
from .load import LoadReader
from .memory import MemoryReader
from .network import NetworkReader
from .offload import Offload
from .pressure import PressureReader
from .temperature import TemperatureReader
from .tick import Block, TickWriter

LOG = logging.getLogger(__name__)

GROUP: Final = "system"


class Reader(Protocol):
    """Reads one subject of the host; one that may block does so in a thread."""

    @property
    def name(self) -> str: ...

    async def read(self) -> list[Block]: ...


@dataclass(slots=True)
class HostStats:
    """
    Attributes:
        reader_errors: Failed readings by reader, since the start.
        failing: Readers that failed in the last pass.
        samples: Of the last tick.
        refused: Series that the store doesn't take, now.
    """

    reader_errors: Counter[str] = field(default_factory=Counter)
    failing: frozenset[str] = frozenset()
    samples: int = 0
    refused: int = 0


class HostReadFailed(Exception):
    """No reader gave anything."""


def host_readers(settings: SystemSettings, offload: Offload, timeout_s: float) -> list[Reader]:
    """
    Build what ``settings`` ask for. The quick readers come first, so that a hanging disk or sensor
    delays no reading; ``timeout_s`` is for one call of those.
    """
    readers: list[Reader] = [KernelReader(cpu=settings.cpu)]
    if settings.memory:
        readers.append(MemoryReader())
    if settings.disk:
        readers.append(DiskIoReader())
    if settings.network:
        readers.append(NetworkReader(settings.ignored_interfaces))
    if settings.load:
        readers.append(LoadReader())
    readers.append(PressureReader())
    if settings.disk:
        readers.append(
            DiskUsageReader(
                offload,
                settings.ignored_mount_points,
                settings.ignored_fstypes,
                timeout_s=timeout_s,
            )
        )
    readers.append(TemperatureReader(offload, timeout_s=timeout_s))
    return readers


class HostSource:
    """
    CPU, memory, disks, network, load and what else the system tells about itself.

    A reader that fails takes only its own series with it; a pass fails when all do. The first pass
    has no ``cpu_usage_percent``, which is a difference between passes.

    Args:
        settings: What to read; equal settings (and namespace, interval) make equal sources.
        readers: Instead of those that the settings ask for.
    """

    name = "system"
    backs_off = True
    reports_itself = False

    def __init__(
        self,
        sink: Sink,
        settings: SystemSettings,
        *,
        namespace: str,
        interval_s: float = 10.0,
        timeout_s: float = 5.0,
        readers: Sequence[Reader] | None = None,
    ) -> None:
        self.interval_s, self.timeout_s = interval_s, timeout_s
        self.stats = HostStats()
        self._identity = (settings, namespace, interval_s, timeout_s)
        self._offload = Offload("tachograph-host")
        # Disk usage and sensors may hang. With a third of the time for a reader, the tick is
        # written even if both do; a call that hangs is noticed within twice its own time.
        self._reader_timeout_s = timeout_s / 3
        self._readers = (
            host_readers(settings, self._offload, timeout_s / 8) if readers is None else readers
        )
        self._writer = TickWriter(sink, GROUP, namespace)

    async def collect(self, ts_ms: int) -> None:
        """
        Raises:
            HostReadFailed: No reader works.
            StoreUnavailable: The tick was not taken.
        """
        blocks: list[Block] = []
        errors: dict[str, Exception] = {}
        for reader in self._readers:
            try:
                async with asyncio.timeout(self._reader_timeout_s):
                    blocks += await reader.read()
            except TimeoutError:
                errors[reader.name] = TimeoutError(f"no answer in {self._reader_timeout_s:.1f} s")
            except Exception as error:  # one broken driver must not take the rest along
                errors[reader.name] = error
        self._note(errors)
        if errors and len(errors) == len(self._readers):
            raise HostReadFailed("; ".join(f"{name}: {error}" for name, error in errors.items()))
        self.stats.samples = self._writer.write(ts_ms, blocks)
        self.stats.refused = self._writer.refused

    async def close(self) -> None:
        self._offload.close()

    def _note(self, errors: dict[str, Exception]) -> None:
        """Count what failed, and log each reader when its state changes."""
        for name, error in errors.items():
            self.stats.reader_errors[name] += 1
            if name not in self.stats.failing:
                LOG.warning("%s of the host cannot be read: %s", name, error)
        for name in self.stats.failing - errors.keys():
            LOG.info("%s of the host can be read again", name)
        self.stats.failing = frozenset(errors)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HostSource) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)
