"""``/api/v1/query`` and ``query_range``, and what is said of a query's text alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from aiohttp import web

from ...aggregation.promql.ast_json import expr_to_json
from ...aggregation.promql.errors import PromqlError
from ...aggregation.promql.printer import format_expr
from ...aggregation.promql.result import Result
from ...aggregation.tiered_querier import force_of
from ...config.settings import HttpSettings
from ...storage.clock import Clock
from .errors import ApiError, ErrorType
from .forms import Form
from .params import bad
from .query_runner import QueryRunner, Run, as_api_error
from .render import render_result, warnings_of
from .respond import both, enveloped, packed_pieces, respond, takes_gzip, to_json

#: Steps of one series, as in Prometheus: more than a screen has pixels.
STEPS_MAX: Final = 11_000


class QueryEndpoint:
    """Answers queries by HTTP."""

    def __init__(self, runner: QueryRunner, clock: Clock, http: HttpSettings) -> None:
        self._runner, self._clock, self._http = runner, clock, http

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            *both("/api/v1/query", self.query),
            *both("/api/v1/query_range", self.query_range),
            *both("/api/v1/format_query", self.format_query),
            *both("/api/v1/parse_query", self.parse_query),
        ]

    async def query(self, request: web.Request) -> web.Response:
        form = await Form.of(request, self._http)
        try:
            time_ms = form.time_ms("time", self._clock.now_ms())
        except ApiError:
            text = form.get("time")
            raise bad(
                "time",
                f"Invalid time value for 'time': cannot parse \"{text}\" to a valid timestamp",
            ) from None
        text = form.get("query")

        def evaluate(run: Run) -> Result:
            return run.engine.instant(run.querier, text, time_ms, check=run.deadline)

        return await self._answer(request, form, evaluate)

    async def query_range(self, request: web.Request) -> web.Response:
        form = await Form.of(request, self._http)
        now_ms = self._clock.now_ms()
        for name in ("start", "end"):
            if not form.get(name):
                raise bad(name, 'cannot parse "" to a valid timestamp')
        start_ms, end_ms = form.time_ms("start", now_ms), form.time_ms("end", now_ms)
        if end_ms < start_ms:
            raise bad("end", "end timestamp must not be before start time")
        if not form.get("step"):
            raise bad("step", 'cannot parse "" to a valid duration')
        step_ms = form.duration_ms("step", 0, signed=True)
        if step_ms <= 0:
            raise bad(
                "step",
                "zero or negative query resolution step widths are not accepted. "
                "Try a positive integer",
            )
        if (end_ms - start_ms) // step_ms > STEPS_MAX:
            raise ApiError(
                ErrorType.BAD_DATA,
                f"exceeded maximum resolution of {STEPS_MAX:,} points per timeseries. "
                "Try decreasing the query resolution (?step=XX)",
            )
        text = form.get("query")
        # As VictoriaMetrics has it: for whoever doubts or measures the cache.
        cached = form.get("nocache") not in ("1", "true")

        def evaluate(run: Run) -> Result:
            return run.engine.range(
                run.querier, text, start_ms, end_ms, step_ms, check=run.deadline, cached=cached
            )

        return await self._answer(request, form, evaluate)

    async def format_query(self, request: web.Request) -> web.Response:
        form = await Form.of(request, self._http)
        return respond(
            request, self._about(form, lambda text: format_expr(self._runner.engine.parse(text)))
        )

    async def parse_query(self, request: web.Request) -> web.Response:
        form = await Form.of(request, self._http)
        return respond(
            request, self._about(form, lambda text: expr_to_json(self._runner.engine.parse(text)))
        )

    async def _answer(
        self, request: web.Request, form: Form, evaluate: Callable[[Run], Result]
    ) -> web.Response:
        timeout_ms = form.duration_ms("timeout", 0)
        lookback_ms = form.duration_ms("lookback_delta", 0)
        limit, with_stats = form.count(), bool(form.get("stats"))
        gzip = takes_gzip(request)
        try:
            force = force_of(form.get("tier")) if form.get("tier") else None
        except ValueError as error:
            raise bad("tier", str(error)) from error

        def job(run: Run) -> tuple[bytes, dict[str, str], int]:
            started_s = time.perf_counter()
            result = evaluate(run)
            eval_s = time.perf_counter() - started_s

            def members() -> Iterator[str]:
                for piece in render_result(result, limit):
                    run.deadline.check()  # a long answer takes seconds to write
                    yield piece
                if with_stats:
                    yield f',"stats":{_stats(result, eval_s, run.queue_s)}'

            pieces = enveloped(members(), warnings_of(result, limit), result.infos)
            body, headers = packed_pieces(pieces, gzip=gzip)
            return body, headers, result.stats.samples_total

        body, headers, samples = await self._runner.run(
            job, timeout_ms=timeout_ms, lookback_ms=lookback_ms, force=force
        )
        self._runner.stats.samples += samples
        return web.Response(body=body, headers=headers)

    def _about(self, form: Form, say: Callable[[str], object]) -> object:
        try:
            return say(form.get("query"))
        except PromqlError as error:
            raise as_api_error(error) from error


def _stats(result: Result, eval_s: float, queue_s: float) -> str:
    # Ours reads, computes and sorts as it goes, so there is one time to tell and no parts of it.
    timings = {
        "evalTotalTime": eval_s,
        "resultSortTime": 0,
        "queryPreparationTime": 0,
        "innerEvalTime": eval_s,
        "execQueueTime": queue_s,
        "execTotalTime": eval_s + queue_s,
    }
    samples = {
        "totalQueryableSamples": result.stats.samples_total,
        "peakSamples": result.stats.samples_peak,
    }
    return to_json({"timings": timings, "samples": samples})
