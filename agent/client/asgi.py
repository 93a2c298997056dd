"""Pure ASGI middleware: FastAPI, Starlette, Litestar, Quart, Django's ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from .address import is_disabled
from .django import find_route, is_django
from .handled import EXCHANGE, watch_handled
from .http import UNMATCHED, Exchange, HttpMetrics, Socket, fill_in, length
from .registry import Registry

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class AsgiMiddleware:
    """
    ``app.add_middleware(AsgiMiddleware)``, or ``app = AsgiMiddleware(app)`` around any ASGI app.

    The time of a request ends with the last byte of its answer, not with its background tasks.

    Args:
        metrics: What is counted; without it the usual metrics in ``registry`` under ``namespace``.
    """

    def __init__(
        self,
        app: App,
        metrics: HttpMetrics | None = None,
        *,
        namespace: str | None = None,
        registry: Registry | None = None,
    ) -> None:
        self.app = app
        self._metrics = metrics or HttpMetrics(namespace, registry=registry)
        self._is_disabled = is_disabled()
        self._is_django = is_django(app)
        if not self._is_disabled:
            watch_handled()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if (
            self._is_disabled
            or kind not in ("http", "websocket")
            or self._metrics.is_counted(scope.get(EXCHANGE))
        ):
            await self.app(scope, receive, send)
        elif kind == "websocket":
            scope[EXCHANGE] = self._metrics
            await self._websocket(scope, receive, send)
        elif self._metrics.is_excluded(scope.get("path", "")):
            await self.app(scope, receive, send)
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        root_path = scope.get("root_path", "")
        exchange = scope[EXCHANGE] = self._metrics.begin(scope["method"])
        for name, value in scope["headers"]:
            if name == b"content-length":
                exchange.request_bytes = length(value)
                break
        else:
            receive = _counting(receive, exchange)
        is_left = False

        async def watch_receive() -> Message:
            nonlocal is_left
            message = await receive()
            if message["type"] == "http.disconnect":
                is_left = True
            return message

        async def watch_send(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
            elif message["type"] == "http.response.body":
                exchange.response_bytes += len(message.get("body", b""))
                if not message.get("more_body", False):
                    exchange.end(self._endpoint(scope, root_path))

        try:
            await self.app(scope, watch_receive, watch_send)
        except Exception as error:
            endpoint = self._endpoint(scope, root_path)
            if is_left and not exchange.is_ended:
                exchange.abandon(endpoint)
            else:
                exchange.fail(endpoint, error)
            raise
        except BaseException:  # cancelled: by the server, for a client that left
            exchange.abandon(self._endpoint(scope, root_path))
            raise
        if not exchange.is_ended:
            endpoint = self._endpoint(scope, root_path)
            if is_left:
                exchange.abandon(endpoint)
            else:
                exchange.end(endpoint, exchange.status or 500)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        root_path = scope.get("root_path", "")
        socket: Socket | None = None

        async def watch_receive() -> Message:
            message = await receive()
            if socket is not None and message["type"] == "websocket.receive":
                socket.received()
            return message

        async def watch_send(message: Message) -> None:
            nonlocal socket
            await send(message)
            if message["type"] == "websocket.accept":
                socket = Socket(self._metrics, self._endpoint(scope, root_path))
            elif socket is not None and message["type"] == "websocket.send":
                socket.sent()

        try:
            await self.app(scope, watch_receive, watch_send)
        finally:
            if socket is not None:
                socket.end()

    def _endpoint(self, scope: Scope, root_path: str) -> str:
        given = scope.get("tachograph.route")
        if given is not None:
            return str(given)
        if self._is_django:
            return find_route(scope.get("path", ""))
        return _endpoint(scope, root_path)


def _endpoint(scope: Scope, root_path: str) -> str:
    """
    Return the route's template, with what it is mounted under.

    Starlette's router leaves in the scope which route it took; FastAPI puts a router's prefix into
    a context of its own. Where only the endpoint is told, the path says the rest.
    """
    if "endpoint" not in scope and "route" not in scope:
        return UNMATCHED
    params = scope.get("path_params") or {}
    prefix = fill_in(scope.get("root_path", "").removeprefix(root_path), params)
    route = scope.get("route")
    if route is None:
        return fill_in(scope.get("path", ""), params) or "/"
    # A mount is the last to be known when what is mounted is no router, or found nothing.
    if getattr(route, "routes", None) is not None:
        return f"{prefix}/{{path}}"
    context = (scope.get("fastapi") or {}).get("effective_route_context")
    if context is not None and getattr(context, "original_route", None) is route:
        route = context
    template = getattr(route, "path_format", None) or getattr(route, "path", "")
    return f"{prefix}{template}" or "/"


def _counting(receive: Receive, exchange: Exchange) -> Receive:
    """Count the bytes of a body whose length nobody told."""

    async def count() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            exchange.request_bytes += len(message.get("body", b""))
        return message

    return count
