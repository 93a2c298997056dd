"""How long the garbage collector makes the backend wait."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any, Final

from .default import REGISTRY
from .registry import Registry

#: From 100 µs, a young generation, to 1 s, a large heap's old one.
_BOUNDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


def instrument_gc(namespace: str | None = None, *, registry: Registry | None = None) -> None:
    """Measure each run of the collector, from now on. A second call is none."""
    registry = registry or REGISTRY
    prefix = registry.prefix(namespace)
    duration = registry.histogram(
        f"{prefix}garbage_collection_duration_seconds",
        "Time that runs of the garbage collector took.",
        bounds=_BOUNDS,
    )
    objects = registry.counter(
        f"{prefix}garbage_collected_objects_total",
        "Objects that the garbage collector freed, by generation.",
        ("generation",),
    )
    if not registry.is_first(("gc", prefix)):
        return
    began_s = 0.0

    def watch(phase: str, info: Mapping[str, Any]) -> None:
        nonlocal began_s
        if phase == "start":
            began_s = registry.monotonic_s()
        elif began_s:
            duration.observe(registry.monotonic_s() - began_s)
            began_s = 0.0
            objects.labels(str(info["generation"])).inc(info["collected"])

    gc.callbacks.append(watch)
