"""Decoded chunks are kept for readers who ask again, and never out of date."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import numpy as np
import pytest

from support.history import COUNTERS, DAY, GAUGES, LOOSE, MINUTE, History
from support.store import Samples, refs_of, unpack
from tachograph.config.selector import parse_selector
from tachograph.config.settings import RetentionPolicy, RetentionSettings
from tachograph.storage.decoded import DecodedCache
from tachograph.storage.delete import Eraser
from tachograph.storage.select import Querier

ALL = (-(1 << 62), 1 << 62)


async def read(h: History, text: str = "", *, cached: bool = True) -> Samples:
    matchers = parse_selector(text) if text else ()

    def job(querier: Querier) -> Samples:
        if cached:
            querier.use_cache()
        return unpack(querier.select(matchers, *ALL))

    return await h.store.read(job)


async def filled(tmp_path: Path, **settings: object) -> History:
    h = History(tmp_path, **settings)
    await h.open()
    await h.ticks("web", 40, MINUTE, seed=1)
    await h.ticks("points", 10, MINUTE, seed=2)
    h.points((labels, h.clock.now_ms() + 7, 1.5) for labels in LOOSE)
    await h.store.seal()
    return h


async def test_second_read_decodes_nothing(tmp_path: Path) -> None:
    h = await filled(tmp_path)
    assert await read(h) == h.expected
    decoded = h.store.decoded
    misses = decoded.misses
    assert misses
    assert decoded.bytes
    assert await read(h) == h.expected
    assert decoded.misses == misses
    assert decoded.hits == misses
    await h.close()


async def test_who_reads_once_leaves_no_trace(tmp_path: Path) -> None:
    h = await filled(tmp_path)
    assert await read(h, cached=False) == h.expected
    await h.next_day()
    await h.compact()
    assert len(h.store.decoded) == 0
    await h.close()


async def test_new_samples_and_compaction_are_seen(tmp_path: Path) -> None:
    h = await filled(tmp_path)
    await read(h)
    await h.ticks("web", 5, MINUTE, seed=3)
    h.late(GAUGES, 30 * MINUTE, 20, seed=4)
    assert await read(h) == h.expected, "from the head"
    await h.next_day()
    for seed in range(3):
        await h.compact()
        assert await read(h) == h.expected, "from the day's block"
        # Late points replace blocks, whose keys are then given out again.
        h.late(COUNTERS, DAY // 8, 20, seed=seed)
        assert await read(h) == h.expected
    await h.close()


async def test_deleted_samples_are_gone(tmp_path: Path) -> None:
    h = await filled(tmp_path)
    await read(h)
    series = h.store.index.find(GAUGES[0])
    assert series is not None
    times = sorted(h.expected[GAUGES[0]])
    middle_ms = times[len(times) // 2]
    await Eraser(h.store).delete(refs_of([series.ref]), ALL[0], middle_ms)
    h.expected[GAUGES[0]] = {t: v for t, v in h.expected[GAUGES[0]].items() if t > middle_ms}
    assert await read(h) == h.expected
    await h.close()


async def test_expired_samples_of_some_series_are_gone(tmp_path: Path) -> None:
    policy = RetentionPolicy(match='{__name__="level"}', raw_ms=DAY)
    h = await filled(
        tmp_path, retention=RetentionSettings(raw_ms=30 * DAY), retention_policies=(policy,)
    )
    await h.next_day()
    await h.compact()
    await read(h)
    await h.clock.advance(2 * DAY)
    await h.store.retention.run_once()
    kept = {labels: each for labels, each in h.expected.items() if labels.name != "level"}
    assert await read(h) == kept
    await h.close()


async def test_cached_arrays_cannot_be_changed(tmp_path: Path) -> None:
    h = await filled(tmp_path)

    def job(querier: Querier) -> None:
        querier.use_cache()
        for frame in querier.select(parse_selector("requests_total"), *ALL):
            with contextlib.suppress(ValueError):  # a view of what is kept is read-only
                frame.values[:] = 0

    await h.store.read(job)
    assert await read(h) == h.expected
    await h.close()


def test_least_recently_used_goes_first() -> None:
    cache = DecodedCache(100)
    owners = [object() for _ in range(4)]
    for owner in owners[:3]:
        cache.put(owner, "x", np.zeros(1), 30)
    assert cache.get(owners[0], "x") is not None
    cache.put(owners[3], "x", np.zeros(1), 30)
    assert cache.get(owners[1], "x") is None
    assert [cache.get(owners[n], "x") is not None for n in (0, 2, 3)] == [True, True, True]
    assert cache.bytes == 90


def test_what_is_too_large_is_not_kept() -> None:
    cache = DecodedCache(100)
    owner = object()
    cache.put(owner, "x", 1, 51)
    assert len(cache) == 0
    cache.put(owner, "x", 1, 50)
    cache.put(owner, "x", 2, 40)
    assert cache.bytes == 40
    assert cache.get(owner, "x") == 2


@pytest.mark.parametrize("size", [0, 10])
def test_another_object_with_the_same_key_is_another_entry(size: int) -> None:
    cache = DecodedCache(100)
    first, second = [1], [1]
    cache.put(first, "x", "first", size)
    assert cache.get(second, "x") is None
    cache.clear()
    assert cache.get(first, "x") is None


def test_what_nobody_uses_is_let_go() -> None:
    cache = DecodedCache(100)
    first, second = object(), object()
    cache.put(first, "x", 1, 10)
    cache.put(second, "x", 2, 10)
    cache.age()
    assert cache.get(first, "x") == 1
    cache.age()
    assert len(cache) == 1
    assert cache.bytes == 10
    cache.age()
    assert len(cache) == 0


async def test_running_store_lets_go_of_what_it_has_decoded(tmp_path: Path) -> None:
    h = await filled(tmp_path)
    await read(h)
    assert h.store.decoded.bytes
    task = asyncio.create_task(h.store.run())
    for _ in range(30):
        # A flush is what wakes it.
        h.put("web", h.clock.now_ms(), {GAUGES[0]: 1.0})
        await h.clock.advance(MINUTE)
        await h.store.committed()
    assert not h.store.decoded.bytes
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await h.close()
