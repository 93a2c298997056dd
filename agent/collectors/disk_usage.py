"""How full the file systems are."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import psutil

from ...config.regex import compile_regex
from .offload import CallHung, Offload
from .tick import Block, gauge

USAGE: Final = gauge(
    "disk_usage_bytes",
    "Size of a file system by type: total, used, and free for ordinary users. What is reserved for"
    " root is neither used nor free.",
)
INODES: Final = gauge("disk_inodes", "Files of a file system by type: total, used, free.")
READ_ONLY: Final = gauge("disk_read_only", "1 if the file system is mounted read-only, else 0.")
UNAVAILABLE: Final = gauge(
    "disk_unavailable",
    "1 if the file system could not be asked: it did not answer in time or refused, else 0.",
)

_TYPES: Final = ("total", "used", "free")
#: Single files that container engines mount from the host's disk into each container.
_CONTAINER_FILES: Final = frozenset({"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"})
_MOUNTS: Final = "mount table"
ROOT: Final = "/"


class Partition(Protocol):
    """What is used of psutil's ``sdiskpart``."""

    @property
    def device(self) -> str: ...
    @property
    def mountpoint(self) -> str: ...
    @property
    def fstype(self) -> str: ...
    @property
    def opts(self) -> str: ...


class Space(Protocol):
    """What is used of ``os.statvfs_result``."""

    @property
    def f_frsize(self) -> int: ...
    @property
    def f_blocks(self) -> int: ...
    @property
    def f_bfree(self) -> int: ...
    @property
    def f_bavail(self) -> int: ...
    @property
    def f_files(self) -> int: ...
    @property
    def f_ffree(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Usage:
    """A file system as one pass found it; ``inodes`` is empty where it has no fixed number."""

    bytes: tuple[int, ...]
    inodes: tuple[int, ...]


def choose_mounts(
    partitions: Iterable[Partition],
    is_ignored: Callable[[str], bool],
    is_ignored_fstype: Callable[[str], bool],
) -> dict[str, Partition]:
    """
    Return the mounts to report, by mount point.

    A device that is mounted several times (bind mounts, subvolumes) is reported at its shortest
    mount point; a mount point that is used several times, with what was mounted last. The root is
    reported whatever its type: in a container it is an overlay.
    """
    by_point: dict[str, Partition] = {}
    for partition in partitions:
        point = partition.mountpoint
        if point in _CONTAINER_FILES or is_ignored(point):
            continue
        by_point.pop(point, None)
        if point == ROOT or not is_ignored_fstype(partition.fstype):
            by_point[point] = partition
    chosen: dict[str, Partition] = {}
    devices: set[str] = set()
    for point in sorted(by_point, key=lambda point: (len(point), point)):
        partition = by_point[point]
        # "tmpfs" or "overlay" in place of a device stands for a new file system each time.
        is_device = (
            partition.device.startswith("/") or ":" in partition.device or partition.fstype == "zfs"
        )
        if is_device and partition.device in devices:
            continue
        devices.add(partition.device)
        chosen[point] = partition
    return chosen


def usage_of(space: Space) -> Usage | None:
    """Return the sizes, or None for a pseudo file system, which has none."""
    if not space.f_blocks:
        return None
    used = space.f_blocks - space.f_bfree
    blocks = (space.f_blocks, used, space.f_bavail)
    inodes: tuple[int, ...] = ()
    if space.f_files:
        inodes = (space.f_files, space.f_files - space.f_ffree, space.f_ffree)
    return Usage(tuple(count * space.f_frsize for count in blocks), inodes)


def list_mounts() -> Sequence[Partition]:
    """All mounts: psutil's own choice leaves network file systems out."""
    return psutil.disk_partitions(all=True)


class DiskUsageReader:
    """
    Asks each real file system in a thread, so that a dead network mount stops nothing: it is
    reported as unavailable, and not asked again before it has answered.

    Args:
        offload: The thread.
        ignored: Regular expressions of mount points that are not reported.
        ignored_fstypes: Regular expressions of file system types that are not reported.
        timeout_s: For one file system.
    """

    name = "disk_usage"

    def __init__(
        self,
        offload: Offload,
        ignored: Sequence[str] = (),
        ignored_fstypes: Sequence[str] = (),
        *,
        timeout_s: float = 1.0,
        list_mounts: Callable[[], Sequence[Partition]] = list_mounts,
        statvfs: Callable[[str], Space] = os.statvfs,
    ) -> None:
        self._offload, self._timeout_s = offload, timeout_s
        self._is_ignored = compile_regex("|".join(ignored)) if ignored else _never
        self._is_ignored_fstype = (
            compile_regex("|".join(ignored_fstypes)) if ignored_fstypes else _never
        )
        self._list, self._statvfs = list_mounts, statvfs
        self._table: Sequence[Partition] = ()
        self._chosen: dict[str, Partition] = {}

    async def read(self) -> list[Block]:
        """
        Raises:
            OSError, CallHung: The mount table can't be read.
        """
        # The table needs no disk, but a host of containers has hundreds of mounts: half a
        # millisecond that the event loop need not spend. Mounts of the pass before are asked on the
        # same trip to the thread, as handing over costs more than asking.
        listed: list[Sequence[Partition]] = []
        answers = await self._ask(self._chosen, {_MOUNTS: lambda: listed.append(self._list())})
        failure = answers.pop(_MOUNTS)
        if isinstance(failure, Exception):
            raise failure
        if listed[0] != self._table:
            self._table = listed[0]
            self._chosen = choose_mounts(self._table, self._is_ignored, self._is_ignored_fstype)
            answers |= await self._ask(self._chosen.keys() - answers.keys())
        usages: dict[str, Usage] = {}
        unavailable: dict[str, bool] = {}
        for point in self._chosen:
            space = answers[point]
            if isinstance(space, Exception):
                if not isinstance(space, (OSError, CallHung)):
                    raise space
                unavailable[point] = True
            elif space is not None and (usage := usage_of(space)) is not None:
                usages[point] = usage
                unavailable[point] = False
        read_only = {point: "ro" in self._chosen[point].opts.split(",") for point in unavailable}
        return _blocks(usages, unavailable, read_only)

    async def _ask(
        self, points: Iterable[str], others: Mapping[str, Callable[[], None]] | None = None
    ) -> dict[str, Space | Exception | None]:
        calls: dict[str, Callable[[], Space | None]] = {**(others or {})}
        for point in points:
            calls[point] = functools.partial(self._statvfs, point)
        return await self._offload.run(calls, self._timeout_s)


def _blocks(
    usages: dict[str, Usage], unavailable: dict[str, bool], read_only: dict[str, bool]
) -> list[Block]:
    points = tuple(unavailable)
    with_inodes = tuple(point for point, usage in usages.items() if usage.inodes)
    return [
        Block(
            ("disk_usage", tuple(usages)),
            [size for usage in usages.values() for size in usage.bytes],
            lambda: [
                (USAGE, {"mount_point": point, "type": type_})
                for point in usages
                for type_ in _TYPES
            ],
        ),
        Block(
            ("disk_inodes", with_inodes),
            [count for point in with_inodes for count in usages[point].inodes],
            lambda: [
                (INODES, {"mount_point": point, "type": type_})
                for point in with_inodes
                for type_ in _TYPES
            ],
        ),
        Block(
            ("disk_state", points),
            [*unavailable.values(), *read_only.values()],
            lambda: [
                (family, {"mount_point": point})
                for family in (UNAVAILABLE, READ_ONLY)
                for point in points
            ],
        ),
    ]


def _never(text: str) -> bool:
    return False
