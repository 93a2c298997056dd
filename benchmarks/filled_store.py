"""Fills a store with the peers' data sets, by its own API and under a clock of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tachograph.aggregation.compactor import Compactor
from tachograph.config.settings import RetentionSettings, StorageSettings
from tachograph.storage.model import Kind, Labels
from tachograph.storage.store import Store

DAY_MS = 86_400_000
#: Made at this time, so that a filled directory can be used again.
NOW_S = 1_767_617_400  # 2026-01-05 12:50 UTC
_GENERATOR = Path(__file__).resolve().parents[2] / "shared" / "tools" / "peers" / "gen.py"
_TICKS = 720


class FixedClock:
    """Stands still unless it is set."""

    def __init__(self, now_ms: int) -> None:
        self.now = now_ms

    def now_ms(self) -> int:
        return self.now

    def monotonic_s(self) -> float:
        return self.now / 1000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)

    def is_synchronised(self) -> bool | None:
        return None


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peer_gen", _GENERATOR)
    if spec is None or spec.loader is None or not _GENERATOR.exists():
        raise SystemExit(f"{_GENERATOR} is not there: it makes the data")
    module = importlib.util.module_from_spec(spec)
    sys.modules["peer_gen"] = module
    spec.loader.exec_module(module)
    return module


async def open_filled(directory: Path, size: str, *, raw_days: int = 100) -> Store:
    """
    Return an open store with the data set ``size`` (``XS``, ``S``, ``M``, ``L``): all closed days
    compacted, the rest sealed. A directory that was filled before is opened as it is.

    Args:
        raw_days: How long raw samples are kept; what is older goes now.
    """
    clock = FixedClock(NOW_S * 1000)
    settings = StorageSettings(
        path=directory / size,
        ballast_bytes=0,
        max_bytes=1 << 40,
        retention=RetentionSettings(raw_ms=raw_days * DAY_MS),
    )
    known = (directory / size / "samples.db").exists()
    store = Store(settings, clock)
    await store.open()
    if not known:
        await _fill(store, clock, _generator().make(size, now=NOW_S))
        await store.seal()
        await Compactor(store, rest=0).run_once()
    await store.retention.run_once()
    return store


async def _fill(store: Store, clock: FixedClock, data: Any) -> None:
    members: dict[str, list[int]] = {}
    for row, labels in enumerate(data.labels):
        members.setdefault(labels["instance"], []).append(row)
    counters = ("counter", "histogram")
    refs, times = {}, {}
    for instance, rows in members.items():
        group = store.group(instance)
        numbers = []
        for row in rows:
            labels = {k: v for k, v in data.labels[row].items() if k != "__name__"}
            kind = Kind.COUNTER if data.kinds[row] in counters else Kind.GAUGE
            numbers.append(group.ref(Labels.of(labels, data.labels[row]["__name__"]), kind))
        refs[instance] = np.array(numbers, np.uint32)
        times[instance] = data.times_ms(rows[0])
    for low in range(0, data.n_steps, _TICKS):
        high = min(data.n_steps, low + _TICKS)
        for instance, rows in members.items():
            ts = times[instance][low:high]
            clock.now = max(clock.now if low else 0, int(ts[-1]))
            cells = data.values[rows, low:high].T
            present = ~np.isnan(cells)
            changed = (present[1:] != present[:-1]).any(axis=1)
            cuts = [0, *(np.flatnonzero(changed) + 1).tolist(), high - low]
            for first, last in itertools.pairwise(cuts):
                here = present[first]
                if here.any():
                    values = np.ascontiguousarray(cells[first:last, here])
                    store.group(instance).append_ticks(ts[first:last], refs[instance][here], values)
            if store.pending_samples > 500_000:
                await store.flush()
        await store.flush()
        await store.sealer.seal_due()
    clock.now = NOW_S * 1000
