"""What several processes measured, as one: totals that only grow, gauges by their mode."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, Protocol

from ...storage.model import Labels, MetricType

#: Returns the newest value, other than a stale marker, of each of the series that have one.
Restore = Callable[[Sequence[Labels]], Awaitable[Mapping[Labels, float]]]

_GAUGE_MODES: Final[Mapping[str, Callable[[Iterable[float]], float]]] = {
    "sum": math.fsum,
    "max": max,
    "min": min,
}


@dataclass(frozen=True, slots=True)
class Definition:
    """
    A metric as a process defines it.

    Attributes:
        type: ``counter``, ``gauge``, ``histogram``, ``ratio`` or ``rate``.
        label_names: Of its series' values, in their order.
        mode: Of a gauge.
        bounds: Of a histogram, rising, without infinity.
        window_ms: Of a ratio.
    """

    name: str
    type: str
    help: str
    label_names: tuple[str, ...]
    mode: str = "sum"
    bounds: tuple[float, ...] = ()
    window_ms: int = 0

    @property
    def shape(self) -> tuple[object, ...]:
        """What must be equal for two processes to add to one family."""
        return (self.type, self.mode, self.bounds)

    @property
    def shown_type(self) -> MetricType:
        if self.type == "counter":
            return MetricType.COUNTER
        return MetricType.HISTOGRAM if self.type == "histogram" else MetricType.GAUGE


class Cell(Protocol):
    """One series of all processes together."""

    #: Who has it; a cell without users ends.
    users: set[str]

    def stored(self, labels: Labels) -> Sequence[Labels]:
        """The series in the store whose newest values are this cell's beginning."""
        ...

    def restore(self, labels: Labels, found: Mapping[Labels, float]) -> None: ...

    def apply(self, worker: str, payload: Sequence[float]) -> None:
        """Add what a process tells. Raises ValueError if it makes no sense; nothing is added."""
        ...

    def leave(self, worker: str) -> None: ...

    def values(self, ts_ms: int) -> Sequence[float] | None:
        """What goes into a tick; ``None`` if there is nothing to say."""
        ...


class _Counter:
    __slots__ = ("total", "users")

    def __init__(self) -> None:
        self.users: set[str] = set()
        self.total = 0.0

    def stored(self, labels: Labels) -> Sequence[Labels]:
        return (labels,)

    def restore(self, labels: Labels, found: Mapping[Labels, float]) -> None:
        self.total = found.get(labels, 0.0)

    def apply(self, worker: str, payload: Sequence[float]) -> None:
        (grown,) = payload
        if not 0.0 <= grown < math.inf:
            raise ValueError(f"a counter can't grow by {grown}")
        self.total += grown

    def leave(self, worker: str) -> None:
        self.users.discard(worker)

    def values(self, ts_ms: int) -> Sequence[float] | None:
        return (self.total,)


class _Rate(_Counter):
    """Shown as its growth a second since the tick before."""

    __slots__ = ("_before",)

    def __init__(self) -> None:
        super().__init__()
        self._before: tuple[int, float] | None = None

    def stored(self, labels: Labels) -> Sequence[Labels]:
        return ()

    def restore(self, labels: Labels, found: Mapping[Labels, float]) -> None:
        return None

    def values(self, ts_ms: int) -> Sequence[float] | None:
        before, self._before = self._before, (ts_ms, self.total)
        if before is None or ts_ms <= before[0]:
            # What came before the first tick came in a time that we don't know.
            return (0.0,)
        return ((self.total - before[1]) / ((ts_ms - before[0]) / 1000),)


class _Ratio:
    """Shown as hits over all within a window; with nothing in it, the last share stays."""

    __slots__ = ("_all", "_hits", "_last", "_ring", "_window_ms", "users")

    def __init__(self, window_ms: int) -> None:
        self.users: set[str] = set()
        self._window_ms = window_ms
        self._hits = self._all = 0.0
        self._last: float | None = None
        # Begins with nothing: what is told before the first tick counts in the first window, too.
        self._ring: deque[tuple[int, float, float]] = deque([(0, 0.0, 0.0)])

    def stored(self, labels: Labels) -> Sequence[Labels]:
        return ()

    def restore(self, labels: Labels, found: Mapping[Labels, float]) -> None:
        return None

    def apply(self, worker: str, payload: Sequence[float]) -> None:
        hits, all_ = payload
        if not 0.0 <= hits <= all_ < math.inf:
            raise ValueError(f"{hits} hits among {all_} can't be")
        self._hits += hits
        self._all += all_

    def leave(self, worker: str) -> None:
        self.users.discard(worker)

    def values(self, ts_ms: int) -> Sequence[float] | None:
        ring = self._ring
        # The newest of those that left the window is where it begins.
        while len(ring) > 1 and ring[1][0] <= ts_ms - self._window_ms:
            ring.popleft()
        _, hits, all_ = ring[0]
        ring.append((ts_ms, self._hits, self._all))
        if self._all > all_:
            self._last = (self._hits - hits) / (self._all - all_)
        return None if self._last is None else (self._last,)


class _Gauge:
    __slots__ = ("_by_worker", "_last", "_mode", "users")

    def __init__(self, mode: str) -> None:
        self.users: set[str] = set()
        self._mode = _GAUGE_MODES.get(mode)  # `last`, and `worker` with one user each: none
        self._by_worker: dict[str, float] = {}
        self._last = ""

    def stored(self, labels: Labels) -> Sequence[Labels]:
        return ()

    def restore(self, labels: Labels, found: Mapping[Labels, float]) -> None:
        return None

    def apply(self, worker: str, payload: Sequence[float]) -> None:
        if payload:
            (self._by_worker[worker],) = payload
            self._last = worker

    def leave(self, worker: str) -> None:
        self.users.discard(worker)
        self._by_worker.pop(worker, None)

    def values(self, ts_ms: int) -> Sequence[float] | None:
        if not self._by_worker:
            return None
        if self._mode is None:
            last = self._by_worker.get(self._last)
            return (next(reversed(self._by_worker.values())) if last is None else last,)
        return (self._mode(self._by_worker.values()),)


class _Histogram:
    __slots__ = ("_bounds", "_counts", "_sum", "users")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.users: set[str] = set()
        self._bounds = bounds
        self._counts = [0.0] * (len(bounds) + 1)
        self._sum = 0.0

    def stored(self, labels: Labels) -> Sequence[Labels]:
        family = labels.name
        buckets = [
            Labels.of([*labels, ("le", text)], f"{family}_bucket")
            for text in bound_texts(self._bounds)
        ]
        return [*buckets, Labels.of(labels, f"{family}_sum")]

    def restore(self, labels: Labels, found: Mapping[Labels, float]) -> None:
        *buckets, total = (found.get(series, 0.0) for series in self.stored(labels))
        below = 0.0
        for place, count in enumerate(buckets):
            # Stored in one tick, so they rise; but a bound that was new then begins at 0.
            self._counts[place] = max(0.0, count - below)
            below = max(below, count)
        self._sum = total

    def apply(self, worker: str, payload: Sequence[float]) -> None:
        total, *pairs = payload
        if len(pairs) % 2:
            raise ValueError("the counts of a histogram come in pairs")
        places = [int(place) for place in pairs[::2]]
        if any(not 0 <= place < len(self._counts) for place in places):
            raise ValueError(f"a histogram of {len(self._bounds)} bounds has no place {places}")
        if any(not 0.0 <= count < math.inf for count in pairs[1::2]):
            raise ValueError("a histogram's counts only grow")
        if not math.isfinite(total):
            raise ValueError(f"a histogram's sum can't grow by {total}")
        for place, count in zip(places, pairs[1::2], strict=True):
            self._counts[place] += count
        self._sum += total

    def leave(self, worker: str) -> None:
        self.users.discard(worker)

    def values(self, ts_ms: int) -> Sequence[float] | None:
        buckets = list(accumulate(self._counts))
        return (*buckets, self._sum, buckets[-1])


@dataclass(slots=True)
class Family:
    """
    All series of one metric.

    Attributes:
        version: Grows when the set of series with values changes.
    """

    definition: Definition
    cells: dict[Labels, Cell] = field(default_factory=dict)
    version: int = 0
    shown: tuple[Labels, ...] = ()

    def make(self) -> Cell:
        definition = self.definition
        match definition.type:
            case "counter":
                return _Counter()
            case "rate":
                return _Rate()
            case "ratio":
                return _Ratio(definition.window_ms)
            case "histogram":
                return _Histogram(definition.bounds)
            case _:
                return _Gauge(definition.mode)

    def rows(self, ts_ms: int) -> list[float]:
        """The values of a tick, series by series; what has none is left out."""
        values: list[float] = []
        shown: list[Labels] = []
        for labels, cell in self.cells.items():
            row = cell.values(ts_ms)
            if row is not None:
                values += row
                shown.append(labels)
        if tuple(shown) != self.shown:
            self.shown = tuple(shown)
            self.version += 1
        return values

    def parts(self) -> list[tuple[str, Mapping[str, str]]]:
        """What each shown series consists of: suffix and further labels of each of its values."""
        if self.definition.type != "histogram":
            return [("", {})]
        buckets = [("_bucket", {"le": text}) for text in bound_texts(self.definition.bounds)]
        return [*buckets, ("_sum", {}), ("_count", {})]


class Totals:
    """All families. Asks the store where a series was left when it meets it for the first time."""

    def __init__(self, restore: Restore) -> None:
        self._restore = restore
        self.families: dict[str, Family] = {}

    def family(self, definition: Definition) -> Family | None:
        """Return the family that a definition adds to; ``None`` if it contradicts it."""
        family = self.families.get(definition.name)
        if family is None:
            family = self.families[definition.name] = Family(definition)
        elif family.definition.shape != definition.shape:
            if any(cell.users for cell in family.cells.values()):
                return None
            # Nobody has the old one any more: a new version of the backend may define it anew.
            family = self.families[definition.name] = Family(definition, version=family.version + 1)
        elif definition.help != family.definition.help:
            family.definition = definition
            family.version += 1
        return family

    async def cells(self, wanted: Sequence[tuple[Family, Labels]]) -> list[Cell]:
        """
        Return the cell of each series, as it was left.

        Raises:
            StorageError: The store can't be read; nothing was changed.
        """
        new: dict[tuple[int, Labels], tuple[Family, Labels, Cell]] = {}
        for family, labels in wanted:
            if labels not in family.cells and (id(family), labels) not in new:
                new[id(family), labels] = (family, labels, family.make())
        asked = [one for _, labels, cell in new.values() for one in cell.stored(labels)]
        found = await self._restore(asked) if asked else {}
        for family, labels, cell in new.values():
            cell.restore(labels, found)
            family.cells[labels] = cell
        return [family.cells[labels] for family, labels in wanted]

    def settle(self) -> None:
        """
        Forget what nobody has any more, right after a tick that was written.

        The tick holds the last totals, so the store knows them should they be wanted again.
        """
        for name, family in list(self.families.items()):
            for labels in [labels for labels, cell in family.cells.items() if not cell.users]:
                del family.cells[labels]
            if not family.cells and not family.shown:
                del self.families[name]


def bound_texts(bounds: Sequence[float]) -> list[str]:
    """The values of ``le``, ``+Inf`` at the end."""
    return [*(str(int(b)) if b == int(b) else repr(b) for b in bounds), "+Inf"]
