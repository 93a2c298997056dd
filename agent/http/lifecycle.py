"""``/-/healthy``, ``/-/ready``, ``/-/reload`` and the front page, as Prometheus has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aiohttp import web


class Lifecycle(Protocol):
    """What these pages ask of the agent."""

    @property
    def is_ready(self) -> bool: ...

    @property
    def trouble(self) -> str:
        """Why the agent does not do its work now; empty while it does."""
        ...

    async def reload(self) -> Sequence[str]:
        """Load the configuration again; return the problems, in which case nothing changed."""
        ...


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Tachograph</title>
<style>body{font:16px/1.5 system-ui,sans-serif;margin:3rem auto;max-width:40rem}</style>
<h1>Tachograph</h1>
<p>The agent is running. The pages it serves:</p>
<ul>
<li><a href="/metrics">/metrics</a>: everything it holds as current values
<li><a href="/api/tachograph/v1/series?limit=100">/api/tachograph/v1/series</a>: the series it knows
<li><a href="/-/ready">/-/ready</a>, <a href="/-/healthy">/-/healthy</a>
<li><code>/ws/metrics</code>: the live stream (try <code>tachograph tail</code>)
</ul>
</html>
"""


def routes(agent: Lifecycle, *, allow_reload: bool) -> list[web.AbstractRouteDef]:
    async def healthy(_: web.Request) -> web.Response:
        return web.Response(text="Tachograph is Healthy.\n")

    async def ready(_: web.Request) -> web.Response:
        if agent.is_ready and not agent.trouble:
            return web.Response(text="Tachograph is Ready.\n")
        reason = agent.trouble or "starting or stopping"
        return web.Response(text=f"Service Unavailable: {reason}\n", status=503)

    async def reload(_: web.Request) -> web.Response:
        if not allow_reload:
            return web.Response(
                text="Lifecycle API is not enabled: http.lifecycle is false.\n", status=403
            )
        problems = await agent.reload()
        if problems:
            text = "failed to reload config, the old one stays:\n" + "\n".join(problems) + "\n"
            return web.Response(text=text, status=500)
        return web.Response(text="")

    async def root(_: web.Request) -> web.Response:
        return web.Response(
            text=_PAGE,
            content_type="text/html",
            headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
        )

    return [
        web.get("/", root),
        web.get("/-/healthy", healthy),
        web.get("/-/ready", ready),
        web.post("/-/reload", reload),
        web.put("/-/reload", reload),
    ]
