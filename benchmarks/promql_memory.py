"""
Memory and CPU of aggregating very many series, whose frames are made one by one.

Run: ``python benchmarks/promql_memory.py [SERIES [HOURS]]`` (100,000 series of 24 h at 10 s by
default: 864 M samples, 6.9 GB if they were held at once). The second part reads the same number of
series of one hour as frames of one series each, with times of their own.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tachograph.aggregation.promql.engine import Engine
from tachograph.config.selector import Matcher
from tachograph.storage.frame import Frame
from tachograph.storage.model import Kind, Labels, Series

INTERVAL_MS, END_MS = 10_000, 1_767_571_200_000
ROWS_PER_GROUP = 500


class Frames(Iterable[Frame]):
    """Frames that exist only while they are looked at, as a store that decodes gives them."""

    def __init__(self, series: int, hours: float, rows: int) -> None:
        self.series, self.rows = series, rows
        self.ticks = int(hours * 3_600_000 / INTERVAL_MS)
        rng = np.random.default_rng(1)
        grown = np.cumsum(rng.integers(0, 20, (rows, self.ticks)), axis=1)
        self.values = grown.astype(np.float64)

    def __iter__(self) -> Iterator[Frame]:
        ticks = np.arange(self.ticks)[::-1] * INTERVAL_MS
        for number in range(self.series // self.rows):
            first = number * self.rows
            members = [self._member(first + row) for row in range(self.rows)]
            yield Frame(members, END_MS - number % 9_000 - ticks, self.values + number, False)

    def _member(self, number: int) -> Series:
        labels = {"job": f"job{number % 7}", "instance": f"host{number // 50}", "n": str(number)}
        return Series(number + 1, Labels.of(labels, "x_total"), Kind.UNKNOWN, 0)


class Querier:
    def __init__(self, frames: Frames) -> None:
        self.frames = frames

    def select(self, matchers: Sequence[Matcher], min_ms: int, max_ms: int) -> Iterable[Frame]:
        return self.frames


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(frames: Frames, text: str, hours: float) -> None:
    start_ms = END_MS - int((hours - 0.1) * 3_600_000)
    step_ms = (END_MS - start_ms) // 287
    before, began = peak_mib(), time.process_time()
    result = Engine().range(Querier(frames), text, start_ms, END_MS, step_ms)
    took = time.process_time() - began
    print(
        f"{took:8.2f} s CPU  +{peak_mib() - before:6.0f} MiB  "
        f"peak {result.stats.samples_peak / 1e6:5.2f} M samples  "
        f"{len(result.labels)} series  {text}"
    )


def main() -> None:
    series = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    hours = float(sys.argv[2]) if len(sys.argv) > 2 else 24.0
    for part, rows in ((hours, ROWS_PER_GROUP), (1.0, 1)):
        frames = Frames(series, part, rows)
        samples = series * frames.ticks / 1e6
        print(f"{series} series of {part:g} h in frames of {rows}: {samples:.0f} M samples")
        began = time.process_time()
        for _ in frames:
            pass
        print(f"{time.process_time() - began:8.2f} s CPU for making the frames alone")
        measure(frames, "sum(rate(x_total[5m]))", part)
        measure(frames, "sum by (instance) (rate(x_total[5m]))", part)
        measure(frames, "topk(5, x_total)", part)


if __name__ == "__main__":
    main()
