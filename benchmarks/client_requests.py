"""
What the middlewares add to a request, and what a backend feels of its agent going away.

    python benchmarks/client_requests.py

Microseconds per request, applications called directly (no sockets), median of rounds. Then the
time of requests of an aiohttp backend whose agent is killed and started again meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from flask import Flask
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tachograph.agent.client.address import Address
from tachograph.agent.client.aiohttp_web import aiohttp_middleware
from tachograph.agent.client.asgi import AsgiMiddleware
from tachograph.agent.client.push import Pusher
from tachograph.agent.client.registry import Registry
from tachograph.agent.client.wsgi import WsgiMiddleware

CALLS = 300
ROUNDS = 31
PHASE_S = 20.0


async def us_per_call(call: Callable[[], Awaitable[object]]) -> float:
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter_ns()
        for _ in range(CALLS):
            await call()
        taken.append((time.perf_counter_ns() - start) / CALLS / 1000)
    return statistics.median(taken)


async def added() -> None:
    print(f"{'µs per request':<28}{'bare':>9}{'counted':>9}{'added':>9}")
    for name, pair in (
        ("aiohttp", aiohttp_calls()),
        ("ASGI (Starlette)", asgi_calls()),
        ("WSGI (Flask)", wsgi_calls()),
    ):
        bare, counted = [await us_per_call(call) for call in pair]
        print(f"{name:<28}{bare:>9.1f}{counted:>9.1f}{counted - bare:>9.1f}")


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


async def outage() -> None:
    """Time requests while the agent runs, is killed, and is there again."""
    registry = Registry()

    async def hello(request: web.Request) -> web.StreamResponse:
        return web.Response(text="hello")

    app = web.Application(middlewares=[aiohttp_middleware(namespace="shop", registry=registry)])
    app.router.add_get("/items/{item}", hello)
    # A busy backend's worth of series, so that a flush has something to do.
    users = registry.counter("logins_total", "Logins.", ("user",))
    for user in range(1_000):
        users.labels(str(user)).inc()
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    print(f"\n{'request, µs':<28}{'count':>8}{'p50':>8}{'p99':>8}{'p99.9':>8}{'max':>8}")
    with tempfile.TemporaryDirectory() as path:
        pusher = Pusher(registry, Address.of(f"{path}/client.sock"))
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port}/items/1"
            await phase("no client at all", session, url)
            agent = start_agent(path)
            pusher.start()
            await phase("agent there", session, url)
            agent.send_signal(signal.SIGKILL)
            agent.wait()
            await phase("agent killed", session, url)
            agent = start_agent(path)
            await phase("agent back", session, url)
            pusher.close()
            agent.terminate()
            agent.wait()
    await runner.cleanup()


async def phase(name: str, session: aiohttp.ClientSession, url: str) -> None:
    taken = []
    end_s = time.monotonic() + PHASE_S
    while time.monotonic() < end_s:
        start = time.perf_counter_ns()
        async with session.get(url) as response:
            await response.read()
        taken.append((time.perf_counter_ns() - start) / 1000)
        await asyncio.sleep(0.002)
    taken.sort()
    p50, p99, p999 = (taken[int(len(taken) * share)] for share in (0.5, 0.99, 0.999))
    print(f"{name:<28}{len(taken):>8}{p50:>8.0f}{p99:>8.0f}{p999:>8.0f}{taken[-1]:>8.0f}")


def start_agent(path: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tachograph", "run", "--data", path, "--listen", "127.0.0.1:0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline_s = time.monotonic() + 30
    while not (Path(path) / "client.sock").exists() and time.monotonic() < deadline_s:
        time.sleep(0.1)
    time.sleep(1.0)
    os.sched_yield()
    return process


async def main() -> None:
    await added()
    await outage()


if __name__ == "__main__":
    asyncio.run(main())
