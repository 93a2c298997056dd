"""
How fast history goes in and out, by the command line as users run it.

    python benchmarks/import_export.py [--series 1000] [--hours 24]

Series have a sample every 10 s: half counters, half gauges with a few digits. For each format and
both ways (an agent's HTTP interface; its files alone) the table shows samples a second, the CPU
seconds of the command per million samples, and its largest resident size. Compaction is not part of
it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.agent_process import running
from tachograph.agent.ingest.history import Run
from tachograph.agent.ingest.history_jsonl import JsonLinesWriter
from tachograph.storage.model import Labels, MetricType

START_MS = 1_767_571_200_000
KEEP = ("--set", "storage.retention.raw=100y")
FORMATS = ("vm-jsonl", "openmetrics", "csv")


def write_history(path: Path, series: int, hours: int) -> int:
    """Write JSON lines and return how many samples they have."""
    rng = np.random.default_rng(1)
    ts_ms = np.arange(START_MS + 10_000, START_MS + hours * 3_600_000 + 1, 10_000)
    writer = JsonLinesWriter()
    with path.open("wb") as file:
        for number in range(series):
            place = {"instance": f"10.0.0.{number % 50}:9100", "job": "node", "n": str(number)}
            if number % 2:
                values = np.cumsum(rng.integers(0, 90, len(ts_ms))).astype(np.float64)
                run = Run(Labels.of(place, "work_total"), ts_ms, values, MetricType.COUNTER)
            else:
                values = np.round(20 + np.cumsum(rng.normal(0, 0.1, len(ts_ms))), 2)
                run = Run(Labels.of(place, "level"), ts_ms, values, MetricType.GAUGE)
            file.write(writer.write([run]))
    return series * len(ts_ms)


def measure(what: str, samples: int, *args: str) -> None:
    """Run a command and print what it took."""
    began_s = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "tachograph", *args], stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began_s
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{what} failed")
    cpu_s = used.ru_utime + used.ru_stime
    print(
        f"{what:38}{samples / seconds:12,.0f} samples/s{cpu_s * 1e6 / samples:8.2f} s CPU/million"
        f"{used.ru_maxrss / 1024:8.0f} MiB"
    )


@contextlib.contextmanager
def fresh_agent(root: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir=root) as name, running(Path(name), *KEEP) as agent:
        yield agent.url
        agent.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--hours", type=int, default=24)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        source = root / "source.jsonl"
        samples = write_history(source, args.series, args.hours)
        print(
            f"{samples:,} samples, {source.stat().st_size / samples:.1f} bytes each as JSON lines"
        )
        data = root / "data"
        into = ("import", "--no-compact")
        measure(
            "import vm-jsonl into a directory",
            samples,
            *into,
            str(source),
            "--db",
            str(data),
            *KEEP,
        )
        files = {"vm-jsonl": source}
        for format_ in FORMATS:
            file = root / f"out.{format_}"
            out = ("export", "--format", format_, "-o", str(file))
            measure(f"export {format_} from a directory", samples, *out, "--db", str(data))
            files[format_] = file
        for format_ in FORMATS:
            with fresh_agent(root) as url:
                what = ("--format", format_, str(files[format_]), "--url", url)
                measure(f"import {format_} into an agent", samples, *into, *what)
                if format_ == "vm-jsonl":
                    out = ("export", "--url", url, "-o", str(root / "again"))
                    measure("export vm-jsonl from an agent", samples, *out)


if __name__ == "__main__":
    main()
