"""Compaction: whatever has happened to a store, every tier is what its samples say."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from support.history import (
    COUNTERS,
    DAY,
    GAUGES,
    GROUPS,
    HOUR,
    LOOSE,
    MINUTE,
    SECOND,
    SECONDS,
    History,
)
from support.rollups import check_tiers
from support.store import ALL_MS, Samples, unpack
from tachograph.aggregation.compactor import Compactor
from tachograph.aggregation.rollup import Tier
from tachograph.storage.errors import StorageError
from tachograph.storage.frame import STALE_NAN
from tachograph.storage.keys import POINTS_GROUP
from tachograph.storage.select import Querier

EXAMPLES = int(os.environ.get("ROLLUP_EXAMPLES", "30"))
SERIES = [*COUNTERS, *SECONDS, *GAUGES, *LOOSE]

Step = tuple[str, tuple[Any, ...]]

a_seed = st.integers(0, 2**16)
a_group = st.sampled_from(sorted(GROUPS))
a_back = st.sampled_from([0, 2 * MINUTE, HOUR, 5 * HOUR, DAY, 2 * DAY])


def step(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(name), st.tuples(*arguments))


feeding = st.one_of(
    step(
        "ticks",
        a_group,
        st.integers(1, 40),
        st.sampled_from([10 * SECOND, 15 * SECOND, MINUTE, 7 * MINUTE, HOUR]),
        a_seed,
        st.sampled_from([1.0, 1.0, 0.7]),
    ),
    step("late", st.integers(0, len(SERIES) - 3), a_back, st.integers(1, 12), a_seed),
    step("late_ticks", a_group, a_back, a_seed),
)
working = st.one_of(
    step("pass", st.sampled_from([MINUTE, HOUR, 7 * HOUR, DAY])),
    step("flush"),
    step("seal"),
    step("compact"),
    step("compact_unsealed"),
    step("compact_failing", st.integers(0, 12), st.booleans()),
    step("retain"),
    step("reopen"),
    step("crash"),
)


async def take(h: History, step: Step) -> None:
    match step:
        case "ticks", (group, count, every_ms, seed, share):
            await h.ticks(group, count, every_ms, seed, share)
        case "late", (series, back_ms, count, seed):
            h.late(SERIES[series : series + 3], back_ms, count, seed)
        case "late_ticks", (group, back_ms, seed):
            # Of a source that catches up: between those that are there.
            first_ms = (h.clock.now_ms() - back_ms) // SECOND * SECOND + 250
            rng = np.random.default_rng(seed)
            for n in range(5):
                h.tick(group, first_ms + n * MINUTE, rng)
        case "pass", (ms,):
            await h.clock.advance(ms)
        case "flush", ():
            await h.store.flush()
        case "seal", ():
            await h.store.seal()
        case "compact", ():
            await h.compact()
            await h.check_tidy()
        case "compact_unsealed", ():
            await Compactor(h.store, rest=0).run_once()
        case "compact_failing", (nth, after):
            await h.store.seal()
            h.writes.fail(nth, after=after)
            with contextlib.suppress(StorageError):
                await Compactor(h.store, rest=0).run_once()
            h.writes.heal()
        case "retain", ():
            await h.store.retention.run_once()
        case "reopen", ():
            await h.reopen()
        case "crash", ():
            await h.crash()
        case _:
            raise AssertionError(step)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a shrunk history takes minutes to find
)
@given(
    steps=st.lists(st.one_of(feeding, working), min_size=3, max_size=14),
    tiers=st.sampled_from([[Tier.M1], [Tier.M5, Tier.D1], [Tier.H1]]),
)
def test_every_tier_equals_the_samples_whatever_has_happened(
    steps: list[Step], tiers: list[Tier]
) -> None:
    async def run(root: Path) -> None:
        h = History(root)
        await h.open()
        try:
            for step in steps:
                await take(h, step)
                await h.look(tiers)
            await h.check()
            await h.next_day()
            await h.compact()
            await h.check_tidy()
            await h.check()
        finally:
            await h.close()

    with tempfile.TemporaryDirectory() as root:
        asyncio.run(run(Path(root)))


# --- Interrupted anywhere ----------------------------------------------------------------------


async def two_days(h: History) -> None:
    """A closed day of ticks and points, sealed in several parts, and some of the next."""
    for seed in range(3):
        for group in GROUPS:
            await h.ticks(group, 12, 4 * MINUTE, seed)
        h.late(SERIES, HOUR, 10, seed)
        await h.store.seal()


async def late_again(h: History) -> None:
    """What makes compacted days dirty: points, and ticks of a whole group."""
    h.late([*LOOSE, COUNTERS[0]], 12 * HOUR, 10, 7)
    await take(h, ("late_ticks", ("host", 12 * HOUR, 3)))
    await h.store.seal()


@pytest.mark.parametrize("after", [False, True], ids=["before a write", "after it"])
@pytest.mark.parametrize("again", [False, True], ids=["first time", "second time"])
async def test_interrupted_anywhere_all_is_right_and_the_next_run_ends_it(
    tmp_path: Path, again: bool, after: bool
) -> None:
    base = History(tmp_path / "base")
    await base.open()
    await two_days(base)
    await base.next_day()
    if again:
        await base.compact()
        await late_again(base)
    await base.close()

    for nth in itertools.count():
        h = await base.branch(tmp_path / f"{nth}")
        h.writes.fail(nth, after=after)
        with contextlib.suppress(StorageError):
            await Compactor(h.store, rest=0).run_once()
        interrupted = h.writes.failed
        h.writes.heal()
        await h.look([Tier.M5, Tier.D1])
        if nth % 2:
            await h.crash()
            await h.look([Tier.H1])
        await Compactor(h.store, rest=0).run_once()
        await h.look(Tier)
        await h.check_tidy()
        await h.close()
        if not interrupted:
            assert nth > 8, "each of the job's writes has failed once"
            break


async def test_compaction_again_changes_nothing(tmp_path: Path) -> None:
    h = History(tmp_path)
    await h.open()
    await two_days(h)
    await h.next_day()
    await h.compact()

    def rows(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
        return [
            row
            for table in ("chunk", "block", "rollup")
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY id")
        ]

    before = await h.store.writer.run(rows)
    assert await h.compact() == []
    assert await h.store.writer.run(rows) == before
    await h.close()


async def test_compaction_leaves_the_cache_to_those_who_ask_again(tmp_path: Path) -> None:
    h = History(tmp_path)
    await h.open()
    await two_days(h)
    await h.next_day()
    await h.compact()
    assert h.store.decoded.bytes < 10_000, "but for the lists of who is in a block"
    await h.close()


async def test_group_has_one_block_of_a_compacted_day_and_a_series_one_chunk(
    tmp_path: Path,
) -> None:
    h = History(tmp_path)
    await h.open()
    await two_days(h)
    await h.next_day()
    await h.compact()
    await late_again(h)
    await h.compact()
    for day in h.store.ledger.catalogue.days:
        groups = [block.group for block in h.store.days.blocks(day) if block.group != POINTS_GROUP]
        assert len(groups) == len(set(groups))
    await h.close()


async def test_many_late_points_leave_few_blocks(tmp_path: Path) -> None:
    """Each run on late points of some series adds a block beside that of the others."""
    h = History(tmp_path)
    await h.open()
    await h.ticks("points", 3, MINUTE)
    h.late(LOOSE, MINUTE, 30, 0)
    await h.next_day()
    await h.compact()
    day = min(h.store.ledger.catalogue.days)
    for n in range(40):
        h.points([(LOOSE[n % 3], h.clock.now_ms() - 2 * HOUR - n, float(n))])
        await h.compact()
        assert len(h.store.days.blocks(day)) < 12
    await h.check()
    await h.check_tidy()
    await h.close()


# --- Rollups are never replaced by less ---------------------------------------------------------


async def test_damaged_chunk_takes_nothing_from_the_rollups_that_are_there(
    tmp_path: Path,
) -> None:
    h = History(tmp_path)
    await h.open()
    await two_days(h)
    await h.next_day()
    await h.compact()
    await h.store.writer.run(
        lambda c: c.execute("UPDATE chunk SET crc = crc + 1 WHERE id & 0xFFFFFFFF = 1")
    )
    await h.store.read(lambda q: q.select((), *ALL_MS))  # it is found, and set aside
    assert h.store.stats.corrupt["chunk"]
    series = h.store.index.get(1)
    assert series is not None
    expected = {k: v for k, v in h.expected.items() if k != series.labels}
    kept = {series.labels: dict(h.expected[series.labels])}
    h.points([(series.labels, h.clock.now_ms() - 3 * HOUR + 1, 5.0)])
    await h.compact()
    await h.store.read(lambda q: check_tiers(q, {**expected, **kept}))
    await h.check_tidy()
    await h.close()


async def test_marker_that_takes_the_place_of_the_only_sample_ends_its_rollup(
    tmp_path: Path,
) -> None:
    h = History(tmp_path)
    await h.open()
    now_ms = h.clock.now_ms()
    h.points([(LOOSE[0], now_ms, 4.0), (LOOSE[1], now_ms, 4.0)])
    await h.next_day()
    await h.compact()
    h.points([(LOOSE[0], now_ms, STALE_NAN)])
    await h.compact()
    await h.check()
    rows = await h.store.writer.run(lambda c: c.execute("SELECT count(*) FROM rollup").fetchone())
    assert rows == (4,)
    await h.close()


# --- Beside everything else --------------------------------------------------------------------


async def test_nothing_is_lost_beside_a_compaction(tmp_path: Path) -> None:
    """Ticks, late points, seals and reads go on while a day is compacted, and compacted again."""
    h = History(tmp_path)
    await h.open()
    await two_days(h)
    await h.next_day()
    await h.store.seal()
    running = True

    async def append() -> None:
        seed = 0
        while running:
            seed += 1
            await h.ticks("web", 2, 10 * SECOND, seed)
            h.late([*LOOSE, *COUNTERS], 3 * HOUR, 2, seed)
            await asyncio.sleep(0.002)

    async def flush_and_seal() -> None:
        while running:
            await h.store.flush()
            await asyncio.sleep(0.005)
            await h.store.sealer.seal_due()
            await h.store.seal()

    async def look() -> None:
        while running:
            now = {labels: dict(each) for labels, each in h.expected.items()}

            def job(querier: Querier, now: Samples = now) -> None:
                found = unpack(querier.select((), *ALL_MS))
                for labels, samples in now.items():
                    assert samples.items() <= found[labels].items()
                # Tiers and raw samples of one read agree with each other.
                check_tiers(querier, found, [Tier.M5])

            await h.store.read(job)

    async with asyncio.TaskGroup() as tasks:
        for work in (append, flush_and_seal, look):
            tasks.create_task(work())
        for _ in range(4):
            assert await Compactor(h.store, rest=0).run_once()
            await asyncio.sleep(0.02)
            await h.store.seal()
        running = False
    await h.compact()
    await h.check()
    await h.check_tidy()
    await h.close()


async def test_commits_do_not_wait_for_a_compaction(tmp_path: Path) -> None:
    h = History(tmp_path)
    await h.open()
    await h.ticks("web", 3, MINUTE)
    running = asyncio.create_task(h.store.run())
    async with h.store.days.lock:  # as the daily job holds it
        h.tick("web", h.clock.now_ms() + HOUR // 60, np.random.default_rng(1))
        done = asyncio.create_task(h.store.committed())
        async with asyncio.timeout(30):  # else it waits for the lock, that is for ever
            while not done.done():
                await h.clock.advance(MINUTE)
                await asyncio.sleep(0.001)
        await done
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await h.close()
