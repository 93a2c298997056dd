"""The whole agent, in this process, over real HTTP: what goes in comes out, restarts included."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tachograph.agent.app import Agent
from tachograph.agent.http.server import ListenError
from tachograph.agent.tail import tail
from tachograph.agent.wire import prompb, snappy
from tachograph.config import Config, load_config
from tachograph.storage.errors import StoreLocked


def config(directory: Path, *overrides: str) -> Config:
    return load_config(
        None, env={}, overrides=["listen=127.0.0.1:0", f"storage.path={directory}", *overrides]
    )


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def get(session: aiohttp.ClientSession, url: str, **params: str) -> Any:
    async with session.get(url, params=params) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def push(session: aiohttp.ClientSession, agent: Agent, *points: dict[str, Any]) -> None:
    url = f"{agent.url}/api/tachograph/v1/points"
    async with session.post(url, json=list(points)) as response:
        assert response.status == 204, await response.text()


async def values(session: aiohttp.ClientSession, agent: Agent, match: str) -> list[str]:
    answer = await get(session, f"{agent.url}/api/tachograph/v1/points", match=match)
    return [value for row in answer["data"]["result"] for _, value in row["values"]]


async def test_a_pushed_point_is_read_back_at_once_and_after_a_restart(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with Agent(config(tmp_path)) as agent:
        await push(session, agent, {"name": "orders_total", "value": 7, "type": "counter"})
        assert await values(session, agent, "orders_total") == ["7"]
    async with Agent(config(tmp_path)) as agent:
        assert await values(session, agent, "orders_total") == ["7"]
        async with session.post(f"{agent.url}/api/tachograph/v1/admin/compact") as response:
            assert response.status == 200
        assert await values(session, agent, "orders_total") == ["7"]


async def test_host_metrics_are_exposed_and_stored(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with Agent(config(tmp_path, "namespace=oht50")) as agent:
        url = f"{agent.url}/metrics"
        async with asyncio.timeout(20):
            while True:
                async with session.get(url) as response:
                    page = await response.text()
                if "oht50_memory_total_bytes " in page and "tachograph_series " in page:
                    break
                await asyncio.sleep(0.05)
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        stored = await values(session, agent, "oht50_memory_total_bytes")
        assert f"oht50_memory_total_bytes {stored[-1]}\n" in page


@pytest.mark.parametrize("shown", [False, True])
async def test_what_a_prometheus_writes_is_on_metrics_only_if_asked_for(
    tmp_path: Path, session: aiohttp.ClientSession, shown: bool
) -> None:
    async with Agent(config(tmp_path, f"http.metrics_of_remote_writers={shown}")) as agent:
        await push(session, agent, {"name": "orders", "value": 7, "labels": {"shop": "a"}})
        now_ms = agent.clock.now_ms()
        written = ([("__name__", "up"), ("job", "shop")], [(1.0, now_ms)])
        async with session.post(
            f"{agent.url}/api/v1/write",
            data=snappy.compress(prompb.write_request([written])),
            headers={"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"},
        ) as response:
            assert response.status == 204, await response.text()
        async with session.get(f"{agent.url}/metrics") as response:
            lines = (await response.text()).splitlines()
        assert 'orders{shop="a"} 7' in lines
        assert ('up{job="shop"} 1' in lines) == shown
        async with session.get(f"{agent.url}/federate", params={"match[]": "up"}) as response:
            assert 'up{job="shop"' in await response.text()


async def test_a_tier_or_aggregate_that_is_none_names_those_there_are(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with Agent(config(tmp_path)) as agent:
        url = f"{agent.url}/api/tachograph/v1/rollups"
        for params, words in (
            ({"tier": "2m"}, "1m, 5m, 1h, 1d"),
            ({"agg": "median"}, "avg, sum, min, max, count, last, increase"),
        ):
            async with session.get(url, params={"match": "up", **params}) as response:
                assert response.status == 400
                body = await response.json()
            assert body["errorType"] == "bad_data"
            assert words in body["error"]


async def test_rollups_of_the_open_hour_count_what_was_just_pushed(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with Agent(config(tmp_path)) as agent:
        now_ms = agent.clock.now_ms()
        minute_ms = now_ms // 60_000 * 60_000 - 60_000
        await push(
            session,
            agent,
            *({"name": "x", "value": v, "timestamp": minute_ms + v} for v in (1, 30_000, 60_000)),
        )
        for agg, wanted in (("count", "3"), ("sum", "90001"), ("min", "1"), ("last", "60000")):
            answer = await get(
                session,
                f"{agent.url}/api/tachograph/v1/rollups",
                match="x",
                tier="1m",
                agg=agg,
                start=str(minute_ms / 1000),
                end=str(minute_ms / 1000 + 60),
            )
            (row,) = answer["data"]["result"]
            assert row["values"] == [[(minute_ms + 60_000) // 1000, wanted]]


async def test_a_second_agent_on_the_same_data_is_refused(tmp_path: Path) -> None:
    async with Agent(config(tmp_path)):
        with pytest.raises(StoreLocked, match=r"in use by another agent \(pid \d+\)"):
            await Agent(config(tmp_path)).start()


async def test_a_taken_address_is_told_and_the_data_are_free_again(tmp_path: Path) -> None:
    async with Agent(config(tmp_path / "one")) as agent:
        taken = f"listen=127.0.0.1:{agent.server.port}"
        with pytest.raises(ListenError, match="cannot listen on"):
            await Agent(config(tmp_path / "two", taken)).start()
    async with Agent(config(tmp_path / "two")):
        pass


async def test_a_reload_with_mistakes_keeps_what_runs(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    file = tmp_path / "tachograph.yml"
    file.write_text("namespace: one\n")

    def load() -> Config:
        return load_config(
            file, env={}, overrides=["listen=127.0.0.1:0", f"storage.path={tmp_path / 'd'}"]
        )

    async with Agent(load(), load=load) as agent:
        file.write_text("namespace: two\nscrape_configs: [{job_nam: x}]\n")
        async with session.post(f"{agent.url}/-/reload") as response:
            assert response.status == 500
            assert "did you mean 'job_name'?" in await response.text()
        assert agent.config.namespace == "one"
        file.write_text("namespace: two\n")
        async with session.post(f"{agent.url}/-/reload") as response:
            assert response.status == 200
        assert agent.config.namespace == "two"


async def test_a_foreign_host_name_is_refused_on_loopback(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with Agent(config(tmp_path)) as agent:
        headers = {"Host": "evil.example"}
        async with session.get(f"{agent.url}/metrics", headers=headers) as response:
            assert response.status == 403
            assert "http.allowed_hosts" in await response.text()


async def test_a_connection_that_says_nothing_is_closed(tmp_path: Path) -> None:
    async with Agent(config(tmp_path, "http.header_timeout=100ms")) as agent:
        reader, writer = await asyncio.open_connection("127.0.0.1", agent.server.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: local")
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        assert agent.server.timed_out == 1
        writer.close()


async def test_what_is_recorded_in_process_is_stored(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with Agent(config(tmp_path, "metrics.custom.flush_interval=20ms")) as agent:
        agent.record("jobs_done", 3, {"shop": "7"}, "gauge")
        match = 'jobs_done{shop="7"}'
        async with asyncio.timeout(10):
            while not await values(session, agent, match):
                await asyncio.sleep(0.02)
        assert await values(session, agent, match) == ["3"]


async def test_the_live_stream_sends_what_is_pushed(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with (
        Agent(config(tmp_path)) as agent,
        session.ws_connect(f"{agent.url}/ws/metrics?format=simple&match=speed") as socket,
    ):
        await push(session, agent, {"name": "speed", "value": 2.5, "labels": {"car": "1"}})
        async with asyncio.timeout(10):
            message = json.loads((await socket.receive()).data)
        assert message["type"] == "metric"
        assert message["data"] == {"name": "speed", "labels": {"car": "1"}, "value": 2.5}


async def test_history_in_and_out_is_told_by_the_agents_own_metrics(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with Agent(config(tmp_path)) as agent:
        now_ms = agent.clock.now_ms()
        line = {"metric": {"__name__": "up"}, "values": [1, 2], "timestamps": [1, now_ms]}
        url = agent.url + "/api/v1/"
        async with session.post(url + "import", data=json.dumps(line)) as response:
            assert response.status == 400, "one of them is too old"
        async with session.get(url + "export", params={"match[]": "up"}) as response:
            assert json.loads(await response.text())["values"] == [2]
        await agent._monitor.collect(now_ms)
        async with session.get(agent.url + "/metrics") as response:
            shown = await response.text()
    for told in (
        "imports_total 1",
        "imported_samples_total 1",
        'refused_samples_total{reason="too_old"} 1',
        "exports_total 1",
        "exported_samples_total 1",
    ):
        assert f"tachograph_history_{told}\n" in shown


async def test_two_libraries_receive_the_same_points(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    """aiohttp's client by the plain format, and ``tachograph tail`` with websockets."""
    out = io.StringIO()
    async with Agent(config(tmp_path)) as agent:
        url = agent.url.replace("http", "ws", 1) + "/ws/metrics"
        following = asyncio.create_task(
            tail(url, ["speed"], mode="all", output="json", count=5, out=out)
        )
        async with session.ws_connect(f"{url}?format=simple&match=speed") as socket:
            async with asyncio.timeout(10):
                while agent.hub.stats.subscriptions < 2:
                    await asyncio.sleep(0.01)
            heard = []
            for number in range(5):
                await push(session, agent, {"name": "speed", "value": number})
                async with asyncio.timeout(10):
                    heard.append(json.loads((await socket.receive()).data))
            async with asyncio.timeout(10):
                assert await following == 0
    tailed = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [message["data"]["value"] for message in heard] == [0, 1, 2, 3, 4]
    assert [line["value"] for line in tailed] == [0, 1, 2, 3, 4]


async def test_the_agent_starts_and_stops_again_and_again_without_leaving_anything(
    tmp_path: Path,
) -> None:
    import os
    import threading

    async def once() -> None:
        async with Agent(config(tmp_path)):
            pass

    await once()
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(10):
        await once()
    assert len(os.listdir("/proc/self/fd")) <= files
    assert threading.active_count() <= threads + 1
