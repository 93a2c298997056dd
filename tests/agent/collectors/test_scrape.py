from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from support.clock import ManualClock
from support.exporter import OPENMETRICS, Exporter, gzipped
from support.sink import MemoryGroup, MemorySink
from tachograph.agent.collectors.relabel import compile_steps
from tachograph.agent.collectors.scrape import (
    INLINE_BYTES_COLD,
    Health,
    OnExemplars,
    ScrapeSource,
    ScrapeStats,
    ScrapeTools,
)
from tachograph.agent.collectors.scrape_http import Fetcher, open_session
from tachograph.agent.collectors.scrape_page import PageRules
from tachograph.agent.collectors.scrape_series import REFUSED_RETRY_MAX
from tachograph.agent.collectors.source import Source
from tachograph.agent.collectors.targets import discover, static_groups
from tachograph.agent.ingest.exposition import Exemplar
from tachograph.config.prometheus import GlobalSettings, ScrapeConfig, StaticConfig
from tachograph.storage.errors import SeriesRefused, StoreUnavailable
from tachograph.storage.frame import STALE_NAN, FloatArray, RefArray, is_stale
from tachograph.storage.model import METRIC_NAME, Kind, Labels, Metadata, MetricType

REPORT = [
    "scrape_duration_seconds",
    "scrape_samples_post_metric_relabeling",
    "scrape_samples_scraped",
    "scrape_series_added",
    "up",
]


class Group(MemoryGroup):
    """A group that keeps values as they are, and may be out of order."""

    def __init__(self, sink: Store, name: str) -> None:
        super().__init__(sink, name)
        self.raw: list[tuple[int, RefArray, FloatArray]] = []
        self.store = sink

    def append(self, ts_ms: int, refs: RefArray, values: FloatArray) -> None:
        if self.store.is_broken:
            raise StoreUnavailable("disk full")
        assert len(set(refs.tolist())) == len(refs), "a series twice in one tick"
        super().append(ts_ms, refs, values)
        self.raw.append((ts_ms, refs.copy(), values.copy()))


class Store(MemorySink):
    """A store that can be broken, and refuses what ``allowed`` does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.is_broken = False
        self.allowed: set[str] | None = None
        self.refusals = 0

    def register(self, labels: Labels, kind: Kind) -> int:
        if self.allowed is not None and labels not in self.refs and labels.name not in self.allowed:
            self.refusals += 1
            raise SeriesRefused("series", "too many")
        return super().register(labels, kind)

    def group(self, name: str) -> Group:
        group = self.groups.setdefault(name, Group(self, name))
        assert isinstance(group, Group)
        return group


class Bench:
    """A target, a source and a store; ``scrape`` makes the next pass."""

    def __init__(self, exporter: Exporter, session: aiohttp.ClientSession) -> None:
        self.exporter, self.session = exporter, session
        self.store, self.clock, self.stats = Store(), ManualClock(), ScrapeStats()
        self.ts_ms = 0
        self.source = self.make()

    def make(
        self,
        *,
        extra_report: bool = False,
        on_exemplars: OnExemplars | None = None,
        labels: dict[str, str] | None = None,
        **settings: Any,
    ) -> ScrapeSource:
        static = StaticConfig(targets=(self.exporter.address,), labels=labels or {})
        settings = {"scrape_interval_ms": 60_000, "scrape_timeout_ms": 10_000} | settings
        config = ScrapeConfig(job_name="j", static_configs=(static,), **settings)
        config = config.resolved(GlobalSettings())
        [target] = discover(config, (), static_groups(config)).targets
        self.source = ScrapeSource(
            "scrape/j/i",
            target,
            Fetcher(self.session, config, config.body_size_limit_bytes),
            PageRules.of(config, compile_steps(config.metric_relabel_configs)),
            ScrapeTools(self.store, self.clock, self.stats, extra_report, on_exemplars),
            honor_timestamps=config.honor_timestamps,
        )
        return self.source

    async def scrape(self, page: str | None = None) -> dict[str, float | str]:
        """Return the tick by metric name and own labels; a stale marker is "stale"."""
        if page is not None:
            self.exporter.page = page
        self.ts_ms += 60_000
        await self.source.collect(self.ts_ms)
        return self.tick()

    def tick(self) -> dict[str, float | str]:
        ts_ms, refs, values = self.store.group("scrape/j/i").raw[-1]
        assert ts_ms == self.ts_ms
        names = [self.short(self.store.labels[int(ref)]) for ref in refs]
        stale = is_stale(values)
        return {
            name: "stale" if is_end else value
            for name, value, is_end in zip(names, values.tolist(), stale, strict=True)
        }

    @staticmethod
    def short(labels: Labels) -> str:
        return str(labels.without("job", "instance"))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Exporter() as exporter, open_session() as session:
        yield Bench(exporter, session)


def samples(tick: dict[str, float | str]) -> dict[str, float | str]:
    return {name: value for name, value in tick.items() if name not in REPORT}


def report(tick: dict[str, float | str]) -> dict[str, float | str]:
    return {name: value for name, value in tick.items() if name in REPORT}


async def test_scrape_is_one_tick_with_its_report(bench: Bench) -> None:
    tick = await bench.scrape('# TYPE a counter\na{x="1"} 1\nb 2.5\n')
    assert samples(tick) == {'a{x="1"}': 1.0, "b": 2.5}
    assert report(tick) == {
        "up": 1.0,
        "scrape_duration_seconds": 0.0,
        "scrape_samples_scraped": 2.0,
        "scrape_samples_post_metric_relabeling": 2.0,
        "scrape_series_added": 2.0,
    }
    [labels] = [labels for labels in bench.store.refs if labels.name == "a"]
    assert dict(labels) == {
        METRIC_NAME: "a",
        "instance": bench.exporter.address,
        "job": "j",
        "x": "1",
    }
    assert bench.store.kinds[labels] is Kind.COUNTER
    assert bench.store.metadata["a"] == Metadata(MetricType.COUNTER)
    assert bench.store.metadata["up"].type is MetricType.GAUGE
    assert len(bench.store.groups) == 1


def test_source_keeps_the_schedules_protocol(bench: Bench) -> None:
    source: Source = bench.source
    assert (source.interval_s, source.backs_off, source.reports_itself) == (60.0, False, True)
    assert source.timeout_s > 10.0  # its own deadline comes first, to write `up 0`


async def test_known_series_are_not_added_again(bench: Bench) -> None:
    assert (await bench.scrape("a 1\nb 2\n"))["scrape_series_added"] == 2.0
    tick = await bench.scrape("a 3\nb 4\n")
    assert samples(tick) == {"a": 3.0, "b": 4.0}
    assert tick["scrape_series_added"] == 0.0
    assert (await bench.scrape("b 3\nc 3\na 4\n"))["scrape_series_added"] == 1.0


async def test_steady_target_appends_the_same_members_each_time(bench: Bench) -> None:
    for value in range(3):
        await bench.scrape(f"a {value}\nb {value}\n")
    first, second, third = bench.store.group("scrape/j/i").raw
    assert first[1].tolist() == second[1].tolist() == third[1].tolist()


async def test_series_that_vanishes_ends_once_and_may_come_back(bench: Bench) -> None:
    await bench.scrape("a 1\nb 2\n")
    assert samples(await bench.scrape("a 1\n")) == {"a": 1.0, "b": "stale"}
    assert samples(await bench.scrape("a 1\n")) == {"a": 1.0}
    tick = await bench.scrape("a 1\nb 3\n")
    assert samples(tick) == {"a": 1.0, "b": 3.0}
    assert tick["scrape_series_added"] == 1.0


async def test_failed_scrape_ends_every_series_and_says_down(bench: Bench) -> None:
    await bench.scrape("a 1\nb 2\n")

    async def broken(_: web.BaseRequest) -> web.Response:
        return web.Response(status=500)

    bench.exporter.handler = broken
    tick = await bench.scrape()
    assert samples(tick) == {"a": "stale", "b": "stale"}
    assert report(tick) == dict.fromkeys(REPORT, 0.0)
    assert samples(await bench.scrape()) == {}
    assert bench.source.status.health is Health.DOWN
    assert "500" in bench.source.status.last_error
    bench.exporter.handler = None
    tick = await bench.scrape("a 1\nb 2\n")
    assert (tick["up"], tick["scrape_series_added"]) == (1.0, 0.0)
    assert samples(tick) == {"a": 1.0, "b": 2.0}
    assert bench.source.status.last_error == ""
    assert bench.stats.failures == {"status": 2}


async def test_stale_marker_has_its_exact_bits(bench: Bench) -> None:
    await bench.scrape("a 1\n")
    await bench.scrape("")
    _, _, values = bench.store.group("scrape/j/i").raw[-1]
    assert np.float64(STALE_NAN).tobytes() in [value.tobytes() for value in values]


async def test_nan_on_the_page_is_not_a_stale_marker(bench: Bench) -> None:
    value = (await bench.scrape("a NaN\n"))["a"]
    assert isinstance(value, float)
    assert math.isnan(value)


async def test_bad_page_fails_as_a_whole_and_tells_how_far_it_came(bench: Bench) -> None:
    await bench.scrape("a 1\nb 2\n")
    tick = await bench.scrape("a 1\nb 2\nc 3\nb@d\n")
    assert samples(tick) == {"a": "stale", "b": "stale"}
    assert (tick["up"], tick["scrape_samples_scraped"]) == (0.0, 3.0)
    assert bench.source.status.last_error.startswith("line 4: ")
    assert not any(labels.name == "c" for labels in bench.store.refs)
    tick = await bench.scrape("a 1\nb 2\n")
    assert samples(tick) == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize(
    ("settings", "error", "counts"),
    [
        ({"sample_limit": 2}, "sample limit exceeded", (3.0, 3.0)),
        ({"label_limit": 3}, "label_limit exceeded", (2.0, 1.0)),
        ({"body_size_limit_bytes": 10}, "body size limit exceeded", (0.0, 0.0)),
    ],
)
async def test_page_over_a_limit_is_down(
    bench: Bench, settings: dict[str, Any], error: str, counts: tuple[float, float]
) -> None:
    bench.make(**settings)
    tick = await bench.scrape('a 1\nb{x="1"} 2\nc 3\n')
    assert samples(tick) == {}
    assert tick["up"] == 0.0
    assert counts == (
        tick["scrape_samples_scraped"],
        tick["scrape_samples_post_metric_relabeling"],
    )
    assert error in bench.source.status.last_error


async def test_extra_report_is_written_on_demand(bench: Bench) -> None:
    bench.make(extra_report=True, sample_limit=9, body_size_limit_bytes=10)
    tick = await bench.scrape("a 1\n")
    extra = ("scrape_timeout_seconds", "scrape_sample_limit", "scrape_body_size_bytes")
    assert [tick[name] for name in extra] == [10.0, 9.0, 4.0]
    tick = await bench.scrape("a 1\nb 2\nc 3\n")
    assert tick["scrape_body_size_bytes"] == -1.0


async def test_first_of_a_repeated_series_counts(bench: Bench) -> None:
    tick = await bench.scrape('a{x="1",y="2"} 1\na{y="2",x="1"} 2\nb 3\nb 4\n')
    assert samples(tick) == {'a{x="1",y="2"}': 1.0, "b": 3.0}
    assert tick["scrape_samples_scraped"] == 4.0
    assert bench.stats.duplicates == 2
    assert bench.source.status.warning.startswith("2 samples of series that were on the page")
    tick = await bench.scrape('a{x="1",y="2"} 5\na{y="2",x="1"} 6\nb 7\nb 8\n')
    assert samples(tick) == {'a{x="1",y="2"}': 5.0, "b": 7.0}


async def test_series_that_become_one_by_relabelling_are_one(bench: Bench) -> None:
    from tachograph.config.prometheus import RelabelConfig

    bench.make(metric_relabel_configs=(RelabelConfig(regex="x", action="labeldrop"),))
    assert samples(await bench.scrape('a{x="1"} 1\na{x="2"} 2\n')) == {"a": 1.0}
    # The other spelling goes on where the first one ends.
    assert samples(await bench.scrape('a{x="2"} 2\n')) == {"a": 2.0}


async def test_targets_own_up_does_not_overrule_ours(bench: Bench) -> None:
    tick = await bench.scrape("up 7\na 1\n")
    assert (tick["up"], tick["a"], tick["scrape_samples_scraped"]) == (1.0, 1.0, 2.0)


# --- timestamps -------------------------------------------------------------------------------


async def test_samples_with_timestamps_are_points_without_staleness(bench: Bench) -> None:
    tick = await bench.scrape("a 1 1700000000123\nb 2\n")
    assert samples(tick) == {"b": 2.0}
    assert tick["scrape_series_added"] == 2.0
    [(labels, ts_ms, value)] = bench.store.points
    assert (labels.name, ts_ms, value) == ("a", 1_700_000_000_123, 1.0)
    tick = await bench.scrape("b 3\n")
    assert samples(tick) == {"b": 3.0}
    assert len(bench.store.points) == 1


async def test_series_that_gets_timestamps_ends_in_the_tick(bench: Bench) -> None:
    await bench.scrape("a 1\n")
    tick = await bench.scrape("a 2 1700000000123\n")
    assert samples(tick) == {"a": "stale"}
    assert tick["scrape_series_added"] == 0.0


async def test_timestamps_are_not_honored_if_not_wanted(bench: Bench) -> None:
    bench.make(honor_timestamps=False)
    assert samples(await bench.scrape("a 1 1700000000123\n")) == {"a": 1.0}
    assert bench.store.points == []


# --- what the store refuses -------------------------------------------------------------------


async def test_refused_series_are_left_out_and_the_rest_goes_in(bench: Bench) -> None:
    bench.store.allowed = {*REPORT, "a"}
    tick = await bench.scrape("a 1\nb 2\nc 3\n")
    assert samples(tick) == {"a": 1.0}
    assert (tick["up"], tick["scrape_samples_post_metric_relabeling"]) == (1.0, 3.0)
    status = bench.source.status
    assert (status.health, status.last_error, status.refused) == (Health.UP, "", 2)
    assert status.warning.startswith("2 samples of series that the store refuses")
    assert bench.stats.refused == 2


async def test_refused_series_are_asked_for_again_once_a_minute(bench: Bench) -> None:
    bench.store.allowed = {*REPORT, "a"}
    bench.exporter.page = "a 1\nb 2\n"
    for ts_ms, asked in ((1_000, 1), (2_000, 1), (60_999, 1), (61_000, 2), (62_000, 2)):
        await bench.source.collect(ts_ms)
        assert bench.store.refusals == asked
    bench.store.allowed = None
    await bench.source.collect(121_000)
    bench.ts_ms = 121_000
    assert samples(bench.tick()) == {"a": 1.0, "b": 2.0}
    assert bench.source.status.warning == ""


async def test_refused_series_are_asked_for_again_in_turn(bench: Bench) -> None:
    bench.store.allowed = set(REPORT)
    names = [f"m{number}" for number in range(REFUSED_RETRY_MAX + 100)]
    await bench.scrape("".join(f"{name} 1\n" for name in names))
    await bench.scrape()
    assert bench.store.refusals == len(names) + REFUSED_RETRY_MAX
    bench.store.allowed = None
    assert list(samples(await bench.scrape())) == names[:400] + names[500:]
    assert list(samples(await bench.scrape())) == names


async def test_full_store_still_hears_what_it_knows(bench: Bench) -> None:
    bench.store.allowed = {"up", "a"}
    tick = await bench.scrape("a 1\n")
    assert tick == {"a": 1.0, "up": 1.0}
    bench.store.allowed = set()
    assert await bench.scrape("a 1\n") == {"a": 1.0, "up": 1.0}


async def test_store_that_takes_nothing_is_an_error_and_loses_no_ends(bench: Bench) -> None:
    await bench.scrape("a 1\nb 2\n")
    bench.store.is_broken = True
    with pytest.raises(StoreUnavailable):
        await bench.scrape("a 1\n")
    bench.store.is_broken = False
    assert samples(await bench.scrape("a 1\n")) == {"a": 1.0, "b": "stale"}


# --- beside samples ---------------------------------------------------------------------------


async def test_exemplars_are_handed_on_with_their_series(bench: Bench) -> None:
    seen: list[tuple[int, Exemplar]] = []
    bench.make(on_exemplars=seen.extend)
    bench.exporter.content_type = OPENMETRICS
    await bench.scrape('a_total 1 # {trace_id="t"} 0.5\n# EOF\n')
    [(ref, exemplar)] = seen
    assert bench.store.labels[ref].name == "a_total"
    assert (exemplar.labels, exemplar.value) == ({"trace_id": "t"}, 0.5)


async def test_target_limit_of_the_job_is_told_without_a_request(bench: Bench) -> None:
    bench.source.forced_error = "target_limit exceeded"
    assert (await bench.scrape())["up"] == 0.0
    assert bench.exporter.paths == []
    assert bench.source.status.last_error == "target_limit exceeded"


async def test_duration_is_what_the_scrape_took(bench: Bench) -> None:
    async def slow(_: web.BaseRequest) -> web.Response:
        await bench.clock.advance(1500)
        return web.Response(text="a 1\n")

    bench.exporter.handler = slow
    assert (await bench.scrape())["scrape_duration_seconds"] == 1.5
    assert bench.source.status.last_duration_s == 1.5


# --- large pages ------------------------------------------------------------------------------


def large(count: int, name: str = "m") -> str:
    line = '{}{{path="/api/v1/some/thing/{}"}} {}'
    return "\n".join(line.format(name, number, number) for number in range(count))


async def test_large_page_is_read_in_a_thread_with_the_same_result(bench: Bench) -> None:
    page = large(3000)
    assert len(page) > INLINE_BYTES_COLD

    async def packed(_: web.BaseRequest) -> web.Response:
        return gzipped(page.encode())

    bench.exporter.handler = packed
    tick = await bench.scrape()
    assert bench.stats.in_thread == 1
    assert len(samples(tick)) == 3000
    assert tick['m{path="/api/v1/some/thing/2999"}'] == 2999.0
    bench.exporter.handler = None
    assert (await bench.scrape(page))["scrape_series_added"] == 0.0
    assert bench.stats.in_thread == 1  # it is known now


async def test_pass_cancelled_while_reading_piles_up_no_threads(bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    release = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        loop.set_default_executor(threads)
        loop.run_in_executor(None, release.wait)  # the reading waits behind this one
        bench.exporter.page = large(3000)
        task = asyncio.create_task(bench.source.collect(1000))
        while not bench.stats.in_thread:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        requests = len(bench.exporter.paths)
        assert (await bench.scrape("a 1\n"))["up"] == 0.0
        assert bench.source.status.last_error == "an earlier page takes too long to read"
        assert len(bench.exporter.paths) == requests
        release.set()
        await loop.run_in_executor(None, lambda: None)
        assert samples(await bench.scrape("a 1\n")) == {"a": 1.0}
        assert (await bench.scrape(large(3000)))["scrape_series_added"] == 3000.0


# --- the end ----------------------------------------------------------------------------------


async def test_removed_target_ends_all_its_series(bench: Bench) -> None:
    await bench.scrape("a 1\nb 2\n")
    await bench.source.close()
    bench.ts_ms += 1
    bench.source.end(bench.ts_ms)
    assert bench.tick() == dict.fromkeys(["a", "b", *REPORT], "stale")
    await bench.source.close()


async def test_target_never_scraped_has_nothing_to_end(bench: Bench) -> None:
    bench.source.end(1)
    assert bench.store.groups == {} or bench.store.group("scrape/j/i").raw == []


async def test_successor_goes_on_and_ends_only_what_is_gone(bench: Bench) -> None:
    await bench.scrape("a 1\nb 2\n")
    old = bench.source
    bench.make(honor_labels=True).succeed(old)
    tick = await bench.scrape("a 1\nc 3\n")
    assert samples(tick) == {"a": 1.0, "b": "stale", "c": 3.0}
    assert report(tick) == {
        "up": 1.0,
        "scrape_duration_seconds": 0.0,
        "scrape_samples_scraped": 2.0,
        "scrape_samples_post_metric_relabeling": 2.0,
        "scrape_series_added": 1.0,
    }


async def test_successor_with_other_labels_ends_all_of_the_old(bench: Bench) -> None:
    await bench.scrape("a 1\n")
    old = bench.source
    bench.make(labels={"zone": "x"}).succeed(old)
    unused = bench.source
    bench.make(labels={"zone": "y"}).succeed(unused)  # changed twice before a pass
    tick = await bench.scrape("a 2\n")
    assert {name for name, value in tick.items() if value == "stale"} == {"a", *REPORT}
    assert tick['a{zone="y"}'] == 2.0
    assert tick['up{zone="y"}'] == 1.0
