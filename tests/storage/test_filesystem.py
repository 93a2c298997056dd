"""Which file system a directory lies on; the kernel's list of mounts is made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.clock import ManualClock
from support.store import store_settings
from tachograph.storage.errors import StoreOnNetwork
from tachograph.storage.filesystem import find_mount, read_mounts, refuse_network
from tachograph.storage.store import Store


def mounted(*pairs: tuple[Path | str, str]) -> Callable[[], str]:
    """A list of mounts, each a place and a type, on top of an ext4 root."""
    lines = [
        f"{30 + i} 1 0:{30 + i} / {str(point).replace(' ', chr(92) + '040')} rw,relatime "
        f"shared:{i} - {kind} server:/export rw"
        for i, (point, kind) in enumerate([("/", "ext4"), *pairs])
    ]
    return lambda: "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "kind",
    ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse", "fuse.sshfs", "fuse.rclone", "vboxsf"],
)
def test_network_file_system_is_refused_with_path_type_and_mend(tmp_path: Path, kind: str) -> None:
    data = tmp_path / "mnt" / "data"
    with pytest.raises(StoreOnNetwork) as caught:
        refuse_network(data, mounted((tmp_path / "mnt", kind)))
    message = str(caught.value)
    assert str(data) in message
    assert f"({kind}, mounted at {tmp_path / 'mnt'})" in message
    assert "--data or storage.path" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "fuse.fuse-overlayfs"]
)
def test_local_file_system_is_taken(tmp_path: Path, kind: str) -> None:
    refuse_network(tmp_path / "data", mounted((tmp_path, kind)))


def test_the_nearest_mount_counts_and_of_two_at_a_place_the_later(tmp_path: Path) -> None:
    mounts = mounted(
        (tmp_path / "a", "autofs"),
        (tmp_path / "a", "nfs"),
        (tmp_path / "a" / "local", "ext4"),
        (tmp_path, "xfs"),
        (tmp_path / "a b", "cifs"),
    )
    kinds = {
        name: getattr(find_mount(tmp_path / name, mounts), "type", None)
        for name in ("a/x", "a/local/x", "ab", "a b/x", "x", "/")
    }
    assert kinds == {
        "a/x": "nfs",
        "a/local/x": "ext4",
        "ab": "xfs",
        "a b/x": "cifs",
        "x": "xfs",
        "/": "ext4",
    }


def test_a_link_leads_to_where_it_points(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "far")
    with pytest.raises(StoreOnNetwork):
        refuse_network(tmp_path / "data", mounted((tmp_path / "far", "nfs4")))


@pytest.mark.parametrize("text", ["", "nonsense\n", "1 2 3 4 /\n", "1 2 0:3 / / rw nfs\n"])
def test_where_the_kernel_tells_nothing_nothing_is_refused(tmp_path: Path, text: str) -> None:
    assert find_mount(tmp_path, lambda: text) is None
    refuse_network(tmp_path, lambda: text)


def test_the_list_of_this_machine_is_understood(tmp_path: Path) -> None:
    if read_mounts():
        assert find_mount(tmp_path) is not None


async def test_store_on_a_network_file_system_does_not_open_and_makes_nothing(
    tmp_path: Path,
) -> None:
    mounts = mounted((tmp_path, "nfs4"))
    store = Store(store_settings(tmp_path / "data"), ManualClock(), mounts=mounts)
    with pytest.raises(StoreOnNetwork):
        await store.open()
    assert not list(tmp_path.iterdir())
    await store.close()
