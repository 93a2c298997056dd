"""Business sources: what is wrong with one is told at once, and never with its secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tachograph.config import ConfigError, load_config, show_config
from tachograph.config.check import inspect_config
from tachograph.config.diff import diff_configs
from tachograph.config.jmes import compile_path
from tachograph.config.secret import Secret
from tachograph.config.sources import CommandSource, HttpJsonSource, SqlSource
from tachograph.config.sqlurl import parse_database_url

GOOD = """\
sources:
  - type: sql
    name: missions
    url: ${DB}
    interval: 30s
    query: SELECT priority, count(*) AS mission_queue_size FROM missions GROUP BY priority
    metrics: [{name: mission_queue_size, labels: [priority]}]
  - type: http_json
    name: fleet
    url: http://127.0.0.1:8000/fleet
    params: {key: s3cret}
    metrics:
      - {name: vehicle_battery_ratio, items: 'vehicles[]', value: battery, labels: {vehicle: id}}
  - type: command
    name: raid
    command: [sh, -c, "exit 2"]
    environment: {TOKEN: s3cret}
"""
ENV = {"DB": "postgresql://tachograph:s3cret@127.0.0.1/oht50"}


def problems(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "t.yml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, env=ENV)
    return [line.removeprefix(f"{file}:") for line in caught.value.problems]


def test_every_type_is_read_and_shown_without_its_secrets(tmp_path: Path) -> None:
    file = tmp_path / "t.yml"
    file.write_text(GOOD)
    config = load_config(file, env=ENV)
    sql, http, command = config.sources
    assert isinstance(sql, SqlSource)
    assert isinstance(http, HttpJsonSource)
    assert isinstance(command, CommandSource)
    assert sql.timing_s(60_000) == (30.0, 10.0)
    assert http.timing_s(5_000) == (5.0, 5.0)
    shown = show_config(config)
    assert "s3cret" not in shown
    assert "s3cret" not in repr(config)
    file.write_text(shown)
    assert load_config(file, env={}).sources[2] != command  # the mask is not the secret
    report = inspect_config(file, env={})
    assert not report.errors, report.lines()


def test_a_check_of_a_good_file_finds_nothing(tmp_path: Path) -> None:
    file = tmp_path / "t.yml"
    file.write_text(GOOD)
    file.chmod(0o600)
    assert inspect_config(file, env=ENV).lines() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{type: sqll, name: a}]", '"sqll" is not one of sql, http_json, command; did you mean'),
        ("[{type: sql, name: a, metrics: [], url: 'sqlite://'}]", "'query' is required"),
        (
            "[{type: sql, name: a, query: SELECT 1, url: 'sqlite://', metrics: []}]",
            "metrics: needs at least one metric",
        ),
        (
            "[{type: sql, name: a, query: SELECT 1, metrics: [{name: a}]}]",
            "one of url, url_file is required",
        ),
        (
            "[{type: sql, name: a, query: S, url: s3cret, metrics: [{name: a}]}]",
            "url: is not a database URL",
        ),
        (
            "[{type: sql, name: a, query: S, url: 'sqlite://', metrics: [{name: a b}]}]",
            'metrics[0].name: "a b" is not a metric name',
        ),
        (
            "[{type: http_json, name: a, url: 'http://x/', metrics: [{name: a, value: 'a['}]}]",
            "metrics[0].value: 'a[' is not a JMESPath: it ends too early",
        ),
        (
            "[{type: http_json, name: a, url: 'http://x/',"
            " metrics: [{name: a, labels: {b: 'lenght(@)'}}]}]",
            "'lenght(@)': there is no function 'lenght'; did you mean 'length'?",
        ),
        (
            "[{type: http_json, name: a, url: 'http://x/',"
            " metrics: [{name: a, labels: {__b: '@'}}]}]",
            '"__b" is not a label name',
        ),
        ("[{type: command, name: a, command: []}]", "command: needs a program"),
        (
            "[{type: command, name: a, command: [x], output: value}]",
            "metric: is required by output: value",
        ),
        (
            "[{type: command, name: a, command: [x], environment: {'A B': c}}]",
            "is not a name of a variable",
        ),
        (
            "[{type: command, name: a, command: [x], interval: 5s, timeout: 10s}]",
            "timeout: 10s is longer than the interval of 5s",
        ),
        (
            "[{type: command, name: a, command: [x]}, {type: command, name: a, command: [y]}]",
            'name "a" is already taken',
        ),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    lines = problems(tmp_path, f"sources: {text}\n")
    assert any(said in line for line in lines), lines
    assert "s3cret" not in "\n".join(lines)
    assert all(line.startswith("1:") for line in lines)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("a b", "unexpected 'b' at 3"),
        ("'a", "Unclosed"),
        ("length(a, b)", "length() takes 1 arguments"),
        ("merge()", "merge() takes at least 1 arguments"),
        ("[" * 3000, "JMESPath"),
        ("a" * 5000, "at most 4096 characters"),
        ("", "must not be empty"),
    ],
)
def test_a_path_that_is_none_says_why(path: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        compile_path(path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:s3cret@h:port/d", "cannot be read as a URL"),
        ("orracle://u:s3cret@h/d", "orracle:// is no database that SQLAlchemy knows"),
        ("sqlite+aiosqlite:///s3cret.db", "is a driver for asyncio; write sqlite://"),
        ("postgresql+asyncpg://u:s3cret@h/d", "write postgresql+psycopg://"),
        ("mysql+nosuch://u:s3cret@h/d", "mysql+nosuch:// is no database"),
        ("oracle+oracledb://u:s3cret@h/d", "oracle+oracledb needs the module oracledb"),
    ],
)
def test_a_database_url_is_refused_without_being_shown(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_database_url(Secret(url))
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_postgresql_means_psycopg() -> None:
    assert parse_database_url(Secret("postgresql://h/d")).drivername == "postgresql+psycopg"


def test_a_check_looks_for_drivers_and_programs(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("oracle+oracledb://u:s3cret@h/d")
    secret.chmod(0o600)
    file = tmp_path / "t.yml"
    file.write_text(
        f"""\
sources:
  - type: sql
    name: a
    url_file: {secret}
    query: SELECT 1 AS a
    metrics: [{{name: a}}]
  - {{type: command, name: b, command: [no-such-program]}}
  - {{type: command, name: c, command: [./here.sh], working_directory: {tmp_path}}}
  - {{type: command, name: d, command: ['true'], working_directory: {tmp_path / "none"}}}
"""
    )
    (tmp_path / "here.sh").write_text("#!/bin/sh\n")
    (tmp_path / "here.sh").chmod(0o755)
    report = inspect_config(file, env={})
    assert len(report.errors) == 2
    assert "sources[0].url_file: oracle+oracledb needs the module oracledb" in report.errors[0]
    assert "sources[3].working_directory" in report.errors[1]
    assert len(report.warnings) == 1
    assert "there is no program 'no-such-program' here" in report.warnings[0]


def test_a_reload_applies_sources_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "t.yml"
    file.write_text(GOOD)
    old = load_config(file, env=ENV)
    file.write_text(GOOD.replace("interval: 30s", "interval: 40s"))
    (change,) = diff_configs(old, load_config(file, env=ENV)).changes
    assert change.path == "sources.missions"
    assert change.reloadable
    assert "s3cret" not in str(change)
