"""
``/metrics`` of 1,000 and 10,000 series: ours beside prometheus_client, in one run.

    python benchmarks/exposition_render.py

CPU milliseconds, the median of several renders. ``cold`` is the first render of a process: every
line is laid out. ``steady`` finds all values changed since the render before, ``calm`` one in ten,
``idle`` none; ``churn`` finds five series more.
``gzip on top`` is what a scraper that accepts gzip costs besides (in another thread).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from tachograph.agent.http.exposition import ExpositionRenderer, gzipped
from tachograph.agent.http.negotiation import Style
from tachograph.storage.current import Current
from tachograph.storage.metadata import Families
from tachograph.storage.model import Kind, Labels, Metadata, MetricType, Series

TEXT, OPENMETRICS = Style(openmetrics=False, utf8=False), Style(openmetrics=True, utf8=False)
ROUNDS = 30


class Store:
    """As many series as asked for: half counters, a third gauges, the rest histograms."""

    def __init__(self, lines: int) -> None:
        self.version = 1
        self.all: list[Series] = []
        self.families = Families()
        self.current = Current()
        self.random = np.random.default_rng(1)
        for n in range(lines // 2):
            self.add(f"app{n % 50}_requests_total", Kind.COUNTER, path=f"/api/v1/item/{n}")
        for n in range(lines // 3):
            self.add(f"app{n % 50}_temperature_celsius", Kind.GAUGE, sensor=f"s{n}")
        for n in range((lines - len(self.all)) // 12):
            name = f"app{n % 5}_latency_seconds"
            for le in (".005", ".01", ".05", ".1", ".5", "1", "2.5", "5", "10", "+Inf"):
                self.add(f"{name}_bucket", Kind.BUCKET, le=le, handler=f"h{n}")
            self.add(f"{name}_sum", Kind.COUNTER, handler=f"h{n}")
            self.add(f"{name}_count", Kind.COUNTER, handler=f"h{n}")
        for n in range(50):
            self.families.set(f"app{n}_requests_total", Metadata(MetricType.COUNTER, "Requests."))
            self.families.set(f"app{n}_temperature_celsius", Metadata(MetricType.GAUGE, "Degrees."))
            self.families.set(f"app{n}_latency_seconds", Metadata(MetricType.HISTOGRAM, "Seconds."))

    def add(self, name: str, kind: Kind, **labels: str) -> None:
        labels |= {"instance": "127.0.0.1:9100", "job": "bench"}
        self.all.append(Series(len(self.all) + 1, Labels.of(labels, name), kind, 0))

    def series(self) -> Iterable[Series]:
        return self.all

    def tick(self, ts_ms: int, share: float) -> None:
        refs = np.arange(1, len(self.all) + 1, dtype=np.uint32)
        refs = refs[self.random.random(len(refs)) < share]
        self.current.update(refs, ts_ms, np.round(self.random.random(len(refs)) * 1e6, 3))


def client_registry(lines: int) -> CollectorRegistry:
    registry = CollectorRegistry()
    counters = [
        Counter(f"app{n}_requests", "Requests.", ["path", "instance", "job"], registry=registry)
        for n in range(50)
    ]
    gauges = [
        Gauge(f"app{n}_celsius", "Degrees.", ["sensor", "instance", "job"], registry=registry)
        for n in range(50)
    ]
    labels = ["handler", "instance", "job"]
    buckets = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10)
    histograms = [
        Histogram(f"app{n}_seconds", "Seconds.", labels, buckets=buckets, registry=registry)
        for n in range(5)
    ]
    where = ("127.0.0.1:9100", "bench")
    # The text format repeats each counter as a `_created` gauge, which is more work, not less;
    # a real registry has the same.
    for n in range(lines // 2):
        counters[n % 50].labels(f"/api/v1/item/{n}", *where).inc(n * 1.1)
    for n in range(lines // 3):
        gauges[n % 50].labels(f"s{n}", *where).set(n * 1.1)
    for n in range(lines // 6 // 12):
        histograms[n % 5].labels(f"h{n}", *where).observe(0.3)
    return registry


def cpu_ms(function: Callable[[], object], before: Callable[[], object], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        before()
        start = time.process_time_ns()
        function()
        taken.append((time.process_time_ns() - start) / 1e6)
    return statistics.median(taken)


def measure_ours(lines: int, style: Style) -> dict[str, float]:
    store = Store(lines)
    now_ms = 1_800_000_000_000
    store.tick(now_ms, 1.0)

    def new() -> ExpositionRenderer:
        return ExpositionRenderer(store, store.current, store.families)

    figures = {"cold": cpu_ms(lambda: new().render(style, now_ms), lambda: None, 5)}
    renderer = new()

    def render() -> bytes:
        return renderer.render(style, now_ms)

    for name, share in (("steady", 1.0), ("calm", 0.1), ("idle", 0.0)):
        render()
        figures[name] = cpu_ms(render, partial(store.tick, now_ms, share), ROUNDS)

    def churn() -> None:
        for n in range(5):
            store.add("app1_requests_total", Kind.COUNTER, path=f"/new/{len(store.all)}/{n}")
        store.version += 1
        store.tick(now_ms, 1.0)

    figures["churn"] = cpu_ms(render, churn, 5)
    page = render()
    figures["gzip on top"] = cpu_ms(lambda: gzipped(page), lambda: None, 5)
    return figures


def main() -> None:
    print(f"{'series':>7} {'format':<12} {'':<18} {'CPU ms':>8}")
    for lines in (1_000, 10_000):
        registry = client_registry(lines)
        for label, style, client in (
            ("text", TEXT, generate_latest),
            ("openmetrics", OPENMETRICS, openmetrics.generate_latest),
        ):
            peer = cpu_ms(partial(client, registry), lambda: None, 5)
            print(f"{lines:>7} {label:<12} {'prometheus_client':<18} {peer:>8.2f}")
            for name, figure in measure_ours(lines, style).items():
                print(f"{lines:>7} {label:<12} {'ours, ' + name:<18} {figure:>8.2f}")


if __name__ == "__main__":
    main()
