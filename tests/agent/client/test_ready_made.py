"""All metrics that DESIGN §7 promises for a namespace, on `/metrics` of an embedded agent."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import aiohttp
import pytest

from support.reference_metrics import BACKEND, SYSTEM
from support.store import store_settings
from tachograph.agent.app import Agent
from tachograph.agent.client.business import BackendMetrics
from tachograph.agent.client.registry import Registry
from tachograph.config import Config
from tachograph.config.settings import CollectionSettings, MetricsSettings

HISTOGRAMS = {
    name
    for name in BACKEND
    if name.endswith(("_duration_seconds", "_latency_seconds", "_time_seconds"))
}


def config(path: Path) -> Config:
    return Config(
        namespace="oht50",
        listen="127.0.0.1:0",
        storage=store_settings(path),
        metrics=MetricsSettings(
            collection=CollectionSettings(system_interval_ms=100, performance_interval_ms=100)
        ),
    )


def work(metrics: BackendMetrics) -> None:
    """A bit of everything."""
    for seconds in (12.3, 15.0, 9.0):
        metrics.mission_completed("transport", seconds)
    metrics.mission_failed("transport", 40.0)
    metrics.mission_cancelled("charging")
    metrics.mission_waits("high", 3)
    metrics.mission_waits("high", -1)
    metrics.mission_queue_is("low", 5)
    metrics.safety_event("obstacle", "critical", 0.04)
    metrics.telemetry("position", "drive", points=20, latency_s=0.003)
    metrics.config_changed("route")
    metrics.config_invalid("route")
    metrics.request("GET", "/api/vehicles/{id}", 200, 0.02)
    metrics.query("select", "vehicles", 0.004)
    metrics.cache_lookup("session", is_hit=True)
    metrics.cache_lookup("session", is_hit=True)
    metrics.cache_lookup("session", is_hit=False)
    metrics.cache.size.labels("session").set(4096)
    metrics.http.websockets.labels("/live").inc()
    metrics.database.active.set(2)
    metrics.database.pool_size.set(5)
    gc.collect()


def parse(page: str) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for line in page.splitlines():
        if line.startswith("#"):
            continue
        series, _, number = line.rpartition(" ")
        name, _, rest = series.partition("{")
        pairs = [part.split("=", 1) for part in rest.rstrip("}").split('",') if part]
        labels = frozenset((key, text.strip('"')) for key, text in pairs)
        found.setdefault(name, {})[labels] = float(number)
    return found


@pytest.fixture
def registry() -> Registry:
    return Registry()


async def test_every_metric_of_the_reference_is_there_with_its_labels(
    tmp_path: Path, registry: Registry
) -> None:
    metrics = BackendMetrics("oht50", registry=registry)
    work(metrics)
    expected = {**SYSTEM, **BACKEND}
    async with (
        Agent(config(tmp_path), registry=registry) as agent,
        aiohttp.ClientSession() as session,
        asyncio.timeout(30),
    ):
        while True:
            async with session.get(f"{agent.url}/metrics") as response:
                page = parse(await response.text())
            shown = {
                name: page.get(f"oht50_{name}{'_count' if name in HISTOGRAMS else ''}", {})
                for name in expected
            }
            if all(shown.values()):
                break
            await asyncio.sleep(0.1)
    for name, labels in expected.items():
        for series in shown[name]:
            assert {label for label, _ in series} == labels, name
    total = shown["missions_total"]
    assert total[frozenset({("type", "transport"), ("status", "completed")})] == 3
    assert total[frozenset({("type", "transport"), ("status", "failed")})] == 1
    assert total[frozenset({("type", "charging"), ("status", "cancelled")})] == 1
    assert shown["mission_success_rate"] == {frozenset({("type", "transport")}): 0.75}
    assert shown["mission_queue_size"] == {
        frozenset({("priority", "high")}): 2,
        frozenset({("priority", "low")}): 5,
    }
    (rate,) = shown["cache_hit_rate"].values()
    assert rate == pytest.approx(2 / 3)
    assert sum(shown["telemetry_data_points_total"].values()) == 20


async def test_throughput_is_requests_a_second_between_two_ticks(registry: Registry) -> None:
    from tachograph.agent.ingest.totals import Definition, Family
    from tachograph.storage.model import Labels

    family = Family(Definition("api_throughput", "rate", "", ("endpoint",)))
    cell = family.cells[Labels.of({"endpoint": "/"}, "api_throughput")] = family.make()
    cell.users.add("w")
    cell.apply("w", [100])
    assert family.rows(0) == [0]
    cell.apply("w", [50])
    assert family.rows(10_000) == [5]
    assert family.rows(20_000) == [0]


async def test_a_share_looks_back_over_its_window_and_stays_when_nothing_happens() -> None:
    from tachograph.agent.ingest.totals import Definition, Family
    from tachograph.storage.model import Labels

    family = Family(Definition("rate", "ratio", "", (), window_ms=60_000))
    cell = family.cells[Labels.of({}, "rate")] = family.make()
    cell.users.add("w")
    assert family.rows(0) == []  # nothing to divide by
    cell.apply("w", [1, 4])
    assert family.rows(10_000) == [0.25]
    cell.apply("w", [4, 4])
    assert family.rows(60_000) == [0.625]
    assert family.rows(75_000) == [1.0]  # the first four have left the window
    assert family.rows(300_000) == [1.0]


def test_a_mission_is_a_block(registry: Registry) -> None:
    metrics = BackendMetrics("oht50", registry=registry)
    with metrics.mission("transport"):
        pass
    with pytest.raises(LookupError), metrics.mission("transport"):
        raise LookupError
    with pytest.raises(asyncio.CancelledError), metrics.mission("transport"):
        raise asyncio.CancelledError
    assert {key[1]: child.value for key, child in metrics.missions.children.items()} == {
        "completed": 1,
        "failed": 1,
        "cancelled": 1,
    }
    assert metrics.mission_success.labels("transport").value == 0.5


def test_made_twice_they_are_the_same(registry: Registry) -> None:
    first = BackendMetrics("oht50", registry=registry)
    second = BackendMetrics("oht50", registry=registry)
    first.config_changed("route")
    second.config_changed("route")
    assert second.config_changes.labels("route").value == 2
