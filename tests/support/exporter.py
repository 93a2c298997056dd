"""A scrape target on loopback that answers, or misbehaves, as a test says."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Exporter:
    """
    Serves ``page`` at every path.

    Attributes:
        page: Text of the answer, unless ``handler`` is set.
        headers: Of every request, newest last.
        paths: With query, of every request.
    """

    def __init__(self, page: str = "", content_type: str = TEXT) -> None:
        self.page, self.content_type = page, content_type
        self.handler: Handler | None = None
        self.headers: list[CIMultiDict[str]] = []
        self.paths: list[str] = []
        self.closing = asyncio.Event()
        self.address = ""
        self._runner: web.ServerRunner | None = None
        self._tls: ssl.SSLContext | None = None

    def with_tls(self, context: ssl.SSLContext) -> Exporter:
        self._tls = context
        return self

    async def __aenter__(self) -> Exporter:
        self._runner = web.ServerRunner(web.Server(self._answer, access_log=None))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        assert self._runner is not None
        await self._runner.cleanup()

    async def never(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer only when the test is over."""
        await self.closing.wait()
        return web.Response()

    async def broken_off(self, request: web.BaseRequest) -> web.StreamResponse:
        """Promise a long page, send a little of it and reset the connection."""
        response = web.StreamResponse(headers={"Content-Length": "100000", "Content-Type": TEXT})
        await response.prepare(request)
        await response.write(b"a 1\nb")
        assert request.transport is not None
        request.transport.abort()
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.headers.append(CIMultiDict(request.headers))
        self.paths.append(request.path_qs)
        if self.handler is not None:
            return await self.handler(request)
        return web.Response(body=self.page.encode(), headers={"Content-Type": self.content_type})


def gzipped(page: bytes, content_type: str = TEXT) -> web.Response:
    """An answer that is packed already."""
    headers = {"Content-Encoding": "gzip", "Content-Type": content_type}
    return web.Response(body=gzip.compress(page, 6), headers=headers)
