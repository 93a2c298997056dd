"""A small cache with a time to live, for answers that are asked for all the time."""

from __future__ import annotations

import time
from collections.abc import Iterator, MutableMapping
from typing import Any

Json = Any  # what a JSON document may hold


class TimedCache(MutableMapping[str, Json]):
    """At most ``size`` values, each for ``ttl_s``; the oldest goes first."""

    def __init__(self, size: int, ttl_s: float) -> None:
        self._size, self._ttl_s = size, ttl_s
        self._held: dict[str, tuple[float, Json]] = {}

    def __getitem__(self, key: str) -> Json:
        until_s, value = self._held[key]
        if until_s < time.monotonic():
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Json) -> None:
        self._held.pop(key, None)
        self._held[key] = (time.monotonic() + self._ttl_s, value)
        if len(self._held) > self._size:
            del self._held[next(iter(self._held))]

    def __delitem__(self, key: str) -> None:
        del self._held[key]

    def __iter__(self) -> Iterator[str]:
        now_s = time.monotonic()
        return iter([key for key, (until_s, _) in self._held.items() if until_s >= now_s])

    def __len__(self) -> int:
        return len(self._held)
