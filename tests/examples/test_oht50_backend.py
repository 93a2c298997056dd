"""The example under load, as `make run` has it: each figure is there and is the load's own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from support.programs import free_port, get
from support.reference_metrics import BACKEND, SYSTEM
from tachograph.agent.app import Agent
from tachograph.config import load_config

pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")

ROOT: Final = Path(__file__).resolve().parents[2]
EXAMPLES: Final = ROOT / "examples"
#: From the start of the demo to the last name on /metrics.
DEADLINE_S: Final = 60

METRICS: Final = {**SYSTEM, **BACKEND}

_SAMPLE: Final = re.compile(r"(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Demo:
    """What is left of a run: the last page of /metrics, the load's counts, the data, the log."""

    page: str
    waited_s: float
    counts: dict[str, Any]
    data: Path
    log: str


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Run agent, backend and load until every metric is there and the database was slow, too."""
    folder = tmp_path_factory.mktemp("demo")
    agent, backend = free_port(), free_port()
    counts, data = folder / "counts.json", folder / "data"
    command = [sys.executable, "-m", "oht50_backend.demo", "--data", str(data)]
    command += ["--listen", f"127.0.0.1:{agent}", "--port", str(backend)]
    command += ["--rate", "40", "--counts", str(counts)]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    began_s = time.monotonic()
    with (folder / "log").open("wb") as log, _ended(command, environment, log) as process:
        page = ""
        while missing := _missing(page):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() - began_s < DEADLINE_S, f"missing: {', '.join(missing)}"
            time.sleep(0.25)
            with contextlib.suppress(OSError):
                _, page = get(f"http://127.0.0.1:{agent}/metrics")
        waited_s = time.monotonic() - began_s
        assert process.poll() is None, (folder / "log").read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0, (folder / "log").read_text()
    return Demo(page, waited_s, json.loads(counts.read_text()), data, (folder / "log").read_text())


def _missing(page: str) -> list[str]:
    """What the run still waits for: all metrics, and what the agent asks the backend itself."""
    missing = sorted(METRICS.keys() - _found(page).keys())
    for line in ("oht50_vehicle_battery_ratio{", 'oht50_process_up{process="backend"} 1'):
        if f"\n{line}" not in page:
            missing.append(line)
    return missing


@contextlib.contextmanager
def _ended(
    command: list[str], environment: dict[str, str], log: Any
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(40)


def _samples(page: str) -> Iterator[tuple[str, dict[str, str]]]:
    for line in page.splitlines():
        match = _SAMPLE.fullmatch(line)
        if match is not None and match["name"].startswith("oht50_"):
            yield match["name"].removeprefix("oht50_"), dict(_LABEL.findall(match["labels"] or ""))


def _found(page: str) -> dict[str, set[str]]:
    """Label names by metric; a histogram is known by its count."""
    found: dict[str, set[str]] = {}
    for name, labels in _samples(page):
        for known in (name, name.removesuffix("_count")):
            if known in METRICS:
                found.setdefault(known, set(labels))
    return found


def test_every_metric_is_exposed_within_a_minute_with_its_labels(demo: Demo) -> None:
    assert demo.waited_s < DEADLINE_S
    found = _found(demo.page)
    # The process label says whose memory it is; the deployment's names are the system's.
    assert {name: found[name] for name in METRICS} == METRICS


async def _stored(data: Path, selector: str) -> dict[tuple[str, ...], float]:
    """The last value of each series, by its label values in the order of the label names."""
    config = load_config(
        None,
        env={},
        overrides=["listen=127.0.0.1:0", f"storage.path={data}", "metrics.system.enabled=false"],
    )
    async with (
        Agent(config, one_process=True) as agent,
        aiohttp.ClientSession() as session,
        session.get(
            f"{agent.url}/api/tachograph/v1/points", params={"match[]": selector}
        ) as response,
    ):
        answer = await response.json()
    return {
        tuple(value for name, value in sorted(row["metric"].items()) if name != "__name__"): float(
            row["values"][-1][1]
        )
        for row in answer["data"]["result"]
    }


async def test_the_store_holds_every_metric(demo: Demo) -> None:
    names = "|".join(f"oht50_{name}(_count)?" for name in METRICS)
    config = load_config(
        None, env={}, overrides=["listen=127.0.0.1:0", f"storage.path={demo.data}"]
    )
    async with (
        Agent(config, one_process=True) as agent,
        aiohttp.ClientSession() as session,
        session.get(
            f"{agent.url}/api/tachograph/v1/points", params={"match[]": f'{{__name__=~"{names}"}}'}
        ) as response,
    ):
        answer = await response.json()
    stored = {row["metric"]["__name__"].removeprefix("oht50_") for row in answer["data"]["result"]}
    assert {name for name in METRICS if not {name, f"{name}_count"} & stored} == set()


#: What the load counts, the metric that counts the same, and how the words of a key are ordered
#: in it: by the names of the labels.
AGREE: Final = {
    "requests": ("http_requests_total", (1, 0, 2)),
    "missions": ("missions_total", (1, 0)),
    "safety_events": ("safety_events_total", (1, 0)),
    "telemetry_points": ("telemetry_data_points_total", (0, 1)),
    "config_changes": ("config_changes_total", (0,)),
    "config_errors": ("config_validation_errors_total", (0,)),
}


@pytest.mark.parametrize("what", AGREE)
async def test_the_stored_totals_are_exactly_the_loads_own(demo: Demo, what: str) -> None:
    metric, order = AGREE[what]
    counted: Counter[tuple[str, ...]] = Counter()
    for key, count in demo.counts[what].items():
        words = key.split(" ")
        counted[tuple(words[place] for place in order)] += count
    stored = await _stored(demo.data, f"oht50_{metric}")
    # The agent's own business source asks for one document that the load never does.
    others = {key: value for key, value in stored.items() if key[0] != "/api/v1/status"}
    assert demo.counts["failures"] == {}
    assert demo.counts["is_finished"]
    assert others == dict(counted)
    assert sum(counted.values()) > 0


def test_nothing_fails_on_the_way_up_and_the_order_of_start_is_made_good(demo: Demo) -> None:
    assert "level=warn" not in demo.log
    assert "level=error" not in demo.log
    assert "metrics are kept until it is back" in demo.log
    assert "is back\n" in demo.log


def test_a_business_source_asks_the_same_backend(demo: Demo) -> None:
    names = {name for name, _ in _samples(demo.page)}
    assert "vehicle_battery_ratio" in names
    assert 'oht50_process_up{process="backend"} 1\n' in demo.page
