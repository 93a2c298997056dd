"""
``python -m oht50_backend.load``: clients of the backend, in a process of their own.

They count what they did and what they were answered, so that the metrics can be held against it.
The counts are written as JSON, again and again and once more at the end:

- ``requests``: ``"METHOD endpoint status"`` to answers;
- ``missions``: ``"type status"`` to missions that were followed to their end;
- ``safety_events``: ``"type severity"``; ``telemetry_points``: ``"data_type module"``;
- ``config_changes``, ``config_errors``: by setting;
- ``failures``: requests without an answer, which may or may not have been counted by the backend;
- ``is_finished``: whether all of it is over.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp

from .fleet import MISSION_TYPES, PRIORITIES, SAFETY_TYPES, SEVERITIES
from .service import CONFIG_TYPES

_MODULES: Final = ("drive", "lift", "scanner")
_DATA_TYPES: Final = ("position", "speed", "current")
_PRIORITY_WEIGHTS: Final = (1, 6, 3)
_WRITE_EVERY_S: Final = 1.0
_TELEMETRY_EVERY_S: Final = 0.1
_DRAIN_S: Final = 60.0
#: Requests under way; a slow backend is sent no more.
_REQUESTS_MAX: Final = 50
#: Missions under way; beyond that no new ones are asked for, so that the queue has an end.
_MISSIONS_MAX: Final = 40


class Counts:
    """What was done, as the clients saw it."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.missions: Counter[str] = Counter()
        self.safety_events: Counter[str] = Counter()
        self.telemetry_points: Counter[str] = Counter()
        self.config_changes: Counter[str] = Counter()
        self.config_errors: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.is_finished = False

    def write(self, file: Path | None) -> None:
        if file is None:
            return
        # In one step: a reader never sees half of it.
        beside = file.with_name(f"{file.name}.new")
        beside.write_text(json.dumps(vars(self), indent=1, sort_keys=True))
        os.replace(beside, file)


class Load:
    """Clients that send about ``rate`` requests a second until :meth:`stop`."""

    def __init__(self, url: str, rate: float, seed: int) -> None:
        self._url, self._rate = url.rstrip("/"), rate
        self._random = random.Random(seed)
        self.counts = Counts()
        self._missions: dict[int, str] = {}
        self._under_way = 0
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin nothing new; missions under way are followed to their end."""
        self._stopping.set()

    async def run(self, file: Path | None) -> None:
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send(session))
                tasks.create_task(self._follow(session))
                for module in _MODULES:
                    tasks.create_task(self._measure(session, module))
                writer = tasks.create_task(self._write(file))
                await self._stopping.wait()
                writer.cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_S):
                    while self._missions:
                        await self._look(session)
                        await asyncio.sleep(0.05)
        self.counts.is_finished = not self._missions
        self.counts.write(file)

    # --- Requests -----------------------------------------------------------------------------

    async def _send(self, session: aiohttp.ClientSession) -> None:
        actions: list[tuple[Callable[[aiohttp.ClientSession], Awaitable[None]], int]] = [
            (self._list_vehicles, 6),
            (self._get_vehicle, 6),
            (self._add_mission, 6),
            (self._add_safety_event, 2),
            (self._change_config, 2),
            (self._read_config, 2),
            (self._ask_nonsense, 1),
        ]
        calls, weights = zip(*actions, strict=True)
        async with asyncio.TaskGroup() as tasks:
            while not self._stopping.is_set():
                (call,) = self._random.choices(calls, weights)
                if self._under_way < _REQUESTS_MAX:
                    tasks.create_task(call(session))
                await self._pause(self._random.expovariate(self._rate))

    async def _request(
        self,
        session: aiohttp.ClientSession,
        method: str,
        endpoint: str,
        path: str = "",
        **more: Any,
    ) -> tuple[int, Any]:
        """Send a request, count its answer and return status and JSON; status 0 for none."""
        self._under_way += 1
        try:
            url = f"{self._url}{path or endpoint}"
            async with session.request(method, url, **more) as response:
                body = await response.json(content_type=None)
                status = response.status
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self.counts.failures[f"{method} {endpoint} {type(error).__name__}"] += 1
            return 0, None
        finally:
            self._under_way -= 1
        self.counts.requests[f"{method} {endpoint} {status}"] += 1
        return status, body

    async def _list_vehicles(self, session: aiohttp.ClientSession) -> None:
        await self._request(session, "GET", "/api/v1/vehicles")

    async def _get_vehicle(self, session: aiohttp.ClientSession) -> None:
        # One that there isn't is a 404 of the same endpoint.
        path = f"/api/v1/vehicles/oht-{self._random.randint(1, 5)}"
        await self._request(session, "GET", "/api/v1/vehicles/{vehicle}", path)

    async def _add_mission(self, session: aiohttp.ClientSession) -> None:
        if len(self._missions) >= _MISSIONS_MAX:
            return
        (priority,) = self._random.choices(PRIORITIES, _PRIORITY_WEIGHTS)
        wanted = {"type": self._random.choice(MISSION_TYPES), "priority": priority}
        status, body = await self._request(session, "POST", "/api/v1/missions", json=wanted)
        if status == 201:
            self._missions[body["id"]] = wanted["type"]

    async def _add_safety_event(self, session: aiohttp.ClientSession) -> None:
        wanted = {
            "type": self._random.choice(SAFETY_TYPES),
            "severity": self._random.choice(SEVERITIES),
        }
        status, _ = await self._request(session, "POST", "/api/v1/safety/events", json=wanted)
        if status == 201:
            self.counts.safety_events[f"{wanted['type']} {wanted['severity']}"] += 1

    async def _change_config(self, session: aiohttp.ClientSession) -> None:
        name = self._random.choice(list(CONFIG_TYPES))
        low, high = CONFIG_TYPES[name]
        value = self._random.uniform(low, high * 1.25)
        status, _ = await self._request(
            session, "PUT", "/api/v1/config/{type}", f"/api/v1/config/{name}", json={"value": value}
        )
        if status == 200:
            self.counts.config_changes[name] += 1
        elif status == 422:
            self.counts.config_errors[name] += 1

    async def _read_config(self, session: aiohttp.ClientSession) -> None:
        await self._request(session, "GET", "/api/v1/config")

    async def _ask_nonsense(self, session: aiohttp.ClientSession) -> None:
        wanted = {"type": "teleport", "priority": "high"}
        await self._request(session, "POST", "/api/v1/missions", json=wanted)

    # --- Missions and telemetry ---------------------------------------------------------------

    async def _follow(self, session: aiohttp.ClientSession) -> None:
        while not self._stopping.is_set():
            await self._look(session)
            await self._pause(0.2)

    async def _look(self, session: aiohttp.ClientSession) -> None:
        """Ask for the missions under way, and count those that are over."""
        for number in list(self._missions):
            status, body = await self._request(
                session, "GET", "/api/v1/missions/{mission}", f"/api/v1/missions/{number}"
            )
            if status == 200 and body["status"] in ("completed", "failed"):
                self.counts.missions[f"{self._missions.pop(number)} {body['status']}"] += 1

    async def _measure(self, session: aiohttp.ClientSession, module: str) -> None:
        while not self._stopping.is_set():
            try:
                async with session.ws_connect(f"{self._url}/ws/telemetry") as socket:
                    while not self._stopping.is_set():
                        await self._tell(socket, module)
                        await self._pause(_TELEMETRY_EVERY_S)
            except (aiohttp.ClientError, OSError) as error:
                self.counts.failures[f"telemetry {module} {type(error).__name__}"] += 1
                await self._pause(1.0)

    async def _tell(self, socket: aiohttp.ClientWebSocketResponse, module: str) -> None:
        data_type = self._random.choice(_DATA_TYPES)
        values = [self._random.random() for _ in range(self._random.randint(1, 20))]
        await socket.send_json(
            {"module_id": module, "data_type": data_type, "values": values, "sent_at": time.time()}
        )
        try:
            answer = await socket.receive_json(timeout=10)
        except TypeError as error:  # the socket was closed: there is no answer in it
            raise aiohttp.ClientConnectionError(str(error)) from error
        self.counts.telemetry_points[f"{data_type} {module}"] += answer["taken"]

    # --- Time ---------------------------------------------------------------------------------

    async def _write(self, file: Path | None) -> None:
        while True:
            self.counts.write(file)
            await asyncio.sleep(_WRITE_EVERY_S)

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless it is time to stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


async def drive(url: str, rate: float, seed: int, seconds: float, file: Path | None) -> Counts:
    """Load the backend for some time (0: until a signal), and return what came of it."""
    load = Load(url, rate, seed)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, load.stop)
    if seconds:
        loop.call_later(seconds, load.stop)
    await load.run(file)
    return load.counts


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="oht50_backend.load", description="Send requests to the example backend and count."
    )
    parser.add_argument("--url", default="http://127.0.0.1:8050")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second (default: 20)")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long (default: for ever)")
    parser.add_argument("--seed", type=int, default=50, help="of the random choices (default: 50)")
    parser.add_argument(
        "--counts", type=Path, help="file for the counts (default: standard output)"
    )
    args = parser.parse_args()
    counts = asyncio.run(drive(args.url, args.rate, args.seed, args.seconds, args.counts))
    if args.counts is None:
        print(json.dumps(vars(counts), indent=1, sort_keys=True))
    return 0 if counts.is_finished else 1


if __name__ == "__main__":
    sys.exit(main())
