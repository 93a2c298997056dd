"""The metrics that backends push or that live in this process: one tick holds them all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, Protocol

import numpy as np

from ...config.selector import Matcher, MatchOp
from ...storage.clock import Clock
from ...storage.frame import FloatArray, IntArray, RefArray
from ...storage.model import METRIC_NAME, Labels, Series
from ...storage.sink import Sink
from ..ingest.client import ClientIntake, Positions
from ..ingest.totals import Family as TotalsFamily
from .tick import Block, Family, TickWriter, gauge

GROUP: Final = "client"

# Two numbers say where a process stands, and they lie in the tick that holds its totals: the
# journal keeps all of a tick or nothing. Slots are few and used again, so that processes that come
# and go leave no series behind.
_WORKER: Final = gauge("tachograph_client_worker", "Name of the process in a slot, as a number.")
_NUMBER: Final = gauge(
    "tachograph_client_message", "Number of the last message of the process in a slot."
)
_WORKER_NAME: Final = _WORKER.name
_NUMBER_NAME: Final = _NUMBER.name


class Index(Protocol):
    def find(self, labels: Labels) -> Series | None: ...

    def get(self, ref: int) -> Series | None: ...

    def select(self, matchers: list[Matcher]) -> RefArray: ...


class Current(Protocol):
    def get(self, refs: RefArray) -> tuple[IntArray, FloatArray]: ...


class ClientStore(Sink, Protocol):
    """The store, as far as client metrics need it."""

    @property
    def index(self) -> Index: ...

    @property
    def current(self) -> Current: ...


LastValues = Callable[[RefArray], Awaitable[Mapping[int, float]]]


class Memory:
    """
    What the store knows of the time before: totals and positions.

    Args:
        last_values: The newest value, other than a stale marker, of each of the series (``refs``
            rising) that have one.
    """

    def __init__(self, index: Index, last_values: LastValues) -> None:
        self._index, self._last_values = index, last_values

    async def restore(self, wanted: Iterable[Labels]) -> Mapping[Labels, float]:
        """Implements :data:`..ingest.totals.Restore`."""
        by_ref: dict[int, Labels] = {}
        for labels in wanted:
            series = self._index.find(labels)
            if series is not None:
                by_ref[series.ref] = labels
        found = await self._read(by_ref)
        return {by_ref[ref]: value for ref, value in found.items()}

    async def positions(self) -> Positions:
        """Where processes stood in the newest tick."""
        by_slot: dict[int, dict[str, float]] = {}
        for name in (_WORKER_NAME, _NUMBER_NAME):
            refs = self._index.select([Matcher(METRIC_NAME, MatchOp.EQUAL, name)])
            found = await self._read(refs.tolist())
            for ref, value in found.items():
                series = self._index.get(ref)
                slot = series.labels.get("slot") if series is not None else ""
                if slot.isdigit():
                    by_slot.setdefault(int(slot), {})[name] = value
        return {
            slot: (int(values[_WORKER_NAME]), int(values[_NUMBER_NAME]))
            for slot, values in by_slot.items()
            if len(values) == 2
        }

    async def _read(self, refs: Iterable[int]) -> Mapping[int, float]:
        wanted = sorted(refs)
        return await self._last_values(np.array(wanted, np.uint32)) if wanted else {}


class ClientSource:
    """
    Writes everybody's totals, and says which messages are thereby safe.

    Args:
        feed: Takes over what the metrics of this very process have to tell; ``True`` for the last
            time.
    """

    name = "client"
    backs_off = False
    reports_itself = False
    timeout_s = 5.0

    def __init__(
        self,
        store: ClientStore,
        intake: ClientIntake,
        clock: Clock,
        interval_s: float,
        feed: Callable[[bool], Awaitable[None]] | None = None,
    ) -> None:
        self.interval_s = interval_s
        self._store, self._intake, self._clock, self._feed = store, intake, clock, feed
        self._writer = TickWriter(store, GROUP)
        self._families: dict[tuple[str, int], list[tuple[Family, Mapping[str, str]]]] = {}
        self._is_closed = False
        self._last_ms = 0

    async def collect(self, ts_ms: int) -> None:
        if self._feed is not None:
            await self._feed(False)
        self._intake.expire()
        positions = self._write(ts_ms)
        if positions:
            await self._store.committed()
            self._intake.commit(positions)

    async def close(self) -> None:
        """Write once more, so that nothing waits for the next life which is in this one."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._feed is not None:
            await self._feed(True)
        if self._intake.workers or self._last_ms:
            self._write(max(self._clock.now_ms(), self._last_ms + 1))

    def _write(self, ts_ms: int) -> Positions:
        """Write a tick; return the positions in it, or none if the store didn't keep it."""
        totals = self._intake.totals
        blocks = [self._block(family, ts_ms) for family in totals.families.values()]
        positions = self._intake.positions()
        if positions:
            blocks.append(_positions_block(positions))
        self._writer.write(ts_ms, blocks)
        self._last_ms = ts_ms
        if not self._is_kept(positions, ts_ms):
            return {}
        totals.settle()
        return positions

    def _is_kept(self, positions: Positions, ts_ms: int) -> bool:
        """Whether the tick was stored: the store leaves one out while its clock can't be right."""
        for slot in positions:
            labels = Labels.of({"slot": str(slot)}, _NUMBER_NAME)
            series = self._store.index.find(labels)
            if series is None:
                return True  # refused by a limit: then a crash may count the last seconds twice
            times, _ = self._store.current.get(np.array([series.ref], np.uint32))
            return int(times[0]) >= ts_ms
        return True

    def _block(self, family: TotalsFamily, ts_ms: int) -> Block:
        values = family.rows(ts_ms)
        key = (family.definition.name, family.version)
        return Block(key, values, lambda: _series(family))


def _series(family: TotalsFamily) -> Iterable[tuple[Family, Mapping[str, str]]]:
    definition = family.definition
    parts = [
        (Family(definition.name, definition.shown_type, definition.help, suffix), more)
        for suffix, more in family.parts()
    ]
    for labels in family.shown:
        pairs = {name: value for name, value in labels if name != METRIC_NAME}
        for part, more in parts:
            yield part, {**pairs, **more}


def _positions_block(positions: Positions) -> Block:
    values = [float(each) for pair in positions.values() for each in pair]
    slots = tuple(positions)
    return Block(
        ("positions", slots),
        values,
        lambda: [(family, {"slot": str(slot)}) for slot in slots for family in (_WORKER, _NUMBER)],
    )
