"""What backends send us, put together: their messages, our own process's metrics, the ways in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec
from aiohttp import web

from ..config import Config
from ..storage.clock import Clock
from ..storage.frame import RefArray
from ..storage.store import Store
from .client.address import is_disabled
from .client.outbox import Answer, Outbox
from .client.registry import Registry
from .collectors.client import ClientSource, Memory
from .http.client import ClientEndpoint, switched_off
from .ingest.client import ClientIntake, Message
from .ingest.recorder import Recorder
from .last_values import last_values
from .listeners.client import ClientListener
from .selfmon import SelfMetric

log = logging.getLogger(__name__)

#: Name of the socket in the data directory.
SOCKET_NAME = "client.sock"


class Backends:
    """
    Args:
        registry: Metrics of this process, if a backend has us in its own; ``None`` if not.
    """

    def __init__(
        self,
        store: Store,
        config: Config,
        clock: Clock,
        recorder: Recorder,
        registry: Registry | None,
    ) -> None:
        custom = config.metrics.custom
        self.is_enabled = custom.enabled
        interval_s = config.metrics.collection.performance_interval_ms / 1000

        async def newest(refs: RefArray) -> dict[int, float]:
            return dict(await last_values(store, refs))

        memory = Memory(store.index, newest)
        self.intake = ClientIntake(
            memory.restore, memory.positions, recorder, clock, config.metrics.limits.series
        )
        self._feed = _Feed(registry, self.intake, recorder, interval_s) if registry else None
        feed = self._feed.collect if self._feed is not None else None
        self.source = ClientSource(store, self.intake, clock, interval_s, feed)
        self.listener = ClientListener(
            self.intake, Path(custom.socket or store.directory / SOCKET_NAME)
        )
        self._endpoint = ClientEndpoint(self.intake, config.http)
        if registry is not None and self.is_enabled:
            limits = config.metrics.limits
            registry.limits.series = limits.series
            registry.limits.series_per_metric = limits.series_per_metric
            registry.limits.label_value_bytes = limits.label_value_bytes

    def routes(self) -> list[web.AbstractRouteDef]:
        return self._endpoint.routes() if self.is_enabled else switched_off()

    async def start(self) -> None:
        """Open the socket, and take over what this process records."""
        if self.is_enabled:
            await self.listener.start()
            if self._feed is not None:
                self._feed.start()

    async def stop(self) -> None:
        """Close the socket. May be called twice."""
        await self.listener.stop()

    def metrics(self) -> list[SelfMetric]:
        stats, listener = self.intake.stats, self.listener.stats
        return [
            SelfMetric("client_workers", "Processes that push.", lambda: self.intake.workers),
            SelfMetric(
                "client_connections",
                "Open connections to the socket.",
                lambda: listener.connections,
            ),
            SelfMetric(
                "client_connections_refused_total",
                "Connections to the socket over the limit.",
                lambda: listener.refused,
            ),
            SelfMetric(
                "client_connections_broken_total",
                "Connections to the socket closed for what came over them.",
                lambda: listener.broken,
            ),
            SelfMetric(
                "client_messages_total", "Messages of processes applied.", lambda: stats.messages
            ),
            SelfMetric(
                "client_duplicates_total",
                "Messages that had been applied already, and were not again.",
                lambda: stats.duplicates,
            ),
            SelfMetric(
                "client_greetings_total",
                "Times that a process began to push, or began anew.",
                lambda: stats.greetings,
            ),
            SelfMetric(
                "client_expired_total", "Processes gone without a word.", lambda: stats.expired
            ),
            SelfMetric(
                "client_refused_total",
                "Metrics and values of processes not taken, by reason.",
                lambda: stats.refused,
                "reason",
            ),
        ]


class _Feed:
    """Takes over the metrics of this process, as if it pushed them to us."""

    def __init__(
        self, registry: Registry, intake: ClientIntake, recorder: Recorder, interval_s: float
    ) -> None:
        self._registry, self._intake, self._recorder = registry, intake, recorder
        self._outbox = Outbox(registry, interval_ms=round(interval_s * 1000))
        self._take: Callable[..., None] = recorder.record

    def start(self) -> None:
        if self._registry.reader is None and not is_disabled():
            self._registry.reader = self
            self._registry.taker = self._take

    async def collect(self, is_last: bool) -> None:
        if self._registry.reader is not self:
            return
        # Nobody uses the client in this process, as yet: then there is no trace of it either.
        if self._registry.series_count or self._registry.records:
            if not self._outbox.is_connected:
                await self._say(self._outbox.greeting())
            for message in self._outbox.messages(is_last=is_last):
                if not await self._say(message):
                    break
                await asyncio.sleep(0)  # a millisecond of the backend's loop was enough
        for complaint in self._registry.complaints():
            log.warning("%s", complaint)
        if is_last:
            self._registry.reader = self._registry.taker = None

    async def _say(self, message: object) -> bool:
        try:
            answer = await self._intake.handle(msgspec.convert(message, Message))
        except BaseException:
            self._outbox.lost()
            raise
        return self._outbox.answered(Answer.of(answer))
