"""A clock that was far ahead once: the present is stored again, the future can be deleted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from support.clock import ManualClock
from support.store import Samples, bits, crash_copy, put, put_points, read, refs_of, store_settings
from tachograph.aggregation.compactor import Compactor
from tachograph.storage.ahead import find_ahead, forget_ahead
from tachograph.storage.errors import StorageError
from tachograph.storage.keys import day_of
from tachograph.storage.model import Labels
from tachograph.storage.store import Store

A, B, P = (Labels.of({"host": host}, "up") for host in "abp")
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
YEAR = 365 * DAY

Open = Callable[[], Coroutine[None, None, Store]]


@pytest.fixture
def opened(tmp_path: Path, clock: ManualClock) -> Open:
    async def open() -> Store:
        store = Store(store_settings(tmp_path / "data"), clock)
        await store.open()
        return store

    return open


class Feed:
    """Appends a tick and a point a second, and knows what must be there."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.expected: Samples = {A: {}, B: {}, P: {}}

    def tick(self, store: Store, seconds: int = 5) -> None:
        for _ in range(seconds):
            self._clock.step(SECOND)
            now = self._clock.now_ms()
            put(store.group("g"), now, {A: 1.0 + now, B: -1.0})
            put_points(store, [(P, now, 2.0)])
            for labels, value in ((A, 1.0 + now), (B, -1.0), (P, 2.0)):
                self.expected[labels][now] = bits([value])[0]

    def until(self, last_ms: int) -> Samples:
        return {
            labels: {ts: value for ts, value in samples.items() if ts <= last_ms}
            for labels, samples in self.expected.items()
        }


async def collect_a_year_ahead(opened: Open, clock: ManualClock, feed: Feed) -> None:
    store = await opened()
    clock.step(YEAR)
    feed.tick(store)
    await store.close()
    clock.step(-YEAR)


def newest(store: Store, labels: Labels) -> int:
    series = store.index.find(labels)
    assert series is not None
    return int(store.current.get(refs_of([series.ref]))[0][0])


@pytest.mark.parametrize("seals", [False, True])
async def test_synchronised_clock_is_believed_at_the_start(
    opened: Open, clock: ManualClock, seals: bool, caplog: pytest.LogCaptureFixture
) -> None:
    feed = Feed(clock)
    store = await opened()
    feed.tick(store)
    clock.step(YEAR)
    feed.tick(store)
    if seals:
        await store.seal()
    await store.close()

    clock.step(-YEAR)
    clock.synchronised = True
    with caplog.at_level(logging.WARNING):
        store = await opened()
        feed.tick(store)
    assert store.stats.clock_corrections == 1
    assert [record.message for record in caplog.records if "believed" in record.message] == [
        caplog.messages[0]
    ]
    assert not store.trouble
    assert not store.stats.dropped
    assert store.clock_trust.ahead_ms > YEAR - MINUTE
    assert newest(store, A) == clock.now_ms(), "the present is what is shown"
    assert await read(store) == feed.expected
    await store.seal()
    await Compactor(store, rest=0).run_once()
    assert await read(store) == feed.expected
    await store.close()


async def test_clock_that_is_synchronised_later_is_believed_then(
    opened: Open, clock: ManualClock
) -> None:
    feed = Feed(clock)
    store = await opened()
    clock.step(YEAR)
    feed.tick(store)
    await store.close()

    clock.step(-YEAR)
    store = await opened()
    assert "forget-future" in store.trouble
    put(store.group("g"), clock.now_ms(), {A: 0.0})
    assert store.stats.dropped == {"clock": 1}
    clock.synchronised = True
    await clock.advance(9 * SECOND)
    assert store.trouble, "nobody is asked more than every ten seconds"
    await clock.advance(SECOND)
    assert not store.trouble
    feed.tick(store)
    assert store.stats.dropped == {"clock": 1}
    assert await read(store) == feed.expected
    await store.close()


async def test_unsynchronised_clock_is_never_believed(opened: Open, clock: ManualClock) -> None:
    await collect_a_year_ahead(opened, clock, Feed(clock))
    store = await opened()
    await clock.advance(2 * DAY)
    assert store.trouble
    assert not store.stats.clock_corrections
    await store.close()


async def test_where_nobody_can_be_asked_an_hour_is_enough(
    opened: Open, clock: ManualClock
) -> None:
    feed = Feed(clock)
    await collect_a_year_ahead(opened, clock, feed)
    clock.synchronised = None
    store = await opened()
    await clock.advance(HOUR - SECOND)
    assert store.trouble
    await clock.advance(10 * SECOND)
    assert not store.trouble
    feed.tick(store)
    assert await read(store) == feed.expected
    await store.close()


async def test_clock_before_2024_is_not_believed_whoever_vouches_for_it(tmp_path: Path) -> None:
    clock = ManualClock(DAY)
    clock.synchronised = True
    store = Store(store_settings(tmp_path / "data"), clock)
    await store.open()
    assert "2024" in store.trouble
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    assert store.stats.dropped == {"clock": 1}
    for delete in (find_ahead, forget_ahead):
        with pytest.raises(StorageError, match="2024"):  # all that is stored would go
            await delete(store, clock.now_ms())
    await store.close()


async def test_what_was_believed_is_believed_at_the_next_start(
    opened: Open, clock: ManualClock
) -> None:
    feed = Feed(clock)
    await collect_a_year_ahead(opened, clock, feed)
    clock.synchronised = True
    store = await opened()
    await store.close()

    clock.synchronised = False  # the network is not up yet
    clock.step(HOUR)
    store = await opened()
    feed.tick(store)
    assert await read(store) == feed.expected
    await store.close()

    clock.step(-3 * HOUR)  # that is behind what was believed
    store = await opened()
    assert store.trouble
    await store.close()


async def test_belief_is_noted_while_the_store_runs(
    opened: Open, clock: ManualClock, tmp_path: Path
) -> None:
    feed = Feed(clock)
    await collect_a_year_ahead(opened, clock, feed)
    clock.synchronised = True
    store = await opened()
    await store._note_belief()
    crash_copy(store, tmp_path / "copy")
    await store.close()
    clock.synchronised = False
    again = Store(store_settings(tmp_path / "copy"), clock)
    await again.open()
    assert not again.trouble
    await again.close()


# --- Forgetting it ---------------------------------------------------------------------------


@pytest.mark.parametrize("leap_ms", [20 * MINUTE, 2 * HOUR, 3 * DAY, YEAR])
@pytest.mark.parametrize("before", ["", "seal", "compact", "believe"])
async def test_forgetting_leaves_all_up_to_now_and_nothing_else(
    opened: Open, clock: ManualClock, leap_ms: int, before: str
) -> None:
    feed = Feed(clock)
    store = await opened()
    feed.tick(store)
    clock.step(DAY)
    feed.tick(store)
    now_ms = clock.now_ms()
    clock.step(leap_ms)  # in one block with what was before, if it is the same day
    feed.tick(store)
    put(store.group("g2"), clock.now_ms(), {Labels.of({}, "later"): 1.0})
    if before:
        await store.seal()
    if before == "compact":
        clock.step(2 * DAY)
        await Compactor(store, rest=0).run_once()
    if before == "believe":  # present samples lie beside those ahead of them by now
        clock.step(now_ms - clock.now_ms())
        clock.synchronised = True
        await store.close()
        store = await opened()
        feed.tick(store)
        now_ms = clock.now_ms()
    clock.step(now_ms - clock.now_ms())

    cutoff_ms = now_ms + 10 * MINUTE
    ahead = await find_ahead(store, cutoff_ms)
    assert (ahead.samples, ahead.series) == (16, 4)
    await forget_ahead(store, cutoff_ms)
    assert not await find_ahead(store, cutoff_ms)
    assert await read(store) == feed.until(now_ms)
    await store.close()

    clock.synchronised = False
    store = await opened()
    assert not store.trouble, "nothing is behind any more"
    feed.expected = feed.until(now_ms)
    assert await read(store) == feed.expected
    points = store.stats.points_appended
    feed.tick(store, 3)
    assert store.stats.points_appended == points + 3, "ticks are ticks again"
    assert await read(store) == feed.expected
    await store.seal()
    clock.step(DAY)
    await Compactor(store, rest=0).run_once()
    assert await read(store) == feed.expected
    assert not store.stats.corrupt.total()
    # What is left of the series that came in the future expires as any other.
    rows = await store.writer.run(
        lambda c: c.execute("SELECT max(last_day), max(created_ms) FROM series").fetchone()
    )
    assert rows[0] <= day_of(clock.now_ms())
    assert rows[1] <= cutoff_ms
    await store.close()


async def test_nothing_ahead_is_nothing_to_forget(opened: Open, clock: ManualClock) -> None:
    feed = Feed(clock)
    store = await opened()
    feed.tick(store)
    await store.seal()
    assert not await find_ahead(store, clock.now_ms())
    await forget_ahead(store, clock.now_ms())
    assert await read(store) == feed.expected
    await store.close()
