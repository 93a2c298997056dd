"""A live stream served on loopback, for tests with real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from aiohttp import web

from support.stream import LiveStore, series_of
from tachograph.agent.stream.hub import Hub
from tachograph.agent.stream.server import PATH, StreamServer
from tachograph.config.settings import StreamSettings
from tachograph.storage.clock import Clock, SystemClock

UP_A, UP_B = series_of("up", job="a"), series_of("up", job="b")


@dataclass
class Box:
    """A served hub."""

    store: LiveStore
    hub: Hub
    server: StreamServer
    port: int
    now_ms: int
    run: asyncio.Task[None] = field(repr=False)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}{PATH}"

    def tick(self, n: int, value: float) -> None:
        self.store.append(self.now_ms + n, {UP_A: value})


@contextlib.asynccontextmanager
async def serve(
    clock: Clock | None = None, settings: StreamSettings | None = None, **options: object
) -> AsyncIterator[Box]:
    settings = settings or StreamSettings()
    clock = clock or SystemClock()
    store = LiveStore()
    hub = store.hub = Hub(store, settings, clock, every_min_ms=0)
    store.append(clock.now_ms() - 1000, {UP_A: 1.0, UP_B: 0.0})
    server = StreamServer(hub, settings, clock, **options)  # type: ignore[arg-type]
    app = web.Application()
    app.add_routes(server.routes())
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)  # as the agent does
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    run = asyncio.create_task(server.run())
    try:
        yield Box(store, hub, server, runner.addresses[0][1], clock.now_ms(), run)
    finally:
        run.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await run
        await runner.cleanup()


async def until(condition: Callable[[], bool]) -> None:
    """Let real sockets work until something holds; the test's time limit ends a vain wait."""
    while not condition():
        await asyncio.sleep(0.001)
