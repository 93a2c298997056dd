"""Where ``tachograph import`` puts samples: a running agent, or a data directory."""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from ...config.errors import TachographError
from ...storage.keys import day_of
from .client import Client, RequestFailed
from .errors import WrongUse
from .options import load

if TYPE_CHECKING:
    from ...config import Config
    from ..ingest.history import BadLine, Run
    from ..ingest.history_import import Imported

_TRIES: Final = 20
_RETRY_S: Final = 2.0
_COMPACT_S: Final = 6 * 3600.0
_BUSY: Final = frozenset({429, 503})


class Target(Protocol):
    """
    Where samples go.

    Attributes:
        takes_lines: Whether :meth:`send_lines` may be called.
    """

    takes_lines: bool

    def send(self, runs: Sequence[Run]) -> Imported: ...

    def send_lines(self, lines: bytes) -> tuple[Imported, int, list[BadLine]]:
        """Send JSON lines unread; return also how many are bad, and the first of these."""
        ...

    def compact(self) -> int:
        """Compact the days that are over and return how many they were."""
        ...


@contextmanager
def target_of(args: argparse.Namespace) -> Iterator[Target]:
    if args.db is None:
        if args.config or args.overrides:
            raise WrongUse("--config and --set go with --db; an agent has its own settings")
        yield _AgentTarget(args.url)
        return
    args.data = args.db
    target = _DirectoryTarget(load(args))
    try:
        yield target
    finally:
        target.close()


class _AgentTarget:
    """Sends batches of JSON lines to an agent, which commits each before it answers."""

    takes_lines = True

    def __init__(self, url: str) -> None:
        from ..ingest.history_jsonl import JsonLinesWriter

        self._client, self._patient = Client(url), Client(url, _COMPACT_S)
        self._writer = JsonLinesWriter()

    def send(self, runs: Sequence[Run]) -> Imported:
        imported, _, _ = self.send_lines(self._writer.write(runs))
        return imported

    def send_lines(self, lines: bytes) -> tuple[Imported, int, list[BadLine]]:
        from ..ingest.history import BadLine
        from ..ingest.history_import import Imported

        data = self._post(lines)["data"]
        imported = Imported(
            samples=data["samples"],
            refused=Counter(data["refused"]),
            faults=data["faults"],
            days={day_of(_noon_ms(day)) for day in data["days"]},
        )
        some = [BadLine(each["line"], each["reason"]) for each in data["firstBadLines"]]
        return imported, data["badLines"], some

    def compact(self) -> int:
        answer = self._patient.post("/api/tachograph/v1/admin/compact")
        return len(answer["data"]["compactedDays"])

    def _post(self, lines: bytes) -> Any:
        for left in reversed(range(_TRIES)):
            try:
                return self._client.post_lines("/api/tachograph/v1/import", lines)
            except RequestFailed as error:
                # Its disk is full, or it seals and compacts: soon it takes more.
                if error.status not in _BUSY or not left:
                    raise
            time.sleep(_RETRY_S)
        raise AssertionError


def _noon_ms(day: str) -> int:
    return int(datetime.fromisoformat(f"{day}T12:00:00+00:00").timestamp()) * 1000


class _DirectoryTarget:
    """
    Writes to a data directory.

    Raises:
        TachographError: It is in use, or cannot be written.
    """

    takes_lines = False

    def __init__(self, config: Config) -> None:
        from ...storage.clock import SystemClock
        from ...storage.errors import StoreLocked
        from ...storage.store import Store
        from ..ingest.history_import import HistoryImporter

        logging.basicConfig(format="%(levelname)s: %(message)s")
        self._clock = SystemClock()
        self._store = Store(config.storage, self._clock)
        self._importer = HistoryImporter(self._store, self._clock)
        self._loop = asyncio.Runner()
        self._flusher: asyncio.Task[None] | None = None
        try:
            self._loop.run(self._open())
        except StoreLocked as error:
            self._loop.close()
            raise TachographError(f"{error}; or leave --db out to import through it") from error
        except BaseException:
            self._loop.close()
            raise

    def send(self, runs: Sequence[Run]) -> Imported:
        return self._loop.run(self._importer.write(runs))

    def send_lines(self, lines: bytes) -> tuple[Imported, int, list[BadLine]]:
        raise AssertionError("a directory takes runs: `takes_lines` is false")

    def compact(self) -> int:
        return len(self._loop.run(self._compact()))

    def close(self) -> None:
        """Commit what is left and give the directory back."""
        try:
            self._loop.run(self._close())
        finally:
            self._loop.close()

    async def _open(self) -> None:
        await self._store.open()
        self._flusher = asyncio.create_task(self._store.run())

    async def _compact(self) -> list[int]:
        from ...aggregation.compactor import Compactor
        from ..maintenance import Maintenance

        maintenance = Maintenance(self._store, Compactor(self._store, rest=0), self._clock)
        return await maintenance.seal_and_compact()

    async def _close(self) -> None:
        if self._flusher is not None:
            self._flusher.cancel()
            await asyncio.wait([self._flusher])
        await self._store.close()
