"""``/api/v1/admin/tsdb/*``: deleting samples, giving space back, and copies of the store."""

from __future__ import annotations

import os
import secrets
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from aiohttp import hdrs, web

from ...config.settings import HttpSettings
from ...storage.clock import Clock
from ...storage.delete import Eraser
from ...storage.errors import StoreUnavailable
from ...storage.exemplars import Exemplars
from ...storage.frame import distinct
from ...storage.sqlite import open_reader
from ...storage.store import Store
from ...storage.sweep import used_bytes, vacuum
from .errors import ApiError, ErrorType, Handler
from .forms import Form
from .respond import respond

PREFIX: Final = "/api/v1/admin/tsdb"
#: Pages copied at a time.
_COPY_PAGES: Final = 1_000


class AdminEndpoint:
    """Only if ``http.admin_api`` is on; else everything here is refused."""

    def __init__(
        self, store: Store, exemplars: Exemplars, clock: Clock, http: HttpSettings
    ) -> None:
        self._store, self._exemplars, self._clock, self._http = store, exemplars, clock, http
        self._eraser = Eraser(store)

    def routes(self) -> list[web.AbstractRouteDef]:
        handlers: dict[str, Handler] = {
            "delete_series": self.delete_series,
            "clean_tombstones": self.clean_tombstones,
            "snapshot": self.snapshot,
        }
        return [
            web.route(method, f"{PREFIX}/{name}", handler)
            for name, handler in handlers.items()
            for method in (hdrs.METH_POST, hdrs.METH_PUT)
        ]

    async def delete_series(self, request: web.Request) -> web.Response:
        self._check()
        form = await Form.of(request, self._http)
        wanted = await form.selectors(required=True)
        start_ms, end_ms = form.range_ms()
        index = self._store.index
        refs = distinct(np.concatenate([index.select(matchers) for matchers in wanted]))
        await self._eraser.delete(refs, start_ms, end_ms)
        self._exemplars.forget(refs)
        return web.Response(status=204)

    async def clean_tombstones(self, request: web.Request) -> web.Response:
        """What was deleted is deleted; give its space back to the file system."""
        self._check()
        writer = self._store.writer
        _, free = await used_bytes(writer)
        await vacuum(writer, free)
        return web.Response(status=204)

    async def snapshot(self, request: web.Request) -> web.Response:
        """Copy everything that is stored up to now to ``snapshots/NAME/`` of the data directory."""
        self._check()
        store = self._store
        await store.flush()
        now = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC)
        name = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(8)}"
        target = store.directory / "snapshots" / name
        # Not in the writer's thread: it may take minutes, and commits go on.
        await store.read(lambda _: _copy(store.path, target / store.path.name))
        return respond(request, {"name": name})

    def _check(self) -> None:
        if not self._http.admin_api:
            raise ApiError(ErrorType.UNAVAILABLE, "admin APIs disabled")


def _copy(source: Path, target: Path) -> None:
    try:
        target.parent.parent.mkdir(mode=0o700, exist_ok=True)
        target.parent.mkdir(mode=0o700)
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        reader, copy = open_reader(source), sqlite3.connect(target)
        try:
            # One snapshot: without it the copy would start anew with each commit.
            reader.execute("BEGIN")
            reader.execute("SELECT 1 FROM meta").fetchone()
            reader.backup(copy, pages=_COPY_PAGES)
        finally:
            copy.close()
            reader.close()
    except (OSError, sqlite3.Error) as error:
        raise StoreUnavailable(f"cannot copy to {target.parent}: {error}") from error
