"""Hit rate and size of a Redis cache, as its client in this process sees it."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from .caches import CacheMetrics
from .registry import Registry
from .series import RatioSeries

#: Commands that look one key up; an answer of nothing is a miss.
_LOOKUPS: Final = frozenset({"GET", "GETEX", "GETDEL", "HGET", "LINDEX", "LPOP", "RPOP"})
#: Commands that look several up, and answer with one part for each.
_MANY: Final = frozenset({"MGET", "HMGET"})


def instrument_redis(
    client: Any,
    name: str = "redis",
    *,
    namespace: str | None = None,
    registry: Registry | None = None,
    interval_s: float = 10.0,
) -> None:
    """
    Count what look-ups of a client find, and read the server's memory every ``interval_s``.

    Works for ``redis.Redis`` and ``redis.asyncio.Redis``; a second call for one client is none.
    Commands in pipelines aren't counted. The memory is read by a thread of its own, and only for
    ``redis.Redis``.
    """
    metrics = CacheMetrics(namespace, registry=registry)
    rate = metrics.hit_rate.labels(name)
    execute = client.execute_command
    if getattr(execute, "is_counted", False):
        return
    is_async = inspect.iscoroutinefunction(execute)
    wrapper = _async_wrapper(execute, rate) if is_async else _wrapper(execute, rate)
    wrapper.is_counted = True  # type: ignore[attr-defined]
    client.execute_command = wrapper
    if is_async:
        return
    size = metrics.size.labels(name)

    def read() -> None:
        size.set(float(client.info("memory")["used_memory"]))

    poll = _Poll(read, interval_s)
    poll.start()
    metrics.registry.on_fork(poll.start)


class _Poll:
    """A daemon thread that asks again and again; a server that is away is asked later."""

    def __init__(self, read: Callable[[], None], interval_s: float) -> None:
        self._read, self._interval_s = read, interval_s

    def start(self) -> None:
        threading.Thread(target=self._run, name="tachograph-redis", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            # Redis' failures or the network's: the backend hears of them elsewhere.
            with suppress(Exception):
                self._read()
            pause.wait(self._interval_s)


def _wrapper(execute: Callable[..., Any], rate: RatioSeries) -> Callable[..., Any]:
    def execute_command(*args: Any, **options: Any) -> Any:
        answer = execute(*args, **options)
        _count(rate, args, answer)
        return answer

    return execute_command


def _async_wrapper(execute: Callable[..., Any], rate: RatioSeries) -> Callable[..., Any]:
    async def execute_command(*args: Any, **options: Any) -> Any:
        answer = await execute(*args, **options)
        _count(rate, args, answer)
        return answer

    return execute_command


def _count(rate: RatioSeries, args: tuple[Any, ...], answer: Any) -> None:
    command = args[0] if args else ""
    if command in _LOOKUPS:
        rate.take(answer is not None)
    elif command in _MANY and isinstance(answer, list):
        for each in answer:
            rate.take(each is not None)
