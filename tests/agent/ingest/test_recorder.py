"""``record()``: what it takes, what it drops, and that the backend never notices."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from support.clock import ManualClock
from tachograph.agent.ingest.recorder import Recorder
from tachograph.config.settings import CustomSettings
from tachograph.storage.errors import SeriesRefused, StoreUnavailable
from tachograph.storage.frame import FloatArray, IntArray, RefArray
from tachograph.storage.model import Kind, Labels

NOW_MS = 1_795_000_000_000


@dataclass
class Refusal:
    reasons: tuple[str, ...]


class CustomStore:
    def __init__(self) -> None:
        self.kinds: dict[Labels, Kind] = {}
        self.points: list[tuple[str, int, float]] = []
        self.limit = 1000
        self.is_available = True
        self.oldest_ms = 0

    def group(self, name: str) -> CustomStore:
        assert name == "custom"
        return self

    def ref(self, labels: Labels, kind: Kind = Kind.UNKNOWN) -> int:
        if labels not in self.kinds and len(self.kinds) >= self.limit:
            raise SeriesRefused("series", "too many")
        self.kinds.setdefault(labels, kind)
        return list(self.kinds).index(labels) + 1

    def append(self, ts_ms: int, refs: RefArray, values: FloatArray) -> None:
        raise AssertionError("values have times of their own")

    def append_points(self, refs: RefArray, ts_ms: IntArray, values: FloatArray) -> Refusal | None:
        if not self.is_available:
            raise StoreUnavailable("the disk is full")
        names = [str(labels) for labels in self.kinds]
        reasons = tuple("too old" if ts < self.oldest_ms else "" for ts in ts_ms.tolist())
        for ref, ts, value, reason in zip(
            refs.tolist(), ts_ms.tolist(), values.tolist(), reasons, strict=True
        ):
            if not reason:
                self.points.append((names[ref - 1], ts, value))
        return Refusal(reasons) if any(reasons) else None


@pytest.fixture
def store() -> CustomStore:
    return CustomStore()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_MS)


@pytest.fixture
def recorder(store: CustomStore, clock: ManualClock) -> Recorder:
    return Recorder(store, CustomSettings(buffer_size=10, flush_interval_ms=1000), clock)


@contextlib.asynccontextmanager
async def running(recorder: Recorder) -> AsyncIterator[None]:
    task = asyncio.create_task(recorder.run())
    await asyncio.sleep(0)
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_values_are_stored_at_their_time_each_flush_interval(
    recorder: Recorder, store: CustomStore, clock: ManualClock
) -> None:
    recorder.record("before", 1)
    async with running(recorder):
        recorder.record("a", 1.5, {"shop": "7"})
        await clock.advance(400)
        recorder.record("a", 2, {"shop": "7"})
        assert store.points == []
        await clock.advance(600)
        assert store.points == [
            ("before", NOW_MS, 1.0),
            ('a{shop="7"}', NOW_MS, 1.5),
            ('a{shop="7"}', NOW_MS + 400, 2.0),
        ]
        assert recorder.stats.stored == 3
        await clock.advance(5000)
        assert recorder.stats.flushes == 1


async def test_what_is_left_is_flushed_at_the_end(recorder: Recorder, store: CustomStore) -> None:
    async with running(recorder):
        recorder.record("a", 1)
    assert store.points == [("a", NOW_MS, 1.0)]


async def test_buffer_that_fills_up_is_flushed_before_its_time(
    recorder: Recorder, store: CustomStore, clock: ManualClock
) -> None:
    async with running(recorder):
        for n in range(7):
            recorder.record("a", n)
        await clock.advance(0)
        assert len(store.points) == 7
        for n in range(7):
            recorder.record("a", n)
        await clock.advance(0)
        assert len(store.points) == 14


def test_full_buffer_drops_the_newest_and_counts_them(recorder: Recorder) -> None:
    for n in range(15):
        recorder.record("a", n)
    assert recorder.stats.dropped == {"full": 5}
    assert not recorder.flush(100)
    assert recorder.stats.stored == 10


def test_labels_may_be_changed_after_they_are_recorded(
    recorder: Recorder, store: CustomStore
) -> None:
    labels = {"n": "1"}
    recorder.record("a", 1, labels)
    labels["n"] = "2"
    recorder.record("a", 2, labels)
    recorder.flush(10)
    assert [name for name, _, _ in store.points] == ['a{n="1"}', 'a{n="2"}']


@pytest.mark.parametrize(
    ("type_", "name", "labels", "kind"),
    [
        ("gauge", "a", {}, Kind.GAUGE),
        ("counter", "a_total", {}, Kind.COUNTER),
        ("histogram", "a_bucket", {"le": "1"}, Kind.BUCKET),
        ("histogram", "a_sum", {}, Kind.COUNTER),
        ("unknown", "a", {}, Kind.UNKNOWN),
    ],
)
def test_type_makes_the_kind(
    recorder: Recorder, store: CustomStore, type_: str, name: str, labels: Any, kind: Kind
) -> None:
    recorder.record(name, 1, labels, type=type_)
    recorder.flush(10)
    assert list(store.kinds.values()) == [kind]


class Hostile:
    def __float__(self) -> float:
        raise SystemError("not a number")

    def __len__(self) -> int:
        raise RuntimeError("no length")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("", 1), "name"),
        ((5, 1), "name"),
        (([], 1), "name"),
        ((None, 1), "name"),
        (("\ud800", 1), "name"),
        (("a", "1"), "value"),
        (("a", b"1"), "value"),
        (("a", None), "value"),
        (("a", 10**400), "value"),
        (("a", Hostile()), "value"),
        (("a", 1, {"x": 5}), "labels"),
        (("a", 1, {"x": []}), "labels"),
        (("a", 1, {5: "x"}), "labels"),
        (("a", 1, {"": "x"}), "labels"),
        (("a", 1, {"__x": "x"}), "labels"),
        (("a", 1, {"__name__": "x"}), "labels"),
        (("a", 1, {"x": "\ud800"}), "labels"),
        (("a", 1, {}, "meter"), "type"),
        (("a", 1, {}, 7), "type"),
        (("a", 1, {}, None), "type"),
        (("a", 1, {}, "histogram"), "type"),
    ],
)
def test_nonsense_is_dropped_counted_and_said_once_and_raises_nothing(
    recorder: Recorder,
    store: CustomStore,
    caplog: pytest.LogCaptureFixture,
    arguments: Any,
    reason: str,
) -> None:
    for _ in range(2):
        recorder.record(*arguments)
    recorder.record("good", 1)
    recorder.flush(10)
    assert recorder.stats.dropped == {reason: 2}
    assert [name for name, _, _ in store.points] == ["good"]
    (said,) = [record.message for record in caplog.records]
    assert f"({reason})" in said


@pytest.mark.parametrize("labels", [["x"], 7, Hostile()])
def test_labels_that_are_no_mapping_are_dropped_at_once(recorder: Recorder, labels: Any) -> None:
    recorder.record("a", 1, labels)
    assert recorder.stats.dropped == {"labels": 1}


def test_all_that_is_a_number_is_taken(recorder: Recorder, store: CustomStore) -> None:
    for value in (True, 3, 2.5, Decimal("0.5"), np.float32(1.5), np.int64(7)):
        recorder.record("a", value)  # type: ignore[arg-type]
    recorder.flush(10)
    assert [value for _, _, value in store.points] == [1.0, 3.0, 2.5, 0.5, 1.5, 7.0]


def test_what_the_store_refuses_is_counted(recorder: Recorder, store: CustomStore) -> None:
    store.limit = 1
    recorder.record("a", 1)
    recorder.record("b", 1)
    recorder.flush(10)
    store.oldest_ms = NOW_MS + 1
    recorder.record("a", 1)
    recorder.flush(10)
    assert recorder.stats.dropped == {"series": 1, "store": 1}
    store.limit = 2
    store.oldest_ms = 0
    recorder.record("b", 2)
    recorder.flush(10)
    assert store.points == [("a", NOW_MS, 1.0), ("b", NOW_MS, 2.0)]


async def test_store_that_is_away_for_a_while_gets_what_the_buffer_kept(
    recorder: Recorder, store: CustomStore, clock: ManualClock
) -> None:
    store.is_available = False
    async with running(recorder):
        recorder.record("a", 1)
        await clock.advance(1000)
        recorder.record("a", 2)
        await clock.advance(1000)
        for n in range(20):
            recorder.record("a", n)
        await clock.advance(1000)
        store.is_available = True
        await clock.advance(1000)
        assert [value for _, _, value in store.points] == [1, 2, *range(9)]
    assert recorder.stats.dropped == {"full": 11}


async def test_what_the_store_never_took_is_counted(recorder: Recorder, store: CustomStore) -> None:
    store.is_available = False
    async with running(recorder):
        for n in range(3):
            recorder.record("a", n)
    assert recorder.stats.dropped == {"unavailable": 3}
    assert recorder.stats.stored == 0


async def test_threads_lose_nothing_that_is_not_counted(
    store: CustomStore, clock: ManualClock
) -> None:
    recorder = Recorder(store, CustomSettings(buffer_size=500, flush_interval_ms=1000), clock)

    def work(number: int) -> None:
        for n in range(2000):
            recorder.record("a", n, {"thread": str(number)})

    async with running(recorder):
        await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(4)))
    assert recorder.stats.stored == len(store.points)
    assert len(store.points) + recorder.stats.dropped["full"] == 8000


def test_recording_works_while_its_thread_is_counting(recorder: Recorder) -> None:
    with recorder._lock:  # as when a signal handler interrupts the count
        for n in range(11):
            recorder.record("a", n)
    assert recorder.stats.dropped == {"full": 1}


def test_series_are_looked_up_again_once_there_are_too_many_to_remember(
    store: CustomStore, clock: ManualClock
) -> None:
    recorder = Recorder(store, CustomSettings(buffer_size=30_000), clock)
    store.limit = 1
    for n in range(10_050):
        recorder.record(f"bad{n}", 1, type="nonsense")
    while recorder.flush(2000):
        pass
    assert len(recorder._known) <= 10_000
    assert recorder.stats.dropped == {"type": 10_050}


def test_import_is_light() -> None:
    code = (
        "import sys, tachograph.agent.ingest.recorder\n"
        "heavy = 'numpy', 'aiohttp', 'sqlite3', 'asyncio', 'msgspec'\n"
        "print([module for module in heavy if module in sys.modules])"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert child.stdout.strip() == "[]"
