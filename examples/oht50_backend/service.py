"""The backend's HTTP and WebSocket interface."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from aiohttp import WSMsgType, web

from .cache import TimedCache
from .database import Database
from .faults import Faults
from .fleet import MISSION_TYPES, PRIORITIES, SAFETY_TYPES, SEVERITIES, Fleet
from .instrumentation import Instrumentation

#: What may be configured, and within which bounds.
CONFIG_TYPES: Final = {"max_speed": (0.1, 3.0), "safety_distance": (0.2, 5.0), "charge_at": (0, 1)}
_STATUS_EVERY_S: Final = 1.0

Json = dict[str, Any]


class Service:
    """One backend; :meth:`application` makes it an aiohttp application."""

    def __init__(self, database_path: Path, measured: Instrumentation) -> None:
        self.faults = Faults()
        self._measured = measured
        self._database = Database(database_path, self.faults)
        self._fleet = Fleet(self._database, self.faults, measured)
        self._cache = measured.cache("vehicles", TimedCache(size=100, ttl_s=0.5))
        self._sockets: set[web.WebSocketResponse] = set()

    def application(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/api/v1/status", self._status),
                web.get("/api/v1/vehicles", self._list_vehicles),
                web.get("/api/v1/vehicles/{vehicle}", self._get_vehicle),
                web.post("/api/v1/missions", self._add_mission),
                web.get("/api/v1/missions/{mission}", self._get_mission),
                web.post("/api/v1/safety/events", self._add_safety_event),
                web.get("/api/v1/config", self._get_config),
                web.put("/api/v1/config/{type}", self._set_config),
                web.get("/api/v1/faults", self._get_faults),
                web.put("/api/v1/faults", self._set_faults),
                web.get("/ws/telemetry", self._telemetry),
                web.get("/ws/status", self._watch),
            ]
        )
        app.cleanup_ctx.append(self._live)
        app.on_shutdown.append(self._hang_up)
        app.middlewares.append(self._slow_down)
        self._measured.instrument(app, self._database.engine)
        return app

    async def _live(self, _: web.Application) -> AsyncIterator[None]:
        await asyncio.to_thread(self._database.create)
        fleet = asyncio.create_task(self._fleet.run())
        yield
        fleet.cancel()
        await asyncio.wait([fleet])
        await asyncio.to_thread(self._database.close)

    async def _hang_up(self, _: web.Application) -> None:
        for socket in tuple(self._sockets):
            await socket.close()

    @web.middleware
    async def _slow_down(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.faults.slow_requests:
            await asyncio.sleep(self.faults.slow_requests)
        response: web.StreamResponse = await handler(request)
        return response

    # --- Vehicles and missions ----------------------------------------------------------------

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _status(self, _: web.Request) -> web.Response:
        """Everything in one document: a business source of the agent reads it by JMESPath."""
        missions = await asyncio.to_thread(self._database.count_missions)
        battery = self._fleet.battery
        return web.json_response(
            {
                "queue": self._fleet.queue,
                "missions": [{"status": key, "count": missions[key]} for key in sorted(missions)],
                "vehicles": [{"id": key, "battery": battery[key]} for key in sorted(battery)],
            }
        )

    async def _list_vehicles(self, _: web.Request) -> web.Response:
        found = self._cache.get("vehicles")
        if found is None:
            found = await asyncio.to_thread(self._database.vehicles)
            self._cache["vehicles"] = found
        return web.json_response(found)

    async def _get_vehicle(self, request: web.Request) -> web.Response:
        name = request.match_info["vehicle"]
        found = self._cache.get(name)
        if found is None:
            found = await asyncio.to_thread(self._database.vehicle, name)
            if found is None:
                raise _refused(404, f"there is no vehicle {name!r}")
            self._cache[name] = found
        return web.json_response(found)

    async def _add_mission(self, request: web.Request) -> web.Response:
        wanted = await _body(request)
        type_ = _one_of(wanted, "type", MISSION_TYPES)
        priority = _one_of(wanted, "priority", PRIORITIES)
        number = await self._fleet.submit(type_, priority)
        return web.json_response({"id": number}, status=201)

    async def _get_mission(self, request: web.Request) -> web.Response:
        number = request.match_info["mission"]
        found = None
        if number.isdecimal() and len(number) < 15:
            found = await asyncio.to_thread(self._database.mission, int(number))
        if found is None:
            raise _refused(404, f"there is no mission {number!r}")
        return web.json_response(found)

    # --- Safety and configuration -------------------------------------------------------------

    async def _add_safety_event(self, request: web.Request) -> web.Response:
        wanted = await _body(request)
        type_ = _one_of(wanted, "type", SAFETY_TYPES)
        severity = _one_of(wanted, "severity", SEVERITIES)
        number = await self._fleet.report(type_, severity)
        return web.json_response({"id": number}, status=201)

    async def _get_config(self, _: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(self._database.settings))

    async def _set_config(self, request: web.Request) -> web.Response:
        type_ = request.match_info["type"]
        if type_ not in CONFIG_TYPES:
            raise _refused(404, f"there is no setting {type_!r}")
        low, high = CONFIG_TYPES[type_]
        value: Any = (await _body(request)).get("value")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            self._measured.config_error(type_)
            raise _refused(422, f"{type_} must be a number from {low} to {high}")
        await asyncio.to_thread(self._database.set_setting, type_, float(value))
        self._measured.config_change(type_)
        return web.json_response({type_: value})

    async def _get_faults(self, _: web.Request) -> web.Response:
        return web.json_response(self.faults.shown())

    async def _set_faults(self, request: web.Request) -> web.Response:
        try:
            self.faults.change(await _body(request))
        except ValueError as error:
            raise _refused(422, str(error)) from error
        return web.json_response(self.faults.shown())

    # --- WebSockets ---------------------------------------------------------------------------

    async def _telemetry(self, request: web.Request) -> web.WebSocketResponse:
        """
        Take measurements: ``{"module_id", "data_type", "values", "sent_at"}`` a message, each
        answered with how many there were.
        """
        socket = web.WebSocketResponse(heartbeat=20)
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT:
                    continue
                try:
                    got = json.loads(message.data)
                    data_type, module = str(got["data_type"]), str(got["module_id"])
                    points, sent_at = len(got["values"]), float(got["sent_at"])
                except (ValueError, KeyError, TypeError):
                    await socket.send_json({"error": "not a measurement"})
                    continue
                latency_s = max(0.0, time.time() - sent_at)
                self._measured.telemetry(data_type, module, points, latency_s)
                await socket.send_json({"taken": points})
        finally:
            self._sockets.discard(socket)
        return socket

    async def _watch(self, request: web.Request) -> web.WebSocketResponse:
        """Send the state of the fleet every second."""
        socket = web.WebSocketResponse(heartbeat=20)
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            while not socket.closed:
                await socket.send_json({"queue": self._fleet.queue})
                with suppress(TimeoutError):
                    await socket.receive(timeout=_STATUS_EVERY_S)
        except ConnectionError:
            pass
        finally:
            self._sockets.discard(socket)
        return socket


async def _body(request: web.Request) -> Json:
    try:
        body = await request.json()
    except ValueError:
        raise _refused(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise _refused(400, "the body is not an object")
    return body


def _one_of(wanted: Json, name: str, choices: tuple[str, ...]) -> str:
    value = wanted.get(name)
    if value not in choices:
        raise _refused(422, f"{name} must be one of {', '.join(choices)}")
    return str(value)


def _refused(status: int, message: str) -> web.HTTPException:
    kinds: dict[int, type[web.HTTPException]] = {
        400: web.HTTPBadRequest,
        404: web.HTTPNotFound,
        422: web.HTTPUnprocessableEntity,
    }
    return kinds[status](text=json.dumps({"error": message}), content_type="application/json")
