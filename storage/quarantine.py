"""Rows whose checksum failed: out of use at once, their bytes kept for whoever wants to look."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from .catalogue import Ledger
from .keys import REF_MAX, split_rollup_key
from .seal import bump_generation
from .sqlite import transaction
from .sweep import NEXT_REF, mark_orphaned

_QUARANTINE: Final = (
    "INSERT INTO quarantine (found_ms, source, key, data) "
    "SELECT ?, ?, id, {1} FROM {0} WHERE id = ?"
)
#: Where a table keeps what is worth looking at, if not in `data`.
_CONTENT: Final = {"series": "labels", "layout": "refs"}
_QUARANTINE_CHUNKS: Final = (
    "INSERT INTO quarantine (found_ms, source, key, data) "
    "SELECT ?, 'chunk', id, data FROM chunk WHERE id BETWEEN ? AND ? AND block = ?"
)
_QUARANTINE_JOURNAL: Final = (
    "INSERT INTO quarantine (found_ms, source, key, data) "
    "SELECT ?, 'journal', seq, data FROM journal WHERE seq = ?"
)

#: What is kept of damaged rows, at the least the newest one. It counts towards
#: ``storage.max_bytes``: a disk that goes bad must not push good samples out.
ROWS_MAX: Final = 1_000
BYTES_MAX: Final = 16 << 20
_TRIM: Final = """
    DELETE FROM quarantine WHERE id IN (
        SELECT id FROM (
            SELECT id, row_number() OVER newer AS place, sum(length(data)) OVER newer AS held
            FROM quarantine WINDOW newer AS (ORDER BY id DESC)
        ) WHERE place > :rows OR (held > :bytes AND place > 1)
    )
"""


def set_aside(
    connection: sqlite3.Connection,
    found: Sequence[tuple[str, int]],
    now_ms: int,
    next_ref: int,
    ledger: Ledger,
) -> list[tuple[str, int]]:
    """
    Move damaged rows, named by table and key, in one transaction; return those that were there.
    Beyond :data:`ROWS_MAX` and :data:`BYTES_MAX` the oldest in quarantine go.

    Args:
        next_ref: The number that the next new series gets; it is kept, as rows of series may go.
    """
    moved = []
    with transaction(connection):
        for table, key in found:
            sql = _QUARANTINE.format(table, _CONTENT.get(table, "data"))
            if connection.execute(sql, (now_ms, table, key)).rowcount:
                connection.execute(f"DELETE FROM {table} WHERE id = ?", (key,))
                moved.append((table, key))
        # Chunks are of no use without their block: its ticks, or the list of its members.
        gone = [key for table, key in moved if table == "block"]
        for key in gone:
            connection.execute(_QUARANTINE_CHUNKS, (now_ms, key & ~REF_MAX, key | REF_MAX, key))
        mark_orphaned(connection, gone)
        # The chunks of a damaged series stay: another one must not get its number.
        connection.execute(NEXT_REF, (next_ref,))
        for table, key in moved:
            _, day, ref = split_rollup_key(key)
            # It is made anew from raw samples, where there are any.
            if table == "rollup" and day in ledger.catalogue.days:
                connection.execute("INSERT OR IGNORE INTO dirty VALUES (?, ?)", (day, ref))
        _trim(connection)
        generation = bump_generation(connection)
    ledger.change(generation, removed=gone)
    return moved


def set_journal_aside(connection: sqlite3.Connection, seqs: Sequence[int], now_ms: int) -> None:
    """Move damaged rows of the journal, in one transaction."""
    with transaction(connection):
        connection.executemany(_QUARANTINE_JOURNAL, [(now_ms, seq) for seq in seqs])
        connection.executemany("DELETE FROM journal WHERE seq = ?", [(seq,) for seq in seqs])
        _trim(connection)


def _trim(connection: sqlite3.Connection) -> None:
    connection.execute(_TRIM, {"rows": ROWS_MAX, "bytes": BYTES_MAX})
