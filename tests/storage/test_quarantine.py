"""Quarantine has an end: the newest damaged rows are kept, up to a number and a size."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tachograph.storage.catalogue import Ledger
from tachograph.storage.quarantine import BYTES_MAX, ROWS_MAX, set_aside, set_journal_aside
from tachograph.storage.sqlite import open_writer


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = open_writer(tmp_path / "samples.db")
    yield connection
    connection.close()


def fill(connection: sqlite3.Connection, sizes: list[int]) -> None:
    """Journal rows of some sizes, numbered from 1."""
    connection.executemany(
        "INSERT INTO journal (seq, crc, data) VALUES (?, 0, zeroblob(?))",
        list(enumerate(sizes, start=1)),
    )


def kept(connection: sqlite3.Connection) -> list[int]:
    return [key for (key,) in connection.execute("SELECT key FROM quarantine ORDER BY id")]


def test_the_newest_rows_are_kept(connection: sqlite3.Connection) -> None:
    fill(connection, [1] * (ROWS_MAX + 5))
    set_journal_aside(connection, range(1, ROWS_MAX), 1)
    assert len(kept(connection)) == ROWS_MAX - 1
    set_journal_aside(connection, range(ROWS_MAX, ROWS_MAX + 6), 2)
    assert kept(connection) == list(range(6, ROWS_MAX + 6))
    assert connection.execute("SELECT count(*) FROM journal").fetchone() == (0,)


def test_so_many_bytes_are_kept_and_the_newest_row_whatever_its_size(
    connection: sqlite3.Connection,
) -> None:
    third = BYTES_MAX // 3
    fill(connection, [third, third, third, third, BYTES_MAX + 1])
    set_journal_aside(connection, [1, 2, 3, 4], 1)
    assert kept(connection) == [2, 3, 4]
    set_journal_aside(connection, [5], 2)
    assert kept(connection) == [5]


def test_a_scan_that_finds_everything_damaged_is_bounded_too(
    connection: sqlite3.Connection,
) -> None:
    connection.executemany(
        "INSERT INTO chunk (id, block, crc, data) VALUES (?, 1, 0, zeroblob(10))",
        [(key,) for key in range(1, 3 * ROWS_MAX)],
    )
    found = [("chunk", key) for key in range(1, 3 * ROWS_MAX)]
    assert set_aside(connection, found, 1, 1, Ledger()) == found
    assert kept(connection) == list(range(2 * ROWS_MAX, 3 * ROWS_MAX))
