"""A file system that turns read-only: reads go on, writes are kept and told."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.clock import ManualClock
from support.disk import SmallDisk, small_disk
from support.store import bits, put, read, store_settings
from tachograph.storage.errors import StoreUnavailable
from tachograph.storage.model import Labels
from tachograph.storage.store import Store

A = Labels.of({}, "up")

#: Opens the store as nobody, in a directory that nobody may not write.
AS_NOBODY = """
import asyncio, os, sys
from pathlib import Path
from tachograph.config.settings import StorageSettings
from tachograph.storage.clock import SystemClock
from tachograph.storage.errors import StoreUnavailable
from tachograph.storage.store import Store

async def main():
    os.setgid(65534)
    os.setuid(65534)
    store = Store(StorageSettings(path=Path(sys.argv[1]), ballast_bytes=0), SystemClock())
    try:
        await store.open()
    except StoreUnavailable as error:
        print(error)

asyncio.run(main())
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 8) as disk:
        yield disk


@pytest.fixture
def anyones() -> Iterator[Path]:
    """A directory that nobody can look into, other than those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def test_read_only_file_system_is_told_at_start(disk: SmallDisk, clock: ManualClock) -> None:
    store = Store(store_settings(disk.path / "data"), clock)
    await store.open()
    await store.close()
    disk.make_read_only()
    for _ in range(2):
        again = Store(store_settings(disk.path / "data"), clock)
        with pytest.raises(StoreUnavailable, match=r"data"):
            await again.open()
    disk.make_writable()
    again = Store(store_settings(disk.path / "data"), clock)
    await again.open()
    await again.close()


async def test_missing_directory_on_a_read_only_file_system_is_told(
    disk: SmallDisk, clock: ManualClock
) -> None:
    disk.make_read_only()
    with pytest.raises(StoreUnavailable, match="cannot create"):
        await Store(store_settings(disk.path / "data"), clock).open()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become nobody")
@pytest.mark.parametrize("mode", ["directory", "file"])
async def test_missing_rights_are_told(anyones: Path, clock: ManualClock, mode: str) -> None:
    data = anyones / "data"
    store = Store(store_settings(data), clock)
    await store.open()
    await store.close()
    if mode == "file":
        data.chmod(0o777)
        (data / "lock").chmod(0o666)
        (data / "samples.db").chmod(0o444)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AS_NOBODY, str(data), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert str(data) in out.decode()


async def test_database_that_turns_read_only_is_read_on(tmp_path: Path, clock: ManualClock) -> None:
    store = Store(store_settings(tmp_path / "data"), clock)
    await store.open()
    now = clock.now_ms()
    put(store.group("g"), now, {A: 1.0})
    await store.seal()
    await store.writer.run(lambda connection: connection.execute("PRAGMA query_only=ON"))
    put(store.group("g"), now + 1, {A: 2.0})
    with pytest.raises(StoreUnavailable):
        await store.flush()
    expected = {now: bits([1.0])[0], now + 1: bits([2.0])[0]}
    assert (await read(store))[A] == expected
    await store.writer.run(lambda connection: connection.execute("PRAGMA query_only=OFF"))
    await store.flush()
    assert (await read(store))[A] == expected
    await store.close()
