"""``POST /api/tachograph/v1/points`` over a real connection, into a store in memory."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from support.clock import ManualClock
from tachograph.agent.http.errors import error_middleware
from tachograph.agent.http.points import PATH, PointsEndpoint
from tachograph.agent.ingest.kept import PushedPoint
from tachograph.config.settings import HttpSettings, StorageLimits
from tachograph.storage.errors import SeriesRefused, StoreUnavailable
from tachograph.storage.frame import FloatArray, IntArray, RefArray
from tachograph.storage.metadata import Families
from tachograph.storage.model import Kind, Labels, Metadata, MetricType

NOW_MS = 1_795_000_000_000
JSON = "application/json"


@dataclass
class Refusal:
    reasons: tuple[str, ...]


class PointsStore:
    """Keeps points in a list; refuses what a test wants refused."""

    def __init__(self) -> None:
        self.families = Families()
        self.series: dict[Labels, int] = {}
        self.points: list[tuple[str, int, float]] = []
        self.commits = 0
        self.calls = 0
        self.appended = asyncio.Event()
        self.limit = 1_000_000
        self.oldest_ms = 0
        self.unavailable = ""
        self.commit_gate: asyncio.Event | None = None

    def group(self, name: str) -> PointsStore:
        assert name == "points"
        return self

    def ref(self, labels: Labels, kind: Kind = Kind.UNKNOWN) -> int:
        if labels not in self.series and len(self.series) >= self.limit:
            raise SeriesRefused("series", f"{labels}: the limit is reached")
        return self.series.setdefault(labels, len(self.series) + 1)

    def append(self, ts_ms: int, refs: RefArray, values: FloatArray) -> None:
        raise AssertionError("points have times of their own")

    def describe(self, family: str, metadata: Metadata) -> None:
        assert self.families.set(family, metadata), "nothing new, so nothing to write"

    def append_points(self, refs: RefArray, ts_ms: IntArray, values: FloatArray) -> Refusal | None:
        if self.unavailable == "append":
            raise StoreUnavailable("the disk is full")
        self.calls += 1
        self.appended.set()
        names = [str(labels) for labels in self.series]
        reasons = tuple("too old" if ts < self.oldest_ms else "" for ts in ts_ms.tolist())
        self.points += [
            (names[ref - 1], ts, value)
            for ref, ts, value, reason in zip(
                refs.tolist(), ts_ms.tolist(), values.tolist(), reasons, strict=True
            )
            if not reason
        ]
        return Refusal(reasons) if any(reasons) else None

    async def committed(self) -> None:
        if self.commit_gate is not None:
            await self.commit_gate.wait()
        if self.unavailable == "commit":
            raise StoreUnavailable("the disk is full")
        self.commits += 1


class PointsKeeper:
    """Remembers what it was given to keep, and keeps one point at the most."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[float, int]] = {}
        self.refs: set[int] = set()

    def concerns(self, refs: RefArray) -> bool:
        return not self.refs.isdisjoint(refs.tolist())

    async def keep(self, points: Sequence[PushedPoint]) -> list[str]:
        reasons = []
        for point in points:
            name = str(point.labels)
            is_full = bool(point.ttl_ms) and len(self.kept) == 1 and name not in self.kept
            reasons.append("too many" if is_full else "")
            if not point.ttl_ms:
                self.kept.pop(name, None)
            elif not is_full:
                self.kept[name] = (point.value, point.ttl_ms)
                self.refs.add(point.ref)
        return reasons


class Server:
    """The endpoint on a loopback port, and a client for it."""

    def __init__(self) -> None:
        self.store = PointsStore()
        self.keeper = PointsKeeper()
        self.endpoint = PointsEndpoint(
            self.store,
            ManualClock(NOW_MS),
            StorageLimits(),
            HttpSettings(max_body_bytes=1 << 20),
            self.keeper,
        )
        app = web.Application(middlewares=[error_middleware])
        app.add_routes(self.endpoint.routes())
        self._server = TestServer(app)
        self._session = aiohttp.ClientSession()

    async def start(self) -> None:
        await self._server.start_server(auto_decompress=False)

    async def close(self) -> None:
        await self._session.close()
        await self._server.close()

    async def post(
        self, body: object, content_type: str = JSON, **headers: str
    ) -> tuple[int, dict[str, object]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": content_type} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        url = self._server.make_url(PATH)
        async with self._session.post(url, data=io.BytesIO(data), headers=headers) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else {}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    yield server
    await server.close()
    assert server.endpoint.budget.used_bytes == 0


async def test_good_points_are_committed_before_the_answer(server: Server) -> None:
    gate = server.store.commit_gate = asyncio.Event()
    request = asyncio.create_task(
        server.post([{"name": "a", "value": 1, "ts": 1_794_000_000_000}, {"name": "b", "value": 2}])
    )
    await server.store.appended.wait()
    assert not request.done()
    gate.set()
    assert await request == (204, {})
    assert server.store.points == [("a", 1_794_000_000_000, 1.0), ("b", NOW_MS, 2.0)]
    assert server.store.commits == 1
    assert server.endpoint.stats.stored == 2


@pytest.mark.parametrize(
    ("body", "content_type", "coding"),
    [
        (b'{"name":"a","value":1}', JSON, ""),
        (b'{"name":"a","value":1}', "application/json; charset=utf-8", ""),
        (b'{"name":"a","value":1}\n', "application/x-ndjson", ""),
        (gzip.compress(b'{"name":"a","value":1}'), JSON, "gzip"),
        (b'[{"name":"a","value":1}' + b" " * 20_000 + b"]", JSON, ""),
    ],
)
async def test_shapes_and_codings(
    server: Server, body: bytes, content_type: str, coding: str
) -> None:
    headers = {"Content_Encoding": coding} if coding else {}
    assert await server.post(body, content_type, **headers) == (204, {})
    assert server.store.points == [("a", NOW_MS, 1.0)]


async def test_bad_points_are_listed_and_the_good_ones_committed(server: Server) -> None:
    server.store.limit = 2
    server.store.oldest_ms = NOW_MS - 1000
    points = [
        {"name": "a", "value": 1},
        {"name": "a", "value": "much"},
        {"name": "a", "value": 1, "ts": NOW_MS - 2000},
        {"name": "b", "value": 1},
        {"name": "c", "value": 1},
        {"name": "a", "value": 2, "ts": NOW_MS - 1},
    ]
    status, answer = await server.post(points)
    assert status == 400
    assert answer == {
        "status": "error",
        "errorType": "bad_data",
        "error": "3 of 6 points refused; the first is 1: the value is neither a number nor "
        '"NaN", "+Inf" or "-Inf"',
        "stored": 3,
        "refused": [
            {
                "index": 1,
                "reason": 'the value is neither a number nor "NaN", "+Inf" or "-Inf"',
            },
            {"index": 2, "reason": "too old"},
            {"index": 4, "reason": "c: the limit is reached"},
        ],
    }
    assert [name for name, _, _ in server.store.points] == ["a", "b", "a"]
    assert server.store.commits == 1
    assert server.endpoint.stats.refused == {"decoder": 1, "store": 1, "limits": 1}


async def test_bad_point_makes_no_series(server: Server) -> None:
    status, _ = await server.post([{"name": "a", "value": None}, {"name": "b", "value": 1}])
    assert status == 400
    assert list(server.store.series) == [Labels.of({}, "b")]


async def test_list_of_bad_points_is_bounded(server: Server) -> None:
    server.store.limit = 0
    points = [{"name": "a", "value": 1, "labels": {"x": "y" * 300}}] * 1500
    status, answer = await server.post(points)
    assert status == 400
    refused = answer["refused"]
    assert isinstance(refused, list)
    assert len(refused) == 1000
    assert {len(one["reason"]) for one in refused} == {200}
    assert str(answer["error"]).startswith("1500 of 1500 points refused")


async def test_many_points_are_all_stored_in_order(server: Server) -> None:
    points = [{"name": f"m{n % 700}", "value": n} for n in range(45_000)]
    body = gzip.compress(json.dumps(points).encode())
    server.endpoint._body_bytes_max = 4 << 20
    server.endpoint.budget.max_bytes = 16 << 20
    assert await server.post(body, Content_Encoding="gzip") == (204, {})
    assert [value for _, _, value in server.store.points] == list(range(45_000))
    assert server.store.calls == 3


async def test_no_points_are_no_mistake(server: Server) -> None:
    assert await server.post([]) == (204, {})


@pytest.mark.parametrize("when", ["append", "commit"])
async def test_store_that_can_not_take_them_is_503(server: Server, when: str) -> None:
    server.store.unavailable = when
    status, answer = await server.post([{"name": "a", "value": 1}, {}])
    assert (status, answer["errorType"], answer["error"]) == (
        503,
        "unavailable",
        "the disk is full",
    )


@pytest.mark.parametrize(
    ("content_type", "named"),
    [
        ("text/plain", "text/plain"),
        ("application/x-www-form-urlencoded", "application/x-www-form-urlencoded"),
        ("", "application/octet-stream"),
    ],
)
async def test_other_content_types_are_415(server: Server, content_type: str, named: str) -> None:
    status, answer = await server.post([{"name": "a", "value": 1}], content_type)
    assert status == 415
    assert str(answer["error"]).startswith(f"Content-Type '{named}' is not application/json")
    assert server.store.points == []


async def test_unknown_coding_is_415(server: Server) -> None:
    assert (await server.post([], Content_Encoding="br"))[0] == 415


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[", 400),
        (b"", 400),
        (b"\xff", 400),
        (b"[" + b"1," * 100_000 + b"1]", 413),
        (b" " * ((1 << 20) + 1), 413),
    ],
)
async def test_body_that_can_not_be_read_stores_nothing(
    server: Server, body: bytes, status: int
) -> None:
    got, answer = await server.post(body)
    assert (got, answer["errorType"]) == (status, "bad_data")
    assert server.store.commits == 0


async def test_too_many_bodies_at_once_are_429(server: Server) -> None:
    with server.endpoint.budget.share() as share:
        share.take(4 << 20)
        assert (await server.post({"name": "a", "value": 1}))[0] == 429
    assert (await server.post({"name": "a", "value": 1}))[0] == 204


async def test_metadata_is_kept_and_only_news_are_told_to_the_store(server: Server) -> None:
    point = {"name": "a_total", "value": 1, "type": "counter", "help": "Some.", "unit": "s"}
    assert (await server.post(point))[0] == 204
    known = Metadata(MetricType.COUNTER, "Some.", "s")
    assert server.store.families.metadata("a_total") == known
    assert (await server.post({"name": "a_total", "value": 2, "type": "counter"}))[0] == 204
    assert (await server.post({"name": "a_total", "value": 2, "help": "Some."}))[0] == 204
    assert server.store.families.metadata("a_total") == known
    server.store.limit = 1
    await server.post({"name": "b_total", "value": 1, "type": "counter"})
    assert server.store.families.metadata("b_total") is None


async def test_requests_side_by_side_lose_nothing(server: Server) -> None:
    filler = " " * 9000  # long enough to be decoded in another thread
    bodies = [
        f'[{{"name":"a","value":{n}}},{filler}{{"name":"b","value":{n}}}]'.encode()
        for n in range(30)
    ]
    answers = await asyncio.gather(*(server.post(body) for body in bodies))
    assert {status for status, _ in answers} == {204}
    assert sorted(server.store.points) == sorted(
        (name, NOW_MS, float(n)) for name in "ab" for n in range(30)
    )


async def test_a_ttl_reaches_the_keeper_and_a_push_without_one_ends_it(server: Server) -> None:
    point = {"name": "a", "value": 1, "ttl": "2d"}
    assert await server.post(point) == (204, {})
    assert server.keeper.kept == {"a": (1.0, 172_800_000)}
    assert await server.post({"name": "b", "value": 2}) == (204, {})
    assert server.keeper.kept == {"a": (1.0, 172_800_000)}
    status, answer = await server.post([point, {"name": "c", "value": 3, "ttl": "1h"}])
    assert status == 400
    assert answer["refused"] == [{"index": 1, "reason": "too many"}]
    assert answer["stored"] == 1
    assert server.endpoint.stats.refused["keeper"] == 1
    assert await server.post({"name": "a", "value": 4}) == (204, {})
    assert server.keeper.kept == {}


async def test_points_that_the_store_refuses_are_not_kept(server: Server) -> None:
    server.store.oldest_ms = NOW_MS
    old = {"name": "a", "value": 1, "ttl": "2d", "timestamp": NOW_MS - 1}
    status, _ = await server.post([old, {"name": "b", "value": 2, "ttl": "1h"}])
    assert status == 400
    assert server.keeper.kept == {"b": (2.0, 3_600_000)}
