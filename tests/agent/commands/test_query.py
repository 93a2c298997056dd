"""``tachograph query``: the same answers from an agent and from its files, in every shape."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import Running, running
from support.clock import ManualClock
from support.history import DAY, MIDNIGHT, SECOND
from support.store import put, store_settings
from tachograph.agent.cli import main
from tachograph.agent.commands.client import Client
from tachograph.agent.commands.sparkline import short, sparkline
from tachograph.aggregation.compactor import Compactor
from tachograph.config.settings import RetentionSettings
from tachograph.storage.model import Kind, Labels
from tachograph.storage.store import Store

Ask = Callable[..., str]

START_S = 1_767_571_200
KEEP = ("--set", "storage.retention.raw=100y")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An agent that has half an hour of two counters, a minute apart."""
    with running(tmp_path_factory.mktemp("agent"), *KEEP) as agent:
        points = [
            {"name": name, "value": value, "labels": {"job": "shop"}, "timestamp": stamp}
            for minute in range(30)
            for stamp in [(START_S + 60 * minute) * 1000]
            for name, value in (("orders_total", 6 * minute), ("level", minute % 10 - 5))
        ]
        Client(agent.url).post("/api/tachograph/v1/points", points)
        yield agent


@pytest.fixture(params=["agent", "directory"])
def where(request: pytest.FixtureRequest, agent: Running) -> list[str]:
    """Ask the agent, or its directory beside it."""
    if request.param == "directory":
        return ["--db", str(agent.log.parent / "data")]
    return ["--url", agent.url]


@pytest.fixture
def ask(where: list[str], capsys: pytest.CaptureFixture[str]) -> Ask:
    """Ask at a time when there is something."""

    def ask(*args: str, minute: float = 29) -> str:
        capsys.readouterr()
        at = str(START_S + 60 * minute)
        assert main(["query", *args, "--time", at, *where]) == 0
        return capsys.readouterr().out

    return ask


def rows(text: str) -> Any:
    return json.loads(text)


def test_a_query_is_promql_at_one_time(ask: Ask) -> None:
    assert rows(ask("sum by (job) (increase(orders_total[10m])) / 10", "-o", "json")) == [
        {"metric": {"job": "shop"}, "values": [[START_S + 1740, "6"]]}
    ]
    assert rows(ask("1 / 4", "-o", "json")) == [
        {"metric": {}, "values": [[START_S + 1740, "0.25"]]}
    ]
    assert rows(ask('"word"', "-o", "json")) == [
        {"metric": {}, "values": [[START_S + 1740, "word"]]}
    ]
    assert rows(ask("nothing", "-o", "json")) == []


def test_a_range_vector_is_samples_as_they_came(ask: Ask) -> None:
    (row,) = rows(ask("orders_total[2m]", "-o", "json"))
    assert row["metric"] == {"__name__": "orders_total", "job": "shop"}
    assert row["values"] == [[START_S + 1680, "168"], [START_S + 1740, "174"]]


def test_a_range_has_steps(ask: Ask) -> None:
    (row,) = rows(ask("orders_total", "--range", "10m", "--step", "5m", "-o", "json"))
    assert row["values"] == [
        [START_S + 1140, "114"],
        [START_S + 1440, "144"],
        [START_S + 1740, "174"],
    ]
    (row,) = rows(ask("orders_total", "--range", "10m", "-o", "json"))
    assert len(row["values"]) == 61, "ten minutes are cut into steps of 10 s"


def test_tables_and_csv_have_a_line_for_each_point(ask: Ask) -> None:
    arguments = ("level", "--range", "1m", "--step", "1m")
    assert ask(*arguments).splitlines() == [
        "SERIES             TIME                      VALUE",
        'level{job="shop"}  2026-01-05T00:28:00.000Z  3',
        'level{job="shop"}  2026-01-05T00:29:00.000Z  4',
    ]
    table = list(csv.reader(io.StringIO(ask(*arguments, "-o", "csv"))))
    assert table == [
        ["series", "time", "value"],
        ['level{job="shop"}', "2026-01-05T00:28:00.000Z", "3"],
        ['level{job="shop"}', "2026-01-05T00:29:00.000Z", "4"],
    ]


def test_a_spark_is_a_line_for_each_series(ask: Ask) -> None:
    (line,) = ask("level", "--range", "9m", "--step", "1m", "-o", "spark").splitlines()
    assert line == 'level{job="shop"}  ▁▁▂▃▄▅▆▇██  min -5  max 4  last 4'
    (line,) = ask("level", "-o", "spark").splitlines()
    assert "min -5  max 4  last 4" in line, "without a range it is the last hour"


def test_names_too_long_for_a_line_stand_whole_above_their_sparks(ask: Ask) -> None:
    two = 'label_replace({job="shop"}, "x", "a label that is longer than its terminal", "", "")'
    long, sparks, *rest = ask(two, "--range", "9m", "--step", "1m", "-o", "spark").splitlines()
    assert long.endswith('x="a label that is longer than its terminal"}')
    assert sparks == "  ▁▁▂▃▄▅▆▇██  min -5  max 4  last 4"
    assert len(rest) == 2


def test_rollups_of_a_tier_are_shown_as_stored(ask: Ask) -> None:
    arguments = ("orders_total", "--range", "20m", "--tier", "5m", "--agg", "count", "-o", "json")
    (row,) = rows(ask(*arguments, minute=20))
    assert [value for _, value in row["values"]][:-1] == ["5", "5", "5"]


def test_what_the_engine_has_to_say_goes_to_stderr(
    agent: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--time", str(START_S + 1740), "--url", agent.url, "-o", "json"]
    assert main(["query", "rate(level[5m])", *at]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("info: PromQL info: metric might not be a counter")
    assert len(rows(captured.out)) == 1
    assert main(["query", "quantile(7, level)", *at]) == 0
    assert capsys.readouterr().err.startswith("warning: PromQL warning: quantile value should be")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["up +"], "1:5: parse error"),
        (["up[5m]", "--range", "5m"], "invalid expression type"),
    ],
)
def test_mistakes_are_told_wherever_the_answer_would_come_from(
    agent: Running, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    for where in (["--url", agent.url], ["--db", str(agent.log.parent / "data")]):
        assert main(["query", *arguments, *where]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["up", "--time", "noon"], "--time: 'noon' is neither Unix seconds nor a time"),
        (["up", "--range", "5min"], '--range: "5min" is not a duration'),
        (["up", "--range", "0s"], "--range: 0s is not longer than 0"),
        (["up", "--step", "5m"], "--step: only a range has steps"),
        (["up", "--agg", "min"], "--agg: only buckets of a tier have that; add --tier"),
        (["sum(up)", "--tier", "1m"], 'unexpected "("; --tier shows what is stored of a selector'),
        (["up", "--url", "localhost"], "--url: 'localhost' is not a URL such as http://127.0.0.1"),
        (["up", "--url", "ws://localhost:1"], "--url: 'ws://localhost:1' is not a URL"),
        (["up", "--url", "http://localhost:x"], "--url: 'http://localhost:x' is not a URL"),
    ],
)
def test_wrong_use_is_told_before_anybody_is_asked(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["query", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_nothing_found_is_said_where_a_person_reads_it(
    agent: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    for output, expected in (("table", "no series\n"), ("json", ""), ("csv", "")):
        assert main(["query", "nothing", "-o", output, "--url", agent.url]) == 0
        assert capsys.readouterr().err == expected
    assert main(["query", "level", "--url", agent.url]) == 0
    assert "; newest sample " in (said := capsys.readouterr().err)
    assert " ago; try --range " in said


@pytest.mark.parametrize(
    ("expr", "minute", "said"),
    [
        ("orders_total", 43.5, "newest sample 14m before; try --range 1h\n"),
        ('{job="shop"}', 29 + 60 * 30, "newest sample 1d6h before; try --range 1w\n"),
        ("orders_total", -60, "newest sample: 2026-01-05T00:29:00.000Z\n"),
        ("orders_total + 1", 43.5, ""),
        ("nothing", 43.5, ""),
    ],
)
def test_a_selector_without_a_sample_at_that_time_is_told_where_the_newest_is(
    where: list[str],
    capsys: pytest.CaptureFixture[str],
    expr: str,
    minute: float,
    said: str,
) -> None:
    assert main(["query", expr, "--time", str(START_S + 60 * minute), *where]) == 0
    expected = f"no series with a sample at that time; {said}" if said else "no series\n"
    assert capsys.readouterr().err == expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk to write to")
@pytest.mark.parametrize("command", [["query", "vector(1)"], ["export"]])
def test_a_full_disk_under_the_output_is_told(agent: Running, command: list[str]) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "tachograph", *command, "--url", agent.url],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert result.returncode == 1
    assert result.stderr == "tachograph: cannot write: No space left on device\n"


def test_a_directory_without_a_database_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["query", "up", "--db", str(tmp_path)]) == 1
    assert "there is no database at" in capsys.readouterr().err


async def test_rollups_answer_where_samples_are_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = ManualClock(MIDNIGHT)
    store = Store(store_settings(tmp_path, retention=RetentionSettings(raw_ms=DAY)), clock)
    await store.open()
    for step in range(1, 121):
        await clock.advance(60 * SECOND)
        put(store.group("g"), clock.now_ms(), {Labels.of({}, "level"): float(step)}, Kind.GAUGE)
    await clock.advance(3 * DAY)
    await store.seal()
    await Compactor(store, rest=0).run_once()
    await store.retention.run_once()
    await store.close()
    at = str(MIDNIGHT // 1000 + 7200)
    arguments = ["max_over_time(level[1h])", "--time", at, "--db", str(tmp_path), "-o", "json"]
    assert main(["query", *arguments]) == 0
    captured = capsys.readouterr()
    assert rows(captured.out) == [{"metric": {}, "values": [[int(at), "120"]]}]
    assert captured.err.startswith("info: ")


def test_sparklines_show_gaps_infinities_and_what_is_no_number() -> None:
    inf, nan = float("inf"), float("nan")
    points = [(1.0, 0.0), (3.0, inf), (4.0, -inf), (5.0, nan), (6.0, 10.0)]
    assert sparkline(points, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == "▁ █▁·█"
    assert sparkline([(1.0, 7.0), (2.0, 7.0)], [1.0, 2.0]) == "▅▅"
    assert sparkline([(1.0, -1.7e308), (2.0, 1.7e308)], [1.0, 2.0]) == "▁█"
    assert [short(value) for value in (nan, inf, -inf, 123456.0, 0.25)] == [
        *("NaN", "+Inf", "-Inf", "1.2346e+05", "0.25")
    ]
