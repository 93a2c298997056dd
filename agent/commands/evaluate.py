"""Where ``tachograph query`` gets its answers: an agent's HTTP API, or a data directory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from ...config.units import DAY, HOUR
from .client import Client

if TYPE_CHECKING:
    from ...aggregation.promql.result import Result
    from ...storage.frame import RefArray
    from ...storage.offline import OfflineStore

#: Series and their points, as Prometheus' API has them: ``{"metric": ..., "values": [[t, "v"]]}``.
Rows = list[dict[str, Any]]
#: A query of one's own data directory is nobody else's burden.
_SAMPLES_MAX: Final = 500_000_000
#: How far back the newest sample is looked for, in growing steps, as most are near.
_NEWEST_SPANS_MS: Final = (HOUR, DAY, 30 * DAY)
_ALL_TIME_MS: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Span:
    """When to evaluate, in seconds; ``step_s`` is 0 for one time, ``end_s``."""

    start_s: float
    end_s: float
    step_s: float

    @property
    def times(self) -> list[float]:
        """Every time of the span."""
        if not self.step_s:
            return [self.end_s]
        steps = int((round(self.end_s * 1000) - round(self.start_s * 1000)) // self._step_ms)
        first_ms = round(self.start_s * 1000)
        return [(first_ms + number * self._step_ms) / 1000 for number in range(steps + 1)]

    @property
    def _step_ms(self) -> int:
        return round(self.step_s * 1000)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a query; a scalar or a string is a series without labels."""

    rows: Rows
    warnings: list[str] = field(default_factory=list)
    infos: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Newest:
    """How many series match a selector, and the time of the newest of their samples, if known."""

    series: int
    sample_s: float | None


class Source(Protocol):
    """Somebody who answers queries."""

    def query(self, expr: str, span: Span) -> Answer:
        """Evaluate PromQL. Raises TachographError."""
        ...

    def rollups(self, selector: str, span: Span, tier: str, aggregate: str) -> Answer:
        """Return the buckets of a tier. Raises TachographError."""
        ...

    def newest(self, selector: str, end_s: float) -> Newest:
        """
        Tell how far back samples lie; those much older than ``end_s`` may not be found.

        Raises TachographError.
        """
        ...


class AgentSource:
    """Asks an agent, or anything else with Prometheus' API."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def query(self, expr: str, span: Span) -> Answer:
        path, params = "/api/v1/query", [("query", expr), ("time", f"{span.end_s:.3f}")]
        if span.step_s:
            path = "/api/v1/query_range"
            params = [
                ("query", expr),
                ("start", f"{span.start_s:.3f}"),
                ("end", f"{span.end_s:.3f}"),
                ("step", f"{span.step_s:.3f}"),
            ]
        answer = self._client.post_form(path, params)
        data = answer["data"]
        rows = _rows(data["resultType"], data["result"])
        return Answer(rows, answer.get("warnings", []), answer.get("infos", []))

    def rollups(self, selector: str, span: Span, tier: str, aggregate: str) -> Answer:
        params = [
            ("match[]", selector),
            ("start", f"{span.start_s:.3f}"),
            ("end", f"{span.end_s:.3f}"),
            ("tier", tier),
            ("agg", aggregate),
        ]
        answer = self._client.get("/api/tachograph/v1/rollups", params)
        return Answer(answer["data"]["result"], answer.get("warnings", []))

    def newest(self, selector: str, end_s: float) -> Newest:
        found = self._client.get("/api/tachograph/v1/series", [("match[]", selector)])["data"]
        times = [float(each["newest"]) for each in found if "newest" in each]
        return Newest(len(found), max(times, default=None))


class _AsItIs:
    """No retention: what lies in a directory is what there is."""

    def cutoffs_ms(self, refs: RefArray) -> None:
        return None


class DirectorySource:
    """Reads a data directory, whether an agent runs on it or not."""

    def __init__(self, store: OfflineStore) -> None:
        self._store = store

    def query(self, expr: str, span: Span) -> Answer:
        from ...aggregation.promql.engine import Engine, EngineOptions
        from ...aggregation.tiered_querier import tiered

        engine = Engine(EngineOptions(max_samples=_SAMPLES_MAX))
        # Days whose samples are gone may still have rollups.
        querier = tiered(self._store.querier, retention=_AsItIs())
        end_ms = round(span.end_s * 1000)
        if span.step_s:
            start_ms, step_ms = round(span.start_s * 1000), round(span.step_s * 1000)
            result = engine.range(querier, expr, start_ms, end_ms, step_ms)
        else:
            result = engine.instant(querier, expr, end_ms)
        return Answer(_rows_of(result), list(result.warnings), list(result.infos))

    def rollups(self, selector: str, span: Span, tier: str, aggregate: str) -> Answer:
        from ...aggregation.rollup import Aggregate, Tier
        from ...aggregation.tiers import read_tier, readable
        from ...config.selector import parse_selector
        from ..http.numbers import format_seconds, format_values

        querier = self._store.querier
        index, what = querier.index, Aggregate(aggregate)
        refs = readable(index, index.select(parse_selector(selector)), what)
        (chosen,) = (each for each in Tier if each.label == tier)
        start_ms, end_ms = round(span.start_s * 1000), round(span.end_s * 1000)
        rows: Rows = []
        for found in read_tier(querier, refs, chosen, what, start_ms, end_ms):
            times = map(format_seconds, found.end_ms.tolist())
            values = list(map(list, zip(times, format_values(found.values), strict=True)))
            rows.append({"metric": dict(found.series.labels), "values": values})
        return Answer(rows)

    def newest(self, selector: str, end_s: float) -> Newest:
        from ...config.selector import parse_selector
        from ...storage.frame import is_absent

        querier, end_ms = self._store.querier, round(end_s * 1000)
        refs = querier.index.select(parse_selector(selector))
        newest_ms = None
        for span_ms in _NEWEST_SPANS_MS:
            for frame in querier.frames(refs, end_ms - span_ms, _ALL_TIME_MS):
                # A stale marker counts: it tells when a series ended.
                there = frame.ts_ms[(~is_absent(frame.values)).any(axis=0)]
                if len(there):
                    newest_ms = max(newest_ms or 0, int(there[-1]))
            if newest_ms is not None:
                return Newest(len(refs), newest_ms / 1000)
        return Newest(len(refs), None)


@contextmanager
def source(client: Client, directory: Path | None) -> Iterator[Source]:
    """Open where answers come from: a data directory if there is one, else the agent."""
    if directory is None:
        yield AgentSource(client)
        return
    from ...storage.offline import OfflineStore

    logging.basicConfig(format="%(levelname)s: %(message)s")  # damaged rows are told
    with OfflineStore(directory) as store:
        yield DirectorySource(store)


def _rows(kind: str, result: Any) -> Rows:
    if kind in ("scalar", "string"):
        return [{"metric": {}, "values": [result]}]
    return [
        {"metric": row["metric"], "values": row["values"] if "values" in row else [row["value"]]}
        for row in result
    ]


def _rows_of(result: Result) -> Rows:
    from ...aggregation.promql.nodes import ValueType
    from ..http.numbers import format_scalar, format_seconds, format_values

    if result.type in (ValueType.SCALAR, ValueType.STRING):
        is_text = result.type is ValueType.STRING
        text = result.text if is_text else format_scalar(result.scalar)
        return [{"metric": {}, "values": [[format_seconds(int(result.times_ms[0])), text]]}]
    return [
        {
            "metric": dict(labels),
            "values": [
                [format_seconds(time), value]
                for time, value in zip(times.tolist(), format_values(values), strict=True)
            ],
        }
        for labels, times, values in result.series()
    ]
