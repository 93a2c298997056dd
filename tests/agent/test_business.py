"""Business sources in a whole agent: on /metrics, through a reload, and gone again."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import aiohttp
import pytest

from tachograph.agent.app import Agent
from tachograph.agent.once import print_once
from tachograph.config import Config, load_config

SOURCES = """\
sources:
  - type: sql
    name: missions
    url: sqlite:///{database}
    interval: 100ms
    query: SELECT count(*) AS missions FROM mission
    metrics: [{{name: missions}}]
  - {{type: command, name: probe, interval: 100ms, command: [sh, -c, 'exit 4']}}
  - {{type: command, name: broken, interval: 100ms, command: [no-such-program]}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "m.db") as connection:
        connection.execute("CREATE TABLE mission AS SELECT 1 AS id UNION SELECT 2")
    connection.close()
    file = tmp_path / "tachograph.yml"
    file.write_text(SOURCES.format(database=tmp_path / "m.db"))
    return file


def loader(file: Path) -> Callable[[], Config]:
    return lambda: load_config(
        file,
        env={},
        overrides=[
            "listen=127.0.0.1:0",
            f"storage.path={file.parent / 'data'}",
            "namespace=oht50",
            "metrics.system.enabled=false",
        ],
    )


async def until(agent: Agent, *, has: str = "", lacks: str = "\0") -> str:
    """Return /metrics once it has one line and lacks another."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(20):
        while True:
            async with session.get(f"{agent.url}/metrics") as response:
                page = await response.text()
            if has in page and lacks not in page:
                return page
            await asyncio.sleep(0.05)


async def test_configured_sources_are_exposed_and_a_reload_ends_them(file: Path) -> None:
    load = loader(file)
    async with Agent(load(), load=load) as agent:
        await until(agent, has='oht50_command_exit_code{command="probe"} 4\n')
        await until(agent, has="oht50_missions 2\n")
        page = await until(agent, has='tachograph_source_up{source="command/broken"} 0\n')
        assert 'tachograph_source_up{source="sql/missions"} 1\n' in page
        broken = next(f for f in agent._source_facts() if f["name"] == "command/broken")
        assert broken["lastError"].startswith("cannot run no-such-program")
        file.write_text("")
        assert await agent.reload() == ()
        await until(agent, lacks='source="sql/missions"')
        await until(agent, lacks="oht50_missions")


async def test_a_callback_is_asked_until_it_is_removed(file: Path) -> None:
    file.write_text("")
    agent = Agent(loader(file)())
    agent.add_source(lambda: {"queue_size": 3}, name="before", interval_s=0.1)
    with pytest.raises(ValueError, match="there is a callback called 'before' already"):
        agent.add_source(dict, name="before")
    async with agent:
        agent.add_source(lambda: [("orders_total", 7, {"shop": "1"})], name="after", interval_s=0.1)
        await until(agent, has="oht50_queue_size 3\n")
        await until(agent, has='oht50_orders_total{shop="1"} 7\n')
        await agent.remove_source("before")
        await until(agent, lacks="queue_size")
        with pytest.raises(KeyError):
            await agent.remove_source("before")


@pytest.mark.parametrize("interval_s", [-1, 0, 0.0, float("nan"), float("inf")])
def test_an_interval_that_is_none_is_refused(file: Path, interval_s: float) -> None:
    file.write_text("")
    agent = Agent(loader(file)())
    with pytest.raises(ValueError, match=r"add_source\('queue'\): interval_s is .*; give some sec"):
        agent.add_source(dict, name="queue", interval_s=interval_s)
    agent.add_source(dict, name="queue", interval_s=0.1)  # the name is still free


async def test_one_collection_prints_them(file: Path) -> None:
    out = StringIO()
    assert await print_once(loader(file)(), out) == 1
    page = out.getvalue()
    assert "# failed: command/broken: cannot run no-such-program" in page
    assert "oht50_missions 2\n" in page
