"""The journal played back: what is in chunks stays there, and damage costs its own row only."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from support.store import refs_of, times
from tachograph.storage.current import Current
from tachograph.storage.frame import FloatArray
from tachograph.storage.head import GroupHead, PointsHead, PointTimes
from tachograph.storage.journal import PointsRecord, Record, TickRecord, encode_row, row_crc
from tachograph.storage.recovery import Recovered
from tachograph.storage.replay import Replay
from tachograph.storage.sqlite import open_writer

GROUP = 5


@pytest.fixture
def connection(tmp_path: Path) -> sqlite3.Connection:
    return open_writer(tmp_path / "samples.db")


def tick(ts_ms: int, value: float) -> TickRecord:
    return TickRecord(GROUP, 0, ts_ms, refs_of([1]), np.array([value]))


def point(ts_ms: int, value: float) -> PointsRecord:
    return PointsRecord(refs_of([2]), times([ts_ms]), np.array([value]))


def journal(connection: sqlite3.Connection, rows: dict[int, list[Record]]) -> None:
    for seq, records in rows.items():
        data = encode_row(records)
        connection.execute("INSERT INTO journal VALUES (?, ?, ?)", (seq, row_crc(seq, data), data))


class Played:
    """A journal played back into fresh heads."""

    def __init__(self, connection: sqlite3.Connection, sealed: dict[int, int]) -> None:
        self.head, self.points = GroupHead(GROUP, "g"), PointsHead()
        self.current = Current()
        found = Recovered(sealed_seq=sealed)
        self.replay = Replay(found, {GROUP: self.head}, self.points, self.current, PointTimes())
        self.replay.run(connection)
        connection.close()

    @property
    def ticks(self) -> list[tuple[int, float]]:
        view = self.head.view
        cells: FloatArray = view.cells[: view.ticks, 0]
        return list(zip(view.ts_ms[: view.ticks].tolist(), cells.tolist(), strict=True))


def test_only_what_is_not_sealed_is_played_back(connection: sqlite3.Connection) -> None:
    journal(connection, {3: [tick(10, 1.0), point(10, 2.0)], 4: [tick(20, 3.0), point(20, 4.0)]})
    played = Played(connection, {GROUP: 3, 0: 0})
    assert played.ticks == [(20, 3.0)]
    assert len(played.points) == 2
    assert played.replay.samples == 3
    assert played.replay.last_seq == 4


def test_late_tick_becomes_points(connection: sqlite3.Connection) -> None:
    journal(connection, {1: [tick(20, 1.0)], 2: [tick(10, 2.0)]})
    played = Played(connection, {})
    assert played.ticks == [(20, 1.0)]
    assert played.points.view().select(refs_of([1]), 0, 100).ts_ms.tolist() == [10]
    assert played.current.get(refs_of([1]))[0].tolist() == [20]


def test_damaged_row_costs_its_own_samples_only(connection: sqlite3.Connection) -> None:
    journal(connection, {1: [tick(10, 1.0)], 2: [tick(20, 2.0)], 3: [tick(30, 3.0)]})
    connection.execute("UPDATE journal SET crc = crc + 1 WHERE seq = 2")
    played = Played(connection, {})
    assert played.ticks == [(10, 1.0), (30, 3.0)]
    assert list(played.replay.damaged) == [2]


def test_empty_journal_goes_on_after_what_is_sealed(connection: sqlite3.Connection) -> None:
    assert Played(connection, {GROUP: 7, 0: 9}).replay.last_seq == 9
