"""``tachograph doctor``: everything that could be wrong, looked at once."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...config.errors import ConfigError, TachographError
from .client import AgentUnreachable, Client, RequestFailed
from .options import Subparsers, add_command, add_config_options, add_output_option, load

if TYPE_CHECKING:
    from ...config import Config
    from ...config.settings import StorageSettings

_EPILOG = """examples:
  tachograph doctor
  tachograph doctor --config /etc/tachograph/tachograph.yml -o json
"""
_FREE_BYTES_MIN = 256 << 20
_WAL_BYTES_MAX = 64 << 20


class Finding(NamedTuple):
    """``state`` is ``ok``, ``warn`` or ``bad``."""

    state: str
    subject: str
    text: str


def add(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "doctor", "look for problems", _EPILOG)
    add_config_options(parser)
    add_output_option(parser, "table", "json")
    parser.set_defaults(handler=doctor)


def doctor(args: argparse.Namespace) -> int:
    findings = list(_examine(args))
    if args.output == "json":
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.state:4}  {finding.subject:12}  {finding.text}")
    return 1 if any(finding.state == "bad" for finding in findings) else 0


def _examine(args: argparse.Namespace) -> Iterator[Finding]:
    try:
        config = load(args)
    except ConfigError as error:
        for problem in error.problems:
            yield Finding("bad", "config", problem)
        return
    yield Finding("ok", "config", "no mistakes")
    yield from _packages()
    yield from _clock()
    yield from _directory(config.storage)
    yield from _agent(config)


def _packages() -> Iterator[Finding]:
    if sqlite3.sqlite_version_info < (3, 35):
        yield Finding("bad", "sqlite", f"{sqlite3.sqlite_version} is too old: 3.35 is needed")
    else:
        yield Finding("ok", "sqlite", sqlite3.sqlite_version)
    for name, without in (
        ("pcodec", "chunks take some 10% more space"),
        ("re2", "only a subset of regular expressions is accepted"),
    ):
        if find_spec(name):
            yield Finding("ok", name, "installed")
        else:
            yield Finding("warn", name, f"not installed: {without}")


def _clock() -> Iterator[Finding]:
    from ...storage.clock_trust import FLOOR_MS
    from ...storage.kernel_clock import is_synchronised

    if time.time() < FLOOR_MS / 1000:
        yield Finding("bad", "clock", "before 2024: nothing is stored until it is set")
    else:
        kept = {True: "synchronised", False: "not synchronised", None: "nobody keeps it"}
        shown = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        yield Finding("ok", "clock", f"{shown}, {kept[is_synchronised()]}")


def _directory(storage: StorageSettings) -> Iterator[Finding]:
    from ...storage.errors import StoreOnNetwork
    from ...storage.filesystem import refuse_network

    path, max_bytes = storage.path, storage.max_bytes
    try:
        refuse_network(path)
    except StoreOnNetwork as error:
        yield Finding("bad", "data", str(error))
    if not path.exists():
        yield Finding("warn", "data", f"{path.absolute()} does not exist yet")
        return
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        yield Finding("bad", "data", f"{path.absolute()} cannot be read and written by this user")
        return
    if path.stat().st_mode & 0o077:
        yield Finding("warn", "data", f"{path.absolute()} is open to others; chmod 700")
    free = shutil.disk_usage(path).free
    state = "warn" if free < _FREE_BYTES_MIN else "ok"
    yield Finding(state, "disk", f"{free >> 20} MiB free, the store may take {max_bytes >> 20} MiB")
    wal = path / "samples.db-wal"
    if wal.exists() and wal.stat().st_size > _WAL_BYTES_MAX:
        size = wal.stat().st_size >> 20
        yield Finding("warn", "wal", f"{size} MiB: a reader holds it, or the agent was killed")
    database = path / "samples.db"
    if database.exists():
        yield from _database(database, storage.limits.future_ms / 1000)


def _database(path: Path, future_s: float) -> Iterator[Finding]:
    from ...storage.sqlite import open_reader

    try:
        connection = open_reader(path)
        try:
            answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            kept = connection.execute("SELECT count(*) FROM quarantine").fetchone()[0]
            newest_ms = connection.execute("SELECT max(max_ms) FROM block").fetchone()[0] or 0
        finally:
            connection.close()
    except (sqlite3.Error, TachographError) as error:
        yield Finding("bad", "database", f"{error}; run `tachograph db repair`")
        return
    if answer != "ok":
        yield Finding("bad", "database", f"{answer}; run `tachograph db repair`")
    else:
        yield Finding("ok", "database", "sound")
    if newest_ms / 1000 > time.time() + future_s:
        ahead_h = (newest_ms / 1000 - time.time()) / 3600
        yield Finding(
            "warn",
            "future",
            f"samples lie up to {ahead_h:.1f} h ahead of the clock; if it is right, stop the agent "
            "and run `tachograph db forget-future`",
        )
    if kept:
        yield Finding("warn", "quarantine", f"{kept} damaged rows were set aside")


def _agent(config: Config) -> Iterator[Finding]:
    host, _, port = config.listen.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    try:
        facts = Client(f"http://{config.listen}").get("/api/tachograph/v1/info")["data"]
    except AgentUnreachable:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, int(port)))
            except OSError as error:
                yield Finding(
                    "bad", "listen", f"{config.listen}: {error.strerror}, by another program"
                )
                return
        yield Finding("warn", "agent", f"none is running; {config.listen} is free")
        return
    except (RequestFailed, TypeError, KeyError):
        yield Finding("bad", "listen", f"{config.listen} is taken by a program that is no agent")
        return
    yield Finding("ok", "agent", f"version {facts['version']}, {facts['series']} series")
    if facts["trouble"]:
        yield Finding("bad", "storage", facts["trouble"])
    for source in facts["sources"]:
        if not source["up"]:
            yield Finding("bad", "source", f"{source['name']}: {source['lastError']}")
