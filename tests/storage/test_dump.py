"""Everything comes out of a dump, whatever it is cut into."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from support.clock import ManualClock
from support.history import DAY, MIDNIGHT, SECOND
from support.store import Samples, bits, put, put_points, read, store_settings
from tachograph.aggregation.compactor import Compactor
from tachograph.storage.dump import CELLS_MAX, Dump
from tachograph.storage.frame import STALE_NAN
from tachograph.storage.model import Labels, Series
from tachograph.storage.select import Querier
from tachograph.storage.store import Store

LEVELS = [Labels.of({"n": str(n)}, "level") for n in range(5)]
JOBS = [Labels.of({"n": str(n)}, "jobs") for n in range(3)]
PUSHED = Labels.of({}, "pushed")


async def filled(path: Path, *, points: bool) -> Store:
    """Three days of two groups with gaps; the first compacted, the last in the head."""
    clock = ManualClock(MIDNIGHT)
    store = Store(store_settings(path), clock)
    await store.open()
    for day in range(3):
        for step in range(1, 40):
            now_ms = MIDNIGHT + day * DAY + step * 600 * SECOND
            clock.step(now_ms - clock.now_ms())
            some = LEVELS if step % 7 else LEVELS[:2]
            tick = {labels: STALE_NAN if step == 20 else float(step) for labels in some}
            put(store.group("host"), now_ms, tick)
            put(store.group("web"), now_ms + 1, dict.fromkeys(JOBS, float(day)))
            if points and not step % 5:
                put_points(store, [(PUSHED, now_ms + 3, 1.0), (LEVELS[0], now_ms - 7, -0.0)])
        if day < 2:
            await store.seal()
            await Compactor(store, rest=0).run_once()
    return store


async def dumped(store: Store, dump: Dump) -> list[tuple[Labels, list[int], list[int]]]:
    """All stretches, each step from a snapshot of its own."""
    found = []
    while not dump.is_over:
        for series, ts_ms, values in await store.read(dump.step):
            found.append((series.labels, ts_ms.tolist(), bits(values)))
    return found


def joined(stretches: Sequence[tuple[Labels, list[int], list[int]]]) -> Samples:
    samples: Samples = {}
    for labels, times, values in stretches:
        known = samples.setdefault(labels, {})
        assert not known or max(known) < times[0], "times of a series rise"
        known.update(zip(times, values, strict=True))
    return samples


async def begun(
    store: Store, min_ms: int, max_ms: int, *, whole: bool, cells_max: int = CELLS_MAX
) -> Dump:
    def job(querier: Querier) -> Dump:
        series = sorted(querier.series(()), key=lambda one: one.labels, reverse=True)
        return Dump(querier, series, min_ms, max_ms, whole=whole, cells_max=cells_max)

    return await store.read(job)


@pytest.mark.parametrize("points", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("cells_max", [1, 50, 200, CELLS_MAX])
async def test_all_samples_come_out_once(
    tmp_path: Path, points: bool, whole: bool, cells_max: int
) -> None:
    store = await filled(tmp_path, points=points)
    bounds = [
        (-(1 << 62), 1 << 62),
        (MIDNIGHT + DAY, MIDNIGHT + 2 * DAY),
        (MIDNIGHT + DAY + 6_001 * SECOND, MIDNIGHT + DAY + 6_001 * SECOND),
        (0, 1),
    ]
    for min_ms, max_ms in bounds:
        dump = await begun(store, min_ms, max_ms, whole=whole, cells_max=cells_max)
        stretches = await dumped(store, dump)
        assert joined(stretches) == await read(store, (), min_ms, max_ms)
        assert dump.samples == sum(len(times) for _, times, _ in stretches)
        if whole:
            order = list(dict.fromkeys(labels for labels, _, _ in stretches))
            turns = [labels for labels, _, _ in stretches]
            assert turns == sorted(turns, key=order.index), "a series is left only once"
            assert order == sorted(order, reverse=True), "series come in the order given"
    await store.close()


async def test_series_without_samples_and_deleted_ones_are_passed_over(tmp_path: Path) -> None:
    store = await filled(tmp_path, points=False)
    whole = await read(store)

    def job(querier: Querier) -> Dump:
        gone = Series(4_000, Labels.of({}, "gone"), querier.series(())[0].kind, 0)
        return Dump(querier, [*querier.series(()), gone], -(1 << 62), 1 << 62)

    assert joined(await dumped(store, await store.read(job))) == whole
    await store.close()


async def test_what_comes_meanwhile_does_no_harm(tmp_path: Path) -> None:
    store = await filled(tmp_path, points=True)
    whole = await read(store)
    dump = await begun(store, -(1 << 62), 1 << 62, whole=True, cells_max=50)
    first = await store.read(lambda querier: dump.step(querier, 1))
    found = [(s.labels, t.tolist(), bits(v)) for s, t, v in first]
    assert len(found) == 1
    await store.seal()
    put_points(store, [(PUSHED, MIDNIGHT + 2 * DAY + 23_900 * SECOND, 5.0)])
    put(store.group("new"), MIDNIGHT + 2 * DAY + 23_900 * SECOND, {Labels.of({}, "new"): 1.0})
    found += await dumped(store, dump)
    samples = joined(found)
    assert all(whole[labels].items() <= samples[labels].items() for labels in whole)
    await store.close()
