"""
What instrumentation costs the backend, beside prometheus_client and a StatsD client, in one run.

    python benchmarks/client_cost.py

Nanoseconds of processor time per call (median of rounds, all three in turn), milliseconds of a
start over bare Python (best of runs, in fresh processes, on the clock and of the processor), and
resident memory added.
"""

from __future__ import annotations

import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import prometheus_client
import statsd

from tachograph.agent.client.registry import Limits, Registry

CALLS = 2_000
ROUNDS = 101
STARTS = 15

#: What a backend writes to have one counter and to count once.
PROGRAMS = {
    "tachograph": (
        "import tachograph; tachograph.counter('a_total', 'A.', ('b',)).labels('c').inc()"
    ),
    "tachograph, connected": (
        "import tachograph; tachograph.connect('/nowhere');"
        " tachograph.counter('a_total', 'A.', ('b',)).labels('c').inc()"
    ),
    "prometheus_client": (
        "import prometheus_client; prometheus_client.Counter('a', 'A.', ('b',)).labels('c').inc()"
    ),
    "tachograph, BackendMetrics and 1,000 series, connected": (
        "import tachograph; tachograph.connect('/nowhere'); tachograph.BackendMetrics('b');"
        " c = tachograph.counter('a_total', 'A.', ('b',));"
        " [c.labels(str(i)).inc() for i in range(1000)]"
    ),
    "statsd": "import statsd; statsd.StatsClient('127.0.0.1', 9).incr('a')",
}
_MEMORY = (
    "\nimport os; pages = int(open('/proc/self/statm').read().split()[1])"
    "\nprint(pages * os.sysconf('SC_PAGE_SIZE') // 1024)"
)


def ns_per_call(*bodies: Callable[[int], object] | None) -> list[float]:
    taken: list[list[float]] = [[] for _ in bodies]
    for _ in range(ROUNDS):
        for body, found in zip(bodies, taken, strict=True):
            if body is not None:
                start = time.thread_time_ns()
                body(CALLS)
                found.append((time.thread_time_ns() - start) / CALLS)
    return [statistics.median(found or [0.0]) for found in taken]


def loop(call: Callable[[], object]) -> Callable[[int], None]:
    def body(calls: int) -> None:
        for _ in range(calls):
            call()

    return body


def calls() -> None:
    registry = Registry(Limits(records=CALLS * (ROUNDS + 2)))
    plain = registry.counter("a_total", "A.")
    labelled = registry.counter("b_total", "B.", ("method", "code"))
    child = labelled.labels("GET", "200")
    gauge = registry.gauge("g")
    histogram = registry.histogram("h_seconds", "H.")
    full = Registry(Limits(records=0))
    source = prometheus_client.CollectorRegistry()
    their_plain = prometheus_client.Counter("a", "A.", registry=source)
    their_labelled = prometheus_client.Counter("b", "B.", ["method", "code"], registry=source)
    their_child = their_labelled.labels("GET", "200")
    their_gauge = prometheus_client.Gauge("g", "G.", registry=source)
    their_histogram = prometheus_client.Histogram("h", "H.", registry=source)
    # Somebody must listen, or every other send fails fast.
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", 0))
    sender = statsd.StatsClient("127.0.0.1", listener.getsockname()[1])
    labels = {"car": "1"}
    print(f"{'ns per call':<34}{'tachograph':>12}{'prometheus':>12}{'statsd':>9}")
    for name, *rows in (
        (
            "counter, bound series",
            loop(lambda: child.inc()),
            loop(lambda: their_child.inc()),
            None,
        ),
        (
            "counter, no labels",
            loop(lambda: plain.inc()),
            loop(lambda: their_plain.inc()),
            loop(lambda: sender.incr("a")),
        ),
        (
            "counter, labels looked up",
            loop(lambda: labelled.labels("GET", "200").inc()),
            loop(lambda: their_labelled.labels("GET", "200").inc()),
            None,
        ),
        (
            "gauge set",
            loop(lambda: gauge.set(1.5)),
            loop(lambda: their_gauge.set(1.5)),
            loop(lambda: sender.gauge("g", 1.5)),
        ),
        (
            "histogram observe",
            loop(lambda: histogram.observe(0.03)),
            loop(lambda: their_histogram.observe(0.03)),
            loop(lambda: sender.timing("h", 30)),
        ),
        ("record(name, value)", loop(lambda: registry.record("r", 1.5)), None, None),
        ("record(name, value, labels)", loop(lambda: full_records(registry, labels)), None, None),
        ("record() beyond its bound", loop(lambda: full.record("r", 1.5, labels)), None, None),
    ):
        registry.records.clear()
        cells = [f"{each:.0f}" if each else "-" for each in ns_per_call(*rows)]
        print(f"{name:<34}{cells[0]:>12}{cells[1]:>12}{cells[2]:>9}")
    (empty,) = ns_per_call(loop(lambda: None))
    print(f"{'(the empty loop is in all of these)':<34}{empty:>12.0f}")
    listener.close()


def full_records(registry: Registry, labels: dict[str, str]) -> None:
    registry.record("r", 1.5, labels)


def starts() -> None:
    print(f"\n{'start, over bare Python':<56}{'ms':>12}{'CPU ms':>12}{'RSS KiB':>9}")
    bare_ms, bare_cpu_ms, bare_kib = _start("pass")
    for name, program in PROGRAMS.items():
        ms, cpu_ms, kib = _start(program)
        print(f"{name:<56}{ms - bare_ms:>12.1f}{cpu_ms - bare_cpu_ms:>12.1f}", end="")
        print(f"{kib - bare_kib:>9}")
    print(f"{'(bare Python)':<56}{bare_ms:>12.1f}{bare_cpu_ms:>12.1f}{bare_kib:>9}")


def _start(program: str) -> tuple[float, float, int]:
    taken, cpu, kib = [], [], []
    for _ in range(STARTS):
        start, start_cpu = time.perf_counter(), _children_cpu_s()
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
        cpu.append((_children_cpu_s() - start_cpu) * 1000)
        taken.append((time.perf_counter() - start) * 1000)
        output = subprocess.run(
            [sys.executable, "-c", program + _MEMORY], check=True, capture_output=True, text=True
        ).stdout
        kib.append(int(output))
    return min(taken), min(cpu), round(statistics.median(kib))


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    calls()
    starts()
