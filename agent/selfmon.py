"""The agent's own metrics: everybody's plain counters as a source of ``tachograph_*`` series."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from ..storage.model import MetricType
from ..storage.sink import Sink
from .collectors.tick import Block, Family, TickWriter
from .loop_lag import BOUNDS_S, LoopLag

GROUP: Final = "tachograph"

#: Label values and number, or just a number for a metric without labels.
Reading = float | Mapping[str, float]
Read = Callable[[], Reading]


class SelfMetric:
    """
    One metric of ours.

    Args:
        read: Returns its value, or values by the value of ``label``.
        waits: Whether that asks a disk, which may take its time: it is done in a thread then.
    """

    def __init__(
        self, name: str, help: str, read: Read, label: str = "", *, waits: bool = False
    ) -> None:
        kind = MetricType.COUNTER if name.endswith("_total") else MetricType.GAUGE
        self.family = Family(f"tachograph_{name}", kind, help)
        self.read, self.label, self.waits = read, label, waits

    def block(self) -> Block:
        reading = self.read()
        if not isinstance(reading, Mapping):
            return Block(self.family.name, [float(reading)], lambda: [(self.family, {})])
        values = dict(reading)
        names = tuple(values)
        return Block(
            (self.family.name, *names),
            [float(value) for value in values.values()],
            lambda: [(self.family, {self.label: name}) for name in names],
        )


class SelfMonitor:
    """A :class:`~.collectors.source.Source` that reads the components of this process."""

    name = "tachograph"
    backs_off = False
    reports_itself = False
    timeout_s = 5.0

    def __init__(
        self, sink: Sink, metrics: Sequence[SelfMetric], lag: LoopLag, interval_s: float
    ) -> None:
        self.interval_s = interval_s
        self._metrics = list(metrics)
        self._lag = lag
        self._writer = TickWriter(sink, GROUP)
        duplicates = len(self._metrics) - len({m.family.name for m in self._metrics})
        assert not duplicates, "two metrics have one name"

    async def collect(self, ts_ms: int) -> None:
        slow = [metric for metric in self._metrics if metric.waits]
        blocks = await asyncio.to_thread(lambda: [metric.block() for metric in slow])
        blocks += [metric.block() for metric in self._metrics if not metric.waits]
        blocks += [_lag_block(self._lag), _gc_block()]
        self._writer.write(ts_ms, blocks)

    async def close(self) -> None:
        return None


_LAG: Final = Family(
    "tachograph_event_loop_lag_seconds",
    MetricType.HISTOGRAM,
    "How late the event loop woke up, sampled ten times a second.",
)
_GC: Final = Family(
    "tachograph_gc_collections_total",
    MetricType.COUNTER,
    "Runs of the garbage collector by generation.",
)
#: What :class:`SelfMonitor` adds to what it is given: families and their labels.
OF_PROCESS: Final = ((_LAG, "le"), (_GC, "generation"))


def _lag_block(lag: LoopLag) -> Block:
    added_up: list[float] = []
    for count in lag.counts:
        added_up.append(count + (added_up[-1] if added_up else 0))
    return Block("event_loop_lag", [*added_up, lag.sum_s, added_up[-1]], _lag_series)


def _lag_series() -> Iterable[tuple[Family, Mapping[str, str]]]:
    bucket, total, count = (
        replace(_LAG, suffix=suffix) for suffix in ("_bucket", "_sum", "_count")
    )
    for bound in (*(f"{b:g}" for b in BOUNDS_S), "+Inf"):
        yield bucket, {"le": bound}
    yield total, {}
    yield count, {}


def _gc_block() -> Block:
    runs = [float(each["collections"]) for each in gc.get_stats()]
    return Block("gc", runs, lambda: [(_GC, {"generation": str(i)}) for i in range(len(runs))])
