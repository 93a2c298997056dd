"""The socket of the backends: what it takes, refuses and leaves behind."""

from __future__ import annotations

import asyncio
import logging
import socket
import stat
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from support.client_agent import client_config, until, value_of
from tachograph.agent.app import Agent
from tachograph.agent.client.address import Address
from tachograph.agent.client.push import Pusher
from tachograph.agent.client.registry import Registry
from tachograph.agent.listeners.client import ClientListener
from tachograph.config.errors import TachographError
from tachograph.config.settings import CustomSettings

COUNT = 'size_bytes_bucket{le="5"}'


class Echo:
    async def answer(self, body: bytes) -> bytes:
        if body == b"bad":
            raise TachographError("not a message")
        return body[::-1]


async def talk(path: Path, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


async def test_messages_and_answers_have_their_length_before_them(tmp_path: Path) -> None:
    listener = ClientListener(Echo(), tmp_path / "a.sock")
    await listener.start()
    assert await talk(listener.path, framed(b"abc") + framed(b"")) == framed(b"cba") + framed(b"")
    await listener.stop()
    await listener.stop()
    assert not listener.path.exists()


@pytest.mark.parametrize("data", [framed(b"bad"), b"\xff\xff\xff\xff", b"\0\0"])
async def test_what_is_no_message_ends_the_connection_only(tmp_path: Path, data: bytes) -> None:
    listener = ClientListener(Echo(), tmp_path / "a.sock")
    await listener.start()
    assert await talk(listener.path, data) == b""
    assert await talk(listener.path, framed(b"abc")) == framed(b"cba")
    assert listener.stats.connections == 0
    await listener.stop()


async def test_a_socket_that_was_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    listener = ClientListener(Echo(), path)
    await listener.start()
    assert await talk(path, framed(b"abc")) == framed(b"cba")
    assert stat.S_IMODE(path.stat().st_mode) == 0o666  # the directory says who may
    await listener.stop()


@pytest.mark.parametrize("what", ["another agent", "no socket", "longer than 107 bytes"])
async def test_a_path_that_cannot_be_is_said_and_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    path = tmp_path / ("a" * 100 + "b" * 20 if what.startswith("longer") else "a.sock")
    first = ClientListener(Echo(), path)
    if what == "another agent":
        await first.start()
    elif what == "no socket":
        path.write_text("precious")
    second = ClientListener(Echo(), path)
    with caplog.at_level(logging.WARNING):
        await second.start()
    assert not second.is_listening
    assert what in caplog.text
    await second.stop()
    if what == "no socket":
        assert path.read_text() == "precious"
    await first.stop()


async def test_totals_go_on_after_the_head_was_sealed_and_the_agent_restarted(
    tmp_path: Path,
) -> None:
    """Then neither memory nor journal knows them: they are read back from chunks."""
    registry = Registry()
    jobs = registry.counter("jobs_total")
    sizes = registry.histogram("size_bytes", bounds=(1, 5))
    pusher = Pusher(registry, Address.of(str(tmp_path / "client.sock")), interval_s=0.05)
    pusher.start()
    async with aiohttp.ClientSession() as session:
        for total in (5, 10, 15):
            async with Agent(client_config(tmp_path)) as agent:
                jobs.inc(5)
                sizes.observe(3)
                await until(lambda: value_of(session, agent.url, "jobs_total"), total)
                await until(lambda: value_of(session, agent.url, COUNT), total // 5)
                await agent.store.flush()
                await agent.store.seal()
    await asyncio.to_thread(pusher.close)


@pytest.mark.parametrize(
    ("body", "type_", "status"),
    [
        (b"{}", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b'{"v":1,"worker":"0123456789abc","session":""}', "application/json", 200),
    ],
)
async def test_the_way_over_http(tmp_path: Path, body: bytes, type_: str, status: int) -> None:
    async with Agent(client_config(tmp_path)) as agent, aiohttp.ClientSession() as session:
        url = f"{agent.url}/api/tachograph/v1/client"
        async with session.post(url, data=body, headers={"Content-Type": type_}) as response:
            assert response.status == status
            answer = await response.json()
    assert ("greeting" in answer) == (status == 200)


async def test_switched_off_there_is_no_socket_and_who_pushes_is_told_the_setting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = client_config(tmp_path)
    metrics = replace(config.metrics, custom=CustomSettings(enabled=False))
    registry = Registry()
    jobs = registry.counter("jobs_total")
    async with Agent(replace(config, metrics=metrics)) as agent, aiohttp.ClientSession() as session:
        assert not (tmp_path / "client.sock").exists()
        url = f"{agent.url}/api/tachograph/v1/client"
        async with session.post(url, json={}) as response:
            assert response.status == 404
            answer = await response.json()
        assert "metrics.custom.enabled is false" in answer["error"]
        pusher = Pusher(registry, Address.of(agent.url), interval_s=0.01, retry_max_s=0.01)
        pusher.start()
        async with asyncio.timeout(10):
            while pusher.failures < 3:
                jobs.inc()
                await asyncio.sleep(0.01)
        await asyncio.to_thread(pusher.close)
    (said,) = [each.getMessage() for each in caplog.records if each.name == "tachograph.client"]
    assert said.endswith(
        "says HTTP/1.1 404 Not Found: this agent takes no pushed metrics: "
        "metrics.custom.enabled is false; metrics are kept until it is back"
    )
