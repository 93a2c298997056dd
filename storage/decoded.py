"""What has been decoded lately, so that a dashboard that asks again does not pay again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Final

#: 342 series of a day at 10 s are 24 MB: the panels of a dashboard, or several of shorter ranges.
CACHE_BYTES: Final = 64 << 20
#: What is larger would push out nearly everything else.
_SHARE_MAX: Final = 0.5


class DecodedCache:
    """
    Values by key, the least recently used one goes first. Any thread may use it.

    Entries belong to an object that never changes, such as a :class:`.catalogue.Block`, and are
    only found with that very object: a row key may be given out again, an object that is held
    cannot be another. Values may be anything: who asks for a key knows what was put there.

    Attributes:
        bytes: What the entries take now; ``hits`` and ``misses`` since the start.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[int, Hashable], tuple[object, Any, int]] = OrderedDict()
        self._used: set[tuple[int, Hashable]] = set()
        self.bytes = self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def takes(self, size: int) -> bool:
        """Tell whether a value of so many bytes would be kept."""
        return size <= self._max_bytes * _SHARE_MAX

    def get(self, owner: object, key: Hashable) -> Any | None:
        """Return what was put for this object and key, if it is still here."""
        place = id(owner), key
        with self._lock:
            entry = self._entries.get(place)
            if entry is None:
                self.misses += 1
                return None
            self.hits += 1
            self._entries.move_to_end(place)
            self._used.add(place)
            return entry[1]

    def put(self, owner: object, key: Hashable, value: Any, size: int) -> None:
        """Keep a value of ``size`` bytes, unless it is too large. It must not change any more."""
        if not self.takes(size):
            return
        place = id(owner), key
        with self._lock:
            old = self._entries.pop(place, None)
            if old is not None:
                self.bytes -= old[2]
            # The owner is held, so that its id is not given to another object.
            self._entries[place] = owner, value, size
            self._used.add(place)
            self.bytes += size
            while self.bytes > self._max_bytes:
                self._forget(next(iter(self._entries)))

    def age(self) -> None:
        """Forget what has not been used since the last call: nobody is looking any more."""
        with self._lock:
            for place in self._entries.keys() - self._used:
                self._forget(place)
            self._used.clear()

    def _forget(self, place: tuple[int, Hashable]) -> None:
        _, _, size = self._entries.pop(place)
        self._used.discard(place)
        self.bytes -= size

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._used.clear()
            self.bytes = 0
