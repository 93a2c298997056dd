from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.clock import ManualClock
from support.exporter import Exporter
from support.sink import MemorySink
from tachograph.agent.collectors.schedule import Schedule
from tachograph.agent.collectors.scrape import Health, ScrapeSource
from tachograph.agent.collectors.scrape_http import open_session
from tachograph.agent.collectors.scrape_pool import FILES_CHECK_S, ScrapePool
from tachograph.config.errors import ConfigError
from tachograph.config.prometheus import (
    FileSdConfig,
    GlobalSettings,
    RelabelConfig,
    ScrapeConfig,
    StaticConfig,
)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as session:
        yield session


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def pool(sink: MemorySink, session: aiohttp.ClientSession) -> ScrapePool:
    return ScrapePool(sink, ManualClock(), session)


def job(*targets: str, name: str = "j", **settings: Any) -> ScrapeConfig:
    labels = settings.pop("labels", {})
    static = (StaticConfig(targets=targets, labels=labels),) if targets else ()
    return ScrapeConfig(job_name=name, static_configs=static, **settings).resolved(GlobalSettings())


def names(sources: list[ScrapeSource]) -> list[str]:
    return [source.name for source in sources]


async def test_each_target_has_a_source_named_after_it(pool: ScrapePool) -> None:
    sources = await pool.apply([job("a:1", "b:1"), job("a:1", name="k")])
    assert names(sources) == ["scrape/j/a:1", "scrape/j/b:1", "scrape/k/a:1"]
    assert pool.sources == sources


async def test_targets_of_equal_instance_have_names_of_their_own(pool: ScrapePool) -> None:
    twice = job("a:1", name="j", metrics_path="/other", labels={"job": "j", "path": "x"})
    one, other = names(await pool.apply([job("a:1"), ScrapeConfig(
        job_name="k", static_configs=twice.static_configs, metrics_path="/other",
    ).resolved(GlobalSettings())]))  # fmt: skip
    assert one == "scrape/j/a:1"
    assert other.startswith("scrape/j/a:1/")
    # The one that stays keeps its name, even if the plain one is free now.
    [left] = names(await pool.apply([ScrapeConfig(
        job_name="k", static_configs=twice.static_configs, metrics_path="/other",
    ).resolved(GlobalSettings())]))  # fmt: skip
    assert left == other


async def test_the_very_same_target_in_two_jobs_is_two_sources(pool: ScrapePool) -> None:
    jobs = [job("a:1", name=name, labels={"job": "x"}) for name in ("j", "k", "l")]
    assert len(set(names(await pool.apply(jobs)))) == 3


async def test_reload_keeps_sources_that_have_not_changed(pool: ScrapePool) -> None:
    a, b = await pool.apply([job("a:1", "b:1")])
    after = await pool.apply([job("b:1", "c:1")])
    assert after[0] is b
    assert names(after) == ["scrape/j/b:1", "scrape/j/c:1"]
    assert a not in after


@pytest.mark.parametrize(
    "changed",
    [
        {"scrape_interval_ms": 5_000, "scrape_timeout_ms": 5_000},
        {"honor_labels": True},
        {"sample_limit": 5},
        {"labels": {"zone": "x"}},
        {"metrics_path": "/x"},
        {"params": {"a": ("b",)}},
        {"metric_relabel_configs": (RelabelConfig(regex="x", action="labeldrop"),)},
    ],
)
async def test_changed_settings_make_a_new_source_of_the_same_name(
    pool: ScrapePool, changed: dict[str, Any]
) -> None:
    [old] = await pool.apply([job("a:1")])
    [new] = await pool.apply([job("a:1", **changed)])
    assert new is not old
    assert new.name == old.name


async def test_relabelling_that_changes_nothing_keeps_the_source(pool: ScrapePool) -> None:
    [old] = await pool.apply([job("a:1")])
    harmless = RelabelConfig(source_labels=("none",), regex="x", action="drop")
    [new] = await pool.apply([job("a:1", relabel_configs=(harmless,))])
    assert new is old


async def test_wrong_relabelling_changes_nothing(pool: ScrapePool) -> None:
    before = await pool.apply([job("a:1")])
    with pytest.raises(ConfigError, match="target_label is missing"):
        await pool.apply([job("b:1", relabel_configs=(RelabelConfig(),))])
    assert pool.sources == before


async def test_removed_target_ends_and_a_changed_one_goes_on(
    pool: ScrapePool, sink: MemorySink
) -> None:
    async with Exporter("a 1\n") as one, Exporter("a 1\n") as two:
        for source in await pool.apply([job(one.address, two.address)]):
            await source.collect(1000)
        [kept] = await pool.apply([job(two.address, honor_labels=True)])
        pool.end_removed()
        await kept.collect(2000)
    gone = sink.group(f"scrape/j/{one.address}").ticks
    assert [len(tick) for _, tick in gone] == [6, 6]
    assert all(value != value for value in gone[-1][1].values())
    stays = sink.group(f"scrape/j/{two.address}").ticks
    assert all(value == value for _, tick in stays for value in tick.values())
    pool.end_removed()
    assert len(sink.group(f"scrape/j/{one.address}").ticks) == 2


async def test_target_that_is_back_before_its_end_was_written_goes_on(
    pool: ScrapePool, sink: MemorySink
) -> None:
    async with Exporter("a 1\n") as one:
        [source] = await pool.apply([job(one.address)])
        await source.collect(1000)
        assert await pool.apply([]) == []
        [source] = await pool.apply([job(one.address)])
        pool.end_removed()
        await source.collect(2000)
    ticks = sink.group(f"scrape/j/{one.address}").ticks
    assert [ts_ms for ts_ms, _ in ticks] == [1000, 2000]
    assert all(value == value for _, tick in ticks for value in tick.values())


async def test_target_limit_fails_every_target_of_the_job(pool: ScrapePool) -> None:
    sources = await pool.apply([job("a:1", "b:1", target_limit=1), job("c:1", name="k")])
    text = "target_limit exceeded (number of targets: 2, limit: 1)"
    assert [source.forced_error for source in sources] == [text, text, ""]
    sources = await pool.apply([job("a:1", "b:1", target_limit=2)])
    assert [source.forced_error for source in sources] == ["", ""]


async def test_view_shows_active_and_dropped_targets(pool: ScrapePool) -> None:
    drop = RelabelConfig(source_labels=("__address__",), regex="d.*", action="drop")
    async with Exporter("a 1\n") as exporter:
        sources = await pool.apply(
            [job(exporter.address, "d:1", "d:2", relabel_configs=(drop,)), job("u/x", name="k")]
        )
        await sources[0].collect(5000)
    [(target, status)] = pool.active()
    assert target.url.path == "/metrics"
    assert (status.health, status.last_scrape_ms, status.last_error) == (Health.UP, 5000, "")
    assert [(name, labels.get("__address__")) for name, labels in pool.dropped()] == [
        ("j", "d:1"),
        ("j", "d:2"),
    ]
    assert pool.dropped_count() == {"j": 2, "k": 0}
    assert pool.problems() == ["k: u/x: 'u/x' is not a valid hostname"]
    assert pool.stats.scrapes == 1


# --- files ------------------------------------------------------------------------------------


def write(path: Path, *targets: str) -> None:
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(f"- targets: [{', '.join(repr(target) for target in targets)}]\n")
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))


async def test_targets_of_files_come_and_go(pool: ScrapePool, tmp_path: Path) -> None:
    write(tmp_path / "t.yml", "a:1")
    files = FileSdConfig(files=(str(tmp_path / "*.yml"),))
    [a] = await pool.apply([job(file_sd_configs=(files,))])
    assert a.target.discovered.get("__meta_filepath") == str(tmp_path / "t.yml")
    assert not await pool.refresh()
    write(tmp_path / "t.yml", "a:1", "b:1")
    assert await pool.refresh()
    assert names(pool.sources) == ["scrape/j/a:1", "scrape/j/b:1"]
    assert pool.sources[0] is a
    (tmp_path / "t.yml").write_text("- wrong\n")
    assert not await pool.refresh()
    assert len(pool.problems()) == 1
    # A reload doesn't forget what the file said while it was good.
    assert len(await pool.apply([job(file_sd_configs=(files,))])) == 2


async def test_without_files_there_is_nothing_to_refresh(pool: ScrapePool) -> None:
    await pool.apply([job("a:1")])
    assert not await pool.refresh()


async def test_watcher_puts_new_targets_onto_the_schedule_and_ends_the_old(
    sink: MemorySink, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    clock = ManualClock()
    pool = ScrapePool(sink, clock, session)
    schedule = Schedule(clock, sink)
    changes: asyncio.Queue[list[str]] = asyncio.Queue()

    async def on_change(sources: list[ScrapeSource]) -> None:
        await schedule.replace(sources)
        changes.put_nowait(names(sources))

    async with Exporter("a 1\n") as exporter:
        write(tmp_path / "t.yml", exporter.address)
        files = FileSdConfig(files=(str(tmp_path / "t.yml"),))
        [source] = await pool.apply([job(file_sd_configs=(files,))])
        await schedule.replace(pool.sources)
        await source.collect(clock.now_ms())
        watcher = asyncio.create_task(pool.run(on_change))
        write(tmp_path / "t.yml", "b:1")
        await clock.advance(round(FILES_CHECK_S * 1000))
        assert await changes.get() == ["scrape/j/b:1"]
        # The end is written after the callback has returned, and before the next look.
        await clock.advance(1)
        watcher.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watcher
    assert [status.name for status in schedule.status()] == ["scrape/j/b:1"]
    assert len(sink.group(source.name).ticks) == 2
    assert all(value != value for value in sink.group(source.name).last.values())
