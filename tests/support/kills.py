"""
Killing a store at work: a process that appends and notes what was acknowledged, and the check of
what is left of its files.

Everything that is appended follows from its number ``n``, so the check needs no list of it. Run as
a program this is the feeder: it forks one child for each line on its input (directory and first
number), says the child's pid, and says so when the child is dead. So a kill costs no start of an
interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tachograph.aggregation.compactor import Compactor
from tachograph.config.settings import RetentionSettings, SealSettings, StorageSettings
from tachograph.storage.clock import SystemClock
from tachograph.storage.frame import FloatArray
from tachograph.storage.model import Labels
from tachograph.storage.select import Querier
from tachograph.storage.store import Store

SERIES = [Labels.of({"i": str(i)}, f"m{i % 5}") for i in range(100)]
POINTED = [Labels.of({"i": str(i)}, "p") for i in range(6)]
BASE_MS = 1_767_571_200_000
#: A tick stands for ten minutes: a second of work is a day or two, with its seals and rollups.
STEP_MS = 600_000
DAY_MS = 86_400_000
RAW_MS = 5 * DAY_MS
#: With `durability: normal` one commit in so many ticks is synced.
FSYNC_TICKS = 20
_ACK = struct.Struct("<q")


def tick_ms(n: int) -> int:
    return BASE_MS + n * STEP_MS


def point_ms(n: int) -> int:
    """Up to some hours late, and another time for each ``n``."""
    return tick_ms(n) - (n * 37 % 200) * 60_000 - 1 - n % 500


def values(n: int) -> FloatArray:
    return np.arange(len(SERIES), dtype=np.float64) + (n * 1000 + 0.5)


def settings(path: Path, durability: str = "normal") -> StorageSettings:
    year = 365 * DAY_MS
    return StorageSettings(
        path=path,
        durability=durability,
        ballast_bytes=0,
        flush_interval_ms=10,
        ack_interval_ms=1,
        fsync_interval_ms=FSYNC_TICKS * STEP_MS,
        seal=SealSettings(ticks=20, interval_ms=40 * STEP_MS),
        retention=RetentionSettings(raw_ms=RAW_MS, tier_1m_ms=year, tier_5m_ms=year),
    )


class TickClock(SystemClock):
    """Wall time that follows the ticks; sleeping takes real time."""

    def __init__(self) -> None:
        self.n = 0

    def now_ms(self) -> int:
        return tick_ms(self.n)


# --- The process that is killed -----------------------------------------------------------------


async def feed(
    path: Path,
    first: int,
    durability: str = "normal",
    end: int = 1 << 40,
    checkpoint_pages: int = 40,
) -> None:
    """Append up to a number, noting in ``<path>.acks`` each one once it is acknowledged."""
    clock = TickClock()
    clock.n = first
    store = Store(settings(path, durability), clock)
    await store.open()
    # Checkpoints come every 40 pages, not every 1,000: kills shall meet them.
    pragma = f"PRAGMA wal_autocheckpoint={checkpoint_pages}"
    await store.writer.run(lambda connection: connection.execute(pragma).fetchone())
    acks = os.open(f"{path}.acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    group = store.group("ticks")
    refs = np.array([group.ref(labels) for labels in SERIES], np.uint32)
    pushed = store.group("points")
    pointed = np.array([pushed.ref(labels) for labels in POINTED], np.uint32)
    background = [asyncio.create_task(store.run()), asyncio.create_task(_tidy(store))]
    for n in range(first, end):
        clock.n = n
        group.append(tick_ms(n), refs, values(n))
        if n % 3 == 0:
            at = np.full(len(pointed), point_ms(n))
            store.append_points(pointed, at, np.full(len(pointed), n + 0.25))
        await store.committed()
        os.write(acks, _ACK.pack(n))
        for task in background:
            if task.done():
                task.result()


async def _tidy(store: Store) -> None:
    compactor = Compactor(store, rest=0)
    while True:
        await compactor.run_once()
        await store.retention.run_once()
        await asyncio.sleep(0.01)


def main() -> None:
    """The feeder; with arguments, a single run of it in this process."""
    if len(sys.argv) > 1:
        path, durability, end, pages = sys.argv[1:]
        asyncio.run(feed(Path(path), 0, durability, int(end), int(pages)))
        os._exit(0)  # as a kill would: nothing is closed
    for line in sys.stdin:
        directory, first = line.split()
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(feed(Path(directory), int(first)))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


# --- The one that kills ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one kill left behind."""

    acked: int  # newest number that was acknowledged, -1 if none
    newest: int  # newest number that was found
    problems: list[str]
    open_s: float
    samples: int


class Killer:
    """Lets a store work on a directory and kills it, again and again; use as a context."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.data = root, root / "data"
        self._random = random.Random(seed)
        self._next = 0
        self._runs = 0

    def __enter__(self) -> Killer:
        tests = Path(__file__).resolve().parents[1]
        self._feeder = subprocess.Popen(
            [sys.executable, "-m", "support.kills"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tests,
            env={**os.environ, "PYTHONPATH": f"{tests}:{os.environ.get('PYTHONPATH', '')}"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._feeder.communicate()

    def kill(self, longest_s: float | None = None) -> None:
        """Start a child and kill it at a random moment: opening, appending, sealing, tidying."""
        if longest_s is None:
            longest_s = self._random.choice([0.03, 0.15, 0.4])
        stdin, stdout = self._feeder.stdin, self._feeder.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{self.data} {self._next}\n")
        stdin.flush()
        pid = int(stdout.readline())
        time.sleep(self._random.random() * longest_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        code = int(stdout.readline())
        assert code == -signal.SIGKILL, f"the feeder ended by itself with {code}"

    def acked(self) -> int:
        try:
            data = Path(f"{self.data}.acks").read_bytes()
        except FileNotFoundError:
            return -1
        whole = len(data) // _ACK.size * _ACK.size
        return max((n for (n,) in _ACK.iter_unpack(data[:whole])), default=-1)

    def start_anew(self) -> None:
        """Forget the directory: the next child makes its database first."""
        shutil.rmtree(self.data, ignore_errors=True)
        Path(f"{self.data}.acks").unlink(missing_ok=True)
        self._next = 0

    async def check(self) -> Outcome:
        """Look at a copy of what is left; the next child recovers the original itself."""
        self._runs += 1
        copy = self.root / f"copy{self._runs}"
        if not (self.data / "samples.db").exists():
            return Outcome(-1, -1, [], 0.0, 0)
        shutil.copytree(self.data, copy, ignore=shutil.ignore_patterns("*-shm"))
        acked = self.acked()
        clock = TickClock()
        clock.n = max(acked, self._next, 0) + 1
        store = Store(replace(settings(copy)), clock)
        started = time.perf_counter()
        await store.open()
        open_s = time.perf_counter() - started
        problems, newest, samples = await store.read(lambda querier: find_problems(querier, acked))
        if store.stats.corrupt.total():
            problems.append(f"damaged rows: {store.stats.corrupt}")
        await store.close()
        with contextlib.closing(sqlite3.connect(copy / "samples.db")) as connection:
            verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
        if verdict != "ok":
            problems.append(f"integrity: {verdict}")
        shutil.rmtree(copy)
        self._next = max(newest, acked) + 1
        return Outcome(acked, newest, problems, open_s, samples)


def find_problems(querier: Querier, acked: int) -> tuple[list[str], int, int]:
    """Return what is wrong, the newest number found, and how many samples there are."""
    problems: list[str] = []
    found: dict[Labels, tuple[list[int], list[float]]] = {}
    samples = 0
    for frame in querier.select((), 0, 1 << 60):
        if (np.diff(frame.ts_ms) <= 0).any():
            problems.append("times do not rise")
        for series, row in zip(frame.series, frame.values, strict=True):
            here = ~np.isnan(row)
            if series.labels in found:
                problems.append(f"{series.labels} is there twice")
            found[series.labels] = frame.ts_ms[here].tolist(), row[here].tolist()
            samples += int(here.sum())
    newest = max((times[-1] for times, _ in found.values()), default=-1)
    newest = -1 if newest < 0 else -(-(newest - BASE_MS) // STEP_MS)
    # Older than that may be gone by retention, by whole blocks.
    cutoff_ms = tick_ms(max(newest, acked)) - RAW_MS
    ticks = [n for n in range(acked + 1) if tick_ms(n) > cutoff_ms]
    points = [n for n in range(0, acked + 1, 3) if point_ms(n) > cutoff_ms]
    right = {labels: {point_ms(n): n + 0.25 for n in range(0, newest + 1, 3)} for labels in POINTED}
    for i, labels in enumerate(SERIES):
        right[labels] = {tick_ms(n): n * 1000 + i + 0.5 for n in range(newest + 1)}
    for labels, wanted in right.items():
        times, numbers = found.get(labels, ([], []))
        for ts, number in zip(times, numbers, strict=True):
            if wanted.get(ts) != number:
                problems.append(f"{labels} at {ts}: {number}, not {wanted.get(ts)}")
        needed = [tick_ms(n) for n in ticks] if labels in SERIES else [point_ms(n) for n in points]
        missing = set(needed) - set(times)
        if missing:
            problems.append(f"{labels}: {len(missing)} acknowledged samples are missing")
    return problems, newest, samples


if __name__ == "__main__":
    main()
