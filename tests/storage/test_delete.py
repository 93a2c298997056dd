"""What is deleted is gone from samples and rollups alike, and nothing else is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import numpy as np
import pytest

from support.history import COUNTERS, DAY, GAUGES, HOUR, LOOSE, MIDNIGHT, MINUTE, History
from support.store import ALL_MS, refs_of
from tachograph.storage.current import NEVER_MS
from tachograph.storage.delete import Eraser
from tachograph.storage.frame import is_absent
from tachograph.storage.model import Labels

#: Middles of a tick's interval, so that no border is hit by luck.
NOON = MIDNIGHT + 12 * HOUR + 7


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[History]:
    history = History(tmp_path)
    await history.open()
    yield history
    await history.close()


async def fill(h: History, *, compact: bool) -> None:
    """Three days of ticks and points, the last one open; some of it late."""
    for seed in range(3):
        await h.ticks("web", 20, HOUR, seed)
        await h.ticks("host", 3, MINUTE, seed)
        await h.ticks("points", 15, MINUTE, seed)
        h.late([*LOOSE, *COUNTERS], 2 * HOUR, 12, seed)
        if seed < 2:
            await h.next_day()
            if compact:
                await h.compact()


async def delete(h: History, which: Iterable[Labels], min_ms: int, max_ms: int) -> None:
    which = list(which)
    found = [h.store.index.find(labels) for labels in which]
    refs = np.sort(refs_of(series.ref for series in found if series is not None))
    await Eraser(h.store).delete(refs, min_ms, max_ms)
    for labels in which:
        kept = h.expected.get(labels, {})
        h.expected[labels] = {t: v for t, v in kept.items() if not min_ms <= t <= max_ms}


RANGES = {
    "everything": ALL_MS,
    "an hour": (NOON, NOON + HOUR),
    "a day and a half": (MIDNIGHT + DAY // 2 + 7, MIDNIGHT + 2 * DAY),
    "whole days": (MIDNIGHT - DAY + 1, MIDNIGHT + DAY),
    "until now": (-1, MIDNIGHT + 30 * DAY),
    "before all of it": (0, 1000),
}


@pytest.mark.parametrize("name", [*RANGES, "everything, not compacted", "an hour, not compacted"])
async def test_samples_and_rollups_of_a_range_are_gone(h: History, name: str) -> None:
    await fill(h, compact="not" not in name)
    await delete(h, [COUNTERS[1], GAUGES[1], LOOSE[0]], *RANGES[name.split(",")[0]])
    await h.check()
    await h.compact()
    await h.check()
    await h.check_tidy()
    await h.reopen()
    await h.check()


async def test_series_goes_on_after_it_was_deleted(h: History) -> None:
    await fill(h, compact=True)
    before = h.store.index.find(COUNTERS[0])
    await delete(h, COUNTERS, *ALL_MS)
    assert h.store.index.find(COUNTERS[0]) is None
    assert before is not None
    assert h.store.current.get(refs_of([before.ref]))[0][0] == NEVER_MS
    await h.ticks("web", 3, MINUTE)
    assert h.store.index.find(COUNTERS[0]) == before
    await h.check()
    await h.crash()
    await h.check()


async def test_deleted_series_do_not_come_back_with_a_restart(h: History) -> None:
    await fill(h, compact=True)
    await delete(h, COUNTERS, *ALL_MS)
    await h.crash()
    assert h.store.index.find(COUNTERS[0]) is None
    await h.check()


async def test_sample_that_comes_meanwhile_stays(h: History) -> None:
    await fill(h, compact=False)
    run, appended = h.store.writer.run, []

    async def interrupted(job: object) -> object:
        result = await run(job)  # type: ignore[arg-type]
        if not appended and h.store.sealer.lock.locked() and not h.store.head_cells:
            appended.append(True)
            await h.ticks("web", 1, MINUTE, 7)
        return result

    h.store.writer.run = interrupted  # type: ignore[method-assign,assignment]
    kept_ms = h.clock.now_ms()
    await delete(h, COUNTERS, -1, kept_ms)
    h.store.writer.run = run  # type: ignore[method-assign]
    assert appended
    await h.check()


async def test_rollups_of_a_day_whose_samples_expired_go_as_a_whole(h: History) -> None:
    await fill(h, compact=True)
    # The samples of the first days expire; their rollups stay.
    await h.clock.advance(15 * DAY)
    await h.store.retention.run_once()
    assert not {day for day in h.store.ledger.catalogue.days if day * DAY < MIDNIGHT}
    series = h.store.index.find(COUNTERS[0])
    assert series is not None
    await Eraser(h.store).delete(refs_of([series.ref]), NOON - DAY, NOON - DAY + HOUR)
    day = (NOON - DAY) // DAY
    rows = await h.store.read(
        lambda q: [ref for _, ref, _ in q.rollup_rows(1, refs_of(range(100)), [day])]
    )
    assert rows
    assert series.ref not in rows


async def test_cells_of_deleted_samples_hold_nothing(h: History) -> None:
    await fill(h, compact=False)
    await delete(h, [COUNTERS[0]], NOON, NOON + HOUR)
    series = h.store.index.find(COUNTERS[0])
    assert series is not None
    refs = refs_of([series.ref])
    frames = await h.store.read(lambda q: list(q.frames(refs, NOON, NOON + HOUR)))
    assert all(is_absent(frame.values).all() for frame in frames)
