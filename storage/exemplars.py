"""The newest exemplars of each series: examples behind samples, kept in memory only."""

from __future__ import annotations

import bisect
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from .frame import RefArray
from .model import Labels

#: All together; at some 400 bytes each they are 8 MB.
EXEMPLARS_MAX: Final = 20_000
#: Of one series: as many as an hour of a panel shows dots.
PER_SERIES_MAX: Final = 60
#: OpenMetrics allows 128 characters of names and values.
LABEL_CHARS_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class Exemplar:
    """An example: what it is labelled (``trace_id``, mostly), its value and its time."""

    labels: Labels
    value: float
    ts_ms: int


@dataclass(slots=True)
class ExemplarStats:
    """``dropped`` by reason: ``labels`` (too long), ``old`` (before the newest), ``evicted``."""

    added: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class Exemplars:
    """Exemplars by series, in order of time. Used by the event loop's thread only."""

    def __init__(
        self, exemplars_max: int = EXEMPLARS_MAX, per_series_max: int = PER_SERIES_MAX
    ) -> None:
        self._max, self._per_series_max = exemplars_max, per_series_max
        # The series that got one last is at the end.
        self._by_ref: OrderedDict[int, deque[Exemplar]] = OrderedDict()
        self._size = 0
        self.stats = ExemplarStats()

    def __len__(self) -> int:
        return self._size

    def add(self, ref: int, exemplar: Exemplar) -> bool:
        """
        Keep an exemplar; tell whether it was kept.

        One with the labels and value of the newest is that one again: a scrape shows it until
        there is another, with or without its time.
        """
        if sum(len(name) + len(value) for name, value in exemplar.labels) > LABEL_CHARS_MAX:
            self.stats.dropped["labels"] += 1
            return False
        kept = self._by_ref.get(ref)
        if kept is None:
            kept = self._by_ref[ref] = deque()
        if kept:
            newest = kept[-1]
            if (exemplar.labels, exemplar.value) == (newest.labels, newest.value):
                return False
            if exemplar.ts_ms <= newest.ts_ms:
                self.stats.dropped["old"] += 1
                return False
        kept.append(exemplar)
        self._by_ref.move_to_end(ref)
        self._size += 1
        self.stats.added += 1
        if len(kept) > self._per_series_max:
            self._pop(kept)
        elif self._size > self._max:
            oldest = next(iter(self._by_ref))
            self._pop(self._by_ref[oldest])
            if not self._by_ref[oldest]:
                del self._by_ref[oldest]
        return True

    def select(self, refs: RefArray, min_ms: int, max_ms: int) -> list[tuple[int, list[Exemplar]]]:
        """Return the exemplars of some series with ``min_ms <= t <= max_ms``, by series."""
        found = []
        for ref in refs.tolist():
            kept = list(self._by_ref.get(ref, ()))
            low = bisect.bisect_left(kept, min_ms, key=_time)
            high = bisect.bisect_right(kept, max_ms, key=_time)
            if low < high:
                found.append((ref, kept[low:high]))
        return found

    def forget(self, refs: RefArray) -> None:
        """Drop those of series that were deleted."""
        for ref in refs.tolist():
            self._size -= len(self._by_ref.pop(ref, ()))

    def _pop(self, kept: deque[Exemplar]) -> None:
        kept.popleft()
        self._size -= 1
        self.stats.dropped["evicted"] += 1


def _time(exemplar: Exemplar) -> int:
    return exemplar.ts_ms
