"""What is stored, as JSON: series, raw points, rollups; and the order to compact it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from aiohttp import web

from ...aggregation.rollup import Aggregate, Tier
from ...aggregation.tiers import read_tier, readable
from ...config.selector import Matcher
from ...storage.clock import Clock
from ...storage.frame import FloatArray, IntArray, RefArray, distinct, is_absent, is_stale
from ...storage.keys import DAY_MS
from ...storage.labels import Index
from ...storage.model import Series
from ...storage.select import Querier
from ...storage.store import Store
from .errors import ApiError, ErrorType
from .numbers import format_seconds, format_value
from .params import choice, count, range_ms, selectors

PREFIX: Final = "/api/tachograph/v1"

#: Points in one answer; some 20 MB of JSON.
_POINTS_MAX: Final = 500_000
_SERIES_LIMIT: Final = 10_000
_HOUR_MS: Final = 3_600_000

Json = dict[str, Any]
_encoder = msgspec.json.Encoder()


def routes(
    store: Store, clock: Clock, compact: Callable[[], Awaitable[Sequence[int]]]
) -> list[web.AbstractRouteDef]:
    """
    Return the routes.

    Args:
        compact: Seals the head, compacts the days that are over and returns them.
    """

    async def series(request: web.Request) -> web.Response:
        limit = count(request, "limit", _SERIES_LIMIT)
        wanted = selectors(request, required=False)
        refs = _select(store.index, wanted) if wanted else None
        found = list(store.index.series()) if refs is None else _resolve(store.index, refs)
        shown = found[:limit]
        newest_ms, _ = store.current.get(np.array([each.ref for each in shown], np.uint32))
        data = [
            _series(each, newest) for each, newest in zip(shown, newest_ms.tolist(), strict=True)
        ]
        answer: Json = {"status": "success", "data": data}
        if len(found) > limit:
            answer["warnings"] = [f"{len(found)} series match, the first {limit} are shown"]
        return _json(answer)

    async def points(request: web.Request) -> web.Response:
        wanted = selectors(request)
        start_ms, end_ms = range_ms(request, clock.now_ms(), _HOUR_MS)
        refs = _select(store.index, wanted)
        return web.Response(
            body=await store.read(lambda querier: _points(querier, refs, start_ms, end_ms)),
            content_type="application/json",
        )

    async def rollups(request: web.Request) -> web.Response:
        wanted = selectors(request)
        tiers = {tier.label: tier for tier in Tier}
        tier = tiers[choice(request, "tier", tuple(tiers), "1m")]
        what = Aggregate(choice(request, "agg", tuple(Aggregate), "avg"))
        now_ms = clock.now_ms()
        start_ms, end_ms = range_ms(request, now_ms, min(60 * tier.width_ms, 30 * DAY_MS))
        matching = _select(store.index, wanted)
        refs = readable(store.index, matching, what)
        warnings = []
        if len(refs) < len(matching):
            warnings.append(f"{len(matching) - len(refs)} gauges are left out: they have no {what}")
        if len(refs) * ((end_ms - start_ms) // tier.width_ms + 1) > _POINTS_MAX * 20:
            raise _too_much()
        return web.Response(
            body=await store.read(
                lambda querier: _rollups(querier, refs, tier, what, start_ms, end_ms, warnings)
            ),
            content_type="application/json",
        )

    async def do_compact(_: web.Request) -> web.Response:
        days = await compact()
        dates = [str(np.datetime64(day, "D")) for day in days]
        return _json({"status": "success", "data": {"compactedDays": dates}})

    return [
        web.get(f"{PREFIX}/series", series),
        web.get(f"{PREFIX}/points", points),
        web.get(f"{PREFIX}/rollups", rollups),
        web.post(f"{PREFIX}/admin/compact", do_compact),
    ]


def _select(index: Index, wanted: Sequence[tuple[Matcher, ...]]) -> RefArray:
    return distinct(np.concatenate([index.select(matchers) for matchers in wanted]))


def _resolve(index: Index, refs: RefArray) -> list[Series]:
    found = (index.get(ref) for ref in refs.tolist())
    return [series for series in found if series is not None]


def _series(series: Series, newest_ms: int) -> Json:
    shown: Json = {
        "metric": dict(series.labels),
        "kind": series.kind.name.lower(),
        "created": format_seconds(series.created_ms),
    }
    if newest_ms > 0:
        shown["newest"] = format_seconds(newest_ms)
    return shown


def _points(querier: Querier, refs: RefArray, start_ms: int, end_ms: int) -> bytes:
    """Answer like Prometheus' range vectors, but with both ends in; stale markers are left out."""
    total = 0
    result = []
    for frame in querier.frames(refs, start_ms, end_ms):
        for series, values in zip(frame.series, frame.values, strict=True):
            keep = ~(is_absent(values) | is_stale(values))
            total += int(keep.sum())
            if total > _POINTS_MAX:
                raise _too_much()
            if keep.any():
                result.append(_matrix_row(series, frame.ts_ms[keep], values[keep]))
    return _matrix(result)


def _rollups(
    querier: Querier,
    refs: RefArray,
    tier: Tier,
    what: Aggregate,
    start_ms: int,
    end_ms: int,
    warnings: Sequence[str],
) -> bytes:
    total = 0
    result = []
    for found in read_tier(querier, refs, tier, what, start_ms, end_ms):
        total += len(found.values)
        if total > _POINTS_MAX:
            raise _too_much()
        result.append(_matrix_row(found.series, found.end_ms, found.values))
    return _matrix(result, warnings, tier=tier.label, aggregate=str(what))


def _matrix_row(series: Series, ts_ms: IntArray, values: FloatArray) -> Json:
    times: Iterator[int | float] = map(format_seconds, ts_ms.tolist())
    pairs = list(zip(times, map(format_value, values.tolist()), strict=True))
    return {"metric": dict(series.labels), "values": pairs}


def _matrix(result: list[Json], warnings: Sequence[str] = (), **facts: str) -> bytes:
    data = {"resultType": "matrix", **facts, "result": result}
    answer: Json = {"status": "success", "data": data}
    if warnings:
        answer["warnings"] = warnings
    return _encoder.encode(answer)


def _too_much() -> ApiError:
    return ApiError(
        ErrorType.EXECUTION,
        f"the answer would have more than {_POINTS_MAX} points; "
        "ask for fewer series, a shorter time or a coarser tier",
    )


def _json(answer: Json) -> web.Response:
    return web.Response(body=_encoder.encode(answer), content_type="application/json")
