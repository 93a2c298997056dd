"""What the backend asks its database, and how its pool of connections does."""

from __future__ import annotations

import re
import weakref
from typing import Any, Final

from .default import REGISTRY
from .registry import Registry

#: Query types that are told apart; all else is ``other`` (CREATE, PRAGMA, SET, …).
_TYPES: Final = frozenset({"select", "insert", "update", "delete"})
_FIRST: Final = re.compile(r"[\s(]*(?:--[^\n]*\n\s*|/\*.*?\*/\s*)*([a-zA-Z]+)", re.DOTALL)
_TABLE: Final = re.compile(
    r"""\b(?:from|into|update|join|table(?:\s+if\s+(?:not\s+)?exists)?)\s+(?:only\s+)?
        ((?:["`\[]?[\w$]+["`\]]?\.)?["`\[]?[\w$]+["`\]]?)""",
    re.IGNORECASE | re.VERBOSE,
)
_MAIN: Final = re.compile(r"\)\s*(select|insert|update|delete)\b", re.IGNORECASE)
_QUOTES: Final = str.maketrans("", "", '"`[]')
# Statements that were read before: an application has some hundreds, generated ones are more.
_KNOWN_MAX: Final = 2_000
_BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class DatabaseMetrics:
    """The metrics of databases; one set for each registry and namespace."""

    def __init__(self, namespace: str | None = None, *, registry: Registry | None = None) -> None:
        self.registry = registry or REGISTRY
        prefix = self.registry.prefix(namespace)
        self.duration = self.registry.histogram(
            f"{prefix}database_query_duration_seconds",
            "Time that a statement took in the database and its driver.",
            ("query_type", "table"),
            bounds=_BOUNDS,
        )
        self.errors = self.registry.counter(
            f"{prefix}database_errors_total",
            "Statements that failed, by the driver's exception.",
            ("query_type", "exception"),
        )
        self.active = self.registry.gauge(
            f"{prefix}database_connections_active", "Connections in use."
        )
        self.pool_size = self.registry.gauge(
            f"{prefix}database_connections_pool_size", "Connections that the pools keep open."
        )
        self.overflow = self.registry.gauge(
            f"{prefix}database_connections_overflow", "Connections beyond the pools' sizes."
        )


def read_statement(statement: str) -> tuple[str, str]:
    """Return type and first table of a SQL statement; ``""`` for a table that isn't found."""
    match = _FIRST.match(statement)
    type_ = match[1].lower() if match else ""
    if type_ == "with":
        main = _MAIN.search(statement)
        type_ = main[1].lower() if main else "select"
    found = _TABLE.search(statement)
    table = found[1].translate(_QUOTES) if found else ""
    return (type_ if type_ in _TYPES else "other"), table


def instrument_sqlalchemy(
    engine: Any, *, namespace: str | None = None, registry: Registry | None = None
) -> None:
    """
    Measure every statement of an engine, and watch its pool. A second call for one engine is none.

    Args:
        engine: ``Engine`` or ``AsyncEngine``.

    Raises:
        TypeError: It is neither.
    """
    from sqlalchemy import Engine, event

    engine = getattr(engine, "sync_engine", engine)
    if not isinstance(engine, Engine):
        raise TypeError(f"{type(engine).__name__} is no SQLAlchemy Engine nor AsyncEngine")
    metrics = DatabaseMetrics(namespace, registry=registry)
    pools = _pools_of(metrics)
    if engine in pools:
        return
    pools.add(engine)
    known: dict[str, tuple[str, str]] = {}
    monotonic_s = metrics.registry.monotonic_s

    def place(statement: str) -> tuple[str, str]:
        found = known.get(statement)
        if found is None:
            found = read_statement(statement)
            if len(known) < _KNOWN_MAX:
                known[statement] = found
        return found

    def before(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        if context is not None:
            context.tachograph_began_s = monotonic_s()

    def after(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        began_s = getattr(context, "tachograph_began_s", None)
        if began_s is not None:
            metrics.duration.labels(*place(statement)).observe(monotonic_s() - began_s)

    def failed(context: Any) -> None:
        type_, _ = place(context.statement or "")
        name = type(context.original_exception).__name__
        metrics.errors.labels(type_, name).inc()

    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "after_cursor_execute", after)
    event.listen(engine, "handle_error", failed)


_pools: weakref.WeakKeyDictionary[Registry, dict[str, Any]] = weakref.WeakKeyDictionary()


def _pools_of(metrics: DatabaseMetrics) -> Any:
    """The engines whose pools add up to one metric; they are asked when metrics are handed on."""
    by_name = _pools.setdefault(metrics.registry, {})
    engines = by_name.get(metrics.active.name)
    if engines is None:
        engines = by_name[metrics.active.name] = weakref.WeakSet()

        def read() -> None:
            pools = [engine.pool for engine in list(engines)]
            metrics.active.set(sum(_ask(pool, "checkedout") for pool in pools))
            metrics.pool_size.set(sum(_ask(pool, "size") for pool in pools))
            metrics.overflow.set(sum(max(0, _ask(pool, "overflow")) for pool in pools))

        metrics.registry.before_drain(("pools", metrics.active.name), read)
    return engines


def _ask(pool: Any, what: str) -> int:
    """A number of a pool; those that keep no connections (NullPool, StaticPool) have none."""
    method = getattr(pool, what, None)
    return int(method()) if method is not None else 0
