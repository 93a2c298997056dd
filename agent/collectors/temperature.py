"""Temperatures, where the machine has sensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import psutil

from .offload import Offload
from .tick import Block, Family, gauge

CURRENT: Final = gauge("temperature_celsius", "Temperature by chip and sensor.")
CRITICAL: Final = gauge(
    "temperature_critical_celsius", "Temperature at which the sensor's maker sees danger."
)
_CALL: Final = "sensors"
# Most virtual machines have no sensors, and never will: it is enough to look now and then whether
# a driver was loaded.
_PASSES_WITHOUT_SENSORS: Final = 30


def read_sensors() -> Mapping[str, Sequence[Any]]:
    """psutil's sensors by chip; empty on systems where it knows none."""
    if sys.platform == "linux" or sys.platform.startswith("freebsd"):
        return psutil.sensors_temperatures()
    return {}


def name_sensors(chips: Mapping[str, Sequence[Any]]) -> dict[tuple[str, str], Any]:
    """Name each sensor by chip and label; one without a label, or with a taken one, is numbered."""
    named: dict[tuple[str, str], Any] = {}
    for chip, sensors in chips.items():
        for number, sensor in enumerate(sensors, 1):
            label = sensor.label or f"temp{number}"
            if (chip, label) in named:
                label = f"{label} {number}"
            named[chip, label] = sensor
    return named


class TemperatureReader:
    """Asks the sensors in a thread: some sit behind a slow bus and take milliseconds each."""

    name = "temperature"

    def __init__(
        self,
        offload: Offload,
        *,
        timeout_s: float = 1.0,
        read_sensors: Callable[[], Mapping[str, Sequence[Any]]] = read_sensors,
    ) -> None:
        self._offload, self._timeout_s = offload, timeout_s
        self._read_sensors = read_sensors
        self._passes_to_look = 0

    async def read(self) -> list[Block]:
        """
        Raises:
            CallHung: The sensors don't answer.
        """
        if self._passes_to_look > 0:
            self._passes_to_look -= 1
            return []
        chips = (await self._offload.run({_CALL: self._read_sensors}, self._timeout_s))[_CALL]
        if isinstance(chips, Exception):
            raise chips
        if not chips:
            self._passes_to_look = _PASSES_WITHOUT_SENSORS
        named = name_sensors(chips)
        current = {place: sensor.current for place, sensor in named.items()}
        critical = {place: sensor.critical for place, sensor in named.items() if sensor.critical}
        return [_block(CURRENT, current), _block(CRITICAL, critical)]


def _block(family: Family, values: Mapping[tuple[str, str], float]) -> Block:
    places = tuple(values)
    return Block(
        (family.name, places),
        list(values.values()),
        lambda: [(family, {"chip": chip, "sensor": sensor}) for chip, sensor in places],
    )
