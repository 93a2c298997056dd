"""``/api/v1/status/*``: what Prometheus tells of itself, told of us."""

from __future__ import annotations

import asyncio
import heapq
import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from aiohttp import web

from ...config import Config
from ...config.settings import HttpSettings
from ...config.show import plain_section, show_config
from ...config.units import format_duration, format_size
from ...storage.current import NEVER_MS
from ...storage.labels import Index
from ...storage.model import METRIC_NAME
from ...storage.store import Store
from .forms import Form
from .respond import get, respond

#: Clients choose what they ask for by Prometheus' version. This is the one whose API we speak; no
#: `features` beside it, or Grafana takes us for Mimir.
PROMETHEUS_VERSION: Final = "2.53.0"
_LIMIT: Final = 10
_LIMIT_MAX: Final = 10_000

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """
    What is known of this process.

    Attributes:
        config: Returns the configuration in force.
        reload: Returns whether the last reload worked, and when one last did (Unix seconds).
    """

    version: str
    started_ms: int
    config: Callable[[], Config]
    reload: Callable[[], tuple[bool, float]]


class StatusEndpoint:
    def __init__(self, store: Store, facts: ProcessFacts, http: HttpSettings) -> None:
        self._store, self._facts, self._http = store, facts, http

    def routes(self) -> list[web.AbstractRouteDef]:
        pages = {
            "buildinfo": self.build_info,
            "config": self.config,
            "flags": self.flags,
            "runtimeinfo": self.runtime_info,
            "tsdb": self.tsdb,
            "walreplay": self.wal_replay,
        }
        return [
            route
            for name, handler in pages.items()
            for route in get(f"/api/v1/status/{name}", handler)
        ]

    async def build_info(self, request: web.Request) -> web.Response:
        data = {
            "version": PROMETHEUS_VERSION,
            "revision": f"tachograph-{self._facts.version}",
            "branch": "tachograph",
            "buildUser": "",
            "buildDate": "",
            "goVersion": f"Python {platform.python_version()}",
        }
        return respond(request, data)

    async def config(self, request: web.Request) -> web.Response:
        return respond(request, {"yaml": show_config(self._facts.config())})

    async def flags(self, request: web.Request) -> web.Response:
        return respond(request, dict(_flat("", plain_section(self._facts.config()))))

    async def runtime_info(self, request: web.Request) -> web.Response:
        facts, store = self._facts, self._store
        works, loaded_s = facts.reload()
        storage = store.settings
        data = {
            "startTime": rfc3339(facts.started_ms),
            "CWD": os.getcwd(),  # text is what is asked for
            "reloadConfigSuccess": works,
            "lastConfigTime": rfc3339(round(loaded_s * 1000)),
            "corruptionCount": store.stats.corrupt.total(),
            "goroutineCount": threading.active_count(),
            "GOMAXPROCS": os.cpu_count() or 1,
            "GOGC": "",
            "GODEBUG": "",
            "storageRetention": (
                f"{format_duration(storage.retention.raw_ms)} or {format_size(storage.max_bytes)}"
            ),
        }
        return respond(request, data)

    async def tsdb(self, request: web.Request) -> web.Response:
        form = await Form.of(request, self._http)
        limit = min(form.count() or _LIMIT, _LIMIT_MAX)
        store, index = self._store, self._store.index
        refs = np.fromiter((series.ref for series in index.series()), np.uint32, len(index))
        newest_ms, _ = store.current.get(refs)
        newest_ms = newest_ms[newest_ms != NEVER_MS]
        blocks = list(store.ledger.catalogue)
        head = {
            "numSeries": len(index),
            "numLabelPairs": sum(index.label_cardinality().values()),
            "chunkCount": len(blocks),
            "minTime": min((block.min_ms for block in blocks), default=0),
            "maxTime": int(newest_ms.max(initial=0)),
        }
        # Walking all label values of 100,000 series takes a tenth of a second.
        tops = await asyncio.to_thread(_tops, index, limit)
        return respond(request, {"headStats": head, **tops})

    async def wal_replay(self, request: web.Request) -> web.Response:
        # Nothing is served before the journal is played back.
        return respond(request, {"min": 0, "max": 0, "current": 0})


def rfc3339(ts_ms: int) -> str:
    """Write a time as Go does; the year 1 for one that never was."""
    if not ts_ms:
        return "0001-01-01T00:00:00Z"
    return f"{datetime.fromtimestamp(ts_ms / 1000, UTC):%Y-%m-%dT%H:%M:%S}.{ts_ms % 1000:03}Z"


def _tops(index: Index, limit: int) -> Json:
    by_label = {name: index.value_cardinality(name) for name in index.label_names()}
    sizes = {
        name: sum(len(value.encode()) * series for value, series in values.items())
        for name, values in by_label.items()
    }
    pairs = {
        f"{name}={value}": series
        for name, values in by_label.items()
        for value, series in values.items()
    }
    return {
        "seriesCountByMetricName": _top(by_label.get(METRIC_NAME, {}), limit),
        "labelValueCountByLabelName": _top({n: len(v) for n, v in by_label.items()}, limit),
        "memoryInBytesByLabelName": _top(sizes, limit),
        "seriesCountByLabelValuePair": _top(pairs, limit),
    }


def _top(counts: Mapping[str, int], limit: int) -> list[Json]:
    largest = heapq.nsmallest(limit, counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"name": name, "value": count} for name, count in largest]


def _flat(prefix: str, section: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the single settings of a section, as `storage.path` and its text."""
    for key, value in section.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping):
            yield from _flat(name, value)
        elif isinstance(value, bool):
            yield name, str(value).lower()
        elif not isinstance(value, list):
            yield name, str(value)
