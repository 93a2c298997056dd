"""
Remote write: decoding alone, and whole requests over loopback into an agent of its own.

    python benchmarks/remote_write.py
    python benchmarks/remote_write.py --decode

CPU seconds per million samples, the best of several rounds; of the agent that of its process, by
the kernel's clock: HTTP, unpacking, decoding, journal, commits and seals. Requests have 5,000
samples:

scrape   one sample a series, tick after tick, every request of the same series in the same order
queue    the same cut anywhere, a third of the values 0 and these left out: Prometheus' own queue
dense    50 samples of each of 100 series
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tachograph.agent.ingest.remote_series import SeriesTable
from tachograph.agent.ingest.remote_write import WriteBatch, decode_1, decode_2
from tachograph.agent.wire import prompb, prompb2, snappy

INSTANCES, PER_INSTANCE, TICKS, STEP_MS = 10, 100, 1_000, 10_000
PER_REQUEST = 5_000
CONNECTIONS = 2
LIMIT_BYTES = 1 << 26
HEADERS = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
VERSION_2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request"

Pairs = list[tuple[str, str]]
Decode = Callable[[bytes, SeriesTable], WriteBatch]


@dataclass(frozen=True)
class Data:
    """Labels of each series, and for each tick a time per instance and a value per series."""

    labels: list[Pairs]
    ts_ms: list[list[int]]
    values: list[list[float]]


def make_data() -> Data:
    rng = np.random.default_rng(7)
    labels: list[Pairs] = []
    for instance in range(INSTANCES):
        for number in range(PER_INSTANCE):
            labels.append(
                [
                    ("__name__", f"http_requests_{number % 25}_total"),
                    ("endpoint", f"/api/v1/part/{number // 25}"),
                    ("instance", f"10.0.0.{instance}:9100"),
                    ("job", "backend"),
                    ("method", "GET"),
                    ("status", "200"),
                ]
            )
    start_ms = int(time.time()) // 60 * 60_000 - TICKS * STEP_MS
    offsets = rng.integers(0, STEP_MS, INSTANCES)
    ts_ms = [[start_ms + tick * STEP_MS + int(o) for o in offsets] for tick in range(TICKS)]
    steps = rng.poisson(5, (TICKS, len(labels))) * (rng.random(len(labels)) > 0.33)
    return Data(labels, ts_ms, np.cumsum(steps, axis=0).astype(float).tolist())


def one_by_one(data: Data, rows: range) -> Iterator[tuple[int, float, int]]:
    """Yield series, value and time, tick after tick."""
    for tick, values in enumerate(data.values):
        times = data.ts_ms[tick]
        for row in rows:
            yield row, values[row], times[row // PER_INSTANCE]


def series_1(labels: bytes, samples: bytes) -> bytes:
    inside = labels + samples
    return b"\x0a" + _length(inside) + inside


def sample(value: float, ts_ms: int, *, leave_out: bool) -> bytes:
    if value == 0 and leave_out:
        return b"\x12\x07" + prompb.sample_field(0.0, ts_ms)[11:]
    return prompb.sample_field(value, ts_ms)


def _length(inside: bytes) -> bytes:
    size = len(inside)
    return bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])


def bodies(data: Data, shape: str) -> list[list[tuple[bytes, int]]]:
    """Return for each connection its requests, unpacked, and the samples in each."""
    keys = [prompb.label_fields(pairs) for pairs in data.labels]
    shards = []
    for shard in range(CONNECTIONS):
        rows = range(shard * len(keys) // CONNECTIONS, (shard + 1) * len(keys) // CONNECTIONS)
        if shape == "dense":
            shards.append(list(_dense(data, keys, rows)))
            continue
        is_queue = shape == "queue"
        size = PER_REQUEST - 217 if is_queue else PER_REQUEST
        requests: list[tuple[bytes, int]] = []
        parts: list[bytes] = []
        for row, value, ts_ms in one_by_one(data, rows):
            parts.append(series_1(keys[row], sample(value, ts_ms, leave_out=is_queue)))
            if len(parts) == size:
                requests.append((b"".join(parts), size))
                parts = []
        shards.append(requests)
    return shards


def _dense(data: Data, keys: list[bytes], rows: range) -> Iterator[tuple[bytes, int]]:
    for tick in range(0, TICKS, 50):
        for low in range(rows.start, rows.stop, 100):
            parts = []
            for row in range(low, low + 100):
                samples = b"".join(
                    prompb.sample_field(data.values[t][row], data.ts_ms[t][row // PER_INSTANCE])
                    for t in range(tick, tick + 50)
                )
                inside = keys[row] + samples
                parts.append(b"\x0a" + _length(inside) + inside)
            yield b"".join(parts), PER_REQUEST


def bodies_2(data: Data) -> list[tuple[bytes, int]]:
    """Return some requests of remote write 2.0, in the shape ``scrape``."""
    ticks_each = PER_REQUEST // len(data.labels)
    requests = []
    for tick in range(0, 10 * ticks_each, ticks_each):
        series = [
            prompb2.WrittenSeries(
                data.labels[row],
                [(data.values[t][row], data.ts_ms[t][row // PER_INSTANCE])],
                type=1,
                help="Requests answered.",
            )
            for t in range(tick, tick + ticks_each)
            for row in range(len(data.labels))
        ]
        requests.append((prompb2.request(series), PER_REQUEST))
    return requests


# --- Decoding --------------------------------------------------------------------------------


def best_of(rounds: int, samples: int, work: Callable[[], object]) -> float:
    """Return the CPU seconds per million samples of the fastest round."""
    found = []
    for _ in range(rounds):
        before = time.process_time()
        work()
        found.append(time.process_time() - before)
    return min(found) / samples * 1e6


def learnt(decode: Decode, requests: list[bytes]) -> SeriesTable:
    table = SeriesTable()
    for raw in requests:
        for fresh in decode(raw, table).fresh:
            table.add(fresh.key, len(table.slots) + 1, 1)
    return table


def for_each(work: Callable[[bytes], object], bodies: list[bytes]) -> None:
    for body in bodies:
        work(body)


def decode_with_nothing_known(raw: bytes) -> None:
    decode_1(raw, SeriesTable())


def measure_decoding(data: Data) -> None:
    print(f"{'decoding':34}CPU s per million samples")
    for shape in ("scrape", "queue", "dense"):
        requests = bodies(data, shape)[0][:60]
        samples = sum(count for _, count in requests)
        raws = [raw for raw, _ in requests]
        packed = [snappy.compress(raw) for raw in raws]
        table = learnt(decode_1, raws)
        unpacking = best_of(
            5, samples, partial(for_each, lambda body: snappy.decompress(body, LIMIT_BYTES), packed)
        )
        warm = best_of(5, samples, partial(for_each, partial(decode_1, table=table), raws))
        cold = best_of(5, requests[0][1], partial(decode_with_nothing_known, raws[0]))
        for name, cost in (
            ("snappy", unpacking),
            ("known series", warm),
            ("new series", cold),
        ):
            print(f"  {f'{shape}: {name}':32}{cost:.3f}")
    requests = bodies_2(data)
    samples = sum(count for _, count in requests)
    raws = [raw for raw, _ in requests]
    table = learnt(decode_2, raws)

    def new_symbols() -> None:
        for raw in raws:
            table._symbol_tables.clear()
            table._templates.clear()
            decode_2(raw, table)

    same = best_of(5, samples, lambda: [decode_2(raw, table) for raw in raws])
    print(f"  {'2.0: the same symbols':32}{same:.3f}")
    print(f"  {'2.0: symbols of their own':32}{best_of(5, samples, new_symbols):.3f}")


# --- End to end ------------------------------------------------------------------------------


def cpu_s(pid: int) -> float:
    """CPU time of a whole process: a clock whose id is made of the pid (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


@contextlib.contextmanager
def agent(directory: str, port: int) -> Iterator[int]:
    """Run an agent and give its pid."""
    command = [sys.executable, "-m", "tachograph", "run", "--data", f"{directory}/data"]
    with Path(directory, "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--listen", f"127.0.0.1:{port}"], cwd=directory, stderr=log
        )
    try:
        for _ in range(400):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready").close()
                break
            time.sleep(0.05)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def send(port: int, requests: list[tuple[bytes, int]], latencies: list[float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for body, _ in requests:
        before = time.perf_counter()
        connection.request("POST", "/api/v1/write", body, HEADERS)
        response = connection.getresponse()
        text = response.read()
        assert response.status == 204, (response.status, text)
        latencies.append(time.perf_counter() - before)
    connection.close()


def measure_agent(data: Data, port: int) -> None:
    print(f"\n{'agent':12}{'CPU s/M':>10}{'M samples/s':>14}{'p50 ms':>10}{'p99 ms':>10}")
    for shape in ("scrape", "queue", "dense"):
        shards = [
            [(snappy.compress(raw), count) for raw, count in shard] for shard in bodies(data, shape)
        ]
        samples = sum(count for shard in shards for _, count in shard)
        latencies: list[float] = []
        with tempfile.TemporaryDirectory() as directory, agent(directory, port) as pid:
            threads = [
                threading.Thread(target=send, args=(port, shard, latencies)) for shard in shards
            ]
            cpu, wall = cpu_s(pid), time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            cpu, wall = cpu_s(pid) - cpu, time.perf_counter() - wall
        latencies.sort()
        p50, p99 = (latencies[int(len(latencies) * q)] * 1000 for q in (0.5, 0.99))
        rate = samples / wall / 1e6
        print(f"{shape:12}{cpu / samples * 1e6:10.3f}{rate:14.2f}{p50:10.1f}{p99:10.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--decode", action="store_true", help="decoding alone")
    parser.add_argument("--port", type=int, default=19_879)
    args = parser.parse_args()
    data = make_data()
    measure_decoding(data)
    if not args.decode:
        measure_agent(data, args.port)


if __name__ == "__main__":
    main()
