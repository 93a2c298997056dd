"""The command as users run it: a process of its own, its signals and exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.agent_process import running
from support.programs import free_port, get
from tachograph.agent.cli import build_parser, main
from tachograph.agent.commands.options import default_url


def test_every_command_has_help_with_examples() -> None:
    for action in build_parser()._subparsers._group_actions:  # type: ignore[union-attr]
        for name, parser in action.choices.items():  # type: ignore[union-attr]
            text = parser.format_help()
            assert "usage: tachograph" in text
            if name != "version":
                assert "examples:" in text, name


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({}, "http://127.0.0.1:19797"),
        ({"TACHOGRAPH_URL": "", "TACHOGRAPH_AGENT": ""}, "http://127.0.0.1:19797"),
        ({"TACHOGRAPH_URL": "https://a"}, "https://a"),
        ({"TACHOGRAPH_AGENT": "http://b:1"}, "http://b:1"),
        ({"TACHOGRAPH_AGENT": "/run/client.sock"}, "http://127.0.0.1:19797"),
        ({"TACHOGRAPH_URL": "http://a", "TACHOGRAPH_AGENT": "http://b:1"}, "http://a"),
    ],
)
def test_the_environment_says_where_the_agent_is(env: dict[str, str], url: str) -> None:
    assert default_url(env) == url


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_agent_with_everything_committed(tmp_path: Path, number: int) -> None:
    with running(tmp_path) as agent:
        assert main(["push", "orders=5", "--url", agent.url]) == 0
        assert agent.stop(number) == 0
        assert "agent stopped" in agent.log.read_text()
    # The write-ahead log is merged and gone: a copy of the one file is a whole backup.
    assert not (tmp_path / "data" / "samples.db-wal").exists()


def test_what_was_acknowledged_survives_kill_9(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path) as agent:
        assert main(["push", "orders=5", "--job", "shop", "--url", agent.url]) == 0
        agent.stop(signal.SIGKILL)
    with running(tmp_path) as agent:
        capsys.readouterr()
        assert main(["query", "orders", "-o", "json", "--url", agent.url]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert row["metric"] == {"__name__": "orders", "job": "shop"}
        assert [value for _, value in row["values"]] == ["5"]
        _, events = get(f"{agent.url}/api/tachograph/v1/events")
        kinds = [event["kind"] for event in json.loads(events)["data"]]
        assert kinds == ["start", "unclean_stop", "start"]


def test_sighup_reloads_or_keeps_the_old_configuration(tmp_path: Path) -> None:
    file = tmp_path / "tachograph.yml"
    file.write_text("namespace: one\n")
    with running(tmp_path, "--config", str(file)) as agent:
        file.write_text("namespace: 7up\n")
        agent.process.send_signal(signal.SIGHUP)
        for _ in range(200):
            if "not reloaded" in agent.log.read_text():
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                agent.process.wait(0.05)
        assert "tachograph.yml:1:12: namespace:" in agent.log.read_text()
        get(f"{agent.url}/-/ready")


def test_no_agent_is_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for command in (["query", "up"], ["series"], ["info"], ["push", "x=1"], ["tail", "up"]):
        assert main([*command, "--url", url]) == 3
        assert "no agent" in capsys.readouterr().err


def test_wrong_use_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["query"])
    assert caught.value.code == 2
    assert "usage: tachograph query" in capsys.readouterr().err


def test_a_bad_configuration_shows_all_mistakes_and_is_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.yml"
    file.write_text("namespce: x\nstorage:\n  retention: {raw: 5min}\n")
    assert main(["run", "--config", str(file), "--data", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{file}:1:1: namespce: unknown setting; did you mean 'namespace'?",
        f'{file}:3:20: storage.retention.raw: "5min" is not a duration; write 5m, 90s or 1h30m',
    ]
    assert main(["check", "config", str(file)]) == 1


def test_once_prints_a_collection_and_stores_nothing(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tachograph", "run", "--once", "--data", str(tmp_path / "d")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert "# TYPE backend_cpu_usage_percent gauge\n" in result.stdout
    assert 'backend_cpu_usage_percent{core="total",type="idle"} ' in result.stdout
    assert not (tmp_path / "d").exists()


def test_the_database_is_looked_after_with_and_without_an_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(tmp_path / "data")
    with running(tmp_path) as agent:
        listen = agent.url.removeprefix("http://")
        main(["push", "x=1", "y=2", "--url", agent.url])
        assert main(["db", "compact", "--data", data, "--listen", listen]) == 0
        assert main(["db", "info", "--data", data]) == 0
        assert "sealed samples" in capsys.readouterr().out
        assert main(["db", "backup", str(tmp_path / "copy.db"), "--data", data]) == 0
        assert main(["doctor", "--data", data, "--listen", listen]) == 0
        assert main(["info", "--url", agent.url]) == 0
        assert agent.stop() == 0
    assert main(["db", "verify", "--data", data]) == 0
    assert main(["db", "compact", "--data", data]) == 0
    capsys.readouterr()
    assert main(["db", "repair", "--data", data]) == 0
    assert "the damaged files are" in capsys.readouterr().out
    assert main(["db", "verify", "--data", data]) == 0
    assert (os.stat(tmp_path / "copy.db").st_mode & 0o777) == 0o600
