"""A push with a ttl through a whole agent: on /metrics over a restart, and gone when it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp

from tachograph.agent.app import Agent
from tachograph.config import Config, load_config

JOB: dict[str, Any] = {"name": "job_exit_code", "labels": {"job": "backup"}, "type": "gauge"}
SPAN = {"match": "job_exit_code", "start": "0", "end": "4102444800"}
LINE = 'job_exit_code{job="backup"}'


def config(directory: Path) -> Config:
    overrides = [
        "listen=127.0.0.1:0",
        f"storage.path={directory}",
        "metrics.system.enabled=false",
    ]
    return load_config(None, env={}, overrides=overrides)


async def push(agent: Agent, **changes: Any) -> None:
    url = f"{agent.url}/api/tachograph/v1/points"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json={**JOB, **changes}) as response,
    ):
        assert response.status == 204, await response.text()


async def page(agent: Agent) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{agent.url}/metrics") as response:
        return await response.text()


async def samples(agent: Agent) -> list[str]:
    url = f"{agent.url}/api/tachograph/v1/points"
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, params=SPAN) as response,
    ):
        result = (await response.json())["data"]["result"]
    return [value for row in result for _, value in row["values"]]


async def test_a_value_outlives_the_agent_and_ends_with_its_ttl(tmp_path: Path) -> None:
    async with Agent(config(tmp_path)) as agent:
        await push(agent, value=3, ttl="2d")
        assert f"{LINE} 3\n" in await page(agent)
    async with Agent(config(tmp_path)) as agent:
        assert len(agent.kept) == 1
        now_ms = agent.clock.now_ms()
        await agent.kept.collect(now_ms + 60_000)
        assert f"{LINE} 3\n" in await page(agent)
        assert await samples(agent) == ["3", "3"]
        await push(agent, value=4, ttl="1s")
        await agent.kept.collect(now_ms + 120_000)
        assert LINE not in await page(agent)
        assert await samples(agent) == ["3", "4", "3"], "what was true stays in the history"
    async with Agent(config(tmp_path)) as agent:
        assert len(agent.kept) == 0


async def test_a_kept_series_is_told_by_the_agents_own_metrics(tmp_path: Path) -> None:
    async with Agent(config(tmp_path)) as agent:
        await push(agent, value=3, ttl="2d")
        await agent._monitor.collect(agent.clock.now_ms())
        shown = await page(agent)
        assert "tachograph_kept_series 1\n" in shown
        assert "tachograph_kept_points_total 1\n" in shown
