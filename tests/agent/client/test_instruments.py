"""What is counted in libraries: with the real ones."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cachetools
import prometheus_client
import pytest
import redis
import redis.asyncio
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from support.metered import label_sets, value
from tachograph.agent.client.caches import instrument_cache
from tachograph.agent.client.event_loop import instrument_loop
from tachograph.agent.client.gc import instrument_gc
from tachograph.agent.client.logs import instrument_logging
from tachograph.agent.client.memory import instrument_memory
from tachograph.agent.client.prometheus import adopt_prometheus
from tachograph.agent.client.redis import instrument_redis
from tachograph.agent.client.registry import Registry
from tachograph.agent.client.sqlalchemy import instrument_sqlalchemy, read_statement
from tachograph.agent.client.threads import instrument_threads


@pytest.fixture
def registry() -> Registry:
    return Registry()


# --- SQLAlchemy ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT * FROM vehicles WHERE id = 1", ("select", "vehicles")),
        ("  select 1", ("select", "")),
        ('INSERT INTO "missions" (a) VALUES (1)', ("insert", "missions")),
        ("UPDATE public.missions SET a = 1", ("update", "public.missions")),
        ("DELETE FROM `events` WHERE 1", ("delete", "events")),
        ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", ("insert", "t")),
        ("/* note */ SELECT a FROM b JOIN c ON 1", ("select", "b")),
        ("-- note\nSELECT a FROM b", ("select", "b")),
        ("CREATE TABLE IF NOT EXISTS t (a int)", ("other", "t")),
        ("PRAGMA journal_mode", ("other", "")),
        ("", ("other", "")),
    ],
)
def test_a_statement_is_read(statement: str, expected: tuple[str, str]) -> None:
    type_, table = read_statement(statement)
    if statement.startswith("WITH"):
        assert type_ == expected[0]  # its first table may be that of the part before
    else:
        assert (type_, table) == expected


def test_queries_are_measured_by_type_and_table(registry: Registry, tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(
        f"sqlite:///{tmp_path}/a.db", poolclass=sqlalchemy.QueuePool, pool_size=3
    )
    instrument_sqlalchemy(engine, namespace="shop", registry=registry)
    instrument_sqlalchemy(engine, namespace="shop", registry=registry)  # once is enough
    duration = "shop_database_query_duration_seconds"
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE cars (id int)"))
        connection.execute(text("INSERT INTO cars VALUES (:id)"), [{"id": 1}, {"id": 2}])
        for _ in range(3):
            connection.execute(text("SELECT * FROM cars")).all()
        registry.refresh()
        assert value(registry, "shop_database_connections_active") == 1
    registry.refresh()
    assert value(registry, "shop_database_connections_active") == 0
    assert value(registry, "shop_database_connections_pool_size") == 3
    assert value(registry, duration, query_type="select", table="cars") == 3
    assert value(registry, duration, query_type="insert", table="cars") == 1
    with engine.connect() as connection, pytest.raises(sqlalchemy.exc.OperationalError):
        connection.execute(text("SELECT * FROM nothing"))
    assert label_sets(registry, "shop_database_errors_total") == {("select", "OperationalError")}
    engine.dispose()


async def test_an_asyncio_engine_is_measured_alike(registry: Registry) -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    instrument_sqlalchemy(engine, namespace="shop", registry=registry)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    await engine.dispose()
    duration = "shop_database_query_duration_seconds"
    assert value(registry, duration, query_type="select", table="") == 1


def test_what_is_no_engine_is_said(registry: Registry) -> None:
    with pytest.raises(TypeError, match="str is no SQLAlchemy Engine"):
        instrument_sqlalchemy("sqlite://", registry=registry)


# --- Caches ----------------------------------------------------------------------------------


def test_an_lru_cache_is_read(registry: Registry) -> None:
    @functools.lru_cache(maxsize=4)
    def square(number: int) -> int:
        return number * number

    assert instrument_cache("squares", square, namespace="shop", registry=registry) is square
    for number in (1, 1, 1, 2):
        square(number)
    registry.refresh()
    assert value(registry, "shop_cache_hit_rate", cache_type="squares") == 0.5
    assert value(registry, "shop_cache_entries", cache_type="squares") == 2
    square.cache_clear()  # its counts begin anew, ours go on
    square(1)
    registry.refresh()
    assert value(registry, "shop_cache_hit_rate", cache_type="squares") == 0.4


def test_a_cachetools_cache_is_counted_and_measured(registry: Registry) -> None:
    plain: cachetools.LRUCache[str, str] = cachetools.LRUCache(2)
    cache = instrument_cache("names", plain, namespace="shop", registry=registry)

    @cachetools.cached(cache)
    def name(number: int) -> str:
        return "x" * 1000 * number

    for number in (1, 1, 2, 3):
        name(number)
    registry.refresh()
    assert value(registry, "shop_cache_hit_rate", cache_type="names") == 0.25
    assert value(registry, "shop_cache_entries", cache_type="names") == 2
    assert value(registry, "shop_cache_size_bytes", cache_type="names") > 5000
    assert cache.maxsize == 2

    weighed: cachetools.LRUCache[str, bytes] = cachetools.LRUCache(100, getsizeof=len)
    instrument_cache("weighed", weighed, namespace="shop", registry=registry)["a"] = b"x" * 40
    registry.refresh()
    assert value(registry, "shop_cache_size_bytes", cache_type="weighed") == 40


def test_what_is_no_cache_is_said(registry: Registry) -> None:
    with pytest.raises(TypeError, match="no cache"):
        instrument_cache("a", lambda: 1, registry=registry)
    assert registry.get("backend_cache_hit_rate") is None


@pytest.fixture
def redis_socket(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "redis.sock")
    process = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", path, "--save", ""],
        stdout=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    deadline_s = time.monotonic() + 20
    while not os.path.exists(path) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    yield path
    process.terminate()
    process.wait()


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_redis_look_ups_are_counted(registry: Registry, redis_socket: str) -> None:
    client = redis.Redis(unix_socket_path=redis_socket)
    instrument_redis(client, namespace="shop", registry=registry, interval_s=0.01)
    instrument_redis(client, namespace="shop", registry=registry)  # once is enough
    client.set("a", "1")
    assert client.get("a") == b"1"
    assert client.get("b") is None
    assert client.mget(["a", "b"]) == [b"1", None]
    assert value(registry, "shop_cache_hit_rate", cache_type="redis") == 0.5
    size = registry.get("shop_cache_size_bytes")
    assert size is not None
    deadline_s = time.monotonic() + 10
    while not size.labels("redis").value > 100_000 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert size.labels("redis").value > 100_000
    client.close()


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
async def test_redis_over_asyncio_likewise(registry: Registry, redis_socket: str) -> None:
    client = redis.asyncio.Redis(unix_socket_path=redis_socket)
    instrument_redis(client, namespace="shop", registry=registry)
    await client.set("a", "1")
    assert await client.get("a") == b"1"
    assert await client.get("b") is None
    assert value(registry, "shop_cache_hit_rate", cache_type="redis") == 0.5
    await client.aclose()


# --- The process -----------------------------------------------------------------------------


def test_runs_of_the_garbage_collector_are_measured(registry: Registry) -> None:
    before = len(gc.callbacks)
    instrument_gc("shop", registry=registry)
    instrument_gc("shop", registry=registry)
    assert len(gc.callbacks) == before + 1
    try:
        cycle: list[Any] = []
        cycle.append(cycle)
        del cycle
        gc.collect()
    finally:
        gc.callbacks.pop()
    assert value(registry, "shop_garbage_collection_duration_seconds") >= 1
    assert value(registry, "shop_garbage_collected_objects_total", generation="2") >= 1


async def test_the_event_loop_is_watched_without_a_task(registry: Registry) -> None:
    tasks = len(asyncio.all_tasks())
    watch = instrument_loop("shop", registry=registry, interval_s=0.001)
    assert len(asyncio.all_tasks()) == tasks
    async with asyncio.timeout(10):
        while value(registry, "shop_event_loop_lag_seconds") < 3:
            await asyncio.sleep(0.001)
    assert value(registry, "shop_event_loop_tasks") == tasks
    assert instrument_loop("shop", registry=registry) is watch
    watch.stop()
    watch.stop()
    again = instrument_loop("shop", registry=registry)
    assert again is not watch
    again.stop()


def test_outside_of_a_loop_there_is_none_to_watch(registry: Registry) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        instrument_loop("shop", registry=registry)


def test_threads_and_memory_are_read_when_handed_on(registry: Registry) -> None:
    instrument_threads("shop", registry=registry)
    instrument_memory("shop", registry=registry)
    registry.refresh()
    assert value(registry, "shop_python_threads", kind="other") >= 1
    rss = value(registry, "shop_memory_allocation_bytes", type="rss")
    assert 5e6 < rss < value(registry, "shop_memory_allocation_bytes", type="virtual")


def test_log_messages_are_counted_by_level_without_a_handler(registry: Registry) -> None:
    factory = logging.getLogRecordFactory()
    handlers = list(logging.getLogger().handlers)
    try:
        instrument_logging("shop", registry=registry)
        logger = logging.getLogger("shop.test")
        logger.setLevel(logging.INFO)
        logger.warning("one")
        logger.error("two")
        logger.debug("not made at all")
    finally:
        logging.setLogRecordFactory(factory)
    assert logging.getLogger().handlers == handlers
    assert value(registry, "shop_log_messages_total", level="warning") == 1
    assert value(registry, "shop_log_messages_total", level="error") == 1
    assert value(registry, "shop_log_messages_total", level="debug") == 0


# --- prometheus_client -----------------------------------------------------------------------


def test_a_prometheus_registry_is_adopted(registry: Registry) -> None:
    source = prometheus_client.CollectorRegistry()
    jobs = prometheus_client.Counter("jobs", "Jobs.", ["kind"], registry=source)
    queue = prometheus_client.Gauge("queue", "Waiting.", registry=source)
    sizes = prometheus_client.Histogram("size", "Sizes.", buckets=(1, 5), registry=source)
    times = prometheus_client.Summary("took", "Times.", registry=source)
    prometheus_client.Info("build", "Build.", registry=source).info({"version": "1.2"})
    adopt_prometheus(source, registry=registry)
    adopt_prometheus(source, registry=registry)
    for _ in range(2):
        jobs.labels("a").inc(2)
        queue.set(7)
        sizes.observe(3)
        sizes.observe(9)
        times.observe(0.5)
        registry.refresh()
    assert value(registry, "jobs_total", kind="a") == 4
    assert value(registry, "queue") == 7
    assert value(registry, "took_count") == 2
    assert value(registry, "took_sum") == 1
    assert value(registry, "build_info", version="1.2") == 1
    found = registry.get("size")
    assert found is not None
    child = found.children[()]
    assert (child.count, child.sum) == (4, 24)
    payload, _ = child.drain() or ([], None)
    assert payload == [24, 1, 2, 2, 2]  # the sum, then pairs of place and count


def test_what_cannot_be_adopted_is_said(registry: Registry) -> None:
    with pytest.raises(TypeError, match="str is no registry"):
        adopt_prometheus("metrics", registry=registry)  # type: ignore[arg-type]


def test_forked_what_was_adopted_before_is_the_parents(registry: Registry) -> None:
    source = prometheus_client.CollectorRegistry()
    jobs = prometheus_client.Counter("jobs", "Jobs.", registry=source)
    sizes = prometheus_client.Histogram("size", "Sizes.", buckets=(1, 5), registry=source)
    adopt_prometheus(source, registry=registry)
    jobs.inc(5)
    sizes.observe(3)
    registry.refresh()  # what the fork's hooks do before it and in the child
    registry.begin_anew()
    jobs.inc(2)
    registry.refresh()
    assert value(registry, "jobs_total") == 2
    assert value(registry, "size") == 0
