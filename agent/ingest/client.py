"""
What backends push: messages of processes become totals, each increment once.

The protocol, and why it holds, is in docs/decisions/0005-client-totals.md.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import msgspec

from ...config.errors import TachographError
from ...storage.clock import Clock
from ...storage.model import Labels
from .naming import labels_fault
from .totals import Cell, Definition, Family, Restore, Totals

#: Longest message; real ones have some 50 kB, the worst (a thousand long points) a few MB.
MESSAGE_BYTES_MAX: Final = 8 * 1024 * 1024
#: A process that says nothing for so long is gone, unless it speaks less often than that.
_GRACE_S: Final = 10.0
_GRACE_INTERVALS: Final = 3
# Who was gone for so long and comes back is trusted in what it says was committed: only an answer
# that got lost at the very moment it was cut off could then count twice.
_SLOT_KEPT_S: Final = 600.0
_SLOTS_MAX: Final = 1024
# Beyond that a message's decoding is worth a thread.
_INLINE_BYTES: Final = 64 * 1024

_MODES: Final = frozenset({"sum", "max", "min", "last", "worker"})
_WORKER_BITS: Final = 52

#: Positions of processes: worker (as a number) and number of its last message, by slot.
Positions = Mapping[int, tuple[int, int]]
Point = tuple[int, str, Any, Any, str]


class ClientError(TachographError):
    """A message that can't be understood; the one who sent it isn't our client."""


class PointSink(Protocol):
    """Where recorded values go."""

    def store(self, points: Sequence[Point]) -> None:
        """
        Take values with their times; those that can't be used are counted and left out.

        Raises:
            StoreUnavailable: Nothing was taken.
        """
        ...


class Message(msgspec.Struct):
    """A message as it is sent; docs/decisions/0005-client-totals.md describes the fields."""

    v: int
    worker: str
    session: str
    acked: int = 0
    number: int = 0
    new: bool = False
    interval_ms: int = 1_000
    pid: int = 0
    bye: bool = False
    ends: bool = False
    metrics: list[list[Any]] = []
    series: list[tuple[int, int, list[str]]] = []
    values: list[list[float | str]] = []
    points: list[tuple[int, Any, Any, Any, Any]] = []
    gone: list[int] = []


@dataclass(slots=True)
class ClientStats:
    """
    Attributes:
        messages: Messages applied.
        duplicates: Messages that had been applied before, and were not again.
        greetings: Times that a process asked where it stood, or had to.
        expired: Processes that went without a word.
        refused: Values not taken, by reason: ``shape`` (two processes define one name
            differently), ``name``, ``labels``, ``type``, ``series`` (over the limit), ``value``.
    """

    messages: int = 0
    duplicates: int = 0
    greetings: int = 0
    expired: int = 0
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Slot:
    """
    Where a process stands: what survives its silence, and our restart.

    Attributes:
        is_over: The process has ended, so nobody will ever ask where it stood.
    """

    number: int
    worker: str
    applied: int
    committed: int
    heard_s: float
    session: str = ""
    is_over: bool = False


@dataclass(slots=True)
class _Worker:
    """A process that is there, and what its numbers mean."""

    slot: _Slot
    grace_s: float
    pid: int
    metrics: dict[int, Definition | None] = field(default_factory=dict)
    cells: dict[int, Cell | None] = field(default_factory=dict)


class ClientIntake:
    """
    Applies messages, one at a time.

    Args:
        restore: The newest stored values of series.
        positions: Where processes stood when the agent stopped, read once.
        points: Takes recorded values.
        series_max: Most series of one process.
    """

    def __init__(
        self,
        restore: Restore,
        positions: Callable[[], Awaitable[Positions]],
        points: PointSink,
        clock: Clock,
        series_max: int,
    ) -> None:
        self.totals = Totals(restore)
        self.stats = ClientStats()
        self._positions, self._points = positions, points
        self._clock, self._series_max = clock, series_max
        self._decoder = msgspec.json.Decoder(Message)
        self._lock = asyncio.Lock()
        self._is_restored = False
        # Tells sessions of this life of the agent from those of the ones before.
        self._life = secrets.token_hex(4)
        self._sessions = 0
        self._slots: dict[str, _Slot] = {}
        self._workers: dict[str, _Worker] = {}

    @property
    def workers(self) -> int:
        """Processes that are there."""
        return len(self._workers)

    async def answer(self, body: bytes) -> bytes:
        """
        Apply a message and return the answer to it, both JSON.

        Raises:
            ClientError: It is no message of a client of ours.
            StorageError: It was not applied; the sender may try again.
        """
        try:
            if len(body) <= _INLINE_BYTES:
                message = self._decoder.decode(body)
            else:
                message = await asyncio.to_thread(self._decoder.decode, body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ClientError(f"not a message of a tachograph client: {error}") from None
        return msgspec.json.encode(await self.handle(message))

    async def handle(self, message: Message) -> dict[str, Any]:
        """Apply a message; see :meth:`answer`."""
        _check(message)
        async with self._lock:
            await self._restore_positions()
            slot = self._slots.get(message.worker) or self._new_slot(message)
            slot.heard_s = self._clock.monotonic_s()
            is_known = message.new or message.worker in self._workers
            if not slot.session or message.session != slot.session or not is_known:
                return self._greet(slot)
            if message.number and message.number <= slot.applied:
                self.stats.duplicates += 1
            else:
                await self._apply(message, slot)
            return _answer(slot)

    def expire(self) -> None:
        """Let go of processes that have said nothing for too long."""
        now_s = self._clock.monotonic_s()
        for worker in list(self._workers.values()):
            if now_s - worker.slot.heard_s > worker.grace_s:
                self.stats.expired += 1
                self._dismiss(worker)
        for slot in list(self._slots.values()):
            if slot.worker not in self._workers and now_s - slot.heard_s > _SLOT_KEPT_S:
                del self._slots[slot.worker]

    def positions(self) -> dict[int, tuple[int, int]]:
        """Where processes stand, by slot; belongs into the tick that holds their totals."""
        slots = sorted(self._slots.values(), key=lambda slot: slot.number)
        return {slot.number: (int(slot.worker, 16), slot.applied) for slot in slots}

    def commit(self, positions: Positions) -> None:
        """Learn that a tick with these positions is committed, and free the slots of the dead."""
        by_number = {slot.number: slot for slot in self._slots.values()}
        for number, (worker, applied) in positions.items():
            slot = by_number.get(number)
            if slot is not None and int(slot.worker, 16) == worker:
                slot.committed = max(slot.committed, applied)
                # Not before: until then its slot says which of its messages the totals hold.
                if slot.is_over and slot.committed >= slot.applied:
                    del self._slots[slot.worker]

    async def _restore_positions(self) -> None:
        if self._is_restored:
            return
        found = await self._positions()
        now_s = self._clock.monotonic_s()
        for number, (worker, applied) in found.items():
            name = f"{worker:013x}"
            # One that was given up and came back has left its older place in its first slot.
            if name in self._slots and self._slots[name].applied >= applied:
                continue
            self._slots[name] = _Slot(number, name, applied, applied, now_s)
        self._is_restored = True

    def _new_slot(self, message: Message) -> _Slot:
        taken = {slot.number for slot in self._slots.values()}
        if len(taken) >= _SLOTS_MAX:
            idle = [slot for name, slot in self._slots.items() if name not in self._workers]
            if not idle:
                raise ClientError(f"more than {_SLOTS_MAX} processes")
            oldest = min(idle, key=lambda slot: slot.heard_s)
            del self._slots[oldest.worker]
            taken.discard(oldest.number)
        number = next(n for n in range(_SLOTS_MAX) if n not in taken)
        slot = _Slot(number, message.worker, message.acked, message.acked, 0.0)
        self._slots[message.worker] = slot
        return slot

    def _greet(self, slot: _Slot) -> dict[str, Any]:
        """
        Say where a process stands, under a new session.

        What it sent under the old one and we haven't read yet is thereby void: it will tell it
        again in another message.
        """
        self.stats.greetings += 1
        self._sessions += 1
        slot.is_over = False
        slot.session = f"{self._life}-{self._sessions}"
        return _answer(slot) | {"greeting": True}

    async def _apply(self, message: Message, slot: _Slot) -> None:
        """Apply all of a message or, if the store can't be asked, nothing of it."""
        worker = self._workers.get(message.worker)
        fresh = _Worker(slot, _grace_s(message), message.pid)
        if worker is None or message.new:
            metrics: dict[int, Definition | None] = {}
            known = 0
        else:
            metrics, known = dict(worker.metrics), len(worker.cells)
        for parts in message.metrics:
            number, definition = _definition(parts)
            metrics[number] = self._checked(definition)
        wanted: list[tuple[int, Family, Labels]] = []
        refused: list[int] = []
        for number, metric, label_values in message.series:
            place = self._place(metrics.get(metric), label_values, slot.number)
            if place is not None and known + len(wanted) >= self._series_max:
                self.stats.refused["series"] += 1
                place = None
            if place is None:
                refused.append(number)
            else:
                wanted.append((number, *place))
        cells = await self.totals.cells([(family, labels) for _, family, labels in wanted])
        if message.points:
            self._points.store(message.points)
        # From here on nothing waits and nothing fails.
        if worker is None or message.new:
            if worker is not None:
                self._leave_all(worker)
            worker = self._workers[message.worker] = fresh
        worker.metrics = metrics
        for (number, _, _), cell in zip(wanted, cells, strict=True):
            worker.cells[number] = cell
            cell.users.add(message.worker)
        worker.cells.update(dict.fromkeys(refused))
        self._take_values(message, worker)
        for number in message.gone:
            self._leave(worker, number)
        slot.applied = max(slot.applied, message.number)
        self.stats.messages += 1
        if message.bye:
            slot.is_over = message.ends
            self._dismiss(worker)

    def _checked(self, definition: Definition | None) -> Definition | None:
        if definition is None:
            self.stats.refused["type"] += 1
            return None
        names = [(name, "") for name in definition.label_names]
        if labels_fault(definition.name, names) is not None:
            self.stats.refused["name"] += 1
            return None
        return definition

    def _place(
        self, definition: Definition | None, values: Sequence[str], slot: int
    ) -> tuple[Family, Labels] | None:
        """Return where a series belongs; ``None`` if it is refused, counted."""
        if definition is None:
            return None
        if len(values) != len(definition.label_names):
            self.stats.refused["labels"] += 1
            return None
        family = self.totals.family(definition)
        if family is None:
            self.stats.refused["shape"] += 1
            return None
        pairs = list(zip(definition.label_names, values, strict=True))
        if definition.mode == "worker":
            pairs.append(("worker", str(slot)))
        return family, Labels.of(pairs, definition.name)

    def _take_values(self, message: Message, worker: _Worker) -> None:
        for number, *payload in message.values:
            cell = worker.cells.get(int(number))
            if cell is None:
                continue  # refused, and counted, when it was defined
            try:
                cell.apply(message.worker, [float(each) for each in payload])
            except ValueError:
                self.stats.refused["value"] += 1

    def _leave(self, worker: _Worker, number: int) -> None:
        cell = worker.cells.pop(number, None)
        # Two of its numbers may stand for one series, when one was removed and came back.
        if cell is not None and cell not in worker.cells.values():
            cell.leave(worker.slot.worker)

    def _leave_all(self, worker: _Worker) -> None:
        for cell in worker.cells.values():
            if cell is not None:
                cell.leave(worker.slot.worker)
        worker.cells.clear()

    def _dismiss(self, worker: _Worker) -> None:
        self._leave_all(worker)
        worker.slot.session = ""
        del self._workers[worker.slot.worker]


def _check(message: Message) -> None:
    try:
        is_worker = 0 <= int(message.worker, 16) < 1 << _WORKER_BITS and len(message.worker) == 13
    except ValueError:
        is_worker = False
    if message.v != 1:
        raise ClientError(f"version {message.v} of the client's protocol is not spoken here; 1 is")
    if not is_worker or message.number < 0 or message.acked < 0:
        raise ClientError("not a message of a tachograph client: worker or number is wrong")


def _answer(slot: _Slot) -> dict[str, Any]:
    return {"session": slot.session, "applied": slot.applied, "committed": slot.committed}


def _grace_s(message: Message) -> float:
    return max(_GRACE_S, _GRACE_INTERVALS * message.interval_ms / 1000)


def _definition(parts: Sequence[Any]) -> tuple[int, Definition | None]:
    """Read number and definition of a metric; ``None`` for one that makes no sense."""
    try:
        number, name, type_, help_, names, *rest = parts
        number = int(number)
    except (TypeError, ValueError):
        raise ClientError("not a message of a tachograph client: a metric is wrong") from None
    try:
        definition = Definition(str(name), type_, str(help_), tuple(map(str, names)))
        if type_ == "gauge" and rest[0] in _MODES:
            return number, replace(definition, mode=rest[0])
        if type_ == "histogram":
            return number, replace(definition, bounds=tuple(sorted({float(b) for b in rest})))
        if type_ == "ratio":
            return number, replace(definition, window_ms=int(float(rest[0]) * 1000))
        return number, definition if type_ in ("counter", "rate") else None
    except (TypeError, ValueError, IndexError, OverflowError):
        return number, None
