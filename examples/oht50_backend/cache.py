"""A small cache with a time to live, for answers that are asked for all the time."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any


class Cache:
    """At most ``size`` values, each for ``ttl_s``."""

    def __init__(self, size: int, ttl_s: float) -> None:
        self._size, self._ttl_s = size, ttl_s
        self._held: OrderedDict[str, tuple[float, Any]] = OrderedDict()
        self._told: Callable[[bool], None] = lambda is_hit: None

    def watch(self, told: Callable[[bool], None]) -> None:
        """Call ``told`` at every look-up, with whether it found a value."""
        self._told = told

    def get(self, key: str) -> Any | None:
        held = self._held.get(key)
        is_hit = held is not None and held[0] >= time.monotonic()
        self._told(is_hit)
        return held[1] if held is not None and is_hit else None

    def put(self, key: str, value: Any) -> None:
        self._held[key] = (time.monotonic() + self._ttl_s, value)
        self._held.move_to_end(key)
        while len(self._held) > self._size:
            self._held.popitem(last=False)

    @property
    def bytes(self) -> int:
        """What the values take, roughly."""
        return sum(sys.getsizeof(key) + sys.getsizeof(value) for key, value in self._held.items())
