"""A bounded number of groups: what silent ones are used for, and that nothing is lost by it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from support.clock import ManualClock
from support.store import bits, put, put_points, read, refs_of, store_settings, times
from tachograph.storage.model import Labels
from tachograph.storage.store import Store

A, B, C, D = (Labels.of({"host": host}, "up") for host in "abcd")
DAY = 86_400_000


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    store = Store(store_settings(tmp_path / "data"), clock)
    await store.open()
    store._groups._groups_max = 3
    yield store
    await store.close()


async def test_the_group_that_was_silent_for_longest_gets_the_new_name(
    store: Store, clock: ManualClock
) -> None:
    start = clock.now_ms()
    put_points(store, [(D, start, 4.0)])  # a group by name only, in use
    old, silent = store.group("old"), store.group("silent")
    put(old, start, {A: 1.0})
    put(silent, start + 1, {B: 2.0})
    await store.seal()
    clock.step(DAY + 2)
    assert store.group("new") is old
    assert not store.has_group("old")
    assert (store.groups, store.stats.groups_shared) == (3, 1)
    now = clock.now_ms()
    put(store.group("new"), now, {C: 3.0})
    put(old, now + 1, {A: 5.0})  # its source comes back, and holds it still
    expected = {
        A: {start: bits([1.0])[0], now + 1: bits([5.0])[0]},
        B: {start + 1: bits([2.0])[0]},
        C: {now: bits([3.0])[0]},
        D: {start: bits([4.0])[0]},
    }
    assert await read(store) == expected
    await store.seal()
    await store.close()
    again = Store(store.settings, clock)
    await again.open()
    assert [again.has_group(name) for name in ("points", "old", "silent", "new")] == [
        *(True, False, True, True)
    ]
    assert await read(again) == expected
    await again.close()


async def test_while_none_is_silent_new_names_share_one_group(
    store: Store, clock: ManualClock
) -> None:
    now = clock.now_ms()
    for name, labels in (("a", A), ("b", B), ("c", C)):
        put(store.group(name), now, {labels: 1.0})
    shared = store.group("d")
    assert store.group("e") is shared
    assert store.groups == 4
    assert [store.has_group(name) for name in "abcde"] == [True, True, True, False, False]
    for n in range(40):
        put(store.group(f"more{n}"), now + n, {D: float(n)})
    assert store.groups == 4
    assert list((await read(store))[D].values()) == bits([float(n) for n in range(40)])


async def test_who_found_no_silent_group_looks_again_a_minute_later(
    store: Store, clock: ManualClock
) -> None:
    silent, start = store.group("silent"), clock.now_ms()
    put(silent, start, {A: 1.0})
    for name, labels in (("b", B), ("c", C)):
        put(store.group(name), start + DAY, {labels: 1.0})
    await store.seal()
    clock.step(DAY - 1)
    shared = store.group("d")
    clock.step(2)
    assert store.group("e") is shared, "it is silent for a day now, but nobody has looked"
    await clock.advance(60_000)
    assert store.group("f") is silent
    assert (store.groups, store.stats.groups_shared) == (4, 3)


async def test_a_group_without_series_is_there_for_the_next_name(store: Store) -> None:
    first = store.group("a")
    for name in "bcdef":
        store.group(name).ref(A)
    assert store.group("g") is first
    assert store.groups == 3


async def test_samples_of_forgotten_series_are_not_taken_and_counted(
    tmp_path: Path, clock: ManualClock
) -> None:
    store = Store(store_settings(tmp_path / "data"), clock)
    await store.open()
    store._homes._graves_max = 0
    group, now = store.group("g"), clock.now_ms()
    put(group, now, {A: 1.0, B: 1.0})
    refs = refs_of([group.ref(A), group.ref(B)])
    store._forget(refs[:1], now + 1)
    store._forget(refs[1:], now + 1)  # and so the first one is forgotten
    put(group, now + 1, {C: 3.0})
    values = [1.0, 2.0]
    group.append(now + 2, refs, np.array(values))
    store.append_points(refs, times([now + 3, now + 3]), np.array(values))
    assert store.stats.dropped == {"forgotten": 2}
    found = await read(store)
    assert set(found) == {B, C}
    assert [found[B][now + 2], found[B][now + 3]] == bits([2.0, 2.0])
    group.append(now + 4, refs_of([group.ref(A)]), np.array([7.0]))
    assert (await read(store))[A] == {now + 4: bits([7.0])[0]}, "by its labels it is a new series"
    await store.close()
