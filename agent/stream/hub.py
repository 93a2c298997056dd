"""Who listens to what: takes every appended sample and hands it to the feeds that want it."""

from __future__ import annotations

import logging
from typing import Final

import numpy as np

from ...config.settings import StreamSettings
from ...config.units import MINUTE
from ...storage.clock import Clock
from ...storage.frame import (
    STALE_NAN,
    FloatArray,
    IntArray,
    RefArray,
    distinct,
    is_absent,
    is_stale,
)
from ...storage.model import Series
from .directory import Directory
from .feed import Feed, FeedKey, Listener, Mode, Subscription
from .messages import Position
from .routing import Router
from .stats import StreamStats

logger = logging.getLogger(__name__)

#: Every message costs each listener 10 us and a packet: whoever asks for more than ten updates a
#: second gets what came in between in one.
EVERY_MIN_MS: Final = 100
#: PromQL's lookback: a series without samples for longer has no current value.
LOOKBACK_MS: Final = 5 * MINUTE
#: Distinct things subscribed to at a time, and series over all of them (some 70 bytes each).
FEEDS_MAX: Final = 1_000
FEED_SERIES_MAX: Final = 1_000_000
#: Feeds kept without listeners, so that those may come back.
IDLE_FEEDS_MAX: Final = 64
#: Messages kept for those who come back or fall behind, over all feeds of mode ``all``.
RINGS_BYTES_MAX: Final = 64 << 20

_HOUSEKEEPING_S: Final = 1.0
_SWEEP_S: Final = 5.0


class SubscriptionRefused(Exception):
    """A subscription cannot be served; ``code`` is for programs, the text for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Hub:
    """
    Feeds by what is subscribed to. All methods belong to the event loop's thread; none waits.

    Args:
        every_min_ms: Least time between two messages of a feed, whatever the client asks for.
        lookback_ms: Age at which a series without new samples is gone.
    """

    def __init__(
        self,
        directory: Directory,
        settings: StreamSettings,
        clock: Clock,
        *,
        every_min_ms: int = EVERY_MIN_MS,
        lookback_ms: int = LOOKBACK_MS,
    ) -> None:
        self.stats = StreamStats()
        self._directory, self._settings, self._clock = directory, settings, clock
        self._every_min_ms, self._lookback_ms = every_min_ms, lookback_ms
        self._feeds: dict[FeedKey, Feed] = {}
        self._router = Router(directory, settings.max_series, self._number_anew, self._left_out)
        # Positions of an earlier run must not fit: the start is part of each epoch.
        self._epochs_of = f"{clock.now_ms():x}"
        self._epochs = 0
        self._version = -1
        self._ring_bytes = settings.outbound_buffer_bytes
        self._next_housekeeping_s = 0.0
        self._next_sweep_s = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether :meth:`poll` has nothing to do, now or later, until someone subscribes."""
        return not self._feeds

    def publish(self, refs: RefArray, ts_ms: int | IntArray, values: FloatArray) -> None:
        """
        Tell samples that were just appended, stale markers included.

        What is older than the lookback is nobody's current value: history that is being imported,
        or sent late, passes by, and is counted.

        Args:
            refs: ``[n]``; may repeat if times are given one by one.
            ts_ms: One time for all, or ``[n]``.
            values: ``[n]``; absent cells are left out.
        """
        if not self._feeds or not len(refs):
            return
        try:
            self._publish(*self._without_history(refs, ts_ms, values))
        except Exception:
            # The store calls us while it appends: our mistake must not become its failure.
            if not self.stats.failures:
                logger.exception("live stream: samples could not be told; this is logged once")
            self.stats.failures += 1

    def subscribe(
        self, key: FeedKey, sub_id: int | None, listener: Listener, since: Position | None = None
    ) -> Subscription:
        """
        Add a listener. The first message can be taken at once.

        Args:
            key: ``every_ms`` below the hub's least is raised to it.
            sub_id: The client's number; ``None`` for plain samples.
            since: Where the client left off.

        Raises:
            SubscriptionRefused: Too many series, or too much subscribed to.
        """
        key = FeedKey(key.selectors, key.mode, max(key.every_ms, self._every_min_ms))
        feed = self._feeds.get(key) or self._open(key)
        # A snapshot shows the state as of the last message, which `every` may have made old.
        now_s = self._clock.monotonic_s()
        if feed.is_pending and now_s >= feed.flushed_s + self._every_min_ms / 1000:
            self._emit(feed, now_s)
        subscription = Subscription(feed, sub_id, self.stats, is_reset=since is not None)
        if since is not None and feed.can_resume(since.epoch, since.seq):
            subscription.resume(since.seq)
        feed.subscriptions[subscription] = listener
        self.stats.subscriptions += 1
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Remove a listener; nothing happens if it is not there."""
        feed = subscription.feed
        if feed.subscriptions.pop(subscription, None) is None:
            return
        self.stats.subscriptions -= 1
        if not feed.subscriptions:
            feed.idle_since_s = self._clock.monotonic_s()
            self._close_idle(IDLE_FEEDS_MAX)

    def warning(self, feed: Feed) -> str | None:
        """Return what subscribers of a feed should know of it, if anything."""
        if not feed.is_full:
            return None
        most = self._settings.max_series
        return f"more than {most} series match; this subscription goes on without the rest"

    def poll(self) -> None:
        """Tell what has waited long enough; call it some ten times a second unless idle."""
        now_s = self._clock.monotonic_s()
        self._emit_due(now_s)
        if now_s >= self._next_housekeeping_s:
            self._next_housekeeping_s = now_s + _HOUSEKEEPING_S
            self._keep_house(now_s)
            self._emit_due(now_s)

    def _publish(self, refs: RefArray, ts_ms: int | IntArray, values: FloatArray) -> None:
        if not len(refs):
            return
        now_s = self._clock.monotonic_s()
        present = None
        if np.isnan(values).any() and (absent := is_absent(values)).any():
            present = ~absent
        for feed, positions, slots in self._router.routes(refs):
            if present is not None:
                kept = present[positions]
                positions, slots = positions[kept], slots[kept]
            times = (
                ts_ms[positions]
                if isinstance(ts_ms, np.ndarray)
                else np.full(len(slots), ts_ms, np.int64)
            )
            feed.add(slots, times, values[positions])
            if feed.is_due(now_s):
                self._emit(feed, now_s)

    def _without_history(
        self, refs: RefArray, ts_ms: int | IntArray, values: FloatArray
    ) -> tuple[RefArray, int | IntArray, FloatArray]:
        """Leave out what is too old to be told; it takes no slot of a feed, either."""
        oldest_ms = self._clock.now_ms() - self._lookback_ms
        kept = np.atleast_1d(np.asarray(ts_ms) >= oldest_ms)
        if kept.all():
            return refs, ts_ms, values
        if not isinstance(ts_ms, np.ndarray):
            self.stats.dropped["old"] += len(refs)
            return refs[:0], ts_ms, values[:0]
        self.stats.dropped["old"] += len(refs) - int(np.count_nonzero(kept))
        return refs[kept], ts_ms[kept], values[kept]

    def _emit_due(self, now_s: float) -> None:
        for feed in tuple(self._feeds.values()):
            if feed.is_due(now_s):
                self._emit(feed, now_s)

    def _emit(self, feed: Feed, now_s: float) -> None:
        if not feed.flush(now_s):
            return
        for subscription, listener in tuple(feed.subscriptions.items()):
            listener.ready(subscription)
        # Only now: who keeps up has taken it.
        if feed.key.mode is Mode.ALL:
            feed.ring.expire(self._ring_start_s(now_s), self._ring_bytes)

    def _open(self, key: FeedKey) -> Feed:
        refs, ts_ms, values, others = self._find(key)
        count, most = len(refs), self._settings.max_series
        if count > most:
            raise SubscriptionRefused(
                "too_many_series", f"{count} series match; a subscription may have {most}"
            )
        if not self._has_room(count):
            self._close_idle(0)
            if not self._has_room(count):
                raise SubscriptionRefused("busy", "too much is subscribed to already")
        feed = Feed(key, self._next_epoch())
        feed.seed(self._series(refs), ts_ms, values)
        self._feeds[key] = feed
        self._router.add(feed, others)
        self._count_feeds()
        return feed

    def _find(self, key: FeedKey) -> tuple[RefArray, IntArray, FloatArray, RefArray]:
        """Return the wanted series that have a current value, with it, and the refs of the rest."""
        found = [self._directory.select(selector) for selector in key.selectors]
        refs = found[0] if len(found) == 1 else distinct(np.concatenate(found))
        ts_ms, values = self._directory.current(refs)
        alive = ~is_stale(values) & ~is_absent(values)
        alive &= ts_ms >= self._clock.now_ms() - self._lookback_ms
        return refs[alive], ts_ms[alive], values[alive], refs[~alive]

    def _series(self, refs: RefArray) -> list[Series]:
        found = []
        for ref in refs.tolist():
            series = self._directory.series(ref)
            assert series is not None, "the directory selects only what it knows"
            found.append(series)
        return found

    def _has_room(self, count: int) -> bool:
        held = sum(len(feed.table) for feed in self._feeds.values())
        return len(self._feeds) < FEEDS_MAX and held + count <= FEED_SERIES_MAX

    def _close(self, feed: Feed) -> None:
        del self._feeds[feed.key]
        self._router.remove(feed)
        self._count_feeds()

    def _count_feeds(self) -> None:
        self.stats.feeds = len(self._feeds)
        with_ring = sum(feed.key.mode is Mode.ALL for feed in self._feeds.values())
        share = RINGS_BYTES_MAX // max(1, with_ring)
        self._ring_bytes = min(share, self._settings.outbound_buffer_bytes)

    def _close_idle(self, keep: int) -> None:
        idle = [feed for feed in self._feeds.values() if not feed.subscriptions]
        idle.sort(key=lambda feed: feed.idle_since_s)
        for feed in idle[: max(0, len(idle) - keep)]:
            self._close(feed)

    def _number_anew(self, feed: Feed) -> RefArray:
        if feed.is_pending:
            self._emit(feed, self._clock.monotonic_s())
        dead = feed.restart(self._next_epoch())
        for subscription, listener in tuple(feed.subscriptions.items()):
            listener.ready(subscription)
        return dead

    def _left_out(self, feed: Feed, count: int) -> None:
        self.stats.dropped["series_limit"] += count
        was_full, feed.is_full = feed.is_full, True
        if not was_full and (warning := self.warning(feed)):
            for subscription, listener in tuple(feed.subscriptions.items()):
                listener.warn(subscription, "too_many_series", warning)

    def _keep_house(self, now_s: float) -> None:
        before_s = self._ring_start_s(now_s)
        for feed in tuple(self._feeds.values()):
            if not feed.subscriptions and feed.idle_since_s <= before_s:
                self._close(feed)
            else:
                feed.expire(before_s, self._ring_bytes)
        if now_s >= self._next_sweep_s:
            self._next_sweep_s = now_s + _SWEEP_S
            self._sweep()
            self._let_in()

    def _sweep(self) -> None:
        """End the series that got no stale marker: silent for the lookback, or deleted."""
        now_ms = self._clock.now_ms()
        version, self._version = self._version, self._directory.version
        for feed in self._feeds.values():
            refs, slots = feed.table.living_refs()
            ended = feed.table.ts_ms[slots] < now_ms - self._lookback_ms
            if version != self._version:
                _, values = self._directory.current(refs)
                ended |= is_absent(values) | is_stale(values)
            slots = slots[ended]
            # At the time of the last sample, not now: any newer sample brings the series back.
            feed.add(slots, feed.table.ts_ms[slots], np.full(len(slots), STALE_NAN))

    def _let_in(self) -> None:
        """Take what was left out into the feeds that have room by now, with its current values."""
        for feed in self._feeds.values():
            room = self._settings.max_series - feed.table.members
            if not feed.is_full or room <= 0:
                continue
            refs, ts_ms, values, others = self._find(feed.key)
            in_table, _ = feed.table.find(refs)
            outside = np.delete(np.arange(len(refs)), in_table)
            feed.is_full = len(outside) > room
            let_in = outside[:room]
            slots = feed.table.add(self._series(refs[let_in]))
            self._router.doubt(others)
            feed.add(slots, ts_ms[let_in], values[let_in])

    def _ring_start_s(self, now_s: float) -> float:
        return now_s - self._settings.ring_ms / 1000

    def _next_epoch(self) -> str:
        self._epochs += 1
        return f"{self._epochs_of}.{self._epochs}"
