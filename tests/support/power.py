"""
Cutting the power: a run of the store is recorded by strace, and the disk is put together as it
might look had the power failed at some moment.

What was synced is there. Of what was written since, each piece may be there, or be missing, or be
torn at a sector's border; the order does not matter to a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from support.kills import TickClock, find_problems, settings
from tachograph.storage.errors import StorageError
from tachograph.storage.store import Store

SECTOR = 512
#: The rollback journal of the first moments is deleted before anything is acknowledged.
FILES = ("samples.db", "samples.db-wal")
_LINE = re.compile(
    r"^(?:\d+\s+)?(\d+\.\d+) (?:<\.\.\. )?(\w+)(?:\(\d+<([^>]*)>(?:, \"([^\"]*)\")?([^)]*))?"
)
_TRACED = "pwrite64,ftruncate,fdatasync,fsync,write"


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that happened to a file: ``write``, ``truncate``, ``sync``; or an ``ack``."""

    kind: str
    file: str
    time_s: float
    offset: int = 0  # for `truncate` the new length, for `ack` the number
    data: bytes = b""


def is_possible() -> bool:
    """Whether strace is there and may look at a process."""
    if shutil.which("strace") is None:
        return False
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return tried.returncode == 0


def record(root: Path, durability: str, ticks: int, checkpoint_pages: int = 40) -> list[Operation]:
    """Let a store work on ``root/data`` and return what it did to its files."""
    tests = Path(__file__).resolve().parents[1]
    trace = root / "trace"
    subprocess.run(
        [
            "strace",
            "-f",
            "-y",
            "-ttt",
            "-xx",
            "-s",
            "1000000",
            "-e",
            f"trace={_TRACED}",
            "-o",
            str(trace),
            sys.executable,
            "-m",
            "support.kills",
            str(root / "data"),
            durability,
            str(ticks),
            str(checkpoint_pages),
        ],
        check=True,
        cwd=tests,
        env={**os.environ, "PYTHONPATH": f"{tests}:{os.environ.get('PYTHONPATH', '')}"},
    )
    with trace.open() as lines:
        operations = [found for line in lines if (found := _parse(line)) is not None]
    trace.unlink()
    return operations


_syncing: dict[str, str] = {}


def _parse(line: str) -> Operation | None:
    match = _LINE.match(line)
    if match is None:
        return None
    time_s, call, path, data, rest = match.groups()
    thread = line.split(maxsplit=1)[0]
    if path is not None:
        # strace writes a path's bytes in hexadecimal as well.
        path = bytes.fromhex(path.replace("\\x", "")).decode() if "\\x" in path else path
    if call in ("fdatasync", "fsync"):
        # It has happened once it is over.
        if "unfinished" in line:
            _syncing[thread] = path or ""
            return None
        path = path or _syncing.pop(thread, "")
        name = Path(path).name
        return Operation("sync", name, float(time_s)) if name in FILES else None
    if path is None:
        return None
    name = Path(path).name
    content = bytes.fromhex((data or "").replace("\\x", ""))
    numbers = [int(number) for number in re.findall(r"-?\d+", rest or "")]
    if call == "write" and name.endswith(".acks"):
        return Operation("ack", name, float(time_s), int.from_bytes(content, "little"))
    if name not in FILES:
        return None
    if call == "pwrite64":
        assert len(content) == numbers[0], line[:200]
        return Operation("write", name, float(time_s), numbers[1], content)
    if call == "ftruncate":
        return Operation("truncate", name, float(time_s), numbers[0])
    return None


def image(operations: list[Operation], rng: random.Random) -> dict[str, bytes]:
    """Return the files as a power cut after these operations might leave them."""
    files: dict[str, bytearray] = {}
    unsynced: dict[str, list[Operation]] = {}
    for operation in operations:
        if operation.kind == "sync":
            for each in unsynced.pop(operation.file, ()):
                _apply(files, each)
        elif operation.kind != "ack":
            unsynced.setdefault(operation.file, []).append(operation)
    # A disk that keeps nearly all, half, or nearly nothing of what it was not told to keep.
    for name, waiting in unsynced.items():
        files.setdefault(name, bytearray())
        keeps = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        for operation in waiting:
            if rng.random() < keeps:
                _apply(files, operation if rng.random() < 0.8 else _torn(operation, rng))
    return {name: bytes(content) for name, content in files.items()}


def _torn(operation: Operation, rng: random.Random) -> Operation:
    """Keep the sectors up to some border only."""
    first = SECTOR - operation.offset % SECTOR
    borders = range(first, len(operation.data), SECTOR)
    return replace(operation, data=operation.data[: rng.choice(borders)]) if borders else operation


def _apply(files: dict[str, bytearray], operation: Operation) -> None:
    content = files.setdefault(operation.file, bytearray())
    if operation.kind == "truncate":
        del content[operation.offset :]
        content.extend(bytes(operation.offset - len(content)))
        return
    end = operation.offset + len(operation.data)
    content.extend(bytes(max(0, end - len(content))))
    content[operation.offset : end] = operation.data


async def look(path: Path, files: dict[str, bytes], safe: int, newest: int) -> list[str]:
    """
    Open an image and return what is wrong with it.

    Args:
        safe: Newest number that must be there.
        newest: Newest number that was acknowledged; it and those after ``safe`` may be there.
    """
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    clock = TickClock()
    clock.n = max(newest, 0) + 1
    store = Store(settings(path), clock)
    try:
        await store.open()
        problems, _, _ = await store.read(lambda querier: find_problems(querier, safe))
    except StorageError as error:
        return [f"cannot be opened: {error}"]
    if store.stats.corrupt.total():
        problems.append(f"damaged rows: {store.stats.corrupt}")
    await store.close()
    with contextlib.closing(sqlite3.connect(path / "samples.db")) as connection:
        verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
    if verdict != "ok":
        problems.append(f"integrity: {verdict}")
    shutil.rmtree(path)
    return problems


async def cut(
    root: Path, operations: list[Operation], cuts: int, seed: int, lost: int
) -> tuple[list[str], int]:
    """
    Cut the power at some random moments.

    Args:
        lost: So many of the newest acknowledgements may be lost.

    Returns:
        What was wrong, and how many of the images lacked something acknowledged.
    """
    rng = random.Random(seed)
    problems: list[str] = []
    lossy = 0
    # The first commit that waited for the disk made the file: what was before is not our claim.
    first = next(i for i, each in enumerate(operations) if each.kind == "ack")
    for number in range(cuts):
        at = rng.randrange(first, len(operations))
        before = operations[: at + 1]
        files = image(before, rng)
        newest = max(each.offset for each in before if each.kind == "ack")
        safe = newest - lost
        found = await look(root / f"image{number}", files, safe, newest)
        problems += [f"cut {number}: {each}" for each in found]
        if lost and not found:
            missing = await look(root / f"again{number}", files, newest, newest)
            lossy += any("missing" in each for each in missing)
            shutil.rmtree(root / f"again{number}", ignore_errors=True)
        await asyncio.sleep(0)
    return problems, lossy
