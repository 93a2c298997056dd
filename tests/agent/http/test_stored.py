"""``GET /api/tachograph/v1/rollups`` over a real connection and a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from support.clock import ManualClock
from support.store import put, store_settings
from tachograph.agent.http import stored
from tachograph.agent.http.errors import error_middleware
from tachograph.storage.model import Kind, Labels
from tachograph.storage.store import Store

Get = Callable[..., Awaitable[Any]]
JOBS, LEVEL = Labels.of({}, "jobs_total"), Labels.of({}, "level")


@pytest.fixture
async def get(tmp_path: Path) -> AsyncIterator[Get]:
    clock = ManualClock()
    store = Store(store_settings(tmp_path / "data"), clock)
    await store.open()
    for value in (1.0, 5.0, 2.0):
        await clock.advance(10_000)
        put(store.group("g"), clock.now_ms(), {JOBS: value}, Kind.COUNTER)
        put(store.group("h"), clock.now_ms(), {LEVEL: value}, Kind.GAUGE)

    async def compact() -> list[int]:
        return []

    app = web.Application(middlewares=[error_middleware])
    app.add_routes(stored.routes(store, clock, compact))
    async with TestServer(app) as server, aiohttp.ClientSession() as session:

        async def fetch(**params: str) -> Any:
            url = server.make_url(f"{stored.PREFIX}/rollups")
            async with session.get(url, params=params) as response:
                assert response.status == 200
                return await response.json()

        yield fetch
    await store.close()


async def test_gauges_have_no_increase_and_the_answer_says_so(get: Get) -> None:
    answer = await get(match='{__name__=~"jobs_total|level"}', tier="1m", agg="increase")
    (row,) = answer["data"]["result"]
    assert row["metric"] == {"__name__": "jobs_total"}
    assert [value for _, value in row["values"]] == ["6"]
    assert answer["warnings"] == ["1 gauges are left out: they have no increase"]


async def test_other_aggregates_are_of_all(get: Get) -> None:
    answer = await get(match='{__name__=~"jobs_total|level"}', tier="1m", agg="max")
    assert len(answer["data"]["result"]) == 2
    assert "warnings" not in answer
