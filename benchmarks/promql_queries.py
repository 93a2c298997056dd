"""
CPU time of range and instant queries over decoded samples in memory.

Run: ``python benchmarks/promql_queries.py [SERIES [HOURS]]`` (2,000 series of 24 h at 10 s by
default, in groups of 250). The samples are made beforehand: what is measured is the engine alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np

from tachograph.aggregation.promql.engine import Engine, EngineOptions
from tachograph.config.selector import Matcher
from tachograph.storage.frame import Frame, IntArray
from tachograph.storage.model import Kind, Labels, Series

INTERVAL_MS = 10_000
END_MS = 1_767_571_200_000
ROWS_PER_GROUP = 250

RANGE_QUERIES = (
    "x_total",
    "sum(x_total)",
    "sum(rate(x_total[5m]))",
    "sum by (job) (rate(x_total[5m]))",
    "rate(x_total[5m])",
    "increase(x_total[1h])",
    "irate(x_total[1m])",
    "avg_over_time(gauge[5m])",
    "max_over_time(gauge[1h])",
    "sum(sum_over_time(gauge[1h]))",
    "count(changes(gauge[15m]) > 3)",
    "stddev_over_time(gauge[5m])",
    "quantile_over_time(0.9, gauge[5m])",
    "deriv(gauge[5m])",
    "topk(5, rate(x_total[5m]))",
    "quantile(0.9, gauge)",
    "rate(x_total[5m]) / on(instance, n) gauge",
    "max_over_time(sum(rate(x_total[5m]))[30m:1m])",
)
INSTANT_QUERIES = (
    "x_total",
    "sum by (job) (x_total)",
    "sum(rate(x_total[5m]))",
    "topk(5, gauge)",
    "rate(x_total[5m]) > 0.5",
    "label_replace(gauge, 'a', '$1', 'instance', '(.*)')",
)


class Groups:
    """Groups of counters and gauges, one time vector each; frames are cut out as asked for."""

    def __init__(self, series: int, hours: float) -> None:
        rng = np.random.default_rng(1)
        ticks = int(hours * 3_600_000 / INTERVAL_MS)
        self.frames: list[Frame] = []
        for first in range(0, series, ROWS_PER_GROUP):
            rows = min(ROWS_PER_GROUP, series - first)
            offset = int(rng.integers(INTERVAL_MS))
            times: IntArray = END_MS - offset - np.arange(ticks)[::-1] * INTERVAL_MS
            for name in ("x_total", "gauge"):
                values = rng.normal(50, 10, (rows, ticks))
                if name == "x_total":
                    values = np.cumsum(rng.integers(0, 20, (rows, ticks)), axis=1, dtype=float)
                members = [self._series(name, first + row) for row in range(rows)]
                self.frames.append(Frame(members, times, values, has_absent=False))

    def _series(self, name: str, number: int) -> Series:
        labels = {"job": f"job{number % 7}", "instance": f"host{number // 50}", "n": str(number)}
        return Series(number + 1, Labels.of(labels, name), Kind.UNKNOWN, 0)

    def select(self, matchers: Sequence[Matcher], min_ms: int, max_ms: int) -> Sequence[Frame]:
        name = next(m.value for m in matchers if m.name == "__name__")
        found = []
        for frame in self.frames:
            if frame.series[0].labels.name == name:
                first, last = np.searchsorted(frame.ts_ms, (min_ms, max_ms + 1))
                values = frame.values[:, first:last]
                found.append(Frame(frame.series, frame.ts_ms[first:last], values, False))
        return found


def main() -> None:
    series = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    hours = float(sys.argv[2]) if len(sys.argv) > 2 else 24.0
    groups = Groups(series, hours)
    engine = Engine(EngineOptions(max_samples=1_000_000_000))
    start_ms = END_MS - int((hours - 1) * 3_600_000)
    step_ms = (END_MS - start_ms) // 287
    print(f"{series} series, {hours:g} h at 10 s; range queries of 288 steps")
    for kind, queries in (("range", RANGE_QUERIES), ("instant", INSTANT_QUERIES)):
        for text in queries:
            best = float("inf")
            for _ in range(3):
                began = time.process_time()
                if kind == "range":
                    result = engine.range(groups, text, start_ms, END_MS, step_ms)
                else:
                    result = engine.instant(groups, text, END_MS)
                best = min(best, time.process_time() - began)
            touched = result.stats.samples_total / 1e6
            print(
                f"{kind:8}{best * 1000:9.1f} ms  {touched:7.2f} M samples looked at  "
                f"peak {result.stats.samples_peak / 1e6:6.2f} M  {text}"
            )


if __name__ == "__main__":
    main()
