"""``/api/tachograph/v1/info``: how the agent fares, in one answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from ...storage.store import Store

PATH: Final = "/api/tachograph/v1/info"


def routes(
    store: Store, version: str, started_ms: int, sources: Callable[[], list[dict[str, Any]]]
) -> list[web.AbstractRouteDef]:
    async def info(_: web.Request) -> web.Response:
        data = {
            "version": version,
            "started": started_ms / 1000,
            "directory": str(store.directory.absolute()),
            "bytes": await store.bytes_on_disk(),
            "series": len(store.index),
            "samplesAppended": store.stats.samples_appended,
            "samplesPending": store.pending_samples,
            "compactedDays": len(store.ledger.compacted),
            "aheadSeconds": store.clock_trust.ahead_ms / 1000,
            "trouble": store.trouble,
            "sources": sources(),
        }
        body = msgspec.json.encode({"status": "success", "data": data})
        return web.Response(body=body, content_type="application/json")

    return [web.get(PATH, info)]
