"""Reading a registry in tests, and serving applications with real servers on loopback."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import uvicorn

from tachograph.agent.client.registry import Registry


def value(registry: Registry, name: str, **labels: str) -> float:
    """The value of a counter or gauge, the count of a histogram; 0 of what isn't there."""
    metric = registry.get(name)
    assert metric is not None, f"{name} is not defined"
    assert set(labels) == set(metric.label_names), f"{name} has labels {metric.label_names}"
    child = metric.children.get(tuple(labels[each] for each in metric.label_names))
    if child is None:
        return 0.0
    return float(child.count if metric.type == "histogram" else child.value)


def label_sets(registry: Registry, name: str) -> set[tuple[str, ...]]:
    """The label values of all series of a metric."""
    metric = registry.get(name)
    assert metric is not None, f"{name} is not defined"
    return set(metric.children)


@asynccontextmanager
async def serve_asgi(app: Any) -> AsyncIterator[str]:
    """Serve an ASGI application with uvicorn; gives its URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", lifespan="off", ws="websockets-sansio")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serve_wsgi(app: Callable[..., Any]) -> Iterator[str]:
    """Serve a WSGI application with wsgiref from a thread; gives its URL."""
    server = make_server("127.0.0.1", 0, app, handler_class=_Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
