"""Programs as business figures: real processes, none of which outlives its pass."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from support.sink import MemorySink
from tachograph.agent.collectors.command import CommandReader
from tachograph.agent.collectors.figures import BusinessSource, SourceError
from tachograph.config.secret import Secret
from tachograph.config.sources import CommandSource
from tachograph.storage.model import Kind, MetricType

EXIT_CODE = 'oht50_command_exit_code{command="probe"}'


def source(
    sink: MemorySink, script: str, timeout_s: float = 10.0, **changes: Any
) -> BusinessSource:
    settings = CommandSource(**{"name": "probe", "command": ("sh", "-c", script), **changes})
    return BusinessSource(
        sink,
        CommandReader(settings),
        name="command/probe",
        identity=settings,
        interval_s=60.0,
        timeout_s=timeout_s,
        namespace="oht50",
        labels={},
        max_series=10,
    )


def last(sink: MemorySink) -> dict[str, float]:
    return {str(labels): value for labels, value in sink.group("command/probe").last.items()}


async def collected(script: str, **changes: Any) -> dict[str, float]:
    sink = MemorySink()
    await source(sink, script, **changes).collect(1_000)
    return last(sink)


async def refused(script: str, **changes: Any) -> tuple[str, dict[str, float]]:
    sink = MemorySink()
    with pytest.raises(SourceError) as caught:
        await source(sink, script, **changes).collect(1_000)
    return str(caught.value), last(sink) if sink.group("command/probe").ticks else {}


@pytest.mark.parametrize(("script", "code"), [("true", 0), ("exit 3", 3), ("kill -9 $$", 137)])
async def test_an_exit_code_is_a_figure_of_its_own(script: str, code: int) -> None:
    assert await collected(script) == {EXIT_CODE: code}


@pytest.mark.parametrize(
    ("output", "script", "figures"),
    [
        ("value", "echo ' 21.5 '", {"oht50_room": 21.5}),
        ("pairs", "printf '# a\\n\\na=1\\nb = 2e3\\n'", {"oht50_a": 1.0, "oht50_b": 2000.0}),
        (
            "exposition",
            "printf '# TYPE a_total counter\\na_total{x=\"1\"} 5\\nb 2 1767571200000\\n'",
            {'oht50_a_total{x="1"}': 5.0, "oht50_b": 2.0},
        ),
    ],
)
async def test_what_it_prints_is_read(output: str, script: str, figures: dict[str, float]) -> None:
    metric = "room" if output == "value" else ""
    found = await collected(script, output=output, metric=metric)
    assert found == {EXIT_CODE: 0.0, **figures}


async def test_types_of_an_exposition_are_kept() -> None:
    text = (
        "# HELP h Time.\n# TYPE h histogram\n"
        'h_bucket{le="1"} 1\nh_bucket{le="+Inf"} 2\nh_sum 3\nh_count 2\n# TYPE s summary\n'
        's{quantile="0.5"} 1\ns_sum 2\ns_count 3\nplain 1\n'
    )
    sink = MemorySink()
    await source(sink, f"printf '{text}'", output="exposition").collect(1_000)
    assert sink.metadata["oht50_h"].type is MetricType.HISTOGRAM
    assert sink.metadata["oht50_h"].help == "Time."
    kinds = {str(labels): kind for labels, kind in sink.kinds.items()}
    assert kinds['oht50_h_bucket{le="1"}'] is Kind.BUCKET
    assert kinds["oht50_h_count"] is Kind.COUNTER
    assert kinds['oht50_s{quantile="0.5"}'] is Kind.GAUGE
    assert kinds["oht50_plain"] is Kind.UNKNOWN


@pytest.mark.parametrize(
    ("output", "script", "said", "code"),
    [
        ("value", "echo warm", "its output: 'warm' is not a number", 0),
        ("value", "true", "its output: '' is not a number", 0),
        ("value", "printf '\\377'", "not UTF-8", 0),
        ("pairs", "echo a=1; echo b", "line 2 is not name=value: 'b'", 0),
        ("exposition", "echo '{'", "line 1", 0),
        ("value", "echo 5; echo nothing works >&2; exit 4", "exit code 4: nothing works", 4),
    ],
)
async def test_what_cannot_be_read_fails_the_pass_but_for_the_exit_code(
    output: str, script: str, said: str, code: int
) -> None:
    metric = "room" if output == "value" else ""
    text, figures = await refused(script, output=output, metric=metric)
    assert said in text
    assert figures == {EXIT_CODE: code}


async def test_a_program_that_is_not_there_is_told() -> None:
    text, _ = await refused("", command=("no-such-program",))
    assert text == "cannot run no-such-program: No such file or directory"


async def test_too_much_output_ends_it() -> None:
    text, _ = await refused("yes", output="pairs", max_bytes=1024)
    assert text == "it prints more than max_bytes allows (1024)"
    assert await collected("head -c 300000 /dev/zero; exit 1") == {EXIT_CODE: 1.0}


async def test_a_program_and_its_children_end_with_the_pass(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"trap '' TERM; echo $$ > {pids}; sleep 600 & echo $! >> {pids}; wait"
    text, _ = await refused(script, timeout_s=0.5)
    assert text == "no answer within 0.5 s"
    for pid in map(int, pids.read_text().split()):
        async with asyncio.timeout(10):
            while _is_running(pid):
                await asyncio.sleep(0.01)


async def test_its_environment_is_what_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_ONLY", "1")
    file = tmp_path / "secret"
    file.write_text("file-s3cret\n")
    given = {
        "environment": {"TOKEN": Secret("env-s3cret")},
        "environment_files": {"KEY": file},
        "working_directory": tmp_path,
    }
    script = '[ "$TOKEN$KEY$AGENT_ONLY$PWD" = "env-s3cretfile-s3cret$1" ]'
    command = ("sh", "-c", script, "sh", str(tmp_path))
    assert await collected("", command=command, **given) == {EXIT_CODE: 0.0}
    text, _ = await refused('echo "$TOKEN $KEY" >&2; exit 1', output="pairs", **given)
    assert text == "exit code 1: <secret> <secret>"
    text, _ = await refused('echo "$TOKEN $KEY"', output="pairs", **given)
    assert "s3cret" not in text


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
