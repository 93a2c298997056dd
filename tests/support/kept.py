"""Filling a store day by day, and which days of it are still there."""

from __future__ import annotations

from collections.abc import Callable, Coroutine

import numpy as np

from support.clock import ManualClock
from support.history import DAY, HOUR, MIDNIGHT, SECOND
from support.store import refs_of
from tachograph.aggregation.compactor import Compactor
from tachograph.storage.keys import day_of, split_rollup_key
from tachograph.storage.model import Kind, Labels
from tachograph.storage.store import Store

#: What the fixture ``opened`` gives: opens a store with some settings, closed after the test.
Open = Callable[..., Coroutine[None, None, Store]]

TODAY = day_of(MIDNIGHT + 1)
TIERS = {"1m": 1, "5m": 2, "1h": 3, "1d": 4}


async def noise(store: Store, clock: ManualClock, days: int, series: int = 40) -> None:
    """Some 0.6 MB of chunks a day."""
    rng = np.random.default_rng(1)
    labels = [Labels.of({"n": str(n)}, "noise") for n in range(series)]
    group = store.group("noise")
    refs = refs_of(group.ref(each, Kind.GAUGE) for each in labels)
    for _ in range(days):
        now_ms = clock.now_ms()
        ts = np.arange(now_ms - HOUR + 5 * SECOND, now_ms, 5 * SECOND)
        for part in np.array_split(ts, 3):
            group.append_ticks(part, refs, rng.normal(0, 1, (len(part), series)))
        await clock.advance(DAY)
        await store.seal()
        await Compactor(store, rest=0).run_once()


def raw_days(store: Store) -> list[int]:
    return sorted(day - TODAY for day in store.ledger.catalogue.days)


async def rollup_days(store: Store, tier: str, ref: int = 1) -> list[int]:
    rows = await store.writer.run(lambda c: c.execute("SELECT id FROM rollup").fetchall())
    keys = [split_rollup_key(key) for (key,) in rows]
    return sorted(day - TODAY for t, day, r in keys if (t, r) == (TIERS[tier], ref))
