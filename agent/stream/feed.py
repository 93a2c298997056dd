"""One stream of changes, numbered once and shared by all who subscribed to the same thing."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from ...config.selector import Matcher
from ...storage.frame import FloatArray, IntArray, RefArray, distinct, is_stale
from ...storage.model import Labels, Series
from . import messages
from .framing import Message
from .messages import Body
from .ring import Ring
from .slots import SlotTable
from .stats import StreamStats

#: Samples of one message in mode ``all``, some 600 kB; what exceeds them goes into the next one.
#: In mode ``latest`` the number of series bounds a message.
SAMPLES_PER_MESSAGE: Final = 20_000
#: Coalesced messages kept for others at the same position; of slow clients few ever are.
_SHARED_MAX: Final = 4


class Mode(enum.StrEnum):
    """``latest``: the newest value of each series, some skipped. ``all``: every sample."""

    LATEST = "latest"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class FeedKey:
    """
    What is subscribed to; equal keys share a feed.

    Attributes:
        selectors: A series belongs to the feed if it satisfies every matcher of any of them.
        every_ms: Least time from one message to the next.
    """

    selectors: frozenset[tuple[Matcher, ...]]
    mode: Mode
    every_ms: int

    def wants(self, labels: Labels) -> bool:
        value_of = dict(labels).get
        for selector in self.selectors:
            for matcher in selector:
                if not matcher.matches(value_of(matcher.name, "")):
                    break
            else:
                return True
        return False


class Listener(Protocol):
    """Who serves a subscription: neither call may wait or raise."""

    def ready(self, subscription: Subscription) -> None:
        """There is something to take."""
        ...

    def warn(self, subscription: Subscription, code: str, message: str) -> None:
        """Something the client should know; the subscription goes on."""
        ...


class Feed:
    """
    The state at ``seq``, what is pending since, and the messages from one seq to the next.

    The numbers belong to the feed, not to a client: a client is a position. One that fell behind
    is told in one message what changed since its position (mode ``latest``: the newest values,
    found by the columns of the table), or gets the messages it missed one by one (mode ``all``, as
    far back as the ring reaches). So a slow client costs no memory here, however far behind it is.

    Reads no clock: times are monotonic seconds handed in.

    Attributes:
        epoch: Changes when positions of before are void.
        subscriptions: Who to tell, in order of arrival.
        flushed_s: When something was told last.
        idle_since_s: When the last of them left.
        is_full: Whether there was no room for a series.
    """

    def __init__(self, key: FeedKey, epoch: str) -> None:
        self.key, self.epoch = key, epoch
        self.seq = 0
        self.table = SlotTable()
        self.ring = Ring()
        self.subscriptions: dict[Subscription, Listener] = {}
        self.flushed_s = -math.inf
        self.idle_since_s = 0.0
        self.is_full = False
        self._pending: list[tuple[IntArray, IntArray, FloatArray]] = []
        self._pending_samples = 0
        self._deltas: dict[int, Body] = {}
        self._simple: dict[int, Message | None] = {}
        self._snapshots: dict[bool, Body] = {}

    @property
    def is_pending(self) -> bool:
        return bool(self._pending)

    def is_due(self, now_s: float) -> bool:
        """Whether it is time to tell what is pending."""
        if not self._pending:
            return False
        crowded = self.key.mode is Mode.ALL and self._pending_samples >= SAMPLES_PER_MESSAGE
        return crowded or now_s >= self.flushed_s + self.key.every_ms / 1000

    def seed(self, series: Sequence[Series], ts_ms: IntArray, values: FloatArray) -> None:
        """Start from the current values of the series that are alive."""
        self.table.take(self.table.add(series), ts_ms, values, self.seq)

    def add(self, slots: IntArray, ts_ms: IntArray, values: FloatArray) -> None:
        """Take samples, told by the next :meth:`flush`. The feed keeps the arrays."""
        if not len(slots):
            return
        self._pending.append((slots, ts_ms, values))
        self._pending_samples += len(slots)
        bound = max(SAMPLES_PER_MESSAGE, 2 * len(self.table))
        if self.key.mode is Mode.LATEST and self._pending_samples > bound:
            self.add(*_newest(*self._take_pending()))

    def flush(self, now_s: float) -> bool:
        """Move on to the next seq; False if what was pending changes nothing."""
        slots, ts_ms, values = self._take_pending()
        self.flushed_s = now_s
        if self.key.mode is Mode.LATEST:
            changes = self.table.take(slots, ts_ms, values, self.seq + 1)
            if not len(changes.alive) and not len(changes.died):
                return False
            self._step()
            return True
        before = self.seq
        for start in range(0, len(slots), SAMPLES_PER_MESSAGE):
            part = slice(start, start + SAMPLES_PER_MESSAGE)
            self._record(slots[part], ts_ms[part], values[part], now_s)
        return self.seq > before

    def restart(self, epoch: str) -> RefArray:
        """
        Begin an epoch without the dead series and return their refs. Nothing may be pending.
        Every subscriber gets a snapshot next.
        """
        assert not self._pending
        self.epoch = epoch
        self.table, dead = self.table.compacted()
        self.ring.skip()
        self._step()
        return dead

    def can_resume(self, epoch: str, seq: int) -> bool:
        """Whether a client at that position can go on without a snapshot."""
        if epoch != self.epoch or not 0 <= seq <= self.seq:
            return False
        return self.key.mode is Mode.LATEST or seq + 1 >= self.ring.first

    def expire(self, before_s: float, bytes_max: int) -> None:
        """Forget what can be built again, and of the ring what is too old or too much."""
        self.ring.expire(before_s, bytes_max)
        self._snapshots.clear()

    def snapshot(self, *, reset: bool) -> Body:
        body = self._snapshots.get(reset)
        if body is None:
            table, slots = self.table, self.table.living
            body = self._snapshots[reset] = messages.snapshot(
                self.epoch,
                self.seq,
                slots,
                [table.series[slot] for slot in slots.tolist()],
                table.ts_ms[slots],
                table.values[slots],
                reset=reset,
            )
        return body

    def delta(self, seq: int) -> Body:
        """Tell in one message what changed after ``seq`` (mode ``latest``)."""
        body = self._deltas.get(seq)
        if body is None:
            table = self.table
            slots, gone = self._changed_after(seq)
            body = messages.delta(
                seq + 1,
                self.seq,
                slots,
                table.ts_ms[slots],
                table.values[slots],
                newest_ms=_newest_ms(table.ts_ms[slots], table.ts_ms[gone]),
                new=table.labels(slots[table.announced[slots] > seq]),
                gone=gone.tolist(),
            )
            if len(self._deltas) < _SHARED_MAX:
                self._deltas[seq] = body
        return body

    def simple(self, seq: int) -> Message | None:
        """Tell the values that changed after ``seq``, one message each; after -1: all."""
        if seq in self._simple:
            return self._simple[seq]
        table = self.table
        slots = table.living if seq < 0 else self._changed_after(seq)[0]
        series = [table.series[slot] for slot in slots.tolist()]
        message = messages.simple_metrics(series, table.ts_ms[slots], table.values[slots])
        if len(self._simple) < _SHARED_MAX:
            self._simple[seq] = message
        return message

    def lag(self, seq: int, dropped: int) -> Body:
        """
        Tell that ``dropped`` samples after ``seq`` have left the ring (mode ``all``).

        A series that began in the gap is announced here, for the messages after it take its labels
        for known. One that ended in it and came back after it is said to be gone.
        """
        table, last = self.table, self.ring.first - 1
        n = len(table)
        first, announced, gone = table.first[:n], table.announced[:n], table.gone[:n]
        new = np.flatnonzero((first >= 0) & (first <= last) & (announced > seq))
        back = (announced > gone) & (announced <= last)
        ended = np.flatnonzero((gone > seq) & (gone <= last) & ~back)
        return messages.lag(
            seq + 1,
            last,
            dropped,
            new=table.labels(new),
            gone=ended.tolist(),
        )

    def _record(self, slots: IntArray, ts_ms: IntArray, values: FloatArray, now_s: float) -> None:
        table, seq = self.table, self.seq + 1
        was = table.alive[slots]
        changes = table.take(slots, ts_ms, values, seq)
        told = ~is_stale(values)
        if not told.any() and not len(changes.died):
            return
        # Some begin and end within one message, and a late sample of an ended series passes too:
        # without their labels nobody could tell whose samples these are.
        passing = distinct(slots[told & ~was & ~table.alive[slots]])
        table.announce(passing, seq)
        table.gone[passing] = seq
        body = messages.delta(
            seq,
            seq,
            slots[told],
            ts_ms[told],
            values[told],
            newest_ms=_newest_ms(ts_ms[told], table.ts_ms[changes.died]),
            new=table.labels(np.concatenate((changes.born, passing))),
            gone=np.concatenate((changes.died, passing)).tolist(),
        )
        self.ring.append(body, int(np.count_nonzero(told)), now_s)
        self._step()

    def _changed_after(self, seq: int) -> tuple[IntArray, IntArray]:
        """
        Return the slots whose values changed after ``seq``, and of those that are gone since.

        Among the latter may be one that also came after ``seq``: whether it had been there before,
        went, came and went again is not kept, so it is told, and unknown ones are to be ignored.
        """
        n = len(self.table)
        alive = self.table.alive[:n]
        changed = np.flatnonzero(alive & (self.table.changed[:n] > seq))
        return changed, np.flatnonzero(~alive & (self.table.gone[:n] > seq))

    def _take_pending(self) -> tuple[IntArray, IntArray, FloatArray]:
        pending, self._pending, self._pending_samples = self._pending, [], 0
        if len(pending) == 1:
            return pending[0]
        slots, ts_ms, values = zip(*pending, strict=True)
        return np.concatenate(slots), np.concatenate(ts_ms), np.concatenate(values)

    def _step(self) -> None:
        self.seq += 1
        self._deltas.clear()
        self._simple.clear()
        self._snapshots.clear()


class Subscription:
    """
    One client's position in a feed.

    Attributes:
        id: The number the client gave it; ``None`` tells each sample as a message of its own.
        epoch: Epoch of the position; ``None`` until the first snapshot.
        is_reset: Whether the first snapshot replaces something the client had.
        is_queued: For whoever serves it: that it is to be asked for its next message.
    """

    __slots__ = ("_samples", "_stats", "epoch", "feed", "id", "is_queued", "is_reset", "seq")

    def __init__(
        self, feed: Feed, sub_id: int | None, stats: StreamStats, *, is_reset: bool = False
    ) -> None:
        self.feed, self.id = feed, sub_id
        self.epoch: str | None = None
        self.seq = -1
        self.is_reset = is_reset
        self.is_queued = False
        self._samples = 0
        self._stats = stats

    def resume(self, seq: int) -> None:
        """Go on after ``seq``, which the feed said it can."""
        self.epoch, self.seq = self.feed.epoch, seq
        if self.feed.key.mode is Mode.ALL:
            self._samples = self.feed.ring.samples_until(seq)

    def take(self) -> Message | None:
        """Return the next message and move the position past it; ``None`` if there is none yet."""
        feed = self.feed
        if self.epoch is not feed.epoch and self.epoch != feed.epoch:
            return self._take_snapshot()
        if self.seq == feed.seq:
            return None
        if feed.key.mode is Mode.ALL:
            return self._take_recorded()
        seq, self.seq = self.seq, feed.seq
        self._stats.coalesced += feed.seq - seq - 1
        return feed.simple(seq) if self.id is None else feed.delta(seq).message(self.id)

    def _take_snapshot(self) -> Message | None:
        feed = self.feed
        reset = self.is_reset or self.epoch is not None
        self.epoch, self.seq, self._samples = feed.epoch, feed.seq, feed.ring.samples
        if self.id is None:
            return feed.simple(-1)
        return feed.snapshot(reset=reset).message(self.id)

    def _take_recorded(self) -> Message:
        assert self.id is not None
        ring = self.feed.ring
        if self.seq + 1 < ring.first:
            dropped = ring.samples_before - self._samples
            body = self.feed.lag(self.seq, dropped)
            self._stats.dropped["lag"] += dropped
            self.seq, self._samples = ring.first - 1, ring.samples_before
            return body.message(self.id)
        recorded = ring[self.seq + 1]
        self.seq, self._samples = recorded.seq, recorded.samples_before + recorded.samples
        return recorded.body.message(self.id)


def _newest(
    slots: IntArray, ts_ms: IntArray, values: FloatArray
) -> tuple[IntArray, IntArray, FloatArray]:
    """Keep the newest sample of each slot."""
    order = np.argsort(ts_ms, kind="stable")[::-1]
    _, at = np.unique(slots[order], return_index=True)
    kept = order[at]
    return slots[kept], ts_ms[kept], values[kept]


def _newest_ms(ts_ms: IntArray, gone_ms: IntArray) -> int:
    return int(max(ts_ms.max(initial=0), gone_ms.max(initial=0)))
