"""Which mounts are measured, and that a dead one stops nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from tachograph.agent.collectors.disk_usage import (
    DiskUsageReader,
    Partition,
    Space,
    choose_mounts,
    usage_of,
)
from tachograph.agent.collectors.offload import Offload
from tachograph.agent.collectors.tick import Block
from tachograph.config.regex import compile_regex
from tachograph.config.settings import SystemSettings

DEFAULTS = SystemSettings()


@dataclass(frozen=True)
class Mount:
    device: str
    mountpoint: str
    fstype: str = "ext4"
    opts: str = "rw,relatime"


@dataclass(frozen=True)
class FakeSpace:
    f_frsize: int = 4096
    f_blocks: int = 1_000
    f_bfree: int = 400
    f_bavail: int = 350
    f_files: int = 100
    f_ffree: int = 60


@dataclass
class FakeSystem:
    """Mounts with what statvfs says of them: a space, an error, or a gate to hang at."""

    spaces: dict[str, Space | OSError | threading.Event]
    mounts: list[Mount] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def list_mounts(self) -> Sequence[Partition]:
        return self.mounts or [Mount(f"/dev/{point}", point) for point in self.spaces]

    def statvfs(self, point: str) -> Space:
        self.asked.append(point)
        found = self.spaces[point]
        if isinstance(found, threading.Event):
            found.wait()
            return FakeSpace()
        if isinstance(found, OSError):
            raise found
        return found


@pytest.fixture
def offload() -> Iterator[Offload]:
    offload = Offload("disk-test")
    yield offload
    offload.close()


def reader_of(system: FakeSystem, offload: Offload, timeout_s: float = 10) -> DiskUsageReader:
    return DiskUsageReader(
        offload,
        DEFAULTS.ignored_mount_points,
        DEFAULTS.ignored_fstypes,
        timeout_s=timeout_s,
        list_mounts=system.list_mounts,
        statvfs=system.statvfs,
    )


def as_dict(blocks: list[Block]) -> dict[str, float]:
    return {
        " ".join((family.name, *labels.values())): value
        for block in blocks
        for (family, labels), value in zip(block.series(), block.values, strict=True)
    }


def chosen(*mounts: Mount) -> list[str]:
    return list(
        choose_mounts(
            mounts,
            compile_regex("|".join(DEFAULTS.ignored_mount_points)),
            compile_regex("|".join(DEFAULTS.ignored_fstypes)),
        )
    )


def test_pseudo_file_systems_are_left_out_and_network_ones_are_not() -> None:
    assert chosen(
        Mount("proc", "/proc", "proc"),
        Mount("tmpfs", "/dev/shm", "tmpfs"),
        Mount("tmpfs", "/tmp", "tmpfs"),
        Mount("/dev/loop3", "/snap/core/1", "squashfs"),
        Mount("overlay", "/var/lib/docker/overlay2/x/merged", "overlay"),
        Mount("/dev/sda1", "/"),
        Mount("nas:/export", "/srv/nas", "nfs4"),
        Mount("//nas/share", "/srv/share", "cifs"),
    ) == ["/", "/srv/nas", "/srv/share"]


def test_a_device_is_reported_once_at_its_shortest_mount_point() -> None:
    assert chosen(
        Mount("/dev/sda1", "/srv/bind"),
        Mount("/dev/sda1", "/"),
        Mount("/dev/sdb1", "/home/.snapshots", "btrfs"),
        Mount("/dev/sdb1", "/home", "btrfs"),
        Mount("nas:/export", "/b", "nfs"),
        Mount("nas:/export", "/a", "nfs"),
    ) == ["/", "/a", "/home"]


def test_in_a_container_the_overlay_is_the_root_and_the_hosts_files_are_no_disks() -> None:
    assert chosen(
        Mount("overlay", "/", "overlay"),
        Mount("/dev/vda1", "/etc/hosts"),
        Mount("/dev/vda1", "/etc/resolv.conf"),
        Mount("/dev/vda1", "/data/volume"),
    ) == ["/", "/data/volume"]


def test_of_mounts_on_one_point_the_last_one_counts() -> None:
    assert chosen(Mount("/dev/sdb1", "/srv"), Mount("tmpfs", "/srv", "tmpfs")) == []
    assert chosen(Mount("tmpfs", "/srv", "tmpfs"), Mount("/dev/sdb1", "/srv")) == ["/srv"]


def test_what_is_reserved_for_root_is_neither_used_nor_free() -> None:
    usage = usage_of(FakeSpace())
    assert usage is not None
    assert usage.bytes == (1_000 * 4096, 600 * 4096, 350 * 4096)
    assert usage.inodes == (100, 40, 60)


def test_file_systems_without_blocks_or_inodes_report_none() -> None:
    assert usage_of(FakeSpace(f_blocks=0)) is None
    usage = usage_of(FakeSpace(f_files=0))
    assert usage is not None
    assert usage.inodes == ()


async def test_sizes_states_and_inodes_are_reported(offload: Offload) -> None:
    system = FakeSystem({"/": FakeSpace()}, [Mount("/dev/sda1", "/", opts="ro,relatime")])
    assert as_dict(await reader_of(system, offload).read()) == {
        "disk_usage_bytes / total": 4096000,
        "disk_usage_bytes / used": 2457600,
        "disk_usage_bytes / free": 1433600,
        "disk_inodes / total": 100,
        "disk_inodes / used": 40,
        "disk_inodes / free": 60,
        "disk_unavailable /": 0,
        "disk_read_only /": 1,
    }


async def test_a_file_system_that_refuses_is_unavailable(offload: Offload) -> None:
    system = FakeSystem({"/": FakeSpace(), "/bad": OSError(5, "Input/output error")})
    found = as_dict(await reader_of(system, offload).read())
    assert (found["disk_unavailable /"], found["disk_unavailable /bad"]) == (0, 1)
    assert "disk_usage_bytes /bad used" not in found


async def test_a_dead_mount_delays_no_other_and_is_not_asked_again(offload: Offload) -> None:
    gate = threading.Event()
    system = FakeSystem({"/": FakeSpace(), "/nas": gate, "/srv": FakeSpace()})
    reader = reader_of(system, offload, timeout_s=0.05)
    try:
        for _ in range(3):
            found = as_dict(await reader.read())
            assert found["disk_unavailable /nas"] == 1
            assert found["disk_usage_bytes /srv used"] == found["disk_usage_bytes / used"] > 0
            assert "disk_usage_bytes /nas used" not in found
        assert system.asked.count("/nas") == 1
        assert system.asked.count("/srv") == 3
    finally:
        gate.set()


async def test_mounts_that_come_and_go_are_seen_at_once(offload: Offload) -> None:
    system = FakeSystem({"/": FakeSpace(), "/usb": FakeSpace()}, [Mount("/dev/sda1", "/")])
    reader = reader_of(system, offload)
    seen = []
    for has_stick in (False, True, True, False):
        system.mounts = [Mount("/dev/sda1", "/")] + [Mount("/dev/sdc1", "/usb")] * has_stick
        seen.append("disk_usage_bytes /usb used" in as_dict(await reader.read()))
    assert seen == [False, True, True, False]


async def test_an_unreadable_mount_table_is_an_error(offload: Offload) -> None:
    def fail() -> Sequence[Partition]:
        raise OSError("no table")

    with pytest.raises(OSError, match="no table"):
        await DiskUsageReader(offload, list_mounts=fail).read()


async def test_the_root_of_this_machine_is_reported_as_df_does(offload: Offload) -> None:
    reader = DiskUsageReader(offload, DEFAULTS.ignored_mount_points, DEFAULTS.ignored_fstypes)
    found = as_dict(await reader.read())
    space = os.statvfs("/")
    assert found["disk_usage_bytes / total"] == space.f_blocks * space.f_frsize
    assert not any(" /proc" in name or " /sys" in name for name in found)
