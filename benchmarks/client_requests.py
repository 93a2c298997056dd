"""
What the middlewares add to a request.

    python benchmarks/client_requests.py

Microseconds of processor time per request, applications called directly (no sockets), with and
without in turn, median of rounds. What a backend feels of its agent going away: client_outage.py.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from flask import Flask
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tachograph.agent.client.aiohttp_web import aiohttp_middleware
from tachograph.agent.client.asgi import AsgiMiddleware
from tachograph.agent.client.registry import Registry
from tachograph.agent.client.wsgi import WsgiMiddleware

CALLS = 300
ROUNDS = 51


async def us_per_call(call: Callable[[], Awaitable[object]]) -> float:
    start = time.thread_time_ns()
    for _ in range(CALLS):
        await call()
    return (time.thread_time_ns() - start) / CALLS / 1000


async def added() -> None:
    print(f"{'µs per request':<28}{'bare':>9}{'counted':>9}{'added':>9}{'at best':>9}")
    for name, pair in (
        ("aiohttp", aiohttp_calls()),
        ("ASGI (Starlette)", asgi_calls()),
        ("WSGI (Flask)", wsgi_calls()),
    ):
        rounds = [[await us_per_call(call) for call in pair] for _ in range(ROUNDS)]
        bare, counted = map(statistics.median, zip(*rounds, strict=True))
        least = [min(each) for each in zip(*rounds, strict=True)]
        print(f"{name:<28}{bare:>9.1f}{counted:>9.1f}{counted - bare:>9.1f}", end="")
        print(f"{least[1] - least[0]:>9.1f}")


def asgi_calls() -> list[Callable[[], Awaitable[object]]]:
    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    app: Any = Starlette(routes=[Route("/items/{item}", hello)])

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    def call(app: Any) -> Callable[[], Awaitable[object]]:
        def one() -> Awaitable[object]:
            scope = {
                "type": "http",
                "method": "GET",
                "path": "/items/1",
                "headers": [(b"host", b"localhost")],
                "query_string": b"",
                "root_path": "",
            }
            result: Awaitable[object] = app(scope, receive, send)
            return result

        return one

    return [call(app), call(AsgiMiddleware(app, namespace="shop", registry=Registry()))]


def wsgi_calls() -> list[Callable[[], Awaitable[object]]]:
    app = Flask(__name__)
    app.add_url_rule("/items/<item>", view_func=lambda item: "hello", endpoint="item")
    counted = WsgiMiddleware(app.wsgi_app, namespace="shop", registry=Registry())

    def call(app: Any) -> Callable[[], Awaitable[object]]:
        async def one() -> None:
            environ = {
                "REQUEST_METHOD": "GET",
                "PATH_INFO": "/items/1",
                "SCRIPT_NAME": "",
                "SERVER_NAME": "localhost",
                "SERVER_PORT": "80",
                "SERVER_PROTOCOL": "HTTP/1.1",
                "wsgi.url_scheme": "http",
                "wsgi.input": None,
            }
            body = app(environ, lambda *_: None)
            for _ in body:
                pass
            body.close()

        return one

    return [call(app.wsgi_app), call(counted)]


def aiohttp_calls() -> list[Callable[[], Awaitable[object]]]:
    async def hello(request: web.Request) -> web.StreamResponse:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/items/{item}", hello)
    middleware = aiohttp_middleware(namespace="shop", registry=Registry())

    async def resolved() -> web.Request:
        request = make_mocked_request("GET", "/items/1", app=app)
        request._match_info = await app.router.resolve(request)
        return request

    made: list[web.Request] = []

    async def request() -> web.Request:
        if not made:
            made.append(await resolved())
        return made[0]

    async def bare() -> object:
        return await hello(await request())

    async def counted() -> object:
        return await middleware(await request(), hello)

    return [bare, counted]


async def main() -> None:
    await added()


if __name__ == "__main__":
    asyncio.run(main())
