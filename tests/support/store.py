"""Opening, feeding and reading a real store in tests, and a disk that fails when told to."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tachograph.config.selector import Matcher
from tachograph.config.settings import SealSettings, StorageSettings
from tachograph.storage.frame import FloatArray, Frame, IntArray, RefArray, is_absent
from tachograph.storage.group import Group
from tachograph.storage.model import Kind, Labels
from tachograph.storage.select import Querier
from tachograph.storage.store import Store

#: What a store holds: the bits of each sample's value, by series and time.
Samples = dict[Labels, dict[int, int]]

ALL_MS = (-(1 << 62), 1 << 62)


def store_settings(path: Path, **changes: Any) -> StorageSettings:
    """Settings with one value changed each; no ballast, as most tests have no full disk."""
    # `seal_ticks` saves most tests from building a section for one number.
    ticks = changes.pop("seal_ticks", None)
    settings = StorageSettings(path=path, ballast_bytes=0)
    if ticks is not None:
        settings = replace(settings, seal=SealSettings(ticks=ticks))
    return replace(settings, **changes)


def bits(values: FloatArray | Sequence[float]) -> list[int]:
    """The bits of floats, so that NaN and -0.0 can be compared."""
    result: list[int] = np.asarray(values, np.float64).view(np.uint64).tolist()
    return result


def from_bits(numbers: Sequence[int]) -> FloatArray:
    return np.array(numbers, np.uint64).view(np.float64)


def refs_of(numbers: Iterable[int]) -> RefArray:
    return np.array(list(numbers), np.uint32)


def times(numbers: Iterable[int]) -> IntArray:
    return np.array(list(numbers), np.int64)


def put(group: Group, ts_ms: int, tick: Mapping[Labels, float], kind: Kind = Kind.UNKNOWN) -> None:
    """Append one tick."""
    refs = refs_of(group.ref(labels, kind) for labels in tick)
    group.append(ts_ms, refs, np.array(list(tick.values()), np.float64))


def put_points(store: Store, points: Sequence[tuple[Labels, int, float]]) -> None:
    """Append samples with times of their own; new series get the group ``points``."""
    group = store.group("points")
    refusal = store.append_points(
        refs_of(group.ref(labels) for labels, _, _ in points),
        times(ts for _, ts, _ in points),
        np.array([value for _, _, value in points], np.float64),
    )
    assert refusal is None


def unpack(frames: Iterable[Frame]) -> Samples:
    """Turn frames into plain samples, holding them to what ``Frame`` promises."""
    found: Samples = {}
    for frame in frames:
        assert frame.values.shape == (len(frame.series), len(frame.ts_ms))
        assert (np.diff(frame.ts_ms) > 0).all(), "times rise strictly"
        absent = is_absent(frame.values)
        assert frame.has_absent or not absent.any(), "has_absent is no lie"
        for series, cells, gone in zip(frame.series, frame.values, absent, strict=True):
            assert series.labels not in found, f"{series.labels} is in two frames"
            here = ~gone
            found[series.labels] = dict(
                zip(frame.ts_ms[here].tolist(), bits(cells[here]), strict=True)
            )
            assert found[series.labels], "series without a sample are left out"
    return found


async def read(
    store: Store,
    matchers: Sequence[Matcher] = (),
    min_ms: int = ALL_MS[0],
    max_ms: int = ALL_MS[1],
    *,
    cached: bool = False,
) -> Samples:
    """Everything that matches, with ``min_ms <= t <= max_ms``."""

    def job(querier: Querier) -> list[Frame]:
        if cached:
            querier.use_cache()
        return querier.select(matchers, min_ms, max_ms)

    return unpack(await store.read(job))


def crash_copy(store: Store, target: Path) -> None:
    """Copy the files as they lie on disk: what a kill -9 at this moment would leave."""
    target.mkdir(mode=0o700)
    for file in store.directory.iterdir():
        # The index of the WAL is shared memory: after a crash it is made anew.
        if not file.name.endswith("-shm"):
            shutil.copyfile(file, target / file.name)


class FailingConnection:
    """A write connection whose statements fail, from the n-th on, until :meth:`heal`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._left: int | None = None
        self._bad = ""
        self._code = sqlite3.SQLITE_FULL
        self.failures = 0

    @classmethod
    def install(cls, store: Store) -> FailingConnection:
        """Put one between a store and its database."""
        connection = store.writer._connection
        assert connection is not None
        failing = cls(connection)
        store.writer._connection = failing  # type: ignore[assignment]  # it quacks
        return failing

    def fail_after(self, statements: int, code: int = sqlite3.SQLITE_FULL) -> None:
        self._left, self._code = statements, code

    def fail_on(self, text: str) -> None:
        """Fail every statement that has this in it."""
        self._bad = text

    def heal(self) -> None:
        self._left, self._bad = None, ""

    def _count(self, sql: str) -> None:
        if sql == "ROLLBACK" or (self._left is None and not self._bad):
            return
        if self._left is None and self._bad not in sql:
            return
        if self._left:
            self._left -= 1
            return
        self.failures += 1
        error = sqlite3.OperationalError("made to fail")
        error.sqlite_errorcode = self._code
        raise error

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self._count(sql)
        return self._connection.execute(sql, *args)

    def executemany(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self._count(sql)
        return self._connection.executemany(sql, *args)

    def executescript(self, sql: str) -> sqlite3.Cursor:
        self._count(sql)
        return self._connection.executescript(sql)

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def close(self) -> None:
        self._connection.close()
