"""Whether the event loop gets round: its lag, and how many tasks it has."""

from __future__ import annotations

import asyncio
from typing import Final
from weakref import WeakValueDictionary

from .default import REGISTRY
from .registry import Registry

# Counting tasks takes 0.16 ms for a thousand of them, and is of no use more often than it is told.
_TASKS_INTERVAL_S: Final = 1.0
_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class LoopWatch:
    """Measures one loop until it is stopped, or the loop is closed."""

    def __init__(self, prefix: str, registry: Registry, interval_s: float) -> None:
        self._lag = registry.histogram(
            f"{prefix}event_loop_lag_seconds",
            "How late the event loop woke up, sampled regularly.",
            bounds=_BOUNDS,
        )
        self._tasks = registry.gauge(f"{prefix}event_loop_tasks", "Tasks of the event loop.")
        self._loop = asyncio.get_running_loop()
        self._interval_s = interval_s
        self._handle: asyncio.TimerHandle | None = None
        self._count_s = self._loop.time()
        self._schedule()

    @property
    def is_stopped(self) -> bool:
        return self._handle is None

    def stop(self) -> None:
        """Measure no longer. May be called twice."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()

    def _schedule(self) -> None:
        due_s = self._loop.time() + self._interval_s
        self._handle = self._loop.call_at(due_s, self._measure, due_s)

    def _measure(self, due_s: float) -> None:
        self._lag.observe(max(0.0, self._loop.time() - due_s))
        if due_s >= self._count_s:
            self._count_s = due_s + _TASKS_INTERVAL_S
            self._tasks.set(len(asyncio.all_tasks(self._loop)))
        self._schedule()


def instrument_loop(
    namespace: str | None = None, *, registry: Registry | None = None, interval_s: float = 0.25
) -> LoopWatch:
    """
    Measure the running event loop, without a task of its own. A second call for one loop is none.

    Raises:
        RuntimeError: No event loop runs here; call it within, as in an application's start.
    """
    registry = registry or REGISTRY
    prefix = registry.prefix(namespace)
    # A watch keeps its loop, and the loop its watch: a number stands for one loop so long.
    key = (id(registry), prefix, id(asyncio.get_running_loop()))
    watch = _watches.get(key)
    if watch is None or watch.is_stopped:
        watch = _watches[key] = LoopWatch(prefix, registry, interval_s)
    return watch


_watches: WeakValueDictionary[tuple[int, str, int], LoopWatch] = WeakValueDictionary()
