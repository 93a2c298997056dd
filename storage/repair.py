"""Checking a database file, and saving from a damaged one what can be read."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .checksum import SUMMED, is_whole
from .errors import StoreCorrupt
from .keys import REF_MAX
from .sqlite import open_reader, open_writer

#: Tables whose rows are copied as they are; all have an integer key but the two named last.
_PLAIN: Final = ("grp", "day", "quarantine", "orphaned", "dirty", "metadata")
_NEXT_REF: Final = "INSERT INTO meta VALUES ('next_ref', ?) ON CONFLICT DO UPDATE SET v = max(v, ?)"


@dataclass(slots=True)
class Findings:
    """What a check or a repair has seen, rows by table."""

    rows: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.messages and not self.bad.total()


def verify(path: Path) -> Findings:
    """
    Check the structure of a database and the checksum of every row, without changing anything.

    Raises:
        StoreCorrupt: The file cannot even be opened.
    """
    findings = Findings()
    try:
        with contextlib.closing(open_reader(path)) as connection:
            for (message,) in connection.execute("PRAGMA quick_check(20)"):
                if message != "ok":
                    findings.messages.append(str(message))
            connection.text_factory = _text
            for table in SUMMED:
                for row in _every(connection, f"SELECT * FROM {table}", findings, table):
                    findings.rows[table] += 1
                    if not is_whole(table, row):
                        findings.bad[table] += 1
    except sqlite3.DatabaseError as error:
        raise StoreCorrupt(f"{path}: {error}") from error
    return findings


def repair(path: Path, aside: Path) -> Findings:
    """
    Copy every row that can be read and is whole into a new database, put the old one ``aside``
    and the new one in its place. Nobody else may have the database open.

    Raises:
        StoreCorrupt: Not even the list of tables can be read; nothing was changed.
    """
    findings = Findings()
    fresh = path.with_suffix(".repaired")
    for leftover in (
        fresh,
        fresh.with_name(fresh.name + "-wal"),
        fresh.with_name(fresh.name + "-shm"),
    ):
        leftover.unlink(missing_ok=True)
    try:
        with contextlib.closing(open_reader(path)) as old:
            old.text_factory = _text
            old.execute("SELECT count(*) FROM sqlite_master").fetchone()
            with contextlib.closing(open_writer(fresh)) as new:
                new.execute("BEGIN")
                new.execute("DELETE FROM grp")
                _copy(old, new, findings)
                new.execute("COMMIT")
                new.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.DatabaseError as error:
        raise StoreCorrupt(f"{path} cannot be read at all ({error}); restore a backup") from error
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    fresh.rename(path)
    return findings


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, findings: Findings) -> None:
    for table in _PLAIN:
        for row in _every(old, f"SELECT * FROM {table}", findings, table):
            marks = ",".join("?" * len(row))
            new.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)
            findings.rows[table] += 1
    for row in _every(old, "SELECT k, v FROM meta", findings, "meta"):
        new.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", row)
    new.execute("INSERT OR IGNORE INTO grp VALUES (0, '', 0)")
    for table in SUMMED:
        for row in _by_key(old, table, "seq" if table == "journal" else "id", findings):
            if not is_whole(table, row):
                findings.bad[table] += 1
                if table == "series":
                    # Its chunks stay: another series must not get its number.
                    new.execute(_NEXT_REF, (row[0] + 1, row[0] + 1))
                continue
            marks = ",".join("?" * len(row))
            new.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)
            findings.rows[table] += 1


def _text(raw: bytes) -> str:
    """Damaged text must not end a scan; a checksum tells it, where there is one."""
    return raw.decode("utf-8", "replace")


def _every(
    connection: sqlite3.Connection, sql: str, findings: Findings, table: str
) -> Iterator[tuple]:  # type: ignore[type-arg]  # rows of any table
    """Yield rows until a damaged page ends the scan, which is told."""
    try:
        yield from connection.execute(sql)
    except sqlite3.DatabaseError as error:
        findings.messages.append(f"{table}: {error}")


def _by_key(
    connection: sqlite3.Connection, table: str, key: str, findings: Findings
) -> Iterator[tuple]:  # type: ignore[type-arg]
    """
    Yield the rows of a table in stretches of keys: a damaged page ends one stretch only. What lies
    behind it in the stretch is read from its other end.
    """
    bounds = [(0, 2**63 - 1)]
    if table == "chunk":
        # A stretch per window and part.
        with contextlib.suppress(sqlite3.DatabaseError):
            blocks = {i & ~REF_MAX for (i,) in connection.execute("SELECT id FROM block")}
            bounds = [(base, base | REF_MAX) for base in sorted(blocks)]
    for low, high in bounds:
        seen = low - 1
        where = f"FROM {table} WHERE {key} BETWEEN ? AND ? ORDER BY {key}"
        try:
            for row in connection.execute(f"SELECT * {where}", (low, high)):
                seen = row[0]
                yield row
            continue
        except sqlite3.DatabaseError as error:
            findings.messages.append(f"{table}: {error}")
        with contextlib.suppress(sqlite3.DatabaseError):
            yield from connection.execute(f"SELECT * {where} DESC", (seen + 1, high))
