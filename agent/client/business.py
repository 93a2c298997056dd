"""The ready-made metrics of a backend: its requests, its work, its performance, in one object."""

from __future__ import annotations

from typing import Any, Final

from .caches import CacheMetrics
from .default import REGISTRY
from .gc import instrument_gc
from .http import HttpMetrics
from .memory import instrument_memory
from .metrics import SECONDS
from .registry import Registry
from .sqlalchemy import DatabaseMetrics

#: Missions take from a second to half an hour.
_MISSION_BOUNDS: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_LATENCY_BOUNDS: Final = (0.001, 0.0025, *SECONDS)

COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"


class BackendMetrics:
    """
    Every metric that a backend of vehicles and missions has, and short ways to feed it.

    ``m = BackendMetrics("oht50")``, then ``m.mission_completed("transport", 12.3)``. Middlewares,
    caches and databases that are instrumented with the same namespace feed the same metrics.

    Args:
        namespace: Prefix of the names; without it that of ``TACHOGRAPH_NAMESPACE``, or ``backend``.

    Attributes:
        http, database, cache: The metrics that the middlewares and instruments feed.
    """

    def __init__(self, namespace: str | None = None, *, registry: Registry | None = None) -> None:
        self.registry = registry or REGISTRY
        self.namespace = namespace
        prefix = self.registry.prefix(namespace)
        define = self.registry
        self.http = HttpMetrics(namespace, registry=define)
        self.database = DatabaseMetrics(namespace, registry=define)
        self.cache = CacheMetrics(namespace, registry=define)
        self.missions = define.counter(
            f"{prefix}missions_total", "Missions that ended, by outcome.", ("type", "status")
        )
        self.mission_duration = define.histogram(
            f"{prefix}mission_duration_seconds",
            "Time from the start of a mission to its end.",
            ("type",),
            bounds=_MISSION_BOUNDS,
        )
        self.mission_success = define.ratio(
            f"{prefix}mission_success_rate",
            "Share of missions completed among those completed or failed, over five minutes.",
            ("type",),
        )
        self.mission_queue = define.gauge(
            f"{prefix}mission_queue_size", "Missions that wait.", ("priority",)
        )
        self.safety_events = define.counter(
            f"{prefix}safety_events_total", "Safety events.", ("type", "severity")
        )
        self.safety_response = define.histogram(
            f"{prefix}safety_response_time_seconds",
            "Time from a safety event to the answer to it.",
            ("type",),
            bounds=_LATENCY_BOUNDS,
        )
        self.telemetry_points = define.counter(
            f"{prefix}telemetry_data_points_total",
            "Telemetry data points received.",
            ("data_type", "module_id"),
        )
        self.telemetry_latency = define.histogram(
            f"{prefix}telemetry_latency_seconds",
            "Time from the measurement of a data point to its arrival.",
            ("data_type",),
            bounds=_LATENCY_BOUNDS,
        )
        self.config_changes = define.counter(
            f"{prefix}config_changes_total", "Configuration changes.", ("config_type",)
        )
        self.config_errors = define.counter(
            f"{prefix}config_validation_errors_total",
            "Configurations refused as they were not valid.",
            ("config_type",),
        )
        instrument_gc(namespace, registry=define)
        instrument_memory(namespace, registry=define)

    # --- Missions -----------------------------------------------------------------------------

    def mission_completed(self, type: str, seconds: float) -> None:
        self._mission_ended(type, COMPLETED, seconds)
        self.mission_success.labels(type).hit()

    def mission_failed(self, type: str, seconds: float | None = None) -> None:
        self._mission_ended(type, FAILED, seconds)
        self.mission_success.labels(type).miss()

    def mission_cancelled(self, type: str, seconds: float | None = None) -> None:
        """Neither success nor failure."""
        self._mission_ended(type, CANCELLED, seconds)

    def mission(self, type: str) -> Mission:
        """Measure a block as a mission: completed, or failed by an exception."""
        return Mission(self, type)

    def mission_waits(self, priority: str, by: float = 1.0) -> None:
        """Missions have come into the queue, or left it (``by`` below 0)."""
        self.mission_queue.labels(priority).inc(by)

    def mission_queue_is(self, priority: str, size: float) -> None:
        self.mission_queue.labels(priority).set(size)

    # --- Safety, telemetry, configuration -----------------------------------------------------

    def safety_event(self, type: str, severity: str, response_seconds: float | None = None) -> None:
        self.safety_events.labels(type, severity).inc()
        if response_seconds is not None:
            self.safety_response.labels(type).observe(response_seconds)

    def telemetry(
        self, data_type: str, module_id: str, points: float = 1.0, latency_s: float | None = None
    ) -> None:
        self.telemetry_points.labels(data_type, module_id).inc(points)
        if latency_s is not None:
            self.telemetry_latency.labels(data_type).observe(latency_s)

    def config_changed(self, config_type: str) -> None:
        self.config_changes.labels(config_type).inc()

    def config_invalid(self, config_type: str) -> None:
        self.config_errors.labels(config_type).inc()

    # --- Performance, where no middleware or instrument does it -------------------------------

    def request(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        """Count a request that no middleware saw."""
        self.http.requests.labels(method, endpoint, str(status)).inc()
        self.http.duration.labels(method, endpoint).observe(seconds)
        self.http.api_duration.labels(endpoint, method).observe(seconds)
        self.http.api_throughput.labels(endpoint).inc()

    def query(self, query_type: str, table: str, seconds: float) -> None:
        """Count a database query that SQLAlchemy didn't make."""
        self.database.duration.labels(query_type, table).observe(seconds)

    def cache_lookup(self, cache_type: str, is_hit: bool) -> None:
        self.cache.hit_rate.labels(cache_type).take(is_hit)

    def _mission_ended(self, type: str, status: str, seconds: float | None) -> None:
        self.missions.labels(type, status).inc()
        if seconds is not None:
            self.mission_duration.labels(type).observe(seconds)


class Mission:
    """A block that is a mission."""

    __slots__ = ("_began_s", "_metrics", "_type")

    def __init__(self, metrics: BackendMetrics, type: str) -> None:
        self._metrics, self._type = metrics, type
        self._began_s = 0.0

    def __enter__(self) -> Mission:
        self._began_s = self._metrics.registry.monotonic_s()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        seconds = self._metrics.registry.monotonic_s() - self._began_s
        if kind is None:
            self._metrics.mission_completed(self._type, seconds)
        elif issubclass(kind, Exception):
            self._metrics.mission_failed(self._type, seconds)
        else:  # cancelled, or the process ends
            self._metrics.mission_cancelled(self._type, seconds)
