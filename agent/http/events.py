"""``/api/tachograph/v1/events``: what happened to the agent, newest first."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from ...storage.clock import Clock
from ...storage.keys import DAY_MS
from ...storage.state import State
from .params import count, range_ms

PATH: Final = "/api/tachograph/v1/events"
_LIMIT: Final = 1_000


def routes(state: State, clock: Clock) -> list[web.AbstractRouteDef]:
    async def events(request: web.Request) -> web.Response:
        start_ms, end_ms = range_ms(request, clock.now_ms(), 30 * DAY_MS)
        found = await state.events(start_ms, end_ms, count(request, "limit", _LIMIT))
        data = [
            {
                "id": event.number,
                "time": event.at_ms / 1000,
                "kind": event.kind,
                "message": event.message,
                "facts": event.facts,
            }
            for event in found
        ]
        body = msgspec.json.encode({"status": "success", "data": data})
        return web.Response(body=body, content_type="application/json")

    return [web.get(PATH, events)]
