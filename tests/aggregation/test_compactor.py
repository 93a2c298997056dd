"""Compaction: whatever has happened to a store, every tier is what its samples say."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
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
from tachograph.aggregation.compactor import Compactor
from tachograph.aggregation.rollup import Tier
from tachograph.storage.errors import StorageError

EXAMPLES = int(os.environ.get("ROLLUP_EXAMPLES", "40"))
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
                await h.check(tiers)
            await h.check()
            await h.next_day()
            await h.compact()
            await h.check_tidy()
            await h.check()
        finally:
            await h.close()

    with tempfile.TemporaryDirectory() as root:
        asyncio.run(run(Path(root)))
