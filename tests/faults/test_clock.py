"""A wall clock that jumps: nothing wedges, nothing is lost, and the last write wins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.clock import ManualClock
from support.store import Samples, bits, put, put_points, read, refs_of, store_settings, times
from tachograph.aggregation.compactor import Compactor
from tachograph.storage.model import Labels
from tachograph.storage.store import Store

A, B = (Labels.of({"host": host}, "up") for host in "ab")
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000


class Ticking:
    """Appends a tick a second by whatever the clock says, and knows what must be there."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store, self._clock = store, clock
        self._value = 0.0
        self.expected: Samples = {A: {}, B: {}}

    def tick(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            self._clock.step(SECOND)
            self._value += 1
            now = self._clock.now_ms()
            put(self.store.group("g"), now, {A: self._value, B: -self._value})
            self.expected[A][now] = bits([self._value])[0]
            self.expected[B][now] = bits([-self._value])[0]


JUMPS = {
    "-3 s": [-3 * SECOND],
    "-30 min": [-30 * MINUTE],
    "-2 h": [-2 * HOUR],
    "+1 day and back": [DAY, -DAY],
    "there and back again": [-HOUR, HOUR, -HOUR, HOUR],
    "+1 h": [HOUR],
}


@pytest.mark.parametrize("seals", [False, True])
@pytest.mark.parametrize("jumps", JUMPS.values(), ids=JUMPS)
async def test_jump_costs_no_sample(
    store: Store, clock: ManualClock, jumps: list[int], seals: bool
) -> None:
    ticking = Ticking(store, clock)
    ticking.tick(20)
    for jump in jumps:
        if seals:
            await store.seal()
        clock.step(jump)
        ticking.tick(15)
        assert await read(store) == ticking.expected
    await store.seal()
    ticking.tick(5)
    assert await read(store) == ticking.expected
    assert not store.stats.dropped
    again = store
    for _ in range(2):
        await again.close()
        again = Store(store.settings, clock)
        await again.open()
        assert await read(again) == ticking.expected
    await again.close()


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(
        st.tuples(
            st.integers(-DAY, DAY) | st.sampled_from([-3 * SECOND, -1, 0, 1, 12 * HOUR]),
            st.integers(1, 20),
            st.sampled_from(["", "seal", "compact"]),
        ),
        max_size=8,
    )
)
async def test_any_jumps_cost_no_sample(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, str]]
) -> None:
    clock = ManualClock()
    store = Store(store_settings(tmp_path_factory.mktemp("store")), clock)
    await store.open()
    ticking = Ticking(store, clock)
    for jump, seconds, then in steps:
        clock.step(jump)
        ticking.tick(seconds)
        if then:
            await store.seal()
        if then == "compact":
            await Compactor(store, rest=0).run_once()
    found = await read(store)
    assert found == {labels: samples for labels, samples in ticking.expected.items() if samples}
    await store.close()


@pytest.mark.parametrize("behind_ms", [HOUR + MINUTE, 3 * DAY])
@pytest.mark.parametrize("seals", [False, True])
async def test_clock_far_behind_at_start_refuses_writes_until_it_is_right(
    store: Store, clock: ManualClock, behind_ms: int, seals: bool
) -> None:
    ticking = Ticking(store, clock)
    ticking.tick(10)
    if seals:
        await store.seal()
    await store.close()
    clock.step(-behind_ms)
    again = Store(store.settings, clock)
    await again.open()
    put(again.group("g"), clock.now_ms(), {A: 0.0, B: 0.0})
    refused = again.append_points(
        refs_of([again.group("g").ref(A)]), times([clock.now_ms()]), np.array([1.0])
    )
    assert refused is not None
    assert "clock" in refused.reasons[0]
    assert again.stats.dropped == {"clock": 3}
    assert await read(again) == ticking.expected

    clock.step(behind_ms)
    ticking.store = again
    ticking.tick(3)
    assert again.stats.dropped == {"clock": 3}
    assert await read(again) == ticking.expected
    await again.close()


@pytest.mark.parametrize("behind_ms", [MINUTE, 59 * MINUTE])
async def test_clock_a_little_behind_at_start_is_believed(
    store: Store, clock: ManualClock, behind_ms: int
) -> None:
    ticking = Ticking(store, clock)
    ticking.tick(10)
    await store.seal()
    await store.close()
    clock.step(-behind_ms)
    again = Store(store.settings, clock)
    await again.open()
    ticking.store = again
    ticking.tick(3)
    assert await read(again) == ticking.expected
    assert not again.stats.dropped
    await again.close()


async def test_clock_before_2024_is_not_believed(tmp_path: Path) -> None:
    clock = ManualClock(86_400_000)
    store = Store(store_settings(tmp_path / "data"), clock)
    await store.open()
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    assert store.stats.dropped == {"clock": 1}
    assert await read(store) == {}
    clock.step(ManualClock().now_ms())
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    assert len((await read(store))[A]) == 1
    await store.close()


async def test_samples_of_the_future_are_refused_and_counted(
    store: Store, clock: ManualClock
) -> None:
    now, limit = clock.now_ms(), store.settings.limits.future_ms
    put(store.group("g"), now + limit + 1, {A: 1.0})
    assert store.stats.dropped == {"future": 1}
    put(store.group("g"), now + limit, {A: 2.0})
    put(store.group("g"), now, {A: 3.0})  # late now, and kept all the same
    assert (await read(store))[A] == {
        now: bits([3.0])[0],
        now + limit: bits([2.0])[0],
    }


async def test_samples_beyond_the_raw_retention_are_refused_and_counted(
    store: Store, clock: ManualClock
) -> None:
    oldest = clock.now_ms() - store.settings.retention.raw_ms
    put(store.group("g"), oldest - 1, {A: 1.0})
    assert store.stats.dropped == {"too_old": 1}
    put_points(store, [(A, oldest, 2.0)])
    assert (await read(store))[A] == {oldest: bits([2.0])[0]}
