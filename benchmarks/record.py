"""
What ``record()`` costs the caller, beside prometheus_client's gauge, in one run.

    python benchmarks/record.py

Nanoseconds per call, the median of several rounds. The flush is what the agent pays
per value later, on its own time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from tachograph.agent.ingest.recorder import Recorder
from tachograph.config.settings import CustomSettings
from tachograph.storage.clock import SystemClock
from tachograph.storage.frame import FloatArray, IntArray, RefArray
from tachograph.storage.model import Kind, Labels

# As many as the default buffer holds between two flushes.
CALLS = 1_000
ROUNDS = 300


class Store:
    """Takes everything and keeps nothing."""

    def group(self, _: str) -> Store:
        return self

    def ref(self, labels: Labels, kind: Kind = Kind.UNKNOWN) -> int:
        return 1

    def append(self, ts_ms: int, refs: RefArray, values: FloatArray) -> None:
        pass

    def append_points(self, refs: RefArray, ts_ms: IntArray, values: FloatArray) -> None:
        pass


def ns_per_call(body: Callable[[int], object], after: Callable[[], object]) -> float:
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter_ns()
        body(CALLS)
        taken.append((time.perf_counter_ns() - start) / CALLS)
        after()
    return statistics.median(taken)


def main() -> None:
    labels = {"shop": "7", "region": "eu"}
    recorder = Recorder(Store(), CustomSettings(buffer_size=2 * CALLS), SystemClock())
    full = Recorder(Store(), CustomSettings(buffer_size=1), SystemClock())
    gauge = Gauge("a", "A.", ["shop", "region"], registry=CollectorRegistry())
    child = gauge.labels(**labels)

    def record(calls: int) -> None:
        for _ in range(calls):
            recorder.record("a", 1.5)

    def record_labels(calls: int) -> None:
        for _ in range(calls):
            recorder.record("a", 1.5, labels)

    def record_full(calls: int) -> None:
        for _ in range(calls):
            full.record("a", 1.5, labels)

    def record_and_flush(calls: int) -> None:
        record_labels(calls)
        recorder.flush(calls)

    def set_labels(calls: int) -> None:
        for _ in range(calls):
            gauge.labels(**labels).set(1.5)

    def set_child(calls: int) -> None:
        for _ in range(calls):
            child.set(1.5)

    for name, body in (
        ("record(name, value)", record),
        ("record(name, value, labels)", record_labels),
        ("the same, and its flush", record_and_flush),
        ("record() into a full buffer", record_full),
        ("prometheus_client labels().set()", set_labels),
        ("prometheus_client child.set()", set_child),
    ):
        print(f"{name:<34} {ns_per_call(body, lambda: recorder.flush(CALLS)):>7.0f} ns")


if __name__ == "__main__":
    main()
