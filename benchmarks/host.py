"""Real samples for the benchmarks: what psutil reads of this machine."""

from __future__ import annotations

import time

import numpy as np
import psutil
from series import FloatArray


def _flatten(prefix: str, reading: object, into: dict[str, float]) -> None:
    if isinstance(reading, dict):
        for key, value in reading.items():
            _flatten(f"{prefix}.{key}", value, into)
    elif isinstance(reading, list):
        for i, value in enumerate(reading):
            _flatten(f"{prefix}.{i}", value, into)
    elif hasattr(reading, "_asdict"):
        _flatten(prefix, reading._asdict(), into)
    elif isinstance(reading, (int, float)):
        into[prefix] = float(reading)


def read_host() -> dict[str, float]:
    """Everything countable about CPU, memory, disks, network and a few processes, by name."""
    out: dict[str, float] = {}
    _flatten("cpu_seconds", psutil.cpu_times(percpu=True), out)
    _flatten("cpu", psutil.cpu_stats(), out)
    _flatten("load", dict(enumerate(psutil.getloadavg())), out)
    _flatten("memory", psutil.virtual_memory(), out)
    _flatten("swap", psutil.swap_memory(), out)
    _flatten("disk", psutil.disk_io_counters(perdisk=True), out)
    _flatten("filesystem", psutil.disk_usage("/"), out)
    _flatten("network", psutil.net_io_counters(pernic=True), out)
    for process in psutil.process_iter():
        try:
            with process.oneshot():
                prefix = f"process.{process.pid}"
                _flatten(f"{prefix}.cpu", process.cpu_times(), out)
                _flatten(f"{prefix}.memory", process.memory_info(), out)
                _flatten(f"{prefix}.threads", process.num_threads(), out)
                _flatten(f"{prefix}.switches", process.num_ctx_switches(), out)
        except psutil.Error:
            continue
    return out


def sample_host(ticks: int, interval_s: float) -> FloatArray:
    """``[series, ticks]`` of the names that every reading had; takes ``ticks * interval_s``."""
    readings = []
    for _ in range(ticks):
        readings.append(read_host())
        time.sleep(interval_s)
    names = set.intersection(*(set(reading) for reading in readings))
    return np.array([[reading[name] for reading in readings] for name in sorted(names)])
