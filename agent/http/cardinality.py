"""``/api/tachograph/v1/cardinality``: which metric, label and source make the most series."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from aiohttp import web

from ...config.selector import Matcher, MatchOp
from ...storage.frame import RefArray, distinct, is_absent, is_stale
from ...storage.model import METRIC_NAME, Series
from ...storage.store import Store
from .params import count, selectors

PATH: Final = "/api/tachograph/v1/cardinality"
_TOP: Final = 10
_TOP_MAX: Final = 1_000
#: Labels and sources that are named of one metric.
_PARTS: Final = 3
#: A backend's process counts here what it folded into one series; see the client's limits.
_OVERFLOW: Final = "tachograph_client_overflow_total"

Json = dict[str, Any]


def routes(store: Store) -> list[web.AbstractRouteDef]:
    async def cardinality(request: web.Request) -> web.Response:
        wanted = selectors(request, required=False)
        top = min(max(count(request, "top", _TOP), 1), _TOP_MAX)
        series = _selected(store, wanted)
        refs = np.fromiter((each.ref for each in series), np.uint32, len(series))
        homes = store.homes(refs).tolist()
        names = {number: store.group_name(number) for number in set(homes)}
        sources = [names[number] for number in homes]
        # A tenth of a second for 100,000 series, so not on the event loop.
        data = await asyncio.to_thread(summarize, series, sources, top)
        limits = store.index.limits
        data |= {
            "limits": {
                "series": limits.series,
                "seriesPerMetric": limits.series_per_metric,
                "labelsPerSeries": limits.labels_per_series,
            },
            "refused": _ranked(store.index.refused, top, "limit"),
            "refusedMetrics": _ranked(store.index.refused_metrics, top, "name"),
            "overflow": _overflow(store, top),
        }
        body = msgspec.json.encode({"status": "success", "data": data})
        return web.Response(body=body, content_type="application/json")

    return [web.get(PATH, cardinality)]


def summarize(series: Sequence[Series], sources: Sequence[str], top: int) -> Json:
    """
    Count series by metric, label and source, the largest first; equal ones by name.

    Args:
        sources: ``[n]``, the group that each series was first seen in.
    """
    metrics: Counter[str] = Counter()
    by_source: Counter[str] = Counter()
    source_metrics: defaultdict[str, set[str]] = defaultdict(set)
    values: defaultdict[str, set[str]] = defaultdict(set)
    labelled: Counter[str] = Counter()
    for one, source in zip(series, sources, strict=True):
        name = one.labels.name
        metrics[name] += 1
        by_source[source] += 1
        source_metrics[source].add(name)
        for label, value in one.labels:
            if label != METRIC_NAME:
                values[label].add(value)
                labelled[label] += 1
    top_metrics = _top(metrics, top)
    top_labels = _top({label: len(found) for label, found in values.items()}, top)
    parts = _Parts(dict(top_metrics).keys(), dict(top_labels).keys())
    parts.count(series, sources)
    return {
        "series": len(series),
        "metrics": [parts.of_metric(name, n) for name, n in top_metrics],
        "labels": [
            {
                "name": label,
                "values": n,
                "series": labelled[label],
                "metrics": parts.of_label(label),
            }
            for label, n in top_labels
        ],
        "sources": [
            {"name": source, "series": n, "metrics": len(source_metrics[source])}
            for source, n in _top(by_source, top)
        ],
    }


class _Parts:
    """What the largest metrics and labels are made of: a second look, for these few only."""

    def __init__(self, metrics: Iterable[str], labels: Iterable[str]) -> None:
        self._of_metric: dict[str, defaultdict[str, set[str]]] = {
            name: defaultdict(set) for name in metrics
        }
        self._sources: dict[str, Counter[str]] = {name: Counter() for name in self._of_metric}
        self._of_label: dict[str, defaultdict[str, set[str]]] = {
            label: defaultdict(set) for label in labels
        }

    def count(self, series: Sequence[Series], sources: Sequence[str]) -> None:
        for one, source in zip(series, sources, strict=True):
            name = one.labels.name
            values = self._of_metric.get(name)
            if values is not None:
                self._sources[name][source] += 1
            for label, value in one.labels:
                if values is not None and label != METRIC_NAME:
                    values[label].add(value)
                if label in self._of_label:
                    self._of_label[label][name].add(value)

    def of_metric(self, name: str, series: int) -> Json:
        labels = {label: len(values) for label, values in self._of_metric[name].items()}
        return {
            "name": name,
            "series": series,
            "labels": [{"name": label, "values": n} for label, n in _top(labels, _PARTS)],
            "sources": [
                {"name": source, "series": n} for source, n in _top(self._sources[name], _PARTS)
            ],
        }

    def of_label(self, label: str) -> list[Json]:
        metrics = {name: len(values) for name, values in self._of_label[label].items()}
        return [{"name": name, "values": n} for name, n in _top(metrics, _PARTS)]


def _top(counts: dict[str, int], top: int) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top]


def _ranked(counts: Counter[str], top: int, key: str) -> list[Json]:
    return [{key: name, "count": n} for name, n in _top(counts, top)]


def _selected(store: Store, wanted: Sequence[tuple[Matcher, ...]]) -> list[Series]:
    if not wanted:
        return list(store.index.series())
    refs = distinct(np.concatenate([store.index.select(matchers) for matchers in wanted]))
    return _resolved(store, refs)


def _resolved(store: Store, refs: RefArray) -> list[Series]:
    found = (store.index.get(ref) for ref in refs.tolist())
    return [series for series in found if series is not None]


def _overflow(store: Store, top: int) -> list[Json]:
    """What backends folded into a series ``other``, and which line of theirs asked for it."""
    refs = store.index.select((Matcher(METRIC_NAME, MatchOp.EQUAL, _OVERFLOW),))
    series = _resolved(store, refs)
    _, values = store.current.get(np.array([each.ref for each in series], np.uint32))
    hidden = is_absent(values) | is_stale(values)
    found = [
        {
            "metric": each.labels.get("metric"),
            "label": each.labels.get("label"),
            "source": each.labels.get("source"),
            "count": value,
        }
        for each, value, is_hidden in zip(series, values.tolist(), hidden.tolist(), strict=True)
        if not is_hidden and value > 0
    ]
    return sorted(found, key=lambda one: (-one["count"], one["metric"]))[:top]
