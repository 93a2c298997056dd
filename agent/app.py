"""The agent: the one place that builds every component, and starts and stops them in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import sqlite3
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from aiohttp import ClientSession

from .. import __version__
from ..aggregation.compactor import Compactor
from ..config import Config, validate
from ..config.diff import diff_configs
from ..config.errors import ConfigError, TachographError
from ..config.selector import Matcher
from ..storage.clock import Clock, SystemClock
from ..storage.errors import StorageError
from ..storage.exemplars import Exemplar
from ..storage.frame import FloatArray, IntArray, RefArray
from ..storage.model import Labels, Series
from ..storage.state import State
from ..storage.store import Store
from .backends import Backends
from .chronicle import Chronicle, Conditions
from .client.default import REGISTRY
from .client.registry import Registry
from .collectors.business import business_sources, callback_source
from .collectors.callback import Callback
from .collectors.host import HostSource
from .collectors.kept import KeptPoints
from .collectors.process import ProcessSource, own_process
from .collectors.schedule import Schedule
from .collectors.scrape import ScrapeSource
from .collectors.scrape_http import open_session
from .collectors.scrape_pool import ScrapePool
from .collectors.source import Source
from .http import cardinality, events, exposition, info, lifecycle, stored
from .http.history import HistoryEndpoint
from .http.points import PointsEndpoint
from .http.prometheus import PrometheusApi
from .http.server import HttpServer, is_loopback, split_listen
from .http.status import ProcessFacts
from .http.targets import TargetFacts, Targets
from .ingest.exposition import Exemplar as PageExemplar
from .ingest.own_series import OwnSeries
from .ingest.recorder import Recorder
from .loop_lag import LoopLag
from .maintenance import Maintenance
from .sdnotify import ServiceManager
from .selfmetrics import (
    api_metrics,
    collection_metrics,
    edge_metrics,
    history_metrics,
    kept_metrics,
    process_metrics,
    store_metrics,
    stream_metrics,
)
from .selfmon import SelfMetric, SelfMonitor
from .stream.hub import Hub
from .stream.server import StreamServer
from .supervisor import Supervisor

log = logging.getLogger(__name__)

#: How long a component may take to stop; all of them together stay under systemd's default of 90 s.
_STOP_S: Final = 5.0
#: How soon other threads get the interpreter while one computes; Python's own is 5 ms. A page waits
#: for it several times (sockets and NumPy let go of it): under heavy queries 0.1 ms instead of 0.5
#: halves the p99 of /metrics, and no fewer are answered (benchmarks/exposition_under_load.py).
_SWITCH_INTERVAL_S: Final = 0.0001
#: Samples of one scraped page, at the least.
_PAGE_SAMPLES: Final = 250_000
#: Kept in the state while an agent runs; found at the start, the one before was cut off.
_RUNNING: Final = "running"


class Agent:
    """
    A whole agent, embedded in an event loop: ``async with Agent(config): ...``.

    It installs no signal handlers and touches no logging set-up; the command line does that.

    Args:
        load: Returns the configuration anew, for :meth:`reload`; without it there is none.
        one_process: Whether this process is ours: then Python's thread switch interval is lowered
            for all of it, and no backend's metrics are looked for in it.
        registry: The backend's metrics, if not those of ``tachograph.counter()`` and its like.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        clock: Clock | None = None,
        load: Callable[[], Config] | None = None,
        one_process: bool = False,
        registry: Registry | None = None,
    ) -> None:
        self.config = config or Config()
        self.clock = clock or SystemClock()
        self._load, self._one_process = load, one_process
        self._registry = None if one_process else registry or REGISTRY
        self._service = ServiceManager()
        self._lag = LoopLag()
        self._is_ready = False
        self._is_started = False
        self._session: ClientSession | None = None
        self._stop = asyncio.Event()
        self._reload_lock = asyncio.Lock()
        self._last_reload = (True, 0.0)
        self._callbacks: dict[str, Callable[[], Source]] = {}

    # --- Life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """
        Open the store, listen, and start to collect.

        Raises:
            TachographError: It cannot run; whatever was started is stopped again.
        """
        if problems := validate(self.config):
            raise ConfigError(problems)
        if self._one_process:
            sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self._build()
        await self.store.open()
        self._is_started = True
        try:
            await self.state.open()
            await self.kept.open()
            await self._note_start()
            self._session = open_session()
            # A page may hold what the store takes, and some more that it then refuses one by one.
            samples_max = max(_PAGE_SAMPLES, 2 * self.config.storage.limits.series)
            self.scrapes = ScrapePool(
                self.store,
                self.clock,
                self._session,
                on_exemplars=self._keep_exemplars,
                samples_max=samples_max,
            )
            await self.scrapes.apply(self.config.scrape_configs)
            self._monitor = self._self_monitor()
            await self.schedule.replace(self._sources())
            await self.server.start()
            await self.backends.start()
        except BaseException:
            await self.stop()
            raise
        self._end_observing = self.store.observe(self.hub.publish)
        start = self._supervisor.start
        start("state", self.state.run)
        start("chronicle", Chronicle(self.state, self._conditions, self.clock).run)
        start("store", self.store.run)
        start("lag", self._lag.run)
        start("stream", self.stream.run)
        start("maintenance", self.maintenance.run)
        if self.config.metrics.custom.enabled:
            start("recorder", self.recorder.run)
        start("schedule", self.schedule.run)
        start("targets", lambda: self.scrapes.run(self._retarget))
        if self._service.watchdog_s:
            start("watchdog", self._watchdog)
        self._last_reload = (True, self.clock.now_ms() / 1000)
        if self._one_process:
            # What is there now stays: full collections over it made pauses of 20 to 50 ms.
            gc.collect()
            gc.freeze()
        self._is_ready = True
        self._service.ready(f"serving {self.url}")
        log.info("agent %s serves %s", __version__, self.url)

    async def run(self) -> None:
        """Start, work until :meth:`request_stop` or cancellation, stop."""
        await self.start()
        try:
            await self._stop.wait()
        finally:
            await self.stop()

    def request_stop(self) -> None:
        """Let :meth:`run` come to its end."""
        self._stop.set()

    async def stop(self) -> None:
        """Stop in the order of the data's flow: sources, requests, store. May be called twice."""
        if not self._is_started:
            return
        self._is_started = self._is_ready = False
        self._service.stopping()
        await self.server.stop_listening()
        await self.backends.stop()
        supervisor = self._supervisor
        for name in ("watchdog", "stream", "targets", "schedule", "recorder"):
            await supervisor.stop(name, _STOP_S)
        await self.server.stop()
        await supervisor.stop_all(_STOP_S)
        if self._session is not None:
            await self._session.close()
        await self._note_stop()
        await self.store.close()
        log.info("agent stopped")

    async def __aenter__(self) -> Agent:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    # --- What others ask ----------------------------------------------------------------------

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def is_ready(self) -> bool:
        return self._is_ready

    @property
    def trouble(self) -> str:
        return self.store.trouble

    def record(
        self,
        name: str,
        value: float,
        labels: dict[str, str] | None = None,
        type: str = "gauge",
    ) -> None:
        """Record one value of one of the backend's metrics; never waits, never raises."""
        self.recorder.record(name, value, labels, type)

    def add_source(
        self,
        callback: Callback,
        *,
        name: str,
        interval_s: float | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """
        Ask a function of the backend's own for figures, from now on or from the start on.

        It runs on the event loop, so it must not block; it may be a coroutine function. It returns
        ``{name: value}``, or tuples ``(name, value)`` and ``(name, value, labels)``. Names get the
        namespace; one that ends in ``_total`` is a counter.

        Args:
            name: Unique among callbacks; the source is called ``callback/NAME``.
            interval_s: Without it ``metrics.collection.business_metrics_interval``.

        Raises:
            ValueError: The name is taken, or the interval is not above 0.
        """
        if interval_s is not None and not 0 < interval_s < math.inf:
            raise ValueError(f"add_source({name!r}): interval_s is {interval_s}; give some seconds")
        if name in self._callbacks:
            raise ValueError(f"there is a callback called {name!r} already")

        def make() -> Source:
            usual_s = self.config.metrics.collection.business_interval_ms / 1000
            return callback_source(
                self.store,
                callback,
                name=name,
                interval_s=usual_s if interval_s is None else interval_s,
                namespace=self.config.namespace,
                labels=labels,
            )

        self._callbacks[name] = make
        if self._is_ready:
            self.schedule.add(make())

    async def remove_source(self, name: str) -> None:
        """
        Ask a callback no longer; its series end.

        Raises:
            KeyError: There is none of this name.
        """
        del self._callbacks[name]
        if self._is_ready:
            await self.schedule.remove(f"callback/{name}")

    async def reload(self) -> Sequence[str]:
        """
        Load the configuration again and apply it, or keep the old one.

        Returns:
            The problems; empty if the new configuration is in force.
        """
        async with self._reload_lock:
            self._service.reloading()
            problems = await self._reload()
            self._service.ready(f"serving {self.url}")
            if problems:
                self._last_reload = (False, self._last_reload[1])
                log.error("configuration not reloaded: %s", "; ".join(problems))
                self.state.note("reload_failed", "; ".join(problems))
            else:
                self.state.note("reload", "configuration reloaded")
                self._last_reload = (True, self.clock.now_ms() / 1000)
            return problems

    # --- Inside -------------------------------------------------------------------------------

    def _build(self) -> None:
        config, clock = self.config, self.clock
        is_local = is_loopback(split_listen(config.listen)[0])
        # One for each query at a time, and one more for who only looks something up.
        self.store = Store(config.storage, clock, readers=config.promql.max_concurrency + 1)
        self.state = State(self.store.directory, clock)
        self.maintenance = Maintenance(self.store, Compactor(self.store), clock)
        self.recorder = Recorder(self.store, config.metrics.custom, clock)
        self.backends = Backends(self.store, config, clock, self.recorder, self._registry)
        self.schedule = Schedule(clock, self.store)
        self.hub = Hub(_Directory(self.store), config.stream, clock)
        self.stream = StreamServer(
            self.hub,
            config.stream,
            clock,
            is_local=is_local,
            allowed_hosts=config.http.allowed_hosts,
        )
        self.kept = KeptPoints(
            self.store,
            self.state,
            clock,
            lookback_s=config.promql.lookback_ms / 1000,
        )
        self.points = PointsEndpoint(
            self.store, clock, config.storage.limits, config.http, self.kept
        )
        self.history = HistoryEndpoint(self.store, clock, config.http)
        self.exposition = exposition.ExpositionRenderer(
            self.store.index if config.http.metrics_of_remote_writers else OwnSeries(self.store),
            self.store.current,
            self.store.families,
            config.promql.lookback_ms,
        )
        facts = ProcessFacts(
            __version__, clock.now_ms(), lambda: self.config, lambda: self._last_reload
        )
        self.prometheus = PrometheusApi(self.store, clock, config, facts, self._targets)
        self.server = HttpServer(
            config.listen,
            config.http,
            [
                *lifecycle.routes(self, allow_reload=config.http.lifecycle),
                *exposition.routes(self.exposition, clock),
                *self.prometheus.routes(),
                *self.points.routes(),
                *self.history.routes(),
                *self.backends.routes(),
                *events.routes(self.state, clock),
                *info.routes(self.store, __version__, clock.now_ms(), self._source_facts),
                *cardinality.routes(self.store),
                *stored.routes(self.store, clock, self.maintenance.seal_and_compact),
                *self.stream.routes(),
            ],
            allowed_origins=config.stream.allowed_origins,
        )
        self._supervisor = Supervisor(clock)

    def _targets(self) -> Targets:
        pool = self.scrapes
        active = [
            TargetFacts(
                job=target.job,
                discovered=target.discovered,
                labels=target.labels,
                url=str(target.url),
                interval_ms=target.interval_ms,
                timeout_ms=target.timeout_ms,
                health=status.health.value,
                last_error=status.last_error,
                last_scrape_ms=status.last_scrape_ms,
                last_duration_s=status.last_duration_s,
            )
            for target, status in pool.active()
        ]
        return Targets(active, pool.dropped(), pool.dropped_count())

    def _keep_exemplars(self, found: Sequence[tuple[int, PageExemplar]]) -> None:
        now_ms = self.clock.now_ms()
        self.prometheus.keep_exemplars(
            [
                (
                    ref,
                    Exemplar(
                        Labels.of(one.labels),
                        one.value,
                        now_ms if one.ts_ms is None else one.ts_ms,
                    ),
                )
                for ref, one in found
            ]
        )

    def _conditions(self) -> Conditions:
        return Conditions(
            trouble=self.store.trouble,
            corrupt_rows=self.store.stats.corrupt.total(),
            clock_steps=self.schedule.stats.clock_steps,
            restarts=self._supervisor.restarts.total(),
            failed_maintenance=self.maintenance.errors,
        )

    async def _note_start(self) -> None:
        """Write down that we started, and whether the agent before us was cut off."""
        stats = self.store.stats
        if await self.state.value(_RUNNING):
            self.state.note(
                "unclean_stop",
                "the agent was not stopped but cut off; the journal was played back",
                recovered_samples=stats.recovered_samples,
                corrupt_rows=dict(stats.corrupt),
            )
        await self.state.keep(_RUNNING, "1")
        self.state.note(
            "start", f"agent {__version__} started", recovery_seconds=stats.recovery_seconds
        )

    async def _note_stop(self) -> None:
        self.state.note("stop", f"agent {__version__} stopped")
        try:
            await self.state.keep(_RUNNING, "")
        except (StorageError, sqlite3.Error) as error:
            log.error("the stop cannot be written down: %s", error)
        await self.state.close()

    def _sources(self) -> list[Source]:
        config, store = self.config, self.store
        metrics, every = config.metrics, config.metrics.collection
        timeout_s = every.timeout_ms / 1000
        sources: list[Source] = [self._monitor, self.kept]
        if self.backends.is_enabled:
            sources.append(self.backends.source)
        if metrics.system.enabled:
            sources.append(
                HostSource(
                    store,
                    metrics.system,
                    namespace=config.namespace,
                    interval_s=every.system_interval_ms / 1000,
                    timeout_s=timeout_s,
                )
            )
        for watch in (own_process(), *metrics.process):
            sources.append(
                ProcessSource(store, watch, namespace=config.namespace, timeout_s=timeout_s)
            )
        assert self._session is not None
        sources += business_sources(config, store, self._session)
        sources += [make() for make in self._callbacks.values()]
        return [*sources, *self.scrapes.sources]

    def self_metrics(self) -> list[SelfMetric]:
        """What the agent says of itself, beside :data:`.selfmon.OF_PROCESS`; after the start."""
        return [
            *store_metrics(self.store),
            *stream_metrics(self.hub.stats),
            *self.backends.metrics(),
            *collection_metrics(
                self.schedule.stats, self.scrapes.stats, self.scrapes.dropped_count
            ),
            *kept_metrics(self.kept),
            *edge_metrics(self.points, self.recorder.stats, self.exposition.stats),
            *history_metrics(self.history.stats),
            *api_metrics(self.prometheus),
            *process_metrics(__version__, self.server, self._supervisor, lambda: self._last_reload),
        ]

    def _self_monitor(self) -> SelfMonitor:
        interval_ms = self.config.metrics.collection.performance_interval_ms
        return SelfMonitor(self.store, self.self_metrics(), self._lag, interval_ms / 1000)

    def _source_facts(self) -> list[dict[str, Any]]:
        facts = [
            {
                "name": status.name,
                "intervalSeconds": status.interval_s,
                "up": not status.failures,
                "lastError": status.last_error,
                "note": status.note,
                "lastPass": status.last_pass_ms / 1000,
                "durationSeconds": status.duration_s,
            }
            for status in self.schedule.status()
        ]
        # A scrape that fails is a pass that worked, to the schedule.
        failing = {
            source.name: source.status.last_error
            for source in self.scrapes.sources
            if source.status.last_error
        }
        for fact in facts:
            if fact["name"] in failing:
                fact |= {"up": False, "lastError": failing[str(fact["name"])]}
        return facts

    async def _retarget(self, _: Iterable[ScrapeSource]) -> None:
        await self.schedule.replace(self._sources())

    async def _reload(self) -> Sequence[str]:
        if self._load is None:
            return ["there is no file to load the configuration from"]
        try:
            new = await asyncio.to_thread(self._load)
        except ConfigError as error:
            return error.problems
        except (TachographError, OSError) as error:
            return [str(error)]
        old, changes = self.config, diff_configs(self.config, new)
        for change in changes.needs_restart:
            log.warning("%s: this takes effect at the next start", change)
        try:
            await self.scrapes.apply(new.scrape_configs)
        except ConfigError as error:
            return error.problems
        self.config = new
        try:
            await self.schedule.replace(self._sources())
        except ValueError as error:
            self.config = old
            await self.scrapes.apply(old.scrape_configs)
            await self.schedule.replace(self._sources())
            return [str(error)]
        self.scrapes.end_removed()
        self.store.configure(new.storage)
        log.info("configuration reloaded, %d changes", len(changes.changes))
        return ()

    async def _watchdog(self) -> None:
        """Tell systemd that we live, once the event loop and the writer thread have shown it."""
        while True:
            try:
                await self.store.ping()
                self._service.alive()
            except StorageError as error:
                log.error("no sign of life: %s", error)
            await self.clock.sleep(self._service.watchdog_s)


class _Directory:
    """The store, as the live stream sees it; implements :class:`.stream.directory.Directory`."""

    def __init__(self, store: Store) -> None:
        self._index, self._current = store.index, store.current

    @property
    def version(self) -> int:
        return self._index.version

    def series(self, ref: int) -> Series | None:
        return self._index.get(ref)

    def select(self, matchers: Sequence[Matcher]) -> RefArray:
        return self._index.select(matchers)

    def current(self, refs: RefArray) -> tuple[IntArray, FloatArray]:
        return self._current.get(refs)
