"""The size of what is ours in the data directory, asked without holding up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from support.clock import ManualClock
from support.store import put, store_settings
from tachograph.storage.disk_usage import OWN, own_sizes
from tachograph.storage.model import Labels
from tachograph.storage.store import Store


def test_only_files_of_ours_count(tmp_path: Path) -> None:
    for name in (*OWN, "notes.txt", "samples.db.damaged-1"):
        (tmp_path / name).write_bytes(bytes(10))
    (tmp_path / "snapshots").mkdir()
    assert own_sizes(tmp_path) == dict.fromkeys(OWN, 10)


def test_files_that_are_not_there_take_nothing(tmp_path: Path) -> None:
    assert own_sizes(tmp_path) == {}
    assert own_sizes(tmp_path / "nowhere") == {}


class Threads(ThreadPoolExecutor):
    """Threads that count what they are given."""

    jobs = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.jobs += 1
        return super().submit(fn, *args, **kwargs)


async def test_size_is_asked_off_the_event_loop(tmp_path: Path) -> None:
    clock, threads = ManualClock(), Threads(1)
    asyncio.get_running_loop().set_default_executor(threads)
    store = Store(store_settings(tmp_path / "data"), clock)
    await store.open()
    put(store.group("g"), clock.now_ms(), {Labels.of({}, "up"): 1.0})
    await store.flush()
    expected = sum(own_sizes(tmp_path / "data").values())
    before = threads.jobs
    assert await store.bytes_on_disk() == expected > 4096
    assert threads.jobs == before + 1
    await store.close()
