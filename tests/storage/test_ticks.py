"""Ticks in blocks: what senders deliver, several timestamps of the same series at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.clock import ManualClock
from support.store import Samples, put_points, read, refs_of, store_settings, times
from tachograph.storage.frame import FloatArray
from tachograph.storage.group import Group
from tachograph.storage.model import Labels
from tachograph.storage.store import Store

NOW_MS = ManualClock().now_ms()
NAMES = [Labels.of({"i": str(i)}, "m") for i in range(40)]


async def opened(path: Path) -> Store:
    store = Store(store_settings(path), ManualClock())
    await store.open()
    return store


def block(group: Group, ts_ms: list[int], members: list[int], values: FloatArray) -> dict[str, int]:
    refs = refs_of(group.ref(NAMES[i]) for i in members)
    return dict(group.append_ticks(times(ts_ms), refs, values))


blocks = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.lists(st.integers(-40, 5), min_size=1, max_size=6, unique=True).map(sorted),
        st.lists(st.integers(0, 11), min_size=1, max_size=8, unique=True),
        st.booleans(),
    ),
    max_size=12,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(blocks)
async def test_a_block_is_its_ticks_one_after_the_other(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, list[int], list[int], bool]]
) -> None:
    found: list[Samples] = []
    for whole in (True, False):
        path = tmp_path_factory.mktemp("store")
        store = await opened(path)
        try:
            number = 0
            for name, offsets, members, seals in steps:
                ts = [NOW_MS + 1000 * each for each in offsets]
                values = np.arange(number, number + len(ts) * len(members), dtype=np.float64)
                number += values.size
                values = values.reshape(len(ts), len(members))
                group = store.group(name)
                if whole:
                    assert not block(group, ts, members, values)
                else:
                    refs = refs_of(group.ref(NAMES[i]) for i in members)
                    for t, row in zip(ts, values, strict=True):
                        group.append(t, refs, row)
                if seals:
                    await store.seal()
            found.append(await read(store))
        finally:
            await store.close()
    assert found[0] == found[1]


async def test_ticks_out_of_bounds_are_refused_and_the_rest_is_stored(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    group = store.group("g")
    day = 86_400_000
    ts = [NOW_MS - 40 * day, NOW_MS - 30 * day, NOW_MS - 1000, NOW_MS, NOW_MS + 3_600_000]
    dropped = block(group, ts, [0, 1], np.ones((5, 2)))
    assert dropped == {"too_old": 4, "future": 2}
    assert store.stats.dropped == {"too_old": 4, "future": 2}
    assert {tuple(each) for each in (await read(store)).values()} == {(NOW_MS - 1000, NOW_MS)}
    await store.close()


async def test_two_connections_of_a_sender_fill_the_same_ticks(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    group = store.group("g")
    for start in range(0, 60, 10):
        ts = [NOW_MS - 100_000 + 1000 * i for i in range(start, start + 10)]
        for members in ([0, 1, 2], [3, 4, 5]):
            block(group, ts, members, np.full((10, 3), float(start)))
    assert group.head.ticks == 60
    assert store.head_points == 0
    assert len(store._intake._layouts) == 2, "each connection's members are written down once"
    await store.close()


async def test_series_with_times_of_their_own_do_not_blow_up_a_group(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    group = store.group("g")
    total = 0
    for second in range(20):
        for i in range(40):  # each at its own millisecond
            ts = [NOW_MS - 100_000 + 1000 * second + i]
            block(group, ts, [i], np.ones((1, 1)))
            total += 1
    assert store.head_cells < 40 * 40
    assert sum(map(len, (await read(store)).values())) == total
    await store.close()


async def test_pieces_of_a_large_tick_are_no_sign_of_a_sparse_group(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    group = store.group("g")
    for second in range(40):
        for piece in range(0, 40, 4):
            members = list(range(piece, piece + 4))
            block(group, [NOW_MS - 100_000 + 1000 * second], members, np.ones((1, 4)))
    assert store.head_points == 0
    assert store.head_cells == 40 * 40
    await store.close()


async def test_a_tick_that_meets_a_point_wins_in_a_block_too(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    group = store.group("g")
    block(group, [NOW_MS - 9000], [0, 1], np.zeros((1, 2)))
    put_points(store, [(NAMES[0], NOW_MS - 5000, 7.0)])
    block(group, [NOW_MS - 6000, NOW_MS - 5000, NOW_MS - 4000], [0, 1], np.full((3, 2), 2.0))
    found = await read(store)
    two = int(np.float64(2.0).view(np.uint64))
    assert found[NAMES[0]] == {
        NOW_MS - 9000: 0,
        NOW_MS - 6000: two,
        NOW_MS - 5000: two,
        NOW_MS - 4000: two,
    }
    await store.close()
