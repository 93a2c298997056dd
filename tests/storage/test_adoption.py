"""A series that came by itself at first and is then collected becomes a column of its group."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.clock import ManualClock
from support.store import (
    FailingConnection,
    Samples,
    bits,
    crash_copy,
    put,
    put_points,
    read,
    refs_of,
    store_settings,
    times,
)
from tachograph.aggregation.compactor import Compactor
from tachograph.storage.errors import StorageError
from tachograph.storage.group import Ticks, append_ticks
from tachograph.storage.model import Labels
from tachograph.storage.offline import OfflineStore
from tachograph.storage.store import Store

A, B, C = (Labels.of({"host": host}, "up") for host in "abc")
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000


def home(store: Store, labels: Labels) -> str:
    series = store.index.find(labels)
    assert series is not None
    return store.home(series.ref).name


async def test_an_imported_series_goes_on_as_a_column(store: Store, clock: ManualClock) -> None:
    now = clock.now_ms()
    put_points(store, [(A, now - HOUR, 1.0), (A, now - MINUTE, 2.0)])
    points = store.stats.points_appended
    scrape = store.group("scrape")
    for i in range(3):
        put(scrape, now + i * SECOND, {A: 10.0 + i, B: 20.0 + i})
    assert home(store, A) == home(store, B) == "scrape"
    assert store.stats.points_appended == points, "from now on it costs what a tick costs"
    assert scrape.head.columns == 2
    expected: Samples = {
        A: {
            now - HOUR: bits([1.0])[0],
            now - MINUTE: bits([2.0])[0],
            **{now + i * SECOND: bits([10.0 + i])[0] for i in range(3)},
        },
        B: {now + i * SECOND: bits([20.0 + i])[0] for i in range(3)},
    }
    assert await read(store) == expected
    await store.seal()
    assert await read(store) == expected


async def test_the_new_home_is_kept_over_restarts(tmp_path: Path, clock: ManualClock) -> None:
    now, path = clock.now_ms(), tmp_path / "data"
    store = Store(store_settings(path), clock)
    await store.open()
    put_points(store, [(A, now - MINUTE, 1.0)])
    await store.flush()  # its row says where it was first
    put(store.group("scrape"), now, {A: 2.0})
    expected: Samples = {A: {now - MINUTE: bits([1.0])[0], now: bits([2.0])[0]}}
    await store.flush()
    crash_copy(store, tmp_path / "crashed")
    await store.seal()
    await store.close()
    for directory in (path, tmp_path / "crashed"):
        with OfflineStore(directory) as offline:
            found = [
                (f.ts_ms.tolist(), bits(f.values[0])) for f in offline.querier.select((), 0, now)
            ]
        assert found == [(list(expected[A]), list(expected[A].values()))]
        store = Store(store_settings(directory), clock)
        await store.open()
        assert home(store, A) == "scrape"
        assert await read(store) == expected
        assert not store.stats.corrupt.total()
        await store.close()


async def test_a_home_that_the_disk_refuses_is_written_with_the_next_commit(
    tmp_path: Path, clock: ManualClock
) -> None:
    now = clock.now_ms()
    store = Store(store_settings(tmp_path / "data"), clock)
    await store.open()
    disk = FailingConnection.install(store)
    put_points(store, [(A, now - MINUTE, 1.0)])
    await store.flush()
    disk.fail_after(1)
    put(store.group("scrape"), now, {A: 2.0})
    with pytest.raises(StorageError):
        await store.flush()
    disk.heal()
    await store.close()
    store = Store(store_settings(tmp_path / "data"), clock)
    await store.open()
    assert home(store, A) == "scrape"
    assert list((await read(store))[A]) == [now - MINUTE, now]
    await store.close()


async def test_a_series_with_ticks_stays_where_it_is(store: Store, clock: ManualClock) -> None:
    now = clock.now_ms()
    put(store.group("first"), now, {A: 1.0})
    put(store.group("second"), now + 1, {A: 2.0, B: 3.0})
    assert (home(store, A), home(store, B)) == ("first", "second")
    await store.seal()
    put(store.group("second"), now + 2, {A: 4.0, B: 5.0})
    assert home(store, A) == "first", "its ticks are in chunks of that group"
    assert list((await read(store))[A].values()) == bits([1.0, 2.0, 4.0])


async def test_of_two_collectors_the_first_one_adopts(store: Store, clock: ManualClock) -> None:
    now = clock.now_ms()
    put_points(store, [(A, now - 1, 1.0), (B, now - 1, 1.0)])
    first, second = store.group("first"), store.group("second")
    refs = refs_of([first.ref(A), first.ref(B)])
    append_ticks(
        store,
        [
            Ticks(first, times([now]), refs[:1], np.array([[2.0]])),
            Ticks(second, times([now + 1]), refs, np.array([[3.0, 4.0]])),
            Ticks(first, times([now + 2]), refs, np.array([[5.0, 6.0]])),
        ],
    )
    assert (home(store, A), home(store, B)) == ("first", "second")
    found = await read(store)
    assert list(found[A].values()) == bits([1.0, 2.0, 3.0, 5.0])
    assert list(found[B].values()) == bits([1.0, 4.0, 6.0])


async def test_a_home_that_knew_the_series_as_its_own_learns_better(
    store: Store, clock: ManualClock
) -> None:
    now = clock.now_ms()
    old, new = store.group("old"), store.group("new")
    put_points(store, [(A, now + 10, 1.0)])
    store.adopt(refs_of([old.ref(A)]), old.number)
    put(old, now, {A: 2.0})  # before its newest point, so it becomes one, too
    assert not old.has_ticks
    put(new, now + 20, {A: 3.0})
    put(old, now + 30, {A: 4.0})
    assert home(store, A) == "new"
    assert list((await read(store))[A].values()) == bits([2.0, 1.0, 3.0, 4.0])


# -- in any order ------------------------------------------------------------------------------

#: Each as likely as it is often here.
ACTIONS = "push push scrape scrape scrape other both flush seal restart crash compact disk"
#: What, of which series, seconds from now, seconds since the action before.
an_action = st.tuples(
    st.sampled_from(ACTIONS.split()),
    st.sets(st.sampled_from([A, B, C]), min_size=1),
    st.sampled_from([0, 0, 0, 1, -1, 60, -60, -3600, -86_400]),
    st.sampled_from([0, 1, 10, 3600, 86_400]),
)


@dataclass
class World:
    """A store and what must be in it; of what no commit has taken a crash may take all."""

    store: Store
    clock: ManualClock
    directories: itertools.count[int]
    root: Path
    expected: Samples = field(default_factory=dict)
    durable: Samples = field(default_factory=dict)
    value: float = 0.0

    def write(self, what: str, series: set[Labels], offset_s: int) -> None:
        now = self.clock.now_ms()
        ts_ms = now + offset_s * SECOND
        tick = {}
        for labels in sorted(series):
            self.value += 1
            tick[labels] = self.value
            self.expected.setdefault(labels, {})[ts_ms] = bits([self.value])[0]
        if what == "push":
            put_points(self.store, [(labels, ts_ms, value) for labels, value in tick.items()])
        else:
            put(self.store.group(what), ts_ms, tick)

    def note(self) -> None:
        self.durable = {labels: dict(samples) for labels, samples in self.expected.items()}

    async def open(self, directory: Path) -> None:
        self.store = Store(store_settings(directory), self.clock)
        await self.store.open()

    async def do(self, what: str, series: set[Labels], offset_s: int) -> None:
        store = self.store
        if what in ("push", "scrape", "other"):
            self.write(what, series, offset_s)
        elif what == "both":  # a source that pushes what another one collects
            self.write("push", series, offset_s)
            self.write("scrape", series, offset_s)
        elif what == "flush":
            await store.flush()
            self.note()
        elif what == "seal":
            await store.seal()
            self.note()
        elif what == "compact":
            await store.seal()
            await Compactor(store, rest=0).run_once()
            self.note()
        elif what == "disk":
            disk = FailingConnection.install(store)
            disk.fail_after(abs(offset_s) % 7)
            try:
                await store.seal()
            except StorageError:
                assert disk.failures
            store.writer._connection = disk._connection
            await store.flush()
            self.note()
        elif what == "restart":
            await store.close()
            self.note()
            await self.open(store.directory)
        else:
            target = self.root / str(next(self.directories))
            crash_copy(store, target)
            await store.close()
            self.expected = {labels: dict(samples) for labels, samples in self.durable.items()}
            await self.open(target)


async def go_through(actions: list[tuple[str, set[Labels], int, int]]) -> None:
    with tempfile.TemporaryDirectory() as root:
        clock, directories = ManualClock(), itertools.count()
        path = Path(root)
        world = World(Store(store_settings(path / "data"), clock), clock, directories, path)
        await world.store.open()
        for what, series, offset_s, step_s in actions:
            clock.step(step_s * SECOND)
            await world.do(what, series, offset_s)
            assert await read(world.store) == world.expected
        await world.store.seal()
        assert await read(world.store) == world.expected
        assert not world.store.stats.corrupt.total()
        await world.store.close()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(an_action, max_size=16))
def test_no_sample_is_lost_doubled_or_reordered(
    actions: list[tuple[str, set[Labels], int, int]],
) -> None:
    asyncio.run(go_through(actions))
