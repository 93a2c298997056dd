"""
Reading metrics pages: ours beside prometheus_client, in one run; and whole scrapes over loopback.

    python benchmarks/scrape_parse.py

CPU milliseconds, the median of several rounds, for a page of counters, gauges and histograms.
``cold`` is the first page of a target, ``warm`` every further one (all values changed), ``churn``
one with 1 % of new series, ``timestamps`` a warm one whose samples carry timestamps. ``scrape`` is
the whole of a warm pass: request, gzip, parsing, one append to a sink that drops it; ``server`` is
not in it.
"""

from __future__ import annotations

import asyncio
import gzip
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import cycle

import numpy as np
from aiohttp import web
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tachograph.agent.collectors.scrape_http import open_session
from tachograph.agent.collectors.scrape_pool import ScrapePool
from tachograph.agent.ingest.exposition import Parser, Syntax
from tachograph.config.prometheus import GlobalSettings, ScrapeConfig, StaticConfig
from tachograph.storage.clock import SystemClock
from tachograph.storage.frame import FloatArray, IntArray, RefArray
from tachograph.storage.model import Kind, Labels, Metadata

ROUNDS = 21
BOUNDS = (".005", ".01", ".025", ".05", ".1", ".25", ".5", "1", "2.5", "5", "10", "+Inf")


def page(lines: int, seed: int, syntax: Syntax = Syntax.TEXT, shift: int = 0) -> bytes:
    """Return a page of as many samples; another ``shift`` gives so many other series."""
    random = np.random.default_rng(seed)
    out: list[str] = []
    count = 0
    total = "" if syntax is Syntax.OPENMETRICS else "_total"
    for family in range(lines):
        if count >= lines:
            break
        kind = ("counter", "gauge", "histogram")[family % 3]
        name = f"app_part{family}_{kind}"
        out.append(f"# HELP {name}{total if kind == 'counter' else ''} Things of kind {family}.")
        out.append(f"# TYPE {name}{total if kind == 'counter' else ''} {kind}")
        for number in range(48 if kind != "histogram" else 4):
            labels = f'method="GET",path="/api/v1/item/{number + shift}",status="200"'
            value = float(random.integers(0, 10**6)) if kind == "counter" else random.random() * 99
            if kind == "histogram":
                steps = np.cumsum(random.integers(0, 100, len(BOUNDS)))
                for bound, step in zip(BOUNDS, steps, strict=True):
                    out.append(f'{name}_bucket{{{labels},le="{bound}"}} {step}')
                out.append(f"{name}_sum{{{labels}}} {value!r}")
                out.append(f"{name}_count{{{labels}}} {steps[-1]}")
                count += len(BOUNDS) + 2
                continue
            suffix = "_total" if kind == "counter" else ""
            out.append(f"{name}{suffix}{{{labels}}} {value!r}")
            count += 1
    if syntax is Syntax.OPENMETRICS:
        out.append("# EOF")
    return ("\n".join(out) + "\n").encode()


def cpu_ms(run: Callable[[], object], rounds: int = ROUNDS) -> float:
    spent = []
    for _ in range(rounds):
        before = time.process_time()
        run()
        spent.append(time.process_time() - before)
    return statistics.median(spent) * 1000


def parsing(lines: int, syntax: Syntax) -> dict[str, float]:
    """Return the milliseconds of each case."""
    pages = [page(lines, seed, syntax) for seed in range(3)]
    turn = cycle(pages)
    parser = Parser()
    assert len(parser.parse(pages[0], syntax)) >= lines
    stamp = b" 1700000000123" if syntax is Syntax.TEXT else b" 1700000000.123"
    first = pages[0].split(b"\n")
    stamped = b"\n".join(line if line[:1] in (b"#", b"") else line + stamp for line in first)
    churned = iter(
        [
            b"\n".join(
                line if i % 100 else line.replace(b"GET", f"NEW{n}".encode())
                for i, line in enumerate(first)
            )
            for n in range(ROUNDS)
        ]
    )
    theirs = parse_text if syntax is Syntax.TEXT else parse_openmetrics
    text = pages[0].decode()
    return {
        "cold": cpu_ms(lambda: Parser().parse(pages[0], syntax), 5),
        "warm": cpu_ms(lambda: parser.parse(next(turn), syntax)),
        "churn": cpu_ms(lambda: parser.parse(next(churned), syntax)),
        "timestamps": cpu_ms(lambda: parser.parse(stamped, syntax)),
        "prometheus_client": cpu_ms(lambda: list(theirs(text)), 3),
    }


class Nowhere:
    """A sink and a group that forget samples."""

    def __init__(self) -> None:
        self.refs: dict[Labels, int] = {}

    def group(self, name: str) -> Nowhere:
        return self

    def ref(self, labels: Labels, kind: Kind = Kind.UNKNOWN) -> int:
        return self.refs.setdefault(labels, len(self.refs) + 1)

    def append(self, ts_ms: int, refs: RefArray, values: FloatArray) -> None: ...

    def append_points(self, refs: RefArray, ts_ms: IntArray, values: FloatArray) -> None: ...

    def describe(self, family: str, metadata: Metadata) -> None: ...

    async def committed(self) -> None: ...


async def scraping(lines: int, port: int) -> None:
    sink = Nowhere()
    static = StaticConfig(targets=(f"127.0.0.1:{port}",))
    config = ScrapeConfig(
        job_name="bench", static_configs=(static,), metrics_path=f"/{lines}"
    ).resolved(GlobalSettings())
    async with open_session() as session:
        pool = ScrapePool(sink, SystemClock(), session)
        [source] = await pool.apply([config])
        spent, blocked = [], []
        for number in range(ROUNDS):
            ticker = asyncio.create_task(longest_block())
            await asyncio.sleep(0)
            before = time.process_time()
            await source.collect(1000 * (number + 1))
            spent.append(time.process_time() - before)
            ticker.cancel()
            blocked.append(await ticker)
            assert source.status.last_error == "", source.status
    where = "in a thread" if pool.stats.in_thread > ROUNDS // 2 else "on the loop"
    cpu = statistics.median(spent) * 1000
    print(
        f"scrape of {lines:6} series{cpu:8.2f} ms, {where};"
        f" longest wait of the loop: first {blocked[0] * 1000:.1f} ms,"
        f" then {statistics.median(blocked[1:]) * 1000:.1f} ms"
    )


async def longest_block() -> float:
    longest, before = 0.0, time.perf_counter()
    try:
        while True:
            await asyncio.sleep(0.0005)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now
    except asyncio.CancelledError:
        return max(longest, time.perf_counter() - before)


def serve() -> None:
    """Be the target, in a process of its own; print the port."""
    pages = {
        f"/{lines}": cycle([gzip.compress(page(lines, seed), 1) for seed in range(3)])
        for lines in (1_000, 10_000)
    }

    async def answer(request: web.BaseRequest) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4", "Content-Encoding": "gzip"}
        return web.Response(body=next(pages[request.path]), headers=headers)

    async def main() -> None:
        runner = web.ServerRunner(web.Server(answer, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())


def main() -> None:
    for lines in (1_000, 10_000):
        columns = [parsing(lines, syntax) for syntax in (Syntax.TEXT, Syntax.OPENMETRICS)]
        print(f"{f'{lines} series':20}{'text':>10}{'OpenMetrics':>14}")
        for case in columns[0]:
            print(f"{case:20}{columns[0][case]:10.2f} ms{columns[1][case]:11.2f} ms")
        print()
    # As the agent does: other threads wait less for the interpreter.
    sys.setswitchinterval(0.0005)
    command = [sys.executable, __file__, "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            for lines in (1_000, 10_000):
                asyncio.run(scraping(lines, port))
        finally:
            server.terminate()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        main()
