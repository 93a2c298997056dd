"""Prometheus' HTTP API as a whole: every endpoint under ``/api/v1``, and ``/federate``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiohttp import web

from ...config import Config
from ...storage.clock import Clock
from ...storage.exemplars import Exemplar, Exemplars
from ...storage.store import Store
from ..ingest.remote_store import RemoteWriter
from .admin import AdminEndpoint
from .federate import FederateEndpoint
from .query import QueryEndpoint
from .query_runner import QueryRunner
from .remote_read import RemoteReadEndpoint
from .remote_write import RemoteWriteEndpoint
from .rules import RulesEndpoint
from .series_api import SeriesEndpoint
from .status import ProcessFacts, StatusEndpoint
from .targets import Targets, TargetsEndpoint


class PrometheusApi:
    """
    Builds the endpoints of one agent.

    Attributes:
        exemplars: Of scrapes and senders; see :meth:`keep_exemplars`.
        runner: Evaluates queries, those of others too.
        writer: Stores what senders write.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        config: Config,
        facts: ProcessFacts,
        targets: Callable[[], Targets],
    ) -> None:
        http, external = config.http, config.external_labels
        self.exemplars = Exemplars()
        self.runner = QueryRunner(store, clock, config.promql)
        self.writer = RemoteWriter(store, self.exemplars)
        self._endpoints = (
            QueryEndpoint(self.runner, clock, http),
            SeriesEndpoint(store, self.exemplars, self.runner, http),
            RemoteWriteEndpoint(store, self.writer, http),
            RemoteReadEndpoint(store, external, http),
            FederateEndpoint(store, clock, config.promql.lookback_ms, external, http),
            TargetsEndpoint(store, targets, http),
            RulesEndpoint(http),
            StatusEndpoint(store, facts, http),
            AdminEndpoint(store, self.exemplars, clock, http),
        )

    def routes(self) -> list[web.AbstractRouteDef]:
        return [route for endpoint in self._endpoints for route in endpoint.routes()]

    def keep_exemplars(self, found: Sequence[tuple[int, Exemplar]]) -> None:
        """Keep exemplars, each with the number of its series."""
        for ref, exemplar in found:
            self.exemplars.add(ref, exemplar)
