"""Promise S11: pages of other sites write nothing, whatever the route; ours and programs do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import hdrs

from tachograph.agent.app import Agent
from tachograph.config import load_config

POINTS = "/api/tachograph/v1/points"
POINT = '{"name": "x", "value": 1}'
#: What may be asked by POST as well as by GET.
QUESTIONS = {
    "/api/v1/query",
    "/api/v1/query_range",
    "/api/v1/query_exemplars",
    "/api/v1/format_query",
    "/api/v1/parse_query",
    "/api/v1/series",
    "/api/v1/labels",
}


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    overrides = [
        "listen=127.0.0.1:0",
        f"storage.path={tmp_path}",
        "http.admin_api=true",
        "stream.allowed_origins=['https://panel.example']",
    ]
    async with Agent(load_config(None, env={}, overrides=overrides)) as agent:
        yield agent


async def post(agent: Agent, path: str, method: str = "POST", **headers: str) -> tuple[int, str]:
    headers["Content-Type"] = "application/json"
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, agent.url + path, data=POINT, headers=headers) as response,
    ):
        return response.status, await response.text()


async def test_a_page_from_elsewhere_reaches_no_route_that_writes(agent: Agent) -> None:
    runner = agent.server._runner
    assert runner is not None
    routes = {
        (route.method, route.resource.canonical)
        for route in runner.app.router.routes()
        if route.resource is not None and route.method not in (hdrs.METH_GET, hdrs.METH_HEAD)
    }
    for method, path in sorted(routes):
        status, text = await post(agent, path, method, Origin="http://evil.example")
        if path in QUESTIONS:
            assert status in (200, 400), path
        else:
            assert status == 403, path
            assert "'http://evil.example'" in text
    assert {path for _, path in routes} > {"/-/reload", "/api/v1/write", "/api/v1/import", POINTS}
    assert {path for method, path in routes if method == "POST"} >= QUESTIONS
    assert agent.server.foreign == {"origin": len(routes) - len(QUESTIONS)}


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "",
        "http://127.0.0.1",
        "http://localhost:19797.evil.example",
        "https://panel.example:444",
    ],
)
async def test_other_origins_do_not_write(agent: Agent, origin: str) -> None:
    for path in (POINTS, "/api/v1/nothing/of/the/kind"):
        status, _ = await post(agent, path, Origin=origin)
        assert status == 403
    async with aiohttp.ClientSession() as session:
        headers = {"Origin": origin}
        async with session.get(f"{agent.url}/api/v1/labels", headers=headers) as response:
            assert response.status == 200
            assert hdrs.ACCESS_CONTROL_ALLOW_ORIGIN not in response.headers


async def test_programs_our_own_pages_and_allowed_ones_write(agent: Agent) -> None:
    assert (await post(agent, POINTS))[0] == 204
    assert (await post(agent, POINTS, Origin=agent.url))[0] == 204
    assert (await post(agent, POINTS, Origin="https://panel.example"))[0] == 204
    port = agent.server.port
    local = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
    assert (await post(agent, POINTS, **local))[0] == 204


async def test_a_name_pointed_at_us_is_refused_even_if_the_page_is_of_that_name(
    agent: Agent,
) -> None:
    name = f"evil.example:{agent.server.port}"
    status, text = await post(agent, POINTS, Host=name, Origin=f"http://{name}")
    assert status == 403
    assert "http.allowed_hosts" in text
    assert agent.server.foreign == {"host": 1}


async def test_two_origins_are_none_of_ours(agent: Agent) -> None:
    kind = ("Content-Type", "application/json")
    headers = [kind, ("Origin", agent.url), ("Origin", "http://evil.example")]
    async with (
        aiohttp.ClientSession() as session,
        session.post(agent.url + POINTS, data=POINT, headers=headers) as response,
    ):
        assert response.status == 403
