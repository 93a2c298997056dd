"""Middleware for aiohttp's server."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from .address import is_disabled
from .handled import EXCHANGE
from .http import UNMATCHED, HttpMetrics, Socket
from .registry import Registry

# A plain name is warned of where aiohttp has keys of its own, from 3.14 on.
_KEY: Any = web.RequestKey(EXCHANGE, object) if hasattr(web, "RequestKey") else EXCHANGE


def aiohttp_middleware(
    metrics: HttpMetrics | None = None,
    *,
    namespace: str | None = None,
    registry: Registry | None = None,
) -> Middleware:
    """
    Return a middleware: ``web.Application(middlewares=[aiohttp_middleware()])``, as the first one.

    Args:
        metrics: What is counted; without it the usual metrics in ``registry`` under ``namespace``.
    """
    counted = metrics or HttpMetrics(namespace, registry=registry)
    is_off = is_disabled()

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        # A sub-application may have a middleware of its own.
        if is_off or counted.is_excluded(request.path) or counted.is_counted(request.get(_KEY)):
            return await handler(request)
        request[_KEY] = counted
        if request.headers.get(hdrs.UPGRADE, "").lower() == "websocket":
            return await _websocket(counted, request, handler)
        exchange = counted.begin(request.method)
        exchange.request_bytes = request.content_length or 0
        try:
            response = await handler(request)
        except web.HTTPException as answer:
            exchange.response_bytes = _size(answer)
            exchange.end(_endpoint(request), answer.status)
            raise
        except asyncio.CancelledError:
            exchange.abandon(_endpoint(request))
            raise
        except ConnectionError:  # aiohttp's way to say that the client left a stream
            exchange.abandon(_endpoint(request))
            raise
        except BaseException as error:
            exchange.fail(_endpoint(request), error)
            raise
        if not exchange.request_bytes and request.body_exists:
            exchange.request_bytes = request.content.total_bytes
        exchange.response_bytes = _size(response)
        exchange.end(_endpoint(request), response.status)
        return response

    return middleware


async def _websocket(
    metrics: HttpMetrics, request: web.Request, handler: Handler
) -> web.StreamResponse:
    # aiohttp has no event for single messages; they can be counted in the handler.
    socket = Socket(metrics, _endpoint(request))
    try:
        return await handler(request)
    finally:
        socket.end()


def _endpoint(request: web.Request) -> str:
    """Return the template of the route, with what its sub-application is mounted under."""
    resource = request.match_info.route.resource
    return UNMATCHED if resource is None else resource.canonical


def _size(response: web.StreamResponse) -> int:
    """The bytes of a body: those that were sent, or what is going to be."""
    if response.body_length:
        return int(response.body_length)
    return response.content_length or 0
