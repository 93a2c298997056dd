"""JSON documents as business figures, over real HTTP."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from support.sink import MemorySink
from tachograph.agent.collectors.business import business_sources
from tachograph.agent.collectors.figures import SourceError
from tachograph.agent.collectors.json_document import JsonReader
from tachograph.agent.collectors.scrape_http import open_session
from tachograph.agent.collectors.source import Noting, Source
from tachograph.config import Config
from tachograph.config.prometheus import Authorization, BasicAuth, HttpClient, HttpHeader
from tachograph.config.secret import Secret
from tachograph.config.sources import HttpJsonSource, JsonMetric

FLEET = {
    "vehicles": [
        {"id": 1, "battery": 0.5, "online": True, "load": None},
        {"id": 2, "battery": "0.25", "online": False, "load": 7},
    ],
    "queue": {"high": 2, "low": 0},
}
BATTERY = JsonMetric(
    name="vehicle_battery_ratio", items="vehicles[]", value="battery", labels={"vehicle": "id"}
)


class Peer:
    """Answers every request with ``body``, and remembers the last one."""

    def __init__(self) -> None:
        self.body: bytes = json.dumps(FLEET).encode()
        self.status = 200
        self.headers: dict[str, str] = {"Content-Type": "application/json"}
        self.url = ""
        self.request: web.Request | None = None

    async def answer(self, request: web.Request) -> web.Response:
        self.request = request
        return web.Response(body=self.body, status=self.status, headers=self.headers)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    app = web.Application()
    app.router.add_get("/{path:.*}", peer.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    peer.url = f"http://127.0.0.1:{runner.addresses[0][1]}/fleet"
    yield peer
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as session:
        yield session


def source(sink: MemorySink, session: aiohttp.ClientSession, url: str, **changes: Any) -> Source:
    given = {"metrics": (BATTERY,), **changes}
    settings = HttpJsonSource(name="fleet", url=url, **given)
    (made,) = business_sources(Config(namespace="oht50", sources=(settings,)), sink, session)
    return made


async def collected(session: aiohttp.ClientSession, peer: Peer, **changes: Any) -> dict[str, float]:
    sink = MemorySink()
    asked = source(sink, session, peer.url, **changes)
    await asked.collect(1_000)
    await asked.close()
    return {str(labels): value for labels, value in sink.group("http_json/fleet").last.items()}


async def refused(session: aiohttp.ClientSession, url: str, **changes: Any) -> str:
    asked = source(MemorySink(), session, url, **changes)
    with pytest.raises(SourceError) as caught:
        await asked.collect(1_000)
    await asked.close()
    return str(caught.value)


async def test_items_become_series(peer: Peer, session: aiohttp.ClientSession) -> None:
    assert await collected(session, peer) == {
        'oht50_vehicle_battery_ratio{vehicle="1"}': 0.5,
        'oht50_vehicle_battery_ratio{vehicle="2"}': 0.25,
    }
    assert peer.request is not None
    assert peer.request.headers["Accept"] == "application/json"


async def test_the_document_itself_and_other_types_are_values(
    peer: Peer, session: aiohttp.ClientSession
) -> None:
    metrics = (
        JsonMetric(name="vehicles", value="length(vehicles)"),
        JsonMetric(name="online", items="vehicles[]", value="online", labels={"v": "id"}),
        JsonMetric(name="load", items="vehicles[]", value="load", labels={"v": "id"}),
        JsonMetric(name="nowhere", items="trucks[]", value="load"),
    )
    assert await collected(session, peer, metrics=metrics, namespace="") == {
        "vehicles": 2.0,
        'online{v="1"}': 1.0,
        'online{v="2"}': 0.0,
        'load{v="2"}': 7.0,
    }


async def test_a_long_and_a_packed_document_are_read_in_a_thread(
    peer: Peer, session: aiohttp.ClientSession
) -> None:
    many = [{"id": n, "battery": n / 1000} for n in range(1000)]
    peer.body = json.dumps({"vehicles": many}).encode()
    assert len(await collected(session, peer)) == 1000
    peer.body = gzip.compress(peer.body)
    peer.headers["Content-Encoding"] = "gzip"
    assert len(await collected(session, peer)) == 1000


async def test_expressions_that_match_nothing_are_counted_and_told_once(
    peer: Peer, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = (
        BATTERY,
        JsonMetric(name="trucks", items="trucks[]", value="load"),
        JsonMetric(name="typo", items="vehicles[]", value="batery", labels={"v": "id"}),
        JsonMetric(name="depth", value="queue.depth"),
        JsonMetric(name="none_online", items="vehicles[?id > `7`]", value="load"),
    )
    settings = HttpJsonSource(name="fleet", url=peer.url, metrics=metrics)
    reader = JsonReader(settings, session, 5.0)
    notes = [
        "trucks: items: 'trucks[]' matches nothing in the document",
        "typo: value: 'batery' matches nothing in any item",
        "depth: value: 'queue.depth' matches nothing in the document",
    ]
    for _ in range(2):
        assert len(await reader.read()) == 2
        assert reader.note == "; ".join(notes)
    assert reader.stats.unmatched == {"trucks": 2, "typo": 2, "depth": 2}
    assert caplog.messages == [f"source http_json/fleet: {note}" for note in notes]
    peer.body = json.dumps({**FLEET, "trucks": [], "queue": {"depth": 1}}).encode()
    assert len(await reader.read()) == 3
    assert reader.note == notes[1]
    await reader.close()


async def test_what_a_pass_lacked_is_part_of_the_status(
    peer: Peer, session: aiohttp.ClientSession
) -> None:
    metrics = (JsonMetric(name="depth", value="queue.depth"),)
    asked = source(MemorySink(), session, peer.url, metrics=metrics)
    assert isinstance(asked, Noting)
    await asked.collect(1_000)
    assert asked.note == "depth: value: 'queue.depth' matches nothing in the document"
    await asked.close()


@pytest.mark.parametrize(
    ("body", "changes", "said"),
    [
        (b"<html>", {}, "not JSON"),
        (b"", {}, "not JSON"),
        (b"[" * 100_000, {}, "not JSON"),
        (b'{"vehicles": {"id": 1}}', {"metrics": (JsonMetric(name="x", items="vehicles"),)},
         "x: items lead to no list"),
        (b'{"vehicles": [{"id": 1, "battery": "full"}]}', {}, "'full' is not a number"),
        (b'{"vehicles": [{"id": [1], "battery": 1}]}', {}, "label vehicle: [1] is not a single"),
        (b'{"vehicles": [{"battery": 1}, {"battery": 2}]}', {}, "two values for"),
        (json.dumps(FLEET).encode(), {"max_series": 1}, "2 items, more than max_series (1)"),
        (json.dumps(FLEET).encode(), {"metrics": (JsonMetric(name="x", value="length(@)"),
                                                  JsonMetric(name="y", value="sum(@)"))},
         "y: In function sum()"),
        (b" " * 2000, {"max_bytes": 1024}, "more than 1024 bytes"),
    ],
)  # fmt: skip
async def test_a_document_that_does_not_fit_is_refused(
    peer: Peer,
    session: aiohttp.ClientSession,
    body: bytes,
    changes: dict[str, Any],
    said: str,
) -> None:
    peer.body = body
    assert said in await refused(session, peer.url, **changes)


async def test_secrets_are_sent_and_never_told(peer: Peer, session: aiohttp.ClientSession) -> None:
    client = HttpClient(
        authorization=Authorization(credentials=Secret("token-s3cret")),
        http_headers={"X-Key": HttpHeader(secrets=(Secret("header-s3cret"),))},
        follow_redirects=True,
    )
    changes = {"http_config": client, "params": {"key": Secret("param-s3cret")}}
    assert len(await collected(session, peer, **changes)) == 2
    assert peer.request is not None
    assert peer.request.query["key"] == "param-s3cret"
    assert peer.request.headers["Authorization"] == "Bearer token-s3cret"
    assert peer.request.headers["X-Key"] == "header-s3cret"
    peer.status = 302
    peer.headers["Location"] = "ftp://x/?a=param-s3cret&b=token-s3cret&c=header-s3cret"
    text = await refused(session, peer.url, **changes)
    assert "leads to" in text
    assert "s3cret" not in text


@pytest.mark.parametrize("said", ["{}", "x" * 40 + " {}"], ids=["whole", "cut off"])
async def test_a_server_that_says_secrets_back_does_not_get_them_told(
    peer: Peer, session: aiohttp.ClientSession, tmp_path: Path, said: str
) -> None:
    (tmp_path / "token").write_text("file-s3cret-of-some-length\n")
    bearer = HttpClient(
        authorization=Authorization(credentials_file=tmp_path / "token"),
        http_headers={"X-Key": HttpHeader(files=(tmp_path / "token",))},
    )
    basic = HttpClient(basic_auth=BasicAuth(username="u", password_file=tmp_path / "token"))
    for client in (bearer, basic):
        peer.body = b"{}"
        await refused(session, peer.url, http_config=client, metrics=[JsonMetric(name="x")])
        assert peer.request is not None
        sent = peer.request.headers["Authorization"]
        peer.body = json.dumps({"echo": said.format(sent)}).encode()
        metric = JsonMetric(name="x", value="echo")
        text = await refused(session, peer.url, http_config=client, metrics=[metric])
        assert "is not a number" in text
        assert "<secret>" in text
        assert sent.partition(" ")[2][:5] not in text


async def test_an_error_status_fails_the_pass(peer: Peer, session: aiohttp.ClientSession) -> None:
    peer.status = 503
    assert "HTTP status 503" in await refused(session, peer.url)


async def test_equal_sources_are_one_to_a_reload(
    peer: Peer, session: aiohttp.ClientSession
) -> None:
    first, second = (source(MemorySink(), session, peer.url) for _ in range(2))
    assert first == second
    assert first != source(MemorySink(), session, peer.url, max_series=2)
