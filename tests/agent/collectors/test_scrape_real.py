"""Real exporters scraped over real HTTP, and a real store behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.clock import ManualClock
from support.exporter import Exporter
from support.programs import free_port, get, started
from support.sink import MemorySink
from support.store import bits, read, store_settings
from tachograph.agent.collectors.scrape_http import open_session
from tachograph.agent.collectors.scrape_pool import ScrapePool
from tachograph.agent.ingest.exposition import Parser, Syntax
from tachograph.config.prometheus import GlobalSettings, ScrapeConfig, StaticConfig
from tachograph.storage.model import STALE_NAN_BITS, Kind, Labels
from tachograph.storage.store import Store


@pytest.fixture(scope="module")
def exporters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    for program in ("prometheus-node-exporter", "prometheus"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    folder = tmp_path_factory.mktemp("real")
    (folder / "prometheus.yml").write_text("{}")
    addresses = {name: f"127.0.0.1:{free_port()}" for name in ("node", "prometheus")}
    node = ["prometheus-node-exporter", f"--web.listen-address={addresses['node']}"]
    prometheus = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={addresses['prometheus']}",
    ]
    urls = {name: f"http://{address}/metrics" for name, address in addresses.items()}
    with (
        started(node, urls["node"], folder / "node.log"),
        started(prometheus, urls["prometheus"], folder / "prometheus.log"),
    ):
        yield addresses


@pytest.mark.parametrize("job", ["node", "prometheus"])
async def test_real_exporter_is_scraped_whole(exporters: dict[str, str], job: str) -> None:
    address = exporters[job]
    _, text = get(f"http://{address}/metrics")
    page = Parser().parse(text.encode(), Syntax.TEXT)
    expected = {
        Labels.of({**new.labels, "job": job, "instance": address}): new.kind for new in page.new
    }
    sink = MemorySink()
    static = StaticConfig(targets=(address,))
    config = ScrapeConfig(job_name=job, static_configs=(static,)).resolved(GlobalSettings())
    async with open_session() as session:
        pool = ScrapePool(sink, ManualClock(), session)
        [source] = await pool.apply([config])
        for ts_ms in (1000, 2000, 3000):
            await source.collect(ts_ms)
    ticks = [tick for _, tick in sink.group(source.name).ticks]
    up = Labels.of({"job": job, "instance": address}, "up")
    assert [tick[up] for tick in ticks] == [1.0, 1.0, 1.0]
    assert len(expected) > 100
    # An exporter that is asked for the first times exposes some series more each time.
    assert expected.keys() <= ticks[-1].keys()
    assert {labels: sink.kinds[labels] for labels in expected} == expected
    assert Kind.COUNTER in expected.values()
    assert Kind.BUCKET in expected.values() or job == "node"
    added = Labels.of({"job": job, "instance": address}, "scrape_series_added")
    assert ticks[0][added] >= len(expected)
    assert ticks[-1][added] == 0.0


async def test_ticks_are_read_back_from_a_real_store(tmp_path: Path) -> None:
    clock = ManualClock()
    store = Store(store_settings(tmp_path / "data"), clock)
    await store.open()
    started_ms = clock.now_ms()
    try:
        async with Exporter() as exporter, open_session() as session:
            static = StaticConfig(targets=(exporter.address,))
            config = ScrapeConfig(job_name="j", static_configs=(static,))
            pool = ScrapePool(store, clock, session)
            [source] = await pool.apply([config.resolved(GlobalSettings())])
            for page in ("a 1\nb 2\n", f"a 3\nc 4 {started_ms + 5}\n", "bad\n", "a 5\n"):
                exporter.page = page
                await source.collect(clock.now_ms())
                await clock.advance(10_000)
            await pool.apply([])
            pool.end_removed()
        found = await read(store)
    finally:
        await store.close()
    one, two, four = bits([1.0, 2.0, 4.0])
    three, five, zero = bits([3.0, 5.0, 0.0])
    by_name = {
        labels.name: {ts_ms - started_ms: value for ts_ms, value in samples.items()}
        for labels, samples in found.items()
    }
    end = STALE_NAN_BITS
    assert by_name["a"] == {0: one, 10_000: three, 20_000: end, 30_000: five, 40_000: end}
    assert by_name["b"] == {0: two, 10_000: end}
    assert by_name["c"] == {5: four}
    assert by_name["up"] == {0: one, 10_000: one, 20_000: zero, 30_000: one, 40_000: end}
    assert {labels.get("job") for labels in found} == {"j"}
