"""``/api/v1/targets``, ``targets/metadata``, ``scrape_pools`` and ``alertmanagers``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from aiohttp import web

from ...config.errors import SelectorError
from ...config.selector import Matcher, MatchOp, parse_selector
from ...config.settings import HttpSettings
from ...config.units import format_duration
from ...storage.model import METRIC_NAME, Labels, Metadata
from ...storage.store import Store
from .forms import Form
from .params import bad
from .respond import get, respond
from .status import rfc3339

_FAMILIES_MAX: Final = 10_000
_SUFFIXES: Final = ("_bucket", "_sum", "_count", "_total")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """What is told of a target that is scraped; ``health`` is up, down or unknown."""

    job: str
    discovered: Labels
    labels: Labels
    url: str
    interval_ms: int
    timeout_ms: int
    health: str
    last_error: str
    last_scrape_ms: int
    last_duration_s: float


@dataclass(frozen=True, slots=True)
class Targets:
    """All targets; ``dropped`` has job and discovered labels, ``dropped_count`` is by job."""

    active: Sequence[TargetFacts] = ()
    dropped: Sequence[tuple[str, Labels]] = ()
    dropped_count: Mapping[str, int] | None = None


class TargetsEndpoint:
    """Tells of targets; ``targets`` returns what there are now."""

    def __init__(self, store: Store, targets: Callable[[], Targets], http: HttpSettings) -> None:
        self._store, self._targets, self._http = store, targets, http

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            *get("/api/v1/targets", self.targets),
            *get("/api/v1/targets/metadata", self.metadata),
            *get("/api/v1/scrape_pools", self.scrape_pools),
            *get("/api/v1/alertmanagers", self.alertmanagers),
        ]

    async def targets(self, request: web.Request) -> web.Response:
        form = await Form.of(request, self._http)
        state = form.get("state").lower()
        pool = form.get("scrapePool")
        found = self._targets()
        data: Json = {"activeTargets": [], "droppedTargets": []}
        if state in ("", "any", "active"):
            data["activeTargets"] = [
                _active(each) for each in found.active if not pool or each.job == pool
            ]
        if state in ("", "any", "dropped"):
            data["droppedTargets"] = [
                {"discoveredLabels": dict(labels)}
                for job, labels in found.dropped
                if not pool or job == pool
            ]
        if found.dropped_count:
            data["droppedTargetCounts"] = dict(found.dropped_count)
        return respond(request, data)

    async def metadata(self, request: web.Request) -> web.Response:
        form = await Form.of(request, self._http)
        limit = form.count() or _FAMILIES_MAX
        metric = form.get("metric")
        matchers: tuple[Matcher, ...] = ()
        if text := form.get("match_target"):
            try:
                matchers = parse_selector(text, allow_empty=True)
            except SelectorError as error:
                raise bad("match_target", str(error)) from error
        rows: list[Json] = []
        for target in self._targets().active:
            if not all(each.matches(target.labels.get(each.name)) for each in matchers):
                continue
            for family, known in self._families(target.labels, metric):
                row = {"target": dict(target.labels)} | ({} if metric else {"metric": family})
                row |= {"type": known.type.value, "help": known.help, "unit": known.unit}
                rows.append(row)
                if len(rows) == limit:
                    return respond(request, rows)
        return respond(request, rows)

    async def scrape_pools(self, request: web.Request) -> web.Response:
        found = self._targets()
        pools = {each.job for each in found.active} | {job for job, _ in found.dropped}
        return respond(request, {"scrapePools": sorted(pools)})

    async def alertmanagers(self, request: web.Request) -> web.Response:
        # Alerts leave by notification channels, not by way of an Alertmanager.
        return respond(request, {"activeAlertmanagers": [], "droppedAlertmanagers": []})

    def _families(self, target: Labels, metric: str) -> Iterator[tuple[str, Metadata]]:
        """Yield the described families that a target has series of."""
        store = self._store
        matchers = [
            Matcher(name, MatchOp.EQUAL, value)
            for name, value in target
            if name in ("job", "instance")
        ]
        refs = store.index.select(matchers) if matchers else np.empty(0, np.uint32)
        series = (store.index.get(ref) for ref in refs.tolist())
        names = {each.labels.get(METRIC_NAME) for each in series if each is not None}
        families = names | {
            name.removesuffix(suffix)
            for name in names
            for suffix in _SUFFIXES
            if name.endswith(suffix)
        }
        for family in sorted(families):
            known = store.families.metadata(family)
            if known is not None and metric in ("", family):
                yield family, known


def _active(target: TargetFacts) -> Json:
    return {
        "discoveredLabels": dict(target.discovered),
        "labels": dict(target.labels),
        "scrapePool": target.job,
        "scrapeUrl": target.url,
        "globalUrl": target.url,
        "lastError": target.last_error,
        "lastScrape": rfc3339(target.last_scrape_ms),
        "lastScrapeDuration": target.last_duration_s,
        "health": target.health,
        "scrapeInterval": format_duration(target.interval_ms),
        "scrapeTimeout": format_duration(target.timeout_ms),
    }
