"""One agent a directory, files for our eyes only, newer schemas left alone, nothing leaked."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import sqlite3
import stat
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.clock import ManualClock
from support.store import bits, put, read, store_settings
from tachograph.storage.errors import SchemaTooNew, StoreCorrupt, StoreLocked, StoreUnavailable
from tachograph.storage.model import Labels
from tachograph.storage.store import Store

A = Labels.of({}, "up")

#: Another agent: opens the store, says so, and waits for its end.
HOLDER = """
import asyncio, sys
from pathlib import Path
from tachograph.config.settings import StorageSettings
from tachograph.storage.clock import SystemClock
from tachograph.storage.store import Store

async def main():
    store = Store(StorageSettings(path=Path(sys.argv[1]), ballast_bytes=0), SystemClock())
    await store.open()
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await store.close()

asyncio.run(main())
"""


@pytest.fixture
async def holder(tmp_path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        HOLDER,
        str(tmp_path / "data"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"open\n"
    yield process
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def opened(path: Path, clock: ManualClock) -> Store:
    store = Store(store_settings(path), clock)
    await store.open()
    return store


async def test_second_agent_is_told_who_is_first(
    tmp_path: Path, clock: ManualClock, holder: asyncio.subprocess.Process
) -> None:
    with pytest.raises(StoreLocked, match=rf"pid {holder.pid}\b"):
        await opened(tmp_path / "data", clock)
    assert holder.stdin is not None
    holder.stdin.close()
    assert await holder.wait() == 0
    store = await opened(tmp_path / "data", clock)
    await store.close()


async def test_killed_holder_leaves_the_directory_free_at_once(
    tmp_path: Path, clock: ManualClock, holder: asyncio.subprocess.Process
) -> None:
    holder.send_signal(signal.SIGKILL)
    await holder.wait()
    store = await opened(tmp_path / "data", clock)
    await store.close()


async def test_second_store_in_one_process_is_refused(tmp_path: Path, clock: ManualClock) -> None:
    store = await opened(tmp_path / "data", clock)
    with pytest.raises(StoreLocked, match=str(os.getpid())):
        await opened(tmp_path / "data", clock)
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    await store.close()
    again = await opened(tmp_path / "data", clock)
    assert (await read(again))[A] == {clock.now_ms(): bits([1.0])[0]}
    await again.close()


async def test_files_are_for_their_owner_only(tmp_path: Path, clock: ManualClock) -> None:
    before = os.umask(0)
    try:
        settings = replace(store_settings(tmp_path / "data"), ballast_bytes=1 << 16)
        store = Store(settings, clock)
        await store.open()
        put(store.group("g"), clock.now_ms(), {A: 1.0})
        await store.seal()
        await read(store)
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode)
            for path in [store.directory, *store.directory.iterdir()]
        }
        await store.close()
    finally:
        os.umask(before)
    assert modes == {
        "data": 0o700,
        "lock": 0o600,
        "ballast": 0o600,
        "samples.db": 0o600,
        "samples.db-wal": 0o600,
        "samples.db-shm": 0o600,
    }


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("hot", [False, True])
async def test_newer_schema_is_refused_and_left_alone(
    tmp_path: Path, clock: ManualClock, hot: bool
) -> None:
    store = await opened(tmp_path / "data", clock)
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    await store.close()
    path = store.path
    keeper = sqlite3.connect(path)
    keeper.execute("PRAGMA user_version=99")
    keeper.commit()
    if hot:  # the newer version died: its log is still there
        for file in store.directory.glob("samples.db*"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
        keeper.close()
        for file in tmp_path.glob("samples.db*"):
            if not file.name.endswith("-shm"):
                (store.directory / file.name).write_bytes(file.read_bytes())
    else:
        keeper.close()
    files = [file for file in store.directory.glob("samples.db*") if "-shm" not in file.name]
    assert len(files) == 1 + hot
    before = {file: digest(file) for file in files}
    with pytest.raises(SchemaTooNew, match="schema 99"):
        await opened(tmp_path / "data", clock)
    assert {file: digest(file) for file in files} == before


@pytest.mark.parametrize(
    "content", [b"no database at all" * 1000, b"SQLite format 3\0" + b"\xff" * 4080]
)
async def test_file_that_is_no_database_is_told(
    tmp_path: Path, clock: ManualClock, content: bytes
) -> None:
    (tmp_path / "samples.db").write_bytes(content)
    with pytest.raises(StoreCorrupt, match=r"samples\.db .*tachograph db repair"):
        await opened(tmp_path, clock)
    assert (tmp_path / "samples.db").read_bytes() == content
    with pytest.raises(StoreCorrupt):
        await opened(tmp_path, clock)  # and the lock was given back


async def test_directory_that_is_a_file_is_told(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(StoreUnavailable, match="data"):
        await opened(tmp_path / "data", clock)


def test_opening_and_closing_leaks_nothing(tmp_path: Path, clock: ManualClock) -> None:
    async def once() -> None:
        store = await opened(tmp_path / "data", clock)
        clock.step(1_000)
        put(store.group("g"), clock.now_ms(), {A: 1.0})
        await store.seal()
        await read(store)
        running = asyncio.create_task(store.run())
        await asyncio.sleep(0)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await store.close()
        await store.close()

    def left() -> tuple[int, set[str]]:
        return len(os.listdir("/proc/self/fd")), {t.name for t in threading.enumerate()}

    asyncio.run(once())
    first = left()
    for _ in range(49):
        asyncio.run(once())
    assert left() == first


async def test_failed_opening_leaks_nothing(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "samples.db").write_bytes(b"no database at all" * 1000)

    async def once() -> tuple[int, int]:
        with pytest.raises(StoreCorrupt):
            await opened(tmp_path, clock)
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    first = await once()
    for _ in range(9):
        last = await once()
    assert last == first
