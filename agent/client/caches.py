"""Hit rates and sizes of caches: functools.lru_cache, cachetools, any mapping."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, MutableMapping
from itertools import islice
from typing import Any, Final, TypeVar, overload

from .default import REGISTRY
from .registry import Registry

F = TypeVar("F", bound=Callable[..., Any])
K = TypeVar("K")
V = TypeVar("V")

# Of a larger cache so many entries are measured, and the rest is taken to be like them.
_SAMPLED: Final = 200


class CacheMetrics:
    """The metrics of caches; one set for each registry and namespace."""

    def __init__(self, namespace: str | None = None, *, registry: Registry | None = None) -> None:
        self.registry = registry or REGISTRY
        prefix = self.registry.prefix(namespace)
        self.hit_rate = self.registry.ratio(
            f"{prefix}cache_hit_rate",
            "Share of look-ups that found something, over five minutes.",
            ("cache_type",),
        )
        self.size = self.registry.gauge(
            f"{prefix}cache_size_bytes", "Size of the cache.", ("cache_type",)
        )
        self.entries = self.registry.gauge(
            f"{prefix}cache_entries", "Entries of the cache.", ("cache_type",)
        )


class CountedCache(MutableMapping[K, V]):
    """A cache that counts what is found in it, around one that doesn't."""

    def __init__(self, cache: MutableMapping[K, V], metrics: CacheMetrics, name: str) -> None:
        self.cache = cache
        self._rate = metrics.hit_rate.labels(name)

    def __getitem__(self, key: K) -> V:
        try:
            value = self.cache[key]
        except KeyError:
            self._rate.miss()
            raise
        self._rate.hit()
        return value

    def __contains__(self, key: object) -> bool:
        return key in self.cache  # a question, not a look-up

    def __setitem__(self, key: K, value: V) -> None:
        self.cache[key] = value

    def __delitem__(self, key: K) -> None:
        del self.cache[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self.cache)

    def __len__(self) -> int:
        return len(self.cache)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)  # maxsize, expire() and whatever else it has


@overload
def instrument_cache(
    name: str,
    cache: MutableMapping[K, V],
    *,
    namespace: str | None = None,
    registry: Registry | None = None,
    size_bytes: Callable[[], float] | None = None,
) -> CountedCache[K, V]: ...
@overload
def instrument_cache(
    name: str,
    cache: F,
    *,
    namespace: str | None = None,
    registry: Registry | None = None,
    size_bytes: Callable[[], float] | None = None,
) -> F: ...
def instrument_cache(
    name: str,
    cache: Any,
    *,
    namespace: str | None = None,
    registry: Registry | None = None,
    size_bytes: Callable[[], float] | None = None,
) -> Any:
    """
    Count a cache's hits and misses, and measure its size.

    Args:
        name: Value of the label ``cache_type``.
        cache: A function with ``cache_info()`` (functools.lru_cache, cachetools.cached with
            ``info=True``), which is returned as it is; or a mapping (cachetools, dict), of which a
            counting one is returned, to be used in its place.
        size_bytes: Tells the size. Without it, a cachetools cache with ``getsizeof`` is asked, and
            other mappings are estimated by some of their entries; a function's is not known.

    Raises:
        TypeError: It is neither.
    """
    if not hasattr(cache, "cache_info") and not isinstance(cache, MutableMapping):
        raise TypeError(
            f"{name}: {type(cache).__name__} is no cache with cache_info() nor a mapping"
        )
    metrics = CacheMetrics(namespace, registry=registry)
    rate = metrics.hit_rate.labels(name)
    size, entries = metrics.size.labels(name), metrics.entries.labels(name)
    wrapped: Any = cache
    if hasattr(cache, "cache_info"):

        def read() -> None:
            info = cache.cache_info()
            rate.follow(info.hits, info.misses)
            entries.set(info.currsize)
            if size_bytes is not None:
                size.set(size_bytes())

    else:
        wrapped = CountedCache(cache, metrics, name)

        def read() -> None:
            entries.set(len(cache))
            size.set(size_bytes() if size_bytes is not None else _measure(cache))

    metrics.registry.before_drain(("cache", metrics.size.name, name), read)
    return wrapped


def _measure(cache: MutableMapping[Any, Any]) -> float:
    # A cachetools cache has this when it measures its entries itself.
    if "_Cache__size" in getattr(cache, "__dict__", {}):
        return float(getattr(cache, "currsize", 0))
    # Whoever else changes it meanwhile ends this look at it, and the next one comes in a second.
    values = list(islice(_stored(cache).items(), _SAMPLED))
    if not values:
        return 0.0
    measured = sum(sys.getsizeof(key) + sys.getsizeof(value) for key, value in values)
    return measured * len(cache) / len(values)


def _stored(cache: MutableMapping[Any, Any]) -> MutableMapping[Any, Any]:
    """What a cachetools cache keeps its entries in: to look at them there isn't to use them."""
    inner = getattr(cache, "_Cache__data", None)
    return inner if isinstance(inner, MutableMapping) else cache
