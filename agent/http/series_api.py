"""``/api/v1/series``, ``labels``, ``label/NAME/values``, ``metadata``, ``query_exemplars``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import numpy as np
from aiohttp import web

from ...aggregation.promql.errors import PromqlError
from ...aggregation.promql.nodes import VectorSelector, walk
from ...config.selector import Matcher
from ...config.settings import HttpSettings
from ...storage.exemplars import Exemplars
from ...storage.frame import BoolArray, RefArray, distinct
from ...storage.labels import Index
from ...storage.model import MetricType
from ...storage.select import Querier
from ...storage.store import Store
from .errors import ApiError, ErrorType
from .forms import TIME_MAX_MS, Form
from .query_runner import QueryRunner, as_api_error
from .render import TRUNCATED, render_exemplars
from .respond import both, envelope, get, packed, respond, respond_json, takes_gzip, to_json

T = TypeVar("T")

_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
# A name that isn't a classic one, as Prometheus 3 writes it into URLs: "U__", then each odd
# character as _hex_ and each underscore twice.
_ESCAPED: Final = "U__"
_ESCAPE: Final = re.compile(r"_(?:_|([0-9a-fA-F]{1,6})_)")


class SeriesEndpoint:
    """Answers which series and labels there are."""

    def __init__(
        self, store: Store, exemplars: Exemplars, runner: QueryRunner, http: HttpSettings
    ) -> None:
        self._store, self._exemplars, self._runner, self._http = store, exemplars, runner, http

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            *both("/api/v1/series", self.series),
            *both("/api/v1/labels", self.labels),
            *get("/api/v1/label/{name}/values", self.label_values),
            *get("/api/v1/metadata", self.metadata),
            *both("/api/v1/query_exemplars", self.query_exemplars),
        ]

    async def series(self, request: web.Request) -> web.Response:
        form = await Form.of(request, self._http)
        wanted = await form.selectors(required=True)
        limit = form.count()

        def find(querier: Querier, refs: RefArray | None) -> list[dict[str, str]]:
            found = querier.resolve(_matching(querier.index, wanted, refs))
            return [dict(labels) for labels in sorted(series.labels for series in found)]

        return await self._answer(request, form, limit, find)

    async def labels(self, request: web.Request) -> web.Response:
        form = await Form.of(request, self._http)
        wanted = await form.selectors(required=False)
        limit = form.count()

        def find(querier: Querier, refs: RefArray | None) -> list[str]:
            if not wanted:
                return querier.index.label_names(_mask(querier.index, refs))
            found = querier.resolve(_matching(querier.index, wanted, refs))
            return sorted({name for series in found for name, _ in series.labels})

        return await self._answer(request, form, limit, find)

    async def label_values(self, request: web.Request) -> web.Response:
        form = await Form.of(request, self._http)
        name = self._label_name(request.match_info["name"])
        wanted = await form.selectors(required=False)
        limit = form.count()

        def find(querier: Querier, refs: RefArray | None) -> list[str]:
            if not wanted:
                return querier.index.label_values(name, _mask(querier.index, refs))
            found = querier.resolve(_matching(querier.index, wanted, refs))
            return sorted({series.labels.get(name) for series in found} - {""})

        return await self._answer(request, form, limit, find)

    async def metadata(self, request: web.Request) -> web.Response:
        form = await Form.of(request, self._http)
        limit, metric = form.count(), form.get("metric")
        families = self._store.families
        known = families.metadata(metric) if metric else None
        items = families.items() if not metric else [(metric, known)] if known else []
        data = {
            family: [{"type": prometheus_type(each.type), "help": each.help, "unit": each.unit}]
            for family, each in items[: limit or None]
            if each is not None
        }
        return respond(request, data)

    async def query_exemplars(self, request: web.Request) -> web.Response:
        form = await Form.of(request, self._http)
        # Grafana asks in milliseconds where seconds are due: the year 58,000, and no exemplars.
        start_ms, end_ms = form.range_ms()
        try:
            expr = self._runner.engine.parse(form.get("query"))
        except PromqlError as error:
            raise as_api_error(error) from error
        wanted = [node.matchers for node in walk(expr) if isinstance(node, VectorSelector)]
        index = self._store.index
        refs = _matching(index, wanted, None) if wanted else np.empty(0, np.uint32)
        found = [
            (series.labels, [(one.labels, one.value, one.ts_ms) for one in exemplars])
            for ref, exemplars in self._exemplars.select(refs, start_ms, end_ms)
            if (series := index.get(ref)) is not None
        ]
        return respond_json(request, render_exemplars(found))

    async def _answer(
        self,
        request: web.Request,
        form: Form,
        limit: int,
        find: Callable[[Querier, RefArray | None], Sequence[object]],
    ) -> web.Response:
        """Find something among the series of a time range, ``None`` being all, in a thread."""
        start_ms, end_ms = form.range_ms()
        is_bounded = start_ms > -TIME_MAX_MS or end_ms < TIME_MAX_MS
        gzip = takes_gzip(request)
        # A series without a newest sample may well have older ones, in chunks.
        ended = self._store.current.ended_before(start_ms) if is_bounded else None

        def job(querier: Querier) -> tuple[bytes, dict[str, str]]:
            refs = None
            if ended is not None:
                there = querier.between(start_ms, end_ms)
                refs = np.setdiff1d(there, ended, assume_unique=True)
            found = find(querier, refs)
            warnings = [TRUNCATED] if limit and len(found) > limit else []
            text = envelope(to_json(found[: limit or None]), warnings)
            return packed(text, gzip=gzip)

        body, headers = await self._store.read(job)
        return web.Response(body=body, headers=headers)

    def _label_name(self, text: str) -> str:
        """
        Read a label's name as it stands in a URL.

        Raises:
            ApiError: It can't be one.
        """
        name = _unescaped(text) if text.startswith(_ESCAPED) else text
        if not name or (self._runner.is_prometheus2 and not _LABEL_NAME.fullmatch(name)):
            raise ApiError(ErrorType.BAD_DATA, f"invalid label name: {to_json(text)}")
        return name


def prometheus_type(type_: MetricType) -> str:
    """Return a family's type as Prometheus' API names it."""
    return type_.value


def _matching(
    index: Index, wanted: Sequence[Sequence[Matcher]], among: RefArray | None
) -> RefArray:
    """Return the series, rising, that satisfy any of some selectors."""
    refs = distinct(np.concatenate([index.select(matchers) for matchers in wanted]))
    return refs if among is None else np.intersect1d(refs, among, assume_unique=True)


def _mask(index: Index, refs: RefArray | None) -> BoolArray | None:
    """Tell some series by their numbers; ``None`` for all."""
    if refs is None or np.array_equal(refs, index.select(())):
        return None
    mask: BoolArray = np.zeros(int(refs[-1]) + 1 if len(refs) else 0, np.bool_)
    mask[refs] = True
    return mask


def _unescaped(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        code = int(match[1], 16) if match[1] else 0
        return chr(code) if match[1] and code <= 0x10FFFF else "_"

    return _ESCAPE.sub(one, text.removeprefix(_ESCAPED))
