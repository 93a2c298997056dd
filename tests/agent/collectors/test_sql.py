"""Queries as business figures, on real databases."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.postgres import PASSWORD, find_program, postgres
from support.sink import MemorySink
from tachograph.agent.collectors.figures import BusinessSource, SourceError
from tachograph.agent.collectors.sql import SqlReader
from tachograph.config.secret import Secret
from tachograph.config.sources import SqlMetric, SqlSource
from tachograph.storage.frame import STALE_NAN
from tachograph.storage.model import Kind, Labels

pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")

QUEUE = "SELECT priority, count(*) AS queue_size FROM mission GROUP BY priority ORDER BY priority"
QUEUE_METRIC = SqlMetric(name="queue_size", labels=("priority",), help="Missions that wait.")
MISSIONS = [("high",), ("high",), ("low",), (None,)]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "missions.db"
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE mission (priority TEXT)")
        connection.executemany("INSERT INTO mission VALUES (?)", MISSIONS)
    connection.close()
    return path


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    if find_program("postgres") is None or find_program("initdb") is None:
        pytest.skip("PostgreSQL is not installed")
    import psycopg

    with postgres() as url:
        with psycopg.connect(url) as connection:
            connection.execute("CREATE SEQUENCE ticket")
            connection.execute("CREATE TABLE mission (priority TEXT, at TIMESTAMPTZ, cost NUMERIC)")
            connection.execute(
                "INSERT INTO mission VALUES ('high', '2026-01-05T00:00:00Z', 1.25),"
                " ('high', '2026-01-05T00:00:01Z', 2.25), ('low', NULL, NULL)"
            )
        yield url


def settings(url: str, **changes: Any) -> SqlSource:
    given: dict[str, Any] = {"query": QUEUE, "metrics": (QUEUE_METRIC,), **changes}
    return SqlSource(name="missions", url=Secret(url), **given)


def source(sink: MemorySink, wanted: SqlSource, timeout_s: float = 10.0) -> BusinessSource:
    return BusinessSource(
        sink,
        SqlReader(wanted, timeout_s),
        name="sql/missions",
        identity=wanted,
        interval_s=60.0,
        timeout_s=timeout_s,
        namespace="oht50",
        labels={"site": "plant-7"},
        max_series=wanted.max_series,
    )


async def collected(wanted: SqlSource) -> dict[str, float]:
    sink = MemorySink()
    asked = source(sink, wanted)
    try:
        await asked.collect(1_000)
    finally:
        await asked.close()
    return {str(labels): value for labels, value in sink.group("sql/missions").last.items()}


async def refused(wanted: SqlSource, timeout_s: float = 10.0) -> str:
    asked = source(MemorySink(), wanted, timeout_s)
    with pytest.raises(SourceError) as caught:
        await asked.collect(1_000)
    await asked.close()
    return str(caught.value)


async def test_rows_become_series_with_labels_from_columns(database: Path) -> None:
    assert await collected(settings(f"sqlite:///{database}")) == {
        'oht50_queue_size{site="plant-7"}': 1.0,
        'oht50_queue_size{priority="high",site="plant-7"}': 2.0,
        'oht50_queue_size{priority="low",site="plant-7"}': 1.0,
    }


async def test_a_row_that_goes_ends_its_series(database: Path) -> None:
    sink = MemorySink()
    asked = source(sink, settings(f"sqlite:///{database}"))
    await asked.collect(1_000)
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM mission WHERE priority = 'low'")
    connection.close()
    await asked.collect(2_000)
    await asked.close()
    low = Labels.of({"priority": "low", "site": "plant-7"}, "oht50_queue_size")
    assert repr(sink.group("sql/missions").last[low]) == repr(STALE_NAN)
    assert sink.kinds[low] is Kind.GAUGE
    assert sink.metadata["oht50_queue_size"].help == "Missions that wait."


async def test_a_failed_pass_ends_all_series_once(database: Path) -> None:
    sink = MemorySink()
    asked = source(sink, settings(f"sqlite:///{database}"))
    await asked.collect(1_000)
    database.rename(database.with_suffix(".gone"))
    for ts_ms in (2_000, 3_000):
        with pytest.raises(SourceError, match="there is no database"):
            await asked.collect(ts_ms)
    assert not database.exists(), "asking must not make one"
    await asked.close()
    ticks = sink.group("sql/missions").ticks
    assert [ts_ms for ts_ms, _ in ticks] == [1_000, 2_000]
    assert {repr(value) for value in ticks[1][1].values()} == {repr(STALE_NAN)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"query": "SELECT nonsense FROM mission"}, "no such column: nonsense"),
        ({"query": "DELETE FROM mission"}, "attempt to write a readonly database"),
        ({"query": "PRAGMA cache_size = 100"}, "the query returns no rows"),
        (
            {"metrics": (SqlMetric(name="queue_length"),)},
            "the query has no column 'queue_length'; it has priority, queue_size",
        ),
        (
            {"metrics": (SqlMetric(name="queue_size"),)},
            "two values for queue_size{}; add a label",
        ),
        (
            {"metrics": (SqlMetric(name="x", value="priority"),)},
            "x: 'high' is not a number",
        ),
        ({"max_rows": 2}, "more than 2 rows; see max_rows"),
        ({"max_series": 2}, "3 series, more than max_series allows (2)"),
    ],
)
async def test_what_is_wrong_is_told(database: Path, changes: dict[str, Any], said: str) -> None:
    assert said in await refused(settings(f"sqlite:///{database}", **changes))
    with sqlite3.connect(database) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM mission").fetchone()
    connection.close()
    assert rows == len(MISSIONS)


async def test_a_query_that_runs_for_ever_is_given_up_and_interrupted(database: Path) -> None:
    endless = (
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) AS x FROM n"
    )
    wanted = settings(f"sqlite:///{database}", query=endless, metrics=(SqlMetric(name="x"),))
    asked = source(MemorySink(), wanted, timeout_s=0.2)
    with pytest.raises(SourceError, match=r"longer than 0\.2 s|no answer within"):
        await asked.collect(1_000)
    reader = asked._reader
    assert isinstance(reader, SqlReader)
    async with asyncio.timeout(10):
        while reader._offload.hung:  # the thread ends as SQLite was interrupted
            await asyncio.sleep(0.01)
    await asked.close()


async def test_a_url_in_a_file_is_read_and_never_shown(database: Path, tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(f"sqlite:///{database}\n")
    wanted = SqlSource(name="m", url_file=file, query=QUEUE, metrics=(QUEUE_METRIC,))
    assert len(await collected(wanted)) == 3
    file.write_text("postgresql://u:s3cret@127.0.0.1:port/d")
    text = await refused(wanted)
    assert "cannot be read as a URL" in text
    assert "s3cret" not in text
    file.unlink()
    assert "cannot read secret file" in await refused(wanted)


# --- PostgreSQL -------------------------------------------------------------------------------


async def test_postgresql_gives_numbers_and_times(server: str) -> None:
    wanted = settings(
        server,
        query="SELECT priority, count(*) AS queue_size, sum(cost) AS cost, max(at) AS newest"
        " FROM mission WHERE priority LIKE '%' GROUP BY priority",
        metrics=(
            QUEUE_METRIC,
            SqlMetric(name="cost_total", value="cost", labels=("priority",), type="counter"),
            SqlMetric(name="newest_timestamp_seconds", value="newest", labels=("priority",)),
        ),
    )
    assert await collected(wanted) == {
        'oht50_queue_size{priority="high",site="plant-7"}': 2.0,
        'oht50_queue_size{priority="low",site="plant-7"}': 1.0,
        'oht50_cost_total{priority="high",site="plant-7"}': 3.5,
        'oht50_newest_timestamp_seconds{priority="high",site="plant-7"}': 1_767_571_201.0,
    }


async def test_postgresql_is_only_read(server: str) -> None:
    reason = "cannot execute nextval() in a read-only transaction"
    assert reason in await refused(settings(server, query="SELECT nextval('ticket') AS queue_size"))
    assert 'at or near "DELETE"' in await refused(settings(server, query="DELETE FROM mission"))


async def test_postgresql_ends_a_query_by_itself(server: str) -> None:
    text = await refused(
        settings(server, query="SELECT 1 AS queue_size, pg_sleep(30)", metrics=(QUEUE_METRIC,)),
        timeout_s=0.5,
    )
    assert "takes longer than" in text or "statement timeout" in text or "no answer" in text
    import psycopg

    async with asyncio.timeout(10):
        while True:
            with psycopg.connect(server) as connection:
                sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)%'"
                row = connection.execute(sql + " AND pid <> pg_backend_pid()").fetchone()
            if row == (0,):
                break
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("password", [PASSWORD + "-wrong", "p%40ss-wrong"])
async def test_a_refused_password_is_not_shown(server: str, password: str) -> None:
    text = await refused(settings(server.replace(PASSWORD, password)))
    assert "password authentication failed" in text
    assert password not in text
    assert "p@ss-wrong" not in text


async def test_a_server_that_is_not_there_fails_the_pass(server: str) -> None:
    url = f"postgresql://tachograph:{PASSWORD}@127.0.0.1:1/postgres"
    text = await refused(settings(url))
    assert "127.0.0.1" in text
    assert PASSWORD not in text
