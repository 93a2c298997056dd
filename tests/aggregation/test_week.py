"""
A week at 10 s: days are compacted, raw samples and tiers expire by policy, the agent restarts,
samples come late and the clock is set. At the end of each day every tier is what the samples say.

Most hours are quiet; ``WEEK_HOURS=24 pytest tests/aggregation/test_week.py`` takes longer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from support.history import DAY, HOUR, MIDNIGHT, MINUTE, SECOND, History
from support.rollups import WIDTHS, Buckets, check_tier, orphans, recompute
from support.store import Samples, bits, refs_of, times, unpack
from tachograph.aggregation.rollup import Tier
from tachograph.config.settings import RetentionPolicy, RetentionSettings
from tachograph.storage.frame import STALE_NAN, IntArray
from tachograph.storage.keys import day_bounds, day_of
from tachograph.storage.model import STALE_NAN_BITS, Kind, Labels
from tachograph.storage.select import Querier

EVERY_MS = 10 * SECOND
#: Hours of the day in which samples come: some around noon, and those around midnight.
HOURS = range(24) if os.environ.get("WEEK_HOURS") == "24" else (0, 1, 12, 23)
RETENTION = RetentionSettings(
    raw_ms=2 * DAY, tier_1m_ms=3 * DAY, tier_5m_ms=4 * DAY, tier_1h_ms=30 * DAY
)
POLICIES = (
    RetentionPolicy(match='{job="debug"}', raw_ms=6 * HOUR, tier_1m_ms=DAY, tier_5m_ms=DAY),
    RetentionPolicy(match='{job="audit"}', raw_ms=4 * DAY),
)
TIERS = {Tier.M1: "1m", Tier.M5: "5m", Tier.H1: "1h", Tier.D1: "1d"}
JOBS = ("debug", "audit", "web", "host")
SERIES = {
    job: [
        (Labels.of({"job": job, "n": str(n)}, name), kind)
        for name, kind in (
            ("bytes_total", Kind.COUNTER),
            ("seconds_total", Kind.COUNTER),
            ("level", Kind.GAUGE),
            ("size", Kind.UNKNOWN),
        )
        for n in range(2)
    ]
    for job in JOBS
}
FIRST = day_of(MIDNIGHT + 1)


class Week:
    """Feeds a store by the hour, and knows what must be left of it."""

    def __init__(self, root: Path) -> None:
        self.h = History(root, MIDNIGHT + SECOND, retention=RETENTION, retention_policies=POLICIES)
        self.rng = np.random.default_rng(7)
        self.days: dict[int, Samples] = {}
        self._buckets: dict[tuple[int, Tier], Buckets] = {}
        self._last_ms = dict.fromkeys(JOBS, MIDNIGHT)

    async def hour(self) -> None:
        await self.h.clock.advance(HOUR)
        now_ms = self.h.clock.now_ms()
        hour_ms = (now_ms - 1) // HOUR * HOUR
        if hour_ms % DAY // HOUR not in HOURS:
            return
        for job in JOBS:
            self._last_ms[job] = max(self._last_ms[job], hour_ms)
            first_ms = self._last_ms[job] // EVERY_MS * EVERY_MS + EVERY_MS
            ts = np.arange(first_ms, now_ms + 1, EVERY_MS)
            if job == "host":
                ts = ts + self.rng.integers(-900, 900, len(ts))
            if self.rng.random() < 0.1:
                ts = ts[: len(ts) // 2]  # a source that was away for a while
            if len(ts):
                self.ticks(job, ts)
                self._last_ms[job] = int(ts[-1])

    def ticks(self, job: str, ts: IntArray) -> None:
        store, rng, n = self.h.store, self.rng, len(ts)
        group = store.group(job)
        rows = []
        for labels, kind in SERIES[job]:
            if kind is Kind.COUNTER:
                row = np.cumsum(rng.poisson(20.0, n)).astype(np.float64)
                row += int(ts[0]) % 1_000_000  # each hour begins anew: often a reset
                row = row / 100 if labels.name == "seconds_total" else row
            else:
                row = np.round(rng.normal(50, 20, n), 2) if n % 2 else rng.normal(0, 1e3, n)
            row[rng.random(n) < 0.004] = STALE_NAN
            row[rng.random(n) < 0.002] = np.nan if kind is not Kind.COUNTER else STALE_NAN
            rows.append(row)
            self.expect(labels, ts.tolist(), bits(row))
        refs = refs_of(group.ref(labels, kind) for labels, kind in SERIES[job])
        assert not group.append_ticks(ts, refs, np.array(rows).T.copy())

    def late(self, back_ms: int) -> None:
        """A point or two of every job, where its raw samples are there still."""
        store, now_ms = self.h.store, self.h.clock.now_ms()
        for job in JOBS:
            series = [labels for labels, _ in SERIES[job][::3]]
            at = [now_ms - back_ms - 777 + n for n in range(len(series))]
            values = np.round(self.rng.normal(40, 9, len(series)), 1)
            refs = refs_of(store.group(job).ref(labels) for labels in series)
            refusal = store.append_points(refs, times(at), values)
            oldest_ms = now_ms - self.keep_ms(job, "raw")
            if refusal is None:
                assert at[0] >= oldest_ms
                for labels, ts, number in zip(series, at, bits(values), strict=True):
                    self.expect(labels, [ts], [number])
            else:
                assert at[0] < oldest_ms, refusal.reasons

    def expect(self, labels: Labels, ts: list[int], numbers: list[int]) -> None:
        for at, number in zip(ts, numbers, strict=True):
            self.days.setdefault(day_of(at), {}).setdefault(labels, {})[at] = number
        for day in {day_of(ts[0]), day_of(ts[-1])}:
            for tier in Tier:
                self._buckets.pop((day, tier), None)
                self._buckets.pop((day + 1, tier), None)  # the step from the day before

    # --- What must be left ----------------------------------------------------------------------

    @staticmethod
    def keep_ms(job: str, tier: str) -> int:
        policy = next((p for p in POLICIES if f'"{job}"' in p.match), None)
        keep = RETENTION if policy is None else policy.over(RETENTION)
        return keep.by_tier()[tier]

    def has_raw(self, labels: Labels, day: int) -> bool:
        """Raw samples go by whole days."""
        oldest_ms = self.h.clock.now_ms() - self.keep_ms(labels.get("job"), "raw")
        return day_bounds(day)[1] >= oldest_ms

    def has_tier(self, labels: Labels, day: int, tier: Tier) -> bool:
        if day not in self.h.store.ledger.compacted:
            return True
        keep_ms = self.keep_ms(labels.get("job"), TIERS[tier])
        return day >= day_of(self.h.clock.now_ms() - keep_ms)

    def buckets(self, day: int, tier: Tier) -> Buckets:
        found = self._buckets.get((day, tier))
        if found is None:
            found = self._buckets[day, tier] = {}
            for labels, samples in self.days[day].items():
                # With the last sample before, which is where the first step begins.
                before = dict(sorted(self._values_before(labels, day))[-1:])
                all_of_them = recompute({**before, **samples}, WIDTHS[tier])
                first_ms = day_bounds(day)[0]
                found[labels] = {e: b for e, b in all_of_them.items() if e >= first_ms}
        return found

    def _values_before(self, labels: Labels, day: int) -> Iterable[tuple[int, int]]:
        for earlier in range(day - 1, FIRST - 1, -1):
            found = [
                (ts, number)
                for ts, number in self.days[earlier].get(labels, {}).items()
                if number != STALE_NAN_BITS
            ]
            if found:
                return found
        return []

    async def check(self, days: Iterable[int], tiers: Iterable[Tier]) -> None:
        """Hold raw samples and tiers of some days to what is known of them, and nothing more."""
        tiers = list(tiers)

        def job(querier: Querier) -> None:
            for day in days:
                low_ms, high_ms = day_bounds(day)
                raw = {
                    labels: samples
                    for labels, samples in self.days[day].items()
                    if self.has_raw(labels, day)
                }
                assert unpack(querier.select((), low_ms, high_ms)) == raw
                for tier in tiers:
                    wanted = {
                        labels: buckets
                        for labels, buckets in self.buckets(day, tier).items()
                        if self.has_tier(labels, day, tier)
                    }
                    check_tier(querier, wanted, tier, low_ms - 1, high_ms)

        await self.h.store.read(job)
        assert not self.h.store.stats.corrupt.total()


async def test_week_of_compaction_and_retention(tmp_path: Path) -> None:
    week = Week(tmp_path)
    h = week.h
    await h.open()
    for day in range(FIRST, FIRST + 7):
        while day_of(h.clock.now_ms() + HOUR) == day:
            await week.hour()
            await h.store.seal()
            if week.rng.random() < 0.1:
                await h.reopen()
        week.late(30 * MINUTE)
        week.late(20 * HOUR + 30 * MINUTE)
        if day > FIRST:
            week.late(DAY)  # into a day that is compacted
        if day == FIRST + 2:
            h.clock.step(-3 * MINUTE)
        if day == FIRST + 4:
            h.clock.step(20 * MINUTE)
            await h.crash()
        await h.next_day()
        await h.compact()
        await h.store.retention.run_once()
        assert await h.store.days.pending() == []
        assert await orphans(h.store) == 0
        await week.check([d for d in (day - 1, day) if d >= FIRST], [Tier.M5, Tier.H1])
        await week.check([day], [Tier.M1, Tier.D1])
    await week.check(range(FIRST, FIRST + 7), Tier)
    assert h.store.ledger.catalogue.days == set(range(FIRST + 3, FIRST + 7)), "4 days"
    await h.close()
