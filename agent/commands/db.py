"""``tachograph db``: the data directory, with the agent running or not."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...config.errors import TachographError
from .client import AgentUnreachable, Client
from .options import Subparsers, add_command, add_config_options, load
from .table import print_table, show_bytes

if TYPE_CHECKING:
    from ...config import Config
    from ...storage.ahead import Ahead

_EPILOG = """examples:
  tachograph db info                    what the data directory holds
  tachograph db compact                 seal and compact all that can be (also while the agent runs)
  tachograph db verify                  check every row's checksum
  tachograph db backup /mnt/stick/samples.db
  tachograph db forget-future           show what a clock that was ahead has left (agent stopped)
  tachograph db forget-future --yes     delete it
  tachograph db repair                  save what is readable of a damaged database (agent stopped)
"""


def add(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "db", "look after the data directory", _EPILOG)
    kinds = parser.add_subparsers(dest="kind", metavar="ACTION", required=True)
    for name, help, handler in (
        ("info", "show what the data directory holds", info),
        ("compact", "seal the head and compact every day that is over", compact),
        ("verify", "check the structure and every checksum", verify),
        ("backup", "copy the database while it is in use", backup),
        ("forget-future", "delete samples that lie ahead of the clock", forget_future),
        ("repair", "save what can be read of a damaged database", repair),
    ):
        action = add_command(kinds, name, help, _EPILOG)
        add_config_options(action)
        if name == "backup":
            action.add_argument("file", type=Path, metavar="FILE", help="must not exist")
        if name == "forget-future":
            action.add_argument("--yes", action="store_true", help="delete, do not only show")
        action.set_defaults(handler=handler)


def info(args: argparse.Namespace) -> int:
    from ...storage.keys import DAY_MS
    from ...storage.sqlite import open_reader

    path = _database(load(args))
    with _told(path), contextlib.closing(open_reader(path)) as connection:
        counts = {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("series", "journal", "block", "chunk", "rollup", "dirty", "quarantine")
        }
        low, high = connection.execute("SELECT min(min_ms), max(max_ms) FROM block").fetchone()
        days = [day for (day,) in connection.execute("SELECT day FROM day ORDER BY day")]
        schema = connection.execute("PRAGMA user_version").fetchone()[0]
    rows = [("database", str(path)), ("schema", str(schema))]
    for suffix in ("", "-wal"):
        part = path.with_name(path.name + suffix)
        size = part.stat().st_size if part.exists() else 0
        rows.append((f"size of {part.name}", show_bytes(size)))
    rows += [(f"rows in {table}", str(count)) for table, count in counts.items()]
    if low is not None:
        rows.append(("sealed samples", f"{_date(low)} to {_date(high)}"))
    if days:
        first, last = days[0] * DAY_MS, days[-1] * DAY_MS
        rows.append(("compacted days", f"{len(days)}, {_date(first)[:10]} to {_date(last)[:10]}"))
    print_table(rows)
    return 0


def compact(args: argparse.Namespace) -> int:
    config = load(args)
    from ...storage.errors import StoreLocked

    started_s = time.monotonic()
    try:
        days = asyncio.run(_compact(config))
    except StoreLocked as error:
        try:
            answer = Client(f"http://{config.listen}").post("/api/tachograph/v1/admin/compact")
        except AgentUnreachable:
            raise error from None
        days = answer["data"]["compactedDays"]
    print(f"sealed; {len(days)} days compacted in {time.monotonic() - started_s:.1f} s")
    return 0


async def _compact(config: Config) -> list[int]:
    from ...aggregation.compactor import Compactor
    from ...storage.clock import SystemClock
    from ...storage.store import Store
    from ..maintenance import Maintenance

    clock = SystemClock()
    store = Store(config.storage, clock)
    await store.open()
    try:
        return await Maintenance(store, Compactor(store, rest=0), clock).seal_and_compact()
    finally:
        await store.close()


def verify(args: argparse.Namespace) -> int:
    from ...storage.repair import verify as check

    path = _database(load(args))
    findings = check(path)
    print_table(
        [(table, str(count), str(findings.bad[table])) for table, count in findings.rows.items()],
        ("TABLE", "ROWS", "DAMAGED"),
    )
    for message in findings.messages:
        print(message)
    print(
        "sound" if findings.is_sound else "damaged: stop the agent and run `tachograph db repair`"
    )
    return 0 if findings.is_sound else 1


def backup(args: argparse.Namespace) -> int:
    from ...storage.sqlite import open_reader

    path = _database(load(args))
    if args.file.exists():
        raise TachographError(f"{args.file} exists already")
    with _told(path), contextlib.closing(open_reader(path)) as connection:
        connection.execute("PRAGMA query_only=OFF")
        connection.execute("VACUUM INTO ?", (str(args.file),))
    args.file.chmod(0o600)
    print(f"{args.file}: {show_bytes(args.file.stat().st_size)}")
    return 0


def forget_future(args: argparse.Namespace) -> int:
    config = load(args)
    _database(config)
    ahead = asyncio.run(_forget_future(config, args.yes))
    if not ahead:
        print("nothing lies ahead of the clock")
        return 0
    what = f"the rollups of {ahead.days} days"
    if ahead.samples:
        span = f"{_date(ahead.first_ms)} to {_date(ahead.last_ms)}"
        what = f"{ahead.samples} samples of {ahead.series} series, {span}, and {what}"
    print(what, "are deleted" if args.yes else "lie ahead of the clock; delete them with --yes")
    return 0


async def _forget_future(config: Config, for_good: bool) -> Ahead:
    from ...storage.ahead import find_ahead, forget_ahead
    from ...storage.clock import SystemClock
    from ...storage.store import Store

    clock = SystemClock()
    store = Store(config.storage, clock)
    await store.open()
    try:
        cutoff_ms = clock.now_ms() + config.storage.limits.future_ms
        ahead = await find_ahead(store, cutoff_ms)
        if ahead and for_good:
            await forget_ahead(store, cutoff_ms)
        return ahead
    finally:
        await store.close()


def repair(args: argparse.Namespace) -> int:
    from ...storage.lock import DirectoryLock
    from ...storage.repair import repair as salvage

    config = load(args)
    path = _database(config)
    aside = path.with_name(f"samples.db.damaged-{int(time.time())}")
    lock = DirectoryLock(path.parent)
    lock.acquire()
    try:
        findings = salvage(path, aside)
    finally:
        lock.release()
    print_table(
        [(table, str(count), str(findings.bad[table])) for table, count in findings.rows.items()],
        ("TABLE", "SAVED", "LEFT OUT"),
    )
    for message in findings.messages:
        print(message)
    print(f"the damaged files are {aside}*; delete them when all is well")
    return 0


def _database(config: Config) -> Path:
    path = config.storage.path / "samples.db"
    if not path.exists():
        raise TachographError(f"there is no database at {path}; name the directory with --data")
    return path


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    from ...storage.sqlite import translate

    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, path) from error


def _date(ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ms / 1000))
