"""Network interfaces: what went through them, and whether they are up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from ...config.regex import compile_regex
from .tick import Block, Family, counter, gauge

_DIRECTIONS: Final = "direction is received or sent"
BYTES: Final = counter("network_bytes_total", f"Bytes since boot; {_DIRECTIONS}.")
PACKETS: Final = counter("network_packets_total", f"Packets since boot; {_DIRECTIONS}.")
ERRORS: Final = counter("network_errors_total", f"Packets with errors since boot; {_DIRECTIONS}.")
DROPS: Final = counter("network_drops_total", f"Packets dropped since boot; {_DIRECTIONS}.")
UP: Final = gauge("network_up", "1 if the interface can carry traffic, else 0.")

_COLUMNS: Final[tuple[tuple[str, Family, str], ...]] = (
    ("bytes_recv", BYTES, "received"),
    ("bytes_sent", BYTES, "sent"),
    ("packets_recv", PACKETS, "received"),
    ("packets_sent", PACKETS, "sent"),
    ("errin", ERRORS, "received"),
    ("errout", ERRORS, "sent"),
    ("dropin", DROPS, "received"),
    ("dropout", DROPS, "sent"),
)


def read_counters() -> Mapping[str, Any]:
    """psutil's counters by interface, as the kernel has them: resets are PromQL's business."""
    return psutil.net_io_counters(pernic=True, nowrap=False)


class NetworkReader:
    """
    Args:
        ignored: Regular expressions of interfaces that are not reported.
        sys_net: Linux' folder of interfaces; states are reported where it exists.
    """

    name = "network"

    def __init__(
        self,
        ignored: Sequence[str] = (),
        *,
        read_counters: Callable[[], Mapping[str, Any]] = read_counters,
        sys_net: Path = Path("/sys/class/net"),
    ) -> None:
        self._is_ignored = compile_regex("|".join(ignored)) if ignored else lambda name: False
        self._read_counters = read_counters
        self._sys_net = str(sys_net)

    async def read(self) -> list[Block]:
        counters = {
            name: counts
            for name, counts in sorted(self._read_counters().items())
            if not self._is_ignored(name)
        }
        names = tuple(counters)
        states = {name: up for name in names if (up := self._is_up(name)) is not None}
        return [
            Block(
                ("network", names),
                [getattr(counts, field) for counts in counters.values() for field, *_ in _COLUMNS],
                lambda: [
                    (family, {"interface": name, "direction": direction})
                    for name in names
                    for _, family, direction in _COLUMNS
                ],
            ),
            Block(
                ("network_up", tuple(states)),
                list(states.values()),
                lambda: [(UP, {"interface": name}) for name in states],
            ),
        ]

    def _is_up(self, name: str) -> bool | None:
        # Of the files there this one takes no lock in the kernel. "unknown" is what drivers
        # without link detection say, tunnels and loopback among them, while they work.
        try:
            with open(f"{self._sys_net}/{name}/operstate", "rb", buffering=0) as file:
                return file.read().strip() in (b"up", b"unknown")
        except OSError:
            return None
