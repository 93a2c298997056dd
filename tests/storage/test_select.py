"""Reading: one snapshot for the whole of a job, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.clock import ManualClock
from support.store import ALL_MS, put, put_points, read, refs_of, store_settings, unpack
from tachograph.config.selector import parse_selector
from tachograph.storage.errors import StoreUnavailable
from tachograph.storage.frame import Frame
from tachograph.storage.model import Labels
from tachograph.storage.readers import ReaderPool
from tachograph.storage.select import Querier
from tachograph.storage.store import Store

A, B, C = (Labels.of({"host": host}, "up") for host in "abc")


class Halfway:
    """A read that stops before its work, until the test has done something meanwhile."""

    def __init__(self, job: Callable[[Querier], list[Frame]]) -> None:
        self._job = job
        self._started, self._go = threading.Event(), threading.Event()

    def __call__(self, querier: Querier) -> list[Frame]:
        self._started.set()
        assert self._go.wait(20)
        return self._job(querier)

    async def started(self) -> None:
        assert await asyncio.to_thread(self._started.wait, 20)

    def go(self) -> None:
        self._go.set()


def everything(querier: Querier) -> list[Frame]:
    return querier.select((), *ALL_MS)


async def test_seal_in_the_midst_of_a_read_takes_nothing_from_it(
    store: Store, clock: ManualClock
) -> None:
    now = clock.now_ms()
    put(store.group("g"), now, {A: 1.0})
    put_points(store, [(B, now, 2.0)])
    before = await read(store)
    half = Halfway(everything)
    reading = asyncio.create_task(store.read(half))
    await half.started()
    await store.seal()
    put(store.group("g"), now + 1, {A: 3.0})
    put_points(store, [(B, now + 1, 4.0)])
    half.go()
    assert unpack(await reading) == before
    assert len((await read(store))[B]) == 2


async def test_two_looks_of_one_read_see_the_same(store: Store, clock: ManualClock) -> None:
    now = clock.now_ms()
    put_points(store, [(B, now, 2.0)])
    first: list[Frame] = []

    def look(querier: Querier) -> list[Frame]:
        first.extend(everything(querier))
        return second(querier)

    second = Halfway(everything)
    reading = asyncio.create_task(store.read(look))
    await second.started()
    put_points(store, [(B, now + 1, 4.0)])
    second.go()
    assert unpack(await reading) == unpack(first)


async def test_series_that_came_after_the_snapshot_are_no_stumbling_block(
    store: Store, clock: ManualClock
) -> None:
    now = clock.now_ms()
    put(store.group("g"), now, {A: 1.0})
    half = Halfway(everything)
    reading = asyncio.create_task(store.read(half))
    await half.started()
    # More than the store had room for in its list of homes.
    put(store.group("g"), now + 1, {Labels.of({}, f"m{i}"): 1.0 for i in range(2_000)})
    half.go()
    assert list(unpack(await reading)) == [A]


async def test_removed_series_leaves_its_neighbours_in_the_frame(
    store: Store, clock: ManualClock
) -> None:
    now = clock.now_ms()
    put(store.group("g"), now, {A: 1.0, B: 2.0, C: 3.0})
    refs = refs_of([1, 2, 3])

    def job(querier: Querier) -> list[Frame]:
        return list(querier.frames(refs, *ALL_MS))

    half = Halfway(job)
    reading = asyncio.create_task(store.read(half))
    await half.started()
    store.index.remove([2])
    half.go()
    assert list(unpack(await reading)) == [A, C]


async def test_head_without_columns_can_be_read(store: Store, clock: ManualClock) -> None:
    group = store.group("g")
    group.ref(A)
    group.append(clock.now_ms(), refs_of([]), np.empty(0))
    assert await read(store) == {}
    await store.seal()
    assert await read(store) == {}


@pytest.mark.parametrize("rows_max", [1, 2, 3, 256])
async def test_frames_are_no_bigger_than_asked(
    store: Store, clock: ManualClock, rows_max: int
) -> None:
    now = clock.now_ms()
    tick = {Labels.of({}, f"m{i}"): float(i) for i in range(5)}
    put(store.group("g"), now, tick)

    def job(querier: Querier) -> list[Frame]:
        return list(querier.frames(querier.index.select(()), now, now, rows_max))

    frames = await store.read(job)
    assert max(len(frame.series) for frame in frames) <= rows_max
    assert len(unpack(frames)) == 5


async def test_range_ends_are_both_included(store: Store, clock: ManualClock) -> None:
    now = clock.now_ms()
    for i in range(5):
        put(store.group("g"), now + i, {A: float(i)})
        put_points(store, [(B, now + i, float(i))])
    for _ in range(2):
        found = await read(store, (), now + 1, now + 3)
        assert {labels: sorted(samples) for labels, samples in found.items()} == {
            A: [now + 1, now + 2, now + 3],
            B: [now + 1, now + 2, now + 3],
        }
        assert await read(store, (), now + 5, now + 9) == {}
        assert await read(store, (), now + 3, now + 1) == {}
        await store.seal()


async def test_selector_decides(store: Store, clock: ManualClock) -> None:
    put(store.group("g"), clock.now_ms(), {A: 1.0, B: 2.0})
    assert list(await read(store, parse_selector('up{host!="a"}'))) == [B]


async def test_what_a_job_raises_reaches_its_caller(store: Store) -> None:
    def job(querier: Querier) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.read(job)
    assert await read(store) == {}


async def test_closed_store_says_so(tmp_path: Path, clock: ManualClock) -> None:
    store = Store(store_settings(tmp_path / "data"), clock)
    with pytest.raises(StoreUnavailable):
        await read(store)
    await store.open()
    await store.close()
    with pytest.raises(StoreUnavailable):
        await read(store)
    with pytest.raises(StoreUnavailable):
        await store.seal()
    with pytest.raises(StoreUnavailable):
        store.group("g").append(clock.now_ms(), refs_of([]), np.empty(0))
    await store.close()


async def test_reads_that_wait_when_the_readers_close_are_refused(store: Store) -> None:
    pool = ReaderPool(store.path, 1)
    begun, go = threading.Event(), threading.Event()

    def long(connection: sqlite3.Connection) -> bool:
        begun.set()
        return go.wait(20)

    first = asyncio.create_task(pool.run(long))
    assert await asyncio.to_thread(begun.wait, 20)
    second = asyncio.create_task(pool.run(long))
    await asyncio.sleep(0)
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0)
    go.set()
    await closing
    assert await first
    with pytest.raises(StoreUnavailable):
        await second


@pytest.mark.parametrize("seed", range(12))
async def test_points_laid_over_ticks_are_the_same_samples(
    store: Store, clock: ManualClock, seed: int
) -> None:
    chance = random.Random(seed)
    group, start_ms = store.group("g"), clock.now_ms() - 100_000
    for _ in range(4):
        for at in sorted(chance.sample(range(60), 12)):
            series = chance.sample([A, B, C], chance.randint(1, 3))
            put(group, start_ms + 1_000 * at, {one: chance.random() for one in series})
        late = [(chance.choice([A, B, C]), chance.randrange(60)) for _ in range(20)]
        grid = chance.choice([1_000, 250])
        put_points(store, [(one, start_ms + grid * at, chance.random()) for one, at in late])
        if chance.random() < 0.5:
            await store.seal()

    def both(querier: Querier) -> tuple[list[Frame], list[Frame]]:
        refs, span = querier.index.select(()), (start_ms + 3_000, start_ms + 50_000)
        return list(querier.frames(refs, *span)), list(querier.frames(refs, *span, overlay=True))

    apart, laid = await store.read(both)
    assert unpack(laid) == unpack(apart)
    assert all((frame.ts_ms[1:] > frame.ts_ms[:-1]).all() for frame in laid)


async def test_what_a_slow_connection_delivers_late_stands_among_its_groups_ticks(
    store: Store, clock: ManualClock
) -> None:
    group, start_ms = store.group("g"), clock.now_ms() - 100_000
    for at in range(50):
        put(group, start_ms + 1_000 * at, {A: 1.0, B: 2.0})
    await store.seal()
    put_points(store, [(B, start_ms + 1_000 * at, 3.0) for at in range(50)])
    put_points(store, [(C, start_ms + 10 * at, 4.0) for at in range(150)])

    def shapes(querier: Querier) -> list[tuple[int, int]]:
        frames = querier.frames(querier.index.select(()), *ALL_MS, overlay=True)
        return sorted((len(frame.series), len(frame.ts_ms)) for frame in frames)

    assert await store.read(shapes) == [(1, 150), (2, 50)]
