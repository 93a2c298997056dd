"""Random series for comparing PromQL engines: counters, gauges, histograms, gaps, stale markers."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from support.clock import ManualClock
from support.store import refs_of, store_settings
from tachograph.aggregation.compactor import Compactor
from tachograph.storage.frame import STALE_NAN, FloatArray, IntArray
from tachograph.storage.model import Labels
from tachograph.storage.store import Store

#: A whole number of hours and of most steps, so that queries meet the grid of the samples.
START_MS: Final = 1_767_571_200_000
SPAN_MS: Final = 2 * 3_600_000
_DAY_MS: Final = 86_400_000
INTERVALS_S: Final = (15, 15, 15, 30, 60)
#: Of worlds that are off the grid: no window of whole seconds ends or begins at such a time.
_OFF_GRID_MS: Final = range(2, 999)
_BOUNDS: Final = ("0.1", "0.25", "0.5", "1", "2.5", "5", "+Inf")

_JOBS: Final = ("api", "db", "edge")
_INSTANCES: Final = ("a:1", "b:1", "c:2", "d:2")
_ZONES: Final = ("eu", "us", "")


@dataclass(frozen=True, slots=True)
class WorldSeries:
    """One series; ``values`` may hold NaN, infinities and stale markers."""

    labels: Labels
    ts_ms: IntArray
    values: FloatArray


@dataclass(frozen=True, slots=True)
class World:
    """
    The series of one seed.

    Attributes:
        off_grid: Samples lie between whole seconds, so that a query at whole seconds and 1 ms meets
            none of them at a window's edge: then left-open and left-closed windows are the same.
    """

    seed: int
    off_grid: bool
    series: list[WorldSeries]

    @property
    def end_ms(self) -> int:
        return START_MS + SPAN_MS

    def label_values(self) -> Mapping[str, list[str]]:
        """Every value by label name."""
        found: dict[str, set[str]] = {}
        for one in self.series:
            for name, value in one.labels:
                found.setdefault(name, set()).add(value)
        return {name: sorted(values) for name, values in sorted(found.items())}


def make_world(seed: int, *, off_grid: bool) -> World:
    """
    Make some 90 series of two hours. Values are whole multiples of 1/64 and small: sums of them are
    exact in any order.
    """
    rng = random.Random(f"world {seed}")
    maker = _Maker(rng, off_grid)
    series: list[WorldSeries] = []
    for job in _JOBS:
        for instance in rng.sample(_INSTANCES, rng.randint(2, 4)):
            place = {"job": job, "instance": instance}
            zone = rng.choice(_ZONES)
            if zone:
                place["zone"] = zone
            ts = maker.times()
            for code in ("200", "500"):
                if rng.random() < 0.8:
                    labels = Labels.of({**place, "code": code}, "requests_total")
                    series.append(maker.finished(labels, ts, maker.counter(len(ts))))
            series.append(maker.finished(Labels.of(place, "level"), ts, maker.gauge(len(ts))))
            if rng.random() < 0.6:
                ts = maker.times()
                values = maker.special(len(ts))
                series.append(maker.finished(Labels.of(place, "odd"), ts, values))
            if rng.random() < 0.5:
                labels = Labels.of({**place, "version": rng.choice(("1", "2"))}, "build_info")
                ts = maker.times()
                series.append(maker.finished(labels, ts, np.ones(len(ts))))
            if rng.random() < 0.5:
                series += maker.histogram(place)
    ts = maker.times()
    series.append(maker.finished(Labels.of({}, "lone"), ts, maker.gauge(len(ts))))
    series.append(maker.finished(Labels.of({"job": "api"}, "flat"), ts, np.full(len(ts), 42.0)))
    return World(seed, off_grid, [one for one in series if len(one.ts_ms)])


class _Maker:
    def __init__(self, rng: random.Random, off_grid: bool) -> None:
        self._rng, self._off_grid = rng, off_grid

    def times(self) -> IntArray:
        """Times of one scrape target: regular or not, with gaps, perhaps beginning or ending."""
        rng = self._rng
        step_ms = rng.choice(INTERVALS_S) * 1000
        ts = np.arange(START_MS, START_MS + SPAN_MS + 1, step_ms, dtype=np.int64)
        if rng.random() < 0.3:
            ts = ts[ts >= START_MS + rng.randrange(SPAN_MS)]
        if rng.random() < 0.3 and len(ts):
            ts = ts[ts <= START_MS + rng.randrange(SPAN_MS // 2, SPAN_MS)]
        jitter = rng.random() < 0.3
        if self._off_grid:
            shift = rng.choice(_OFF_GRID_MS)
            ts = ts + np.array(
                [rng.choice(_OFF_GRID_MS) if jitter else shift for _ in ts], np.int64
            )
        elif jitter:
            late = (0, 0, 0, 1, 7, 1000, step_ms // 2)
            ts = ts + np.array([rng.choice(late) for _ in ts], np.int64)
        return ts

    def counter(self, length: int) -> FloatArray:
        rng = self._rng
        value, values = float(rng.choice((0, 0, 3, 5000))), []
        speed = rng.choice((1, 20, 400))
        for _ in range(length):
            if rng.random() < 0.01:
                value = float(rng.choice((0, 0, 2)))
            if rng.random() < 0.8:
                value += rng.randrange(speed * 64) / 64
            values.append(value)
        return np.array(values)

    def gauge(self, length: int) -> FloatArray:
        rng = self._rng
        low, high = rng.choice(((0, 100), (-50, 50), (1000, 1100), (0, 3)))
        held = rng.random() < 0.3
        values: list[float] = []
        for _ in range(length):
            if held and values and rng.random() < 0.7:
                values.append(values[-1])
            else:
                values.append(rng.randrange(low * 64, high * 64) / 64)
        return np.array(values)

    def special(self, length: int) -> FloatArray:
        rng = self._rng
        often = rng.choice((0.02, 0.3, 0.9))
        few = rng.choice(([np.nan], [np.inf], [np.nan, np.inf, -np.inf], [0.0, -0.0, np.nan]))
        return np.array(
            [
                rng.choice(few) if rng.random() < often else rng.randrange(-640, 640) / 64
                for _ in range(length)
            ],
            np.float64,
        )

    def histogram(self, place: Mapping[str, str]) -> Iterator[WorldSeries]:
        rng = self._rng
        ts = self.times()
        bounds = [b for b in _BOUNDS if b == "+Inf" or rng.random() < 0.8]
        parts = [self.counter(len(ts)) for _ in bounds]
        totals = np.cumsum(np.array(parts).reshape(len(bounds), len(ts)), axis=0)
        for bound, values in zip(bounds, totals, strict=True):
            yield self.finished(Labels.of({**place, "le": bound}, "latency_bucket"), ts, values)
        yield self.finished(Labels.of(place, "latency_count"), ts, totals[-1])

    def finished(self, labels: Labels, ts: IntArray, values: FloatArray) -> WorldSeries:
        """Tear holes into a series, some of them with a stale marker in front."""
        rng = self._rng
        keep = np.ones(len(ts), bool)
        values = values.copy()
        for _ in range(rng.choice((0, 0, 0, 1, 2, 5))):
            if not len(ts):
                break
            at = rng.randrange(len(ts))
            length = rng.choice((1, 2, 10, 40, 120))
            keep[at : at + length] = False
            if rng.random() < 0.6:
                values[at], keep[at] = STALE_NAN, True
        if rng.random() < 0.1:
            keep &= np.array([rng.random() < 0.7 for _ in ts], bool)
        return WorldSeries(labels, ts[keep], values[keep])


async def fill(store: Store, world: World) -> None:
    """
    Put a world into an open store: some targets as ticks of a group, others as points; the first
    half sealed into chunks, the second in the head.
    """
    rng = random.Random(f"fill {world.seed}")
    targets: dict[str, list[WorldSeries]] = {}
    for one in world.series:
        targets.setdefault(f"{one.labels.get('job')}/{one.labels.get('instance')}", []).append(one)
    as_points = {name for name in targets if rng.random() < 0.3}
    middle_ms = START_MS + SPAN_MS // 2
    for low_ms, high_ms in ((0, middle_ms), (middle_ms, 1 << 62)):
        for name, members in targets.items():
            group = store.group(name)
            rows = [
                (int(ts), group.ref(one.labels), value)
                for one in members
                for ts, value in zip(one.ts_ms.tolist(), one.values.tolist(), strict=True)
                if low_ms < ts <= high_ms
            ]
            rows.sort(key=lambda row: row[0])
            if name in as_points:
                if rows:
                    times_ms, refs, values = zip(*rows, strict=True)
                    store.append_points(
                        refs_of(refs), np.array(times_ms, np.int64), np.array(values, np.float64)
                    )
                continue
            for ts, tick in itertools.groupby(rows, key=lambda row: row[0]):
                _, refs, values = zip(*tick, strict=True)
                group.append(ts, refs_of(refs), np.array(values, np.float64))
        if low_ms == 0:
            await store.seal()
    await store.flush()


@contextlib.asynccontextmanager
async def opened_store(directory: Path, world: World) -> AsyncIterator[Store]:
    """
    Open a store with a world in it. Of each four worlds two are compacted, as they are after their
    day; in the others half of the samples is in the head.
    """
    clock = ManualClock(world.end_ms)
    store = Store(store_settings(directory), clock)
    await store.open()
    try:
        await fill(store, world)
        if world.seed // 2 % 2:
            clock.step(_DAY_MS)
            await store.seal()
            await Compactor(store, rest=0).run_once()
        yield store
    finally:
        await store.close()
