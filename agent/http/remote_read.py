"""``POST /api/v1/read``: Prometheus remote read, answered with samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from aiohttp import hdrs, web

from ...config.selector import Matcher, MatchOp
from ...config.settings import HttpSettings
from ...storage.frame import FloatArray, IntArray, is_absent
from ...storage.select import Querier
from ...storage.store import Store
from ..wire import prompb, snappy
from ..wire.errors import TooLong, WireError
from .body import Budget, read_body, too_large
from .errors import ApiError, ErrorType
from .external_labels import with_external, without_external

PATH: Final = "/api/v1/read"
#: Samples of one answer: 18 bytes each, and twice that while it is made.
SAMPLES_MAX: Final = 5_000_000
#: A question is some matchers.
_QUESTION_BYTES_MAX: Final = 1 << 20
_QUERIES_MAX: Final = 100

# The six-byte times: 1971 to 2109.
_MIN_PLAIN_MS: Final = 1 << 35
_MAX_PLAIN_MS: Final = (1 << 42) - 1


class RemoteReadEndpoint:
    def __init__(self, store: Store, external: Mapping[str, str], http: HttpSettings) -> None:
        self._store, self._external, self._http = store, external, http
        self.budget = Budget(4 * _QUESTION_BYTES_MAX)

    def routes(self) -> list[web.AbstractRouteDef]:
        return [web.post(PATH, self.read)]

    async def read(self, request: web.Request) -> web.Response:
        coding = request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower() or "snappy"
        if coding != "snappy":
            raise ApiError(
                ErrorType.BAD_DATA, f"Content-Encoding {coding!r} is not snappy", status=415
            )
        with self.budget.share() as share:
            body = await read_body(
                request,
                _QUESTION_BYTES_MAX,
                share,
                passthrough=("snappy",),
                timeout_s=self._http.body_timeout_ms / 1000,
            )
            try:
                asked = prompb.read_request(snappy.decompress(body, _QUESTION_BYTES_MAX))
                questions = [(each, _matchers(each)) for each in asked.queries]
            except TooLong as error:
                raise too_large(error.limit_bytes) from None
            except WireError as error:
                return web.Response(status=400, text=f"{error}\n")
        if not asked.takes_samples:
            return web.Response(status=400, text="only answers of type SAMPLES are given\n")
        if len(questions) > _QUERIES_MAX:
            return web.Response(status=400, text=f"more than {_QUERIES_MAX} queries\n")

        def job(querier: Querier) -> bytes:
            budget = _Samples()
            return snappy.compress(
                prompb.read_response(
                    self._series(querier, query, matchers, budget) for query, matchers in questions
                )
            )

        answer = await self._store.read(job)
        headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
        return web.Response(body=answer, headers=headers)

    def _series(
        self,
        querier: Querier,
        query: prompb.ReadQuery,
        matchers: tuple[Matcher, ...],
        budget: _Samples,
    ) -> list[bytes]:
        own = without_external(matchers, self._external)
        if own is None:
            return []
        found = []
        refs = querier.index.select(own)
        for frame in querier.frames(refs, query.min_ms, query.max_ms):
            for series, values in zip(frame.series, frame.values, strict=True):
                # Stale markers are samples to a reader that is a Prometheus itself.
                there = ~is_absent(values)
                ts_ms, values = frame.ts_ms[there], values[there]
                budget.take(len(ts_ms))
                labels = with_external(series.labels, self._external)
                found.append((labels, prompb.label_fields(labels) + _samples(ts_ms, values)))
        found.sort(key=lambda each: each[0])
        return [series for _, series in found]


class _Samples:
    """Counts the samples of an answer."""

    def __init__(self) -> None:
        self._count = 0

    def take(self, samples: int) -> None:
        """Raises ApiError if there are too many."""
        self._count += samples
        if self._count > SAMPLES_MAX:
            raise ApiError(
                ErrorType.BAD_DATA, f"exceeded sample limit ({SAMPLES_MAX}); ask for less at a time"
            )


def _matchers(query: prompb.ReadQuery) -> tuple[Matcher, ...]:
    try:
        return tuple(Matcher(name, MatchOp(op), value) for name, op, value in query.matchers)
    except ValueError as error:
        raise WireError(f"a matcher cannot be used: {error}") from None


def _samples(ts_ms: IntArray, values: FloatArray) -> bytes:
    """Write samples, each of them whole: ``12 10 09 <value> 10 <time>``."""
    if not len(ts_ms):
        return b""
    if int(ts_ms[0]) < _MIN_PLAIN_MS or int(ts_ms[-1]) > _MAX_PLAIN_MS:
        return prompb.samples_block(ts_ms.tolist(), values.tolist())
    rows = np.empty((len(ts_ms), 18), np.uint8)
    rows[:, :3] = (0x12, 0x10, 0x09)
    rows[:, 3:11] = np.ascontiguousarray(values, "<f8").view(np.uint8).reshape(-1, 8)
    rows[:, 11] = 0x10
    for place in range(6):
        rows[:, 12 + place] = (ts_ms >> 7 * place & 0x7F) | (0x80 if place < 5 else 0)
    return rows.tobytes()
