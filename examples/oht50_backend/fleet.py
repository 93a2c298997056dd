"""The vehicles at work: missions wait by priority, and each vehicle takes the next one."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from collections import Counter
from contextlib import suppress
from typing import Final

from .database import VEHICLES, Database
from .faults import Faults
from .instrumentation import Instrumentation

PRIORITIES: Final = ("high", "normal", "low")
MISSION_TYPES: Final = ("transport", "charging", "inspection")
SAFETY_TYPES: Final = ("obstacle", "emergency_stop", "overspeed")
SEVERITIES: Final = ("info", "warning", "critical")

#: How long a mission of each type takes; a real one takes minutes.
_TAKES_S: Final = {"transport": 0.05, "charging": 0.08, "inspection": 0.03}
_DRAIN: Final = {"transport": -0.01, "charging": 0.2, "inspection": -0.005}
_TRIM_EVERY: Final = 1_000


class Fleet:
    """Runs missions and answers safety events."""

    def __init__(self, database: Database, faults: Faults, measured: Instrumentation) -> None:
        self._database, self._faults, self._measured = database, faults, measured
        self._waiting: list[tuple[int, int, int, str]] = []
        self._queued: Counter[str] = Counter()
        self._order = itertools.count()
        self._some = asyncio.Condition()
        self._battery = dict.fromkeys(VEHICLES, 1.0)
        self._finished = 0

    @property
    def queue(self) -> dict[str, int]:
        """Missions that wait, by priority."""
        return {priority: self._queued[priority] for priority in PRIORITIES}

    @property
    def battery(self) -> dict[str, float]:
        return dict(self._battery)

    async def submit(self, type_: str, priority: str) -> int:
        number = await asyncio.to_thread(self._database.add_mission, type_, priority)
        rank = PRIORITIES.index(priority)
        async with self._some:
            heapq.heappush(self._waiting, (rank, next(self._order), number, type_))
            self._count(priority, 1)
            self._some.notify()
        return number

    async def report(self, type_: str, severity: str) -> int:
        """Take a safety event and answer it: the vehicle stops until it is written down."""
        began_s = time.perf_counter()
        number = await asyncio.to_thread(self._database.add_safety_event, type_, severity)
        if severity == "critical":
            await asyncio.sleep(0.002)  # the brakes
        self._measured.safety_event(type_, severity, time.perf_counter() - began_s)
        return number

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for vehicle in VEHICLES:
                tasks.create_task(self._drive(vehicle))
            tasks.create_task(self._misbehave())

    async def _drive(self, vehicle: str) -> None:
        while True:
            async with self._some:
                await self._some.wait_for(lambda: self._waiting)
                rank, _, number, type_ = heapq.heappop(self._waiting)
                self._count(PRIORITIES[rank], -1)
            await self._carry_out(vehicle, number, type_)

    async def _carry_out(self, vehicle: str, number: int, type_: str) -> None:
        began_s = time.perf_counter()
        database = self._database
        await asyncio.to_thread(database.set_status, number, "running", vehicle)
        await asyncio.sleep(_TAKES_S[type_] * random.uniform(0.8, 1.2))
        is_good = random.random() >= self._faults.failing_missions
        status = "completed" if is_good else "failed"
        charge = min(max(self._battery[vehicle] + _DRAIN[type_], 0.05), 1.0)
        self._battery[vehicle] = charge
        await asyncio.to_thread(database.move, vehicle, "idle", charge)
        # Counted before anybody can read it, so that a reader never knows more than the metrics.
        self._measured.mission(type_, status, time.perf_counter() - began_s)
        await asyncio.to_thread(database.set_status, number, status, vehicle)
        self._finished += 1
        if self._finished % _TRIM_EVERY == 0:
            await asyncio.to_thread(database.trim)

    async def _misbehave(self) -> None:
        """Report safety events by ourselves while that switch is on."""
        while True:
            rate = self._faults.safety_events
            await asyncio.sleep(1 / rate if rate else 0.2)
            if rate:
                with suppress(OSError):
                    await self.report(random.choice(SAFETY_TYPES), random.choice(SEVERITIES))

    def _count(self, priority: str, step: int) -> None:
        self._queued[priority] += step
        self._measured.queue(priority, self._queued[priority])
