"""``/ws/metrics`` on aiohttp: handshake, checks, time and goodbye; the protocol is elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from typing import Final

from aiohttp import WebSocketError, WSMsgType, web

from ...config.settings import StreamSettings
from ...storage.clock import Clock
from ..access import is_local_host, is_origin_allowed
from .connection import Connection
from .framing import DEFLATE_WINDOW_BITS, pong
from .hub import Hub
from .protocol import (
    BAD_MESSAGE,
    FORBIDDEN,
    GOING_AWAY,
    TOO_MANY,
    TRY_LATER,
    Close,
)
from .stats import StreamStats

PATH: Final = "/ws/metrics"

#: How soon a throttled feed, or a blocked client that reads again, is noticed.
_POLL_S: Final = 0.05
_SESSIONS_POLL_S: Final = 1.0
#: How long a client that is told to go may take to say goodbye, and all of them at shutdown.
_GOODBYE_S: Final = 1.0
_CLOSE_S: Final = 3.0


class StreamServer:
    """
    All open WebSockets. ``run`` drives time: throttled feeds, pings, clients that read again.

    Args:
        is_local: Whether only this machine can connect, so that ``Host`` must name it.
        allowed_hosts: Further names that ``Host`` may carry then.
    """

    def __init__(
        self,
        hub: Hub,
        settings: StreamSettings,
        clock: Clock,
        *,
        is_local: bool = True,
        allowed_hosts: Collection[str] = (),
    ) -> None:
        self._hub, self._settings, self._clock = hub, settings, clock
        self._is_local, self._allowed_hosts = is_local, tuple(allowed_hosts)
        self._connections: dict[Connection, None] = {}
        self._busy = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._is_closing = False
        self._next_sessions_poll_s = 0.0

    @property
    def stats(self) -> StreamStats:
        return self._hub.stats

    @property
    def unsent_bytes(self) -> int:
        """What waits for slow clients in our memory, over all connections."""
        return sum(connection.unsent_bytes for connection in self._connections)

    def routes(self) -> list[web.RouteDef]:
        return [web.get(PATH, self.handle, allow_head=False)]

    async def run(self) -> None:
        """Work until cancelled, then say goodbye to everyone."""
        self._is_closing = False
        try:
            while True:
                if not self._connections and self._hub.is_idle:
                    self._busy.clear()
                    await self._busy.wait()
                await self._clock.sleep(_POLL_S)
                self._tick()
        finally:
            await self.close()

    async def close(self) -> None:
        """Close every connection with 1001, within a few seconds; new ones are turned away."""
        self._is_closing = True
        for connection in tuple(self._connections):
            connection.close(GOING_AWAY, "shutting down; connect again in 2 s")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._empty.wait()
        for connection in tuple(self._connections):
            connection.cut()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one client for as long as it stays."""
        host = request.headers.get("Host", "")
        if self._is_local and not is_local_host(host, self._allowed_hosts):
            self.stats.refused["host"] += 1
            raise web.HTTPForbidden(
                text=f"Host {host!r} is not this machine; add it to http.allowed_hosts\n"
            )
        socket = web.WebSocketResponse(
            autoping=False,
            compress=request.query.get("deflate") == "1",
            max_msg_size=self._settings.max_message_bytes,
            timeout=_GOODBYE_S,
        )
        await socket.prepare(request)
        transport = request.transport
        if transport is None:
            return socket
        refusal = self._refusal(request, host)
        if refusal is not None:
            self.stats.closed[refusal.code] += 1
            await self._say_goodbye(socket, refusal)
            if transport.get_write_buffer_size():
                transport.abort()
            return socket
        await self._serve(socket, transport, request)
        return socket

    async def _serve(
        self, socket: web.WebSocketResponse, transport: asyncio.Transport, request: web.Request
    ) -> None:
        is_simple = request.query.get("format") == "simple"
        scope = asyncio.timeout(None)
        connection = Connection(
            self._hub,
            self._settings,
            transport,
            scope,
            self._clock.monotonic_s(),
            deflate=socket.compress == DEFLATE_WINDOW_BITS,
            simple=request.query.getall("match", []) if is_simple else None,
        )
        self._enter(connection)
        try:
            # A session that decides to close ends the wait for the client's next message by it.
            with contextlib.suppress(TimeoutError):
                async with scope:
                    await self._converse(socket, connection)
            connection.session.end()
            if connection.session.closing is not None:
                await self._say_goodbye(socket, connection.session.closing)
        finally:
            connection.session.end()
            if connection.unsent_bytes:
                connection.cut()
            self._leave(connection)

    def _enter(self, connection: Connection) -> None:
        self._connections[connection] = None
        self.stats.connections += 1
        self._busy.set()
        self._empty.clear()

    def _leave(self, connection: Connection) -> None:
        del self._connections[connection]
        self.stats.connections -= 1
        if not self._connections:
            self._empty.set()

    async def _converse(self, socket: web.WebSocketResponse, connection: Connection) -> None:
        session = connection.session
        connection.pump()
        while session.closing is None:
            message = await socket.receive()
            now_s = self._clock.monotonic_s()
            if message.type is WSMsgType.TEXT:
                session.receive(message.data, now_s)
            elif message.type is WSMsgType.BINARY:
                session.receive_bytes(now_s)
            elif message.type is WSMsgType.PONG:
                session.heard(now_s)
            elif message.type is WSMsgType.PING:
                session.heard(now_s)
                connection.write(pong(message.data))
            else:
                # Closed by the client, or by aiohttp: 1002, 1007, 1009.
                if isinstance(message.data, WebSocketError):
                    self.stats.closed[int(message.data.code)] += 1
                return
            connection.pump()
            await connection.writable()

    def _refusal(self, request: web.Request, host: str) -> Close | None:
        origins = request.headers.getall("Origin", [])
        if self._is_closing:
            return Close.of(TRY_LATER, "shutting down; connect again in 2 s")
        if not is_origin_allowed(origins, host, self._settings.allowed_origins):
            self.stats.refused["origin"] += 1
            return Close.of(
                FORBIDDEN, f"origin {origins[0]} may not connect; see stream.allowed_origins"
            )
        if len(self._connections) >= self._settings.max_connections:
            self.stats.refused["connections"] += 1
            most = self._settings.max_connections
            return Close.of(TOO_MANY, f"there are {most} connections already")
        if request.query.get("format", "simple") != "simple":
            return Close.of(BAD_MESSAGE, "format is simple, or absent")
        return None

    async def _say_goodbye(self, socket: web.WebSocketResponse, close: Close) -> None:
        # One that does not read runs into the time limit; whoever owns the transport cuts it.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await socket.close(code=close.code, message=close.reason.encode())

    def _tick(self) -> None:
        now_s = self._clock.monotonic_s()
        self._hub.poll()
        for connection in tuple(self._connections):
            if connection.is_blocked:
                connection.retry(now_s)
        if now_s >= self._next_sessions_poll_s:
            self._next_sessions_poll_s = now_s + _SESSIONS_POLL_S
            for connection in tuple(self._connections):
                connection.poll(now_s)
