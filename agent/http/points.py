"""``POST /api/tachograph/v1/points``: JSON points, stored and committed before the answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from aiohttp import web

from ...config.settings import HttpSettings, StorageLimits
from ...storage.clock import Clock
from ...storage.errors import SeriesRefused
from ...storage.frame import FloatArray, IntArray, RefArray, distinct
from ...storage.model import Metadata
from ...storage.sink import GroupSink
from ..ingest.kept import PushedPoint
from ..ingest.points import PointBatch, PointDecoder, PointsError, Refused
from .body import Budget, read_body
from .errors import ApiError, ErrorType

PATH: Final = "/api/tachograph/v1/points"
#: Name of the group that pushed points belong to.
GROUP: Final = "points"

_CONTENT_TYPES: Final = frozenset(
    {"application/json", "application/x-ndjson", "application/ndjson", "application/jsonl"}
)
# So many of the longest bodies may be held at the same time by all requests together.
_BODIES_HELD: Final = 4
# A body that long can't keep the event loop for 10 ms, however bad its points are.
_INLINE_BODY_BYTES: Final = 8 * 1024
# A new series costs about 10 µs, a point about 0.1: between such slices others get their turn.
_SERIES_SLICE: Final = 500
_POINTS_SLICE: Final = 20_000
# An answer names so many bad points at most, in so many characters each.
_REFUSED_LISTED: Final = 1_000
_REASON_CHARS: Final = 200


class Refusal(Protocol):
    """Points that the store didn't take."""

    @property
    def reasons(self) -> Sequence[str]:
        """One for each point of the call; empty for a point that was taken."""
        ...


class Families(Protocol):
    def metadata(self, family: str) -> Metadata | None: ...


class PointStore(Protocol):
    """The store, as far as pushed points need it."""

    @property
    def families(self) -> Families: ...

    def group(self, name: str) -> GroupSink: ...

    def describe(self, family: str, metadata: Metadata) -> None: ...

    def append_points(
        self, refs: RefArray, ts_ms: IntArray, values: FloatArray
    ) -> Refusal | None: ...

    async def committed(self) -> None: ...


class Keeper(Protocol):
    """Keeps points current that were pushed with a ttl."""

    def concerns(self, refs: RefArray) -> bool:
        """Tell whether one of these series is kept."""
        ...

    async def keep(self, points: Sequence[PushedPoint]) -> Sequence[str]:
        """
        Keep points that the store has taken; one without a ttl ends the keeping of its series.

        Returns:
            For each why it is not kept; empty if it is.

        Raises:
            StoreUnavailable: It cannot be written down that they are kept.
        """
        ...


@dataclass(slots=True)
class PointsStats:
    """
    Attributes:
        requests: Bodies decoded.
        stored: Points that the store took.
        refused: Points that weren't, by who found the fault: ``decoder`` (the point itself),
            ``limits`` (a new series beyond them), ``store`` (its time), ``keeper`` (stored, but too
            many others are kept current).
    """

    requests: int = 0
    stored: int = 0
    refused: Counter[str] = field(default_factory=Counter)


class PointsEndpoint:
    """Takes points in; good ones are stored, whatever is wrong with the others."""

    def __init__(
        self,
        store: PointStore,
        clock: Clock,
        limits: StorageLimits,
        http: HttpSettings,
        keeper: Keeper,
    ) -> None:
        self._store, self._clock, self._keeper = store, clock, keeper
        self._decoder = PointDecoder(limits)
        self._body_bytes_max = http.max_body_bytes
        self._body_timeout_s = http.body_timeout_ms / 1000
        self._decoding = asyncio.Lock()
        self.budget = Budget(_BODIES_HELD * http.max_body_bytes)
        self.stats = PointsStats()

    def routes(self) -> list[web.AbstractRouteDef]:
        return [web.post(PATH, self.post)]

    async def post(self, request: web.Request) -> web.Response:
        """
        Store the points of a request.

        204 says that all are committed. 400 lists the bad ones by their index in the request; the
        good ones are committed then, too.
        """
        if request.content_type not in _CONTENT_TYPES:
            raise ApiError(
                ErrorType.BAD_DATA,
                f"Content-Type {request.content_type!r} is not application/json "
                "or application/x-ndjson",
                status=415,
            )
        with self.budget.share() as share:
            body = await read_body(
                request, self._body_bytes_max, share, timeout_s=self._body_timeout_s
            )
            batch = await self._decode(body)
            del body
        self.stats.requests += 1
        refused = await self._append(batch)
        await self._store.committed()
        if refused:
            raise _partly_refused(batch.count, refused)
        return web.Response(status=204)

    async def _decode(self, body: bytes) -> PointBatch:
        received_ms = self._clock.now_ms()
        try:
            if len(body) <= _INLINE_BODY_BYTES:
                return self._decoder.decode(body, received_ms)
            # One at a time: more wouldn't be faster, and each takes several times its body.
            async with self._decoding:
                return await asyncio.to_thread(self._decoder.decode, body, received_ms)
        except PointsError as error:
            status = 413 if error.too_many else None
            raise ApiError(ErrorType.BAD_DATA, str(error), status=status) from None

    async def _append(self, batch: PointBatch) -> list[Refused]:
        """Hand the good points to the store; return all that weren't taken, by index."""
        refs, faults = await self._refs(batch)
        refused = list(batch.refused)
        self.stats.refused["decoder"] += len(refused)
        point_refs = refs[batch.series_of]
        known = point_refs > 0
        for place in np.flatnonzero(~known).tolist():
            fault = faults[int(batch.series_of[place])]
            refused.append(Refused(int(batch.index[place]), fault))
            self.stats.refused["limits"] += 1
        chosen = np.flatnonzero(known)
        taken = known
        for start in range(0, len(chosen), _POINTS_SLICE):
            if start:
                await asyncio.sleep(0)
            part = chosen[start : start + _POINTS_SLICE]
            refusal = self._store.append_points(
                point_refs[part], batch.ts_ms[part], batch.values[part]
            )
            late = [] if refusal is None else _late(part, refusal, batch)
            refused += late
            if refusal is not None:
                taken[part[np.array([bool(reason) for reason in refusal.reasons])]] = False
            self.stats.refused["store"] += len(late)
            self.stats.stored += len(part) - len(late)
        refused += await self._keep(batch, point_refs, np.flatnonzero(taken))
        refused.sort(key=lambda one: one.index)
        return refused

    async def _keep(self, batch: PointBatch, refs: RefArray, taken: IntArray) -> list[Refused]:
        """Have the keeper know of points with a ttl, and of series that are pushed without now."""
        has_ttl = bool(batch.ttl_ms[taken].any())
        if not has_ttl and not self._keeper.concerns(refs[taken]):
            return []
        points = [
            PushedPoint(series.labels, series.kind, ref, ts_ms, value, ttl_ms)
            for series, ref, ts_ms, value, ttl_ms in zip(
                (batch.series[slot] for slot in batch.series_of[taken].tolist()),
                refs[taken].tolist(),
                batch.ts_ms[taken].tolist(),
                batch.values[taken].tolist(),
                batch.ttl_ms[taken].tolist(),
                strict=True,
            )
        ]
        reasons = await self._keeper.keep(points)
        refused = [
            Refused(index, reason)
            for index, reason in zip(batch.index[taken].tolist(), reasons, strict=True)
            if reason
        ]
        self.stats.refused["keeper"] += len(refused)
        return refused

    async def _refs(self, batch: PointBatch) -> tuple[RefArray, dict[int, str]]:
        """Return the refs of the series that have points, and by place why there is none."""
        group = self._store.group(GROUP)
        refs = np.zeros(len(batch.series), dtype=np.uint32)
        faults: dict[int, str] = {}
        # Not those whose points are all bad: they would be series without a sample.
        for number, place in enumerate(distinct(batch.series_of).tolist(), start=1):
            series = batch.series[place]
            if not number % _SERIES_SLICE:
                await asyncio.sleep(0)
            try:
                refs[place] = group.ref(series.labels, series.kind)
            except SeriesRefused as error:
                faults[place] = str(error)
            else:
                given = batch.metadata.pop(series.family, None)
                if given is not None:
                    self._describe(series.family, given)
        return refs, faults

    def _describe(self, family: str, given: Metadata) -> None:
        """Remember what was given; what wasn't stays as it was."""
        before = self._store.families.metadata(family)
        new = given.over(before)
        if new != before:
            self._store.describe(family, new)


def _late(part: IntArray, refusal: Refusal, batch: PointBatch) -> list[Refused]:
    return [
        Refused(int(batch.index[place]), reason)
        for place, reason in zip(part.tolist(), refusal.reasons, strict=True)
        if reason
    ]


def _partly_refused(count: int, refused: Sequence[Refused]) -> ApiError:
    first = refused[0]
    listed = [
        {"index": one.index, "reason": _shortened(one.reason)} for one in refused[:_REFUSED_LISTED]
    ]
    return ApiError(
        ErrorType.BAD_DATA,
        f"{len(refused)} of {count} points refused; the first is {first.index}: "
        f"{_shortened(first.reason)}",
        facts={"stored": count - len(refused), "refused": listed},
    )


def _shortened(reason: str) -> str:
    return reason if len(reason) <= _REASON_CHARS else f"{reason[: _REASON_CHARS - 1]}…"
