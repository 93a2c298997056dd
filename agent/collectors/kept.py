"""
Points pushed with a ttl: kept current between two pushes, ended when the ttl is over.

A nightly job pushes once a day; a query looks back five minutes. So the last value is appended
again and again until its ttl ends, and then the series gets a stale marker, as if its target were
gone. What is kept outlives the agent in ``state.db``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from ...storage.clock import Clock
from ...storage.errors import SeriesRefused
from ...storage.frame import STALE_NAN, RefArray
from ...storage.model import Kind, Labels
from ...storage.sink import GroupSink, Sink
from ..ingest.kept import PushedPoint

log = logging.getLogger(__name__)

#: How often a value is appended again. Equal values cost next to nothing once they are in chunks;
#: a ttl ends so much late at the most.
INTERVAL_S: Final = 15.0
#: Series that are kept at a time: the jobs of one box, many times over.
KEPT_MAX: Final = 10_000
_PREFIX: Final = "kept/"
#: It adopts what is pushed with a ttl. Not the group of all that is pushed: that one has no ticks,
#: so that others can adopt its series, too.
_GROUP: Final = "kept"


class Shelf(Protocol):
    """What outlives the process: :class:`storage.state.State`."""

    async def values(self, prefix: str) -> dict[str, str]: ...

    async def keep_all(self, values: Mapping[str, str], forget: Iterable[str] = ()) -> None: ...


@dataclass(slots=True)
class KeptStats:
    """
    Attributes:
        taken: Points that were kept, renewals among them.
        refused: Points that were not, as there were too many others.
        expired: Series whose ttl ended.
    """

    taken: int = 0
    refused: int = 0
    expired: int = 0


@dataclass(slots=True)
class _Kept:
    """A series with its value; ``ref`` is 0 until the store was asked for it."""

    labels: Labels
    kind: Kind
    ref: int
    value: float
    at_ms: int
    until_ms: int


class KeptPoints:
    """
    A :class:`~.source.Source` of the points that were pushed with a ttl.

    Args:
        lookback_s: What queries look back; a shorter one than usual makes for shorter intervals.
    """

    name = "kept"
    backs_off = False
    reports_itself = True  # the metrics of pushed points tell of it
    timeout_s = 5.0

    def __init__(self, sink: Sink, shelf: Shelf, clock: Clock, *, lookback_s: float) -> None:
        self.interval_s = min(INTERVAL_S, lookback_s / 2)
        self.stats = KeptStats()
        self._sink, self._shelf, self._clock = sink, shelf, clock
        self._group: GroupSink | None = None
        self._kept: dict[Labels, _Kept] = {}
        self._refs: frozenset[int] = frozenset()
        self._forgotten: list[str] = []

    def __len__(self) -> int:
        return len(self._kept)

    async def open(self) -> None:
        """Take up what an agent before us kept; after store and shelf were opened."""
        for key, text in (await self._shelf.values(_PREFIX)).items():
            try:
                kept = _decoded(key, text)
            except (ValueError, TypeError, LookupError):
                log.error("%r of the state cannot be read; it is forgotten", key[:200])
                self._forgotten.append(key)
                continue
            self._kept[kept.labels] = kept
        self._find_refs()
        self._index()

    def concerns(self, refs: RefArray) -> bool:
        return bool(self._refs) and not self._refs.isdisjoint(refs.tolist())

    async def keep(self, points: Sequence[PushedPoint]) -> Sequence[str]:
        reasons = []
        changed: dict[Labels, _Kept] = {}
        gone: list[str] = []
        for point in points:
            reason = self._take(point, changed, gone)
            self.stats.taken += not reason and point.ttl_ms > 0
            self.stats.refused += bool(reason)
            reasons.append(reason)
        self._index()
        if changed or gone:
            # Memory first: a push that is repeated as this fails comes to the same.
            values = {_key(labels): _encoded(kept) for labels, kept in changed.items()}
            await self._shelf.keep_all(values, gone)
        return reasons

    async def collect(self, ts_ms: int) -> None:
        """
        Raises:
            StoreUnavailable: The tick was not taken; what has ended is ended by the next one.
        """
        self._find_refs()
        known = [kept for kept in self._kept.values() if kept.ref]
        ended = [kept for kept in self._kept.values() if kept.until_ms <= ts_ms]
        # A point of this very time is in the store already, one of the future not yet true.
        told = [kept for kept in known if kept.at_ms < ts_ms]
        if told:
            values = [kept.value if kept.until_ms > ts_ms else STALE_NAN for kept in told]
            refs = np.array([kept.ref for kept in told], np.uint32)
            self._sink_group().append(ts_ms, refs, np.array(values, np.float64))
        for kept in ended:
            del self._kept[kept.labels]
            self._forgotten.append(_key(kept.labels))
        self.stats.expired += len(ended)
        self._index()
        if self._forgotten:
            await self._shelf.keep_all({}, self._forgotten)
            self._forgotten = []

    async def close(self) -> None:
        return None

    def _take(self, point: PushedPoint, changed: dict[Labels, _Kept], gone: list[str]) -> str:
        before = self._kept.get(point.labels)
        if before is not None and before.at_ms > point.ts_ms:
            return ""  # of an older time than what we hold
        until_ms = point.ts_ms + point.ttl_ms
        if not point.ttl_ms or until_ms <= self._clock.now_ms():
            if before is not None:
                del self._kept[point.labels]
                changed.pop(point.labels, None)
                gone.append(_key(point.labels))
            return ""
        if before is None and len(self._kept) >= KEPT_MAX:
            return f"stored, but not kept current: {KEPT_MAX} others are"
        kept = _Kept(point.labels, point.kind, point.ref, point.value, point.ts_ms, until_ms)
        self._kept[point.labels] = changed[point.labels] = kept
        return ""

    def _find_refs(self) -> None:
        """Ask the store for the series that an agent before us kept."""
        for kept in self._kept.values():
            if not kept.ref:
                try:
                    kept.ref = self._sink_group().ref(kept.labels, kept.kind)
                except SeriesRefused:  # counted by the store; there may be room later
                    continue

    def _index(self) -> None:
        self._refs = frozenset(kept.ref for kept in self._kept.values())

    def _sink_group(self) -> GroupSink:
        if self._group is None:
            self._group = self._sink.group(_GROUP)
        return self._group


def _key(labels: Labels) -> str:
    return _PREFIX + json.dumps(labels, ensure_ascii=False, separators=(",", ":"))


def _encoded(kept: _Kept) -> str:
    return json.dumps([int(kept.kind), kept.value, kept.at_ms, kept.until_ms])


def _decoded(key: str, text: str) -> _Kept:
    pairs = json.loads(key.removeprefix(_PREFIX))
    kind, value, at_ms, until_ms = json.loads(text)
    labels = Labels.of((str(name), str(text)) for name, text in pairs)
    return _Kept(labels, Kind(kind), 0, float(value), int(at_ms), int(until_ms))
