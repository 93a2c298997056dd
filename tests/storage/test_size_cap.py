"""``storage.max_bytes``: what counts, what goes, and what stays."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from support.clock import ManualClock
from support.history import DAY, HOUR, MIDNIGHT, MINUTE
from support.kept import Open, noise, raw_days, rollup_days
from support.rollups import orphans
from support.store import put, put_points
from tachograph.storage.disk_usage import own_sizes
from tachograph.storage.model import Labels
from tachograph.storage.sqlite import LOG_BYTES_KEPT, open_reader
from tachograph.storage.sweep import cut_log, used_bytes

A = Labels.of({"job": "web"}, "up")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(MIDNIGHT + HOUR)


async def test_oldest_raw_days_go_for_size_and_the_file_shrinks(
    opened: Open, clock: ManualClock
) -> None:
    store = await opened(max_bytes=10 << 20)
    await noise(store, clock, 20, 80)
    await store.writer.run(lambda c: c.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
    before = store.path.stat().st_size
    await store.retention.run_once()
    await store.writer.run(lambda c: c.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
    after = store.path.stat().st_size
    assert before > 14 << 20
    assert after <= 10 << 20
    days = raw_days(store)
    assert days == list(range(days[0], 20)), "the newest stay"
    assert len(days) >= 2
    # What is gone as raw is there in the tiers.
    assert await rollup_days(store, "1m") == list(range(20))
    assert await orphans(store) == 0
    assert store.stats.retention_bytes > 0


async def test_two_newest_days_stay_whatever_the_size(
    opened: Open, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = await opened(max_bytes=1)
    await noise(store, clock, 6)
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    await store.seal()
    with caplog.at_level(logging.ERROR):
        await store.retention.run_once()
    assert raw_days(store) == [5, 6], "yesterday and today"
    for tier in ("1m", "5m", "1h"):
        assert await rollup_days(store, tier) == [5]
    assert await rollup_days(store, "1d") == list(range(6)), "a few bytes, and they tell years"
    assert "nothing may go but the two newest days" in caplog.text


async def test_other_files_of_the_directory_count(opened: Open, clock: ManualClock) -> None:
    store = await opened(max_bytes=64 << 20)
    await noise(store, clock, 4)
    await store.retention.run_once()
    assert raw_days(store) == [0, 1, 2, 3]
    (store.directory / "state.db").write_bytes(bytes(64 << 20))
    await store.retention.run_once()
    assert raw_days(store) == [3]


async def test_files_that_are_not_ours_do_not_count(opened: Open, clock: ManualClock) -> None:
    store = await opened(max_bytes=64 << 20)
    await noise(store, clock, 4)
    for name in ("samples.db.damaged-1767571200", "notes.txt", "snapshots/now/samples.db"):
        file = store.directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(64 << 20))
    await store.retention.run_once()
    assert raw_days(store) == [0, 1, 2, 3]


async def test_all_files_of_the_store_are_within_the_cap(opened: Open, clock: ManualClock) -> None:
    cap = 10 << 20
    store = await opened(max_bytes=cap, ballast_bytes=1 << 20)
    await noise(store, clock, 20, 80)
    await store.retention.run_once()
    sizes = own_sizes(store.directory)
    assert {"samples.db", "samples.db-wal", "ballast"} <= set(sizes)
    await cut_log(store.writer)
    assert sum(own_sizes(store.directory).values()) <= cap
    assert len(raw_days(store)) >= 2


async def test_log_is_cut_before_a_day_goes_for_it(opened: Open, clock: ManualClock) -> None:
    store = await opened(max_bytes=64 << 20)
    await noise(store, clock, 4)
    used = await store.retention._used()
    log = (store.directory / "samples.db-wal").stat().st_size
    assert log > 1 << 20
    store.retention.configure(replace(store.settings, max_bytes=used - 1))
    await store.retention.run_once()
    assert raw_days(store) == [0, 1, 2, 3]


async def test_log_that_a_reader_holds_counts_up_to_what_it_may_keep(
    opened: Open, clock: ManualClock
) -> None:
    store = await opened(max_bytes=1 << 30)
    await noise(store, clock, 3)
    reader = open_reader(store.path)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM meta").fetchall()
    await store.writer.run(lambda c: c.execute("CREATE TABLE filler (data)").close())
    for _ in range(3):  # what a reader keeps from being carried over
        await store.writer.run(
            lambda c: c.execute("INSERT INTO filler VALUES (zeroblob(8000000))").close()
        )
        await store.writer.run(lambda c: c.execute("DELETE FROM filler").close())
    sizes = own_sizes(store.directory)
    assert sizes["samples.db-wal"] > LOG_BYTES_KEPT
    pages, _ = await used_bytes(store.writer)
    others = sizes.get("state.db", 0) + sizes["lock"]
    cap = pages + others + LOG_BYTES_KEPT
    assert await store.retention._used() == cap
    store.retention.configure(replace(store.settings, max_bytes=cap))
    await store.retention.run_once()
    assert raw_days(store) == [0, 1, 2]
    reader.close()


async def test_day_that_is_not_compacted_goes_last(opened: Open, clock: ManualClock) -> None:
    store = await opened(max_bytes=2 << 20)
    put(store.group("g"), clock.now_ms(), {A: 1.0})
    await noise(store, clock, 6)
    put_points(store, [(A, clock.now_ms() - 6 * DAY + MINUTE, 1.0)])
    await store.seal()
    await store.retention.run_once()
    days = raw_days(store)
    assert days[0] == 0
    assert 1 not in days
