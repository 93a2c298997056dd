"""Stores that are opened by a test itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.clock import ManualClock
from support.kept import Open
from support.store import store_settings
from tachograph.storage.store import Store


@pytest.fixture
async def opened(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Open]:
    stores = []

    async def open_store(path: str = "data", **settings: Any) -> Store:
        store = Store(store_settings(tmp_path / path, **settings), clock)
        await store.open()
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        await store.close()
