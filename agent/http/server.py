"""The HTTP server: one port, bounded in everything a client can make long."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from ...config.errors import TachographError
from ...config.settings import HttpSettings
from ..access import is_local_host, is_origin_allowed
from .errors import ApiError, ErrorType, Handler, error_middleware

#: Requests in flight get this long at shutdown.
_DRAIN_S: Final = 5.0
_LOCAL_NAMES: Final = frozenset({"localhost", "ip6-localhost"})


class ListenError(TachographError):
    """The address cannot be listened on; the message says why and what to do."""


def split_listen(listen: str) -> tuple[str, int]:
    """Split ``host:port``, ``[v6]:port`` or ``:port`` (all addresses)."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]") or "0.0.0.0", int(port)


def is_loopback(host: str) -> bool:
    if host in _LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class HttpServer:
    """Serves an application's routes; :meth:`start` and :meth:`stop` are its life."""

    def __init__(
        self,
        listen: str,
        settings: HttpSettings,
        routes: Iterable[web.AbstractRouteDef],
        *,
        allowed_origins: Collection[str] = (),
    ) -> None:
        self._host, self._port = split_listen(listen)
        self._settings = settings
        self._routes = list(routes)
        self._allowed_origins = tuple(allowed_origins)
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self.connections = 0
        self.refused = 0
        self.timed_out = 0
        #: Requests that browsers sent for somebody else, by the header that told: host, origin.
        self.foreign: Counter[str] = Counter()

    @property
    def url(self) -> str:
        """Where the server answers, with the port that was really taken."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self._host, self._host)
        return (
            f"http://[{host}]:{self.port}"
            if ":" in host.strip("[]")
            else f"http://{host}:{self.port}"
        )

    @property
    def port(self) -> int:
        if self._server is not None and self._server.sockets:
            return int(self._server.sockets[0].getsockname()[1])
        return self._port

    async def start(self) -> None:
        """
        Listen and answer.

        Raises:
            ListenError: The address is taken or not ours.
        """
        settings = self._settings
        middlewares = [error_middleware, self._check_origin]
        if is_loopback(self._host):
            middlewares.insert(0, self._check_host)
        app = web.Application(middlewares=middlewares, client_max_size=settings.max_body_bytes)
        app.add_routes(self._routes)
        options: dict[str, Any] = {
            "access_log": None,
            "keepalive_timeout": settings.idle_timeout_ms / 1000,
            "max_line_size": settings.max_line_bytes,
            "max_field_size": settings.max_line_bytes,
            # Bodies are unpacked by body.py, which bounds what comes out.
            "auto_decompress": False,
        }
        runner = web.AppRunner(
            app,
            handle_signals=False,
            shutdown_timeout=_DRAIN_S,
            handler_cancellation=True,
            **options,
        )
        await runner.setup()
        assert runner.server is not None
        manager, loop = runner.server, asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: _BoundedHandler(self, manager, loop, options), self._host, self._port
            )
        except (OSError, socket.gaierror) as error:
            await runner.cleanup()
            raise ListenError(
                f"cannot listen on {self._host}:{self._port}: {error.strerror or error}; "
                "is another agent running? Choose another address with --listen"
            ) from error
        self._runner = runner

    async def stop_listening(self) -> None:
        """Take no more connections; those there are go on."""
        if self._server is not None:
            self._server.close()

    async def stop(self) -> None:
        """Finish what is in flight and close all connections. May be called twice."""
        await self.stop_listening()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        self._server = None

    @web.middleware
    async def _check_host(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """
        Refuse requests for a name that is not ours: on loopback they come from a page that made its
        own name point here (DNS rebinding).
        """
        host = request.headers.get(hdrs.HOST, "")
        # Browsers always send one; some probes do not.
        if host and not is_local_host(host, (self._host, *self._settings.allowed_hosts)):
            self.foreign["host"] += 1
            raise web.HTTPForbidden(
                text=f"Host {host!r} is not served here; add it to http.allowed_hosts\n"
            )
        return await handler(request)

    @web.middleware
    async def _check_origin(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """
        Refuse what would change something and comes from another site's page: browsers send such
        requests without asking, and only keep the answer from the page. Programs name no origin.
        """
        origins = request.headers.getall(hdrs.ORIGIN, [])
        if origins and not _only_asks(request):
            host = request.headers.get(hdrs.HOST, "")
            if not is_origin_allowed(origins, host, self._allowed_origins):
                self.foreign["origin"] += 1
                raise ApiError(
                    ErrorType.BAD_DATA,
                    f"pages of {origins[0]!r} may not do this; see stream.allowed_origins",
                    status=403,
                )
        return await handler(request)

    @property
    def limits(self) -> HttpSettings:
        return self._settings


class _BoundedHandler(RequestHandler):
    """
    A connection that is closed when it takes too long over a request's head; aiohttp itself waits
    for ever. It is idle after a request, and then aiohttp's keep-alive limit holds.
    """

    __slots__ = ("_deadline", "_owner")

    def __init__(
        self,
        owner: HttpServer,
        manager: web.Server,
        loop: asyncio.AbstractEventLoop,
        options: dict[str, Any],
    ) -> None:
        super().__init__(manager, loop=loop, **options)
        self._owner = owner
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._owner.connections += 1
        if self._owner.connections > self._owner.limits.max_connections:
            self._owner.refused += 1
            self.force_close()
            return
        self._arm()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._owner.connections -= 1
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages or self._current_request is not None or self._upgraded:
            self._disarm()
        elif self._deadline is None:
            self._arm()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, LineTooLong):
            # aiohttp's own words quote a buffer.
            most = self._owner.limits.max_line_bytes
            message = f"the URL or a header is longer than {most} bytes; post long queries as forms"
        return super().handle_error(request, status, exc, message)

    def _arm(self) -> None:
        seconds = self._owner.limits.header_timeout_ms / 1000
        self._deadline = self._loop.call_later(seconds, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self._deadline = None
        if self._current_request is None and not self._messages:
            self._owner.timed_out += 1
            self.force_close()


def _only_asks(request: web.Request) -> bool:
    """
    Tell whether a request changes nothing, by its method or as the same handler answers GET.

    The latter are questions by POST, such as PromQL too long for a URL. They pass, as proxies of
    dashboards may hand on the browser's ``Origin``.
    """
    if request.method in (hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS):
        return True  # the WebSocket has a check of its own
    route = request.match_info.route
    return route.resource is not None and any(
        other.method == hdrs.METH_GET and other.handler == route.handler for other in route.resource
    )
