"""Answers that are used again are those that an evaluation would give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.history import COUNTERS, DAY, GAUGES, HOUR, LOOSE, MIDNIGHT, MINUTE, SECOND, History
from support.store import refs_of
from tachograph.aggregation.promql.engine import Engine, EngineOptions
from tachograph.aggregation.promql.errors import ParseError
from tachograph.aggregation.promql.range_cache import RangeCache, keeps
from tachograph.aggregation.promql.result import Result
from tachograph.aggregation.rollup import Tier
from tachograph.aggregation.tiered_querier import Force, tiered
from tachograph.config.settings import RetentionSettings
from tachograph.storage.delete import Eraser
from tachograph.storage.model import Labels

OPTIONS = EngineOptions(experimental=True)
KEPT = (
    "requests_total",
    "rate(requests_total[5m])",
    'sum by (n) (rate({__name__=~"requests.*"}[10m]))',
    "sum(level) / count(level)",
    "max_over_time(level[20m] offset 5m)",
    "max_over_time(sum(level)[10m:1m])",
    "absent(level)",
    "level > on(n) pushed",
    "topk(1, level)",
    "quantile_over_time(0.5, level[7m])",
    "timestamp(level)",
    "increase(level[1h])",
    'label_replace(level, "m", "$1", "n", "(.*)")',
    "time() - level",
)
NOT_KEPT = (
    "level offset -5m",
    "level @ 1767571200",
    "level @ end()",
    "rate(level[5m] @ start())",
    "max_over_time(level[10m:1m] @ end())",
    "max_over_time(level[10m:1m] offset -1m)",
    "level * range()",
    "rate(level[range()])",
    "level offset step()",
    "rate(level[5m] smoothed)",
    "limitk(1, level)",
    "time()",
    "1",
)


class World:
    """A store, a cache, and the same engine without one."""

    def __init__(self, tmp_path: Path, **settings: object) -> None:
        self.h = History(tmp_path, MIDNIGHT, **settings)
        self.cache = RangeCache()
        self.cached, self.plain = Engine(OPTIONS, self.cache), Engine(OPTIONS)

    async def ask(
        self, text: str, start_ms: int, end_ms: int, step_ms: int, force: Force | None = None
    ) -> Result:
        """Ask with the cache and hold the answer to one that was not kept."""
        times = start_ms, end_ms, step_ms
        h = self.h

        async def answer(engine: Engine) -> Result:
            return await h.store.read(
                lambda q: engine.range(
                    tiered(q, retention=h.store.retention, force=force), text, *times
                )
            )

        got, want = await answer(self.cached), await answer(self.plain)
        assert got.labels == want.labels, text
        np.testing.assert_array_equal(got.times_ms, want.times_ms)
        np.testing.assert_array_equal(got.mask, want.mask, err_msg=text)
        np.testing.assert_allclose(
            got.values[got.mask], want.values[want.mask], rtol=1e-9, atol=1e-9, err_msg=text
        )
        # What was said of steps that have left the range since may be said still.
        assert set(got.infos) >= set(want.infos)
        assert got.warnings == want.warnings
        return got


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    await world.h.open()
    await world.h.ticks("web", 60, MINUTE, seed=1)
    return world


@pytest.mark.parametrize("seed", range(4))
async def test_answers_never_differ_whatever_happens_between(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    world = World(tmp_path, retention=RetentionSettings(raw_ms=2 * DAY))
    h = world.h
    await h.open()
    for turn in range(60):
        match int(rng.integers(12)):
            case 0:
                await h.store.seal()
            case 1:
                h.late([*COUNTERS, *GAUGES], int(rng.integers(1, 20)) * HOUR // 4, 3, seed=turn)
            case 2:
                h.points([(LOOSE[int(rng.integers(3))], h.clock.now_ms(), float(turn))])
            case 3 if turn % 4 == 0:
                await h.next_day()
                await h.compact()
                await h.store.retention.run_once()
            case 4 if turn > 40:
                series = h.store.index.find(GAUGES[0])
                if series is not None:
                    now_ms = h.clock.now_ms()
                    eraser = Eraser(h.store)
                    await eraser.delete(refs_of([series.ref]), now_ms - HOUR, now_ms - HOUR // 2)
            case _:
                name = ("web", "host")[int(rng.integers(2))]
                every = int(rng.choice([7 * SECOND, MINUTE]))
                await h.ticks(name, int(rng.integers(1, 30)), every, seed=turn, share=0.9)
        step = int(rng.choice([MINUTE, 15 * MINUTE]))
        end_ms = (h.clock.now_ms() + int(rng.integers(0, 3)) * MINUTE) // step * step
        start_ms = end_ms - int(rng.choice([30, 60, 240])) * step
        for text in rng.choice(KEPT, 3, replace=False).tolist():
            await world.ask(text, start_ms, end_ms, step)
    assert world.cache.hits + world.cache.partial > 20
    await h.close()


async def test_same_question_is_answered_from_memory(world: World) -> None:
    h = world.h
    now_ms = h.clock.now_ms() // MINUTE * MINUTE
    first = await world.ask("sum(rate(requests_total[5m]))", now_ms - HOUR, now_ms, MINUTE)
    assert world.cache.misses == 1
    again = await world.ask("sum(rate(requests_total[5m]))", now_ms - HOUR, now_ms, MINUTE)
    assert world.cache.hits == 1
    assert again.stats.samples_total == 0
    assert first.stats.samples_total > 0
    part = await world.ask("sum(rate(requests_total[5m]))", now_ms - HOUR // 2, now_ms, MINUTE)
    assert world.cache.hits == 2
    assert len(part.times_ms) == 31
    await h.close()


async def test_only_new_steps_are_evaluated(world: World) -> None:
    h = world.h
    now_ms = h.clock.now_ms() // MINUTE * MINUTE
    whole = await world.ask("requests_total", now_ms - HOUR, now_ms, MINUTE)
    await h.ticks("web", 2, MINUTE, seed=9)
    later_ms = now_ms + 2 * MINUTE
    got = await world.ask("requests_total", later_ms - HOUR, later_ms, MINUTE)
    assert world.cache.partial == 1
    assert 0 < got.stats.samples_total < whole.stats.samples_total / 10
    await h.close()


async def test_late_sample_is_in_the_next_answer(world: World) -> None:
    h = world.h
    now_ms = h.clock.now_ms() // MINUTE * MINUTE
    times = now_ms - HOUR, now_ms, MINUTE
    await world.ask("max(max_over_time(level[2m]))", *times)
    h.points([(GAUGES[0], now_ms - HOUR // 2 + 500, 1e6)])
    got = await world.ask("max(max_over_time(level[2m]))", *times)
    assert np.nanmax(got.values) == 1e6
    await h.close()


@pytest.mark.parametrize("text", NOT_KEPT)
async def test_what_looks_elsewhere_is_evaluated_each_time(world: World, text: str) -> None:
    h = world.h
    assert not keeps(world.plain.parse(text))
    now_ms = h.clock.now_ms() // MINUTE * MINUTE
    for _ in range(2):
        await world.ask(text, now_ms - HOUR, now_ms, MINUTE)
    assert len(world.cache) == 0
    assert world.cache.misses == 2
    await h.close()


@pytest.mark.parametrize("text", KEPT)
def test_what_looks_back_is_kept(text: str) -> None:
    assert keeps(Engine(OPTIONS).parse(text))


async def test_steps_that_fall_elsewhere_are_another_question(world: World) -> None:
    h = world.h
    now_ms = h.clock.now_ms() // MINUTE * MINUTE
    for shift in (0, 20 * SECOND, 0):
        await world.ask("level", now_ms - HOUR + shift, now_ms + shift, MINUTE)
    assert (world.cache.misses, world.cache.hits) == (2, 1)
    await world.ask("level", now_ms - HOUR, now_ms, MINUTE, Tier.M1)
    assert world.cache.misses == 3, "nor is a tier by order the same"
    await h.close()


async def test_warnings_of_the_whole_are_not_put_together(world: World) -> None:
    h = world.h
    refs = {}
    group = h.store.group("buckets")
    for le in ("1", "2", "+Inf"):
        refs[le] = group.ref(Labels.of({"le": le}, "h_bucket"))
    for minute in range(10):
        values = np.array([5.0 + minute, 3.0, 9.0 + minute])
        group.append(h.clock.now_ms() + minute, refs_of(refs.values()), values)
    now_ms = h.clock.now_ms() // MINUTE * MINUTE + MINUTE
    for _ in range(2):
        got = await world.ask("histogram_quantile(0.5, h_bucket)", now_ms - HOUR, now_ms, MINUTE)
    assert any("monotonicity" in info for info in got.infos)
    assert len(world.cache) == 0
    await h.close()


async def test_cache_is_bounded(world: World) -> None:
    h = world.h
    world.cache = RangeCache(20_000)
    world.cached = Engine(OPTIONS, world.cache)
    now_ms = h.clock.now_ms() // MINUTE * MINUTE
    for minutes in range(1, 40):
        await world.ask(f"max_over_time(level[{minutes}m])", now_ms - HOUR, now_ms, MINUTE)
        assert world.cache.bytes <= 20_000
    assert 3 < len(world.cache) < 20
    with pytest.raises(ParseError):
        await world.ask("sum(", now_ms - HOUR, now_ms, MINUTE)
    await h.close()


async def test_no_cache_by_order(world: World) -> None:
    h = world.h
    now_ms = h.clock.now_ms() // MINUTE * MINUTE
    for _ in range(2):
        await h.store.read(
            lambda q: world.cached.range(
                tiered(q, retention=h.store.retention),
                "level",
                now_ms - HOUR,
                now_ms,
                MINUTE,
                cached=False,
            )
        )
    assert (world.cache.misses, world.cache.hits) == (0, 0)
    await h.close()
