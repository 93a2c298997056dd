"""What aiohttp's middleware counts, with a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from support.metered import label_sets, value
from tachograph.agent.client.aiohttp_web import aiohttp_middleware
from tachograph.agent.client.registry import Registry

REQUESTS = "shop_http_requests_total"


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def item(request: web.Request) -> web.Response:
    return web.json_response({"item": request.match_info["item"]})


async def order(request: web.Request) -> web.Response:
    return web.Response(text=str(len(await request.read())), status=201)


async def broken(request: web.Request) -> web.Response:
    raise LookupError("no such luck")


async def teapot(request: web.Request) -> web.Response:
    raise web.HTTPConflict(text="taken")


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(3):
        await response.write(b"x" * 10)
    await response.write_eof()
    return response


async def live(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


def app(registry: Registry) -> web.Application:
    root = web.Application(middlewares=[aiohttp_middleware(namespace="shop", registry=registry)])
    inner = web.Application()
    inner.add_routes([web.get("/users/{user}", item_of_user)])
    root.add_routes(
        [
            web.get("/items/{item}", item),
            web.post("/orders", order),
            web.get("/broken", broken),
            web.get("/teapot", teapot),
            web.get("/stream", stream),
            web.get("/live/{room}", live),
        ]
    )
    root.add_subapp("/v2/", inner)
    return root


async def item_of_user(request: web.Request) -> web.Response:
    return web.Response(text=request.match_info["user"])


async def test_requests_are_counted_by_template(
    registry: Registry, session: aiohttp.ClientSession
) -> None:
    async with TestServer(app(registry)) as server:
        for path in (
            "/items/1",
            "/items/2",
            "/v2/users/ann",
            "/nothing",
            "/x",
            "/teapot",
            "/stream",
        ):
            async with session.get(server.make_url(path)) as response:
                await response.read()
        async with session.post(server.make_url("/orders"), data=b"x" * 500) as response:
            assert await response.text() == "500"
    assert label_sets(registry, REQUESTS) == {
        ("GET", "/items/{item}", "200"),
        ("GET", "/v2/users/{user}", "200"),
        ("GET", "unmatched", "404"),
        ("GET", "/teapot", "409"),
        ("GET", "/stream", "200"),
        ("POST", "/orders", "201"),
    }
    assert value(registry, REQUESTS, method="GET", endpoint="/items/{item}", status_code="200") == 2
    assert value(registry, REQUESTS, method="GET", endpoint="unmatched", status_code="404") == 2
    sizes = registry.get("shop_http_request_size_bytes")
    assert sizes is not None
    assert sizes.children["POST", "/orders"].sum == 500
    assert value(registry, "shop_http_requests_in_progress", method="GET") == 0


async def test_an_exception_is_a_500_with_its_name(
    registry: Registry, session: aiohttp.ClientSession
) -> None:
    async with (
        TestServer(app(registry)) as server,
        session.get(server.make_url("/broken")) as response,
    ):
        assert response.status == 500
    assert label_sets(registry, REQUESTS) == {("GET", "/broken", "500")}
    assert label_sets(registry, "shop_http_exceptions_total") == {("GET", "/broken", "LookupError")}


async def test_open_websockets_are_counted_by_channel(
    registry: Registry, session: aiohttp.ClientSession
) -> None:
    name = "shop_websocket_connections_active"
    async with TestServer(app(registry)) as server:
        async with session.ws_connect(server.make_url("/live/kitchen")) as socket:
            await socket.send_str("hello")
            assert await socket.receive_str() == "hello"
            assert value(registry, name, channel="/live/{room}") == 1
        # aiohttp has no event for a message: then there is no 0 that says there was none.
        assert label_sets(registry, "shop_websocket_messages_total") == set()
        async with asyncio.timeout(5):
            while value(registry, name, channel="/live/{room}"):
                await asyncio.sleep(0.01)


async def test_a_client_that_leaves_is_no_success(
    registry: Registry, session: aiohttp.ClientSession
) -> None:
    begun = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 1024)
            begun.set()
            await asyncio.sleep(0.01)

    root = app(registry)
    root.router.add_get("/feed", endless)
    async with TestServer(root) as server:
        async with session.get(server.make_url("/feed")) as response:
            await begun.wait()
            response.close()
        async with asyncio.timeout(5):
            while not label_sets(registry, REQUESTS):
                await asyncio.sleep(0.01)
    assert label_sets(registry, REQUESTS) == {("GET", "/feed", "499")}
    assert value(registry, "shop_http_disconnects_total", method="GET", endpoint="/feed") == 1


async def test_middlewares_within_each_other_count_once(
    registry: Registry, session: aiohttp.ClientSession
) -> None:
    root = web.Application(middlewares=[aiohttp_middleware(namespace="shop", registry=registry)])
    root.add_subapp("/v2", app(registry))
    async with (
        TestServer(root) as server,
        session.get(server.make_url("/v2/items/7")) as response,
    ):
        assert response.status == 200
    name = "shop_http_request_duration_seconds"
    ((method, endpoint),) = label_sets(registry, name)
    assert value(registry, name, method=method, endpoint=endpoint) == 1
