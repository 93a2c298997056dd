"""``/metrics``: what is shown when, what is kept from scrape to scrape, and the real endpoint."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client.parser import text_string_to_metric_families

from support.clock import ManualClock
from support.exposed import ExposedStore
from tachograph.agent.http.exposition import ExpositionRenderer, format_values, routes
from tachograph.agent.http.negotiation import Style
from tachograph.storage.frame import STALE_NAN
from tachograph.storage.model import Kind, MetricType

TEXT, OPENMETRICS = Style(openmetrics=False, utf8=False), Style(openmetrics=True, utf8=False)
LOOKBACK_MS = 300_000


@pytest.fixture
def store() -> ExposedStore:
    return ExposedStore()


@pytest.fixture
def renderer(store: ExposedStore) -> ExpositionRenderer:
    return ExpositionRenderer(store, store.current, store.families, LOOKBACK_MS)


def values_of(text: bytes) -> dict[str, float]:
    families = text_string_to_metric_families(text.decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_nothing_held_gives_an_empty_exposition(renderer: ExpositionRenderer) -> None:
    assert renderer.render(TEXT, 0) == b""
    assert renderer.render(OPENMETRICS, 0) == b"# EOF\n"


def test_value_is_shown_until_the_lookback_is_over(
    store: ExposedStore, renderer: ExpositionRenderer
) -> None:
    store.put("a", 1.0, ts_ms=1000)
    assert values_of(renderer.render(TEXT, 999 + LOOKBACK_MS)) == {"a": 1.0}
    assert renderer.render(TEXT, 1000 + LOOKBACK_MS) == b""
    store.put("a", 2.0, ts_ms=2000)
    assert values_of(renderer.render(TEXT, 1001 + LOOKBACK_MS)) == {"a": 2.0}


def test_series_that_ended_is_gone_at_once_and_may_come_back(
    store: ExposedStore, renderer: ExpositionRenderer
) -> None:
    store.put("a", 1.0, ts_ms=1000)
    store.put("b", 1.0, ts_ms=1000)
    assert values_of(renderer.render(TEXT, 1000)) == {"a": 1.0, "b": 1.0}
    store.put("a", STALE_NAN, ts_ms=2000)
    assert values_of(renderer.render(TEXT, 2000)) == {"b": 1.0}
    store.put("a", float("nan"), ts_ms=3000)
    assert b"\na NaN\n" in renderer.render(TEXT, 3000)


def test_series_without_a_name_is_left_out_and_counted(
    store: ExposedStore, renderer: ExpositionRenderer
) -> None:
    store.put("", 1.0, {"x": "y"})
    store.put("a", 1.0)
    assert values_of(renderer.render(TEXT, 1)) == {"a": 1.0}
    assert renderer.stats.hidden == 1


@pytest.mark.parametrize("changed", [0, 1, 9, 40])
def test_every_scrape_shows_the_newest_values(
    store: ExposedStore, renderer: ExpositionRenderer, changed: int
) -> None:
    expected = {}
    for n in range(40):
        store.put(f"m{n}", n)
        expected[f"m{n}"] = float(n)
    assert values_of(renderer.render(TEXT, 1)) == expected
    for n in range(changed):
        store.put(f"m{n}", n + 0.5, ts_ms=1)
        expected[f"m{n}"] = n + 0.5
    assert values_of(renderer.render(TEXT, 1)) == expected
    assert renderer.stats.layouts == 1


def test_only_metrics_whose_series_changed_are_laid_out_again(
    store: ExposedStore, renderer: ExpositionRenderer
) -> None:
    for n in range(10):
        store.put(f"m{n}_total", n, {"x": "1"})
    renderer.render(TEXT, 1)
    assert (renderer.stats.layouts, renderer.stats.blocks) == (1, 10)
    store.put("m3_total", 1, {"x": "2"})
    assert renderer.render(TEXT, 1).count(b"m3_total{") == 2
    assert (renderer.stats.layouts, renderer.stats.blocks) == (2, 11)
    store.put("m4_total", STALE_NAN, {"x": "1"}, ts_ms=1)
    assert b"m4_total" not in renderer.render(TEXT, 1)
    assert (renderer.stats.layouts, renderer.stats.blocks) == (3, 11)


def test_new_metadata_appears_and_touches_no_other_metric(
    store: ExposedStore, renderer: ExpositionRenderer
) -> None:
    store.put("a_total", 1)
    store.put("b_total", 1)
    assert b"# TYPE a_total untyped" in renderer.render(TEXT, 1)
    store.describe("a_total", MetricType.COUNTER, "All of them.")
    assert b"# HELP a_total All of them.\n# TYPE a_total counter\n" in renderer.render(TEXT, 1)
    assert renderer.stats.blocks == 3


def test_style_that_nobody_asks_for_is_dropped(
    store: ExposedStore, renderer: ExpositionRenderer
) -> None:
    store.put("a", 1.0)
    renderer.render(TEXT, 0)
    renderer.render(OPENMETRICS, LOOKBACK_MS - 1)
    assert len(renderer._views) == 2
    renderer.render(OPENMETRICS, LOOKBACK_MS)
    assert list(renderer._views) == [OPENMETRICS]


def test_formatting_is_short_and_exact() -> None:
    texts = {
        0.0: b"0",
        -1.0: b"-1",
        10.0: b"10",
        0.5: b"0.5",
        1.05: b"1.05",
        1e21: b"1e21",
        1e-7: b"1e-7",
        1234567.0: b"1234567",
        float("inf"): b"+Inf",
        float("-inf"): b"-Inf",
    }
    assert format_values(np.array(list(texts))) == list(texts.values())
    assert format_values(np.array([-0.0, float("nan")])) == [b"-0.0", b"NaN"]
    assert format_values(np.array([])) == []


async def test_large_exposition_made_off_the_loop_is_the_same(store: ExposedStore) -> None:
    for n in range(20_500):
        store.put("wide_total", n, {"n": str(n)}, kind=Kind.COUNTER)
    renderer = ExpositionRenderer(store, store.current, store.families)
    page = await renderer.page(TEXT, 1)
    again = await renderer.page(TEXT, 1, gzip=True)
    assert gzip.decompress(again) == page
    assert page == ExpositionRenderer(store, store.current, store.families).render(TEXT, 1)
    assert page.count(b"\n") == 20_501


async def test_scrapes_at_the_same_time_share_their_pages(
    store: ExposedStore, renderer: ExpositionRenderer
) -> None:
    store.put("a", 1.0)
    pages = await asyncio.gather(*(renderer.page(TEXT, 1) for _ in range(50)))
    assert len(set(pages)) == 1
    assert renderer.stats.renders <= 2


async def test_scrape_after_an_update_sees_it(
    store: ExposedStore, renderer: ExpositionRenderer
) -> None:
    for n in range(20):
        store.put("a", n, ts_ms=n)
        assert values_of(await renderer.page(TEXT, 20)) == {"a": n}


async def test_cancelled_scrape_harms_no_later_one(
    store: ExposedStore, renderer: ExpositionRenderer
) -> None:
    for n in range(3000):
        store.put(f"m{n}", n)
    scrape = asyncio.create_task(renderer.page(TEXT, 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    scrape.cancel()
    with pytest.raises(asyncio.CancelledError):
        await scrape
    assert values_of(await renderer.page(TEXT, 1)) == {f"m{n}": n for n in range(3000)}


@pytest.fixture
async def server(store: ExposedStore, renderer: ExpositionRenderer) -> AsyncIterator[TestServer]:
    app = web.Application()
    app.add_routes(routes(renderer, ManualClock(now_ms=1000)))
    server = TestServer(app)
    await server.start_server()
    yield server
    await server.close()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as client:
        yield client


async def test_endpoint_speaks_what_it_is_asked_for(
    store: ExposedStore, server: TestServer, client: aiohttp.ClientSession
) -> None:
    store.put("a", 1.5, ts_ms=1000)
    url = server.make_url("/metrics")
    async with client.get(url, headers={"Accept-Encoding": "identity"}) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert response.headers["Vary"] == "Accept, Accept-Encoding"
        assert "Content-Encoding" not in response.headers
        assert await response.read() == b"# TYPE a untyped\na 1.5\n"
    headers = {
        "Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
        "Accept-Encoding": "gzip",
    }
    async with client.get(url, headers=headers) as response:
        assert response.headers["Content-Type"] == (
            "application/openmetrics-text; version=1.0.0; charset=utf-8"
        )
        assert response.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(await response.read()) == b"# TYPE a unknown\na 1.5\n# EOF\n"


async def test_head_tells_the_length_only(
    store: ExposedStore, server: TestServer, client: aiohttp.ClientSession
) -> None:
    store.put("a", 1.5, ts_ms=1000)
    async with client.head(server.make_url("/metrics")) as response:
        assert response.status == 200
        assert await response.read() == b""
