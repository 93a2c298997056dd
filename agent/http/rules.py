"""``/api/v1/rules`` and ``/api/v1/alerts``."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from ...config.settings import HttpSettings
from .forms import Form
from .params import bad
from .respond import get, respond, to_json

_TYPES: Final = ("", "alert", "record")


class RulesEndpoint:
    """Tells of rules and alerts: there are none before rules are loaded."""

    def __init__(self, http: HttpSettings) -> None:
        self._http = http

    def routes(self) -> list[web.AbstractRouteDef]:
        return [*get("/api/v1/rules", self.rules), *get("/api/v1/alerts", self.alerts)]

    async def rules(self, request: web.Request) -> web.Response:
        form = await Form.of(request, self._http)
        kind = form.get("type")
        if kind.lower() not in _TYPES:
            raise bad("type", f"not supported value {to_json(kind)}")
        return respond(request, {"groups": []})

    async def alerts(self, request: web.Request) -> web.Response:
        return respond(request, {"alerts": []})
