"""
The list of the agent's own metrics, ``docs/own-metrics.md``.

``python -m tachograph.agent.document`` writes it anew; a test fails while it is out of date.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Final

from ..config import load_config
from .app import Agent
from .selfmon import OF_PROCESS

_PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "own-metrics.md"
_HEAD: Final = """\
# The agent's own metrics

What the agent says of itself, every `metrics.collection.performance_interval`, on `/metrics` and in
its own store.
Written by `python -m tachograph.agent.document`.

| name | type | labels | |
| --- | --- | --- | --- |
"""


async def render() -> str:
    """Return the page, of an agent that is started for it."""
    with tempfile.TemporaryDirectory() as directory:
        overrides = ["listen=127.0.0.1:0", f"storage.path={directory}", "storage.ballast_bytes=0"]
        async with Agent(load_config(None, env={}, overrides=overrides)) as agent:
            found = [(metric.family, metric.label) for metric in agent.self_metrics()]
    rows = []
    for family, label in sorted([*found, *OF_PROCESS], key=lambda each: each[0].name):
        shown = f"`{label}`" if label else ""
        rows.append(f"| `{family.name}` | {family.type.value} | {shown} | {family.help} |")
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    _PAGE.write_text(asyncio.run(render()))
