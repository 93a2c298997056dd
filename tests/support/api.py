"""Prometheus' API over a real store and a real server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

from support.clock import ManualClock
from support.store import store_settings
from tachograph.agent.http.prometheus import PrometheusApi
from tachograph.agent.http.server import HttpServer
from tachograph.agent.http.status import ProcessFacts
from tachograph.agent.http.targets import Targets
from tachograph.agent.wire import prompb, snappy
from tachograph.config import Config
from tachograph.config.settings import HttpSettings, PromqlSettings, RetentionSettings
from tachograph.storage.errors import StorageError
from tachograph.storage.store import Store

#: Whoever looks back far enough sees every sample that a test wrote.
FOREVER = RetentionSettings(raw_ms=100 * 365 * 86_400_000)

Samples = Sequence[tuple[float, int]]


@dataclass
class Answer:
    """An HTTP answer; ``json`` is its body where that is JSON."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    json: Any = field(default=None)

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def data(self) -> Any:
        """The data of an answer that worked."""
        assert self.status == 200, self.text
        assert self.json["status"] == "success"
        return self.json["data"]

    @property
    def error(self) -> tuple[int, str, str]:
        """Status, ``errorType`` and text of an answer that did not."""
        assert self.json["status"] == "error"
        return self.status, self.json["errorType"], self.json["error"]


class Api:
    """A running API, and one client of it."""

    def __init__(self, clock: ManualClock, store: Store, parts: PrometheusApi, base: str) -> None:
        self.clock, self.store, self.parts, self.base = clock, store, parts, base
        self.session = aiohttp.ClientSession(auto_decompress=False)
        self.targets = Targets()

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        headers = {"Accept-Encoding": "identity", **options.pop("headers", {})}
        async with self.session.request(
            method, self.base + path, headers=headers, allow_redirects=False, **options
        ) as response:
            body = await response.read()
            found = None
            if response.content_type == "application/json" and not response.headers.get(
                "Content-Encoding"
            ):
                found = json.loads(body)
            return Answer(response.status, response.headers, body, found)

    async def get(self, path: str, **params: Any) -> Answer:
        return await self.ask("GET", path, params=_pairs(params))

    async def post(self, path: str, **params: Any) -> Answer:
        return await self.ask("POST", path, data=dict(params) if params else None)

    async def query(self, text: str, time_s: float | None = None, **params: Any) -> Any:
        """The result of an instant query."""
        if time_s is None:
            time_s = self.clock.now_ms() / 1000
        answer = await self.get("/api/v1/query", query=text, time=str(time_s), **params)
        return answer.data["result"]

    async def write(self, body: bytes, **headers: str) -> Answer:
        """Send a remote write request; the body is packed here."""
        usual = {
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "snappy",
            "X-Prometheus-Remote-Write-Version": "0.1.0",
        }
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.ask(
            "POST", "/api/v1/write", data=snappy.compress(body), headers={**usual, **given}
        )

    async def load(self, series: Mapping[str, Samples]) -> None:
        """Store series, by PromQL's spelling of their labels, with values and times."""
        body = prompb.write_request(
            (labels_of(spelling), samples) for spelling, samples in series.items()
        )
        answer = await self.write(body)
        assert answer.status == 204, answer.text


def labels_of(spelling: str) -> list[tuple[str, str]]:
    """Read ``up{job="x"}`` into pairs, sorted by name."""
    from tachograph.config.selector import parse_selector

    return sorted((matcher.name, matcher.value) for matcher in parse_selector(spelling))


@asynccontextmanager
async def serving(
    path: Path,
    *,
    clock: ManualClock | None = None,
    http: HttpSettings | None = None,
    promql: PromqlSettings | None = None,
    external: Mapping[str, str] | None = None,
    **storage: Any,
) -> AsyncIterator[Api]:
    """Serve the API of a store in ``path``; ``storage`` changes its settings."""
    clock = clock or ManualClock()
    settings = store_settings(path, **{"retention": FOREVER, **storage})
    config = replace(
        Config(external_labels=external or {}),
        storage=settings,
        http=http or HttpSettings(),
        promql=promql or PromqlSettings(),
    )
    store = Store(settings, clock, readers=config.promql.max_concurrency + 1)
    await store.open()
    facts = ProcessFacts("1.2.3", clock.now_ms(), lambda: config, lambda: (True, 1.5))
    holder: list[Api] = []
    parts = PrometheusApi(store, clock, config, facts, lambda: holder[0].targets)
    server = HttpServer("127.0.0.1:0", config.http, parts.routes())
    await server.start()
    flushing = asyncio.create_task(_flush_when_wanted(store))
    api = Api(clock, store, parts, server.url)
    holder.append(api)
    try:
        yield api
    finally:
        await api.session.close()
        await server.stop()
        flushing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await flushing
        await store.close()


async def _flush_when_wanted(store: Store) -> None:
    # What Store.run does, without waiting for a clock that stands still.
    while True:
        await store._intake.wanted.wait()
        with contextlib.suppress(StorageError):
            await store.flush()


def _pairs(params: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in params.items():
        name = {"match": "match[]"}.get(name, name)
        values = value if isinstance(value, list) else [value]
        pairs += [(name, str(each)) for each in values]
    return pairs
