"""What is in the head and in no journal yet, while others work on disk."""

from __future__ import annotations

from pathlib import Path

from support.clock import ManualClock
from support.store import bits, crash_copy, put, put_points, read, store_settings
from tachograph.aggregation.compactor import Compactor
from tachograph.storage.model import Labels
from tachograph.storage.store import Store

OLD, LOST, NEXT = (Labels.of({}, name) for name in ("old", "lost", "next"))
HOUR = 3_600_000


async def test_number_of_a_series_lost_in_a_crash_brings_no_samples_along(tmp_path: Path) -> None:
    clock = ManualClock()
    store = Store(store_settings(tmp_path / "data"), clock)
    await store.open()
    yesterday = clock.now_ms() - HOUR
    clock.step(-HOUR)
    put(store.group("g"), yesterday, {OLD: 1.0})
    clock.step(HOUR + 1_000)
    await store.seal()
    # Series that the daily job meets in the head, before any flush.
    put(store.group("g"), yesterday + 1, {LOST: 5.0})
    put_points(store, [(LOST, yesterday + 2, 6.0)])
    assert await Compactor(store, rest=0).run_once()
    crash_copy(store, tmp_path / "copy")
    await store.close()

    again = Store(store_settings(tmp_path / "copy"), clock)
    await again.open()
    group = again.group("g")
    known = {series.labels for series in again.index.series()}
    group.ref(NEXT)
    put(group, clock.now_ms(), {NEXT: 7.0})
    found = await read(again)
    assert found.pop(OLD) == {yesterday: bits([1.0])[0]}
    assert found.pop(NEXT) == {clock.now_ms(): bits([7.0])[0]}
    assert set(found) <= known
    await again.close()
