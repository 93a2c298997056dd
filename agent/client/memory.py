"""How much memory the backend's process takes."""

from __future__ import annotations

import os
import sys

from .default import REGISTRY
from .registry import Registry


def instrument_memory(namespace: str | None = None, *, registry: Registry | None = None) -> None:
    """
    Read the process's memory whenever metrics are handed on. A second call is none.

    Types: ``rss`` (in RAM), ``shared`` (of it, with other processes: forked workers have much in
    common), ``virtual``, and ``traced`` while tracemalloc runs.
    """
    registry = registry or REGISTRY
    prefix = registry.prefix(namespace)
    gauge = registry.gauge(
        f"{prefix}memory_allocation_bytes", "Memory of the backend's processes.", ("type",)
    )
    page_bytes = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096

    def read() -> None:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = [int(each) for each in file.read().split()]
        for type_, count in zip(("virtual", "rss", "shared"), pages, strict=False):
            gauge.labels(type_).set(count * page_bytes)
        tracemalloc = sys.modules.get("tracemalloc")
        if tracemalloc is not None and tracemalloc.is_tracing():
            gauge.labels("traced").set(tracemalloc.get_traced_memory()[0])

    if os.path.exists("/proc/self/statm"):
        registry.before_drain(("memory", prefix), read)
