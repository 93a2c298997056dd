"""What the ASGI middleware counts, with real applications behind a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from fastapi import APIRouter, FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles

from support.metered import label_sets, serve_asgi, value
from tachograph.agent.client.asgi import AsgiMiddleware
from tachograph.agent.client.registry import Registry

REQUESTS = "shop_http_requests_total"
DURATION = "shop_http_request_duration_seconds"


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def fastapi_app(registry: Registry) -> FastAPI:
    app = FastAPI()
    app.add_middleware(AsgiMiddleware, namespace="shop", registry=registry)
    router = APIRouter(prefix="/items")

    @router.get("/{item_id}")
    async def item(item_id: int) -> dict[str, int]:
        return {"item": item_id}

    @app.post("/orders", status_code=201)
    async def order(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.get("/broken")
    async def broken() -> None:
        raise LookupError("no such luck")

    @app.get("/metrics")
    async def metrics() -> str:
        return ""

    @app.websocket("/live/{room}")
    async def live(websocket: WebSocket, room: str) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.receive()

    inner = FastAPI()

    @inner.get("/users/{user_id}")
    async def user(user_id: str) -> str:
        return user_id

    app.include_router(router)
    app.mount("/v2", inner)
    app.mount("/tenants/{tenant}", inner)
    return app


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/items/17", "/items/{item_id}"),
        ("/v2/users/ann", "/v2/users/{user_id}"),
        ("/tenants/acme/users/ann", "/tenants/{tenant}/users/{user_id}"),
    ],
)
async def test_the_endpoint_is_the_template_of_the_route(
    registry: Registry, session: aiohttp.ClientSession, path: str, endpoint: str
) -> None:
    async with serve_asgi(fastapi_app(registry)) as url, session.get(url + path) as response:
        assert response.status == 200
    assert label_sets(registry, REQUESTS) == {("GET", endpoint, "200")}
    assert value(registry, DURATION, method="GET", endpoint=endpoint) == 1
    assert value(registry, "shop_api_throughput_requests_per_second", endpoint=endpoint) == 1


async def test_unmatched_paths_are_one_bucket(
    registry: Registry, session: aiohttp.ClientSession
) -> None:
    async with serve_asgi(fastapi_app(registry)) as url:
        for path in ("/nothing", "/wp-login.php", "/a/b/c"):
            async with session.get(url + path) as response:
                assert response.status == 404
        async with session.delete(url + "/orders") as response:
            assert response.status == 405
    assert value(registry, REQUESTS, method="GET", endpoint="unmatched", status_code="404") == 3
    assert value(registry, REQUESTS, method="DELETE", endpoint="/orders", status_code="405") == 1


async def test_sizes_and_status(registry: Registry, session: aiohttp.ClientSession) -> None:
    async with (
        serve_asgi(fastapi_app(registry)) as url,
        session.post(url + "/orders", data=b"x" * 1000) as response,
    ):
        body = await response.read()
        assert response.status == 201
    assert value(registry, REQUESTS, method="POST", endpoint="/orders", status_code="201") == 1
    for name, size in (("request", 1000), ("response", len(body))):
        metric = registry.get(f"shop_http_{name}_size_bytes")
        assert metric is not None
        assert metric.children["POST", "/orders"].sum == size
    assert value(registry, "shop_http_requests_in_progress", method="POST") == 0


async def test_an_exception_is_a_500_with_its_name(
    registry: Registry, session: aiohttp.ClientSession
) -> None:
    async with (
        serve_asgi(fastapi_app(registry)) as url,
        session.get(url + "/broken") as response,
    ):
        assert response.status == 500
    assert value(registry, REQUESTS, method="GET", endpoint="/broken", status_code="500") == 1
    assert label_sets(registry, "shop_http_exceptions_total") == {("GET", "/broken", "LookupError")}


async def test_what_looks_at_the_backend_is_left_out(
    registry: Registry, session: aiohttp.ClientSession
) -> None:
    async with (
        serve_asgi(fastapi_app(registry)) as url,
        session.get(url + "/metrics") as response,
    ):
        assert response.status == 200
    assert not label_sets(registry, REQUESTS)


async def test_open_websockets_are_counted_by_channel(
    registry: Registry, session: aiohttp.ClientSession
) -> None:
    active = "shop_websocket_connections_active"
    async with serve_asgi(fastapi_app(registry)) as url:
        async with session.ws_connect(url + "/live/kitchen") as socket:
            await socket.send_str("hello")
            assert await socket.receive_str() == "hello"
            assert value(registry, active, channel="/live/{room}") == 1
        async with asyncio.timeout(5):
            while value(registry, active, channel="/live/{room}"):
                await asyncio.sleep(0.01)
    for direction in ("in", "out"):
        name = "shop_websocket_messages_total"
        assert value(registry, name, channel="/live/{room}", direction=direction) == 1
    assert not label_sets(registry, REQUESTS)


async def test_a_client_that_leaves_is_no_success(
    registry: Registry, session: aiohttp.ClientSession
) -> None:
    begun = asyncio.Event()

    async def endless(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 1024
                begun.set()
                await asyncio.sleep(0.01)

        return StreamingResponse(parts())

    app = Starlette(routes=[Route("/feed", endless)])
    async with (
        serve_asgi(AsgiMiddleware(app, namespace="shop", registry=registry)) as url,
        session.get(url + "/feed") as response,
    ):
        assert response.status == 200
        await begun.wait()
        response.close()
        async with asyncio.timeout(5):
            while not label_sets(registry, REQUESTS):
                await asyncio.sleep(0.01)
    assert label_sets(registry, REQUESTS) == {("GET", "/feed", "499")}
    assert value(registry, "shop_http_disconnects_total", method="GET", endpoint="/feed") == 1


async def test_a_request_ends_before_its_background_task(
    registry: Registry, session: aiohttp.ClientSession
) -> None:
    release = asyncio.Event()

    async def later(request: Request) -> Response:
        return PlainTextResponse("ok", background=BackgroundTask(release.wait))

    app = Starlette(routes=[Route("/later", later)])
    async with (
        serve_asgi(AsgiMiddleware(app, namespace="shop", registry=registry)) as url,
        session.get(url + "/later") as response,
    ):
        assert await response.text() == "ok"
        assert value(registry, REQUESTS, method="GET", endpoint="/later", status_code="200") == 1
        assert value(registry, "shop_http_requests_in_progress", method="GET") == 0
        release.set()


async def test_middlewares_within_each_other_count_once(
    registry: Registry, session: aiohttp.ClientSession
) -> None:
    app = fastapi_app(registry)
    app.mount("/v3", fastapi_app(registry))
    async with serve_asgi(app) as url:
        async with session.get(url + "/v3/items/7") as response:
            assert response.status == 200
        async with session.ws_connect(url + "/v3/live/kitchen") as socket:
            await socket.send_str("hello")
            await socket.receive_str()
            assert label_sets(registry, "shop_websocket_connections_active") == {
                ("/v3/live/{room}",)
            }
            name = "shop_websocket_connections_active"
            assert value(registry, name, channel="/v3/live/{room}") == 1
    assert label_sets(registry, REQUESTS) == {("GET", "/v3/items/{item_id}", "200")}
    assert value(registry, DURATION, method="GET", endpoint="/v3/items/{item_id}") == 1


async def test_mounts_without_a_router_are_one_endpoint(
    registry: Registry, session: aiohttp.ClientSession, tmp_path: object
) -> None:
    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello")

    routes = [
        Mount("/files", StaticFiles(directory=str(tmp_path))),
        Mount("/a", Router([Mount("/b", Router([Route("/{name:path}", hello)]))])),
        Route("/", hello),
    ]
    app = Starlette(routes=routes)
    async with serve_asgi(AsgiMiddleware(app, namespace="shop", registry=registry)) as url:
        for path in ("/files/one.txt", "/files/two.txt", "/a/b/c/d", "/"):
            async with session.get(url + path):
                pass
    assert label_sets(registry, REQUESTS) == {
        ("GET", "/files/{path}", "404"),
        ("GET", "/a/b/{name}", "200"),
        ("GET", "/", "200"),
    }


async def test_switched_off_nothing_is_counted(
    registry: Registry, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TACHOGRAPH_DISABLED", "1")
    async with (
        serve_asgi(fastapi_app(registry)) as url,
        session.get(url + "/items/1") as response,
    ):
        assert response.status == 200
    assert not label_sets(registry, REQUESTS)
