"""``record()``: a value of the backend's own, taken in its process without making it wait."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, Protocol

# Only what costs nothing is imported here: the backend pays for it at its start. numpy and asyncio
# come with the first flush, when the agent runs and has them anyway.
from ...storage.errors import SeriesRefused, StoreUnavailable
from ...storage.model import Labels
from .naming import kind_of, labels_fault, type_named

if TYPE_CHECKING:
    import asyncio

    from ...config.settings import CustomSettings
    from ...storage.clock import Clock
    from ...storage.frame import FloatArray, IntArray, RefArray
    from ...storage.sink import GroupSink

    _Columns = tuple[RefArray, IntArray, FloatArray]

#: Name of the group that recorded series belong to.
GROUP: Final = "custom"

# About 2 µs each: so many are handed on before the event loop gets its turn.
_SLICE: Final = 2_000
# Series that are told apart by their label sets alone; beyond that all are looked at again.
_KNOWN_MAX: Final = 10_000
# The flush comes early from this share of the buffer on, so that a burst finds room.
_EARLY_SHARE: Final = 0.5

_Labels = tuple[tuple[str, str], ...]
# Time, name, value, labels, type; as yet unchecked but for the time.
_Point = tuple[int, str, Any, Any, str]


class Refusal(Protocol):
    @property
    def reasons(self) -> Sequence[str]:
        """One for each point of the call; empty for a point that was taken."""
        ...


class RecorderSink(Protocol):
    """The store, as far as the recorder needs it."""

    def group(self, name: str) -> GroupSink: ...

    def append_points(
        self, refs: RefArray, ts_ms: IntArray, values: FloatArray
    ) -> Refusal | None: ...


@dataclass(slots=True)
class RecorderStats:
    """
    Attributes:
        stored: Values that the store took.
        flushes: Times that the buffer was handed on.
        dropped: Values lost, by reason: ``full`` (the buffer was), ``name``, ``labels``, ``type``
            or ``value`` (it can't be used), ``series`` (a new one beyond the limits), ``store``
            (refused for its time), ``unavailable`` (the store took nothing until the end).
    """

    stored: int = 0
    flushes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class Recorder:
    """
    Buffers values and hands them to the store every ``flush_interval``, or sooner if they are many.

    :meth:`record` may be called from any thread, before, while and after :meth:`run` works.
    """

    def __init__(self, sink: RecorderSink, settings: CustomSettings, clock: Clock) -> None:
        self._sink, self._clock = sink, clock
        self._size = settings.buffer_size
        self._interval_s = settings.flush_interval_ms / 1000
        self._buffer: deque[_Point] = deque()
        self._early = max(1, int(self._size * _EARLY_SHARE))
        self._is_early_asked = False
        self._now_ms = clock.now_ms
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._known: dict[tuple[str, str, _Labels], int | str] = {}
        # What the store couldn't take; it goes first the next time.
        self._waiting: _Columns | None = None
        # Re-entrant, as a signal handler may record while its thread counts.
        self._lock = RLock()
        self.stats = RecorderStats()

    def record(
        self,
        name: str,
        value: float,
        labels: Mapping[str, str] | None = None,
        type: str = "gauge",
    ) -> None:
        """
        Take a value as of now; never wait, never raise.

        Whatever is wrong with it is found at the flush, and counted in ``stats.dropped``. So is a
        value that finds the buffer full.

        Args:
            value: Of a counter the total so far, as it is exposed; not the step.
            labels: Copied, so the mapping may be used again.
            type: ``gauge``, ``counter``, …; see :class:`.storage.model.MetricType`.
        """
        try:
            if len(self._buffer) >= self._early and not self._has_room():
                self._drop("full")
                return
            if labels:
                labels = dict(labels)
            self._buffer.append((self._now_ms(), name, value, labels, type))
        except Exception:  # a backend never fails for its metrics, whatever it hands us
            self._drop("labels")

    async def run(self) -> None:
        """Flush until cancelled, and once more then."""
        import asyncio

        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        try:
            while True:
                await self._until_due()
                has_more = True
                while has_more:
                    has_more = self.flush(_SLICE)
                    await asyncio.sleep(0)
        finally:
            self._loop = None
            while self.flush(_SLICE):
                pass
            if self._waiting is not None:
                self._drop("unavailable", len(self._waiting[0]))
                self._waiting = None

    def flush(self, count: int) -> bool:
        """
        Hand on up to ``count`` values; on the thread of the store.

        Returns:
            Whether there are more, and the store takes them.
        """
        try:
            self._send_waiting()
            self._is_early_asked = False
            self._waiting = self._columns(self._taken(count))
            self._send_waiting()
        except StoreUnavailable:
            return False  # the store says so itself; we only keep what we have
        return bool(self._buffer)

    def store(self, points: Sequence[_Point]) -> None:
        """
        Hand on values that waited elsewhere, past the buffer; on the thread of the store.

        Raises:
            StoreUnavailable: Nothing was taken.
        """
        columns = self._columns(points)
        if columns is not None:
            self._send(columns)

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        try:
            self._send(waiting)
        except StoreUnavailable:
            self._waiting = waiting
            raise
        self.stats.flushes += 1

    def _send(self, columns: _Columns) -> None:
        refusal = self._sink.append_points(*columns)
        refused = 0 if refusal is None else sum(map(bool, refusal.reasons))
        if refused:
            self._drop("store", refused)
        self.stats.stored += len(columns[0]) - refused

    def _taken(self, count: int) -> list[_Point]:
        """Take values out of the buffer."""
        return [self._buffer.popleft() for _ in range(min(count, len(self._buffer)))]

    def _columns(self, points: Sequence[_Point]) -> _Columns | None:
        """Resolve values; ``None`` if none of them are good."""
        import numpy as np

        refs: list[int] = []
        times: list[int] = []
        values: list[float] = []
        for ts_ms, name, value, labels, type_ in points:
            ref = self._ref(name, type_, labels)
            number = _number(value)
            if isinstance(ref, str):
                self._refuse(ref, name)
            elif number is None:
                self._refuse("value", name)
            else:
                refs.append(ref)
                times.append(ts_ms)
                values.append(number)
        if not refs:
            return None
        return (
            np.array(refs, dtype=np.uint32),
            np.array(times, dtype=np.int64),
            np.array(values, dtype=np.float64),
        )

    def _ref(self, name: str, type_: str, labels: Mapping[str, str] | None) -> int | str:
        """Return the number of the series, or the reason why there is none."""
        key = (name, type_, tuple(labels.items()) if labels else ())
        try:
            known = self._known.get(key)
        except TypeError:  # something in it has no hash, so it isn't all strings
            return "labels" if isinstance(name, str) else "name"
        if known is None:
            try:
                known = self._make_ref(*key)
            except SeriesRefused:
                return "series"  # not remembered: there may be room later
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[key] = known
        return known

    def _make_ref(self, name: str, type_: str, labels: _Labels) -> int | str:
        if not isinstance(name, str) or labels_fault(name, ()) is not None:
            return "name"
        if not all(isinstance(label, str) for label, _ in labels) or labels_fault(name, labels):
            return "labels"
        known_type = type_named(type_)
        kind = None
        if known_type is not None:
            kind = kind_of(known_type, name, [label for label, _ in labels])
        if kind is None:
            return "type"
        return self._sink.group(GROUP).ref(Labels.of(labels, name), kind)

    def _has_room(self) -> bool:
        if not self._is_early_asked:
            self._is_early_asked = True
            loop, wake = self._loop, self._wake
            if loop is not None and wake is not None:
                loop.call_soon_threadsafe(wake.set)
        return len(self._buffer) < self._size

    async def _until_due(self) -> None:
        import asyncio

        assert self._wake is not None
        waits = (
            asyncio.ensure_future(self._clock.sleep(self._interval_s)),
            asyncio.ensure_future(self._wake.wait()),
        )
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        self._wake.clear()

    def _refuse(self, reason: str, name: object) -> None:
        """Drop a value that can't be used, and say so the first time; who recorded it can't see."""
        if not self.stats.dropped[reason]:
            import logging

            shown = repr(name[:100]) if isinstance(name, str) else f"a {type(name).__name__}"
            logging.getLogger(__name__).warning(
                "values of record() are dropped (%s), first one of %s; "
                "tachograph_recorded_values_dropped_total counts them",
                reason,
                shown,
            )
        self._drop(reason)

    def _drop(self, reason: str, count: int = 1) -> None:
        with self._lock:
            self.stats.dropped[reason] += count


def _number(value: object) -> float | None:
    if isinstance(value, str | bytes):
        return None
    try:
        return float(value)  # type: ignore[arg-type]  # that it may fail is the question
    except Exception:  # foreign number types may raise anything
        return None
