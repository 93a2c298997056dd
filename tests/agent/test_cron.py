"""Jobs: how a run went is recorded, and the run is none the worse for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import Running, running
from support.programs import free_port
from tachograph.agent.cli import main

COMMAND = (sys.executable, "-m", "tachograph", "cron", "--job", "backup")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("agent")) as agent:
        yield agent


def figures(agent: Running, capsys: pytest.CaptureFixture[str], job: str) -> dict[str, float]:
    """What is current of a job, by name without the prefix."""
    capsys.readouterr()
    selector = f'{{__name__=~"job_.*", job="{job}"}}'
    assert main(["query", selector, "-o", "json", "--url", agent.url]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return {
        row["metric"]["__name__"].removeprefix("job_"): float(row["values"][-1][1]) for row in rows
    }


def test_a_run_that_worked_leaves_all_four_figures(
    agent: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cron", "--job", "good", "--url", agent.url, "--", "true"]) == 0
    found = figures(agent, capsys, "good")
    assert found.keys() == {
        "last_start_timestamp_seconds",
        "duration_seconds",
        "exit_code",
        "last_success_timestamp_seconds",
    }
    assert found["exit_code"] == 0
    ran_s = found["last_success_timestamp_seconds"] - found["last_start_timestamp_seconds"]
    assert found["duration_seconds"] == pytest.approx(ran_s, abs=1.0)


def test_a_run_that_failed_passes_its_code_on_and_keeps_the_last_success(
    agent: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["cron", "--job", "mixed", "--label", "host=a", "--url", agent.url, "--", "sh", "-c"]
    assert main([*run, "exit 0"]) == 0
    before = figures(agent, capsys, "mixed")
    assert main([*run, "exit 42"]) == 42
    after = figures(agent, capsys, "mixed")
    assert after["exit_code"] == 42
    success = "last_success_timestamp_seconds"
    assert after[success] == before[success]
    assert after["last_start_timestamp_seconds"] > before["last_start_timestamp_seconds"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["no-such-program"], 127),
        (["/"], 126),
        (["sh", "-c", "kill -TERM $$"], 143),
    ],
)
def test_codes_are_those_of_a_shell(
    agent: Running, capsys: pytest.CaptureFixture[str], words: list[str], code: int
) -> None:
    assert main(["cron", "--job", "codes", "--url", agent.url, "--", *words]) == code
    assert figures(agent, capsys, "codes")["exit_code"] == code


def test_the_job_has_our_input_output_and_options(agent: Running, tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--url", agent.url, "--", "sh", "-c", "cat; echo --err >&2; pwd", "--job", "x"],
        input="through\n",
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0
    assert done.stdout == f"through\n{tmp_path}\n"
    assert done.stderr == "--err\n"


def test_no_agent_costs_a_line_and_the_job_nothing(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    made = tmp_path / "made"
    command = [*COMMAND, "--patience", "0", "--url", url, "--", "sh", "-c", f"touch {made}; exit 7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert made.exists()
    assert "the job's result is not recorded" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_wrong_use_is_told_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cron", "--job", "x"]) == 2
    assert "write the command after --" in capsys.readouterr().err
    assert main(["cron", "--job", "x", "--ttl", "2 days", "--", "true"]) == 2
    assert "--ttl: " in capsys.readouterr().err


def test_an_address_that_is_none_costs_the_job_nothing_either(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["cron", "--job", "x", "--url", "nonsense", "--", "sh", "-c", "exit 7"]) == 7
    said = capsys.readouterr().err
    assert "'nonsense' is not a URL" in said
    assert "the job's result is not recorded" in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["a"], 2, "point 'a': write NAME=VALUE"),
        (["a=x"], 2, "'a=x': 'x' is not a number"),
        (['a{b="c"}=1'], 2, "labels are given by --label"),
        (["a=1", "--label", "b"], 2, "--label 'b': write NAME=VALUE"),
        (["a=1", "--url", "nonsense"], 2, "'nonsense' is not a URL"),
        (["a=1", "--ttl", "0s"], 1, "tachograph: a=1: ttl 0s is not between"),
        (["a=1", "b=2", "--ttl", "0s"], 1, "tachograph: 2 of 2 points refused"),
    ],
)
def test_a_push_that_cannot_be_says_why(
    agent: Running, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    assert main(["push", "--url", agent.url, *words]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_goes_on_to_the_job(agent: Running, number: int) -> None:
    script = "trap 'exit 9' TERM HUP; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [*COMMAND, "--url", agent.url, "--", "sh", "-c", script],
        stdout=subprocess.PIPE,
        # A shell cannot trap what was ignored when it started.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    os.kill(process.pid, number)
    # Twice the patience with an agent that is slow to answer, and more.
    assert process.wait(60) == 9
    process.stdout.close()


def test_a_push_with_a_ttl_is_kept(agent: Running, capsys: pytest.CaptureFixture[str]) -> None:
    push = ["push", "backup_bytes=5", "--job", "b", "--url", agent.url]
    assert main([*push, "--ttl", "2d"]) == 0
    assert main([*push, "--ttl", "2 days"]) == 1
    assert '"2 days" is not a duration; write 2d' in capsys.readouterr().err
