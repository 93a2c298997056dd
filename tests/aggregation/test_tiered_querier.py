"""PromQL over tiers: the same answers as from samples, where both are there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from support.history import COUNTERS, DAY, GAUGES, HOUR, LOOSE, MIDNIGHT, MINUTE, SECOND, History
from tachograph.aggregation.promql.engine import Engine, EngineOptions
from tachograph.aggregation.promql.result import Result
from tachograph.aggregation.rollup import Tier
from tachograph.aggregation.tiered_querier import Force, TieredQuerier, force_of, tiered
from tachograph.config.settings import RetentionPolicy, RetentionSettings
from tachograph.storage.codec import crc
from tachograph.storage.frame import STALE_NAN
from tachograph.storage.keys import day_of, rollup_key
from tachograph.storage.select import Querier

T = TypeVar("T")

ENGINE = Engine(EngineOptions(experimental=True))
PROMETHEUS2 = Engine(EngineOptions(experimental=True, compat="prometheus2"))
FIRST = MIDNIGHT - DAY
NAMES = ("requests_total", "busy_seconds_total", "level", "pushed")
#: Functions that a tier can answer, and how far they may be off, as a share of what is added up.
EXACT = (
    "count_over_time",
    "present_over_time",
    "min_over_time",
    "max_over_time",
    "first_over_time",
    "last_over_time",
    "ts_of_first_over_time",
    "ts_of_last_over_time",
    "absent_over_time",
    "delta",
)
ROUNDED = ("sum_over_time", "avg_over_time", "rate", "increase")
PROMISE = 1e-12


@dataclass(frozen=True)
class Ask:
    """One query; ``step_ms`` 0 asks at ``end_ms`` alone."""

    text: str
    start_ms: int
    end_ms: int
    step_ms: int

    def __call__(self, querier: Querier | TieredQuerier, engine: Engine = ENGINE) -> Result:
        if not self.step_ms:
            return engine.instant(querier, self.text, self.end_ms)
        return engine.range(querier, self.text, self.start_ms, self.end_ms, self.step_ms)


async def on(h: History, work: Callable[[TieredQuerier], T], force: Force | None = None) -> T:
    return await h.store.read(lambda q: work(tiered(q, retention=h.store.retention, force=force)))


async def answer(
    h: History, ask: Ask, force: Force | None = None, engine: Engine = ENGINE
) -> Result:
    return await on(h, lambda querier: ask(querier, engine), force)


def assert_same(got: Result, want: Result, ask: Ask) -> None:
    """Hold an answer to another one, as exact as the function can be."""
    index = {labels: row for row, labels in enumerate(got.labels)}
    assert set(index) == set(want.labels), ask
    order = [index[labels] for labels in want.labels]
    mask, values = got.mask[order], got.values[order]
    np.testing.assert_array_equal(mask, want.mask, err_msg=str(ask))
    found, wanted = values[mask], want.values[mask]
    if any(name in ask.text for name in ROUNDED):
        finite = np.abs(wanted[np.isfinite(wanted)])
        size = float(finite.max(initial=1.0))
        # What a window adds up may be far more than what comes of it: gauges around 0.
        np.testing.assert_allclose(
            found, wanted, rtol=PROMISE, atol=100 * PROMISE * max(size, 1e5), err_msg=str(ask)
        )
    else:
        np.testing.assert_array_equal(found, wanted, err_msg=str(ask))


async def days_of(h: History, rng: np.random.Generator, days: int, *, late: bool = True) -> None:
    """Some closed days, compacted as they end, and some hours of an open one."""
    for day in range(days + 1):
        for _ in range(4):
            name = ("web", "host")[int(rng.integers(2))]
            every = int(rng.choice([10 * SECOND, 40 * SECOND, MINUTE, 7 * MINUTE]))
            count = int(rng.integers(20, 120))
            await h.ticks(name, count, every, seed=int(rng.integers(1 << 30)), share=0.95)
            # Samples on the very borders, and long gaps.
            await h.clock.advance(-h.clock.now_ms() % MINUTE)
            await h.ticks("points", 12, MINUTE, seed=int(rng.integers(1 << 30)))
            await h.clock.advance(int(rng.integers(0, 3)) * HOUR)
            if day == days:
                break
        if late and day:
            h.late([*COUNTERS, *GAUGES], int(rng.integers(1, 40)) * HOUR // 2, 10, seed=day)
        if day < days:
            await h.next_day()
            await h.compact()


def asks(rng: np.random.Generator, count: int, end_ms: int, *, aligned: bool = True) -> list[Ask]:
    """Random queries of everything that tiers can answer."""
    found = []
    for _ in range(count):
        name = NAMES[int(rng.integers(len(NAMES)))]
        unit = int(rng.choice([MINUTE, 5 * MINUTE, HOUR, DAY], p=[0.2, 0.2, 0.4, 0.2]))
        if not aligned:
            unit = int(rng.choice([SECOND, 7 * SECOND, MINUTE, HOUR]))
        selector = name
        if rng.random() < 0.7:
            selector += f"[{int(rng.integers(1, 4)) * unit // 1000}s]"
        steps = int(rng.integers(1, 40))
        step_ms = unit * int(rng.integers(1, 3))
        last_ms = (end_ms - int(rng.integers(0, 2 * DAY))) // unit * unit
        if rng.random() < 0.3:
            selector += f" offset {int(rng.integers(-3, 4)) * unit // 1000}s"
        if rng.random() < 0.15:
            selector += f" @ {last_ms // 1000}"
        functions = EXACT + ROUNDED
        text = selector
        if "[" in selector:
            text = f"{functions[int(rng.integers(len(functions)))]}({selector})"
        elif rng.random() < 0.3:
            text = f"timestamp({selector})"
        if rng.random() < 0.2 and "absent" not in text:
            text = f"sum by (n) ({text})" if "ts_of" not in text else text
        first_ms = max(FIRST, last_ms - steps * step_ms)
        found.append(Ask(text, first_ms, last_ms, 0 if rng.random() < 0.2 else step_ms))
    return found


@pytest.mark.parametrize("seed", range(4))
async def test_tiers_answer_what_samples_say(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    h = History(tmp_path, FIRST)
    await h.open()
    await days_of(h, rng, 3)
    used = 0
    for ask in asks(rng, 150, h.clock.now_ms() + HOUR):
        raw = await answer(h, ask, "raw")
        got = await answer(h, ask)
        assert_same(got, raw, ask)
        assert got.infos == raw.infos, "nothing is gone"
        used += got.stats.samples_total < raw.stats.samples_total
    assert used > 30, "tiers have answered"
    assert not h.store.stats.corrupt.total()
    await h.close()


@pytest.mark.parametrize("seed", range(4, 6))
async def test_any_step_is_answered_by_samples_where_they_are(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    h = History(tmp_path, FIRST)
    await h.open()
    await days_of(h, rng, 2)
    for ask in asks(rng, 120, h.clock.now_ms() + HOUR, aligned=False):
        for engine in (ENGINE, PROMETHEUS2):
            raw = await answer(h, ask, "raw", engine)
            assert_same(await answer(h, ask, engine=engine), raw, ask)
    await h.close()


@pytest.mark.parametrize("seed", range(6, 9))
async def test_tiers_answer_as_samples_did_before_they_expired(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    h = History(tmp_path, FIRST, retention=RetentionSettings(raw_ms=3 * DAY))
    await h.open()
    await days_of(h, rng, 3, late=False)
    await h.next_day()
    await h.compact()
    questions = asks(rng, 120, h.clock.now_ms())
    before = [await answer(h, ask, "raw") for ask in questions]
    await h.clock.advance(6 * DAY)
    await h.store.retention.run_once()
    assert not h.store.ledger.catalogue.days, "raw samples are gone"
    for ask, wanted in zip(questions, before, strict=True):
        got = await answer(h, ask)
        if _is_gauge_rate(ask):
            continue  # resets of gauges are not kept
        if _is_fine_instant(ask):
            continue  # a marker right after midnight is not seen from the day before
        assert_same(got, wanted, ask)
        if wanted.labels and "absent" not in ask.text:
            assert any("are gone" in info for info in got.infos), ask
        assert not any("rounded" in info for info in got.infos), ask
    await h.close()


def _is_gauge_rate(ask: Ask) -> bool:
    return "level" in ask.text and ("rate" in ask.text or "increase" in ask.text)


def _is_fine_instant(ask: Ask) -> bool:
    """Instant selectors at steps that are no whole buckets of the lookback or more."""
    times = [ask.end_ms, ask.start_ms, ask.step_ms]
    offset = re.search(r"offset (-?\d+)s", ask.text)
    times.append(int(offset[1]) * 1000 if offset else 0)
    at = re.search(r"@ (\d+)", ask.text)
    times.append(int(at[1]) * 1000 if at else 0)
    return "[" not in ask.text and any(ms % (5 * MINUTE) for ms in times)


# --- A tier by order ---------------------------------------------------------------------------


@pytest.mark.parametrize("tier", list(Tier))
async def test_forced_tier_answers_its_own_windows(tmp_path: Path, tier: Tier) -> None:
    rng = np.random.default_rng(20 + tier)
    h = History(tmp_path, FIRST)
    await h.open()
    await days_of(h, rng, 2)
    unit = tier.width_ms
    for name in EXACT + ROUNDED:
        for metric in NAMES:
            ask = Ask(f"{name}({metric}[{unit // 1000}s])", FIRST, h.clock.now_ms() + unit, unit)
            end_ms = ask.end_ms // unit * unit
            ask = Ask(ask.text, max(FIRST, end_ms - 60 * unit), end_ms, unit)
            if _is_gauge_rate(ask):
                continue
            got = await answer(h, ask, tier)
            assert_same(got, await answer(h, ask, "raw"), ask)
            note = f"PromQL info: the {tier.label} tier answered, as was asked for"
            assert got.infos[-1:] == (note,)
    await h.close()


async def test_forced_tier_shows_no_more_than_its_buckets(tmp_path: Path) -> None:
    h = History(tmp_path, MIDNIGHT)
    await h.open()
    for minute in range(1, 181):
        await h.clock.advance(MINUTE)
        h.put("web", MIDNIGHT + minute * MINUTE, {GAUGES[0]: float(minute)})
    ask = Ask("level", MIDNIGHT, MIDNIGHT + 3 * HOUR, 30 * MINUTE)
    got = await answer(h, ask, Tier.H1)
    values = dict(zip(got.times_ms[got.mask[0]].tolist(), got.values[0, got.mask[0]], strict=True))
    steps = {(ms - MIDNIGHT) // MINUTE: value for ms, value in values.items()}
    assert steps == {60: 60.0, 90: 60.0, 120: 120.0, 150: 120.0, 180: 180.0}
    # A window that is no whole hours is put in proportion.
    total = Ask("sum_over_time(level[30m])", 0, MIDNIGHT + 2 * HOUR, 0)
    assert (await answer(h, total, Tier.H1)).values.tolist() == [[sum(range(61, 121)) / 2]]
    points = await answer(h, Ask("level[3h]", 0, MIDNIGHT + 3 * HOUR, 0), Tier.H1)
    ((_, times_ms, found),) = points.series()
    assert times_ms.tolist() == [MIDNIGHT + hour * HOUR for hour in (1, 2, 3)]
    assert found.tolist() == [60.0, 120.0, 180.0]
    await h.close()


async def test_raw_by_order_leaves_gaps_where_samples_are_gone(tmp_path: Path) -> None:
    h = await expired(tmp_path)
    ask = Ask("max_over_time(level[1h])", FIRST, FIRST + DAY, HOUR)
    assert not (await answer(h, ask, "raw")).labels
    assert (await answer(h, ask)).labels
    await h.close()


def test_tiers_go_by_their_names() -> None:
    assert [force_of(name) for name in ("raw", "1m", "5m", "1h", "1d")] == ["raw", *Tier]
    with pytest.raises(ValueError, match="'2h', only raw, 1m, 5m, 1h, 1d"):
        force_of("2h")


# --- Samples that are gone ---------------------------------------------------------------------


async def expired(tmp_path: Path, **keep_ms: int) -> History:
    """A day with a sample every 10 s, of which only tiers are left, and an hour of today."""
    h = History(tmp_path, FIRST, retention=RetentionSettings(**{"raw_ms": DAY, **keep_ms}))
    await h.open()
    for minute in range(0, 1440, 10):
        ts = FIRST + minute * MINUTE + 10 * SECOND * np.arange(1, 61)
        await h.clock.advance(10 * MINUTE)
        group = h.store.group("web")
        refs = np.array([group.ref(GAUGES[0]), group.ref(COUNTERS[0])], np.uint32)
        counted = (ts - FIRST) / 1000
        group.append_ticks(ts, refs, np.column_stack((counted % 3600, counted)))
    await h.next_day()
    await h.compact()
    await h.clock.advance(3 * DAY)
    await h.ticks("web", 60, MINUTE)
    await h.store.retention.run_once()
    assert day_of(FIRST + 1) not in h.store.ledger.catalogue.days
    return h


GONE = "PromQL info: raw samples up to 2026-01-05T00:00:00Z are gone, the {} tier answered"


async def test_finest_tier_stands_in_for_what_is_gone(tmp_path: Path) -> None:
    h = await expired(tmp_path)
    half = FIRST + 12 * HOUR + 30 * SECOND
    rate = await answer(h, Ask("rate(requests_total[5m])", half, half + HOUR, 30 * SECOND))
    assert rate.mask.all()
    assert rate.values == pytest.approx(1.0)
    assert rate.infos == (GONE.format("1m") + ", with times rounded to it",)
    grown = await answer(h, Ask("increase(requests_total[90s])", half, half + HOUR, MINUTE))
    assert grown.values == pytest.approx(90.0)
    # What needs every sample gets the last one of each bucket.
    changes = await answer(h, Ask("changes(requests_total[10m])", 0, half, 0))
    assert changes.values.tolist() == [[9.0]]
    assert changes.infos == (GONE.format("1m") + ", with times rounded to it",)
    values = await answer(h, Ask("requests_total", half, half + HOUR, MINUTE))
    assert values.values[0].tolist() == pytest.approx(
        [(half + n * MINUTE - FIRST) / 1000 - 30 for n in range(61)]
    )
    await h.close()


async def test_coarse_tier_shows_a_staircase_and_no_gaps(tmp_path: Path) -> None:
    h = await expired(tmp_path, tier_1m_ms=DAY, tier_5m_ms=DAY)
    noon = FIRST + 12 * HOUR
    ask = Ask("requests_total", noon, noon + 2 * HOUR, 15 * MINUTE)
    got = await answer(h, ask)
    assert got.values.tolist() == [[12 * 3600.0] * 4 + [13 * 3600.0] * 4 + [14 * 3600.0]]
    assert got.infos == (GONE.format("1h") + ", with times rounded to it",)
    means = await answer(h, Ask("avg_over_time(level[5m])", noon, noon + HOUR, 20 * MINUTE))
    assert means.values == pytest.approx(1795.0)
    per_second = await answer(h, Ask("rate(requests_total[5m])", noon, noon + HOUR, MINUTE))
    assert per_second.values == pytest.approx(1.0)
    counts = await answer(h, Ask("count_over_time(level[5m])", noon, noon + HOUR, MINUTE))
    assert counts.values == pytest.approx(30.0)
    old = await answer(h, Ask("avg_over_time(level[5m])", noon, noon, MINUTE), engine=PROMETHEUS2)
    assert old.values == pytest.approx(1795.0)
    # Where windows are whole hours nothing is rounded.
    exact = await answer(h, Ask("max_over_time(level[2h])", noon, noon + DAY // 2, HOUR))
    assert exact.infos == (GONE.format("1h"),)
    assert set(exact.values[0].tolist()) == {3590.0}
    await h.close()


async def test_series_that_ended_does_not_go_on_in_a_tier(tmp_path: Path) -> None:
    h = History(tmp_path, FIRST, retention=RetentionSettings(raw_ms=DAY, tier_1m_ms=DAY))
    await h.open()
    for minute in range(1, 301):
        await h.clock.advance(MINUTE)
        if not 110 < minute < 200:
            h.put("web", h.clock.now_ms(), {GAUGES[0]: float(minute)})
        if minute == 239:
            h.put("host", h.clock.now_ms(), {GAUGES[1]: 1.0})
            h.put("host", h.clock.now_ms() + 30 * SECOND, {GAUGES[1]: STALE_NAN})
    await h.next_day()
    await h.compact()
    hours = Ask("level", FIRST, FIRST + 6 * HOUR, HOUR)
    before = await answer(h, hours, "raw")
    await h.clock.advance(4 * DAY)
    await h.store.retention.run_once()
    got = await answer(h, hours)
    assert_same(got, before, hours)
    assert got.mask.tolist() == [[False, True, False, False, True, True, False]]
    between = await answer(h, Ask("level", FIRST, FIRST + 6 * HOUR, 10 * MINUTE), Tier.H1)
    shown = np.flatnonzero(between.mask[0]).tolist()
    assert shown == [*range(6, 12), *range(24, 36)], "until the end of the hour after"
    await h.close()


async def test_gone_tiers_leave_what_is_kept_longer(tmp_path: Path) -> None:
    h = await expired(tmp_path, tier_1m_ms=DAY, tier_5m_ms=DAY, tier_1h_ms=DAY)
    ask = Ask("max_over_time(level[1h])", FIRST, FIRST + DAY, HOUR)
    got = await answer(h, ask)
    assert set(got.values[got.mask].tolist()) == {3590.0}
    assert got.infos == (GONE.format("1d") + ", with times rounded to it",)
    await h.close()


async def test_policies_are_minded(tmp_path: Path) -> None:
    """Samples of some series are gone while those of others of the same group are there."""
    policy = RetentionPolicy(match='{__name__="level"}', raw_ms=DAY)
    h = History(
        tmp_path,
        FIRST,
        retention=RetentionSettings(raw_ms=30 * DAY),
        retention_policies=(policy,),
    )
    await h.open()
    await days_of(h, np.random.default_rng(9), 2, late=False)
    await h.next_day()
    await h.compact()
    ask = Ask('last_over_time({n="0"}[1h])', FIRST, FIRST + 3 * DAY, HOUR)
    odd = Ask('last_over_time({n="0"}[7m])', FIRST, FIRST + 3 * DAY, 7 * MINUTE)
    before, odd_before = await answer(h, ask, "raw"), await answer(h, odd, "raw")
    await h.clock.advance(3 * DAY)
    await h.store.retention.run_once()
    assert_same(await answer(h, ask), before, ask)
    got = await answer(h, odd)
    assert set(got.labels) == set(odd_before.labels)
    for labels, _, values in odd_before.series():
        mine = got.values[got.labels.index(labels)][got.mask[got.labels.index(labels)]]
        if labels != GAUGES[0]:
            assert mine.tolist() == values.tolist()
    assert any("the 1m tier answered" in info for info in got.infos)
    await h.close()


# --- What is read -------------------------------------------------------------------------------


async def samples_read(h: History, ask: Ask) -> int:
    def work(querier: TieredQuerier) -> int:
        ask(querier)
        return querier._querier.stats.samples

    return await on(h, work)


async def test_closed_days_are_read_from_rollups_alone(tmp_path: Path) -> None:
    h = History(tmp_path, FIRST)
    await h.open()
    await days_of(h, np.random.default_rng(1), 3, late=False)
    end_ms = FIRST + 3 * DAY
    for text in ("rate(requests_total[1h])", "avg_over_time(level[2h])", "level", "level @ end()"):
        assert await samples_read(h, Ask(text, FIRST, end_ms, HOUR)) == 0, text
    # Samples of the two days that the window begins and ends in, one bucket a day between.
    long = Ask("max_over_time(requests_total[2d])", 0, FIRST + 5 * DAY // 2 + 17 * SECOND, 0)
    every = await samples_read(h, Ask("quantile_over_time(0.5, requests_total[2d])", *_at(long)))
    assert 0 < await samples_read(h, long) < every
    await h.close()


def _at(ask: Ask) -> tuple[int, int, int]:
    return ask.start_ms, ask.end_ms, ask.step_ms


async def test_damaged_row_gives_way_to_samples(tmp_path: Path) -> None:
    h = History(tmp_path, FIRST)
    await h.open()
    await days_of(h, np.random.default_rng(2), 2, late=False)
    ask = Ask("sum_over_time(level[1h])", FIRST, FIRST + 2 * DAY, HOUR)
    want = await answer(h, ask, "raw")
    series = h.store.index.find(GAUGES[0])
    other = h.store.index.find(GAUGES[1])
    assert series is not None
    assert other is not None
    bad = rollup_key(Tier.H1, day_of(FIRST + 1), series.ref)
    empty = rollup_key(Tier.H1, day_of(FIRST + 1), other.ref)

    def damage(connection: Any) -> None:
        connection.execute("UPDATE rollup SET data = x'00112233' WHERE id = ?", (bad,))
        sql = "UPDATE rollup SET data = x'7766554433', crc = ? WHERE id = ?"
        connection.execute(sql, (crc(b"\x77\x66\x55\x44\x33", empty), empty))

    await h.store.writer.run(damage)
    assert_same(await answer(h, ask), want, ask)
    assert h.store.stats.corrupt["rollup"] == 2
    assert_same(await answer(h, ask), want, ask)
    await h.close()


async def test_late_samples_are_in_the_next_answer(tmp_path: Path) -> None:
    h = History(tmp_path, FIRST)
    await h.open()
    await days_of(h, np.random.default_rng(3), 2, late=False)
    ask = Ask("max_over_time(level[1h])", FIRST, FIRST + 2 * DAY, HOUR)
    await answer(h, ask)
    at_ms = FIRST + 90 * MINUTE
    assert h.points([(GAUGES[0], at_ms, 1e9)]) == [""]
    for _ in range(2):
        got = await answer(h, ask)
        row = got.labels.index(GAUGES[0].without("__name__"))
        assert got.values[row, 2] == 1e9
        await h.compact()
    await h.close()


async def test_loose_points_alone_are_series_like_others(tmp_path: Path) -> None:
    h = History(tmp_path, FIRST)
    await h.open()
    for day in range(2):
        h.points((LOOSE[0], FIRST + day * DAY + n * HOUR + 7, n * 1.5) for n in range(1, 20))
        await h.next_day()
        await h.compact()
    for text in ("count_over_time(pushed[1d])", "pushed", "delta(pushed[6h])"):
        ask = Ask(text, FIRST, FIRST + 2 * DAY, HOUR)
        assert_same(await answer(h, ask), await answer(h, ask, "raw"), ask)
    await h.close()
