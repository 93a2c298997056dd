"""
``state.db``: the small relational part beside the samples. Today it holds events, what happened to
the agent and when, and a few values that outlive the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiosqlite

from .clock import Clock
from .errors import SchemaTooNew, StoreUnavailable
from .sqlite import CORRUPT_CODES, primary_code

log = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 1
#: Events that are kept; at a hundred a day that is a season.
EVENTS_MAX: Final = 10_000
#: Events that wait for a disk that refuses.
_WAITING_MAX: Final = 1_000

_SCHEMA: Final = """
CREATE TABLE event (
    id      INTEGER PRIMARY KEY,
    at_ms   INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    message TEXT NOT NULL,
    facts   TEXT NOT NULL
);
CREATE TABLE value (
    k TEXT PRIMARY KEY,
    v TEXT NOT NULL
) WITHOUT ROWID;
"""
_INSERT: Final = "INSERT INTO event (at_ms, kind, message, facts) VALUES (?, ?, ?, ?)"
_TRIM: Final = "DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?"
_SELECT: Final = (
    "SELECT id, at_ms, kind, message, facts FROM event "
    "WHERE at_ms > ? AND at_ms <= ? ORDER BY id DESC LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; ``kind`` is a word such as ``start`` or ``clock_step``."""

    at_ms: int
    kind: str
    message: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0


class State:
    """
    Opens and keeps ``state.db``. :meth:`note` never waits and never fails; what it was told is
    written by :meth:`run`, in order.
    """

    def __init__(self, directory: Path, clock: Clock, *, events_max: int = EVENTS_MAX) -> None:
        self.path = directory / "state.db"
        self._clock, self._events_max = clock, events_max
        self._connection: aiosqlite.Connection | None = None
        self._waiting: list[Event] = []
        self._some = asyncio.Event()
        self.dropped = 0

    async def open(self) -> None:
        """
        Open or create the database. A damaged one is put aside: what it holds can be done without.

        Raises:
            SchemaTooNew: A newer version wrote it.
            StoreUnavailable: It cannot be opened.
        """
        try:
            self._connection = await self._connect()
        except sqlite3.Error as error:
            if primary_code(error) not in CORRUPT_CODES:
                raise StoreUnavailable(f"{self.path}: {error}") from error
            aside = self.path.with_name(f"state.db.damaged-{self._clock.now_ms() // 1000}")
            log.error("%s is damaged (%s); it is now %s", self.path, error, aside.name)
            self.path.rename(aside)
            self._connection = await self._connect()

    def note(self, kind: str, message: str, **facts: Any) -> None:
        """Remember that something happened just now."""
        if len(self._waiting) >= _WAITING_MAX:
            self.dropped += 1
            return
        self._waiting.append(Event(self._clock.now_ms(), kind, message, facts))
        self._some.set()

    async def events(self, start_ms: int, end_ms: int, limit: int) -> list[Event]:
        """Return the newest events of ``(start_ms, end_ms]``, newest first."""
        await self._write()
        rows = await self._open().execute_fetchall(_SELECT, (start_ms, end_ms, limit))
        return [Event(at, kind, text, json.loads(facts), n) for n, at, kind, text, facts in rows]

    async def value(self, key: str) -> str | None:
        """Return a kept value."""
        rows = list(await self._open().execute_fetchall("SELECT v FROM value WHERE k = ?", (key,)))
        return str(rows[0][0]) if rows else None

    async def keep(self, key: str, value: str) -> None:
        """Keep a value beyond this process."""
        connection = self._open()
        await connection.execute("INSERT OR REPLACE INTO value VALUES (?, ?)", (key, value))
        await connection.commit()

    async def values(self, prefix: str) -> dict[str, str]:
        """Return the kept values whose keys begin with ``prefix``."""
        sql = "SELECT k, v FROM value WHERE k >= ? AND k < ?"
        rows = await self._open().execute_fetchall(sql, (prefix, f"{prefix}\U0010ffff"))
        return {str(key): str(value) for key, value in rows}

    async def keep_all(self, values: Mapping[str, str], forget: Iterable[str] = ()) -> None:
        """
        Keep many values and forget others.

        Raises:
            StoreUnavailable: The disk refuses; try again.
        """
        connection = self._open()
        try:
            await connection.executemany(
                "INSERT OR REPLACE INTO value VALUES (?, ?)", list(values.items())
            )
            await connection.executemany(
                "DELETE FROM value WHERE k = ?", [(key,) for key in forget]
            )
            await connection.commit()
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                await connection.rollback()
            raise StoreUnavailable(f"{self.path}: {error}") from error

    async def run(self) -> None:
        """Write events until cancelled."""
        while True:
            await self._some.wait()
            await self._write()
            if self._waiting:  # the disk refuses; the store tells why
                await self._clock.sleep(5.0)

    async def close(self) -> None:
        """Write what waits and close. May be called twice."""
        if self._connection is not None:
            await self._write()
            connection, self._connection = self._connection, None
            await connection.close()

    async def _connect(self) -> aiosqlite.Connection:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = await aiosqlite.connect(self.path)
        try:
            (version,) = next(iter(await connection.execute_fetchall("PRAGMA user_version")))
            if version > SCHEMA_VERSION:
                raise SchemaTooNew(
                    f"{self.path} has schema {version}, this version knows {SCHEMA_VERSION}; "
                    "install the newer Tachograph again"
                )
            await connection.execute("PRAGMA journal_mode=WAL")
            await connection.execute("PRAGMA synchronous=NORMAL")
            if version == 0:
                script = f"BEGIN;{_SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;"
                await connection.executescript(script)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _write(self) -> None:
        events, self._waiting = self._waiting, []
        self._some.clear()
        if not events:
            return
        rows = [(e.at_ms, e.kind, e.message, json.dumps(e.facts, default=str)) for e in events]
        connection = self._open()
        try:
            await connection.executemany(_INSERT, rows)
            await connection.execute(_TRIM, (self._events_max,))
            await connection.commit()
        except sqlite3.Error as error:
            log.error("%d events cannot be written now: %s", len(events), error)
            self._waiting[:0] = events
            try:
                await connection.rollback()
            except sqlite3.Error:
                log.debug("nothing to roll back")

    def _open(self) -> aiosqlite.Connection:
        if self._connection is None:
            raise StoreUnavailable(f"{self.path} is closed")
        return self._connection
