"""
How long ``/metrics`` takes while heavy queries run: an agent of its own process with 10,000 series,
2,000 of them with a day at 10 s, the others current and pushed every 10 s.

    python benchmarks/exposition_under_load.py [--data DIR] [--seconds 60] [--clients 8] [--runs 3]

Clients of one more process ask range queries of 1 to 24 h without a pause, each with a start of its
own so that no answer is kept for it, and throw the answers away; by default twice as many as the
agent evaluates at a time (``promql.max_concurrency``). Meanwhile ``/metrics`` is fetched every 50
ms: milliseconds until its last byte, without queries and with them. One that took longer than 50 ms
makes the next one late, which counts as if it had been sent in time. CPU is in seconds per second.

Other programs' share of the cores shows in these figures more than anything else does: look at
``load``, the machine's load average before, and take several runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
from filled_store import NOW_S, open_filled
from promql_store import QUERIES

from tachograph.agent.wire import prompb, snappy

PUSHED = 8_000
PUSH_S = 10.0
PROBE_S = 0.05
#: One row of the tables.
ROW = "{:10}{:>8}{:>8}{:>8}{:>8}{:>8}{:>10}{:>10}{:>10}"


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Load:
    """Pushes samples and, while it is told to, asks queries; in a process of its own."""

    def __init__(self, port: int, clients: int, only: set[str], *, gzip: bool) -> None:
        self._port, self._clients, self._gzip = port, clients, gzip
        self._queries = [
            query
            for query in QUERIES
            if query[1] == "M" and query[2] != "instant" and (not only or query[0] in only)
        ]
        context = multiprocessing.get_context("spawn")
        self.asking: Synchronized[int] = context.Value("i", 0)
        self.answered: Synchronized[int] = context.Value("i", 0)
        self.process = context.Process(target=self._main, daemon=True)

    def _main(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._push())
            for number in range(self._clients):
                tasks.create_task(self._ask(random.Random(number)))

    async def _push(self) -> None:
        names = [
            [("__name__", f"app{n % 50}_requests_total"), ("job", "bench"), ("path", f"/item/{n}")]
            for n in range(PUSHED)
        ]
        values = np.zeros(PUSHED)
        generator = np.random.default_rng(1)
        connection = await asyncio.open_connection("127.0.0.1", self._port)
        while True:
            now_ms = int(time.time() * 1000)
            values += generator.integers(0, 100, PUSHED)
            rows = zip(names, values.tolist(), strict=True)
            body = prompb.write_request((labels, [(value, now_ms)]) for labels, value in rows)
            head = (
                "POST /api/v1/write HTTP/1.1\r\nHost: localhost\r\n"
                "Content-Type: application/x-protobuf\r\nContent-Encoding: snappy\r\n"
            )
            await _exchange(connection, head, snappy.compress(body))
            await asyncio.sleep(PUSH_S)

    async def _ask(self, chance: random.Random) -> None:
        packing = "Accept-Encoding: gzip\r\n" if self._gzip else ""
        while True:
            while not self.asking.value:  # noqa: ASYNC110  # told by another process
                await asyncio.sleep(0.05)
            connection = await asyncio.open_connection("127.0.0.1", self._port)
            while self.asking.value:
                _, _, _, text, seconds, step = chance.choice(self._queries)
                # To the millisecond: steps of another grid have no answer in the cache.
                end_s = round(NOW_S - 60 - chance.random() * 1_800, 3)
                asked = {"query": text, "start": end_s - seconds, "end": end_s, "step": step}
                head = (
                    f"GET /api/v1/query_range?{urlencode(asked)} HTTP/1.1\r\n"
                    f"Host: localhost\r\n{packing}"
                )
                await _exchange(connection, head, b"")
                self.answered.value += 1
            connection[1].close()


async def _exchange(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], head: str, body: bytes
) -> None:
    """Send a request, and take the answer without looking at more of it than must be."""
    reader, writer = connection
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    status = answer.split(b" ", 2)[1]
    _, _, length = answer.lower().partition(b"content-length:")
    left = int(length.split(b"\r\n", 1)[0]) if length else 0
    while left:
        left -= len(await reader.read(min(left, 1 << 20)))
    if not status.startswith(b"2"):
        raise SystemExit(f"{head.splitlines()[0]}: {answer.decode()}")


def probe(port: int, seconds: float, packing: str) -> list[float]:
    """Return how many milliseconds each of the pages took."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    took: list[float] = []
    began_s = due_s = time.perf_counter()
    while due_s < began_s + seconds:
        time.sleep(max(0.0, due_s - time.perf_counter()))
        # Waking up late is the machine's doing, being still busy with the last page is not.
        sent_s = time.perf_counter() if not took or took[-1] < PROBE_S * 1000 else due_s
        connection.request("GET", "/metrics", headers={"Accept-Encoding": packing})
        connection.getresponse().read()
        took.append((time.perf_counter() - sent_s) * 1000)
        due_s += PROBE_S
    connection.close()
    return took


def measure(name: str, port: int, agent: int, load: Load, args: argparse.Namespace) -> None:
    before = cpu_s(agent), cpu_s(load.process.pid or 0), load.answered.value
    began_s = time.monotonic()
    took = probe(port, args.seconds, "gzip" if args.gzip else "identity")
    passed_s = time.monotonic() - began_s
    after = cpu_s(agent), cpu_s(load.process.pid or 0), load.answered.value
    own, of_load, queries = ((new - old) / passed_s for new, old in zip(after, before, strict=True))
    figures = [float(np.percentile(took, share)) for share in (50, 95, 99, 99.9)]
    print(
        ROW.format(
            name,
            *(f"{figure:.1f}" for figure in [*figures, max(took)]),
            f"{queries:.1f}",
            f"{own:.2f}",
            f"{of_load:.2f}",
        ),
        flush=True,
    )


async def fill(directory: Path) -> None:
    store = await open_filled(directory, "M")
    await store.close()


def free_port() -> int:
    import socket

    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        port: int = probing.getsockname()[1]
        return port


def wait_ready(port: int, agent: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/-/ready"):
            return
        if agent.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit("the agent did not start")


def run(directory: Path, args: argparse.Namespace) -> None:
    asyncio.run(fill(directory))
    # What an agent adds to it is not there the next time.
    used = directory / "used"
    shutil.rmtree(used, ignore_errors=True)
    shutil.copytree(directory / "M", used)
    port = free_port()
    command = [sys.executable, "-m", "tachograph", "run", "--listen", f"127.0.0.1:{port}"]
    settings = [f"storage.path={used}", "storage.retention.raw=20y", "storage.ballast_bytes=0"]
    settings.append(f"promql.max_concurrency={args.concurrency}")
    settings.append("http.metrics_of_remote_writers=true")
    command += [part for each in settings for part in ("--set", each)]
    agent = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    load = Load(port, args.clients, set(filter(None, args.only.split(","))), gzip=args.gzip)
    try:
        wait_ready(port, agent)
        load.process.start()
        time.sleep(3)
        page = urlopen(f"http://127.0.0.1:{port}/metrics").read()
        lines = sum(not line.startswith(b"#") for line in page.splitlines())
        print(f"{lines} lines, {len(page) >> 10} KiB, load {os.getloadavg()[0]:.1f}")
        print(ROW.format("", "p50", "p95", "p99", "p99.9", "max", "queries/s", "agent", "clients"))
        for _ in range(args.runs):
            measure("alone", port, agent.pid, load, args)
            load.asking.value = 1
            time.sleep(2)
            measure("queries", port, agent.pid, load, args)
            load.asking.value = 0
            time.sleep(3)
    finally:
        load.process.kill()
        agent.terminate()
        agent.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="directory of filled stores")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--concurrency", type=int, default=2, help="promql.max_concurrency")
    parser.add_argument("--only", default="", help="some queries of promql_store.py, by name")
    parser.add_argument("--gzip", action="store_true", help="take packed answers and pages")
    args = parser.parse_args()
    if args.data is not None:
        run(args.data, args)
        return
    with tempfile.TemporaryDirectory() as directory:
        run(Path(directory), args)


if __name__ == "__main__":
    main()
