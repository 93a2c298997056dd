"""Who makes the most series, by the endpoint and by the command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tachograph.agent.app import Agent
from tachograph.agent.cli import main
from tachograph.agent.http.cardinality import summarize
from tachograph.config import load_config
from tachograph.storage.model import Kind, Labels, Series


def series(*labels: Labels) -> list[Series]:
    return [Series(number, each, Kind.GAUGE, 0) for number, each in enumerate(labels, 1)]


def test_metric_label_and_source_are_named_the_largest_first() -> None:
    labels = [Labels.of({"user": str(n), "shop": str(n % 2)}, "logins") for n in range(5)]
    labels += [Labels.of({"shop": str(n)}, "orders") for n in range(3)]
    sources = ["client", "client", "client", "client", "points", "points", "points", "points"]
    found = summarize(series(*labels), sources, top=2)
    assert found["series"] == 8
    assert found["metrics"] == [
        {
            "name": "logins",
            "series": 5,
            "labels": [{"name": "user", "values": 5}, {"name": "shop", "values": 2}],
            "sources": [{"name": "client", "series": 4}, {"name": "points", "series": 1}],
        },
        {
            "name": "orders",
            "series": 3,
            "labels": [{"name": "shop", "values": 3}],
            "sources": [{"name": "points", "series": 3}],
        },
    ]
    assert found["labels"] == [
        {"name": "user", "values": 5, "series": 5, "metrics": [{"name": "logins", "values": 5}]},
        {
            "name": "shop",
            "values": 3,
            "series": 8,
            "metrics": [{"name": "orders", "values": 3}, {"name": "logins", "values": 2}],
        },
    ]
    assert found["sources"] == [
        {"name": "client", "series": 4, "metrics": 1},
        {"name": "points", "series": 4, "metrics": 2},
    ]


def test_only_the_largest_are_named() -> None:
    labels = [Labels.of({"x": str(n)}, f"m{n}") for n in range(20)]
    found = summarize(series(*labels), ["points"] * 20, top=3)
    assert [one["name"] for one in found["metrics"]] == ["m0", "m1", "m10"]
    assert found["series"] == 20


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    overrides = [
        "listen=127.0.0.1:0",
        f"storage.path={tmp_path}",
        "metrics.system.enabled=false",
        "storage.limits.series_per_metric=30",
    ]
    async with Agent(load_config(None, env={}, overrides=overrides)) as agent:
        yield agent


async def push(agent: Agent, *points: dict[str, Any]) -> int:
    url = f"{agent.url}/api/tachograph/v1/points"
    async with aiohttp.ClientSession() as session, session.post(url, json=points) as response:
        return response.status


async def test_the_agent_tells_what_it_refused_and_what_a_backend_folded(agent: Agent) -> None:
    overflow = {"metric": "orders_total", "label": "user", "source": "shop/cart.py:41"}
    name = "tachograph_client_overflow_total"
    assert await push(agent, {"name": name, "value": 7, "labels": overflow}) == 204
    logins = [{"name": "logins", "value": 1, "labels": {"user": str(n)}} for n in range(32)]
    assert await push(agent, *logins) == 400
    url = f"{agent.url}/api/tachograph/v1/cardinality"
    params = {"match[]": "logins"}
    async with aiohttp.ClientSession() as session, session.get(url, params=params) as response:
        data = (await response.json())["data"]
    assert data["series"] == 30
    assert data["metrics"][0]["sources"] == [{"name": "points", "series": 30}]
    assert data["limits"]["seriesPerMetric"] == 30
    assert data["refused"] == [{"limit": "series_per_metric", "count": 2}]
    assert data["refusedMetrics"] == [{"name": "logins", "count": 2}]
    assert data["overflow"] == [{**overflow, "count": 7.0}]


async def test_the_command_prints_tables_and_fails_when_series_were_refused(
    agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["cardinality", "--url", agent.url]
    assert await asyncio.to_thread(main, run) == 0
    logins = [{"name": "logins", "value": 1, "labels": {"user": str(n)}} for n in range(32)]
    await push(agent, *logins)
    capsys.readouterr()
    assert await asyncio.to_thread(main, [*run, "logins", "--top", "1"]) == 1
    shown = capsys.readouterr().out
    assert "logins  30      user 30           points 30\n" in shown
    assert "REFUSED BY LIMIT   SERIES\nseries_per_metric  2\n" in shown
    assert await asyncio.to_thread(main, [*run, "-o", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["series"] >= 30


async def test_a_bad_matcher_is_told(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["cardinality", "{a=", "--url", agent.url]
    assert await asyncio.to_thread(main, run) == 1
    assert 'invalid parameter "match[]"' in capsys.readouterr().err
