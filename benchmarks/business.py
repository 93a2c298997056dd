"""
What business sources and the cardinality page cost: CPU a pass, and time at 100,000 series.

``python benchmarks/business.py``
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from tachograph.agent.collectors.business import business_sources
from tachograph.agent.collectors.scrape_http import open_session
from tachograph.agent.http.cardinality import summarize
from tachograph.config import Config
from tachograph.config.secret import Secret
from tachograph.config.settings import StorageSettings
from tachograph.config.sources import (
    AnySource,
    CommandSource,
    HttpJsonSource,
    JsonMetric,
    SqlMetric,
    SqlSource,
)
from tachograph.storage.clock import SystemClock
from tachograph.storage.model import Kind, Labels, Series
from tachograph.storage.store import Store

ROWS = 100
PASSES = 100


def sources(database: Path, url: str) -> tuple[AnySource, ...]:
    return (
        SqlSource(
            name="sql",
            url=Secret(f"sqlite:///{database}"),
            query="SELECT id, value FROM t",
            metrics=(SqlMetric(name="sql_value", value="value", labels=("id",)),),
        ),
        HttpJsonSource(
            name="json",
            url=url,
            metrics=(
                JsonMetric(name="json_value", items="rows[]", value="value", labels={"id": "id"}),
            ),
        ),
        CommandSource(name="command", command=("true",)),
    )


async def measure_passes() -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "b.db"
        with sqlite3.connect(database) as connection:
            connection.execute("CREATE TABLE t (id TEXT, value REAL)")
            connection.executemany(
                "INSERT INTO t VALUES (?, ?)", [(f"r{n}", n) for n in range(ROWS)]
            )
        connection.close()
        document = json.dumps({"rows": [{"id": f"r{n}", "value": n} for n in range(ROWS)]})

        async def answer(_: web.Request) -> web.Response:
            return web.Response(text=document, content_type="application/json")

        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        store = Store(StorageSettings(path=Path(folder) / "data"), SystemClock())
        await store.open()
        async with open_session() as session:
            for source in business_sources(Config(sources=sources(database, url)), store, session):
                await source.collect(store.clock.now_ms())
                began_s, cpu_s = time.perf_counter(), time.process_time()
                for _ in range(PASSES):
                    await source.collect(store.clock.now_ms())
                cpu_ms = (time.process_time() - cpu_s) / PASSES * 1000
                wall_ms = (time.perf_counter() - began_s) / PASSES * 1000
                print(f"{source.name:20} {cpu_ms:8.2f} ms CPU {wall_ms:8.2f} ms a pass")
                await source.close()
        await store.close()
        await runner.cleanup()


def best_ms(job: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        began_s = time.perf_counter()
        job()
        times.append(time.perf_counter() - began_s)
    return min(times) * 1000


def measure_cardinality() -> None:
    series = [
        Series(
            n,
            Labels.of(
                {"instance": f"i{n % 50}", "method": f"m{n % 5}", "user": f"u{n}", "job": "api"},
                f"metric_{n % 400}",
            ),
            Kind.GAUGE,
            0,
        )
        for n in range(100_000)
    ]
    names = [f"scrape/{n % 20}" for n in range(len(series))]
    took_ms = best_ms(lambda: summarize(series, names, 10))
    print(f"cardinality of {len(series):,} series {took_ms:8.0f} ms, in a thread")


if __name__ == "__main__":
    print(f"{ROWS} series each (the JSON server's own CPU is in its line)")
    asyncio.run(measure_passes())
    measure_cardinality()
