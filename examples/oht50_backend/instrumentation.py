"""Everything the backend measures of itself: the one file that knows of Tachograph."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from aiohttp import web
from sqlalchemy import Engine

from tachograph import (
    BackendMetrics,
    Registry,
    aiohttp_middleware,
    instrument_cache,
    instrument_loop,
    instrument_sqlalchemy,
)

from .cache import Json

NAMESPACE = "oht50"


class Instrumentation:
    """Feeds the ready-made metrics of a backend."""

    def __init__(self, registry: Registry | None = None) -> None:
        self._registry = registry
        self._metrics = BackendMetrics(NAMESPACE, registry=registry)

    def instrument(self, app: web.Application, engine: Engine) -> None:
        """Watch the web application, its event loop and the database from now on."""
        app.middlewares.insert(0, aiohttp_middleware(self._metrics.http))
        instrument_sqlalchemy(engine, namespace=NAMESPACE, registry=self._registry)
        app.on_startup.append(self._watch_loop)

    def cache(self, name: str, cache: MutableMapping[str, Json]) -> MutableMapping[str, Json]:
        """Return a cache that counts, to be used in place of the one given."""
        return instrument_cache(name, cache, namespace=NAMESPACE, registry=self._registry)

    def mission(self, type_: str, status: str, seconds: float) -> None:
        if status == "completed":
            self._metrics.mission_completed(type_, seconds)
        else:
            self._metrics.mission_failed(type_, seconds)

    def queue(self, priority: str, size: int) -> None:
        self._metrics.mission_queue_is(priority, size)

    def safety_event(self, type_: str, severity: str, seconds: float) -> None:
        self._metrics.safety_event(type_, severity, seconds)

    def telemetry(self, data_type: str, module: str, points: int, latency_s: float) -> None:
        self._metrics.telemetry(data_type, module, points, latency_s)

    def config_change(self, type_: str) -> None:
        self._metrics.config_changed(type_)

    def config_error(self, type_: str) -> None:
        self._metrics.config_invalid(type_)

    async def _watch_loop(self, _: Any) -> None:
        instrument_loop(namespace=NAMESPACE, registry=self._registry)
