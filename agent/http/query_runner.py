"""Runs queries in the store's reader threads, a few at a time, until they are done or given up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeVar, cast

from ...aggregation.promql.budget import Deadline
from ...aggregation.promql.engine import Engine, EngineOptions
from ...aggregation.promql.errors import ParseError, PromqlError, QueryTimeout
from ...aggregation.promql.range_cache import RangeCache
from ...aggregation.tiered_querier import Force, TieredQuerier, tiered
from ...config.settings import PromqlSettings
from ...storage.clock import Clock
from ...storage.select import Querier
from ...storage.store import Store
from .errors import ApiError, ErrorType

T = TypeVar("T")

#: Queries that wait for their turn; more are sent away.
_QUEUE_MAX: Final = 200
_BUSY_RETRY_S: Final = 1


@dataclass(slots=True)
class QueryStats:
    """Totals since the start; ``failed`` by ``errorType``, ``seconds`` without the queue."""

    queries: int = 0
    running: int = 0
    waiting: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    queue_seconds: float = 0.0
    samples: int = 0


@dataclass(slots=True)
class Run:
    """What a query is evaluated with; ``queue_s`` is how long it waited for its turn."""

    engine: Engine
    querier: TieredQuerier
    deadline: Deadline
    queue_s: float


class QueryRunner:
    """Evaluates queries of all interfaces."""

    def __init__(self, store: Store, clock: Clock, settings: PromqlSettings) -> None:
        self._store, self._clock = store, clock
        self._settings = settings
        self._turns = asyncio.Semaphore(settings.max_concurrency)
        self.stats = QueryStats()
        self.cache = RangeCache()
        self.engine = Engine(
            EngineOptions(
                lookback_ms=settings.lookback_ms,
                max_samples=settings.max_samples,
                # One of two words, as the settings' own check has made sure.
                compat=cast(Literal["prometheus3", "prometheus2"], settings.compat),
                # One setting for what Prometheus hides behind three feature flags.
                experimental=settings.experimental,
                delayed_name_removal=settings.experimental,
                type_and_unit_labels=settings.experimental,
            ),
            self.cache,
        )

    @property
    def is_prometheus2(self) -> bool:
        return self._settings.compat == "prometheus2"

    def engine_with(self, lookback_ms: int) -> Engine:
        """Return the engine for a lookback of a query's own; 0 for the usual one."""
        if not lookback_ms:
            return self.engine
        return Engine(replace(self.engine.options, lookback_ms=lookback_ms), self.cache)

    async def run(
        self,
        job: Callable[[Run], T],
        *,
        timeout_ms: int = 0,
        lookback_ms: int = 0,
        force: Force | None = None,
    ) -> T:
        """
        Run a job when it is its turn.

        Args:
            timeout_ms: Less than the setting's, or 0; waiting counts.
            force: The tier to answer from, if not the best one.

        Raises:
            ApiError: Of the type that the query's error has.
            StorageError: The store cannot be read.
        """
        stats, clock = self.stats, self._clock
        limit_ms = min(timeout_ms or self._settings.timeout_ms, self._settings.timeout_ms)
        deadline = Deadline(clock, limit_ms / 1000)
        started_s = clock.monotonic_s()
        if stats.waiting >= _QUEUE_MAX:
            raise ApiError(
                ErrorType.UNAVAILABLE,
                f"{stats.waiting} queries wait already; try again",
                retry_after_s=_BUSY_RETRY_S,
            )
        stats.queries += 1
        try:
            await self._turn(limit_ms / 1000)
            running_s = clock.monotonic_s()
            stats.queue_seconds += running_s - started_s
            stats.running += 1
            try:
                queue_s = running_s - started_s
                return await self._evaluate(job, lookback_ms, force, deadline, queue_s)
            finally:
                stats.running -= 1
                stats.seconds += clock.monotonic_s() - running_s
                self._turns.release()
        except PromqlError as error:
            stats.failed[error.error_type] += 1
            raise as_api_error(error) from error

    async def _turn(self, limit_s: float) -> None:
        if not self._turns.locked():
            await self._turns.acquire()
            return
        self.stats.waiting += 1
        try:
            async with asyncio.timeout(limit_s):
                await self._turns.acquire()
        except TimeoutError:
            raise QueryTimeout("query queue") from None
        finally:
            self.stats.waiting -= 1

    async def _evaluate(
        self,
        job: Callable[[Run], T],
        lookback_ms: int,
        force: Force | None,
        deadline: Deadline,
        queue_s: float,
    ) -> T:
        engine, retention = self.engine_with(lookback_ms), self._store.retention

        def read(querier: Querier) -> T:
            served = tiered(querier, retention=retention, force=force)
            return job(Run(engine, served, deadline, queue_s))

        task = asyncio.ensure_future(self._store.read(read))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # The client has gone. The thread goes on until the query looks at its deadline.
            deadline.cancel()
            while not task.done():
                await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # nobody asks for it any more
            raise


def as_api_error(error: PromqlError) -> ApiError:
    text = f'invalid parameter "query": {error}' if isinstance(error, ParseError) else str(error)
    return ApiError(ErrorType(error.error_type), text)
