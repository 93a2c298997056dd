"""A store with a life of its own, and beside it what it was given."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from support.clock import ManualClock
from support.rollups import assert_right, orphans
from support.store import Samples, bits, crash_copy, refs_of, store_settings, times
from tachograph.aggregation.compactor import Compactor
from tachograph.aggregation.rollup import Aggregate, Tier
from tachograph.storage.errors import StoreUnavailable
from tachograph.storage.frame import STALE_NAN
from tachograph.storage.keys import day_of
from tachograph.storage.model import ABSENT_BITS, Kind, Labels
from tachograph.storage.store import Store

T = TypeVar("T")

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
#: A UTC midnight.
MIDNIGHT = 1_767_571_200_000

COUNTERS = [Labels.of({"n": str(n)}, "requests_total") for n in range(3)]
SECONDS = [Labels.of({"n": str(n)}, "busy_seconds_total") for n in range(2)]
GAUGES = [Labels.of({"n": str(n)}, "level") for n in range(3)]
LOOSE = [Labels.of({"n": str(n)}, "pushed") for n in range(3)]
KINDS = {
    "requests_total": Kind.COUNTER,
    "busy_seconds_total": Kind.BUCKET,
    "level": Kind.GAUGE,
    "pushed": Kind.UNKNOWN,
}
GROUPS: dict[str, list[Labels]] = {
    "web": [*COUNTERS, *GAUGES[:1]],
    "host": [*SECONDS, *GAUGES[1:]],
    "points": LOOSE,
}


class Failing:
    """Lets the n-th job of a store's writer thread fail, before or after its work."""

    def __init__(self, store: Store) -> None:
        self._run = store.writer.run
        self._left = -1
        self._after = False
        self.failed = False
        store.writer.run = self.run  # type: ignore[method-assign]

    def fail(self, nth: int, *, after: bool = False) -> None:
        self._left, self._after, self.failed = nth, after, False

    def heal(self) -> None:
        self._left = -1

    async def run(self, job: Callable[[Any], T]) -> T:
        if self._left > 0:
            self._left -= 1
        elif self._left == 0:
            if self._after and not self.failed:
                await self._run(job)
            self.failed = True
            raise StoreUnavailable("made to fail")
        return await self._run(job)


class History:
    """Feeds a store; ``expected`` is what it must hold."""

    def __init__(self, root: Path, start_ms: int = MIDNIGHT - 2 * HOUR, **settings: Any) -> None:
        self.clock = ManualClock(start_ms)
        self.expected: Samples = {}
        self.refused = 0
        self._paths = (root / str(n) for n in itertools.count())
        self._settings = settings
        self._levels: dict[Labels, float] = {}

    async def open(self, path: Path | None = None) -> None:
        self.store = Store(store_settings(path or next(self._paths), **self._settings), self.clock)
        await self.store.open()
        self.writes = Failing(self.store)

    async def close(self) -> None:
        self.writes.heal()
        await self.store.close()

    async def reopen(self) -> None:
        await self.close()
        await self.open(self.store.directory)

    async def crash(self) -> None:
        """Die right after a commit of what is there; go on from what the disk has."""
        self.writes.heal()
        await self.store.flush()
        target = next(self._paths)
        crash_copy(self.store, target)
        await self.store.close()
        await self.open(target)

    async def branch(self, root: Path) -> History:
        """Return another history that begins where this one, closed, ended."""
        root.mkdir()
        other = History(root, self.clock.now_ms(), **self._settings)
        other.expected = {labels: dict(each) for labels, each in self.expected.items()}
        shutil.copytree(self.store.directory, root / "begin")
        await other.open(root / "begin")
        return other

    # --- Feeding ------------------------------------------------------------------------------

    async def ticks(
        self, name: str, count: int, every_ms: int, seed: int = 0, share: float = 1.0
    ) -> None:
        """Append ticks of a group's series; the clock goes with them."""
        rng = np.random.default_rng(seed)
        for _ in range(count):
            await self.clock.advance(every_ms)
            self.tick(name, self.clock.now_ms(), rng, share)

    def tick(self, name: str, ts_ms: int, rng: np.random.Generator, share: float = 1.0) -> None:
        here = [labels for labels in GROUPS[name] if rng.random() < share]
        self.put(name, ts_ms, {labels: self.value(labels, rng) for labels in here})

    def put(self, name: str, ts_ms: int, tick: dict[Labels, float]) -> None:
        group = self.store.group(name)
        refs = refs_of(group.ref(labels, KINDS[labels.name]) for labels in tick)
        dropped = self.store.stats.dropped.total()
        group.append(ts_ms, refs, np.array(list(tick.values()), np.float64))
        if self.store.stats.dropped.total() == dropped:
            for labels, value in tick.items():
                self.expect(labels, ts_ms, value)

    def points(self, points: Iterable[tuple[Labels, int, float]]) -> list[str]:
        """Append points and return why each was refused, or an empty text."""
        points = list(points)
        owners = {labels: name for name, members in GROUPS.items() for labels in members}
        refusal = self.store.append_points(
            refs_of(
                self.store.group(owners.get(labels, "points")).ref(
                    labels, KINDS.get(labels.name, Kind.UNKNOWN)
                )
                for labels, _, _ in points
            ),
            times(ts_ms for _, ts_ms, _ in points),
            np.array([value for _, _, value in points], np.float64),
        )
        reasons = [""] * len(points) if refusal is None else list(refusal.reasons)
        for (labels, ts_ms, value), reason in zip(points, reasons, strict=True):
            if not reason:
                self.expect(labels, ts_ms, value)
        return reasons

    def late(self, labels: Sequence[Labels], back_ms: int, count: int, seed: int) -> None:
        """Append points some time ago; never at the time of a tick."""
        rng = np.random.default_rng(seed)
        end_ms = self.clock.now_ms() - back_ms
        self.points(
            (
                labels[int(rng.integers(len(labels)))],
                (end_ms - int(rng.integers(0, 90 * MINUTE))) // SECOND * SECOND + 500,
                self.value(GAUGES[0], rng),
            )
            for _ in range(count)
        )

    def value(self, labels: Labels, rng: np.random.Generator) -> float:
        """The next value of a series: counters with resets, decimals, NaN, stale markers."""
        if rng.random() < 0.03:
            return STALE_NAN
        level = self._levels.get(labels, 0.0)
        if labels.name in ("requests_total", "busy_seconds_total"):
            level += float(rng.integers(0, 50))
            if rng.random() < 0.05:
                level = float(rng.integers(0, 3))
            self._levels[labels] = level
            return level if labels.name == "requests_total" else round(level / 100, 2)
        if rng.random() < 0.02:
            return float("nan")
        if rng.random() < 0.3:
            return float(rng.normal(0, 1e3))
        return round(float(rng.normal(50, 20)), 2)

    def expect(self, labels: Labels, ts_ms: int, value: float) -> None:
        (number,) = bits([value])
        assert number != ABSENT_BITS
        self.expected.setdefault(labels, {})[ts_ms] = number

    # --- Working ------------------------------------------------------------------------------

    async def compact(self) -> list[int]:
        await self.store.seal()
        return await Compactor(self.store, rest=0).run_once()

    async def next_day(self) -> None:
        """Let the clock go on to 5 minutes past the next midnight."""
        day = day_of(self.clock.now_ms())
        await self.clock.advance((day + 1) * DAY + 5 * MINUTE - self.clock.now_ms())

    async def check(
        self, tiers: Iterable[Tier] = tuple(Tier), start_ms: int = -1, end_ms: int = 1 << 45
    ) -> None:
        """The store holds what is expected, and no row of it is damaged."""
        await self.check_values(tiers, start_ms, end_ms)
        assert not self.store.stats.corrupt.total()

    async def check_values(
        self, tiers: Iterable[Tier] = tuple(Tier), start_ms: int = -1, end_ms: int = 1 << 45
    ) -> None:
        await assert_right(self.store, self.expected, tiers, start_ms, end_ms)

    async def look(self, tiers: Iterable[Tier]) -> None:
        """As :meth:`check`, at the two aggregates that are likeliest to be wrong."""
        some = (Aggregate.SUM, Aggregate.INCREASE)
        await assert_right(self.store, self.expected, tiers, aggregates=some)
        assert not self.store.stats.corrupt.total()

    async def check_tidy(self) -> None:
        """Nothing waits, and nothing is left over."""
        assert await self.store.days.pending() == []
        assert await orphans(self.store) == 0
