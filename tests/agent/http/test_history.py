"""History into a real store and out of it, over a real connection."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import math
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from support.clock import ManualClock
from support.history import DAY, MIDNIGHT, SECOND
from support.store import FailingConnection, Samples, bits, put, put_points, read, store_settings
from tachograph.agent.http.errors import error_middleware
from tachograph.agent.http.history import HistoryEndpoint, HistoryStats
from tachograph.config.settings import HttpSettings, RetentionSettings, StorageLimits
from tachograph.storage.frame import STALE_NAN
from tachograph.storage.model import Kind, Labels, Metadata, MetricType
from tachograph.storage.store import Store

IMPORT, EXPORT = "/api/tachograph/v1/import", "/api/tachograph/v1/export"
GZIP = {"Content-Encoding": "gzip"}
HTTP = HttpSettings(max_body_bytes=8 << 20, body_timeout_ms=2_000)


@dataclass
class Box:
    """A store behind an HTTP server."""

    store: Store
    session: aiohttp.ClientSession
    url: str
    stats: HistoryStats

    async def post(
        self, body: Any, path: str = IMPORT, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        if isinstance(body, str | bytes):
            body = io.BytesIO(body.encode() if isinstance(body, str) else body)
        async with self.session.post(self.url + path, data=body, headers=headers) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else {}

    async def get(self, path: str = EXPORT, **params: Any) -> tuple[int, str]:
        async with self.session.get(self.url + path, params=params) as response:
            return response.status, await response.text()


@contextlib.asynccontextmanager
async def opened(path: Path, http: HttpSettings = HTTP, **changes: Any) -> AsyncIterator[Box]:
    clock = ManualClock(MIDNIGHT + 3 * DAY)
    keep = RetentionSettings(raw_ms=10 * DAY)
    store = Store(store_settings(path, retention=keep, **changes), clock)
    await store.open()
    flusher = asyncio.create_task(flush_on_demand(store))
    app = web.Application(middlewares=[error_middleware])
    endpoint = HistoryEndpoint(store, clock, http)
    app.add_routes(endpoint.routes())
    runner = TestServer(app)
    # As the agent's own server has it.
    await runner.start_server(auto_decompress=False)
    session = aiohttp.ClientSession(auto_decompress=False)
    try:
        yield Box(store, session, str(runner.make_url("/")).rstrip("/"), endpoint.stats)
    finally:
        flusher.cancel()
        await session.close()
        await runner.close()
        await store.close()


async def flush_on_demand(store: Store) -> None:
    """What Store.run does, without waiting for a clock that stands still."""
    while True:
        with contextlib.suppress(Exception):
            await store.flush()
        await asyncio.sleep(0.001)


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    async with opened(tmp_path / "data") as box:
        yield box


def line(name: str, samples: dict[int, Any], **labels: str) -> str:
    document = {
        "metric": {"__name__": name, **labels},
        "values": list(samples.values()),
        "timestamps": list(samples),
    }
    return json.dumps(document)


# -- in ----------------------------------------------------------------------------------------


async def test_what_is_imported_is_stored_and_committed(box: Box) -> None:
    lines = [
        line("up", {MIDNIGHT + 1: 1, MIDNIGHT + 2: None}, job="a"),
        line("down", {MIDNIGHT: 2}),
    ]
    status, answer = await box.post("\n".join(lines))
    assert status == 200
    assert answer["data"] == {
        "samples": 3,
        "refused": {},
        "faults": {},
        "badLines": 0,
        "firstBadLines": [],
        "days": ["2026-01-04", "2026-01-05"],
    }
    assert box.store.pending_samples == 0
    assert await read(box.store) == {
        Labels.of({"job": "a"}, "up"): {
            MIDNIGHT + 1: bits([1.0])[0],
            MIDNIGHT + 2: bits([STALE_NAN])[0],
        },
        Labels.of({}, "down"): {MIDNIGHT: bits([2.0])[0]},
    }


async def test_imported_again_it_is_the_same_and_the_later_value_wins(box: Box) -> None:
    for value in (1, 1, 7):
        await box.post(line("up", {MIDNIGHT + 1: value}))
        await box.store.seal()
    assert await read(box.store) == {Labels.of({}, "up"): {MIDNIGHT + 1: bits([7.0])[0]}}


async def test_what_cannot_be_stored_is_counted_by_reason(tmp_path: Path) -> None:
    async with opened(tmp_path / "data", limits=StorageLimits(series=2)) as box:
        lines = [
            line("a", {MIDNIGHT - 20 * DAY: 1, MIDNIGHT: 2, MIDNIGHT + 4 * DAY: 3}),
            line("b", {MIDNIGHT - 20 * DAY: 1}),
            "{",
            line("c", {MIDNIGHT: 1, MIDNIGHT + 1: 1}),
            json.dumps({"metric": {"x": "y"}, "values": [1], "timestamps": [MIDNIGHT]}),
            json.dumps({"metric": {"__name__": "d", "": "y"}, "values": [1], "timestamps": [1]}),
        ]
        status, answer = await box.post("\n".join(lines))
        assert status == 200
        data = answer["data"]
        assert data["samples"] == 1
        assert data["refused"] == {
            "too_old": 2,
            "future": 1,
            "series": 2,
            "no_name": 1,
            "labels": 1,
        }
        assert data["faults"]["too_old"] == "older than the raw retention"
        assert (data["badLines"], data["firstBadLines"][0]["line"]) == (1, 3)


async def test_types_make_kinds_and_metadata(box: Box) -> None:
    texts = [
        {"type": "counter", "help": "Jobs.", "unit": ""},
        {"type": "gauge"},
        {},
        {"type": "nonsense"},
    ]
    names = ["jobs_total", "level", "plain", "odd"]
    box.store.describe("plain", Metadata(MetricType.COUNTER, "Known."))
    lines = [
        json.dumps({**json.loads(line(name, {MIDNIGHT: 1})), **more})
        for name, more in zip(names, texts, strict=True)
    ]
    await box.post("\n".join(lines))
    kinds = {series.labels.name: series.kind for series in box.store.index.series()}
    assert kinds == {
        "jobs_total": Kind.COUNTER,
        "level": Kind.GAUGE,
        "plain": Kind.COUNTER,
        "odd": Kind.UNKNOWN,
    }
    assert box.store.families.metadata("jobs_total") == Metadata(MetricType.COUNTER, "Jobs.")
    assert box.store.families.metadata("plain") == Metadata(MetricType.COUNTER, "Known.")


async def test_a_long_body_comes_in_batches_that_are_committed_one_by_one(box: Box) -> None:
    text = line("x", {MIDNIGHT + i: i for i in range(100_000)}).encode()
    sent = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        for number in range(4):
            yield text.replace(b'"x"', b'"x%d"' % number) + b"\n"
        await sent.wait()
        yield line("last", {MIDNIGHT: 1}).encode()

    request = asyncio.create_task(box.post(body()))
    while box.store.stats.samples_committed < 200_000:
        await asyncio.sleep(0.01)
    assert not request.done(), "batches are in though the body isn't over"
    sent.set()
    status, answer = await request
    assert (status, answer["data"]["samples"]) == (200, 400_001)


async def test_packed_bodies_are_unpacked_as_they_come(box: Box) -> None:
    packed = b"".join(
        gzip.compress(line("x", {MIDNIGHT + i: i}, n=str(i)).encode() + b"\n") for i in range(50)
    )
    status, answer = await box.post(packed, **{"Content-Encoding": "gzip"})
    assert (status, answer["data"]["samples"]) == (200, 50)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"x", {"Content-Encoding": "gzip"}, 400),
        (gzip.compress(b"{}" * 1000)[:-4], {"Content-Encoding": "gzip"}, 400),
        (b"x", {"Content-Encoding": "br"}, 415),
        (b"{" * (9 << 20), {}, 413),
    ],
)
async def test_bodies_that_cannot_be_taken_are_refused(
    box: Box, body: bytes, headers: dict[str, str], status: int
) -> None:
    answered, answer = await box.post(body, **headers)
    assert (answered, answer["status"]) == (status, "error")


async def test_a_body_that_stalls_is_given_up(tmp_path: Path) -> None:
    async with opened(tmp_path / "data", replace(HTTP, body_timeout_ms=100)) as box:

        async def body() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.sleep(30)

        with contextlib.suppress(aiohttp.ClientError):
            status, _ = await box.post(body())
            assert status == 408


async def test_a_store_that_cannot_commit_says_so(box: Box) -> None:
    failing = FailingConnection.install(box.store)
    failing.fail_after(0)
    status, answer = await box.post(line("up", {MIDNIGHT: 1}))
    assert (status, answer["errorType"]) == (503, "unavailable")
    failing.heal()
    status, _ = await box.post(line("up", {MIDNIGHT: 1}))
    assert status == 200


async def test_victoria_metrics_senders_get_the_answers_they_know(box: Box) -> None:
    assert await box.post(line("up", {MIDNIGHT: 1}), "/api/v1/import") == (204, {})
    status, answer = await box.post(line("up", {1: 1}) + "\n{", "/api/v1/import")
    assert status == 400
    assert "1 samples: older than the raw retention; line 2: " in answer["error"]


async def test_what_came_in_is_counted_batch_by_batch(box: Box) -> None:
    good = line("up", {MIDNIGHT + 1: 1, MIDNIGHT + 2: 2})
    await box.post("\n".join([good, "{", line("old", {1: 1, 2: 2, 3: 3})]))
    expected = HistoryStats(imports=1, imported=2, refused=Counter({"too_old": 3}), bad_lines=1)
    assert box.stats == expected
    await box.post("")  # nothing in it
    assert box.stats == expected
    # A body that breaks off: its first batch is in, and counted.
    status, _ = await box.post(gzip.compress((good + "\n").encode() * 80_000)[:-20], **GZIP)
    assert status == 400
    assert box.stats.imports == 2
    assert box.stats.imported > 80_000


# -- out ---------------------------------------------------------------------------------------


async def filled(store: Store) -> None:
    """Series of every kind with what is hard to write down."""
    odd = Labels.of({"le ": 'a"b\\c\nd', "ключ": "{}", "type": "x"}, "http.requests")
    tick = {
        Labels.of({"job": "a"}, "jobs_total"): 5.0,
        Labels.of({"le": "0.5"}, "lag_bucket"): 1.0,
        Labels.of({"le": "+Inf"}, "lag_bucket"): 2.0,
        Labels.of({}, "lag_count"): 2.0,
    }
    kinds = [Kind.COUNTER, Kind.BUCKET, Kind.BUCKET, Kind.COUNTER]
    store.describe("lag", Metadata(MetricType.HISTOGRAM, "How late."))
    group = store.group("host")
    refs = np.array([group.ref(*each) for each in zip(tick, kinds, strict=True)], np.uint32)
    for day in range(3):
        for step in range(1, 30):
            ts_ms = MIDNIGHT + (day - 2) * DAY + step * 700 * SECOND + step
            values = np.array(list(tick.values())) * step
            if step == 20:
                values[:] = STALE_NAN
            group.append(ts_ms, refs[: None if step % 4 else 2], values[: None if step % 4 else 2])
        put(store.group("other"), MIDNIGHT + day * SECOND, {odd: math.nan}, Kind.GAUGE)
        if day == 1:
            await store.seal()
    special = [math.inf, -math.inf, math.nan, STALE_NAN, -0.0, 5e-324, 0.1, 1e300]
    put_points(store, [(odd, MIDNIGHT - DAY + i, value) for i, value in enumerate(special)])


def kinds(store: Store) -> dict[Labels, Kind]:
    return {series.labels: series.kind for series in store.index.series()}


async def test_an_export_that_is_imported_is_the_same_store(tmp_path: Path) -> None:
    async with opened(tmp_path / "a") as a, opened(tmp_path / "b") as b:
        await filled(a.store)
        whole = await read(a.store)
        for path, into in ((EXPORT, IMPORT), ("/api/v1/export", "/api/v1/import")):
            status, text = await a.get(path)
            assert status == 200
            status, _ = await b.post(text.encode(), into)
            assert status in (200, 204)
            assert await read(b.store) == whole
        assert kinds(b.store) == kinds(a.store)
        assert b.store.families.metadata("lag") == a.store.families.metadata("lag")


async def test_selectors_and_times_choose_what_is_exported(box: Box) -> None:
    await filled(box.store)
    whole = await read(box.store)

    async def exported(**params: Any) -> Samples:
        _, text = await box.get(**params)
        found: Samples = {}
        for each in map(json.loads, text.splitlines()):
            times = found.setdefault(Labels.of(each["metric"]), {})
            times.update(dict.fromkeys(each["timestamps"], 0))
        return found

    some = await exported(**{"match[]": '{__name__=~"lag.*"}'})
    assert {labels.name for labels in some} == {"lag_bucket", "lag_count"}
    low, high = MIDNIGHT - DAY, MIDNIGHT - DAY + 5
    some = await exported(start=low / 1000, end=high / 1000)
    expected = {
        labels: {ts for ts in samples if low <= ts <= high} for labels, samples in whole.items()
    }
    assert {labels: set(times) for labels, times in some.items()} == {
        labels: times for labels, times in expected.items() if times
    }
    assert await exported(**{"match[]": "nothing"}) == {}


async def test_the_other_formats_have_their_shapes(box: Box) -> None:
    await filled(box.store)
    status, text = await box.get(format="csv", **{"match[]": "jobs_total"})
    assert (status, text.splitlines()[:2]) == (
        200,
        ["metric,type,time,value", '"jobs_total{job=""a""}",counter,1767399100.001,5.0'],
    )
    _, text = await box.get(format="openmetrics", **{"match[]": '{__name__=~"lag.*"}'})
    lines = text.splitlines()
    assert lines[:3] == [
        "# TYPE lag histogram",
        "# HELP lag How late.",
        'lag_bucket{le="+Inf"} 2.0 1767399100.001',
    ]
    assert lines[-1] == "# EOF"
    status, text = await box.get(format="xml")
    assert status == 400
    assert '"xml" is not one of vm-jsonl, csv, openmetrics' in json.loads(text)["error"]


async def test_only_so_many_exports_run_at_a_time(box: Box) -> None:
    lines = [line("x", {MIDNIGHT + i: i / 7 for i in range(100_000)}, n=str(n)) for n in range(12)]
    await box.post("\n".join(lines))
    url = box.url + EXPORT
    async with box.session.get(url) as first, box.session.get(url) as second:
        assert (first.status, second.status) == (200, 200)
        assert box.stats.exporting == 2
        status, _ = await box.get()
        assert status == 429
        await second.read()
    status, text = await box.get()
    assert (status, len(text.splitlines())) == (200, 12)
    stats = box.stats
    assert (stats.exports, stats.exports_refused, stats.exporting) == (3, 1, 0)
    # Of the first one only what was read before it was cut off.
    assert 2_400_000 <= stats.exported <= 3_600_000
