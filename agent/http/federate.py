"""``/federate``: the newest samples of chosen series, for another Prometheus to scrape."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from aiohttp import web

from ...config.selector import Matcher
from ...config.settings import HttpSettings
from ...storage.clock import Clock
from ...storage.frame import distinct, is_absent, is_stale
from ...storage.model import METRIC_NAME, Labels
from ...storage.select import Querier
from ...storage.store import Store
from .external_labels import with_external
from .forms import Form
from .negotiation import TEXT, choose
from .numbers import format_value
from .respond import get, pack, takes_gzip

_METRIC: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_ILLEGAL: Final = re.compile(r"[^a-zA-Z0-9_:]")
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class FederateEndpoint:
    def __init__(
        self,
        store: Store,
        clock: Clock,
        lookback_ms: int,
        external: Mapping[str, str],
        http: HttpSettings,
    ) -> None:
        self._store, self._clock, self._http = store, clock, http
        self._lookback_ms, self._external = lookback_ms, external

    def routes(self) -> list[web.AbstractRouteDef]:
        return get("/federate", self.federate)

    async def federate(self, request: web.Request) -> web.Response:
        form = await Form.of(request, self._http)
        wanted = await form.selectors(required=False)
        style = choose(request.headers.get("Accept", "")).style
        now_ms, gzip = self._clock.now_ms(), takes_gzip(request)

        def job(querier: Querier) -> tuple[bytes, dict[str, str]]:
            return pack((self._page(querier, wanted, now_ms, style.utf8),), gzip=gzip)

        body, headers = await self._store.read(job)
        escaping = "; escaping=allow-utf-8" if style.utf8 else ""
        version = "1.0.0" if style.utf8 else "0.0.4"
        content_type = f"{TEXT}; version={version}; charset=utf-8{escaping}"
        return web.Response(body=body, headers={"Content-Type": content_type, **headers})

    def _page(
        self, querier: Querier, wanted: Sequence[Sequence[Matcher]], now_ms: int, utf8: bool
    ) -> bytes:
        if not wanted:
            return b""  # as Prometheus does: nothing was asked for
        refs = distinct(np.concatenate([querier.index.select(each) for each in wanted]))
        found: list[tuple[Labels, int, float]] = []
        for frame in querier.frames(refs, now_ms - self._lookback_ms + 1, now_ms):
            for series, values in zip(frame.series, frame.values, strict=True):
                there = np.flatnonzero(~is_absent(values))
                if len(there) and not is_stale(values[there[-1:]])[0]:
                    last = int(there[-1])
                    labels = with_external(series.labels, self._external)
                    found.append((labels, int(frame.ts_ms[last]), float(values[last])))
        found.sort(key=lambda each: (each[0].name, each[0]))
        lines: list[str] = []
        before = None
        for labels, ts_ms, value in found:
            if labels.name != before:
                before = labels.name
                lines.append(f"# TYPE {_type_name(before, utf8)} untyped\n")
            lines.append(f"{_selector(labels, utf8)} {format_value(value)} {ts_ms}\n")
        return "".join(lines).encode()


def _type_name(name: str, utf8: bool) -> str:
    if _METRIC.fullmatch(name):
        return name
    return _quoted(name) if utf8 else _escaped(name)


def _selector(labels: Labels, utf8: bool) -> str:
    """Write name and labels; odd names in quotes, or with underscores for who can't read those."""
    name, inner = labels.name, []
    if not _METRIC.fullmatch(name):
        if utf8:
            name, inner = "", [_quoted(name)]
        else:
            name = _escaped(name)
    for label, value in labels:
        if label == METRIC_NAME:
            continue
        if not _LABEL.fullmatch(label):
            label = _quoted(label) if utf8 else _escaped(label).replace(":", "_")
        inner.append(f"{label}={_quoted(value)}")
    return f"{name}{{{','.join(inner)}}}" if inner else name


def _escaped(name: str) -> str:
    legal = _ILLEGAL.sub("_", name)
    return f"_{legal}" if legal[0].isdigit() else legal


def _quoted(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'
