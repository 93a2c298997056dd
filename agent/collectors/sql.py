"""A database query as business figures, through SQLAlchemy, in a thread of its own."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...config.errors import ConfigError
from ...config.secret import Secret, resolve_secret
from ...config.sources import SqlMetric, SqlSource
from ...config.sqlurl import parse_database_url
from ...storage.model import MetricType
from .figures import Figure, SourceError, as_label, as_number, masked
from .offload import CallHung, Offload
from .tick import Family

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine import URL

_PASS: Final = "query"
#: The thread is left behind this long before the pass itself is given up.
_MARGIN: Final = 0.95


class SqlReader:
    """
    Reads one query. Each pass has a connection of its own and a transaction that is read-only where
    the database knows such (SQLite, PostgreSQL) and rolled back everywhere.

    SQLAlchemy is imported by the first pass, in its thread.
    """

    def __init__(self, settings: SqlSource, timeout_s: float) -> None:
        self._settings, self._timeout_s = settings, timeout_s
        self._offload = Offload(f"tachograph-sql/{settings.name}")
        self._engine: Engine | None = None
        self._url = Secret("")
        self._running: sqlite3.Connection | None = None
        self._families = [
            Family(metric.name, MetricType(metric.type), metric.help) for metric in settings.metrics
        ]

    async def read(self) -> Sequence[Figure]:
        try:
            results = await self._offload.run({_PASS: self._query}, self._timeout_s * _MARGIN)
        except BaseException:
            self._interrupt()
            raise
        result = results[_PASS]
        if isinstance(result, CallHung):
            self._interrupt()
            raise SourceError(f"the query takes longer than {self._timeout_s:g} s")
        if isinstance(result, Exception):
            raise result
        return result

    async def close(self) -> None:
        self._offload.close()

    def _interrupt(self) -> None:
        """Have SQLite give up; PostgreSQL was told its time when it began."""
        running = self._running
        if running is not None:
            with contextlib.suppress(sqlite3.Error):
                running.interrupt()

    # --- In the thread ------------------------------------------------------------------------

    def _query(self) -> list[Figure]:
        try:
            secret = resolve_secret(self._settings.url, self._settings.url_file)
            assert secret is not None
            url = parse_database_url(secret)
        except (ConfigError, ValueError) as error:
            raise SourceError(f"url: {error}") from None
        from sqlalchemy.exc import DBAPIError, SQLAlchemyError

        try:
            with self._engine_of(secret, url).connect() as connection:
                return self._figures(connection)
        except SQLAlchemyError as error:
            text = str(error.orig if isinstance(error, DBAPIError) and error.orig else error)
            secrets = [url.password or "", secret.reveal(), secret.reveal().partition("://")[2]]
            raise SourceError(masked(text, secrets)) from None
        finally:
            self._running = None

    def _engine_of(self, secret: Secret, url: URL) -> Engine:
        """Return the engine for a URL; it holds no connections between two passes."""
        if self._engine is None or secret != self._url:
            from sqlalchemy import create_engine
            from sqlalchemy.pool import NullPool

            options: dict[str, Any] = {}
            if url.get_backend_name() == "sqlite":
                _require_file(url)
                options["timeout"] = self._timeout_s
                options["check_same_thread"] = False  # interrupt() comes from the event loop
            elif url.get_backend_name() == "postgresql":
                options["connect_timeout"] = max(2, round(self._timeout_s))
            # Statements and their parameters stay out of errors and logs.
            self._engine = create_engine(
                url, poolclass=NullPool, connect_args=options, hide_parameters=True
            )
            self._url = secret
        elif url.get_backend_name() == "sqlite":
            _require_file(url)
        return self._engine

    def _figures(self, connection: Connection) -> list[Figure]:
        settings = self._settings
        match connection.dialect.name:
            case "sqlite":
                raw = connection.connection.driver_connection
                if isinstance(raw, sqlite3.Connection):
                    self._running = raw
                connection.exec_driver_sql("PRAGMA query_only = ON")
            case "postgresql":
                connection = connection.execution_options(postgresql_readonly=True)
                limit_ms = max(1, round(self._timeout_s * 1000))
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = {limit_ms:d}")
        # Rows come as they are asked for, so that a table without WHERE costs no memory.
        connection = connection.execution_options(
            no_parameters=True, stream_results=True, max_row_buffer=min(settings.max_rows, 1000)
        )
        result = connection.exec_driver_sql(settings.query)
        if not result.returns_rows:
            raise SourceError("the query returns no rows; write a SELECT")
        columns = {name: at for at, name in enumerate(result.keys())}
        rows = result.fetchmany(settings.max_rows + 1)
        result.close()
        if len(rows) > settings.max_rows:
            raise SourceError(f"more than {settings.max_rows} rows; see max_rows")
        figures: list[Figure] = []
        for metric, family in zip(settings.metrics, self._families, strict=True):
            figures += _of_rows(metric, family, columns, rows)
        return figures


def _of_rows(
    metric: SqlMetric, family: Family, columns: dict[str, int], rows: Sequence[Sequence[Any]]
) -> list[Figure]:
    place = partial(_column, columns)
    value_at = place(metric.value or metric.name)
    labels_at = {label: place(label) for label in metric.labels}
    figures = []
    for row in rows:
        value = as_number(row[value_at], metric.name)
        if value is not None:
            labels = {label: as_label(row[at], label) for label, at in labels_at.items()}
            figures.append(Figure.of(family, labels, value))
    return figures


def _column(columns: dict[str, int], name: str) -> int:
    if name not in columns:
        raise SourceError(f"the query has no column {name!r}; it has {', '.join(columns)}")
    return columns[name]


def _require_file(url: URL) -> None:
    """SQLite would make a database that isn't there; a monitor must not."""
    name = url.database or ""
    if name and name != ":memory:" and not name.startswith("file:") and not Path(name).is_file():
        raise SourceError(f"there is no database {name}")
