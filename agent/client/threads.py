"""How many threads the backend has."""

from __future__ import annotations

import threading

from .default import REGISTRY
from .registry import Registry


def instrument_threads(namespace: str | None = None, *, registry: Registry | None = None) -> None:
    """Count Python's threads whenever metrics are handed on. A second call is none."""
    registry = registry or REGISTRY
    prefix = registry.prefix(namespace)
    gauge = registry.gauge(f"{prefix}python_threads", "Python threads, by kind.", ("kind",))

    def count() -> None:
        threads = threading.enumerate()
        daemons = sum(thread.daemon for thread in threads)
        gauge.labels("daemon").set(daemons)
        gauge.labels("other").set(len(threads) - daemons)

    registry.before_drain(("threads", prefix), count)
