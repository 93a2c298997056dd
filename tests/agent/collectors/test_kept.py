"""Pushed points with a ttl: current until it ends, ended then, and both over a restart."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.clock import ManualClock
from support.sink import MemoryGroup, MemorySink
from tachograph.agent.collectors.kept import KEPT_MAX, KeptPoints
from tachograph.agent.ingest.kept import PushedPoint
from tachograph.storage.errors import StoreUnavailable
from tachograph.storage.model import Kind, Labels
from tachograph.storage.state import State

A = Labels.of({"job": "backup"}, "job_duration_seconds")
B = Labels.of({"job": "backup"}, "job_exit_code")
MINUTE_MS = 60_000


class MemoryShelf:
    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.is_full = False

    async def values(self, prefix: str) -> dict[str, str]:
        return {key: value for key, value in self.kept.items() if key.startswith(prefix)}

    async def keep_all(self, values: Mapping[str, str], forget: Iterable[str] = ()) -> None:
        if self.is_full:
            raise StoreUnavailable("the disk is full")
        self.kept |= values
        for key in forget:
            self.kept.pop(key, None)


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.sink, self.shelf = MemorySink(), MemoryShelf()
        self.source = self.new()

    def new(self) -> KeptPoints:
        """The source, as a new agent over the same data has it."""
        return KeptPoints(self.sink, self.shelf, self.clock, lookback_s=300)

    async def push(
        self, labels: Labels, value: float, ttl_ms: int, ts_ms: int | None = None
    ) -> str:
        at_ms = self.clock.now_ms() if ts_ms is None else ts_ms
        ref = self.group.ref(labels, Kind.GAUGE)
        (reason,) = await self.source.keep(
            [PushedPoint(labels, Kind.GAUGE, ref, at_ms, value, ttl_ms)]
        )
        return reason

    async def tick(self, after_ms: int) -> dict[Labels, float]:
        """Do a pass so much later and return its samples."""
        await self.clock.advance(after_ms)
        before = len(self.group.ticks)
        await self.source.collect(self.clock.now_ms())
        return self.group.last if len(self.group.ticks) > before else {}

    @property
    def group(self) -> MemoryGroup:
        return self.sink.group("kept")


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_value_is_repeated_until_its_ttl_ends_and_then_ended(bench: Bench) -> None:
    await bench.push(A, 12.5, 2 * MINUTE_MS)
    await bench.push(B, 0.0, 10 * MINUTE_MS)
    assert await bench.tick(15_000) == {A: 12.5, B: 0.0}
    assert await bench.tick(MINUTE_MS) == {A: 12.5, B: 0.0}
    last = await bench.tick(MINUTE_MS)
    assert math.isnan(last[A])
    assert last[B] == 0.0
    assert await bench.tick(15_000) == {B: 0.0}
    assert bench.source.stats.expired == 1
    assert len(bench.shelf.kept) == 1


async def test_a_new_push_replaces_the_value_and_renews_the_ttl(bench: Bench) -> None:
    await bench.push(A, 1.0, 2 * MINUTE_MS)
    await bench.tick(MINUTE_MS)
    await bench.push(A, 2.0, 2 * MINUTE_MS)
    assert await bench.tick(MINUTE_MS + 30_000) == {A: 2.0}


async def test_a_push_without_a_ttl_ends_the_keeping_not_the_series(bench: Bench) -> None:
    await bench.push(A, 1.0, 2 * MINUTE_MS)
    ref = bench.group.ref(A)
    assert bench.source.concerns(np.array([ref], np.uint32))
    await bench.push(A, 2.0, 0)
    assert await bench.tick(15_000) == {}
    assert not bench.source.concerns(np.array([ref], np.uint32))
    assert bench.shelf.kept == {}


async def test_a_ttl_counts_from_the_points_own_time(bench: Bench) -> None:
    now_ms = bench.clock.now_ms()
    await bench.push(A, 1.0, MINUTE_MS, now_ms - 2 * MINUTE_MS)
    assert len(bench.source) == 0, "it is over already"
    await bench.push(A, 1.0, 3 * MINUTE_MS, now_ms - 2 * MINUTE_MS)
    await bench.push(A, 9.0, 9 * MINUTE_MS, now_ms - 3 * MINUTE_MS)
    assert await bench.tick(30_000) == {A: 1.0}, "an older point changes nothing"
    assert math.isnan((await bench.tick(30_000))[A])


async def test_a_point_of_the_future_is_not_told_before_its_time(bench: Bench) -> None:
    await bench.push(A, 1.0, 5 * MINUTE_MS, bench.clock.now_ms() + MINUTE_MS)
    assert await bench.tick(30_000) == {}
    assert await bench.tick(MINUTE_MS) == {A: 1.0}


async def test_a_restart_goes_on_and_ends_what_is_over(bench: Bench) -> None:
    await bench.push(A, math.inf, 2 * MINUTE_MS)
    await bench.push(B, 3.0, 60 * MINUTE_MS)
    await bench.clock.advance(5 * MINUTE_MS)
    bench.source = bench.new()
    await bench.source.open()
    assert bench.source.concerns(np.array([bench.group.ref(B)], np.uint32))
    told = await bench.tick(15_000)
    assert math.isnan(told[A])
    assert told[B] == 3.0
    assert len(bench.shelf.kept) == 1


async def test_nothing_is_forgotten_while_the_disk_refuses(bench: Bench) -> None:
    bench.shelf.is_full = True
    with pytest.raises(StoreUnavailable):
        await bench.push(A, 1.0, MINUTE_MS)
    bench.shelf.is_full = False
    await bench.push(A, 1.0, MINUTE_MS)
    await bench.clock.advance(2 * MINUTE_MS)
    bench.shelf.is_full = True
    with pytest.raises(StoreUnavailable):
        await bench.source.collect(bench.clock.now_ms())
    bench.shelf.is_full = False
    await bench.tick(15_000)
    assert bench.shelf.kept == {}


async def test_what_cannot_be_read_back_is_forgotten(bench: Bench) -> None:
    bench.shelf.kept = {"kept/nonsense": "[]", "other": "x"}
    await bench.source.open()
    await bench.tick(15_000)
    assert bench.shelf.kept == {"other": "x"}


async def test_more_than_the_most_are_refused(bench: Bench) -> None:
    points = [
        PushedPoint(Labels.of({"n": str(n)}, "x"), Kind.GAUGE, n + 1, bench.clock.now_ms(), 1.0, 60)
        for n in range(KEPT_MAX + 1)
    ]
    reasons = await bench.source.keep([*points, points[0]])
    assert reasons[KEPT_MAX] == "stored, but not kept current: 10000 others are"
    assert set(reasons[:KEPT_MAX]) == {""} == {reasons[-1]}


async def test_the_state_keeps_them_over_a_restart(tmp_path: Path) -> None:
    bench = Bench()
    for turn in range(2):
        state = State(tmp_path, bench.clock)
        await state.open()
        bench.source = KeptPoints(bench.sink, state, bench.clock, lookback_s=300)
        await bench.source.open()
        if turn == 0:
            await bench.push(A, 1.5, MINUTE_MS)
            assert await state.value("unrelated") is None
        else:
            assert await bench.tick(15_000) == {A: 1.5}
            await bench.tick(MINUTE_MS)
            assert await state.values("kept/") == {}
        await state.close()


@dataclass
class Model:
    """What must be current, told plainly: of each series the newest push, and when it ends."""

    newest: dict[Labels, tuple[int, float, int]] = field(default_factory=dict)

    def push(self, labels: Labels, ts_ms: int, value: float, ttl_ms: int) -> None:
        if labels not in self.newest or ts_ms >= self.newest[labels][0]:
            self.newest[labels] = (ts_ms, value, ts_ms + ttl_ms)
            if not ttl_ms:  # ends what was kept, and nothing is remembered, of the future neither
                del self.newest[labels]

    def forget_before(self, now_ms: int) -> None:
        """What is over leaves nothing behind that a later push could be too old for."""
        self.newest = {k: kept for k, kept in self.newest.items() if kept[2] > now_ms}

    def current(self, at_ms: int) -> dict[Labels, float]:
        return {
            labels: value
            for labels, (ts_ms, value, until_ms) in self.newest.items()
            if ts_ms < at_ms < until_ms
        }


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("push"),
            st.sampled_from([A, B]),
            st.integers(0, 100).map(float),
            st.sampled_from([0, 30_000, 120_000]),
            st.integers(-60, 10).map(lambda seconds: seconds * 1000),
        ),
        st.tuples(st.just("tick"), st.integers(1, 90).map(lambda seconds: seconds * 1000)),
        st.tuples(st.just("restart")),
    ),
    max_size=30,
)


@given(steps)
@settings(max_examples=150, deadline=None)
def test_what_is_told_is_what_was_pushed_last_and_is_not_over(
    steps: list[tuple[Any, ...]],
) -> None:
    async def play() -> None:
        bench, model = Bench(), Model()
        for step in steps:
            if step[0] == "push":
                _, labels, value, ttl_ms, offset_ms = step
                now_ms = bench.clock.now_ms()
                await bench.push(labels, value, ttl_ms, now_ms + offset_ms)
                model.push(labels, now_ms + offset_ms, value, ttl_ms)
                model.forget_before(now_ms)
            elif step[0] == "tick":
                told = await bench.tick(step[1])
                now_ms = bench.clock.now_ms()
                alive = {labels: value for labels, value in told.items() if not math.isnan(value)}
                assert alive == model.current(now_ms)
                model.forget_before(now_ms)
            else:
                bench.source = bench.new()
                await bench.source.open()

    asyncio.run(play())
