"""The switches of the example backend do what they say, and the metrics show it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from oht50_backend.faults import Faults
from oht50_backend.instrumentation import Instrumentation
from oht50_backend.service import Service

from tachograph import Registry

Client = TestClient[Any, Any]


class Told(Instrumentation):
    """The real instrumentation, which also remembers what it was told of."""

    def __init__(self) -> None:
        super().__init__(Registry())
        self.missions: list[str] = []
        self.safety_events = 0

    def mission(self, type_: str, status: str, seconds: float) -> None:
        super().mission(type_, status, seconds)
        self.missions.append(status)

    def safety_event(self, type_: str, severity: str, seconds: float) -> None:
        super().safety_event(type_, severity, seconds)
        self.safety_events += 1


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def client(tmp_path: Path, told: Told) -> AsyncIterator[Client]:
    service = Service(tmp_path / "oht50.db", told)
    async with TestClient(TestServer(service.application())) as client:
        yield client


async def switch(client: Client, **wanted: float) -> None:
    async with client.put("/api/v1/faults", json=wanted) as response:
        assert response.status == 200
        assert (await response.json()).items() >= wanted.items()


async def mission(client: Client) -> str:
    """Ask for a mission and return how it ended."""
    wanted = {"type": "inspection", "priority": "high"}
    async with client.post("/api/v1/missions", json=wanted) as response:
        number = (await response.json())["id"]
    async with asyncio.timeout(20):
        while True:
            async with client.get(f"/api/v1/missions/{number}") as response:
                status = str((await response.json())["status"])
            if status in ("completed", "failed"):
                return status
            await asyncio.sleep(0.01)


async def test_missions_fail_when_they_are_told_to(client: Client, told: Told) -> None:
    await switch(client, failing_missions=0)
    assert await mission(client) == "completed"
    await switch(client, failing_missions=1)
    assert await mission(client) == "failed"
    assert told.missions == ["completed", "failed"]


async def test_vehicles_report_safety_events_by_themselves(client: Client, told: Told) -> None:
    assert told.safety_events == 0
    await switch(client, safety_events=50)
    async with asyncio.timeout(20):
        while told.safety_events < 3:
            await asyncio.sleep(0.01)


async def test_the_database_and_requests_are_slow_when_told_to(client: Client) -> None:
    for fault in ("slow_database", "slow_requests"):
        await switch(client, **{fault: 0.05})
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        async with client.get("/api/v1/config") as response:
            assert response.status == 200
        assert loop.time() - began_s >= 0.05, "waiting is the point here, not speed"
        await switch(client, **{fault: 0})


@pytest.mark.parametrize(
    "wanted",
    [{"nope": 1}, {"slow_database": "x"}, {"slow_requests": -1}, {"failing_missions": 1.1}],
)
def test_a_switch_that_is_none_is_refused_as_a_whole(wanted: dict[str, object]) -> None:
    faults = Faults()
    with pytest.raises(ValueError, match=r"no switch|is not a number|is not from 0 to"):
        faults.change({"safety_events": 5, **wanted})
    assert faults == Faults()


async def test_wrong_requests_are_told_why(client: Client) -> None:
    for method, path, body, status in (
        ("POST", "/api/v1/missions", {"type": "teleport", "priority": "high"}, 422),
        ("POST", "/api/v1/missions", ["x"], 400),
        ("POST", "/api/v1/safety/events", {"type": "obstacle", "severity": "x"}, 422),
        ("PUT", "/api/v1/config/nope", {"value": 1}, 404),
        ("PUT", "/api/v1/config/max_speed", {"value": 99}, 422),
        ("PUT", "/api/v1/config/max_speed", {"value": True}, 422),
        ("GET", "/api/v1/missions/x", None, 404),
        ("GET", "/api/v1/vehicles/oht-99", None, 404),
    ):
        async with client.request(method, path, json=body) as response:
            assert response.status == status, path
            assert (await response.json())["error"]


async def test_telemetry_is_answered_with_what_was_taken(client: Client) -> None:
    async with client.ws_connect("/ws/telemetry") as socket:
        message = {"module_id": "m", "data_type": "speed", "values": [1, 2], "sent_at": 0}
        await socket.send_json(message)
        assert await socket.receive_json() == {"taken": 2}
        await socket.send_str("nonsense")
        assert await socket.receive_json() == {"error": "not a measurement"}
    async with client.ws_connect("/ws/status") as socket:
        assert (await socket.receive_json())["queue"].keys() == {"high", "normal", "low"}
