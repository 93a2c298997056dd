"""Everything the backend measures of itself: the one file that knows of Tachograph."""

from __future__ import annotations

import gc
import re
import sys
import time
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from sqlalchemy import Engine, event

import tachograph
from tachograph.agent.client.aiohttp_web import aiohttp_middleware

from .cache import Cache

_STATEMENT: Final = re.compile(
    r"\s*(\w+)\b(?:.*?\b(?:from|into|update|table)\s+[\"`]?(\w+))?", re.IGNORECASE | re.DOTALL
)
_PAGE_BYTES: Final = 4096


class Instrumentation:
    """Defines the metrics, and counts what the backend tells it of."""

    def __init__(self, namespace: str = "oht50") -> None:
        self._namespace = namespace
        prefix = f"{namespace}_"
        counter, gauge = tachograph.counter, tachograph.gauge
        histogram, ratio = tachograph.histogram, tachograph.ratio
        # Business
        self._missions = counter(f"{prefix}missions_total", "Missions ended.", ("type", "status"))
        self._mission_duration = histogram(
            f"{prefix}mission_duration_seconds",
            "From the start of a mission to its end.",
            ("type",),
        )
        self._success = ratio(
            f"{prefix}mission_success_rate", "Missions that were completed, of all.", ("type",)
        )
        self._queue = gauge(f"{prefix}mission_queue_size", "Missions that wait.", ("priority",))
        self._safety = counter(
            f"{prefix}safety_events_total", "Safety events.", ("type", "severity")
        )
        self._response = histogram(
            f"{prefix}safety_response_time_seconds", "From a safety event to its answer.", ("type",)
        )
        self._points = counter(
            f"{prefix}telemetry_data_points_total",
            "Measurements of the vehicles.",
            ("data_type", "module_id"),
        )
        self._latency = histogram(
            f"{prefix}telemetry_latency_seconds", "Age of a measurement here.", ("data_type",)
        )
        self._changes = counter(
            f"{prefix}config_changes_total", "Settings changed.", ("config_type",)
        )
        self._errors = counter(
            f"{prefix}config_validation_errors_total", "Settings refused.", ("config_type",)
        )
        # Performance
        self._queries = histogram(
            f"{prefix}database_query_duration_seconds", "Time of a query.", ("query_type", "table")
        )
        self._active = gauge(f"{prefix}database_connections_active", "Connections in use.")
        self._pool = gauge(f"{prefix}database_connections_pool_size", "Connections in the pool.")
        self._hit_rate = ratio(
            f"{prefix}cache_hit_rate", "Look-ups that found a value.", ("cache_type",)
        )
        self._cache_bytes = gauge(f"{prefix}cache_size_bytes", "Held values.", ("cache_type",))
        self._memory = gauge(f"{prefix}memory_allocation_bytes", "Memory by type.", ("type",))
        self._gc = histogram(
            f"{prefix}garbage_collection_duration_seconds", "Time of one collection."
        )

    def instrument(self, app: web.Application, engine: Engine, cache: Cache) -> None:
        """Watch the web application, the database and the cache from now on."""
        app.middlewares.insert(0, aiohttp_middleware(namespace=self._namespace))
        event.listen(engine, "before_cursor_execute", self._query_begins, insert=True)
        event.listen(engine, "after_cursor_execute", self._query_ends)
        pool: Any = engine.pool
        self._active.set_function(pool.checkedout)
        self._pool.set_function(pool.size)
        self._cache_bytes.labels("vehicles").set_function(lambda: cache.bytes)
        cache.watch(self._hit_rate.labels("vehicles").take)
        self._memory.labels("resident").set_function(_resident_bytes)
        self._memory.labels("python_blocks").set_function(sys.getallocatedblocks)
        gc.callbacks.append(_Collections(self._gc.observe))

    # --- What the backend tells ---------------------------------------------------------------

    def mission(self, type_: str, status: str, seconds: float) -> None:
        self._missions.labels(type_, status).inc()
        self._mission_duration.labels(type_).observe(seconds)
        self._success.labels(type_).take(status == "completed")

    def queue(self, priority: str, size: int) -> None:
        self._queue.labels(priority).set(size)

    def safety_event(self, type_: str, severity: str, seconds: float) -> None:
        self._safety.labels(type_, severity).inc()
        self._response.labels(type_).observe(seconds)

    def telemetry(self, data_type: str, module: str, points: int, latency_s: float) -> None:
        self._points.labels(data_type, module).inc(points)
        self._latency.labels(data_type).observe(latency_s)

    def config_change(self, type_: str) -> None:
        self._changes.labels(type_).inc()

    def config_error(self, type_: str) -> None:
        self._errors.labels(type_).inc()

    # --- Queries ------------------------------------------------------------------------------

    def _query_begins(self, *arguments: Any) -> None:
        arguments[4]._began_s = time.perf_counter()

    def _query_ends(self, *arguments: Any) -> None:
        seconds = time.perf_counter() - arguments[4]._began_s
        match = _STATEMENT.match(arguments[2])
        kind, table = match.groups() if match else ("other", None)
        self._queries.labels(kind.lower(), table or "none").observe(seconds)


class _Collections:
    """Measures the garbage collector."""

    def __init__(self, observe: Any) -> None:
        self._observe, self._began_s = observe, 0.0

    def __call__(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._began_s = time.perf_counter()
        elif self._began_s:
            self._observe(time.perf_counter() - self._began_s)


def _resident_bytes() -> float:
    return float(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
